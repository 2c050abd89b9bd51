"""The arms of a comparison: one ranker, one tuning budget, one set of rows; only the columns differ."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline

from llmfeat._base.optional import import_optional
from llmfeat.evaluate.split import TimeSplit
from llmfeat.types import Float32Array, Float64Array, Int64Array

__all__ = ["ARMS", "SEARCH_SPACE", "ArmResult", "fit_arm", "lightgbm_parameters"]

# Each arm beside `popularity` is no_text plus the same kernel over these vectors.
ARMS: Mapping[str, tuple[str, ...]] = {
    "popularity": ("popularity",),
    "no_text": ("activity",),
    "random": ("activity", "random"),
    "collab": ("activity", "collab"),
    "tfidf": ("activity", "tfidf"),
    "llm": ("activity", "llm"),
    "full_minus_llm": ("activity", "collab", "tfidf"),
    "hybrid": ("activity", "collab", "tfidf", "llm"),
}

# Every arm tries each of these; early stopping on the validation rows chooses the number of trees.
SEARCH_SPACE: tuple[Mapping[str, Any], ...] = ({"num_leaves": 31}, {"num_leaves": 8})
_MOST_TREES = 1000
_PATIENCE = 40
_LEAST_TREES = 20


@dataclass(frozen=True, eq=False)
class ArmResult:
    """One fitted arm.

    Attributes
    ----------
    scores : ndarray of shape (n_test,), float64
        Probabilities of a positive for the test rows.
    chosen : mapping
        The parameters that won on the validation rows.
    trials : list of mapping
        Every trial: its parameters, trees and validation log loss.
    n_columns : int
        How many columns the arm saw.
    fit_s : float
        Seconds of all trials and the final fit.
    """

    scores: Float64Array
    chosen: Mapping[str, Any]
    trials: Sequence[Mapping[str, Any]]
    n_columns: int
    fit_s: float


def lightgbm_parameters(seed: int) -> dict[str, Any]:
    """Return what every arm's ranker has in common; the same seed gives the same trees on one machine."""
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


def fit_arm(families: Mapping[str, Float32Array], labels: Int64Array, split: TimeSplit, *, seed: int) -> ArmResult:
    """Tune an arm on the validation rows, fit it on all training rows, and score the test rows.

    Parameters
    ----------
    families : mapping of str to ndarray of shape (n_rows, n_columns), float32
        The columns that the arm sees, for all rows.
    labels : ndarray of shape (n_rows,), int64
        0 or 1.
    split : TimeSplit
        The rows by role.
    seed : int
        Of the ranker.
    """
    started = time.perf_counter()
    lightgbm = import_optional("lightgbm", purpose="the arms of a comparison")
    matrix = np.concatenate(list(families.values()), axis=1)
    edges = np.cumsum([0, *(block.shape[1] for block in families.values())]).tolist()
    places = [(family, "passthrough", slice(*edges[at : at + 2])) for at, family in enumerate(families)]
    trials = [_trial(lightgbm, matrix, labels, split, {**space}, seed) for space in SEARCH_SPACE]
    best = min(trials, key=lambda trial: trial["valid_logloss"])
    chosen = {**best["parameters"], "n_estimators": max(best["n_trees"], _LEAST_TREES)}
    ranker = lightgbm.LGBMClassifier(**{**lightgbm_parameters(seed), **chosen})
    pipeline = Pipeline([("families", ColumnTransformer(places)), ("ranker", ranker)])
    pipeline.fit(matrix[split.train], labels[split.train])
    scores: Float64Array = pipeline.predict_proba(matrix[split.test])[:, 1]
    return ArmResult(scores, chosen, trials, matrix.shape[1], time.perf_counter() - started)


def _trial(
    lightgbm: Any, matrix: Float32Array, labels: Int64Array, split: TimeSplit, space: dict[str, Any], seed: int
) -> dict[str, Any]:
    # The core interface takes early stopping the same way in every version; the scikit-learn one renamed its arguments.
    parameters = {**lightgbm_parameters(seed), **space, "objective": "binary", "metric": "binary_logloss"}
    fit = lightgbm.Dataset(matrix[split.fit], labels[split.fit])
    valid = fit.create_valid(matrix[split.valid], labels[split.valid])
    stop = lightgbm.early_stopping(_PATIENCE, verbose=False)
    booster = lightgbm.train(parameters, fit, _MOST_TREES, valid_sets=[valid], callbacks=[stop])
    loss = booster.best_score["valid_0"]["binary_logloss"]
    return {"parameters": space, "n_trees": int(booster.best_iteration), "valid_logloss": float(loss)}
