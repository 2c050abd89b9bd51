"""The interaction log: who did what when, sorted once, asked "what was known strictly before t?"."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa

from llmfeat._base.frames import id_array, id_column, label_column, require_rows, time_column
from llmfeat._base.ids import IdIndex
from llmfeat.errors import InputError
from llmfeat.types import Float32Array, Int32Array, Int64Array

__all__ = ["AsOfIndex", "InteractionLog"]


class AsOfIndex:
    """Events grouped by a code and sorted by time within each group.

    Every "what was known at t" of llmfeat is answered here, by one binary search, so that "strictly earlier" is
    decided in one line of the library.

    Parameters
    ----------
    codes : ndarray of shape (n_events,), int
        The group of each event, from 0 to ``n_codes - 1``.
    times_us : ndarray of shape (n_events,), int64
        The time of each event.
    n_codes : int
        The number of groups.

    Attributes
    ----------
    order : ndarray of shape (n_events,), int64
        The events sorted by group and time; events of one time keep their order.
    offsets : ndarray of shape (n_codes + 1,), int64
        Group ``c`` is ``order[offsets[c]:offsets[c + 1]]``.
    """

    def __init__(self, codes: Int32Array | Int64Array, times_us: Int64Array, n_codes: int) -> None:
        self._distinct_times, time_codes = np.unique(times_us, return_inverse=True)
        keys = codes.astype(np.int64) * (len(self._distinct_times) + 1) + time_codes
        self.order: Int64Array = np.argsort(keys, kind="stable")
        self._keys = keys[self.order]
        counts = np.bincount(codes, minlength=n_codes)
        self.offsets: Int64Array = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def first(self, codes: Int64Array) -> Int64Array:
        """Return where the group of each code begins in `order`; 0 for the code -1 (an unknown id)."""
        return np.where(codes >= 0, self.offsets[codes], 0)

    def before(self, codes: Int64Array, times_us: Int64Array) -> Int64Array:
        """Return where each group's events at or after ``times_us`` begin in `order`.

        What lies between ``first(codes)`` and this is strictly earlier than the time asked for. Events at that very
        time are not: a basket, or a page of ratings, is one moment, and its rows never see each other.
        """
        time_codes = np.searchsorted(self._distinct_times, times_us, side="left")
        keys = codes * (len(self._distinct_times) + 1) + time_codes
        return np.where(codes >= 0, np.searchsorted(self._keys, keys, side="left"), 0)


@dataclass(frozen=True, eq=False)
class InteractionLog:
    """Interactions of users with items, sorted by user and time; immutable.

    Build one with `from_frame`. Copies and clones of estimators share it.

    Attributes
    ----------
    user_ids, item_ids : pyarrow.StringArray
        The distinct ids; a code is a position in them.
    user_codes, item_codes : ndarray of shape (n_events,), int32
        Who and what, sorted by user, then time, then the order of the input.
    times_us : ndarray of shape (n_events,), int64
        Microseconds since the epoch, UTC.
    labels : ndarray of shape (n_events,), float32
        1 for a positive, 0 for a negative event.
    """

    user_ids: pa.StringArray
    item_ids: pa.StringArray
    user_codes: Int32Array
    item_codes: Int32Array
    times_us: Int64Array
    labels: Float32Array
    by_user: AsOfIndex = field(repr=False)

    @classmethod
    def from_frame(
        cls,
        data: Any,
        *,
        user_id: str = "user_id",
        item_id: str = "item_id",
        timestamp: str = "timestamp",
        label: str | None = None,
        rating: str | None = None,
        like_threshold: float = 4.0,
    ) -> Self:
        """Build a log from a pandas, polars or Arrow frame of one row per event, in any order.

        Parameters
        ----------
        data : data frame
            The events.
        user_id, item_id, timestamp : str
            The columns of that meaning; times as datetimes or epochs (s, ms, us).
        label : str, optional
            A column of 0 and 1.
        rating : str, optional
            A column of ratings, positive from `like_threshold` on. Without either, every event is a positive.
        like_threshold : float, default=4.0
            The least rating that counts as liked.

        Raises
        ------
        MissingColumnError, EmptyInputError, TimestampError, InputError
            When a column is missing, there is no row, a time or an id is null, or labels are not 0 and 1.
        """
        what = "the interaction log"
        users = id_column(data, user_id, what=what)
        items = id_column(data, item_id, what=what)
        require_rows(len(users), what=what)
        times = time_column(data, timestamp, what=what)
        labels = _labels(data, label=label, rating=rating, like_threshold=like_threshold, n_events=len(users))
        return cls.from_arrays(users, items, times, labels)

    @classmethod
    def from_arrays(
        cls, users: pa.StringArray, items: pa.StringArray, times_us: Int64Array, labels: Float32Array
    ) -> Self:
        """Build a log from checked arrays, one entry per event, in any order."""
        user_ids, user_codes = _factorize(users)
        item_ids, item_codes = _factorize(items)
        order = AsOfIndex(user_codes, times_us, len(user_ids)).order
        user_codes, item_codes, times_us, labels = (
            user_codes[order],
            item_codes[order],
            times_us[order],
            labels[order],
        )
        for values in (user_codes, item_codes, times_us, labels):
            values.setflags(write=False)
        by_user = AsOfIndex(user_codes, times_us, len(user_ids))
        return cls(user_ids, item_ids, user_codes, item_codes, times_us, labels, by_user)

    @property
    def n_events(self) -> int:
        """The number of events."""
        return len(self.times_us)

    @cached_property
    def _users(self) -> IdIndex:
        return IdIndex(self.user_ids)

    @cached_property
    def _items(self) -> IdIndex:
        return IdIndex(self.item_ids)

    @cached_property
    def by_item(self) -> AsOfIndex:
        """The events grouped by item."""
        return AsOfIndex(self.item_codes, self.times_us, len(self.item_ids))

    @cached_property
    def by_time(self) -> AsOfIndex:
        """All events as one group, sorted by time."""
        return AsOfIndex(np.zeros(self.n_events, dtype=np.int32), self.times_us, 1)

    @cached_property
    def by_pair(self) -> tuple[Int64Array, AsOfIndex]:
        """The distinct pairs ``user_code * n_items + item_code``, sorted, and the events grouped by them."""
        keys = self.user_codes.astype(np.int64) * len(self.item_ids) + self.item_codes
        pairs, codes = np.unique(keys, return_inverse=True)
        return pairs, AsOfIndex(codes, self.times_us, len(pairs))

    def user_code(self, ids: Any) -> Int64Array:
        """Return the code of each user id, -1 for a user without an event."""
        return self._users.positions(id_array(ids, what="user ids"))

    def item_code(self, ids: Any) -> Int64Array:
        """Return the code of each item id, -1 for an item without an event."""
        return self._items.positions(id_array(ids, what="item ids"))

    def windows(
        self, user_ids: Any, times_us: Int64Array, *, max_events: int | None = None, lag_us: int = 0
    ) -> tuple[Int64Array, Int64Array]:
        """Return for each row ``(start, stop)``: the user's events strictly before ``times_us - lag_us``.

        Positions are into the log's own arrays, oldest first; at most the last `max_events` of them.
        """
        codes = self.user_code(user_ids)
        stop = self.by_user.before(codes, times_us - lag_us)
        start = self.by_user.first(codes)
        return (start if max_events is None else np.maximum(start, stop - max_events)), stop

    def as_of(self, user_id: Any, time_us: int) -> Int64Array:
        """Return the positions of one user's events strictly before `time_us`, oldest first."""
        start, stop = self.windows([user_id], np.array([time_us], dtype=np.int64))
        return np.arange(start[0], stop[0], dtype=np.int64)

    def until(self, time_us: int) -> Self:
        """Return the log of the events strictly before `time_us`."""
        keep = self.times_us < time_us
        require_rows(int(np.count_nonzero(keep)), what=f"the interaction log before {time_us} us")
        users = self.user_ids.take(pa.array(self.user_codes[keep]))
        items = self.item_ids.take(pa.array(self.item_codes[keep]))
        return self.from_arrays(users, items, self.times_us[keep], self.labels[keep])

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself: it is immutable, and `sklearn.base.clone` would copy it for every fold."""
        return self


def _labels(data: Any, *, label: str | None, rating: str | None, like_threshold: float, n_events: int) -> Float32Array:
    if label is not None and rating is not None:
        raise InputError(f"label={label!r} and rating={rating!r} were both given, one of them was expected: drop one")
    if rating is not None:
        return (label_column(data, rating, what="the interaction log") >= like_threshold).astype(np.float32)
    if label is None:
        return np.ones(n_events, dtype=np.float32)
    labels = label_column(data, label, what="the interaction log")
    values: Iterable[float] = np.unique(labels)
    if not set(values) <= {0.0, 1.0}:
        raise InputError(
            f"the column {label!r} goes from {labels.min():g} to {labels.max():g}, but labels are 0 or 1: "
            "pass it as rating= with a like_threshold"
        )
    return labels


def _factorize(ids: pa.StringArray) -> tuple[pa.StringArray, Int32Array]:
    encoded = ids.dictionary_encode()
    return encoded.dictionary, encoded.indices.cast(pa.int32()).to_numpy().copy()
