"""Many runs as one figure: the mean over seeds and origins, with an interval that holds what training varies by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from llmfeat.evaluate.metrics import Estimate
from llmfeat.evaluate.task import Measured
from llmfeat.types import Float64Array

__all__ = ["ArmMetrics", "Run", "gain", "level"]

# By slice, then by metric.
ArmMetrics = Mapping[str, Mapping[str, Measured]]


@dataclass(frozen=True, eq=False)
class Run:
    """What one origin and one seed measured, by arm."""

    origin: int
    seed: int
    arms: Mapping[str, ArmMetrics]


def level(runs: Sequence[Run], arm: str, part: str, metric: str) -> Estimate:
    """Return a metric of an arm, over all runs."""
    found = _combined(runs, [run.arms[arm][part][metric] for run in runs], None)
    # No metric is below zero, and wider resamples are not either.
    return Estimate(found.point, np.maximum(found.resampled, 0.0))


def gain(runs: Sequence[Run], ours: str, theirs: str, part: str, metric: str) -> Estimate:
    """Return the paired difference of two arms, over all runs."""
    found = [(run.arms[ours][part][metric], run.arms[theirs][part][metric]) for run in runs]
    return _combined(runs, [mine for mine, _ in found], [other for _, other in found])


def _combined(runs: Sequence[Run], ours: list[Measured], theirs: list[Measured] | None) -> Estimate:
    estimates = [mine.estimate for mine in ours]
    if theirs is not None:
        estimates = [mine - other.estimate for mine, other in zip(estimates, theirs, strict=True)]
    points = np.array([each.point for each in estimates])
    there = np.flatnonzero(np.isfinite(points)).tolist()  # a slice may be empty at some origins
    if not there:
        return Estimate(float("nan"), np.full_like(estimates[0].resampled, np.nan))
    resampled = _mean([estimates[at].resampled for at in there])
    parts = [[part[at] for at in there] for part in ([ours] if theirs is None else [ours, theirs])]
    variance = _training_variance([runs[at] for at in there], points[there], parts)
    return widened(Estimate(float(points[there].mean()), resampled), variance)


def _mean(resampled: list[Float64Array]) -> Float64Array:
    """Return the mean of each resample over the runs where it is defined."""
    values = np.stack(resampled)
    count = np.isfinite(values).sum(axis=0)
    total = np.where(np.isfinite(values), values, 0.0).sum(axis=0)
    mean: Float64Array = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return mean


def _training_variance(runs: Sequence[Run], points: Float64Array, parts: list[list[Measured]]) -> float:
    """Return by how much the mean over runs varies with the training, its variance.

    Over origins where there are several, the seeds of each as one; else over seeds. Never less than what the rankers of
    the bags vary by, whose mean varies by a share of what they do: two seeds may agree by luck.
    """
    bags = [measured.members for part in parts for measured in part]
    of_bags = sum(float(members.var(ddof=1)) / len(members) for members in bags if len(members) > 1) / len(runs) ** 2
    origins = np.array([run.origin for run in runs])
    by_origin = np.array([points[origins == origin].mean() for origin in np.unique(origins)])
    values = by_origin if len(by_origin) > 1 else points
    of_runs = float(values.var(ddof=1) / len(values)) if len(values) > 1 else 0.0
    return max(of_runs, of_bags)


def widened(estimate: Estimate, variance: float) -> Estimate:
    """Return an estimate whose resamples spread by `variance` more, in the same shape around the point."""
    spread = float(np.nanstd(estimate.resampled)) if np.isfinite(estimate.resampled).any() else 0.0
    if not variance > 0 or not np.isfinite(estimate.resampled).any():
        return estimate
    if spread < 1e-12:  # one user alone: the training is all that varies
        places = (np.arange(len(estimate.resampled)) + 0.5) / len(estimate.resampled)
        return Estimate(estimate.point, estimate.point + np.sqrt(variance) * ndtri(places))
    wider = np.sqrt(1 + variance / spread**2)
    return Estimate(estimate.point, estimate.point + (estimate.resampled - estimate.point) * wider)
