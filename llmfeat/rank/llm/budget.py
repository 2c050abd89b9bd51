"""Which rows a costly ranker scores, and what becomes of the others: they keep a cheaper ranker's order, below."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmfeat.rank.groups import Groups
from llmfeat.types import BoolArray, Float32Array, Float64Array, Int64Array

__all__ = ["LLMRanking", "best_first", "merged"]


@dataclass(frozen=True, eq=False)
class LLMRanking:
    """The scores of some rows, and how they came about.

    Attributes
    ----------
    scores : ndarray of shape (n_rows,), float64
        What to rank by, within a group; every row has one.
    log_odds : ndarray of shape (n_rows,), float32
        log P(yes) - log P(no) as the model says, in nats; NaN where it was not asked.
    is_scored : ndarray of shape (n_rows,), bool
        Whether the model was asked. Within a group the others stand below, in the order of the cheaper ranker.
    n_dropped : ndarray of shape (n_rows,), int64
        Items of the history for which the model's context had no room.
    degraded : tuple of str
        ``"time"`` where the budget left rows of the best N without a score; ``"text"`` where candidates have no text.
    elapsed_ms : float
        From the call to the scores.
    """

    scores: Float64Array
    log_odds: Float32Array
    is_scored: BoolArray
    n_dropped: Int64Array
    degraded: tuple[str, ...]
    elapsed_ms: float


def best_first(groups: Groups, base: Float64Array | None, top_n: int | None) -> list[Int64Array]:
    """Return for each group the rows to score, best of the cheaper ranker first; without one as they come."""
    found = []
    for start, size in zip(groups.starts.tolist(), groups.sizes.tolist(), strict=True):
        rows = groups.order[start : start + size]
        if base is not None:
            rows = rows[np.argsort(-base[rows], kind="stable")]
        found.append(rows if top_n is None else rows[:top_n])
    return found


def merged(groups: Groups, decision: Float64Array, base: Float64Array | None) -> Float64Array:
    """Return a score of each row: `decision` where it is no NaN, the others below, in the order of `base`."""
    scores = decision.copy()
    for start, size in zip(groups.starts.tolist(), groups.sizes.tolist(), strict=True):
        rows = groups.order[start : start + size]
        rest = rows[np.isnan(decision[rows])]
        if not len(rest):
            continue
        floor = float(np.nanmin(decision[rows])) if len(rest) < len(rows) else 0.0
        if base is not None:
            rest = rest[np.argsort(-base[rest], kind="stable")]
        # Whole steps: a difference would be lost beside a large score.
        scores[rest] = np.floor(floor) - 1 - np.arange(len(rest))
    return scores
