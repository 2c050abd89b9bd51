"""Vectors as CatBoost's embedding features, in its own ranker."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from catboost import CatBoostRanker
from sklearn.base import clone
from sklearn.pipeline import FeatureUnion

from llmfeat import ActivityFeatures, InteractionLog, RankingPipeline, VectorTable
from llmfeat.errors import EmptyInputError, InputError, TableFingerprintError
from llmfeat.rank.adapters.catboost import EmbeddingColumn

DRAW = np.random.default_rng(0)
N_REQUESTS, N_CANDIDATES = 120, 8
TABLE = VectorTable.from_arrays(range(40), DRAW.standard_normal((40, 5)))


@pytest.fixture(scope="module")
def rows():
    item = DRAW.integers(0, 40, N_REQUESTS * N_CANDIDATES)
    likes = TABLE.lookup(item) @ np.array([2.0, -1.0, 0.5, 0.0, 1.0])
    return pd.DataFrame(
        {
            "request_id": np.repeat(np.arange(N_REQUESTS), N_CANDIDATES),
            "user_id": np.repeat(DRAW.integers(0, 9, N_REQUESTS), N_CANDIDATES),
            "item_id": item,
            "timestamp": pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(np.arange(len(item)), unit="s"),
            "clicked": (likes > 0).astype(int),
        }
    ).sample(frac=1, random_state=0)


def test_the_ranker_learns_from_them_in_a_pipeline(rows):
    log = InteractionLog.from_frame(rows)  # which says nothing of what was clicked
    parts = [("activity", ActivityFeatures(log)), ("text", EmbeddingColumn(TABLE))]
    features = FeatureUnion(parts, verbose_feature_names_out=False).set_output(transform="pandas")
    ranker = CatBoostRanker(
        iterations=20, loss_function="QueryRMSE", embedding_features=["vector"], thread_count=1, random_seed=0,
        allow_writing_files=False, verbose=False,
    )  # fmt: skip
    train, test = rows[rows.request_id < 90], rows[rows.request_id >= 90]
    pipeline = RankingPipeline([("features", features), ("ranker", ranker)], group="request_id")
    pipeline.fit(train, train.clicked, eval_set=[(test, test.clicked)])
    importance = dict(
        zip(ranker.feature_names_, ranker.get_feature_importance(type="PredictionValuesChange"), strict=True)
    )
    assert max(importance, key=importance.get) == "vector"
    assert pipeline.score(test, test.clicked) > 0.95
    scores = pipeline.predict(test)
    assert np.array_equal(pipeline.predict(test[::-1]), scores[::-1])


def test_a_row_without_a_vector_has_the_mean_of_those_fitted_on(rows):
    column = EmbeddingColumn(TABLE, name="text").fit(rows)
    found = column.transform(pd.DataFrame({"item_id": [3, 999]}))
    assert list(found.columns) == ["text"] == column.get_feature_names_out().tolist()
    assert np.array_equal(found["text"][0], TABLE.lookup([3])[0])
    assert np.allclose(found["text"][1], TABLE.lookup(rows.item_id).mean(axis=0), atol=1e-6)


def test_what_makes_no_sense(rows):
    with pytest.raises(InputError, match="none of the 960 rows has a vector"):
        EmbeddingColumn(VectorTable.from_arrays(["x"], [[1.0]])).fit(rows)
    with pytest.raises(InputError, match=r"VectorTable\.from_arrays"):
        EmbeddingColumn(np.eye(2)).fit(rows)
    with pytest.raises(EmptyInputError, match="0 rows"):
        EmbeddingColumn(TABLE).fit(rows[:0])
    column = clone(EmbeddingColumn(TABLE)).fit(rows)
    column.vectors = VectorTable.from_arrays(range(40), np.ones((40, 5)))
    with pytest.raises(TableFingerprintError, match="or refit"):
        column.transform(rows)
