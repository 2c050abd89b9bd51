"""From what a model says to a probability: log-odds of answers are calibrated on rows with labels."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from llmfeat.errors import InputError, NothingToLearnError
from llmfeat.types import Float64Array

__all__ = ["CALIBRATIONS", "Calibrator"]

CALIBRATIONS = ("logistic", "monotone")


class Calibrator:
    """A monotone map from log P(yes) - log P(no) to the probability of a positive label, by logistic or isotonic fit.

    A model that says no where users say yes is turned round: the map falls then. Ranks are those of the scores, or of
    their negatives; no two different scores are made equal in `decision`.

    Parameters
    ----------
    kind : {"logistic", "monotone"}
        Platt (1999), or isotonic regression (Zadrozny and Elkan, 2002), whose direction is the data's.

    Attributes
    ----------
    sign_ : int
        1 where a higher score means a positive label, else -1.
    n_rows_ : int
        How many rows it was learned from.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def fit(self, scores: Any, labels: Any) -> Self:
        """Learn the map from finite scores and labels of 0 and 1.

        Raises
        ------
        NothingToLearnError
            When all labels are the same, or there is none.
        """
        scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
        if not len(labels) or labels.min() == labels.max():
            raise NothingToLearnError(
                f"{len(labels)} labels came with scores, of {len(np.unique(labels))} kinds, but both 0 and 1 were "
                "expected: pass rows of both, or calibration=None"
            )
        self.n_rows_ = len(labels)
        if self.kind == "logistic":
            # Scores of tens of nats: without a scale of one the penalty would be another for each model.
            self._center, self._width = float(scores.mean()), float(scores.std()) or 1.0
            self._model: Any = LogisticRegression().fit((scores - self._center)[:, None] / self._width, labels)
            self.sign_ = 1 if self._model.coef_[0, 0] >= 0 else -1
        else:
            self.sign_ = 1 if roc_auc_score(labels, scores) >= 0.5 else -1
            self._model = IsotonicRegression(y_min=0, y_max=1, increasing=self.sign_ > 0, out_of_bounds="clip")
            self._model.fit(scores, labels)
        return self

    def decision(self, scores: Any) -> Float64Array:
        """Return what to rank by, float64: calibrated log-odds, or with ``"monotone"`` the scores or their negatives.

        NaN stays NaN.
        """
        scores = np.asarray(scores, dtype=np.float64)
        if self.kind == "monotone":
            turned: Float64Array = self.sign_ * scores
            return turned
        slope, intercept = self._model.coef_[0, 0] / self._width, self._model.intercept_[0]
        decision: Float64Array = slope * (scores - self._center) + intercept
        return decision

    def probability(self, scores: Any) -> Float64Array:
        """Return the probability of a positive label, float64; NaN stays NaN."""
        scores = np.asarray(scores, dtype=np.float64)
        found = np.full(len(scores), np.nan)
        there = ~np.isnan(scores)
        if self.kind == "monotone":
            found[there] = self._model.predict(scores[there])
        else:
            found[there] = 1 / (1 + np.exp(-self.decision(scores[there])))
        return found


def check_calibration(kind: str | None) -> None:
    """Refuse what is no kind of calibration."""
    if kind is not None and kind not in CALIBRATIONS:
        raise InputError(f"calibration={kind!r}, but one of {[*CALIBRATIONS, None]} was expected")
