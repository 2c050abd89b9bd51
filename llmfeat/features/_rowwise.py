"""Arithmetic on rows whose bits do not depend on the rows beside: a row alone gives what it gives in a batch.

A matrix product has no fixed order of additions: it depends on the shapes, the threads and the BLAS. Here the order
does not matter. A row is divided by a power of two, so that no number in it passes 1, and both factors are rounded to
multiples of 2**-bits; products are then multiples of 2**-2bits, and by Cauchy-Schwarz no partial sum passes the square
root of the number of dimensions: float64 holds every one of them without error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from llmfeat.types import BoolArray, Float32Array, Float64Array, Int32Array

__all__ = [
    "BLOCK_ROWS",
    "complete_rows",
    "cosines",
    "grid_bits",
    "on_grid",
    "product",
    "row_sums",
    "scaled_rows",
    "unit_rows",
]

# Rows that are worked on at once: 50 MB of float64 at 384 dimensions.
BLOCK_ROWS = 16_384

_FLOAT64_BITS = 53


def complete_rows(values: npt.NDArray[Any]) -> BoolArray:
    """Return which rows of a 2-D array have no NaN, bool of shape ``(n,)``."""
    complete: BoolArray = ~np.isnan(values).any(axis=1)
    return complete


def row_sums(values: Float64Array) -> Float64Array:
    """Return the sum of each row of a 2-D array, by halves: the order of additions depends on its width alone."""
    while (width := values.shape[1]) > 1:
        half = (width + 1) // 2
        folded = values[:, :half].copy()
        folded[:, : width - half] += values[:, half:]
        values = folded
    return values[:, 0]


def scaled_rows(values: Float64Array) -> tuple[Float64Array, Int32Array]:
    """Return rows without a number over 1, and the exponents of two with which they become `values` again."""
    _, exponents = np.frexp(np.abs(values).max(axis=1))
    return np.ldexp(values, -exponents[:, None]), exponents


def unit_rows(values: Float64Array) -> Float64Array:
    """Return rows of unit length; a row of zeros has no direction, and stays one."""
    scaled, _ = scaled_rows(values)
    norms = np.sqrt(row_sums(scaled**2))
    norms[norms == 0] = 1
    unit: Float64Array = scaled / norms[:, None]
    return unit


def cosines(left: Float32Array, right: Float32Array) -> Float64Array:
    """Return the cosine of each row of `left` and that row of `right`; NaN where one is missing or of zeros."""
    one, _ = scaled_rows(left.astype(np.float64))
    other, _ = scaled_rows(right.astype(np.float64))
    norms = np.sqrt(row_sums(one**2) * row_sums(other**2))
    out = np.full(len(norms), np.nan)
    np.divide(row_sums(one * other), norms, out=out, where=norms > 0)  # NaN is not over 0
    return out


def grid_bits(dim: int) -> int:
    """Return how fine the grid of `product` is for vectors of so many dimensions: 23 bits at 384."""
    # One bit is spared for the length of the columns, which rounding may bring over 1.
    return (_FLOAT64_BITS - 1 - int(np.ceil(np.log2(dim) / 2))) // 2


def on_grid(values: Float64Array, bits: int) -> Float64Array:
    """Return `values` rounded to multiples of ``2**-bits``."""
    rounded: Float64Array = np.ldexp(np.rint(np.ldexp(values, bits)), -bits)
    return rounded


def product(rows: Float64Array, matrix: Float64Array) -> Float64Array:
    """Return ``rows @ matrix``, the same bits for a row alone and in a batch.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, dim), float64
        Finite; rounded to `grid_bits` below the largest number of each row.
    matrix : ndarray of shape (dim, n_columns), float64
        Columns of at most unit length, as `on_grid` gives them.
    """
    scaled, exponents = scaled_rows(rows)
    products = on_grid(scaled, grid_bits(matrix.shape[0])) @ matrix
    return np.ldexp(products, exponents[:, None])
