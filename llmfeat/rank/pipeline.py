"""`RankingPipeline`: a scikit-learn pipeline that ends in the ranker of LightGBM, XGBoost or CatBoost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pyarrow as pa
from sklearn import get_config
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import MetadataRequest, MetadataRouter, get_routing_for_object, process_routing
from sklearn.utils.validation import check_is_fitted

from llmfeat._base.frames import id_column, require_rows
from llmfeat.errors import InputError
from llmfeat.rank.dialects import BY_DEGREE, BY_ROW, SortedRows, dialect_of, fit_sizes
from llmfeat.rank.groups import Groups, mean_ndcg
from llmfeat.types import Float32Array

__all__ = ["RankingPipeline"]


class RankingPipeline(Pipeline):
    """A `sklearn.pipeline.Pipeline` whose last step is a ranker; rows come in any order and name their group.

    `fit` runs the transformers, sorts the rows by group, and tells the ranker the groups in its own way: LightGBM's
    ``group=``, XGBoost's ``qid=``, CatBoost's ``group_id=``. Frames in `eval_set` pass through the fitted transformers
    first, so that early stopping sees the columns that the ranker sees, of rows that nothing was fitted on. The names
    of the features reach the ranker, whose importances can be read. `predict` needs no groups.

    Parameters
    ----------
    steps : list of (str, estimator)
        At least one transformer, then a ranker: ``LGBMRanker``, ``XGBRanker``, ``CatBoostRanker``, or any estimator
        whose `fit` takes ``group=`` as LightGBM's does, or ``qid=`` as XGBoost's.
    group : str, default="user_id"
        The column of the group in the frames given to `fit` and `score`.
    memory, verbose
        As in `Pipeline`, for the transformers.

    See Also
    --------
    Groups : What sorts the rows, for use without a pipeline.

    Notes
    -----
    `Pipeline` itself has ``transform_input=``, which sends a validation set through the transformers, with metadata
    routing only; it can neither sort rows nor give a second frame's groups to a ranker.

    Slices, such as ``pipeline[:-1]``, are plain pipelines. Callbacks (``set_callbacks``) are not called.

    In `cross_val_score` and `GridSearchCV` pass the splitter's groups as always; the ranker's come from the frame. With
    metadata routing `sample_weight` and `eval_set` are requested of the pipeline (``set_fit_request``), other
    arguments of the ranker, such as ``callbacks``, of the ranker.

    Examples
    --------
    >>> import pandas as pd
    >>> from lightgbm import LGBMRanker
    >>> from sklearn.compose import ColumnTransformer
    >>> rows = pd.DataFrame({"request_id": [7, 8] * 50, "price": range(100)})
    >>> columns = ColumnTransformer([("item", "passthrough", ["price"])])
    >>> ranker = LGBMRanker(n_estimators=5, min_child_samples=1, verbose=-1)
    >>> pipeline = RankingPipeline([("features", columns), ("ranker", ranker)], group="request_id")
    >>> round(pipeline.fit(rows, rows.price > 59).score(rows, rows.price > 59), 3)
    1.0
    >>> pipeline["ranker"].booster_.feature_name()
    ['item__price']
    """

    transform_input = None  # `eval_set` is transformed whatever the routing

    def __init__(
        self, steps: list[tuple[str, Any]], *, group: str = "user_id", memory: Any = None, verbose: bool = False
    ) -> None:
        self.steps = steps
        self.group = group
        self.memory = memory
        self.verbose = verbose

    def __getitem__(self, ind: Any) -> Any:
        if isinstance(ind, slice):
            return Pipeline(self.steps, memory=self.memory, verbose=self.verbose)[ind]
        return super().__getitem__(ind)

    def fit(self, X: Any, y: Any, *, sample_weight: Any = None, eval_set: Any = None, **params: Any) -> Self:
        """Fit the transformers in turn, then the ranker on rows sorted by group.

        Parameters
        ----------
        X : data frame
            Rows in any order, with the column `group`.
        y : array-like of shape (n_rows,)
            Relevance, row by row whatever its index; whole degrees from 0 for lambdarank and XGBoost's ``rank:ndcg``.
        sample_weight : array-like of shape (n_rows,), optional
            Weights of the rows. XGBoost and CatBoost's pairwise losses weigh groups, and want one weight within each.
        eval_set : list of (X, y), optional
            What the ranker measures itself on, for early stopping. Its groups may be among those of `X`. A single
            pair, or none, will do. When there are several, LightGBM stops by any of them, XGBoost and CatBoost by
            the last.
        **params
            ``step__name=value`` for the `fit` of a step, such as ``ranker__callbacks``; with metadata routing, what the
            steps requested.

        Raises
        ------
        InputError
            When the last step is no ranker, a group is null, labels or weights do not fit the rows or the ranker, or
            `params` holds what has an order of rows.
        """
        self.steps = list(self.steps)
        self._validate_steps()
        if len(self.steps) < 2:
            raise InputError(
                f"the only step is {self.steps[0][0]!r}, but a transformer is needed before it, or the ids would be "
                "features: put one that picks the columns first, such as ColumnTransformer"
            )
        ranker = self.steps[-1][1]
        fit_ranker = dialect_of(ranker)
        for_features, for_ranker = self._split(params)
        # What is wrong with the rows is said before the features are computed, which may take long.
        train = self._checked(X, y, sample_weight, what="X")
        pairs = _pairs(eval_set)
        held_out = [self._checked(*pair, None, what=f"eval_set[{at}]") for at, pair in enumerate(pairs)]
        features = self[:-1]
        train = train.with_matrix(features.fit_transform(X, y, **for_features))
        self.steps[:-1] = features.steps  # with `memory` they are fitted copies
        evals = [each.with_matrix(features.transform(rows)) for each, (rows, _) in zip(held_out, pairs, strict=True)]
        fit_ranker(ranker, train, evals, _names(features, train.matrix), for_ranker)
        return self

    def predict(self, X: Any, **params: Any) -> np.ndarray[Any, Any]:
        """Return one score a row, in the rows' own order; higher is better, within a group only.

        Parameters
        ----------
        X : data frame
            Rows in any order; the column `group` is not needed.
        **params
            For the ranker's `predict`.
        """
        check_is_fitted(self)
        ranker, matrix = self.steps[-1][1], self[:-1].transform(X)
        names = getattr(ranker, "feature_names_in_", None)
        if names is not None and isinstance(matrix, np.ndarray) and dialect_of(ranker) is fit_sizes:
            # LightGBM, fitted with names, warns of an array, which has none; its scores have the same bits.
            matrix = pa.Table.from_arrays([*np.ascontiguousarray(matrix.T)], names=[*names])
        scores: np.ndarray[Any, Any] = ranker.predict(matrix, **params)
        return scores

    def score(self, X: Any, y: Any) -> float:
        """Return the mean NDCG at 10 of the groups of `X`; see `mean_ndcg`."""
        return mean_ndcg(y, self.predict(X), id_column(X, self.group, what="X"))

    def get_metadata_routing(self) -> MetadataRouter:
        """Return what metadata the steps and the pipeline itself take."""
        router = super().get_metadata_routing().add_self_request(self)
        for name, step in router:
            if name == self.steps[-1][0] and isinstance(step.router, MetadataRequest):
                for each in BY_ROW & step.router.fit.requests.keys():  # the pipeline makes them
                    del step.router.fit.requests[each]
        return router

    def _checked(self, X: Any, y: Any, sample_weight: Any, *, what: str) -> SortedRows:
        ids = id_column(X, self.group, what=what)
        require_rows(len(ids), what=what)
        labels = _numbers(y, len(ids), what=f"the labels of {what}")
        if getattr(self.steps[-1][1], "objective", "another") in BY_DEGREE:
            n_bad = int(np.count_nonzero((labels < 0) | (labels != np.floor(labels))))
            if n_bad:
                raise InputError(
                    f"{n_bad} of {len(labels)} labels of {what} are negative or fractions, but lambdarank takes whole "
                    "degrees of relevance from 0 on: round them, or take CatBoost or XGBoost's 'rank:pairwise'"
                )
        groups = Groups.of(ids)
        if sample_weight is None:
            return SortedRows(groups, groups.sort(labels))
        weights = _numbers(sample_weight, len(ids), what=f"the weights of {what}")
        return SortedRows(groups, groups.sort(labels), groups.sort(weights))

    def _split(self, params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what of `params` is for the transformers, and what for the ranker."""
        name = self.steps[-1][0]
        if get_config()["enable_metadata_routing"]:
            for_ranker = dict(process_routing(self, "fit", **params)[name].fit)
            wanted = get_routing_for_object(self[:-1]).consumes("fit_transform", params.keys())
            return {key: params[key] for key in wanted}, for_ranker
        for_ranker = {key.removeprefix(f"{name}__"): params[key] for key in params if key.startswith(f"{name}__")}
        refused = sorted(BY_ROW & for_ranker.keys())
        if refused:
            raise InputError(
                f"fit got {refused} for {name!r}, but rows are transformed and sorted before the ranker sees them: "
                "pass sample_weight= and eval_set=[(X, y)] to fit itself, and the group as a column of X"
            )
        return {key: params[key] for key in params if not key.startswith(f"{name}__")}, for_ranker


