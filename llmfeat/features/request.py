"""One request: candidates for one user at one moment, computed by the kernel that computes a training matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from llmfeat.features._kernel import History, KernelSpec, nearest_events, similarity_features
from llmfeat.history import LabelDelay, UserHistory
from llmfeat.types import Float32Array, Int64Array

__all__ = ["KERNEL_VERSION", "RequestWindow", "request_because", "request_features"]

KERNEL_VERSION = 1
"""Raised whenever the kernel gives other bits for the same input: what was trained on other ones is not served."""


@dataclass(frozen=True, eq=False)
class RequestWindow:
    """What a request sees of its user's history.

    Attributes
    ----------
    item_ids : list of str
        The items of the events, oldest first.
    labels : ndarray of shape (n_events,), float32
        NaN where nobody knows.
    times_us : ndarray of shape (n_events,), int64
        When they happened.
    n_labelled : int
        How many of them, from the oldest on, have a label that had arrived.
    as_of_us : int
        The moment of the request, less the lag.
    """

    item_ids: list[str]
    labels: Float32Array
    times_us: Int64Array
    n_labelled: int
    as_of_us: int

    @classmethod
    def of(cls, history: UserHistory, *, as_of_us: int, max_events: int, delay: LabelDelay) -> Self:
        """Return the last `max_events` of what happened strictly before a moment."""
        stop = history.seen_before(as_of_us)
        start = max(0, stop - max_events)
        n_labelled = min(max(history.known_until(as_of_us, delay) - start, 0), stop - start)
        rows = slice(start, stop)
        return cls(history.item_ids[rows], history.labels[rows], history.times_us[rows], n_labelled, as_of_us)

    def __len__(self) -> int:
        return len(self.item_ids)


def request_features(
    candidates: Float32Array, events: Float32Array, window: RequestWindow, spec: KernelSpec
) -> Float32Array:
    """Return the features of each candidate: the bits that `HistoryFeatures.transform` gives for the same events.

    Parameters
    ----------
    candidates : ndarray of shape (n_candidates, dim), float32
        A row of NaN where one has no vector.
    events : ndarray of shape (n_events, dim), float32
        The vectors of the items of the window, in its order.
    window : RequestWindow
        The user's events.
    spec : KernelSpec
        What to compute.

    Returns
    -------
    ndarray of shape (n_candidates, len(spec.names)), float32
    """
    n_rows = len(candidates)
    return similarity_features(
        np.concatenate([candidates, events]),
        np.arange(n_rows),
        *_bounds(n_rows, window),
        _history(n_rows, window),
        spec,
        as_of_us=np.full(n_rows, window.as_of_us, dtype=np.int64),
        labelled=np.full(n_rows, window.n_labelled, dtype=np.int64),
    )


def request_because(
    candidates: Float32Array, events: Float32Array, window: RequestWindow, *, max_events: int
) -> list[str | None]:
    """Return the item of the history that each candidate is most similar to, None where there is none.

    See `HistoryFeatures.because`; parameters as in `request_features`.
    """
    n_rows = len(candidates)
    found, _ = nearest_events(
        np.concatenate([candidates, events]),
        np.arange(n_rows),
        *_bounds(n_rows, window),
        _history(n_rows, window),
        max_events=max_events,
    )
    return [window.item_ids[at] if at >= 0 else None for at in found.tolist()]


def _bounds(n_rows: int, window: RequestWindow) -> tuple[Int64Array, Int64Array]:
    return np.zeros(n_rows, dtype=np.int64), np.full(n_rows, len(window), dtype=np.int64)


def _history(n_rows: int, window: RequestWindow) -> History:
    # The bounds are of this request's window alone, so the vectors of its events follow those of the candidates.
    return History(n_rows + np.arange(len(window)), window.labels, window.times_us)
