"""Metrics of binary ranking within users, with a paired bootstrap over users.

A resample draws users with replacement: it is a weight per user. Every metric is computed from those weights, the point
estimate being the one with all weights 1, so that two arms differ on the same resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmfeat.types import Float64Array, Int64Array

__all__ = ["METRICS", "Estimate", "Resamples", "interval", "measure"]

METRICS = ("auc", "user_auc", "ndcg@10", "logloss")
_TOP = 10
_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Estimate:
    """A metric on all rows, and on each resample of users; NaN where it is undefined."""

    point: float
    resampled: Float64Array

    def __sub__(self, other: Estimate) -> Estimate:
        """Return the paired difference."""
        return Estimate(self.point - other.point, self.resampled - other.resampled)


@dataclass(frozen=True, eq=False)
class Resamples:
    """Resamples of users, or of items: how often each of the test is drawn.

    Attributes
    ----------
    weights : ndarray of shape (n_resamples + 1, n_users), float64
        The first row is all ones: the sample itself.
    """

    weights: Float64Array

    @classmethod
    def draw(cls, n_users: int, *, n_resamples: int, seed: int) -> Resamples:
        """Draw `n_users` users with replacement, `n_resamples` times."""
        if n_users == 0:
            return cls(np.ones((n_resamples + 1, 0)))
        draw, shares = np.random.default_rng(seed), np.full(n_users, 1 / n_users)
        weights = np.ones((n_resamples + 1, n_users))
        for first in range(1, n_resamples + 1, _AT_ONCE):  # in whole numbers they take as much room again
            rows = weights[first : first + _AT_ONCE]
            rows[:] = draw.multinomial(n_users, shares, size=len(rows))
        return cls(weights)


def interval(estimate: Estimate) -> tuple[float, float]:
    """Return the 95 % percentile interval, NaN where the metric exists on no resample."""
    defined = estimate.resampled[np.isfinite(estimate.resampled)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def measure(
    scores: Float64Array,
    labels: Int64Array,
    users: Int64Array,
    resamples: Resamples,
    *,
    groups: Int64Array | None = None,
    by_item: tuple[Int64Array, Resamples] | None = None,
) -> Mapping[str, Estimate]:
    """Return each of `METRICS`.

    Parameters
    ----------
    scores : ndarray of shape (n_rows,), float64
        Probabilities of a positive, or any other score, which has no ``logloss``; NaN comes last.
    labels : ndarray of shape (n_rows,), int
        0 or 1.
    users : ndarray of shape (n_rows,), int64
        The user of each row, as a column of ``resamples.weights``.
    resamples : Resamples
        The same for every arm.
    groups : ndarray of shape (n_rows,), int64, optional
        What was ranked together, such as a request, each of one user; by default all rows of a user.
    by_item : tuple of ndarray and Resamples, optional
        The item of each row, and resamples of items: what ``auc`` and ``logloss`` are resampled by in place of users,
        where rows are of few items. The other two are means over users, and stay so.

    Returns
    -------
    mapping of str to Estimate
        ``auc`` over all rows; ``user_auc`` and ``ndcg@10`` are means over the groups for which they exist (both labels,
        or a positive); ``logloss`` over all rows.
    """
    is_probability = bool(((scores >= 0) & (scores <= 1)).all())
    clipped = np.clip(scores, 1e-15, 1 - 1e-15)
    scores = np.where(np.isnan(scores), -np.inf, scores)
    loss = -np.where(labels > 0, np.log(clipped), np.log1p(-clipped))
    units, drawn = (users, resamples.weights) if by_item is None else (by_item[0], by_item[1].weights)
    n_units = drawn.shape[1]
    owner, group = _owners(users, groups)
    curves = {
        "auc": _auc(scores, labels, units, drawn),
        "user_auc": _mean_over_groups(_user_auc(scores, labels, group), owner, resamples.weights),
        "ndcg@10": _mean_over_groups(_ndcg(scores, labels, group), owner, resamples.weights),
        "logloss": _ratio(
            drawn @ np.bincount(units, weights=loss, minlength=n_units),
            drawn @ np.bincount(units, minlength=n_units),
        ),
    }
    if not is_probability:
        curves["logloss"] = np.full(len(drawn), np.nan)
    return {name: Estimate(float(curve[0]), curve[1:]) for name, curve in curves.items()}


def _owners(users: Int64Array, groups: Int64Array | None) -> tuple[Int64Array, Int64Array]:
    """Return the user of each group, and the group of each row, numbered from 0."""
    keys = users if groups is None else users * (int(groups.max(initial=0)) + 1) + groups  # ids may start anew per user
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    return users[first], group.astype(np.int64)


def _auc(scores: Float64Array, labels: Int64Array, users: Int64Array, weights: Float64Array) -> Float64Array:
    """Return the area under the ROC curve for each row of weights; ties count half."""
    positive = np.flatnonzero(labels > 0)
    negative = np.flatnonzero(labels <= 0)
    negative = negative[np.argsort(scores[negative], kind="stable")]
    below = np.searchsorted(scores[negative], scores[positive], side="left")
    not_above = np.searchsorted(scores[negative], scores[positive], side="right")
    out = np.full(len(weights), np.nan)
    for row, weight in enumerate(weights):
        mass = np.concatenate([[0.0], np.cumsum(weight[users[negative]])])
        up = weight[users[positive]]
        total = up.sum() * mass[-1]
        if total > 0:
            out[row] = up @ (mass[below] + mass[not_above]) / 2 / total
    return out


def _places(scores: Float64Array, group: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Return the rows by group and falling score, the place of each in its group from 0 on, and its run of ties."""
    order = np.lexsort((-scores, group))
    opens = np.ones(len(order), dtype=bool)
    opens[1:] = np.diff(group[order]) != 0
    place = np.arange(len(order)) - np.maximum.accumulate(np.where(opens, np.arange(len(order)), 0))
    differs = opens.copy()
    differs[1:] |= scores[order][1:] != scores[order][:-1]
    return order, place, np.cumsum(differs) - 1