def _pairs(eval_set: Any) -> list[tuple[Any, Any]]:
    pairs = [eval_set] if isinstance(eval_set, tuple) else list([] if eval_set is None else eval_set)
    for at, pair in enumerate(pairs):
        if not (isinstance(pair, tuple | list) and len(pair) == 2):
            raise InputError(f"eval_set[{at}] is a {type(pair).__name__}, but a pair was expected: pass [(X, y)]")
    return [(rows, labels) for rows, labels in pairs]


def _numbers(values: Any, n_rows: int, *, what: str) -> Float32Array:
    """Return one float32 a row, by position: an index of pandas says nothing here."""
    try:
        numbers = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} are no numbers, but a finite number a row was expected: cast or drop them") from error
    if numbers.shape != (n_rows,):
        raise InputError(f"{what} are of shape {numbers.shape}, but {(n_rows,)} was expected: pass one a row")
    n_bad = int(np.count_nonzero(~np.isfinite(numbers)))
    if n_bad:
        raise InputError(f"{what} have {n_bad} of {n_rows} that are not finite: drop or fill those rows")
    return numbers


def _names(features: Pipeline, matrix: Any) -> list[str] | None:
    """Return the names of the features; None where a frame carries them, or there are none."""
    if not isinstance(matrix, np.ndarray):
        return None
    try:
        return [str(name) for name in features.get_feature_names_out()]
    except AttributeError:  # what scikit-learn raises for a step, or a part of one, without names
        return None
