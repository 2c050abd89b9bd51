"""What a good team has without any text, as plain arrays: counts, rates, recency and sessions before each row.

Running sums are taken once over the log; a row is then a difference of two of them, whether it is computed alone or in
a batch, and has the same bits.
"""

from __future__ import annotations

import weakref

import numpy as np

from llmfeat.history import AsOfIndex, InteractionLog
from llmfeat.types import BoolArray, Float32Array, Float64Array, Int64Array

__all__ = ["ACTIVITY_NAMES", "POPULARITY_NAMES", "ActivityIndex", "activity_index"]

_HOUR_US = 3_600_000_000
_DAY_US = 24 * _HOUR_US
_SESSION_GAP_US = _HOUR_US // 2
_TIME_WINDOWS = (("1h", _HOUR_US), ("1d", _DAY_US), ("7d", 7 * _DAY_US))
_LABEL_WINDOWS = (1, 5, 10, 50)
# Means of label minus what was expected of the other side: a user's taste apart from how good the items were, and an
# item's quality apart from how generous its users are. None stands for all events.
_USER_EXCESS_WINDOWS = (5, 10, 50, None)
_ITEM_EXCESS_WINDOWS = (10, 50, None)
# The weight, in events, of the overall rate in the rate of a user or an item with few events.
_PRIOR_EVENTS = 10.0
# The overall rate before there is any event.
_NO_RATE = 0.5
_STEPS = 2.0**20


def _group_names(excess_windows: tuple[int | None, ...]) -> tuple[str, ...]:
    return (
        "n_events",
        "rate",
        *(f"label_last{k}" for k in _LABEL_WINDOWS),
        *(f"excess_last{k}" if k else "excess" for k in excess_windows),
        *(f"{what}_{window}" for window, _ in _TIME_WINDOWS for what in ("n", "label")),
        "since_last_s",
        "since_first_s",
    )


ACTIVITY_NAMES: tuple[str, ...] = (
    *(f"user_{name}" for name in (*_group_names(_USER_EXCESS_WINDOWS), "session_n", "session_label", "session_s")),
    *(f"item_{name}" for name in _group_names(_ITEM_EXCESS_WINDOWS)),
    "pair_n_events",
    "rate",
)
POPULARITY_NAMES: tuple[str, ...] = ("item_n_events", "item_rate", "item_n_1d", "item_n_7d")


class _Group:
    """Running sums over the events of one side (all events, users, items), grouped and sorted by time."""

    def __init__(self, index: AsOfIndex, log: InteractionLog) -> None:
        self.index = index
        self.times_us = log.times_us[index.order]
        self.labels = _running(log.labels[index.order])

    def rate(self, codes: Int64Array, as_of_us: Int64Array, prior: Float64Array) -> Float64Array:
        """Return the mean label before each moment, drawn to `prior` by `_PRIOR_EVENTS`."""
        first, stop = self.index.first(codes), self.index.before(codes, as_of_us)
        rate: Float64Array = (self.labels[stop] - self.labels[first] + _PRIOR_EVENTS * prior) / (
            stop - first + _PRIOR_EVENTS
        )
        return rate

    def since_s(self, moments_us: Int64Array, positions: Int64Array, known: BoolArray) -> Float64Array:
        """Return the seconds since the event at each position, NaN where not `known`."""
        ages = (moments_us - self.times_us[np.clip(positions, 0, len(self.times_us) - 1)]) / 1e6
        return np.where(known, ages, np.nan)

    def columns(
        self,
        codes: Int64Array,
        as_of_us: Int64Array,
        prior: Float64Array,
        excess: Float64Array,
        excess_windows: tuple[int | None, ...],
    ) -> list[Float64Array]:
        """Return the columns of `_group_names`, for rows of those groups at those moments."""
        first, stop = self.index.first(codes), self.index.before(codes, as_of_us)
        n_events = stop - first
        columns = [n_events.astype(np.float64), self.rate(codes, as_of_us, prior)]
        columns += [_mean(self.labels, np.maximum(first, stop - k), stop) for k in _LABEL_WINDOWS]
        columns += [_mean(excess, np.maximum(first, stop - k) if k else first, stop) for k in excess_windows]
        for _, window_us in _TIME_WINDOWS:
            start = self.index.before(codes, as_of_us - window_us)
            columns += [(stop - start).astype(np.float64), _mean(self.labels, start, stop)]
        known = n_events > 0
        return [*columns, self.since_s(as_of_us, stop - 1, known), self.since_s(as_of_us, first, known)]