def _user_auc(scores: Float64Array, labels: Int64Array, group: Int64Array) -> Float64Array:
    """Return the area under the ROC curve of each group, NaN for one without both labels; ties count half."""
    order, _, tie = _places(scores, group)
    positive = (labels[order] > 0).astype(np.float64)
    n_groups = int(group.max(initial=-1)) + 1
    up = np.bincount(group[order], weights=positive, minlength=n_groups)
    rows = np.bincount(group[order], minlength=n_groups)
    down = rows - up
    # Of each run of ties: its negatives, and those after it in its group.
    negatives = np.bincount(tie, weights=1 - positive)
    of_run = np.zeros(len(negatives), dtype=np.int64)
    of_run[tie] = group[order]
    above = np.cumsum(negatives) - (np.cumsum(down) - down)[of_run]
    below = down[of_run] - above
    wins = np.bincount(group[order], weights=positive * (below + negatives / 2)[tie], minlength=n_groups)
    return _ratio(wins, up * down)


def _ndcg(scores: Float64Array, labels: Int64Array, group: Int64Array) -> Float64Array:
    """Return NDCG at 10 of each group, NaN for one without a positive; tied rows share their mean gain."""
    order, place, tie = _places(scores, group)
    positive = (labels[order] > 0).astype(np.float64)
    n_groups = int(group.max(initial=-1)) + 1
    shared = (np.bincount(tie, weights=positive) / np.bincount(tie))[tie]
    discounts = np.where(place < _TOP, 1 / np.log2(np.minimum(place, _TOP) + 2), 0.0)
    found = np.bincount(group[order], weights=shared * discounts, minlength=n_groups)
    n_positive = np.bincount(group[order], weights=positive, minlength=n_groups).astype(np.int64)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, _TOP + 2)))])[np.minimum(n_positive, _TOP)]
    return _ratio(found, ideal)


def _mean_over_groups(values: Float64Array, owner: Int64Array, weights: Float64Array) -> Float64Array:
    """Return the mean over the groups that have a value, each weighing as its user does."""
    exists, n_users = np.isfinite(values), weights.shape[1]
    total = np.bincount(owner[exists], weights=values[exists], minlength=n_users)
    return _ratio(weights @ total, weights @ np.bincount(owner[exists], minlength=n_users))


def _ratio(total: Any, count: Any) -> Float64Array:
    out = np.full(len(total), np.nan)
    np.divide(total, count, out=out, where=count > 0)
    return out
