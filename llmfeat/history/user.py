"""One user's latest events, on their own: what a request brings along, or a feature store holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa

from llmfeat._base.frames import id_array, to_us
from llmfeat.errors import InputError
from llmfeat.history.index import LabelDelay
from llmfeat.history.log import InteractionLog
from llmfeat.types import Float32Array, Int64Array

__all__ = ["UserHistory"]


@dataclass(frozen=True, eq=False)
class UserHistory:
    """The latest events of one user, oldest first; what happened at one moment stands in the order it came.

    Attributes
    ----------
    item_ids : list of str
        The items.
    labels : ndarray of shape (n_events,), float32
        1 for a liked, 0 for a disliked event, NaN where nobody knows yet.
    times_us : ndarray of shape (n_events,), int64
        Microseconds since the epoch, UTC; ascending.

    Examples
    --------
    >>> from llmfeat.history import UserHistory
    >>> history = UserHistory.of(["a", "b"], [1_700_000_000, 1_700_000_060], labels=[1, None])
    >>> history.item_ids, history.labels.tolist()
    (['a', 'b'], [1.0, nan])
    >>> history.seen_before(1_700_000_060 * 10**6)  # strictly earlier
    1
    """

    item_ids: list[str]
    labels: Float32Array
    times_us: Int64Array

    @classmethod
    def empty(cls) -> Self:
        """Return the history of a user of whom nothing is known."""
        return cls([], np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64))

    @classmethod
    def of(cls, item_ids: Any, timestamps: Any, *, labels: Any = None) -> Self:
        """Make one of ids, times (datetimes or epochs) and labels in any order; every event is a positive without.

        Raises
        ------
        InputError, TimestampError
            When an id or a time is null, a label is neither 0, 1 nor null, or the lengths differ.
        """
        ids = id_array(item_ids, what="the items of the history").to_pylist()
        times_us = np.asarray(to_us(timestamps, what="the times of the history"))
        try:
            known = np.ones(len(ids), np.float32) if labels is None else np.array(labels, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InputError("the labels of the history are no numbers, but 0, 1 or None was expected") from error
        if not len(ids) == len(times_us) == len(known):
            raise InputError(
                f"{len(ids)} items, {len(times_us)} times and {len(known)} labels came, but one of each for an event "
                "was expected"
            )
        if not (np.isnan(known) | (known == 0) | (known == 1)).all():
            raise InputError("the labels of the history are other than 0, 1 and None: turn ratings into those first")
        return cls(ids, known, times_us)._in_order()

    @classmethod
    def of_log(cls, log: InteractionLog, user_id: Any, *, max_events: int | None = None) -> Self:
        """Return what a log holds of a user, at most the last `max_events`."""
        code = int(log.user_code([user_id])[0])
        if code < 0:
            return cls.empty()
        stop = int(log.by_user.offsets[code + 1])
        start = int(log.by_user.offsets[code])
        if max_events is not None:
            start = max(start, stop - max_events)
        rows = slice(start, stop)
        ids = log.item_ids.take(pa.array(log.item_codes[rows])).to_pylist()
        return cls(ids, known_labels(log)[rows], np.asarray(log.times_us[rows]))

    def __len__(self) -> int:
        return len(self.item_ids)

    def seen_before(self, as_of_us: int) -> int:
        """Return how many of the events are strictly earlier than a moment."""
        return int(np.searchsorted(self.times_us, as_of_us, side="left"))

    def latest(self, n_events: int) -> Self:
        """Return the last so many events."""
        first = max(0, len(self) - n_events)
        return type(self)(self.item_ids[first:], self.labels[first:], self.times_us[first:])

    def with_event(self, item_id: str, time_us: int, label: float) -> Self:
        """Return the history with one more event, in its place by time.

        The same event once more, as a queue may deliver it, changes nothing; with a label where there was none, it
        brings the label.
        """
        at = int(np.searchsorted(self.times_us, time_us, side="right"))
        for position in range(int(np.searchsorted(self.times_us, time_us, side="left")), at):
            if self.item_ids[position] == item_id:
                if np.isnan(label) or self.labels[position] == label:
                    return self
                labels = self.labels.copy()
                labels[position] = label
                return type(self)(self.item_ids, labels, self.times_us)
        ids = [*self.item_ids[:at], item_id, *self.item_ids[at:]]
        return type(self)(
            ids, np.insert(self.labels, at, np.float32(label)), np.insert(self.times_us, at, np.int64(time_us))
        )

    def followed_by(self, newer: UserHistory, *, relabels: bool = False) -> UserHistory:
        """Return this history and what of `newer` it does not hold: later events, and others of its last moment.

        An event that both hold counts once, with the label of `newer` where this one has none; with `relabels`,
        wherever `newer` has one.
        """
        if not len(newer) or not len(self):
            return self if not len(newer) else newer
        last_us = int(self.times_us[-1])
        history: UserHistory = self
        labels = None
        for at in range(len(newer)):
            time_us = int(newer.times_us[at])
            if time_us > last_us:
                continue
            position = self._position(newer.item_ids[at], time_us)
            if position is not None:
                if (relabels or np.isnan(self.labels[position])) and not np.isnan(newer.labels[at]):
                    labels = self.labels.copy() if labels is None else labels
                    labels[position] = newer.labels[at]
            elif time_us == last_us:
                history = history.with_event(newer.item_ids[at], time_us, float(newer.labels[at]))
        if labels is not None:
            history = UserHistory(
                history.item_ids, np.concatenate([labels, history.labels[len(labels) :]]), history.times_us
            )
        begin = int(np.searchsorted(newer.times_us, last_us, side="right"))
        return UserHistory(
            history.item_ids + newer.item_ids[begin:],
            np.concatenate([history.labels, newer.labels[begin:]]),
            np.concatenate([history.times_us, newer.times_us[begin:]]),
        )

    def known_until(self, as_of_us: int, delay: LabelDelay) -> int:
        """Return how many of the events have a label that had arrived before a moment."""
        before_us = int(delay.known_before(np.array([as_of_us]))[0])
        return self.seen_before(before_us)

    def _position(self, item_id: str, time_us: int) -> int | None:
        for position in range(self.seen_before(time_us), int(np.searchsorted(self.times_us, time_us, side="right"))):
            if self.item_ids[position] == item_id:
                return position
        return None

    def _in_order(self) -> Self:
        order = np.argsort(self.times_us, kind="stable")
        if (np.diff(order) == 1).all():
            return self
        ids: Sequence[str] = self.item_ids
        return type(self)([ids[at] for at in order.tolist()], self.labels[order], self.times_us[order])


def known_labels(log: InteractionLog) -> Float32Array:
    """Return the labels of a log, NaN where the log was cut before one arrived."""
    delay = log.label_delay
    if delay.cut_us is None:
        return np.asarray(log.labels)
    known_us = int(delay.known_before(np.array([delay.cut_us]))[0])
    return np.where(log.times_us < known_us, log.labels, np.float32(np.nan)).astype(np.float32)