class ActivityIndex:
    """A log prepared for `features`; made once per log, by `activity_index`."""

    def __init__(self, log: InteractionLog) -> None:
        # No reference to the log itself: it is the weak key under which this index is kept.
        self._pairs, self._by_pair = log.by_pair
        self._n_items = len(log.item_ids)
        self._all = _Group(log.by_time, log)
        self._user = _Group(log.by_user, log)
        self._item = _Group(log.by_item, log)
        self._session_start = _session_starts(log)
        # What was expected of each event, by what was known strictly before it.
        codes = log.user_codes.astype(np.int64), log.item_codes.astype(np.int64)
        prior = self._prior(log.times_us)
        over_item = log.labels - self._item.rate(codes[1], log.times_us, prior)
        over_user = log.labels - self._user.rate(codes[0], log.times_us, prior)
        self._user_excess = _running(_on_grid(over_item[log.by_user.order]))
        self._item_excess = _running(_on_grid(over_user[log.by_item.order]))

    def features(self, user_codes: Int64Array, item_codes: Int64Array, as_of_us: Int64Array) -> Float32Array:
        """Return the columns `ACTIVITY_NAMES` for each row, from events strictly before ``as_of_us``.

        Parameters
        ----------
        user_codes, item_codes : ndarray of shape (n_rows,), int64
            Who and what, -1 for an id without an event.
        as_of_us : ndarray of shape (n_rows,), int64
            The moment up to which each row may see, in microseconds.

        Returns
        -------
        ndarray of shape (n_rows, len(ACTIVITY_NAMES)), float32
            Ages in seconds; NaN where a mean or an age has nothing to be taken over.
        """
        prior = self._prior(as_of_us)
        columns = [
            *self._user.columns(user_codes, as_of_us, prior, self._user_excess, _USER_EXCESS_WINDOWS),
            *self._session(user_codes, as_of_us),
            *self._item.columns(item_codes, as_of_us, prior, self._item_excess, _ITEM_EXCESS_WINDOWS),
            self._pair_counts(user_codes, item_codes, as_of_us),
            prior,
        ]
        return np.stack(columns, axis=1).astype(np.float32)

    def _prior(self, as_of_us: Int64Array) -> Float64Array:
        """Return the mean label of all events before each moment."""
        n_before = self._all.index.before(np.zeros(len(as_of_us), dtype=np.int64), as_of_us)
        rate = _mean(self._all.labels, np.zeros_like(n_before), n_before)
        return np.where(n_before > 0, rate, _NO_RATE)

    def _session(self, codes: Int64Array, as_of_us: Int64Array) -> list[Float64Array]:
        """Return count, mean label and length in seconds of the session open at each row: gaps of 30 minutes end it."""
        user = self._user
        first, stop = user.index.first(codes), user.index.before(codes, as_of_us)
        last = np.maximum(stop - 1, 0)
        is_open = (stop > first) & (as_of_us - user.times_us[last] <= _SESSION_GAP_US)
        opened = self._session_start[last]
        start = np.where(is_open, opened, stop)
        length_s = np.where(is_open, (as_of_us - user.times_us[opened]) / 1e6, 0.0)
        return [(stop - start).astype(np.float64), _mean(user.labels, start, stop), length_s]

    def _pair_counts(self, user_codes: Int64Array, item_codes: Int64Array, as_of_us: Int64Array) -> Float64Array:
        """Return how often the user has met this very item before."""
        pairs, index = self._pairs, self._by_pair
        wanted = user_codes * self._n_items + item_codes
        position = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
        known = (user_codes >= 0) & (item_codes >= 0) & (pairs[position] == wanted)
        codes = np.where(known, position, -1)
        return (index.before(codes, as_of_us) - index.first(codes)).astype(np.float64)


_INDEXES: weakref.WeakKeyDictionary[InteractionLog, ActivityIndex] = weakref.WeakKeyDictionary()


def activity_index(log: InteractionLog) -> ActivityIndex:
    """Return the index of a log; estimators and requests that share a log share it."""
    if (index := _INDEXES.get(log)) is None:
        index = _INDEXES[log] = ActivityIndex(log)
    return index


def _session_starts(log: InteractionLog) -> Int64Array:
    """Return for each event of the log the position at which its user's session began."""
    opens = np.ones(log.n_events, dtype=bool)
    opens[1:] = (np.diff(log.times_us) > _SESSION_GAP_US) | (np.diff(log.user_codes) != 0)
    return np.maximum.accumulate(np.where(opens, np.arange(log.n_events), 0))


def _on_grid(values: Float64Array) -> Float64Array:
    """Return values between -1 and 1 rounded so that sums of up to 2**32 of them are exact, whatever is summed before.

    Running sums of rounded values would differ in their last bits when later events join the log.
    """
    rounded: Float64Array = np.rint(values * _STEPS) / _STEPS
    return rounded


def _running(values: Float32Array | Float64Array) -> Float64Array:
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _mean(running: Float64Array, start: Int64Array, stop: Int64Array) -> Float64Array:
    out = np.full(len(start), np.nan)
    np.divide(running[stop] - running[start], stop - start, out=out, where=stop > start)
    return out
