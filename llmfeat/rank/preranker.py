"""`PreRanker`: the few candidates that a ranker sees, out of the many that all scorers propose."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.utils.validation import check_is_fitted

from llmfeat._base.places import places_in_groups
from llmfeat.errors import InputError, NothingToLearnError
from llmfeat.rank.candidates import Candidates
from llmfeat.rank.scorers.base import check_whole
from llmfeat.types import Float64Array, Int64Array

__all__ = ["PreRanker"]


class PreRanker(BaseEstimator):
    """Keeps the best candidates of each query, by the places that all scorers give them.

    Scorers need not have the same number of places in a budget: some find what others miss, some nothing of their own.
    Let each propose more than the ranker shall see, such as 200; what their places tell
    is learned from queries whose target is known, and the best of the pool are kept. Scores are not looked at: they get
    other sizes each time that scorers are fitted anew.

    It learns from the rows of targets and a few others of the same query, drawn at random from the whole pool: the
    question is what may be found at all, not what comes first. Fit it on what happened after that which the scorers
    were fitted on, and let the ranker learn from other queries, or from folds (`cut` then takes what was fitted on the
    others): a ranker that learns from the very queries sees more targets than there will be.

    Parameters
    ----------
    estimator : classifier, optional
        Has ``predict_proba`` or ``decision_function``. By default
        ``HistGradientBoostingClassifier(learning_rate=0.05, max_iter=200, max_leaf_nodes=15, min_samples_leaf=100,
        max_features=0.5, early_stopping=False)``.
    n_negatives : int, default=200
        Rows that are drawn of each query beside its targets.
    random_state : int, default=0
        Of the drawing, and of the default estimator.

    Attributes
    ----------
    estimator_ : classifier
        Fitted on `Candidates.ranks`, float32.
    names_ : tuple of str
        The scorers that it was fitted on.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat.history import Sequences
    >>> from llmfeat.rank import PreRanker, generate_candidates
    >>> from llmfeat.rank.scorers import Cooccurrence, Popularity
    >>> from sklearn.ensemble import HistGradientBoostingClassifier
    >>> past = Sequences.from_lists(pa.table({"h": [["a", "b"], ["c", "d"]] * 30}), "h")
    >>> scorers = [Popularity().fit(past), Cooccurrence().fit(past)]
    >>> asked = Sequences.from_lists(pa.table({"h": [["a"], ["c"]] * 30}), "h", item_ids=past.item_ids)
    >>> pool = generate_candidates(scorers, asked, 4)
    >>> targets = asked.item_code(["b", "d"] * 30)
    >>> preranker = PreRanker(HistGradientBoostingClassifier(max_iter=20), n_negatives=2)  # there is little to learn
    >>> cut = preranker.fit(pool, pool.is_target(targets)).cut(pool, 1)
    >>> len(pool), len(cut), cut.recall(targets)
    (240, 60, 1.0)
    """

    def __init__(self, estimator: Any = None, *, n_negatives: int = 200, random_state: int = 0) -> None:
        self.estimator = estimator
        self.n_negatives = n_negatives
        self.random_state = random_state

    def fit(self, candidates: Candidates, is_target: Any) -> Self:
        """Learn which candidates are worth a place.

        Parameters
        ----------
        candidates : Candidates
            A pool of them.
        is_target : array of shape (n_rows,), bool
            Which rows were wanted: `Candidates.is_target` says it where a query has one target.

        Raises
        ------
        InputError
            When a parameter or the shape is not as expected.
        NothingToLearnError
            When no candidate is a target, or all are.
        """
        check_whole(1, n_negatives=self.n_negatives)
        check_whole(0, random_state=self.random_state)
        labels = np.asarray(is_target)
        if labels.shape != (len(candidates),) or labels.dtype.kind not in "bui" or not np.isin(labels, (0, 1)).all():
            raise InputError(
                f"is_target is {labels.dtype} of shape {labels.shape}, but bool, or 0 and 1, of shape "
                f"{(len(candidates),)} was expected: candidates.is_target(targets)"
            )
        labels = labels.astype(bool)
        rows = self._drawn(candidates.query, labels)
        if len(np.unique(labels[rows])) < 2:
            raise NothingToLearnError(
                f"{int(labels.sum())} of {len(labels)} candidates are targets, but a query with both a target and "
                "another candidate was expected: let scorers propose more, or ask for other queries"
            )
        self.estimator_ = clone(self.estimator) if self.estimator is not None else _default(self.random_state)
        self.estimator_.fit(candidates.ranks[rows].astype(np.float32), labels[rows])
        self.names_ = candidates.names
        return self

    def scores(self, candidates: Candidates) -> Float64Array:
        """Return how likely each candidate is a target, float64 of shape ``(n_rows,)``, up to a rising function."""
        check_is_fitted(self, "estimator_")
        if candidates.names != self.names_:
            raise InputError(f"the candidates are of {candidates.names}, but it was fitted on those of {self.names_}")
        if not len(candidates):
            return np.zeros(0)
        places = candidates.ranks.astype(np.float32)
        if hasattr(self.estimator_, "decision_function"):
            found = np.asarray(self.estimator_.decision_function(places), dtype=np.float64)
        else:
            found = np.asarray(self.estimator_.predict_proba(places)[:, 1], dtype=np.float64)
        return found

    def cut(self, candidates: Candidates, n: int) -> Candidates:
        """Return the best `n` candidates of each query; see `Candidates.best`."""
        return candidates.best(self.scores(candidates), n)

    def _drawn(self, query: Int64Array, labels: Any) -> Int64Array:
        """Return the rows of targets and some others of their queries, ascending."""
        taught = np.unique(query[labels])
        others = np.flatnonzero(~labels & np.isin(query, taught))
        draw = np.random.default_rng(self.random_state)
        order = others[np.lexsort((draw.random(len(others)), query[others]))]
        drawn = order[places_in_groups(query[order]) < self.n_negatives]
        return np.sort(np.concatenate([np.flatnonzero(labels), drawn]))


def _default(random_state: int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        learning_rate=0.05,
        max_iter=200,
        max_leaf_nodes=15,
        min_samples_leaf=100,
        max_features=0.5,
        early_stopping=False,
        random_state=random_state,
    )
