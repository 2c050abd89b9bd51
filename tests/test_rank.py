from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from llmfeat import ActivityFeatures, InteractionLog, group_sizes
from llmfeat.errors import InputError
from tests.conftest import random_log


def test_sizes_of_runs():
    assert group_sizes(["b", "b", "a"]).tolist() == [2, 1]
    assert group_sizes(pd.Series([7, 7, 7])).tolist() == [3]
    assert group_sizes([]).tolist() == []


def test_a_group_that_is_split_is_refused():
    with pytest.raises(InputError, match="2 groups come in 3 runs of rows"):
        group_sizes([1, 2, 1])


def test_feeds_a_lightgbm_ranker_in_a_pipeline():
    from lightgbm import LGBMRanker
    from sklearn.pipeline import Pipeline

    frame = random_log(0).sort_by("user_id")
    log = InteractionLog.from_frame(frame, label="label")
    ranker = LGBMRanker(n_estimators=5, min_child_samples=2, verbose=-1)
    pipeline = Pipeline([("features", ActivityFeatures(log)), ("ranker", ranker)])
    labels = frame.column("label").to_numpy()
    pipeline.fit(frame, labels, ranker__group=group_sizes(frame.column("user_id")))
    scores = pipeline.predict(frame)
    assert scores.shape == (len(frame),)
    assert len(np.unique(scores)) > 5
    one = pa.table({"user_id": [0], "item_id": [1], "timestamp": [10**9 + 10**6]})
    assert np.isfinite(pipeline.predict(one)).all()
