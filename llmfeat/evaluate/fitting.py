"""One arm's ranker: the same trials for every arm, then a bag of rankers with the parameters that won."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat.evaluate.columns import TaughtRows
from llmfeat.types import Float32Array, Float64Array

__all__ = ["BAG", "CLASSIFIER", "RANKER", "FittedArm", "Learner", "fit_arm", "lightgbm_parameters"]

# An arm's scores are the mean over so many rankers of different seeds: it halves the noise that training brings into a
# comparison, and their spread says how much is left.
BAG = 3
_MOST_TREES = 1000


@dataclass(frozen=True)
class Learner:
    """How an arm is fitted.

    Attributes
    ----------
    parameters : mapping
        LightGBM's, the objective among them.
    space : tuple of mapping
        What every arm tries; early stopping on the validation rows chooses the number of trees.
    metric, is_better_higher
        What chooses, and which way.
    validation : str
        What the rows are that choose, in words.
    patience, least_trees : int
        After how many trees without a gain a trial ends, and the fewest that the final rankers have.
    """

    parameters: Mapping[str, Any]
    space: tuple[Mapping[str, Any], ...]
    metric: str
    is_better_higher: bool
    validation: str
    patience: int = 40
    least_trees: int = 20


CLASSIFIER = Learner(
    parameters={"objective": "binary", "learning_rate": 0.04, "min_child_samples": 50, "colsample_bytree": 0.5},
    space=({"num_leaves": 31}, {"num_leaves": 8}),
    metric="binary_logloss",
    is_better_higher=False,
    validation="the last tenth of the training time",
)
RANKER = Learner(
    parameters={
        "objective": "lambdarank",
        "learning_rate": 0.1,
        "min_child_samples": 100,
        "colsample_bytree": 0.4,
        "lambdarank_truncation_level": 20,
        "eval_at": [10],
    },
    space=({"num_leaves": 15}, {"num_leaves": 31}),
    metric="ndcg@10",
    is_better_higher=True,
    validation="each third of the users by rankers of the others",
    patience=25,
)


@dataclass(frozen=True, eq=False)
class FittedArm:
    """One fitted arm.

    Attributes
    ----------
    models : list of str
        The rankers of the bag, as LightGBM writes them.
    columns : list of (str, str)
        Family and name of each column.
    gains : ndarray of shape (n_columns,), float64
        How much of the objective's gain each column brought, adding up to 1.
    chosen : mapping
        The parameters that won on the validation rows.
    trials : list of mapping
        Every trial: its parameters, trees and validation metric.
    fit_s : float
        Seconds of all trials and the bag.
    """

    models: Sequence[str]
    columns: Sequence[tuple[str, str]]
    gains: Float64Array
    chosen: Mapping[str, Any]
    trials: Sequence[Mapping[str, Any]]
    fit_s: float

    def scores(self, matrix: Float32Array) -> Float64Array:
        """Return what each ranker of the bag says of rows, float64 of shape ``(n_bag, n_rows)``."""
        lightgbm = import_optional("lightgbm", purpose="the arms of a comparison")
        return np.stack([lightgbm.Booster(model_str=model).predict(matrix) for model in self.models])


def lightgbm_parameters(seed: int) -> dict[str, Any]:
    """Return what every ranker has in common; the same seed gives the same trees on one machine."""
    return {
        "learning_rate": 0.04,
        "min_child_samples": 50,
        "subsample": 0.8,
        "subsample_freq": 1,
        "colsample_bytree": 0.5,
        "reg_lambda": 5.0,
        "random_state": seed,
        "deterministic": True,
        "force_row_wise": True,
        # As OpenMP says: left out, the scikit-learn interface takes all cores, whatever the environment says.
        "n_jobs": 0,
        "verbose": -1,
    }


def fit_arm(rows: TaughtRows, families: Sequence[str], learner: Learner, *, seed: int, bag: int = BAG) -> FittedArm:
    """Tune an arm on the validation rows, then fit its bag on all rows.

    Parameters
    ----------
    rows : TaughtRows
        What it learns from.
    families : sequence of str
        What it sees of them.
    learner : Learner
        How it learns; the same for all arms.
    seed : int
        Of the first ranker of the bag; the others follow it.
    bag : int
        How many rankers.
    """
    started = time.perf_counter()
    lightgbm = import_optional("lightgbm", purpose="the arms of a comparison")
    # Binned once for all: trials and rankers differ in nothing that bins depend on.
    data = lightgbm.Dataset(
        rows.columns.matrix(families), rows.labels, group=rows.sizes, params=_parameters(learner, {}, seed=seed)
    )
    trials = [_trial(lightgbm, data, rows, learner, trial, seed) for trial in learner.space]
    best = (max if learner.is_better_higher else min)(trials, key=lambda trial: trial[f"valid_{learner.metric}"])
    n_trees = max(best["n_trees"], learner.least_trees)
    boosters = [
        lightgbm.train(_parameters(learner, best["parameters"], seed=member), data, n_trees)
        for member in range(seed * bag, (seed + 1) * bag)
    ]
    gains = np.mean([booster.feature_importance("gain") for booster in boosters], axis=0)
    return FittedArm(
        models=[booster.model_to_string() for booster in boosters],
        columns=rows.columns.names_of(families),
        gains=gains / max(gains.sum(), 1e-300),
        chosen={**best["parameters"], "n_estimators": n_trees},
        trials=trials,
        fit_s=time.perf_counter() - started,
    )


def _parameters(learner: Learner, trial: Mapping[str, Any], *, seed: int) -> dict[str, Any]:
    return {**lightgbm_parameters(seed), **learner.parameters, **trial}


def _trial(
    lightgbm: Any, data: Any, rows: TaughtRows, learner: Learner, trial: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Return what one trial gets on the validation rows of all folds, at the number of trees that is best."""
    parameters = {**_parameters(learner, trial, seed=seed), "metric": learner.metric.partition("@")[0]}
    stop = lightgbm.early_stopping(learner.patience, verbose=False)
    curve = lightgbm.cv(parameters, data, _MOST_TREES, folds=rows.folds(), callbacks=[stop])
    values = curve[f"valid {learner.metric}-mean"]
    return {"parameters": dict(trial), "n_trees": len(values), f"valid_{learner.metric}": float(values[-1])}
