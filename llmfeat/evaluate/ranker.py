"""The pipeline that a team would put into production: rows in, lambdarank scores out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.pipeline import FeatureUnion, Pipeline

from llmfeat._base.frames import id_column
from llmfeat._base.optional import import_optional
from llmfeat.evaluate.arms import lightgbm_parameters
from llmfeat.evaluate.split import TimeSplit
from llmfeat.features import ActivityFeatures, HistoryFeatures
from llmfeat.history import InteractionLog
from llmfeat.rank import group_sizes
from llmfeat.types import Int64Array, VectorSource

__all__ = ["fit_ranker", "ranking_pipeline"]

_MOST_TREES = 500
_PATIENCE = 40
_LEAST_TREES = 20
_TOP = 10


def ranking_pipeline(
    log: InteractionLog, vectors: Mapping[str, VectorSource] | None, *, n_estimators: int, seed: int
) -> Pipeline:
    """Return a pipeline of features of the log, similarities over `vectors` where given, and an `LGBMRanker`."""
    lightgbm = import_optional("lightgbm", purpose="the ranker")
    parts: list[tuple[str, Any]] = [("activity", ActivityFeatures(log))]
    if vectors:
        parts.append(("history", HistoryFeatures(log, vectors)))
    ranker = lightgbm.LGBMRanker(**lightgbm_parameters(seed), n_estimators=n_estimators)
    return Pipeline([("features", FeatureUnion(parts)), ("ranker", ranker)])


def fit_ranker(
    rows: pa.Table,
    labels: Int64Array,
    split: TimeSplit,
    log: InteractionLog,
    vectors: Mapping[str, VectorSource] | None,
    *,
    seed: int,
) -> Pipeline:
    """Return the pipeline fitted on the training rows, one group per user.

    The number of trees is where NDCG at 10 on the validation rows stops to grow.
    """
    lightgbm = import_optional("lightgbm", purpose="the ranker")
    users = id_column(rows, "user_id", what="the rows")

    def grouped(part: Int64Array) -> tuple[pa.Table, Int64Array, Int64Array]:
        codes = users.take(pa.array(part)).dictionary_encode().indices.to_numpy()
        order = part[np.argsort(codes, kind="stable")]
        return rows.take(pa.array(order)), labels[order], group_sizes(users.take(pa.array(order)))

    pipeline = ranking_pipeline(log, vectors, n_estimators=_LEAST_TREES, seed=seed)
    fit_rows, fit_labels, fit_groups = grouped(split.fit)
    valid_rows, valid_labels, valid_groups = grouped(split.valid)
    features = pipeline[:-1].fit(fit_rows)
    fit = lightgbm.Dataset(features.transform(fit_rows), fit_labels, group=fit_groups)
    valid = fit.create_valid(features.transform(valid_rows), valid_labels, group=valid_groups)
    parameters = {**lightgbm_parameters(seed), "objective": "lambdarank", "metric": "ndcg", "eval_at": [_TOP]}
    stop = lightgbm.early_stopping(_PATIENCE, verbose=False)
    n_trees = lightgbm.train(parameters, fit, _MOST_TREES, valid_sets=[valid], callbacks=[stop]).best_iteration
    train_rows, train_labels, train_groups = grouped(split.train)
    pipeline.set_params(ranker__n_estimators=max(n_trees, _LEAST_TREES))
    return pipeline.fit(train_rows, train_labels, ranker__group=train_groups)
