"""The similarity kernel: one candidate seen through the events of one history, as plain arrays.

The same function computes a training matrix and the matrix of one request, and gives the same bits for both. A
matrix product does not do that by itself: its rounding depends on the shapes, the threads and the BLAS. Here it is
exact. Components of unit vectors are rounded to multiples of 2**-26 (float32 itself resolves 2**-24 near 1), so every
product is a multiple of 2**-52, and by Cauchy-Schwarz no partial sum passes 1 by more than rounding: float64 holds all
of them without error, in whatever order they are added.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llmfeat.types import BoolArray, Float32Array, Float64Array, Int64Array

__all__ = ["History", "KernelSpec", "exact_unit", "similarity_features"]

_STEP = 2.0**26
_BLOCK_ROWS = 4096
# Rows of one user that share a product. A chunk computes (rows + window) x rows similarities for rows x window that
# are needed, so a larger one wastes more, and a smaller one spends its time in Python.
_CHUNK_ROWS = 64

_NOT_EARLIER = -1


@dataclass(frozen=True)
class KernelSpec:
    """What the kernel computes: how far back, how many neighbours, how sharp.

    Parameters
    ----------
    max_events : int
        The most recent events that are looked at.
    top_k : int
        How many of the nearest events make the ``top`` mean.
    temperatures : tuple of float
        For each, the mean label of the history weighted by ``exp(cosine / temperature)``.
    """

    max_events: int = 50
    top_k: int = 5
    temperatures: tuple[float, ...] = (0.05, 0.2)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        means = [f"{side}{stat}" for side in ("", "pos_", "neg_") for stat in ("max", "mean", f"top{self.top_k}")]
        labels = [f"label_t{temperature:g}" for temperature in self.temperatures]
        return ("has_vector", "history_share", "last", *means, *labels)


@dataclass(frozen=True, eq=False)
class History:
    """Events, oldest first within a user, that windows point into.

    Attributes
    ----------
    vectors : ndarray of shape (n_events,), int64
        The row of each event's item in the vector matrix, -1 where it has none.
    labels : ndarray of shape (n_events,), float32
        1 for a liked, 0 for a disliked event.
    """

    vectors: Int64Array
    labels: Float32Array


def exact_unit(vectors: Float32Array) -> Float64Array:
    """Return `vectors` at unit length, on the grid where their products are exact; shape and order kept."""
    wide = vectors.astype(np.float64)
    norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    unit: Float64Array = np.rint(wide * (_STEP / norms)[:, None]) / _STEP
    return unit


def usable(vectors: Float32Array) -> BoolArray:
    """Return which rows have a direction: a row of NaN (no text) or of zeros (no known word) has none."""
    direction: BoolArray = np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)
    return direction


def similarity_features(
    vectors: Float32Array,
    candidates: Int64Array,
    start: Int64Array,
    stop: Int64Array,
    history: History,
    spec: KernelSpec,
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

    Returns
    -------
    ndarray of shape (n_rows, len(spec.names)), float32
        NaN where a value is undefined: no vector, or no event of that kind. Memory beside the result does not grow
        with the number of rows.
    """
    direction = usable(vectors)
    candidates = _drop_undirected(candidates, direction)
    history = History(_drop_undirected(history.vectors, direction), history.labels)
    start = np.maximum(start, stop - spec.max_events)
    out = np.empty((len(candidates), len(spec.names)), dtype=np.float32)
    order = np.lexsort((stop, start))
    for begin in range(0, len(order), _BLOCK_ROWS):
        rows = order[begin : begin + _BLOCK_ROWS]
        positions = stop[rows, None] - 1 - np.arange(spec.max_events)
        positions[positions < start[rows, None]] = _NOT_EARLIER
        cosines = _window_cosines(vectors, candidates[rows], positions, history.vectors)
        out[rows] = _summaries(cosines, positions, candidates[rows], history, spec)
    return out


def _drop_undirected(indices: Int64Array, direction: BoolArray) -> Int64Array:
    if not len(direction):
        return np.full_like(indices, -1)
    return np.where((indices >= 0) & direction[indices], indices, -1)


