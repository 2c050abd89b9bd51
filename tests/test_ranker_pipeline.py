"""`RankingPipeline` with each library: against the same fit done by hand, and broken in the ways that are usual."""

from __future__ import annotations

import inspect
import pickle
import uuid

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from catboost import CatBoostRanker, Pool
from hypothesis import given, settings
from hypothesis import strategies as st
from lightgbm import LGBMRanker, early_stopping
from scipy.sparse import csr_matrix
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from xgboost import XGBRanker

from llmfeat import ActivityFeatures, HistoryFeatures, InteractionLog, VectorTable
from llmfeat.errors import EmptyInputError, InputError, MissingColumnError
from llmfeat.rank.dialects import BY_ROW
from llmfeat.rank.groups import Groups, mean_ndcg
from llmfeat.rank.pipeline import RankingPipeline
from tests.conftest import random_log

COLUMNS = ["signal", "noise"]


def lightgbm_ranker(**parameters):
    given = {"n_estimators": 20, "min_child_samples": 2, "n_jobs": 1, "verbose": -1, "random_state": 0, **parameters}
    return LGBMRanker(importance_type="gain", **given)


def xgboost_ranker(**parameters):
    return XGBRanker(**{"n_estimators": 20, "n_jobs": 1, "random_state": 0, **parameters})


def catboost_ranker(**parameters):
    given = {"iterations": 20, "depth": 3, "thread_count": 1, "verbose": False, "random_seed": 0, **parameters}
    return CatBoostRanker(allow_writing_files=False, **given)


RANKERS = {"lightgbm": lightgbm_ranker, "xgboost": xgboost_ranker, "catboost": catboost_ranker}
SIZE = {"lightgbm": "n_estimators", "xgboost": "n_estimators", "catboost": "iterations"}


@pytest.fixture(params=list(RANKERS))
def library(request):
    return request.param


def rows_of(seed: int = 0, *, n_rows: int = 400, n_groups: int = 40) -> tuple[pd.DataFrame, pd.Series]:
    """Rows in no order, whose labels have another index: what counts is where they stand."""
    draw = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "request_id": [f"r{number}" for number in draw.integers(0, n_groups, n_rows)],
            "signal": draw.standard_normal(n_rows).astype(np.float32),
            "noise": draw.standard_normal(n_rows).astype(np.float32),
        }
    )
    labels = (frame.signal + draw.standard_normal(n_rows) > 0.8).astype(int)
    labels.index = draw.permutation(n_rows)
    return frame, labels


def features() -> ColumnTransformer:
    return ColumnTransformer([("scaled", StandardScaler(), COLUMNS)])


def pipeline_of(ranker, **parameters) -> RankingPipeline:
    return RankingPipeline([("features", features()), ("ranker", ranker)], group="request_id", **parameters)


def by_hand(library: str, train, held_out) -> np.ndarray:
    """The scores of `held_out`, by the library's own documentation; rows sorted with pandas."""
    parts = []
    for frame, labels in (train, held_out):
        codes = pd.factorize(frame.request_id)[0]
        order = np.argsort(codes, kind="stable")
        parts.append((frame.iloc[order], labels.to_numpy()[order], codes[order]))
    scaled = features().fit(train[0])
    (matrix, labels, ids), (held_matrix, held_labels, held_ids) = [
        (scaled.transform(part[0]), part[1], part[2]) for part in parts
    ]
    sizes, held_sizes = np.bincount(ids), np.bincount(held_ids)
    if library == "lightgbm":
        ranker = lightgbm_ranker(n_estimators=60)
        held = {"eval_X": (held_matrix,), "eval_y": (held_labels,), "eval_group": [held_sizes]}
        ranker.fit(matrix, labels, group=sizes, **held, callbacks=[early_stopping(3, verbose=False)])
    elif library == "xgboost":
        ranker = xgboost_ranker(n_estimators=60, early_stopping_rounds=3)
        ranker.fit(matrix, labels, qid=ids, eval_set=[(held_matrix, held_labels)], eval_qid=[held_ids])
    else:
        ranker = catboost_ranker(iterations=60, early_stopping_rounds=3)
        ranker.fit(Pool(matrix, labels, group_id=ids), eval_set=Pool(held_matrix, held_labels, group_id=held_ids))
    return ranker.predict(scaled.transform(held_out[0]))


