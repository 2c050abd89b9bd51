"""The pipeline that a team would put into production: rows in, lambdarank scores out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from sklearn.pipeline import FeatureUnion

from llmfeat._base.optional import import_optional
from llmfeat.evaluate.fitting import lightgbm_parameters
from llmfeat.evaluate.split import TimeSplit
from llmfeat.features import ActivityFeatures, HistoryFeatures
from llmfeat.history import InteractionLog
from llmfeat.rank.pipeline import RankingPipeline
from llmfeat.types import Int64Array, VectorSource

__all__ = ["fit_ranker", "ranking_pipeline"]

_MOST_TREES = 500
_PATIENCE = 40
_LEAST_TREES = 20
_TOP = 10


def ranking_pipeline(
    log: InteractionLog, vectors: Mapping[str, VectorSource] | None, *, n_estimators: int, seed: int
) -> RankingPipeline:
    """Return a pipeline of features of the log, similarities over `vectors` where given, and an `LGBMRanker`."""
    lightgbm = import_optional("lightgbm", purpose="the ranker")
    parts: list[tuple[str, Any]] = [("activity", ActivityFeatures(log))]
    if vectors:
        parts.append(("history", HistoryFeatures(log, vectors)))
    ranker = lightgbm.LGBMRanker(**lightgbm_parameters(seed), n_estimators=n_estimators)
    return RankingPipeline([("features", FeatureUnion(parts)), ("ranker", ranker)])


def fit_ranker(
    rows: pa.Table,
    labels: Int64Array,
    split: TimeSplit,
    log: InteractionLog,
    vectors: Mapping[str, VectorSource] | None,
    *,
    seed: int,
) -> RankingPipeline:
    """Return the pipeline fitted on the training rows, one group per user.

    The number of trees is where NDCG at 10 on the validation rows stops to grow.
    """
    lightgbm = import_optional("lightgbm", purpose="the ranker")
    stop = lightgbm.early_stopping(_PATIENCE, verbose=False)

    def take(part: Int64Array) -> tuple[pa.Table, Int64Array]:
        return rows.take(pa.array(part)), labels[part]

    pipeline = ranking_pipeline(log, vectors, n_estimators=_MOST_TREES, seed=seed)
    pipeline.fit(*take(split.fit), eval_set=[take(split.valid)], ranker__eval_at=[_TOP], ranker__callbacks=[stop])
    n_trees = pipeline["ranker"].best_iteration_
    pipeline.set_params(ranker__n_estimators=max(n_trees, _LEAST_TREES))
    return pipeline.fit(*take(split.train))
