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
    """Resamples of users: how often each user of the test is drawn.

    Attributes
    ----------
    weights : ndarray of shape (n_resamples + 1, n_users), float64
        The first row is all ones: the sample itself.
    """

    weights: Float64Array

    @classmethod
    def draw(cls, n_users: int, *, n_resamples: int, seed: int) -> Resamples:
        """Draw `n_users` users with replacement, `n_resamples` times."""
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
    scores: Float64Array, labels: Int64Array, users: Int64Array, resamples: Resamples
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

    Returns
    -------
    mapping of str to Estimate
        ``auc`` over all rows; ``user_auc`` and ``ndcg@10`` are means over the users for whom they exist (both labels,
        or a positive); ``logloss`` over all rows.
    """
    clipped = np.clip(scores, 1e-15, 1 - 1e-15)
    loss = -np.where(labels > 0, np.log(clipped), np.log1p(-clipped))
    n_users = resamples.weights.shape[1]
    weights = resamples.weights
    curves = {
        "auc": _auc(scores, labels, users, weights),
        "user_auc": _mean_over_users(_per_user(scores, labels, users, n_users, _user_auc), weights),
        "ndcg@10": _mean_over_users(_per_user(scores, labels, users, n_users, _ndcg), weights),
        "logloss": _ratio(
            weights @ np.bincount(users, weights=loss, minlength=n_users),
            weights @ np.bincount(users, minlength=n_users),
        ),
    }
    return {name: Estimate(float(curve[0]), curve[1:]) for name, curve in curves.items()}


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


def _per_user(
    scores: Float64Array,
    labels: Int64Array,
    users: Int64Array,
    n_users: int,
    metric: Callable[[Float64Array, Int64Array], float],
) -> Float64Array:
    """Return the metric of each user's rows, which are passed by falling score; NaN for a user without rows."""
    out = np.full(n_users, np.nan)
    order = np.lexsort((-scores, users))
    edges = np.flatnonzero(np.diff(users[order])) + 1
    for rows in np.split(order, edges):
        if len(rows):
            out[users[rows[0]]] = metric(scores[rows], labels[rows])
    return out


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


def _mean_over_users(values: Float64Array, weights: Float64Array) -> Float64Array:
    exists = np.isfinite(values)
    return _ratio(weights @ np.where(exists, values, 0.0), weights @ exists.astype(np.float64))


def _ratio(total: Float64Array, count: Float64Array) -> Float64Array:
    out = np.full(len(total), np.nan)
    np.divide(total, count, out=out, where=count > 0)
    return out