def stopped_early(library: str) -> tuple[RankingPipeline, dict]:
    if library == "lightgbm":
        return pipeline_of(lightgbm_ranker(n_estimators=60)), {"ranker__callbacks": [early_stopping(3, verbose=False)]}
    ranker = RANKERS[library](**{SIZE[library]: 60, "early_stopping_rounds": 3})
    return pipeline_of(ranker), {}


def n_trees(pipeline: RankingPipeline) -> int:
    ranker = pipeline["ranker"]
    if isinstance(ranker, LGBMRanker):
        return ranker.best_iteration_
    return ranker.best_iteration + 1 if isinstance(ranker, XGBRanker) else ranker.tree_count_


class TestAgainstTheFitByHand:
    def test_the_same_bits(self, library):
        train, held_out = rows_of(0), rows_of(1)
        pipeline, options = stopped_early(library)
        pipeline.fit(*train, eval_set=[held_out], **options)
        assert 0 < n_trees(pipeline) < 60
        np.testing.assert_array_equal(pipeline.predict(held_out[0]), by_hand(library, train, held_out))

    def test_a_double_that_does_not_sort_fails_that_check(self, library, monkeypatch):
        monkeypatch.setattr(Groups, "sort", lambda self, rows: np.asarray(rows))
        with pytest.raises(AssertionError):
            self.test_the_same_bits(library)

    def test_a_double_that_leaves_the_held_out_rows_untransformed_fails_that_check(self, library, monkeypatch):
        """What a plain pipeline does with ``ranker__eval_set``."""
        transform, held_out = Pipeline.transform, rows_of(1)[0]

        def skipping(self, X):
            return held_out[COLUMNS].to_numpy() * 100 if X is held_out else transform(self, X)

        pipeline, options = stopped_early(library)
        with monkeypatch.context() as patched:
            patched.setattr(Pipeline, "transform", skipping)
            pipeline.fit(*rows_of(0), eval_set=[(held_out, rows_of(1)[1])], **options)
        assert not np.array_equal(pipeline.predict(held_out), by_hand(library, rows_of(0), rows_of(1)))


