"""Many runs as one figure: the mean over seeds and origins, with an interval that holds what training varies by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

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
    mean = Estimate(float(points.mean()), np.mean([each.resampled for each in estimates], axis=0))
    parts = [ours] if theirs is None else [ours, theirs]
    return widened(mean, _training_variance(runs, points, parts))


def _training_variance(runs: Sequence[Run], points: Float64Array, parts: list[list[Measured]]) -> float:
    """Return by how much the mean over runs varies with the training, its variance.

    Over origins where there are several, the seeds of each as one; else over seeds; a single run has the rankers of its
    bags, whose mean varies by a share of what they do.
    """
    origins = np.array([run.origin for run in runs])
    by_origin = np.array([points[origins == origin].mean() for origin in np.unique(origins)])
    for values in (by_origin, points):
        if len(values) > 1:
            return float(values.var(ddof=1) / len(values))
    bags = [measured.members for part in parts for measured in part]
    return float(sum(members.var(ddof=1) / len(members) for members in bags if len(members) > 1))


def widened(estimate: Estimate, variance: float) -> Estimate:
    """Return an estimate whose resamples spread by `variance` more, in the same shape around the point."""
    spread = float(np.nanstd(estimate.resampled)) if np.isfinite(estimate.resampled).any() else 0.0
    if not (variance > 0 and spread > 0):
        return estimate
    wider = np.sqrt(1 + variance / spread**2)
    return Estimate(estimate.point, estimate.point + (estimate.resampled - estimate.point) * wider)
