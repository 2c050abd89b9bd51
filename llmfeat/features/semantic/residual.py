"""Residual k-means as plain arrays: books of centroids, and codes of vectors.

The code of a vector is a function of its bits and of the book, on every machine and in every batch. A matrix product
does not give that by itself (see `features._kernel`), so it is exact here: vectors, centroids and residuals are
multiples of 2**-24, what float32 resolves near 1, and their products multiples of 2**-48. Centroids are no longer than
1 and vectors no longer than 16, so a residual of at most 16 levels is shorter than 32, no partial sum passes 2**5, and
float64 holds all of them without error, in whatever order they are added. A tie goes to the lower code.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from llmfeat.types import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array

__all__ = [
    "MAX_LEVELS",
    "CodeBook",
    "assign",
    "exact_lengths",
    "fit_book",
    "variance",
    "whole",
]

MAX_LEVELS = 16
_LONGEST = 16.0
_NO_LENGTH = 2.0**-200  # shorter than any float32, so that zeros divide
_STEP = 2.0**24
_MANTISSA_BITS = 53
# Numbers in the largest temporary array of a block of rows: 32 MiB of float64.
_BLOCK_SIZE = 2**22


@dataclass(frozen=True, eq=False)
class CodeBook:
    """Centroids of each level.

    Attributes
    ----------
    levels : tuple of ndarray of shape (n_codes, dim), float32
        Multiples of 2**-24, no longer than 1, in lexicographic order.
    normalize : bool
        Whether vectors are brought to unit length.
    exponent : int
        Where they are not: they are divided by ``2**exponent``, which is longer than any fitted vector.
    """

    levels: tuple[Float32Array, ...]
    normalize: bool
    exponent: int

    @property
    def dim(self) -> int:
        """The number of dimensions of a vector."""
        return int(self.levels[0].shape[1])

    @property
    def n_codes(self) -> tuple[int, ...]:
        """The number of codes of each level."""
        return tuple(len(level) for level in self.levels)


def whole(vectors: Float32Array, *, normalize: bool) -> BoolArray:
    """Return which rows are vectors, bool of shape ``(n,)``: one with NaN is none, nor has one of zeros a direction."""
    there = np.empty(len(vectors), dtype=bool)
    for block in _blocks(*vectors.shape):
        complete = ~np.isnan(vectors[block]).any(axis=1)
        there[block] = complete & (vectors[block] != 0).any(axis=1) if normalize else complete
    return there


def exact_lengths(wide: Float64Array) -> Float64Array:
    """Return the length of each row, the same bits in any batch and on any machine.

    Components are rounded to as many bits as leave the sum of their squares exact: 22 for 384 dimensions.
    """
    bits = (_MANTISSA_BITS - int(np.ceil(np.log2(wide.shape[1])))) // 2
    largest = np.abs(wide).max(axis=1, initial=0.0)
    scale = np.ldexp(1.0, bits - np.frexp(largest)[1])
    steps = np.rint(wide * scale[:, None])
    lengths: Float64Array = np.sqrt(np.einsum("ij,ij->i", steps, steps)) / scale
    return lengths


def fit_book(
    vectors: Float32Array,
    sizes: Sequence[int],
    *,
    normalize: bool,
    n_init: int,
    max_iter: int,
    random_state: np.random.RandomState,
) -> tuple[CodeBook, int]:
    """Return a book fitted to whole vectors, and the most iterations of a level, at least 1.

    Each level is a k-means of what the levels before left over.

    Fewer distinct residuals than codes make a level of that many codes. The same state gives the same book: the
    k-means runs in one thread, as with more of them scikit-learn adds up in the order in which they happen to end.
    """
    longest = float(exact_lengths(vectors.astype(np.float64)).max())
    exponent = 0 if normalize else int(np.frexp(longest)[1])
    residuals = _placed(vectors, normalize=normalize, exponent=exponent)
    levels: list[Float32Array] = []
    n_iter = 1
    for size in sizes:
        level, n_iter_level = _fit_level(residuals, size, n_init, max_iter, random_state)
        levels.append(level)
        n_iter = max(n_iter, n_iter_level)
        for rows in _blocks(*residuals.shape, len(level)):
            residuals[rows] -= level[_nearest(residuals[rows], level)]
    return CodeBook(tuple(levels), normalize, exponent), n_iter


def assign(vectors: Float32Array, book: CodeBook) -> tuple[Int32Array, Float64Array]:
    """Return codes and what they leave over; memory beside these does not grow with the number of rows.

    Returns
    -------
    codes : ndarray of shape (n, n_levels), int32
        Rows of -1 where a row is no vector; see `whole`.
    errors : ndarray of shape (n, n_levels), float64
        The squared length of the residual after each level, NaN where a row is no vector.
    """
    codes = np.full((len(vectors), len(book.levels)), -1, dtype=np.int32)
    errors = np.full(codes.shape, np.nan)
    rows = np.flatnonzero(whole(vectors, normalize=book.normalize))
    for block in _blocks(len(rows), book.dim, *book.n_codes):
        there = rows[block]
        residuals = _placed(vectors[there], normalize=book.normalize, exponent=book.exponent)
        for number, level in enumerate(book.levels):
            nearest = _nearest(residuals, level)
            residuals -= level[nearest]
            codes[there, number] = nearest
            errors[there, number] = np.einsum("ij,ij->i", residuals, residuals)
    return codes, errors * 4.0**book.exponent


def variance(vectors: Float32Array, book: CodeBook) -> float:
    """Return the mean squared distance of the vectors to their mean, as the book sees them; rows of none left out."""
    rows = np.flatnonzero(whole(vectors, normalize=book.normalize))
    total, squares = np.zeros(book.dim), 0.0
    for block in _blocks(len(rows), book.dim):
        placed = _placed(vectors[rows[block]], normalize=book.normalize, exponent=book.exponent)
        total += placed.sum(axis=0)
        squares += float(np.einsum("ij,ij->", placed, placed))
    n_rows = max(len(rows), 1)
    spread = squares / n_rows - float(((total / n_rows) ** 2).sum())
    return max(spread, 0.0) * 4.0**book.exponent


def _placed(vectors: Float32Array, *, normalize: bool, exponent: int) -> Float64Array:
    """Return vectors as a book sees them: of unit length, or scaled and at most `_LONGEST`; multiples of 2**-24."""
    wide = vectors.astype(np.float64)
    lengths = np.maximum(exact_lengths(wide), _NO_LENGTH)
    factors = 1.0 / lengths if normalize else np.minimum(np.ldexp(1.0, -exponent), _LONGEST / lengths)
    return _on_grid(wide * factors[:, None])


def _on_grid(values: Float64Array) -> Float64Array:
    rounded: Float64Array = np.rint(values * _STEP) / _STEP + 0.0  # no -0.0, so that equal rows have equal bytes
    return rounded


def _fit_level(
    residuals: Float64Array, size: int, n_init: int, max_iter: int, random_state: np.random.RandomState
) -> tuple[Float32Array, int]:
    centroids, n_iter = _few_distinct(residuals, size), 1
    if centroids is None:
        means = KMeans(size, n_init=n_init, max_iter=max_iter, random_state=random_state, copy_x=False)
        with threadpool_limits(1), warnings.catch_warnings():
            # Residuals that differ in their last bit are one to k-means: they make fewer codes, which is stated.
            warnings.filterwarnings("ignore", "Number of distinct clusters", ConvergenceWarning)
            means.fit(residuals.astype(np.float32))
        centroids, n_iter = means.cluster_centers_.astype(np.float64), means.n_iter_
    # The mean of residuals is longer than 1 only where they are longer than any vector: then a shorter one does.
    shorter = centroids / np.maximum(exact_lengths(centroids), 1.0)[:, None]
    level: Float32Array = np.unique(_on_grid(shorter).astype(np.float32), axis=0)
    return level, n_iter


def _few_distinct(rows: Float64Array, n_most: int) -> Float64Array | None:
    """Return the distinct rows if there are no more than `n_most`."""
    first: dict[bytes, int] = {}
    for number, row in enumerate(rows):
        first.setdefault(row.tobytes(), number)
        if len(first) > n_most:
            return None
    return rows[list(first.values())]


def _nearest(residuals: Float64Array, level: Float32Array) -> Int64Array:
    """Return the code of the centroid that is nearest to each residual."""
    centroids = level.astype(np.float64)
    products = residuals @ centroids.T
    distances = np.einsum("ij,ij->i", centroids, centroids) - 2.0 * products
    codes: Int64Array = distances.argmin(axis=1)
    return codes


def _blocks(n_rows: int, *widths: int) -> Iterator[slice]:
    step = max(1, _BLOCK_SIZE // max(widths))
    for begin in range(0, n_rows, step):
        yield slice(begin, begin + step)