class TestRows:
    @given(seed=st.integers(0, 50))
    @settings(max_examples=5, deadline=None)
    def test_scores_are_in_the_rows_own_order(self, seed):
        frame, labels = rows_of(0)
        pipeline = pipeline_of(lightgbm_ranker()).fit(frame, labels)
        shuffled = np.random.default_rng(seed).permutation(len(frame))
        np.testing.assert_array_equal(pipeline.predict(frame.iloc[shuffled]), pipeline.predict(frame)[shuffled])

    def test_predict_needs_no_groups(self, library):
        frame, labels = rows_of(0)
        pipeline = pipeline_of(RANKERS[library]()).fit(frame, labels)
        scores = pipeline.predict(frame)
        np.testing.assert_array_equal(pipeline.predict(frame[COLUMNS].assign(request_id=None)), scores)
        np.testing.assert_array_equal(pipeline.predict(frame.iloc[:1]), scores[:1])

    def test_the_order_of_whole_groups_rows_says_nothing_of_the_index(self, library):
        frame, labels = rows_of(0)
        plain = pipeline_of(RANKERS[library]()).fit(frame, labels.to_numpy())
        indexed = pipeline_of(RANKERS[library]()).fit(frame.set_index(pd.Index(range(400, 0, -1))), labels)
        np.testing.assert_array_equal(plain.predict(frame), indexed.predict(frame))

    @pytest.mark.parametrize("make", [lambda number: number, str, lambda number: uuid.UUID(int=number)])
    def test_ids_of_any_kind(self, make):
        frame, labels = rows_of(0)
        numbers = frame.request_id.str[1:].astype(int)
        scores = pipeline_of(lightgbm_ranker()).fit(frame, labels).predict(frame)
        other = frame.assign(request_id=[make(number) for number in numbers])
        np.testing.assert_array_equal(pipeline_of(lightgbm_ranker()).fit(other, labels).predict(other), scores)

    def test_groups_of_one_row(self, library):
        frame, labels = rows_of(0)
        alone = frame.assign(request_id=[f"alone{at}" if at % 2 else "together" for at in range(len(frame))])
        pipeline = pipeline_of(RANKERS[library]()).fit(alone, labels, eval_set=[(alone, labels)])
        assert np.isfinite(pipeline.predict(alone)).all()

    def test_polars_gives_what_pandas_gives(self, library):
        frame, labels = rows_of(0)
        scores = pipeline_of(RANKERS[library]()).fit(frame, labels).predict(frame)
        table = pl.from_pandas(frame)
        pipeline = pipeline_of(RANKERS[library]()).fit(table, pl.Series(labels.to_numpy()), eval_set=[(table, labels)])
        np.testing.assert_array_equal(pipeline_of(RANKERS[library]()).fit(table, labels).predict(table), scores)
        assert pipeline.predict(table).shape == scores.shape

    def test_weights(self, library):
        frame, labels = rows_of(0)
        even = pipeline_of(RANKERS[library]()).fit(frame, labels).predict(frame)
        by_group = frame.request_id.str[1:].astype(int) % 3 + 1
        weighted = pipeline_of(RANKERS[library]()).fit(frame, labels, sample_weight=by_group).predict(frame)
        assert not np.array_equal(weighted, even)

    def test_weights_that_differ_within_a_group(self):
        frame, labels = rows_of(0)
        weights = np.arange(len(frame)) % 5 + 1
        # What LightGBM gets is sorted with the rows: by hand, the same.
        groups = Groups.of(frame.request_id)
        pipeline = pipeline_of(lightgbm_ranker()).fit(frame, labels, sample_weight=weights)
        hand = lightgbm_ranker().fit(
            groups.sort(pipeline[:-1].transform(frame)),
            groups.sort(labels.to_numpy()),
            sample_weight=groups.sort(weights),
            group=groups.sizes,
        )
        np.testing.assert_array_equal(hand.predict(pipeline[:-1].transform(frame)), pipeline.predict(frame))
        pipeline_of(catboost_ranker(loss_function="QueryRMSE")).fit(frame, labels, sample_weight=weights)
        with pytest.raises(InputError, match="XGBoost weighs groups, not rows"):
            pipeline_of(xgboost_ranker()).fit(frame, labels, sample_weight=weights)
        with pytest.raises(InputError, match="pairwise losses weigh groups, not rows"):
            pipeline_of(catboost_ranker()).fit(frame, labels, sample_weight=weights)


class TestHeldOutRows:
    def test_a_single_pair_an_empty_list_and_several(self, library):
        train, held_out = rows_of(0), rows_of(1)
        one, listed, several, none, empty = (
            pipeline_of(RANKERS[library]()).fit(*train, eval_set=given).predict(train[0])
            for given in (held_out, [held_out], [train, held_out], None, [])
        )
        np.testing.assert_array_equal(one, listed)
        np.testing.assert_array_equal(none, empty)
        assert several.shape == none.shape

    def test_what_is_no_pair_is_refused(self):
        frame, labels = rows_of(0)
        with pytest.raises(InputError, match=r"eval_set\[0\] is a DataFrame, but a pair was expected"):
            pipeline_of(lightgbm_ranker()).fit(frame, labels, eval_set=[frame])
        with pytest.raises(EmptyInputError, match=r"eval_set\[0\] has 0 rows"):
            pipeline_of(lightgbm_ranker()).fit(frame, labels, eval_set=[(frame[:0], labels[:0])])
        with pytest.raises(MissingColumnError, match=r"eval_set\[0\].*'request_id'"):
            pipeline_of(lightgbm_ranker()).fit(frame, labels, eval_set=[(frame[COLUMNS], labels)])

    def test_nothing_is_fitted_on_them(self):
        train, (held_out, labels) = rows_of(0), rows_of(1)
        far = held_out.assign(signal=held_out.signal + 1000)
        pipeline = pipeline_of(lightgbm_ranker()).fit(*train, eval_set=[(far, labels)])
        np.testing.assert_array_equal(
            pipeline["features"].named_transformers_["scaled"].mean_, train[0][COLUMNS].to_numpy("f8").mean(axis=0)
        )

    @pytest.mark.parametrize("name", ["eval_set", "group", "eval_group", "sample_weight", "init_score", "qid"])
    def test_the_rankers_own_arguments_are_refused(self, name):
        frame, labels = rows_of(0)
        with pytest.raises(InputError, match="rows are transformed and sorted before the ranker sees them"):
            pipeline_of(lightgbm_ranker()).fit(frame, labels, **{f"ranker__{name}": labels})


