"""Metrics of binary ranking within users, with a paired bootstrap over users.

A resample draws users with replacement: it is a weight per user. Every metric is computed from those weights, the point
estimate being the one with all weights 1, so that two arms differ on the same resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from llmfeat.types import Float64Array, Int64Array

__all__ = ["METRICS", "Estimate", "Resamples", "interval", "measure"]

METRICS = ("auc", "user_auc", "ndcg@10", "logloss")
_TOP = 10


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
        drawn = np.random.default_rng(seed).multinomial(n_users, np.full(n_users, 1 / n_users), size=n_resamples)
        return cls(np.vstack([np.ones((1, n_users)), drawn]).astype(np.float64))


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
        Probabilities of a positive.
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
    clipped = np.clip(scores, 1e-15, 1 - 1e-15)
    loss = -np.where(labels > 0, np.log(clipped), np.log1p(-clipped))
    units, drawn = (users, resamples.weights) if by_item is None else (by_item[0], by_item[1].weights)
    n_units = drawn.shape[1]
    owner, group = _owners(users, groups)
    curves = {
        "auc": _auc(scores, labels, units, drawn),
        "user_auc": _mean_over_groups(_per_group(scores, labels, group, _user_auc), owner, resamples.weights),
        "ndcg@10": _mean_over_groups(_per_group(scores, labels, group, _ndcg), owner, resamples.weights),
        "logloss": _ratio(
            drawn @ np.bincount(units, weights=loss, minlength=n_units),
            drawn @ np.bincount(units, minlength=n_units),
        ),
    }
    return {name: Estimate(float(curve[0]), curve[1:]) for name, curve in curves.items()}


def _owners(users: Int64Array, groups: Int64Array | None) -> tuple[Int64Array, Int64Array]:
    """Return the user of each group, and the group of each row, numbered from 0."""
    _, first, group = np.unique(users if groups is None else groups, return_index=True, return_inverse=True)
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


def _per_group(
    scores: Float64Array,
    labels: Int64Array,
    group: Int64Array,
    metric: Callable[[Float64Array, Int64Array], float],
) -> Float64Array:
    """Return the metric of the rows of each group, which are passed by falling score."""
    order = np.lexsort((-scores, group))
    edges = np.flatnonzero(np.diff(group[order])) + 1
    return np.array([metric(scores[rows], labels[rows]) for rows in np.split(order, edges) if len(rows)], np.float64)


def _user_auc(scores: Float64Array, labels: Int64Array) -> float:
    up, down = scores[labels > 0], np.sort(scores[labels <= 0])
    if not len(up) or not len(down):
        return float("nan")
    wins = np.searchsorted(down, up, side="left") + np.searchsorted(down, up, side="right")
    return float(wins.sum() / 2 / len(up) / len(down))


def _ndcg(scores: Float64Array, labels: Int64Array) -> float:
    """Return NDCG at 10 of one user's rows, which come by falling score; tied rows share their mean gain."""
    n_positive = int(np.count_nonzero(labels > 0))
    if not n_positive:
        return float("nan")
    gains = (labels > 0).astype(np.float64)
    _, tie = np.unique(-scores, return_inverse=True)
    gains = (np.bincount(tie, weights=gains) / np.bincount(tie))[tie]
    discounts = 1 / np.log2(np.arange(2, _TOP + 2))
    return float((gains[:_TOP] * discounts[: len(gains)]).sum() / discounts[:n_positive].sum())


def _mean_over_groups(values: Float64Array, owner: Int64Array, weights: Float64Array) -> Float64Array:
    """Return the mean over the groups that have a value, each weighing as its user does."""
    exists, n_users = np.isfinite(values), weights.shape[1]
    total = np.bincount(owner[exists], weights=values[exists], minlength=n_users)
    return _ratio(weights @ total, weights @ np.bincount(owner[exists], minlength=n_users))


def _ratio(total: Float64Array, count: Float64Array) -> Float64Array:
    out = np.full(len(total), np.nan)
    np.divide(total, count, out=out, where=count > 0)
    return out
