"""What a good team has without any text, as plain arrays: counts, rates, recency and sessions before each row.

Running sums are taken once over the log; a row is then a difference of two of them, whether it is computed alone or in
a batch, and has the same bits.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import numpy as np

from llmfeat.history import AsOfIndex, InteractionLog
from llmfeat.types import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array

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


class _Bounds(NamedTuple):
    """Where the events of some rows lie in the order of an index: seen from `first` to `stop`, labels until `known`."""

    first: Int64Array
    known: Int64Array
    stop: Int64Array
    starts: list[Int64Array]  # of the time windows


class _Group:
    """Running sums over the events of one side (all events, users, items), grouped and sorted by time."""

    def __init__(self, index: AsOfIndex, log: InteractionLog) -> None:
        self.index = index
        self.delay = log.label_delay
        self.labels = _running(index.sort(log.labels))

    def known(self, codes: Int32Array | Int64Array, as_of_us: Int64Array) -> Int64Array:
        """Return where the events begin whose labels are not known before each moment, though they may be seen."""
        return self.index.before(codes, self.delay.known_before(as_of_us))

    def rate(self, first: Int64Array, known: Int64Array, prior: Float64Array) -> Float64Array:
        """Return the mean label of the events between, drawn to `prior` by `_PRIOR_EVENTS`."""
        rate: Float64Array = (self.labels[known] - self.labels[first] + _PRIOR_EVENTS * prior) / (
            known - first + _PRIOR_EVENTS
        )
        return rate

    def since_s(self, moments_us: Int64Array, positions: Int64Array, there: BoolArray) -> Float64Array:
        """Return the seconds since the event at each position, NaN where it is not `there`."""
        ages = np.full(len(positions), np.nan)
        ages[there] = (moments_us[there] - self.index.times_at(positions[there])) / 1e6
        return ages

    def bounds(self, codes: Int64Array, as_of_us: Int64Array) -> _Bounds:
        """Return what rows of those groups see at those moments."""
        moments = [as_of_us, self.delay.known_before(as_of_us), *(as_of_us - window for _, window in _TIME_WINDOWS)]
        # One search for all of them: a request spends more time on its way into numpy than on the search.
        found = self.index.before(np.tile(codes, len(moments)), np.concatenate(moments))
        stop, known, *starts = found.reshape(len(moments), len(codes))
        return _Bounds(self.index.first(codes), known, stop, starts)

    def columns(
        self,
        bounds: _Bounds,
        as_of_us: Int64Array,
        prior: Float64Array,
        excess: Float64Array,
        excess_windows: tuple[int | None, ...],
    ) -> list[Float64Array]:
        """Return the columns of `_group_names`.

        Events count once they are seen, labels once they are known: the last five labels are the last five known ones.
        """
        first, known, stop, starts = bounds
        n_events = stop - first
        columns = [n_events.astype(np.float64), self.rate(first, known, prior)]
        columns += [_mean(self.labels, np.maximum(first, known - k), known) for k in _LABEL_WINDOWS]
        columns += [_mean(excess, np.maximum(first, known - k) if k else first, known) for k in excess_windows]
        for start in starts:
            columns += [(stop - start).astype(np.float64), _mean(self.labels, start, known)]
        is_seen = n_events > 0
        return [*columns, self.since_s(as_of_us, stop - 1, is_seen), self.since_s(as_of_us, first, is_seen)]


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
        prior = self._prior(log.times_us)
        over_item = log.labels - _rate_then(self._item, log.item_codes, log.times_us, prior)
        over_user = log.labels - _rate_then(self._user, log.user_codes, log.times_us, prior)
        self._user_excess = _running(_on_grid(log.by_user.sort(over_item)))
        self._item_excess = _running(_on_grid(log.by_item.sort(over_user)))

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
        user, item = self._user.bounds(user_codes, as_of_us), self._item.bounds(item_codes, as_of_us)
        columns = [
            *self._user.columns(user, as_of_us, prior, self._user_excess, _USER_EXCESS_WINDOWS),
            *self._session(user, as_of_us),
            *self._item.columns(item, as_of_us, prior, self._item_excess, _ITEM_EXCESS_WINDOWS),
            self._pair_counts(user_codes, item_codes, as_of_us),
            prior,
        ]
        return np.stack(columns, axis=1).astype(np.float32)

    def _prior(self, as_of_us: Int64Array) -> Float64Array:
        """Return the mean of all labels known before each moment."""
        n_known = self._all.known(np.zeros(len(as_of_us), dtype=np.int64), as_of_us)
        rate = _mean(self._all.labels, np.zeros_like(n_known), n_known)
        return np.where(n_known > 0, rate, _NO_RATE)

    def _session(self, bounds: _Bounds, as_of_us: Int64Array) -> list[Float64Array]:
        """Return count, mean label and length in seconds of the session open at each row: gaps of 30 minutes end it."""
        user, (first, known, stop, _) = self._user, bounds
        is_open = user.since_s(as_of_us, stop - 1, stop > first) <= _SESSION_GAP_US / 1e6
        start = stop.copy()
        start[is_open] = self._session_start[stop[is_open] - 1]
        length_s = np.where(is_open, user.since_s(as_of_us, start, is_open), 0.0)
        return [(stop - start).astype(np.float64), _mean(user.labels, start, known), length_s]

    def _pair_counts(self, user_codes: Int64Array, item_codes: Int64Array, as_of_us: Int64Array) -> Float64Array:
        """Return how often the user has met this very item before."""
        pairs, index = self._pairs, self._by_pair
        wanted = user_codes * self._n_items + item_codes
        position = np.searchsorted(pairs, wanted)
        known = (user_codes >= 0) & (item_codes >= 0) & (position < len(pairs))
        known[known] = pairs[position[known]] == wanted[known]
        codes = np.where(known, position, -1)
        return (index.before(codes, as_of_us) - index.first(codes)).astype(np.float64)


_INDEXES: weakref.WeakKeyDictionary[InteractionLog, ActivityIndex] = weakref.WeakKeyDictionary()


def activity_index(log: InteractionLog) -> ActivityIndex:
    """Return the index of a log; estimators and requests that share a log share it."""
    if (index := _INDEXES.get(log)) is None:
        index = _INDEXES[log] = ActivityIndex(log)
    return index


def _rate_then(group: _Group, codes: Int32Array, times_us: Int64Array, prior: Float64Array) -> Float64Array:
    """Return the rate of the group of each event of the log as it was known at the event."""
    return group.rate(group.index.first(codes), group.known(codes, times_us), prior)


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