class TestRefused:
    def test_a_step_that_is_no_ranker(self):
        frame, labels = rows_of(0)
        for step in (Ridge(), "passthrough"):
            with pytest.raises(InputError, match=r"a ranker was expected, .* LGBMRanker, XGBRanker or CatBoostRanker"):
                pipeline_of(step).fit(frame, labels)
            with config_context(enable_metadata_routing=True), pytest.raises(InputError, match="a ranker was expected"):
                pipeline_of(step).fit(frame, labels)

    def test_a_ranker_alone(self):
        frame, labels = rows_of(0)
        with pytest.raises(InputError, match="a transformer is needed before it"):
            RankingPipeline([("ranker", lightgbm_ranker())], group="request_id").fit(frame, labels)

    def test_null_groups_are_counted(self):
        frame, labels = rows_of(0)
        frame.loc[[3, 5], "request_id"] = None
        with pytest.raises(InputError, match=r"'request_id' of X has 2 null ids of 400"):
            pipeline_of(lightgbm_ranker()).fit(frame, labels)

    @pytest.mark.parametrize(
        ("ranker", "refused"),
        [
            (lightgbm_ranker(), True),
            (lightgbm_ranker(objective="rank_xendcg"), True),
            (xgboost_ranker(), True),
            (xgboost_ranker(objective="rank:pairwise"), False),
            (catboost_ranker(loss_function="QueryRMSE"), False),
        ],
    )
    def test_labels_that_are_fractions(self, ranker, refused):
        frame, labels = rows_of(0)
        labels = labels + (np.arange(len(labels)) == 7) * 0.5
        if refused:
            with pytest.raises(
                InputError, match="1 of 400 labels of X are negative or fractions, but lambdarank takes"
            ):
                pipeline_of(ranker).fit(frame, labels)
        else:
            pipeline_of(ranker).fit(frame, labels)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([1, 0], r"of shape \(2,\), but \(400,\) was expected"),
            (["yes"] * 400, "are no numbers"),
            ([None] + [1] * 399, "have 1 of 400 that are not finite"),
            (np.ones((400, 1)), r"of shape \(400, 1\)"),
        ],
    )
    def test_labels_that_are_not_one_number_a_row(self, labels, message):
        with pytest.raises(InputError, match=message):
            pipeline_of(lightgbm_ranker()).fit(rows_of(0)[0], labels)

    def test_before_the_features_are_computed(self):
        class Costly(TransformerMixin, BaseEstimator):
            def fit(self, X, y=None):
                raise AssertionError("the labels should be looked at first")

            transform = fit

        pipeline = RankingPipeline([("costly", Costly()), ("ranker", lightgbm_ranker())], group="request_id")
        with pytest.raises(InputError, match="the labels of X"):
            pipeline.fit(rows_of(0)[0], [1])


