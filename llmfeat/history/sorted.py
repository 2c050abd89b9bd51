"""Who did what when, sorted, and asked "what was known strictly before t?"."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from llmfeat._base.frames import id_array
from llmfeat._base.ids import IdIndex
from llmfeat.history.index import AsOfIndex, LabelDelay
from llmfeat.types import Float32Array, Int32Array, Int64Array

__all__ = ["SortedEvents"]


@dataclass(frozen=True, eq=False)
class SortedEvents:
    """What an `InteractionLog` holds and answers; see there for the attributes."""

    user_ids: pa.StringArray
    item_ids: pa.StringArray
    user_codes: Int32Array
    item_codes: Int32Array
    times_us: Int64Array
    labels: Float32Array
    by_user: AsOfIndex = field(repr=False)
    label_delay: LabelDelay = field(default_factory=LabelDelay)

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
        return self._windows(self.user_code(user_ids), times_us - lag_us, max_events)

    def labelled_windows(
        self, user_ids: Any, times_us: Int64Array, *, max_events: int | None = None, lag_us: int = 0
    ) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Return for each row ``(start, labelled, stop)``: the window, and how far into it labels are known.

        ``start`` and ``stop`` are those of `windows`. The labels of the events from ``start`` to ``labelled`` had
        arrived strictly before ``times_us - lag_us``; the events from there to ``stop`` are seen, but how they ended is
        not. Without a delay ``labelled`` is ``stop``.
        """
        codes, as_of_us = self.user_code(user_ids), times_us - lag_us
        start, stop = self._windows(codes, as_of_us, max_events)
        known = self.by_user.before(codes, self.label_delay.known_before(as_of_us))
        return start, np.clip(known, start, stop), stop

    def _windows(
        self, codes: Int64Array, as_of_us: Int64Array, max_events: int | None
    ) -> tuple[Int64Array, Int64Array]:
        stop = self.by_user.before(codes, as_of_us)
        start = self.by_user.first(codes)
        return (start if max_events is None else np.maximum(start, stop - max_events)), stop

    def as_of(self, user_id: Any, time_us: int) -> Int64Array:
        """Return the positions of one user's events strictly before `time_us`, oldest first."""
        start, stop = self.windows([user_id], np.array([time_us], dtype=np.int64))
        return np.arange(start[0], stop[0], dtype=np.int64)
