"""How well codes tell items apart: use, collisions and residuals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from llmfeat.features.semantic.trie import CodeTrie
from llmfeat.types import Float64Array, Int32Array

__all__ = ["LevelUse", "SemanticIdReport", "level_use", "report_of"]


@dataclass(frozen=True)
class LevelUse:
    """How well the codes of a level are used, and what they leave over.

    Attributes
    ----------
    n_codes, n_used : int
        Codes of the level, and those that some item has.
    perplexity : float
        The number of equally frequent codes that would say as much.
    balance : float
        The entropy as a share of the largest there is, ``log(n_codes)``: 1 where all codes are equally frequent.
    unexplained : float
        The mean squared residual after this level over the variance of the vectors: 1 for one code, 0 for an exact
        book.
    """

    n_codes: int
    n_used: int
    perplexity: float
    balance: float
    unexplained: float


@dataclass(frozen=True)
class SemanticIdReport:
    """How well codes tell items apart.

    Attributes
    ----------
    n_items, n_missing : int
        Items with a vector, and without one.
    n_distinct : int
        Distinct codes among the items.
    collision_rate : float
        The share of the items that have their whole code in common with another one.
    largest_collision : int
        Items of the code that most items have.
    levels : tuple of LevelUse
        Use and residual of each level.
    """

    n_items: int
    n_missing: int
    n_distinct: int
    collision_rate: float
    largest_collision: int
    levels: tuple[LevelUse, ...]


def report_of(codes: Int32Array, errors: Float64Array, spread: float, n_codes: tuple[int, ...]) -> SemanticIdReport:
    """Return the figures of codes and errors as `assign` gives them, and of the variance of the vectors."""
    there = codes[:, 0] >= 0
    codes, errors = codes[there], errors[there]
    trie = CodeTrie(codes, n_codes)
    of_code = np.bincount(trie.prefix_ids(codes)[:, -1])
    mean_errors = errors.mean(axis=0).tolist() if len(codes) else [0.0] * len(n_codes)
    uses = (
        level_use(column, size, error, spread)
        for column, size, error in zip(codes.T, n_codes, mean_errors, strict=True)
    )
    return SemanticIdReport(
        n_items=len(codes),
        n_missing=int(np.count_nonzero(~there)),
        n_distinct=len(of_code),
        collision_rate=float(of_code[of_code > 1].sum() / max(len(codes), 1)),
        largest_collision=int(of_code.max(initial=0)),
        levels=tuple(uses),
    )


def level_use(codes: Int32Array, n_codes: int, error: float, variance: float) -> LevelUse:
    """Return the figures of one level, of codes that are all of items, and of the mean squared residual."""
    counts = np.bincount(codes, minlength=n_codes)
    shares = counts[counts > 0] / max(len(codes), 1)
    entropy = float(-(shares * np.log(shares)).sum())
    return LevelUse(
        n_codes=n_codes,
        n_used=len(shares),
        perplexity=float(np.exp(entropy)),
        balance=entropy / math.log(n_codes) if n_codes > 1 else 1.0,
        unexplained=error / variance if variance > 0 else 0.0,
    )