class TestAsAnEstimator:
    def test_names_reach_the_ranker(self, library):
        frame, labels = rows_of(0)
        pipeline = pipeline_of(RANKERS[library]()).fit(frame, labels, eval_set=[(frame, labels)])
        ranker = pipeline["ranker"]
        names = {
            "lightgbm": lambda: ranker.booster_.feature_name(),
            "xgboost": lambda: ranker.get_booster().feature_names,
            "catboost": lambda: ranker.feature_names_,
        }[library]()
        assert names == ["scaled__signal", "scaled__noise"]
        # CatBoost's default importance of a ranking loss would need the rows again.
        by_name = ranker.get_feature_importance(type="PredictionValuesChange") if library == "catboost" else None
        importance = ranker.feature_importances_ if by_name is None else by_name
        assert importance[0] > 2 * importance[1] > 0

    def test_transformers_without_names_and_sparse_features(self, library):
        frame, labels = rows_of(0)
        pick = FunctionTransformer(lambda rows: rows[COLUMNS].to_numpy())
        pipeline = RankingPipeline([("pick", pick), ("ranker", RANKERS[library]())], group="request_id")
        scores = pipeline.fit(frame, labels).predict(frame)
        assert len(np.unique(scores)) > 5
        sparse = clone(pipeline).set_params(pick__func=lambda rows: csr_matrix(rows[COLUMNS].to_numpy()))
        assert sparse.fit(frame, labels).predict(frame).shape == scores.shape

    @pytest.mark.parametrize("where", ["constructor", "fit"])
    def test_categories_of_catboost(self, where):
        frame, labels = rows_of(0)
        frame = frame.assign(signal=(frame.signal * 3).round().astype(int).astype(str))
        columns = ColumnTransformer([("x", "passthrough", COLUMNS)], verbose_feature_names_out=False)
        ranker = catboost_ranker(**{"cat_features": ["signal"]} if where == "constructor" else {})
        steps = [("columns", columns.set_output(transform="pandas")), ("ranker", ranker)]
        options = {"ranker__cat_features": ["signal"]} if where == "fit" else {}
        pipeline = RankingPipeline(steps, group="request_id").fit(frame, labels, eval_set=(frame, labels), **options)
        assert pipeline.score(frame, labels) > 0.7

    def test_features_as_frames(self, library):
        frame, labels = rows_of(0)
        scores = pipeline_of(RANKERS[library]()).fit(frame, labels).predict(frame)
        pipeline = pipeline_of(RANKERS[library]()).set_output(transform="pandas")
        held_out = [(frame, labels)]
        assert isinstance(pipeline.fit(frame, labels, eval_set=held_out)[:-1].transform(frame), pd.DataFrame)
        np.testing.assert_array_equal(
            clone(pipeline).set_output(transform="pandas").fit(frame, labels).predict(frame), scores
        )

    def test_clone_pickle_and_parameters(self, library):
        frame, labels = rows_of(0)
        pipeline = pipeline_of(RANKERS[library]()).set_params(**{f"ranker__{SIZE[library]}": 7})
        scores = pipeline.fit(frame, labels).predict(frame)
        assert pipeline.get_params()["group"] == "request_id"
        np.testing.assert_array_equal(clone(pipeline).fit(frame, labels).predict(frame), scores)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(pipeline)).predict(frame), scores)
        assert clone(pipeline).set_params(group="user_id").group == "user_id"

    def test_slices_are_plain_pipelines(self):
        pipeline = pipeline_of(lightgbm_ranker())
        assert type(pipeline[:-1]) is Pipeline
        assert pipeline["ranker"] is pipeline[-1] is pipeline.named_steps["ranker"]

    def test_memory(self, tmp_path):
        frame, labels = rows_of(0)
        pipeline = pipeline_of(lightgbm_ranker(), memory=str(tmp_path)).fit(frame, labels)
        again = pipeline_of(lightgbm_ranker(), memory=str(tmp_path)).fit(frame, labels)
        np.testing.assert_array_equal(again.predict(frame), pipeline.predict(frame))

    def test_a_ranker_of_ones_own(self):
        class ByFirstColumn(BaseEstimator):
            def fit(self, X, y, *, group):
                self.sizes_ = group
                return self

            def predict(self, X):
                return X[:, 0]

        frame, labels = rows_of(0)
        pipeline = pipeline_of(ByFirstColumn()).fit(frame, labels)
        assert pipeline["ranker"].sizes_.sum() == 400
        assert pipeline.score(frame, labels) == mean_ndcg(labels, frame.signal, frame.request_id)

    def test_a_grid_search_over_users(self, library):
        frame, labels = rows_of(0)
        grid = {f"ranker__{SIZE[library]}": [1, 15]}
        search = GridSearchCV(pipeline_of(RANKERS[library]()), grid, cv=GroupKFold(2), error_score="raise")
        search.fit(frame, labels, groups=frame.request_id)
        assert search.best_score_ > 0.6
        assert search.predict(frame).shape == (400,)

    def test_with_metadata_routing(self):
        frame, labels = rows_of(0)
        with config_context(enable_metadata_routing=True):
            ranker = lightgbm_ranker(n_estimators=60).set_fit_request(callbacks=True, eval_at=True)
            pipeline = pipeline_of(ranker).set_fit_request(eval_set=True, sample_weight=True)
            stop = early_stopping(3, verbose=False)
            search = GridSearchCV(pipeline, {"ranker__num_leaves": [3, 7]}, cv=GroupKFold(2), error_score="raise")
            given = {"eval_set": [rows_of(1)], "callbacks": [stop], "eval_at": [3], "sample_weight": np.ones(400)}
            search.fit(frame, labels, groups=frame.request_id, **given)
            fitted = search.best_estimator_["ranker"]
            assert 0 < fitted.best_iteration_ < 60
            assert list(fitted.best_score_["valid_0"]) == ["ndcg@3"]
            routed = cross_val_score(
                pipeline_of(lightgbm_ranker()), frame, labels, params={"groups": frame.request_id}, cv=GroupKFold(2)
            )
            with pytest.raises(TypeError, match="unexpected argument"):
                pipeline.fit(frame, labels, group=[400])
        plain = cross_val_score(
            pipeline_of(lightgbm_ranker()), frame, labels, groups=frame.request_id, cv=GroupKFold(2)
        )
        np.testing.assert_array_equal(routed, plain)

    def test_held_out_rows_with_metadata_routing(self, library):
        frame, labels = rows_of(0)
        params = {"groups": frame.request_id, "eval_set": [rows_of(1)]}
        with config_context(enable_metadata_routing=True):
            pipeline = pipeline_of(RANKERS[library]()).set_fit_request(eval_set=True)
            assert (cross_val_score(pipeline, frame, labels, params=params, cv=GroupKFold(2)) > 0.6).all()
            with pytest.raises(ValueError, match=r"\[eval_set\] are passed but are not explicitly set"):
                cross_val_score(pipeline_of(RANKERS[library]()), frame, labels, params=params, cv=GroupKFold(2))

    def test_a_transformer_takes_what_it_is_passed(self):
        class Shifted(TransformerMixin, BaseEstimator):
            def fit(self, X, y=None, offset=None):
                self.offset_ = offset
                return self

            def transform(self, X):
                return X[COLUMNS].to_numpy()

        frame, labels = rows_of(0)
        pipeline = RankingPipeline([("shifted", Shifted()), ("ranker", lightgbm_ranker())], group="request_id")
        assert pipeline.fit(frame, labels, shifted__offset=3)["shifted"].offset_ == 3
        with config_context(enable_metadata_routing=True):
            pipeline = clone(pipeline)
            pipeline["shifted"].set_fit_request(offset=True)
            assert pipeline.fit(frame, labels, offset=4)["shifted"].offset_ == 4


