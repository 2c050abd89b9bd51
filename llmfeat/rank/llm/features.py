"""`LLMScoreFeatures`: what an LLM scorer says, as columns for another ranker, out of fold by user."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted

from llmfeat._base.frames import id_column, to_frame
from llmfeat.errors import InputError
from llmfeat.rank.llm.scorer import LLMScorer
from llmfeat.rank.scorers.crossfit import user_folds
from llmfeat.types import Float32Array, Int64Array

__all__ = ["LLMScoreFeatures"]


class LLMScoreFeatures(TransformerMixin, BaseEstimator):
    """The score of an `LLMScorer` as a feature.

    A ranker that trains on scores to which its own labels contributed trusts them too much. So where the scorer learns
    from labels, users are parted into folds: a user who was fitted on is scored by the fit without their fold, then
    and later, so that columns of training and of test rows are of one kind; another user by the fit on all. The folds
    follow from the users' ids alone. A scorer that learns nothing (``calibration=None``, or no labels) needs no folds.

    With ``finetune`` each fold adapts and exports a model of its own: ``n_folds + 1`` of them.

    Parameters
    ----------
    scorer : LLMScorer
        What scores; it is cloned. Its `top_n` and `budget_ms` do not count: every row has a score.
    n_folds : int, default=5
        How many folds.
    seed : int, default=0
        Which of the partitions.

    Attributes
    ----------
    scorers_ : list of LLMScorer
        Entry ``f`` was fitted without the users of fold ``f``, the last on all; one alone where nothing is learned.
    users_ : pyarrow.StringArray
        The users that were fitted on.
    feature_names_in_ : ndarray of str
        The columns of the frame that was fitted on.

    Examples
    --------
    >>> from llmfeat import LLMScoreFeatures, LLMScorer  # doctest: +SKIP
    >>> features = LLMScoreFeatures(LLMScorer(log, "artifacts/scorer", movies, cache=True))  # doctest: +SKIP
    >>> features.fit_transform(train, train_labels).shape  # doctest: +SKIP
    (8000, 1)
    """

    def __init__(self, scorer: LLMScorer | None = None, *, n_folds: int = 5, seed: int = 0) -> None:
        self.scorer = scorer
        self.n_folds = n_folds
        self.seed = seed

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the scorer without each fold, and on all.

        Parameters
        ----------
        X : data frame
            Rows of user, item and time.
        y : array-like of shape (n_rows,), optional
            1 where the user liked the item, else 0.

        Raises
        ------
        InputError
            When there are fewer users than folds, or what the scorer raises.
        """
        if not isinstance(self.scorer, LLMScorer):
            raise InputError(f"scorer is a {type(self.scorer).__name__}, but an LLMScorer was expected: pass one")
        if not (isinstance(self.n_folds, int) and self.n_folds >= 2):
            raise InputError(f"n_folds={self.n_folds!r}, but a whole number from 2 on was expected")
        frame = to_frame(X, what="X")
        self.feature_names_in_ = np.array(frame.columns, dtype=object)
        self.n_features_in_ = len(frame.columns)
        learns = y is not None and (self.scorer.calibration is not None or self.scorer.finetune is not None)
        users = id_column(X, self.scorer.user_id, what="X")
        self.users_: pa.StringArray = pc.unique(users)
        self.scorers_ = []
        if learns:
            folds, labels = user_folds(users, n_folds=self.n_folds, seed=self.seed), np.asarray(y)
            if len(np.unique(folds)) < 2:
                raise InputError(
                    f"{len(self.users_)} users fall into {len(np.unique(folds))} folds, but at least 2 were expected: "
                    "pass rows of more users, or another seed"
                )
            for fold in range(self.n_folds):
                rows = np.flatnonzero(folds != fold)
                self.scorers_.append(self._scorer(fold).fit(frame[rows.tolist()].to_native(), labels[rows]))
        self.scorers_.append(self._scorer(None).fit(X, y if learns else None))
        return self

    def transform(self, X: Any) -> Float32Array:
        """Return the score of each row, float32 of shape ``(n_rows, 1)``; NaN for candidates without a text.

        In nats: the log-odds of the answers, calibrated where a calibrator was learned.
        """
        check_is_fitted(self)
        users = id_column(X, self.scorers_[-1].user_id, what="X")
        frame = to_frame(X, what="X")
        out = np.full((len(users), 1), np.nan, dtype=np.float32)
        fit_of_row = self._fit_of(users)
        for fit in np.unique(fit_of_row).tolist():
            rows = np.flatnonzero(fit_of_row == fit)
            out[rows, 0] = self.scorers_[fit].decision_function(frame[rows.tolist()].to_native())
        return out

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray[Any, Any]:
        """Return the names of the columns of `transform`."""
        return np.array(["llm_score"], dtype=object)

    def _fit_of(self, users: pa.StringArray) -> Int64Array:
        """Return which entry of `scorers_` scores each user."""
        last = len(self.scorers_) - 1
        if not last:
            return np.zeros(len(users), dtype=np.int64)
        fitted = pc.is_in(users, value_set=self.users_).to_numpy(zero_copy_only=False)
        return np.where(fitted, user_folds(users, n_folds=self.n_folds, seed=self.seed), last)

    def _scorer(self, fold: int | None) -> LLMScorer:
        assert self.scorer is not None, "fit checked it"
        scorer: LLMScorer = clone(self.scorer)
        scorer.set_params(top_n=None, budget_ms=None)
        if fold is not None and scorer.finetune_out is not None:
            scorer.set_params(finetune_out=f"{scorer.finetune_out}-fold{fold}")
        return scorer
