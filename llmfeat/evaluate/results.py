"""What was measured, as ``lift.json`` says it."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmfeat.evaluate.arms import HEADLINE, SLICES
from llmfeat.evaluate.fitting import BAG, FittedArm
from llmfeat.evaluate.lift import LiftResult
from llmfeat.evaluate.metrics import Estimate, interval
from llmfeat.evaluate.numbers import interval_json, number

__all__ = ["arms_json", "importance_json", "lift_json", "popularity_json", "runs_json", "tuning_json"]

_IMPORTANCE_ARMS = ("hybrid", "full_minus_llm")
_POPULARITY_COMPARISONS = (HEADLINE, "hybrid_vs_no_text")
_MOST_COLUMNS = 20


def arms_json(result: LiftResult) -> dict[str, Any]:
    """Return ``arms``: per arm and slice every metric, and its interval under ``ci95``."""
    return {
        arm: {part: _metrics_json({m: result.level(arm, part, m) for m in result.task.metrics}) for part in SLICES}
        for arm in result.arms
    }


def lift_json(result: LiftResult, *, lag_s: int | None = None) -> dict[str, Any]:
    """Return ``lift``: per comparison, slice and metric the difference and its interval."""
    return {
        name: {
            part: {
                metric: interval_json(result.gain(name, part, metric, lag_s=lag_s)) for metric in result.task.metrics
            }
            for part in SLICES
        }
        for name in result.comparisons
    }


def popularity_json(result: LiftResult) -> list[dict[str, Any]]:
    """Return ``by_popularity``: what is gained on the items of each decile by earlier events, of the last origin."""
    slices = result.task.slices(0)
    return [
        {
            "decile": int(name.rpartition("_")[2]),
            "events": list(span),
            "rows": int(np.count_nonzero(slices[name])),
            "gain": {
                each: interval_json(result.gain(each, name, result.task.primary, origin=0))
                for each in _POPULARITY_COMPARISONS
            },
        }
        for name, span in result.task.decile_events(0).items()
    ]


def importance_json(result: LiftResult) -> dict[str, Any]:
    """Return ``importance``: the share of the objective's gain, by family and of the first columns."""
    return {arm: _importance(result.fitted[arm]) for arm in _IMPORTANCE_ARMS}


def runs_json(result: LiftResult) -> list[dict[str, Any]]:
    """Return ``runs``: the headline by origin and seed."""
    ours, theirs = result.comparisons[HEADLINE]
    metric = result.task.primary
    return [
        {
            "origin": run.origin,
            "seed": run.seed,
            "diff": number((run.arms[ours]["all"][metric].estimate - run.arms[theirs]["all"][metric].estimate).point),
        }
        for run in result.headline_runs
    ]


def tuning_json(result: LiftResult) -> dict[str, Any]:
    """Return ``tuning``: the space, what chose, and every trial of every arm."""
    learner = result.task.learner
    return {
        "space": [dict(space) for space in learner.space],
        "parameters": dict(learner.parameters),
        "chosen_by": f"{learner.metric} on {learner.validation}, early stopping after {learner.patience} trees",
        "bag": BAG,
        "arms": {
            name: {"columns": len(arm.columns), "chosen": dict(arm.chosen), "trials": [dict(t) for t in arm.trials]}
            for name, arm in result.fitted.items()
        },
    }


def _metrics_json(estimates: dict[str, Estimate]) -> dict[str, Any]:
    values: dict[str, Any] = {name: number(found.point) for name, found in estimates.items()}
    return {**values, "ci95": {name: [number(end) for end in interval(found)] for name, found in estimates.items()}}


def _importance(arm: FittedArm) -> dict[str, Any]:
    families: dict[str, float] = {}
    of_column = [(family.removesuffix("_learned"), name) for family, name in arm.columns]
    for (family, _), gain in zip(of_column, arm.gains.tolist(), strict=True):
        families[family] = families.get(family, 0.0) + gain
    order = np.argsort(-arm.gains, kind="stable")[:_MOST_COLUMNS]
    columns = [{"name": of_column[at][1], "family": of_column[at][0], "share": float(arm.gains[at])} for at in order]
    return {"families": families, "columns": columns}