def test_features_of_histories(library):
    frame = random_log(0)
    log = InteractionLog.from_frame(frame, label="label")
    vectors = VectorTable.from_arrays(range(30), np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32))
    union = FeatureUnion([("activity", ActivityFeatures(log)), ("history", HistoryFeatures(log, {"text": vectors}))])
    cut = 10**9 + 700 * 60
    train = frame.filter(pa.array(frame.column("timestamp").to_numpy() < cut))
    later = frame.filter(pa.array(frame.column("timestamp").to_numpy() >= cut))
    pipeline = RankingPipeline([("features", union), ("ranker", RANKERS[library]())])
    pipeline.fit(train, train.column("label"), eval_set=[(later, later.column("label"))])
    scores = pipeline.predict(later)
    np.testing.assert_array_equal(pipeline.predict(later.slice(5, 1)), scores[5:6])
    assert 0 < pipeline.score(later, later.column("label")) <= 1


def test_the_arguments_of_the_libraries_are_known():
    """A new argument of a value a row would pass by unsorted: this list is to be looked through again then."""
    known = {
        "lightgbm": "feature_name categorical_feature callbacks init_model eval_names eval_metric eval_at",
        "xgboost": "verbose xgb_model feature_weights",
        "catboost": "cat_features text_features embedding_features use_best_model verbose logging_level plot plot_file "
        "column_description verbose_eval metric_period silent early_stopping_rounds save_snapshot snapshot_file "
        "snapshot_interval init_model callbacks log_cout log_cerr",
    }
    for name, make in RANKERS.items():
        arguments = set(inspect.signature(make().fit).parameters) - {"X", "y"}
        assert arguments - BY_ROW == set(known[name].split())
