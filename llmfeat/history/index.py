"""What was known at a moment: which events had happened, and which of their labels had arrived."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from llmfeat.types import Int32Array, Int64Array

__all__ = ["AsOfIndex", "LabelDelay"]

# Rows whose search stays in the processor's cache.
_BLOCK_ROWS = 65_536

_Value = TypeVar("_Value", bound=np.generic)


class AsOfIndex:
    """Events grouped by a code and sorted by time within each group.

    Every "what was known at t" of llmfeat is answered here, by one binary search, so that "strictly earlier" is
    decided in one line of the library. Beside the times, which it shares with whoever made it, it holds 4 bytes an
    event (8 from 2**31 events on) and 8 a group; nothing an event where the events came in order.

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
    offsets : ndarray of shape (n_codes + 1,), int64
        Group ``c`` is ``order[offsets[c]:offsets[c + 1]]``.

    Examples
    --------
    >>> import numpy as np
    >>> from llmfeat.history import AsOfIndex
    >>> index = AsOfIndex(np.array([1, 0, 1]), np.array([30, 10, 20]), n_codes=2)
    >>> index.order.tolist(), index.offsets.tolist()
    ([1, 2, 0], [0, 1, 3])
    >>> index.before(np.array([1, 1]), np.array([30, 31])).tolist()
    [2, 3]
    """

    def __init__(self, codes: Int32Array | Int64Array, times_us: Int64Array, n_codes: int) -> None:
        self._times_us = times_us
        self._order: Int32Array | Int64Array | None = None
        self.offsets: Int64Array = _offsets(np.bincount(codes, minlength=n_codes))
        if not _in_order(codes, times_us):
            order = np.lexsort((times_us, codes))
            self._order = order.astype(np.int32) if len(order) < 2**31 else order

    @classmethod
    def of_sorted(cls, offsets: Int64Array, times_us: Int64Array) -> Self:
        """Return the index of events that are in order already, without looking at them."""
        index = cls.__new__(cls)
        index._times_us, index._order, index.offsets = times_us, None, offsets
        return index

    @property
    def n_events(self) -> int:
        """The number of events."""
        return len(self._times_us)

    @property
    def order(self) -> Int32Array | Int64Array:
        """The events sorted by group and time, shape (n_events,); events of one time keep their order."""
        return np.arange(self.n_events, dtype=np.int64) if self._order is None else self._order

    def sort(self, values: npt.NDArray[_Value]) -> npt.NDArray[_Value]:
        """Return a value per event in the order of the index; the very array where that is its own."""
        return values if self._order is None else values[self._order]

    def times_at(self, positions: Int64Array) -> Int64Array:
        """Return the times of the events at positions in `order`."""
        times: Int64Array = self._times_us[positions if self._order is None else self._order[positions]]
        return times

    def first(self, codes: Int32Array | Int64Array) -> Int64Array:
        """Return where the group of each code begins in `order`; 0 for the code -1 (an unknown id)."""
        return np.where(codes >= 0, self.offsets[codes], 0)

    def before(self, codes: Int32Array | Int64Array, times_us: Int64Array) -> Int64Array:
        """Return where each group's events at or after ``times_us`` begin in `order`.

        What lies between ``first(codes)`` and this is strictly earlier than the time asked for. Events at that very
        time are not: a basket, or a page of ratings, is one moment, and its rows never see each other.
        """
        stop = np.empty(len(codes), dtype=np.int64)
        for begin in range(0, len(codes), _BLOCK_ROWS):
            rows = slice(begin, begin + _BLOCK_ROWS)
            stop[rows] = self._search(codes[rows], times_us[rows])
        return stop

    def _search(self, codes: Int32Array | Int64Array, times_us: Int64Array) -> Int64Array:
        """Search all groups at once, by steps of falling powers of two from where each begins."""
        stop, end = self.first(codes), self.offsets[codes + 1]  # the code -1 gives offsets[0], which is 0
        largest = int((end - stop).max(initial=0))
        for power in reversed(range(largest.bit_length())):
            probe = stop + ((1 << power) - 1)
            # Past the end of all events "clip" reads the last one; past the end of the group nothing counts.
            at = probe if self._order is None else self._order.take(probe, mode="clip")
            earlier = self._times_us.take(at, mode="clip") < times_us
            earlier &= probe < end
            np.add(stop, 1 << power, out=stop, where=earlier)
        return stop


@dataclass(frozen=True)
class LabelDelay:
    """When the labels of a log become known: some time after their events.

    Times are sorted, so what is known of a group's labels at a moment is always a beginning of what is visible.

    Parameters
    ----------
    available_after_us : int, default=0
        Microseconds from an event to its label.
    cut_us : int, optional
        The moment at which the log was cut: no label that arrived later is ever known.

    Examples
    --------
    >>> import numpy as np
    >>> from llmfeat.history import LabelDelay
    >>> LabelDelay(available_after_us=60).known_before(np.array([100, 200])).tolist()
    [40, 140]
    """

    available_after_us: int = 0
    cut_us: int | None = None

    def known_before(self, as_of_us: Int64Array) -> Int64Array:
        """Return the moments that events must be strictly before for their labels to be known at ``as_of_us``."""
        moments = as_of_us if self.cut_us is None else np.minimum(as_of_us, self.cut_us)
        return moments - self.available_after_us

    def cut(self, time_us: int) -> Self:
        """Return the delay of a log that is cut at `time_us`."""
        return replace(self, cut_us=time_us if self.cut_us is None else min(time_us, self.cut_us))


def _in_order(codes: Int32Array | Int64Array, times_us: Int64Array) -> bool:
    later = codes[1:] > codes[:-1]
    later |= (codes[1:] == codes[:-1]) & (times_us[1:] >= times_us[:-1])
    return bool(later.all())


def _offsets(counts: Int64Array) -> Int64Array:
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets
