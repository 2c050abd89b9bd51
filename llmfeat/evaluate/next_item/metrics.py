"""Metrics of next-item ranking over a whole catalogue, with a paired bootstrap over users.

A target that ties with other items has no one rank. It is taken as equally likely to be at any of the places that the
tied items share, and a metric is its mean over those places: neither luck nor the order of the rows decides, and a
constant scorer gets what guessing gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from llmfeat.errors import InputError
from llmfeat.evaluate.metrics import Estimate, Resamples
from llmfeat.history.sequences import Sequences
from llmfeat.rank.scorers import ItemScorer
from llmfeat.types import BoolArray, Float64Array, Int64Array

__all__ = ["NEXT_ITEM_METRICS", "TargetRanks", "measure_next_item", "metrics_per_query", "scorer_ranks", "target_ranks"]

_CUTS = (3, 5, 10)
NEXT_ITEM_METRICS = (*(f"hr@{cut}" for cut in _CUTS), *(f"ndcg@{cut}" for cut in _CUTS), "mrr")
_MISS = -1
_CHUNK_ROWS = 1 << 22
_BLOCK_CELLS = 1 << 22


@dataclass(frozen=True, eq=False)
class TargetRanks:
    """Where the target of each query stands.

    Attributes
    ----------
    best, worst : ndarray of shape (n_queries,), int64
        The first and the last of the places, from 1 on, that it shares with the items of its score; both -1 for a miss:
        a target that is not among the candidates.
    """

    best: Int64Array
    worst: Int64Array

    @classmethod
    def of(cls, ranks: Any) -> Self:
        """Return ranks without ties, of whole numbers from 1 on; -1, infinity and NaN are misses."""
        given = np.asarray(ranks, dtype=np.float64)
        missed = ~np.isfinite(given) | (given == _MISS)
        whole = np.where(missed, _MISS, given)
        if (whole != np.floor(whole)).any() or (whole[~missed] < 1).any():
            raise InputError("ranks are whole numbers from 1 on, -1 or infinity for a miss: others were given")
        return cls(whole.astype(np.int64), whole.astype(np.int64))

    @classmethod
    def concatenate(cls, parts: list[TargetRanks]) -> Self:
        """Return the ranks of consecutive blocks of queries as one."""
        return cls(np.concatenate([part.best for part in parts]), np.concatenate([part.worst for part in parts]))

    def __len__(self) -> int:
        return len(self.best)

    @property
    def found(self) -> BoolArray:
        """Whether each target is among the candidates, bool of shape ``(n_queries,)``."""
        return np.asarray(self.best > 0)

    def take(self, queries: Int64Array | BoolArray) -> Self:
        """Return the ranks of some queries."""
        return type(self)(self.best[queries], self.worst[queries])


def target_ranks(query: Any, item: Any, scores: Any, targets: Any) -> TargetRanks:
    """Return where each query's target stands among its rows by falling score.

    Parameters
    ----------
    query : ndarray of shape (n_rows,), int
        The query of each row, from 0 to ``n_queries - 1``, in any order.
    item : ndarray of shape (n_rows,), int
        The item of each row, as a position in the catalogue; a pair comes once.
    scores : ndarray of shape (n_rows,), float
        NaN counts as minus infinity.
    targets : ndarray of shape (n_queries,), int
        The item that was to be found, -1 for one outside the catalogue.

    Returns
    -------
    TargetRanks
        The memory beside it and one float per query does not grow with the number of rows.

    Raises
    ------
    InputError
        When the arrays are of different lengths, or a pair comes twice where it is the target.

    Examples
    --------
    >>> ranks = target_ranks([0, 0, 0, 1, 1], [7, 8, 9, 7, 8], [0.1, 0.5, 0.5, 0.2, 0.3], [9, 5])
    >>> ranks.best.tolist(), ranks.worst.tolist()  # tied with item 8 for the first place; a miss
    ([1, -1], [2, -1])
    """
    query, item, scores, targets = (np.asarray(each) for each in (query, item, scores, targets))
    if not len(query) == len(item) == len(scores):
        raise InputError(
            f"{len(query)} queries, {len(item)} items and {len(scores)} scores came: pass one each per row"
        )
    n_queries = len(targets)
    chunks = [slice(first, first + _CHUNK_ROWS) for first in range(0, len(query), _CHUNK_ROWS)]
    level = np.full(n_queries, np.nan, dtype=scores.dtype if scores.dtype.kind == "f" else np.float64)
    times_found = np.zeros(n_queries, dtype=np.int64)
    for chunk in chunks:
        at = query[chunk]
        hit = item[chunk] == targets[at]
        level[at[hit]] = _comparable(scores[chunk][hit])
        times_found += np.bincount(at[hit], minlength=n_queries)
    if (times_found > 1).any():
        raise InputError(
            f"{np.count_nonzero(times_found > 1)} queries have their target in several rows: keep one each"
        )
    higher, tied = np.zeros(n_queries, dtype=np.int64), np.zeros(n_queries, dtype=np.int64)
    for chunk in chunks:
        at, values = query[chunk], _comparable(scores[chunk])
        higher += np.bincount(at[values > level[at]], minlength=n_queries)
        tied += np.bincount(at[values == level[at]], minlength=n_queries)
    missed = times_found == 0
    return TargetRanks(np.where(missed, _MISS, higher + 1), np.where(missed, _MISS, higher + tied))


def scorer_ranks(
    scorer: ItemScorer, histories: Sequences, targets: Any, *, block_cells: int = _BLOCK_CELLS
) -> TargetRanks:
    """Return where each target stands when the scorer alone ranks the whole catalogue.

    Parameters
    ----------
    scorer : ItemScorer
        Fitted on the catalogue of the histories.
    histories : Sequences
        What each query saw.
    targets : ndarray of shape (n_queries,), int
        The item that was to be found, -1 for one outside the catalogue.
    block_cells : int
        Queries are worked on in blocks of at most so many scores.
    """
    targets = np.asarray(targets, dtype=np.int64)
    if targets.shape != (len(histories),):
        raise InputError(f"targets have the shape {targets.shape} for {len(histories)} queries: pass one item for each")
    best, worst = np.full(len(targets), _MISS), np.full(len(targets), _MISS)
    block = max(1, block_cells // max(histories.n_items, 1))
    for first in range(0, len(histories), block):
        rows = np.arange(first, min(first + block, len(histories)))
        scores = _comparable(scorer.scores(histories.take(rows)))
        there = np.flatnonzero(targets[rows] >= 0)
        level = scores[there, targets[rows][there]][:, None]
        best[rows[there]] = (scores[there] > level).sum(axis=1) + 1
        worst[rows[there]] = (scores[there] >= level).sum(axis=1)
    return TargetRanks(best, worst)


def metrics_per_query(ranks: TargetRanks) -> Mapping[str, Float64Array]:
    """Return each of `NEXT_ITEM_METRICS` for each query, float64 of shape ``(n_queries,)``; 0 for a miss.

    With one target, NDCG is ``1 / log2(1 + rank)`` up to the cut, the ideal being 1.
    """
    longest = max(int(ranks.worst.max(initial=1)), max(_CUTS))
    places = np.arange(1, longest + 1)
    discounts = 1 / np.log2(places + 1)
    gains = {
        **{f"hr@{cut}": (places <= cut).astype(np.float64) for cut in _CUTS},
        **{f"ndcg@{cut}": np.where(places <= cut, discounts, 0.0) for cut in _CUTS},
        "mrr": 1 / places,
    }
    return {name: _mean_gain(gains[name], ranks) for name in NEXT_ITEM_METRICS}


def measure_next_item(ranks: TargetRanks, users: Int64Array, resamples: Resamples) -> Mapping[str, Estimate]:
    """Return each of `NEXT_ITEM_METRICS`, as its mean over queries.

    Parameters
    ----------
    ranks : TargetRanks
        Where the targets stand.
    users : ndarray of shape (n_queries,), int64
        The user of each query, as a column of ``resamples.weights``; all queries of a user are drawn together.
    resamples : Resamples
        The same for every arm.
    """
    if len(users) != len(ranks):
        raise InputError(f"{len(users)} users came for {len(ranks)} queries: pass one each")
    n_users = resamples.weights.shape[1]
    count = resamples.weights @ np.bincount(users, minlength=n_users)
    found = {}
    for name, values in metrics_per_query(ranks).items():
        total = resamples.weights @ np.bincount(users, weights=values, minlength=n_users)
        curve = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
        found[name] = Estimate(float(curve[0]), curve[1:])
    return found


def _mean_gain(gains: Float64Array, ranks: TargetRanks) -> Float64Array:
    """Return the mean of ``gains`` (of the places from 1 on) over each target's places."""
    out = np.zeros(len(ranks))
    found = ranks.best > 0
    best, worst = ranks.best[found], ranks.worst[found]
    running = np.concatenate([[0.0], np.cumsum(gains)])
    # One place needs no difference of sums, and has no rounding then.
    out[found] = np.where(best == worst, gains[best - 1], (running[worst] - running[best - 1]) / (worst - best + 1))
    return out


def _comparable(scores: Any) -> Any:
    """Return scores with minus infinity for NaN, which compares to nothing, not even to itself."""
    return np.where(np.isnan(scores), -np.inf, scores)
