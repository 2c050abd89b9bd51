"""Events as they come: columns of frames, whole or in batches, as checked arrays with a code for each id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from llmfeat._base.frames import column, id_column, label_column, require_rows, to_us
from llmfeat._base.rows import RowSource
from llmfeat.errors import InputError
from llmfeat.history.index import AsOfIndex
from llmfeat.types import Float32Array, Int32Array, Int64Array

__all__ = ["WHAT", "EventColumns", "Events", "IdCodes", "batches_of", "gather_events", "require_binary"]

WHAT = "the interaction log"
# Distinct ids that wait at least to join the known ones; more where more are known, so that each is hashed a few times.
_WAITING_IDS = 1 << 20


@dataclass
class Events:
    """Checked events, one entry each; in any order until `sort`."""

    user_ids: pa.StringArray
    item_ids: pa.StringArray
    user_codes: Int32Array
    item_codes: Int32Array
    times_us: Int64Array
    labels: Float32Array

    def sort(self, index: AsOfIndex) -> None:
        """Put the events in the order of an index, one array after the other: only one of them is held twice."""
        self.user_codes = index.sort(self.user_codes)
        self.item_codes = index.sort(self.item_codes)
        self.times_us = index.sort(self.times_us)
        self.labels = index.sort(self.labels)

    def own(self) -> None:
        """Copy times and labels that are views of the caller's memory, and would change with it."""
        self.times_us = np.require(self.times_us, requirements="O")
        self.labels = np.require(self.labels, requirements="O")


@dataclass(frozen=True)
class EventColumns:
    """Which columns hold the events; see `InteractionLog.from_frame`."""

    user_id: str
    item_id: str
    timestamp: str
    label: str | None
    rating: str | None
    like_threshold: float

    def __post_init__(self) -> None:
        if self.label is not None and self.rating is not None:
            raise InputError(
                f"label={self.label!r} and rating={self.rating!r} were both given, one of them was expected: drop one"
            )

    @property
    def names(self) -> list[str]:
        """The columns that are read."""
        named = (self.user_id, self.item_id, self.timestamp, self.label, self.rating)
        return [name for name in named if name is not None]


class IdCodes:
    """Ids that come in batches, as codes by first appearance; holds the distinct ids and 4 bytes for each id."""

    def __init__(self) -> None:
        self._ids = pa.array([], pa.string())
        self._codes = [np.empty(0, dtype=np.int32)]
        self._waiting: list[pa.DictionaryArray] = []

    def add(self, ids: pa.StringArray) -> None:
        """Take the next batch."""
        self._waiting.append(ids.dictionary_encode())
        if sum(len(one.dictionary) for one in self._waiting) > max(len(self._ids), _WAITING_IDS):
            self._unify()

    def finish(self) -> tuple[pa.StringArray, Int32Array]:
        """Return the distinct ids, and the code of each id of all batches."""
        if not len(self._ids) and len(self._waiting) == 1:  # one frame, or one request: nothing to unify
            return self._waiting[0].dictionary, self._waiting[0].indices.to_numpy()
        self._unify()
        codes, self._codes = np.concatenate(self._codes), []
        return self._ids, codes

    def _unify(self) -> None:
        known = pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), self._ids)
        unified = pa.chunked_array([known, *self._waiting]).unify_dictionaries()
        self._ids = unified.chunk(0).dictionary
        self._codes += [chunk.indices.to_numpy() for chunk in unified.chunks[1:]]
        self._waiting = []


def batches_of(source: RowSource, columns: EventColumns, *, batch_rows: int) -> Iterator[pa.Table]:
    """Yield the columns of events in batches."""
    for batch in source.batches(columns.names, batch_rows=batch_rows):
        yield batch.table


def gather_events(frames: Iterable[Any], columns: EventColumns) -> Events:
    """Return the events of all frames.

    Raises
    ------
    MissingColumnError, EmptyInputError, TimestampError, InputError
        When a column is missing, there is no row, a time or an id is null, or labels are not 0 and 1.
    """
    users, items = IdCodes(), IdCodes()
    times: list[pa.Array] = []
    labels: list[Float32Array] = []
    for frame in frames:
        users.add(id_column(frame, columns.user_id, what=WHAT))
        items.add(id_column(frame, columns.item_id, what=WHAT))
        times.append(_held_times(column(frame, columns.timestamp, what=WHAT), columns))
        if (held := _labels(frame, columns)) is not None:
            labels.append(held)
    user_ids, user_codes = users.finish()
    require_rows(len(user_codes), what=WHAT)
    item_ids, item_codes = items.finish()
    # All at once: numbers tell their unit by how large they are, and a batch alone could tell another one.
    whole = pa.concat_arrays(times)
    times.clear()
    times_us = to_us(whole, what=_said(columns))
    known = np.concatenate(labels) if labels else np.ones(len(user_codes), dtype=np.float32)
    return Events(user_ids, item_ids, user_codes, item_codes, times_us, known)


def _held_times(times: pa.Array, columns: EventColumns) -> pa.Array:
    """Return times as they came, but texts as moments: they are several times larger."""
    if pa.types.is_string(times.type) or pa.types.is_large_string(times.type):
        return pa.array(to_us(times, what=_said(columns))).cast(pa.timestamp("us", "UTC"))
    return times


def _said(columns: EventColumns) -> str:
    return f"the column {columns.timestamp!r} of {WHAT}"


def _labels(frame: Any, columns: EventColumns) -> Float32Array | None:
    if columns.rating is not None:
        return (label_column(frame, columns.rating, what=WHAT) >= columns.like_threshold).astype(np.float32)
    if columns.label is None:
        return None
    labels = label_column(frame, columns.label, what=WHAT)
    require_binary(labels, what=f"the column {columns.label!r}", advice="pass it as rating= with a like_threshold")
    return labels


def require_binary(labels: Float32Array, *, what: str, advice: str) -> None:
    """Raise `InputError` when labels are other than 0 and 1."""
    if not ((labels == 0) | (labels == 1)).all():
        raise InputError(f"{what} goes from {labels.min():g} to {labels.max():g}, but labels are 0 or 1: {advice}")
