"""Histories of many queries as flat arrays: what each of them saw, oldest first."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.frames import column, id_array, id_column
from llmfeat._base.ids import IdIndex
from llmfeat.errors import InputError, LLMFeatWarning
from llmfeat.history.log import InteractionLog
from llmfeat.types import BoolArray, Float32Array, Int32Array, Int64Array

__all__ = ["Sequences"]


@dataclass(frozen=True, eq=False)
class Sequences:
    """Item sequences, one per row, over one catalogue; immutable.

    Row ``i`` is ``item_codes[offsets[i]:offsets[i + 1]]``, oldest first. Build one with `of_log` or `from_lists`.

    Attributes
    ----------
    item_codes : ndarray of shape (n_events,), int32
        The items, as positions in `item_ids`.
    offsets : ndarray of shape (n_rows + 1,), int64
        Where each row begins.
    item_ids : pyarrow.StringArray
        The catalogue: distinct ids, those without any event included.
    labels : ndarray of shape (n_events,), float32, optional
        1 for a positive, 0 for a negative event.
    times_us : ndarray of shape (n_events,), int64, optional
        When each event was, microseconds since 1970, UTC.
    users : pyarrow.StringArray of length n_rows, optional
        Whose history each row is; several rows may be one user's.
    n_unknown : int
        How many events were dropped because the catalogue lacks their item.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat.history.sequences import Sequences
    >>> rows = pa.table({"history": [["a", "b"], None, ["c"]]})
    >>> sequences = Sequences.from_lists(rows, "history", item_ids=["a", "b", "c", "d"])
    >>> sequences.item_codes.tolist(), sequences.offsets.tolist()
    ([0, 1, 2], [0, 2, 2, 3])
    >>> sequences.append([3, 3, -1]).to_lists()
    [['a', 'b', 'd'], ['d'], ['c']]
    """

    item_codes: Int32Array
    offsets: Int64Array
    item_ids: pa.StringArray
    labels: Float32Array | None = None
    times_us: Int64Array | None = None
    users: pa.StringArray | None = None
    n_unknown: int = 0

    def __post_init__(self) -> None:
        if len(self.offsets) < 1 or self.offsets[0] != 0 or self.offsets[-1] != len(self.item_codes):
            raise InputError(
                f"offsets do not go from 0 to the {len(self.item_codes)} events that were given: "
                "pass n_rows + 1 of them, the first 0 and the last the number of events"
            )
        if (np.diff(self.offsets) < 0).any():
            raise InputError("offsets fall somewhere, but each row must begin where the one before it ends")
        if len(self.item_codes) and not 0 <= self.item_codes.min() <= self.item_codes.max() < len(self.item_ids):
            raise InputError(
                f"item codes go from {self.item_codes.min()} to {self.item_codes.max()}, but the catalogue has "
                f"{len(self.item_ids)} items: drop the events of other items"
            )
        for name, values in (("labels", self.labels), ("times_us", self.times_us)):
            if values is not None and len(values) != len(self.item_codes):
                raise InputError(f"{name} has {len(values)} entries for {len(self.item_codes)} events: pass one each")
        if self.users is not None and len(self.users) != len(self):
            raise InputError(f"users has {len(self.users)} entries for {len(self)} rows: pass one each")

    @classmethod
    def of_log(
        cls,
        log: InteractionLog,
        users: Any,
        times_us: Int64Array,
        *,
        max_events: int | None = None,
        lag_us: int = 0,
        item_ids: Any = None,
    ) -> Self:
        """Return for each row the user's events strictly before ``times_us - lag_us``.

        Parameters
        ----------
        log : InteractionLog
            The events; it may reach past the rows.
        users : sequence of ids
            The user of each row; one without an event has an empty history.
        times_us : ndarray of shape (n_rows,), int64
            The moment of each row, microseconds since 1970, UTC.
        max_events : int, optional
            Only the last so many events; all of them by default.
        lag_us : int, default=0
            By how much events reach the rows late.
        item_ids : sequence of ids, optional
            The catalogue, the log's items by default. Events of other items are dropped, and counted in `n_unknown`,
            after the last `max_events` were taken.
        """
        rows = id_array(users, what="the users")
        start, stop = log.windows(rows, np.asarray(times_us, dtype=np.int64), max_events=max_events, lag_us=lag_us)
        positions, offsets = _ragged(start, stop - start)
        catalogue = log.item_ids if item_ids is None else id_array(item_ids, what="the catalogue")
        code_of = np.arange(len(log.item_ids)) if item_ids is None else IdIndex(catalogue).positions(log.item_ids)
        return cls._known(
            code_of[log.item_codes[positions]],
            offsets,
            catalogue,
            labels=log.labels[positions],
            times_us=log.times_us[positions],
            users=rows,
        )

    @classmethod
    def from_lists(cls, data: Any, name: str, *, item_ids: Any = None, user_id: str | None = None) -> Self:
        """Return the histories that rows bring along as a column of lists of item ids, oldest first.

        Nothing here can tell whether a list holds later events: that is for whoever made the column.

        Parameters
        ----------
        data : data frame
            The rows.
        name : str
            The column of lists. A null in place of a list is an empty history; a null within one is refused.
        item_ids : sequence of ids, optional
            The catalogue, by default the ids of the lists in the order of their first appearance. Events of other
            items are dropped with a warning, and counted in `n_unknown`.
        user_id : str, optional
            The column that says whose history each row is.

        Raises
        ------
        MissingColumnError, InputError
            When a column is missing, holds no lists, or a list holds a null.
        """
        cells = column(data, name, what="the rows")
        what = f"the column {name!r} of the rows"
        is_list = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_null)
        if not any(check(cells.type) for check in is_list):
            raise InputError(f"{what} is of type {cells.type}, but lists of item ids were expected: split it first")
        users = None if user_id is None else id_column(data, user_id, what="the rows")
        if pa.types.is_null(cells.type):
            cells = cells.cast(pa.list_(pa.string()))
        sizes = pc.fill_null(pc.list_value_length(cells), 0).cast(pa.int64()).to_numpy()
        flat = pc.list_flatten(cells)
        ids = flat.cast(pa.string()) if pa.types.is_null(flat.type) and not len(flat) else id_array(flat, what=what)
        catalogue = pc.unique(ids) if item_ids is None else id_array(item_ids, what="the catalogue")
        codes = IdIndex(catalogue).positions(ids)
        n_unknown = int(np.count_nonzero(codes < 0))
        if n_unknown:
            warnings.warn(
                f"{what} names {n_unknown} events of {len(codes)} whose item the catalogue lacks: they are dropped",
                LLMFeatWarning,
                stacklevel=2,
            )
        return cls._known(codes, _offsets(sizes), catalogue, users=users)

    @classmethod
    def _known(
        cls,
        codes: Int64Array,
        offsets: Int64Array,
        item_ids: pa.StringArray,
        *,
        labels: Float32Array | None = None,
        times_us: Int64Array | None = None,
        users: pa.StringArray | None = None,
    ) -> Self:
        """Return the sequences of the events whose code is not -1."""
        known = codes >= 0
        return cls(
            codes[known].astype(np.int32),
            _kept_offsets(offsets, known),
            item_ids,
            None if labels is None else labels[known],
            None if times_us is None else times_us[known],
            users,
            int(np.count_nonzero(~known)),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_items(self) -> int:
        """The size of the catalogue."""
        return len(self.item_ids)

    @property
    def lengths(self) -> Int64Array:
        """The number of events of each row, int64 of shape ``(n_rows,)``."""
        return np.diff(self.offsets)

    @property
    def row_of_event(self) -> Int64Array:
        """The row of each event, int64 of shape ``(n_events,)``."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def age_rank(self) -> Int64Array:
        """How many later events its row has, for each event: 0 for the newest; int64 of shape ``(n_events,)``."""
        return np.repeat(self.offsets[1:], self.lengths) - 1 - np.arange(len(self.item_codes))

    def take(self, rows: Int64Array | slice) -> Self:
        """Return the rows at these positions, in this order; one may come more than once."""
        rows = np.arange(len(self))[rows]
        events, offsets = _ragged(self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows])
        users = None if self.users is None else self.users.take(pa.array(rows))
        return replace(self._events(events, offsets), users=users)

    def keep(self, events: BoolArray) -> Self:
        """Return the same rows with only the events that are marked; bool of shape ``(n_events,)``."""
        return self._events(np.flatnonzero(events), _kept_offsets(self.offsets, events))

    def last(self, n_events: int) -> Self:
        """Return the same rows with at most their last `n_events` events."""
        return self.keep(self.age_rank < n_events)

    def positives(self) -> Self:
        """Return the same rows with only the events of label 1; all of them where there are no labels."""
        return self if self.labels is None else self.keep(self.labels > 0)

    def append(self, item_codes: Any, *, times_us: Int64Array | None = None) -> Self:
        """Return the rows with one more event at their end, such as what came next, of label 1.

        Parameters
        ----------
        item_codes : array of shape (n_rows,), int
            Positions in the catalogue; -1 appends nothing.
        times_us : ndarray of shape (n_rows,), int64, optional
            When; needed where the other events have times.
        """
        codes = np.asarray(item_codes, dtype=np.int64)
        if codes.shape != (len(self),):
            raise InputError(f"{codes.shape} item codes came for {len(self)} rows: pass one per row, -1 for none")
        if (times_us is None) != (self.times_us is None):
            raise InputError("either all events have a time or none: pass times_us= just where the sequences have them")
        rows = np.flatnonzero(codes >= 0)
        at = self.offsets[1:][rows]
        return replace(
            self,
            item_codes=np.insert(self.item_codes, at, codes[rows].astype(np.int32)),
            offsets=_offsets(self.lengths + (codes >= 0)),
            labels=None if self.labels is None else np.insert(self.labels, at, np.float32(1)),
            times_us=None
            if self.times_us is None or times_us is None
            else np.insert(self.times_us, at, times_us[rows]),
        )

    def with_users(self, users: Any) -> Self:
        """Return the same rows as those of these users, one id per row."""
        return replace(self, users=id_array(users, what="the users"))

    def item_code(self, ids: Any) -> Int64Array:
        """Return the position of each item id in the catalogue, int64; -1 for an unknown one."""
        return IdIndex(self.item_ids).positions(id_array(ids, what="item ids"))

    def to_lists(self) -> list[list[str]]:
        """Return the item ids of each row: for a look, not for work."""
        ids = self.item_ids.take(pa.array(self.item_codes)).to_pylist()
        return [ids[start:stop] for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True)]

    def _events(self, events: Int64Array, offsets: Int64Array) -> Self:
        return replace(
            self,
            item_codes=self.item_codes[events],
            offsets=offsets,
            labels=None if self.labels is None else self.labels[events],
            times_us=None if self.times_us is None else self.times_us[events],
            users=self.users if len(offsets) == len(self.offsets) else None,
        )


def _ragged(start: Int64Array, sizes: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return the positions of the ranges ``start[i]:start[i] + sizes[i]`` one after the other, and their offsets."""
    offsets = _offsets(sizes)
    return np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], sizes), offsets


def _offsets(sizes: Int64Array | BoolArray) -> Int64Array:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _kept_offsets(offsets: Int64Array, kept: BoolArray) -> Int64Array:
    """Return the offsets of the rows when only the events that are `kept` stay."""
    return _offsets(kept)[offsets]
