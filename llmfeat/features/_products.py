"""Cosines of candidates with the events of their windows, exact whatever is computed beside them.

A training matrix and the matrix of one request come from the same function, and have the same bits. A matrix product
does not give that by itself: its rounding depends on the shapes, the threads and the BLAS. Here it is exact. Components
of unit vectors are rounded to multiples of 2**-24, which float32 holds up to 1; so every product is a multiple of
2**-48, and by Cauchy-Schwarz no partial sum passes 1 by more than rounding: float64 holds all of them without error, in
whatever order they are added. A cosine is that sum, rounded once to float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llmfeat.types import BoolArray, Float32Array, Float64Array, Int64Array

__all__ = ["exact_unit", "profile_norms", "window_cosines"]

_STEP = 2.0**24
# The most rows that share one product, and the most cosines that it computes. Of rows x span, rows x window are needed:
# larger products waste more, smaller ones spend their time in Python. One user's request is one product.
_CHUNK_ROWS = 256
_CHUNK_COSINES = 64 * 192
# A request's product is cut smaller still: OpenBLAS keeps products of up to so many multiplications on the thread that
# asks for them, and to wait for a second thread costs a server whose cores are busy more than the product does.
_REQUEST_ROWS, _ONE_THREAD = 256, 1 << 18


def exact_unit(vectors: Float32Array) -> tuple[Float32Array, BoolArray]:
    """Return `vectors` at unit length, on the grid where their products are exact, and which of them have a direction.

    A row of NaN (no text) or of zeros (no known word) has none, and comes back as zeros.
    """
    wide = vectors.astype(np.float64, order="C")  # the squares of float32 do not overflow it
    squares = _squares(wide)
    directed = np.isfinite(squares) & (squares > 0)
    scale = np.zeros(len(wide))
    np.divide(_STEP, np.sqrt(squares, where=directed, out=scale), where=directed, out=scale)
    if not directed.all():
        wide[~directed] = 0.0
    wide *= scale[:, None]
    np.rint(wide, out=wide)
    wide *= 1 / _STEP
    return wide.astype(np.float32), directed


def window_cosines(
    unit: Float32Array, candidates: Int64Array, start: Int64Array, stop: Int64Array, events: Int64Array, width: int
) -> Float32Array:
    """Return the cosine of each candidate with each event of its window, newest first.

    Parameters
    ----------
    unit : ndarray of shape (n_vectors, dim), float32
        As `exact_unit` gives them.
    candidates : ndarray of shape (n_rows,), int64
        The row of each candidate in `unit`, -1 where it has none.
    start, stop : ndarray of shape (n_rows,), int64
        Each row's window of `events`, at most `width` long; sorted by both, so that neighbours share a product.
    events : ndarray of shape (n_events,), int64
        The row of each event in `unit`, -1 where it has none.
    width : int
        The number of columns of the result.

    Returns
    -------
    ndarray of shape (n_rows, width), float32
        0 where the window has ended, or one of the two has no vector.
    """
    cosines = np.zeros((len(candidates), width), dtype=np.float32)
    backwards = np.arange(width)
    is_request = len(candidates) <= _REQUEST_ROWS
    most = max(1, _ONE_THREAD // max(1, unit.shape[1])) if is_request else _CHUNK_COSINES
    for rows, low, high in _chunks(start, stop, most):
        products = _wide(unit, candidates[rows]) @ _wide(unit, events[low:high]).T
        if start[rows.start] == start[rows.stop - 1] and stop[rows.start] == stop[rows.stop - 1]:
            # Rows are sorted, so all of them see one window, as the candidates of a request do.
            n_events = int(stop[rows.start]) - low  # the span may reach further, for rows of earlier chunks
            cosines[rows, :n_events] = products[:, :n_events][:, ::-1]
            continue
        columns = stop[rows, None] - (low + 1) - backwards
        inside = columns >= (start[rows] - low)[:, None]
        np.maximum(columns, 0, out=columns)
        cosines[rows] = np.take_along_axis(products, columns, axis=1)
        cosines[rows][~inside] = 0.0
    return cosines


def profile_norms(
    unit: Float32Array, start: Int64Array, stop: Int64Array, events: Int64Array, keep: Float32Array
) -> Float64Array:
    """Return the length of the sum of the unit vectors of each window, over the events that are kept.

    Parameters
    ----------
    unit, start, stop, events
        As in `window_cosines`.
    keep : ndarray of shape (n_events,), float32
        1 for an event that is part of the sum, 0 for one that is not.

    Returns
    -------
    ndarray of shape (n_rows,), float64
    """
    norms = np.zeros(len(start))
    for rows, low, high in _chunks(start, stop):
        # Running sums of the grid are exact up to 2**29 events, so that a window is a difference of two of them.
        running = np.zeros((high - low + 1, unit.shape[1]))
        np.cumsum(_wide(unit, events[low:high]) * keep[low:high, None], axis=0, out=running[1:])
        norms[rows] = np.sqrt(_squares(running[stop[rows] - low] - running[start[rows] - low]))
    return norms


def _wide(unit: Float32Array, indices: Int64Array) -> Float64Array:
    if not len(unit):
        return np.zeros((len(indices), unit.shape[1]))
    taken: Float64Array = unit[indices].astype(np.float64)
    taken[indices < 0] = 0.0
    return taken


def _squares(vectors: Float64Array) -> Float64Array:
    """Return the squared length of each row, the same bits for a row alone and among others."""
    squares: Float64Array = np.einsum("ij,ij->i", vectors, vectors)
    return squares


def _chunks(start: Int64Array, stop: Int64Array, most: int = _CHUNK_COSINES) -> Iterator[tuple[slice, int, int]]:
    """Yield runs of rows with the span of events that their windows reach over; rows without events are left out.

    A run needs `most` cosines at most, or is one row.
    """
    begin = 0
    reach = np.maximum.accumulate(stop) if len(stop) else stop
    n_rows = np.arange(1, _CHUNK_ROWS + 1)
    while begin < len(start):
        low = int(start[begin])
        spans = reach[begin : begin + _CHUNK_ROWS] - low
        # Rows and spans both grow, so the products that fit come first; one row always goes.
        n_fit = int(np.searchsorted(n_rows[: len(spans)] * spans, most, side="right"))
        end = begin + max(n_fit, 1)
        high = int(reach[end - 1])
        if high > low:
            yield slice(begin, end), low, high
        begin = end
