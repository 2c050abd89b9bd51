"""The similarity kernel: candidates seen through the events of their histories, as plain arrays.

The same function computes a training matrix and the matrix of one request, and gives the same bits for both: cosines
are exact (`_products`), and every sum over a window is taken along rows of one width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmfeat.features._products import exact_unit, profile_norms, window_cosines
from llmfeat.features._summaries import STATISTICS, KernelSpec, Window, summarize
from llmfeat.types import BoolArray, Float32Array, Float64Array, Int64Array

__all__ = ["History", "KernelSpec", "nearest_events", "similarity_features"]

# Rows whose windows are held at once: some 200 kB an array, which stays in a core's cache.
_BLOCK_ROWS = 1024


@dataclass(frozen=True, eq=False)
class History:
    """Events, oldest first within a user, that windows point into.

    Attributes
    ----------
    vectors : ndarray of shape (n_events,), int64
        The row of each event's item in the vector matrix, -1 where it has none.
    labels : ndarray of shape (n_events,), float32
        1 for a liked, 0 for a disliked event.
    times_us : ndarray of shape (n_events,), int64, or None
        Their times; needed by what is computed of ages.
    """

    vectors: Int64Array
    labels: Float32Array
    times_us: Int64Array | None = None


def similarity_features(
    vectors: Float32Array,
    candidates: Int64Array,
    start: Int64Array,
    stop: Int64Array,
    history: History,
    spec: KernelSpec,
    *,
    as_of_us: Int64Array | None = None,
    labelled: Int64Array | None = None,
) -> Float32Array:
    """Return what each candidate looks like through its history.

    Parameters
    ----------
    vectors : ndarray of shape (n_vectors, dim), float32
        The item vectors, of any length.
    candidates : ndarray of shape (n_rows,), int64
        The row of each candidate in `vectors`, -1 where it has none.
    start, stop : ndarray of shape (n_rows,), int64
        Each row sees the events ``history[start:stop]``, of which the last ``spec.max_events`` count.
    history : History
        The events.
    spec : KernelSpec
        What to compute.
    as_of_us : ndarray of shape (n_rows,), int64, optional
        The moment of each row, from which ages are counted.
    labelled : ndarray of shape (n_rows,), int64, optional
        Of each row's window, the labels of ``history[start:labelled]`` are known; all of them by default.

    Returns
    -------
    ndarray of shape (n_rows, len(spec.names)), float32
        NaN where a value is undefined: no vector, or no event of that kind. Memory beside the result and the unit
        vectors does not grow with the number of rows.
    """
    blocks = _Blocks(vectors, candidates, start, stop, history, spec, as_of_us, labelled)
    out = np.empty((len(candidates), len(spec.names)), dtype=np.float32)
    for rows in blocks.rows():
        block = np.empty((len(rows), out.shape[1]), dtype=np.float32)
        summarize(blocks.window(rows), spec, block)
        out[rows] = block
    return out


def nearest_events(
    vectors: Float32Array,
    candidates: Int64Array,
    start: Int64Array,
    stop: Int64Array,
    history: History,
    *,
    max_events: int,
) -> tuple[Int64Array, Float32Array]:
    """Return the event with the highest cosine to each candidate, -1 where there is none, and that cosine.

    The newest of equal ones; parameters as in `similarity_features`.
    """
    blocks = _Blocks(vectors, candidates, start, stop, history, KernelSpec(max_events, statistics=("count",)))
    events = np.full(len(candidates), -1, dtype=np.int64)
    cosines = np.full(len(candidates), np.nan, dtype=np.float32)
    for rows in blocks.rows():
        window = blocks.window(rows)
        found = window.counts["all"] > 0
        events[rows] = np.where(found, stop[rows] - 1 - window.nearest, -1)
        cosines[rows] = window.at_nearest(window.cosines)
    return events, cosines


class _Blocks:
    """The rows of one call, sorted so that windows which overlap are computed together."""

    def __init__(
        self,
        vectors: Float32Array,
        candidates: Int64Array,
        start: Int64Array,
        stop: Int64Array,
        history: History,
        spec: KernelSpec,
        as_of_us: Int64Array | None = None,
        labelled: Int64Array | None = None,
    ) -> None:
        self.unit, directed = exact_unit(vectors)
        self.candidates = _directed(candidates, directed)
        self.events = _directed(history.vectors, directed)
        self.history = history
        self.start, self.stop = np.maximum(start, stop - spec.max_events), stop
        self.spec = spec
        self.as_of_us, self.labelled = as_of_us, labelled
        statistics = [STATISTICS[name] for name in spec.ordered]
        self.needs_ages = any(each.uses_ages for each in statistics) or bool(
            spec.half_lives_s and "decay" in spec.ordered
        )
        self.needs_norms = any(each.uses_norms for each in statistics)

    def rows(self) -> list[Int64Array]:
        """Return the rows of each block."""
        order = np.lexsort((self.stop, self.start))
        return [order[begin : begin + _BLOCK_ROWS] for begin in range(0, len(order), _BLOCK_ROWS)]

    def window(self, rows: Int64Array) -> Window:
        """Return what the rows of a block see."""
        start, stop, candidates = self.start[rows], self.stop[rows], self.candidates[rows]
        width = self.spec.max_events
        positions = stop[:, None] - 1 - np.arange(width)
        earlier = positions >= start[:, None]
        positions[~earlier] = 0
        has_vector = candidates >= 0
        if len(self.events):
            with_vector = earlier & (self.events >= 0)[positions]
            labels = self.history.labels[positions]
        else:
            with_vector, labels = earlier, np.zeros(earlier.shape, dtype=np.float32)
        known = earlier if self.labelled is None else earlier & (positions < self.labelled[rows, None])
        labels[~known] = np.nan
        return Window(
            has_vector=has_vector,
            earlier=earlier,
            seen=with_vector & has_vector[:, None],
            cosines=window_cosines(self.unit, candidates, start, stop, self.events, width),
            labels=labels,
            ages_s=self._ages(rows, positions) if self.needs_ages else None,
            with_vector=with_vector,
            norms=self._norms(rows) if self.needs_norms else {},
        )

    def _ages(self, rows: Int64Array, positions: Int64Array) -> Float32Array:
        assert self.as_of_us is not None, "ages need the moments of the rows"
        assert self.history.times_us is not None, "ages need the times of the events"
        if not len(self.history.times_us):
            return np.zeros(positions.shape, dtype=np.float32)
        ages_us = self.as_of_us[rows, None] - self.history.times_us[positions]
        return (ages_us / 1e6).astype(np.float32)

    def _norms(self, rows: Int64Array) -> dict[str, Float64Array]:
        start, stop, labels = self.start[rows], self.stop[rows], self.history.labels
        labelled = stop if self.labelled is None else np.clip(self.labelled[rows], start, stop)
        # Rows of one window, such as the candidates of a request, stand together, and share their profile.
        bounds = np.stack([start, stop, labelled], axis=1)
        opens = np.ones(len(rows), dtype=bool)
        opens[1:] = (bounds[1:] != bounds[:-1]).any(axis=1)
        start, stop, labelled = bounds[opens].T
        sides = {
            "all": (np.ones(len(labels), bool), stop),
            "pos": (labels > 0, labelled),
            "neg": (labels <= 0, labelled),
        }
        of_row = np.cumsum(opens) - 1
        return {
            side: profile_norms(self.unit, start, sides[side][1], self.events, sides[side][0].astype(np.float32))[
                of_row
            ]
            for side in self.spec.sides
        }


def _directed(indices: Int64Array, directed: BoolArray) -> Int64Array:
    """Return the indices of vectors, -1 for one without a direction."""
    if not len(directed):
        return np.full_like(indices, -1)
    return np.where((indices >= 0) & directed[indices], indices, -1)
