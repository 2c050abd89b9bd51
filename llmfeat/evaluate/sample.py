"""Samples of rows that are too many, by seed: of rows one by one, and of whole users."""

from __future__ import annotations

import numpy as np

from llmfeat.types import Int64Array

__all__ = ["sample_rows", "sample_users"]


def sample_rows(rows: Int64Array, n_rows: int, *, seed: int) -> Int64Array:
    """Return at most `n_rows` of some rows, drawn at random, ascending."""
    if len(rows) <= n_rows:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, max(n_rows, 1), replace=False))


def sample_users(rows: Int64Array, users: Int64Array, n_rows: int, *, seed: int) -> Int64Array:
    """Return the rows of users drawn at random, ascending: as many users as `n_rows` rows have room for, one at least.

    Parameters
    ----------
    rows : ndarray of int64
        What is drawn from.
    users : ndarray of int64
        The user of each row of the table that `rows` point into.
    n_rows : int
        How many rows at most.
    seed : int
        Of the order in which users are drawn.
    """
    if len(rows) <= n_rows:
        return rows
    distinct, codes, counts = np.unique(users[rows], return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(distinct))
    n_users = max(1, int(np.searchsorted(np.cumsum(counts[order]), n_rows, side="right")))
    is_drawn = np.zeros(len(distinct), dtype=bool)
    is_drawn[order[:n_users]] = True
    return rows[is_drawn[codes]]
