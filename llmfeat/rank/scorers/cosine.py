"""Cosines of histories with a whole catalogue, the same bits for a query alone and in a batch.

As in the kernel of `HistoryFeatures`, products are made exact: components of unit vectors are rounded to multiples of
2**-24, which float32 holds, those of a history's mean to multiples of 2**-26. Every product is then a multiple of
2**-50, and no partial sum passes 1 by more than rounding, so float64 adds them without error in whatever order a BLAS
likes.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from llmfeat.features._products import exact_unit
from llmfeat.history.sequences import Sequences
from llmfeat.types import BoolArray, Float32Array, Float64Array

__all__ = ["best_cosines", "has_direction", "mean_cosines", "mean_vectors", "products", "unit_rows"]

_MEAN_STEP = 2.0**26
_CHUNK_ITEMS = 4096
# Cosines of the distinct items of some histories with a chunk of the catalogue: 32 MB.
_CHUNK_CELLS = 1 << 22


def unit_rows(vectors: Float32Array) -> Float32Array:
    """Return `vectors` at unit length and on the grid, float32; zeros for a row of NaN or of zeros."""
    unit = np.empty(vectors.shape, dtype=np.float32)
    for first in range(0, len(vectors), _CHUNK_ITEMS):
        unit[first : first + _CHUNK_ITEMS], _ = exact_unit(vectors[first : first + _CHUNK_ITEMS])
    return unit


def has_direction(unit: Float32Array) -> BoolArray:
    """Return which rows of `unit_rows` have a direction, bool of shape ``(n_items,)``."""
    return np.asarray(unit.any(axis=1))


def products(left: Float64Array, unit: Float32Array) -> Float32Array:
    """Return ``left @ unit.T`` as float32, a chunk of items at a time; exact where both are on their grids."""
    out = np.empty((len(left), len(unit)), dtype=np.float32)
    for first in range(0, len(unit), _CHUNK_ITEMS):
        out[:, first : first + _CHUNK_ITEMS] = left @ unit[first : first + _CHUNK_ITEMS].astype(np.float64).T
    return out


def mean_cosines(unit: Float32Array, histories: Sequences, *, decay: float) -> Float32Array:
    """Return the mean cosine of each item to each history, an event weighing ``decay ** age_rank``.

    Float32 of shape ``(n_queries, n_items)``; 0 where a history is empty. Every event must have a direction.
    """
    return products(mean_vectors(unit, histories, decay=decay), unit)


def mean_vectors(unit: Float32Array, histories: Sequences, *, decay: float) -> Float64Array:
    """Return the mean vector of each history, an event weighing ``decay ** age_rank``, on a grid of 2**-26.

    Float64 of shape ``(n_queries, dim)``; zeros where a history is empty.
    """
    items, position = np.unique(histories.item_codes, return_inverse=True)
    weights = decay ** histories.age_rank.astype(np.float64)
    totals = np.bincount(histories.row_of_event, weights=weights, minlength=len(histories))
    shares = weights / totals[histories.row_of_event]
    shape = (len(histories), len(items))
    means = sp.csr_array((shares, position, histories.offsets), shape=shape) @ unit[items].astype(np.float64)
    rounded: Float64Array = np.rint(means * _MEAN_STEP) / _MEAN_STEP
    return rounded


def best_cosines(unit: Float32Array, histories: Sequences, *, decay: float) -> Float32Array:
    """Return the largest ``decay ** age_rank * cosine`` of each item over the events of each history.

    Float32 of shape ``(n_queries, n_items)``; 0 where a history is empty. Every event must have a direction.
    """
    items, position = np.unique(histories.item_codes, return_inverse=True)
    wide = unit[items].astype(np.float64)
    lengths = histories.lengths
    longest = int(lengths.max(initial=0))
    out = np.zeros((len(histories), len(unit)), dtype=np.float32)
    out[lengths > 0] = -np.inf
    chunk = max(1, _CHUNK_CELLS // max(len(items), 1))
    for first in range(0, len(unit), chunk):
        cosines = products(wide, unit[first : first + chunk])
        for age_rank in range(longest):
            rows = np.flatnonzero(lengths > age_rank)
            events = histories.offsets[rows + 1] - 1 - age_rank
            weighted = np.float32(decay**age_rank) * cosines[position[events]]
            out[rows, first : first + chunk] = np.maximum(out[rows, first : first + chunk], weighted)
    return out