def _window_cosines(
    vectors: Float32Array, candidates: Int64Array, positions: Int64Array, event_vectors: Int64Array
) -> Float64Array:
    """Return the cosine of each candidate with each event of its window, newest first; NaN where there is none."""
    cosines = np.full(positions.shape, np.nan)
    window_vectors = np.where(positions >= 0, event_vectors[positions] if len(event_vectors) else -1, -1)
    wanted = np.concatenate([candidates, window_vectors.ravel()])
    present, codes = np.unique(wanted, return_inverse=True)
    unit = np.zeros((len(present), vectors.shape[1]))
    known = present >= 0
    unit[known] = exact_unit(vectors[present[known]])
    candidate_codes, window_codes = codes[: len(candidates)], codes[len(candidates) :].reshape(positions.shape)
    for rows in _chunks(positions):
        distinct, columns = np.unique(window_codes[rows], return_inverse=True)
        products = unit[candidate_codes[rows]] @ unit[distinct].T
        cosines[rows] = np.take_along_axis(products, columns.reshape(window_codes[rows].shape), axis=1)
    cosines[(window_vectors < 0) | (candidates < 0)[:, None]] = np.nan
    return cosines


def _chunks(positions: Int64Array) -> Iterator[slice]:
    """Yield runs of rows whose windows overlap, at most `_CHUNK_ROWS` long."""
    newest = positions[:, 0]
    oldest = np.where(positions >= 0, positions, np.iinfo(np.int64).max).min(axis=1)
    apart = oldest[1:] > np.maximum.accumulate(newest)[:-1]
    edges = np.concatenate([[0], np.flatnonzero(apart) + 1, [len(positions)]])
    for left, right in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        for begin in range(left, right, _CHUNK_ROWS):
            yield slice(begin, min(begin + _CHUNK_ROWS, right))


def _summaries(
    cosines: Float64Array, positions: Int64Array, candidates: Int64Array, history: History, spec: KernelSpec
) -> Float32Array:
    labels = np.where(positions >= 0, history.labels[positions] if len(history.labels) else 0.0, np.nan)
    seen = np.isfinite(cosines)
    n_earlier = (positions >= 0).sum(axis=1)
    columns = [
        (candidates >= 0).astype(np.float64),
        _ratio((positions >= 0) & (history.vectors[positions] >= 0) if len(history.vectors) else seen, n_earlier),
        cosines[:, 0],
    ]
    for mask in (seen, seen & (labels > 0), seen & (labels <= 0)):
        columns += _max_mean_top(cosines, mask, spec.top_k)
    for temperature in spec.temperatures:
        columns.append(_weighted_label(cosines, labels, seen, temperature))
    return np.stack(columns, axis=1).astype(np.float32)


def _max_mean_top(cosines: Float64Array, mask: BoolArray, top_k: int) -> list[Float64Array]:
    count = mask.sum(axis=1)
    total = np.where(mask, cosines, 0.0).sum(axis=1)
    ranked = -np.sort(-np.where(mask, cosines, -np.inf), axis=1)[:, :top_k]
    top = np.where(np.isfinite(ranked), ranked, 0.0).sum(axis=1)
    largest = np.where(count > 0, ranked[:, 0], np.nan)
    return [largest, _divide(total, count), _divide(top, np.minimum(count, top_k))]


def _weighted_label(cosines: Float64Array, labels: Float64Array, seen: BoolArray, temperature: float) -> Float64Array:
    scaled = np.where(seen, cosines, -np.inf) / temperature
    peak = scaled.max(axis=1, keepdims=True)
    weights = np.exp(np.where(seen, scaled - np.where(np.isfinite(peak), peak, 0.0), -np.inf))
    return _divide((weights * np.where(seen, labels, 0.0)).sum(axis=1), weights.sum(axis=1))


def _ratio(mask: BoolArray, count: Int64Array) -> Float64Array:
    return _divide(mask.sum(axis=1).astype(np.float64), count)


def _divide(total: Float64Array, count: Int64Array | Float64Array) -> Float64Array:
    out = np.full(len(total), np.nan)
    np.divide(total, count, out=out, where=count > 0)
    return out
