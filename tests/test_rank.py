from __future__ import annotations

import uuid

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from sklearn.metrics import ndcg_score

from llmfeat import ActivityFeatures, InteractionLog, group_sizes
from llmfeat.errors import InputError
from llmfeat.rank.groups import Groups, mean_ndcg
from tests.conftest import random_log


class TestSizes:
    def test_of_runs(self):
        assert group_sizes(["b", "b", "a"]).tolist() == [2, 1]
        assert group_sizes(pd.Series([7, 7, 7])).tolist() == [3]
        assert group_sizes([]).tolist() == []

    def test_a_group_that_is_split_is_refused(self):
        with pytest.raises(InputError, match="2 groups come in 3 runs of rows"):
            group_sizes([1, 2, 1])

    def test_feeds_a_lightgbm_ranker_in_a_pipeline(self):
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


class TestGroups:
    def test_by_hand(self):
        groups = Groups.of(["b", "a", "b", "c", "a"])
        assert groups.order.tolist() == [0, 2, 1, 4, 3]
        assert groups.sizes.tolist() == [2, 2, 1]
        assert groups.ids.tolist() == [0, 0, 1, 1, 2]
        assert groups.starts.tolist() == [0, 2, 4]
        assert groups.sort([10, 20, 30, 40, 50]).tolist() == [10, 30, 20, 50, 40]

    def test_no_rows_and_one_row(self):
        assert Groups.of([]).sizes.tolist() == Groups.of([]).restore([]).tolist() == []
        assert Groups.of([7]).sort([1.5]).tolist() == Groups.of([7]).restore([1.5]).tolist() == [1.5]

    @given(st.lists(st.integers(0, 6), max_size=40))
    @settings(max_examples=50, deadline=None)
    def test_what_is_sorted_is_restored(self, ids):
        groups = Groups.of(ids)
        rows = np.arange(len(ids))
        assert groups.restore(groups.sort(rows)).tolist() == rows.tolist()
        # The sorted ids are runs of those sizes, and rows of one group keep their order.
        assert group_sizes(groups.sort(np.array(ids, dtype=int))).tolist() == groups.sizes.tolist()
        assert all((np.diff(part) > 0).all() for part in np.split(groups.order, groups.starts[1:]))

    def test_a_double_that_sorts_twice_fails_that_check(self, monkeypatch):
        monkeypatch.setattr(Groups, "restore", Groups.sort)
        with pytest.raises(AssertionError):
            self.test_what_is_sorted_is_restored.hypothesis.inner_test(self, [1, 2, 3, 1, 2])

    @pytest.mark.parametrize(
        "ids",
        [
            pd.Series([5, 3, 5], index=[9, 9, 1]),
            pd.Series(["x", "y", "x"], dtype="category"),
            pl.Series(["x", "y", "x"]),
            pa.chunked_array([["x"], ["y", "x"]]),
            [uuid.UUID(int=number) for number in (1, 2, 1)],
            np.array([1.0, 2.0, 1.0]),
        ],
    )
    def test_ids_of_any_kind(self, ids):
        assert Groups.of(ids).order.tolist() == [0, 2, 1]

    def test_null_ids_are_counted(self):
        with pytest.raises(InputError, match="the groups has 2 null ids of 3"):
            Groups.of(pd.Series(["x", None, None]))

    def test_frames_keep_their_type(self):
        groups = Groups.of(["x", "y", "x"])
        table = pa.table({"number": [0, 1, 2]})
        frame = pd.DataFrame({"number": [0, 1, 2]}, index=[2, 1, 0])
        assert groups.sort(table).column("number").to_pylist() == [0, 2, 1]
        assert groups.sort(pl.from_arrow(table))["number"].to_list() == [0, 2, 1]
        assert groups.sort(frame).number.to_list() == groups.sort(frame.number).to_list() == [0, 2, 1]
        assert groups.sort(frame).index.to_list() == [2, 0, 1]
        assert groups.sort(coo_array(frame.to_numpy())).toarray().ravel().tolist() == [0, 2, 1]

    def test_rows_that_stand_together_are_not_copied(self):
        matrix = np.zeros((3, 2))
        assert Groups.of(["y", "x", "x"]).sort(matrix) is matrix

    def test_other_rows_are_refused(self):
        for method in (Groups.of(["x", "y"]).sort, Groups.of(["x", "y"]).restore):
            with pytest.raises(InputError, match="3 rows came, but the groups have 2"):
                method([1, 2, 3])


class TestMeanNdcg:
    def test_by_hand(self):
        # Group a ranks its degree 2 below its degree 1: (1 + 3 / log2(3)) / (3 + 1 / log2(3)); b is left out.
        value = mean_ndcg([2, 0, 1, 0], [0.5, 0.3, 0.9, 0.2], ["a", "b", "a", "a"])
        assert value == pytest.approx((1 + 3 / np.log2(3)) / (3 + 1 / np.log2(3)))
        assert mean_ndcg([0, 1], [0.9, 0.1], ["a", "a"], k=1) == 0

    @given(seed=st.integers(0, 1000), levels=st.integers(1, 6), k=st.integers(1, 12))
    @settings(max_examples=25, deadline=None)
    def test_is_that_of_scikit_learn(self, seed, levels, k):
        draw = np.random.default_rng(seed)
        labels, scores = draw.integers(0, 4, (5, 8)), draw.integers(0, levels, (5, 8)).astype(float)
        labels[:, 0] = 1
        expected = ndcg_score(np.exp2(labels) - 1, scores, k=k)
        shuffled = draw.permutation(40)
        groups = np.repeat(np.arange(5), 8)[shuffled]
        assert mean_ndcg(labels.ravel()[shuffled], scores.ravel()[shuffled], groups, k=k) == pytest.approx(expected)

    def test_a_double_that_breaks_ties_by_position_differs(self):
        """A constant score says nothing: with ties broken by position, the order of the rows would."""
        tied = mean_ndcg([1, 0, 0], [0, 0, 0], ["a"] * 3)
        assert tied == mean_ndcg([0, 0, 1], [0, 0, 0], ["a"] * 3)
        broken = mean_ndcg([1, 0, 0], [0.3, 0.2, 0.1], ["a"] * 3)
        assert broken == 1 != tied

    def test_what_cannot_be_measured_is_refused(self):
        with pytest.raises(InputError, match="none of 1 groups has a label over 0"):
            mean_ndcg([0, 0], [1, 2], ["a", "a"])
        with pytest.raises(InputError, match="1 of 2 scores are not finite"):
            mean_ndcg([0, 1], [1, np.nan], ["a", "a"])
        with pytest.raises(InputError, match="3 rows came"):
            mean_ndcg([0, 1, 1], [1, 2, 3], ["a", "a"])
        with pytest.raises(InputError, match="none of 0 groups"):
            mean_ndcg([], [], [])
