"""Rows that bring their own history: a list of items in each, as the events of a user that is the row itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.frames import column, id_array, id_column, label_column, to_frame, to_us
from llmfeat.errors import DuplicateIdError, InputError
from llmfeat.history.events import Events, require_binary
from llmfeat.types import Float32Array, Int64Array

__all__ = ["HISTORY_AS_OF_US", "history_events"]

HISTORY_AS_OF_US = 10**15
"""The moment, in September 2001, just before which histories without times are put: a row's own "now"."""

_WHAT = "the histories"


def history_events(
    data: Any, *, row_id: str | None, history: str, labels: str | None, timestamps: str | None
) -> tuple[Events, Int64Array]:
    """Return the events of all histories, row after row, and the offsets of the rows that have any.

    See `InteractionLog.from_histories` for what is taken and what is raised.
    """
    data = to_frame(data, what=_WHAT)  # once: for a single request, this is most of the time
    lists = _lists(data, history)
    counts = _counts(lists)
    has_events = counts > 0
    kept = counts[has_events]
    offsets = np.zeros(len(kept) + 1, dtype=np.int64)
    np.cumsum(kept, out=offsets[1:])
    encoded = id_array(pc.list_flatten(lists), what=_said(history)).dictionary_encode()
    events = Events(
        user_ids=_row_ids(data, row_id, len(counts)).filter(pa.array(has_events)),
        item_ids=encoded.dictionary,
        user_codes=np.repeat(np.arange(len(kept), dtype=np.int32), kept),
        item_codes=encoded.indices.to_numpy(),
        times_us=np.arange(offsets[-1]) - np.repeat(offsets[1:], kept) + HISTORY_AS_OF_US,
        labels=np.ones(offsets[-1], dtype=np.float32),
    )
    if timestamps is not None:
        events.times_us = to_us(_beside(data, timestamps, history, counts), what=_said(timestamps))
    if labels is not None:
        events.labels = _binary(_beside(data, labels, history, counts), labels)
    return events, offsets


def _row_ids(data: Any, row_id: str | None, n_rows: int) -> pa.StringArray:
    if row_id is None:
        return pa.array(np.arange(n_rows)).cast(pa.string())
    ids = id_column(data, row_id, what=_WHAT)
    if (n_distinct := len(ids.unique())) < n_rows:
        raise DuplicateIdError(
            f"{_said(row_id)} has {n_distinct} distinct ids in {n_rows} rows, but every row needs its own, or it would "
            "see another's history: number the rows, or leave row_id out"
        )
    return ids


def _lists(data: Any, name: str) -> pa.Array:
    lists = column(data, name, what=_WHAT)
    if pa.types.is_null(lists.type):
        return lists.cast(pa.list_(pa.string()))
    if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type) or _is_fixed(lists)):
        raise InputError(
            f"{_said(name)} is of type {lists.type}, but a list in each row was expected, oldest first: "
            "parse texts into lists first"
        )
    return lists


def _is_fixed(lists: pa.Array) -> bool:
    return bool(pa.types.is_fixed_size_list(lists.type))


def _counts(lists: pa.Array) -> Int64Array:
    """Return the length of each list, 0 for null."""
    counts: Int64Array = pc.fill_null(pc.list_value_length(lists), 0).cast(pa.int64()).to_numpy()
    return counts


def _beside(data: Any, name: str, history: str, counts: Int64Array) -> pa.Array:
    """Return the cells of another column of lists, which must be as long as the histories."""
    lists = _lists(data, name)
    n_other = int(np.count_nonzero(_counts(lists) != counts))
    if n_other:
        raise InputError(
            f"{_said(name)} has lists of another length than {history!r} in {n_other} rows of {len(counts)}, but one "
            "entry for each item was expected: fill or cut them"
        )
    return pc.list_flatten(lists)


def _binary(cells: pa.Array, name: str) -> Float32Array:
    labels = label_column(pa.table({name: cells}), name, what=_WHAT)
    require_binary(labels, what=_said(name), advice="turn ratings into those two first")
    return labels


def _said(name: str) -> str:
    return f"the column {name!r} of {_WHAT}"
