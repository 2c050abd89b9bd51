"""One grid over all transformers that look up rows (user, item, timestamp) in a log, a table or a feature store."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import skops.io
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from llmfeat import (
    ActivityFeatures,
    FeastFeatures,
    HistoryFeatures,
    InteractionLog,
    PastFittedFeatures,
    SemanticIdFeatures,
    SemanticIds,
    UserTextFeatures,
    VectorTable,
    materialize,
)
from llmfeat.errors import MissingColumnError
from llmfeat.evaluate.controls import CollabVectors
from llmfeat.features import LearnedSimilarity, SimilarityLearner
from llmfeat.store import init_repo, view_name
from tests.conftest import random_log
from tests.stores import FINGERPRINT, apply, put_vectors

IDS = [str(item) for item in range(30)]
TABLE = VectorTable.from_arrays(IDS, np.random.default_rng(0).standard_normal((30, 12)))
WORDS = ("heat", "alien", "casino", "speed", "drama", "war")
FRAME = random_log(1)
LOG = InteractionLog.from_frame(FRAME, label="label")


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """What the feature store holds of most items."""
    repo = init_repo(tmp_path_factory.mktemp("repo"))
    put_vectors(repo / "data" / "item_vectors", {item: [float(item), 1.0] for item in IDS[2:]})
    apply(repo)
    materialize(repo)
    return repo


def make(kind, request):
    if kind == "activity":
        return ActivityFeatures(LOG)
    if kind == "history":
        return HistoryFeatures(LOG, {"x": TABLE, "y": TABLE}, half_lives_s=(3600,), sides=("all", "neg"))
    if kind == "past":
        learners = {"collab": CollabVectors(4), "learned": SimilarityLearner(TABLE, LearnedSimilarity(3))}
        return PastFittedFeatures(LOG, learners, n_blocks=3)
    if kind == "semantic":
        return SemanticIdFeatures(SemanticIds(levels=(4, 3)).fit_table(TABLE).item_codes(TABLE))
    if kind == "feast":
        return FeastFeatures(str(request.getfixturevalue("repo")), [view_name(FINGERPRINT)], max_missing_share=1)
    items = pa.table({"item_id": IDS, "title": [WORDS[at % len(WORDS)] for at in range(30)]})
    return UserTextFeatures(LOG, request.getfixturevalue("artifact"), items, item_template="{title}")


KINDS = ("activity", "feast", "history", "past", "semantic", "user_text")

# The checks of scikit-learn that give a matrix of numbers, which these refuse; each property has a test below instead.
NEEDS_COLUMNS = "X is a frame of rows with ids and times, looked up by the names of its columns"
EXPECTED_FAILED_CHECKS = dict.fromkeys(
    [
        "check_complex_data",
        "check_dict_unchanged",
        "check_dont_overwrite_parameters",
        "check_dtype_object",
        "check_estimator_sparse_array",
        "check_estimator_sparse_matrix",
        "check_estimator_sparse_tag",
        "check_estimators_dtypes",
        "check_estimators_empty_data_messages",
        "check_estimators_fit_returns_self",
        "check_estimators_nan_inf",
        "check_estimators_overwrite_params",
        "check_estimators_pickle",
        "check_f_contiguous_array_estimator",
        "check_fit2d_1feature",
        "check_fit2d_1sample",
        "check_fit2d_predict1d",
        "check_fit_check_is_fitted",
        "check_fit_idempotent",
        "check_fit_score_takes_y",
        "check_methods_sample_order_invariance",
        "check_methods_subset_invariance",
        "check_n_features_in",
        "check_n_features_in_after_fitting",
        "check_pipeline_consistency",
        "check_positive_only_tag_during_fit",
        "check_readonly_memmap_input",
        "check_transformer_data_not_an_array",
        "check_transformer_general",
        "check_transformer_preserve_dtypes",
    ],
    NEEDS_COLUMNS,
)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def features(kind, request):
    return make(kind, request)


@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.SkipTestWarning", "ignore::sklearn.exceptions.EstimatorCheckFailedWarning"
)
def test_every_check_that_needs_no_matrix_passes(features):
    results = check_estimator(features, expected_failed_checks=EXPECTED_FAILED_CHECKS, on_fail="raise", on_skip=None)
    assert Counter(each["status"] for each in results)["passed"] >= 13
    # What is expected to fail does, so that the list above stays true.
    surprises = {each["check_name"] for each in results if each["status"] == "passed"} & set(EXPECTED_FAILED_CHECKS)
    assert not surprises


def test_fit_returns_self_learns_no_parameter_and_can_be_called_again(features):
    before = features.get_params(deep=False)
    assert features.fit(FRAME, np.zeros(len(FRAME))) is features
    first = features.transform(FRAME)
    after = features.get_params(deep=False)
    assert all(after[name] is before[name] for name in before)
    assert features.fit(FRAME).transform(FRAME).tobytes() == first.tobytes()
    assert features.fit_transform(FRAME).tobytes() == first.tobytes()


def test_transform_changes_nothing(features):
    features.fit(FRAME)
    frame = FRAME.to_pandas()
    untouched, state = frame.copy(), set(vars(features))
    features.transform(frame)
    pd.testing.assert_frame_equal(frame, untouched)
    assert set(vars(features)) == state


def test_the_order_and_the_company_of_rows_change_no_bit(features):
    matrix = features.fit(FRAME).transform(FRAME)
    assert matrix.dtype in (np.float32, np.int32)
    order = np.random.default_rng(0).permutation(len(FRAME))
    assert features.transform(FRAME.take(pa.array(order))).tobytes() == matrix[order].tobytes()
    for rows in ([0], [17], [399, 3], [5, 5, 260]):
        assert features.transform(FRAME.take(pa.array(rows))).tobytes() == matrix[rows].tobytes()
    assert features.transform(FRAME.slice(0, 0)).shape == (0, matrix.shape[1])


def test_frames_of_any_library_and_other_columns_beside(features):
    matrix = features.fit(FRAME).transform(FRAME)
    for frame in (FRAME.to_pandas(), pl.from_arrow(FRAME), FRAME.append_column("more", pa.array(["x"] * len(FRAME)))):
        assert features.transform(frame).tobytes() == matrix.tobytes()
    assert features.n_features_in_ == 4
    assert list(features.feature_names_in_) == FRAME.column_names


def test_unknown_users_and_items_are_no_error(features):
    row = pa.table({"user_id": ["new"], "item_id": ["unheard of"], "timestamp": [2 * 10**9], "label": [0]})
    assert features.fit(FRAME).transform(row).shape == (1, len(features.get_feature_names_out()))


def test_a_missing_column_is_named(features):
    with pytest.raises(MissingColumnError, match=r"'item_id'"):
        features.fit(FRAME.drop_columns(["item_id"]))
    with pytest.raises(MissingColumnError, match=r"'item_id'"):
        features.fit(FRAME).transform(FRAME.drop_columns(["item_id"]))


def test_names_and_set_output(features):
    names = list(features.fit(FRAME).get_feature_names_out())
    assert len(set(names)) == len(names) == features.transform(FRAME).shape[1]
    pandas = copy.deepcopy(features).set_output(transform="pandas").transform(FRAME.to_pandas())
    assert isinstance(pandas, pd.DataFrame)
    assert list(pandas.columns) == names
    polars = copy.deepcopy(features).set_output(transform="polars").transform(FRAME.to_pandas())
    assert isinstance(polars, pl.DataFrame)
    assert polars.columns == names


def test_clones_share_what_is_large_and_fit_alike(features):
    matrix = features.fit(FRAME).transform(FRAME)
    fresh = clone(features)
    assert not [name for name in vars(fresh) if name.endswith("_") and not name.startswith("__")]
    if hasattr(features, "log"):
        assert fresh.log is features.log
    assert fresh.fit(FRAME).transform(FRAME).tobytes() == matrix.tobytes()


def test_pickle_and_skops(kind, features):
    matrix = features.fit(FRAME).transform(FRAME)
    again = pickle.loads(pickle.dumps(features))
    assert again.transform(FRAME).tobytes() == matrix.tobytes()
    if kind == "user_text":  # it holds whatever the user gave as items and model, such as frames
        return
    dumped = skops.io.dumps(features)
    needed = skops.io.get_untrusted_types(data=dumped)
    assert all(name.startswith("llmfeat.") for name in needed)
    assert skops.io.loads(dumped, trusted=needed).transform(FRAME).tobytes() == matrix.tobytes()


def test_an_opened_log_is_dumped_as_its_path(tmp_path):
    LOG.save(tmp_path / "log")
    features = ActivityFeatures(InteractionLog.open(tmp_path / "log")).fit(FRAME)
    for dumps in (pickle.dumps, skops.io.dumps):
        assert len(dumps(features)) < len(dumps(ActivityFeatures(LOG).fit(FRAME))) / 2
    dumped = skops.io.dumps(features)
    again = skops.io.loads(dumped, trusted=skops.io.get_untrusted_types(data=dumped))
    assert again.transform(FRAME).tobytes() == features.transform(FRAME).tobytes()


def test_in_pipelines_unions_and_column_transformers(features):
    matrix = features.fit(FRAME).transform(FRAME)
    places = [("f", clone(features), list(FRAME.column_names))]
    with config_context(transform_output="default"):
        for composed in (
            FeatureUnion([("f", clone(features)), ("g", clone(features))]),
            make_pipeline(clone(features), FunctionTransformer(lambda values: np.hstack([values, values]))),
            ColumnTransformer([*places, ("g", clone(features), list(FRAME.column_names))]),
        ):
            np.testing.assert_array_equal(composed.fit_transform(FRAME.to_pandas()), np.hstack([matrix, matrix]))
    names = ColumnTransformer(places).fit(FRAME.to_pandas()).get_feature_names_out()
    assert list(names) == [f"f__{name}" for name in features.get_feature_names_out()]
