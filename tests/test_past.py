from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.base import clone

from llmfeat import HistoryFeatures, InteractionLog, VectorTable
from llmfeat.errors import InputError
from llmfeat.features import LearnedSimilarity, PastFittedFeatures, SimilarityLearner
from tests.conftest import random_log

US = 10**6


class Recorder:
    """Learns nothing, and keeps the last moment of every log that it was shown."""

    def __init__(self):
        self.last_us = []

    def learn(self, log):
        self.last_us.append(int(log.times_us.max()))
        return VectorTable.from_arrays(log.item_ids, np.eye(len(log.item_ids)))

    def __deepcopy__(self, memo):
        return self


@pytest.fixture
def frame():
    return random_log(2, n_events=800)


@pytest.fixture
def log(frame):
    return InteractionLog.from_frame(frame, label="label")


def test_vectors_are_learned_from_the_past_of_each_block(frame, log):
    recorder = Recorder()
    features = PastFittedFeatures(log, {"x": recorder}, n_blocks=4).fit(frame)
    assert [part is None for part in features.parts_] == [True, True, False, False, False, False]
    assert all(last < edge for last, edge in zip(recorder.last_us, features.edges_us_[2:], strict=True))
    has_vector = features.transform(frame)[:, 0]
    times = frame.column("timestamp").to_numpy() * US
    assert np.isnan(has_vector[times < features.edges_us_[2]]).all()  # nothing is known before the first block
    assert has_vector[times >= features.edges_us_[2]].mean() > 0.9


def test_a_lag_moves_what_is_learned_from_back(frame, log):
    at_once, late = Recorder(), Recorder()
    PastFittedFeatures(log, {"x": at_once}, n_blocks=4).fit(frame)
    PastFittedFeatures(log, {"x": late}, n_blocks=4, history_lag_s=3600).fit(frame)
    assert all(a - b >= 3600 * US // 2 for a, b in zip(at_once.last_us[-3:], late.last_us[-3:], strict=True))


def test_labels_that_are_not_known_yet_teach_nothing(frame):
    recorder = Recorder()
    log = InteractionLog.from_frame(frame, label="label", available_after_s=7200)
    features = PastFittedFeatures(log, {"x": recorder}, n_blocks=4).fit(frame)
    edges = features.edges_us_[-len(recorder.last_us) :]
    assert all(last < edge - 7200 * US for last, edge in zip(recorder.last_us, edges, strict=True))


def test_rows_before_the_fitted_ones_see_no_vectors(frame, log):
    frame = frame.sort_by("timestamp")
    features = PastFittedFeatures(log, {"x": Recorder()}).fit(frame.slice(400))
    early = frame.filter(pc.less(frame["timestamp"], frame["timestamp"][400]))
    assert np.isnan(features.transform(early)).all()


def test_rows_after_the_fitted_ones_see_what_history_features_see_of_the_same_vectors(frame, log):
    frame = frame.sort_by("timestamp")
    early, late = frame.slice(0, 500), frame.slice(700)
    table = VectorTable.from_arrays([str(item) for item in range(30)], np.random.default_rng(0).normal(size=(30, 5)))
    learner = SimilarityLearner(table, LearnedSimilarity(3))
    features = PastFittedFeatures(log, {"x": learner}).fit(early)
    learned = learner.learn(log.until(int(features.edges_us_[-1])))
    expected = HistoryFeatures(log, {"x": learned}).fit(late)
    assert features.transform(late).tobytes() == expected.transform(late).tobytes()
    assert list(features.get_feature_names_out()) == list(expected.get_feature_names_out())


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"n_blocks": 0}, "n_blocks=0"),
        ({"min_events": 0}, "min_events=0"),
        ({"learners": {}}, "a mapping of names to vector learners"),
        ({"learners": {"x": VectorTable.from_arrays(["a"], [[1.0]])}}, "go into HistoryFeatures"),
        ({"top_k": 0}, "top_k=0"),
    ],
)
def test_bad_parameters(log, frame, parameters, said):
    with pytest.raises(InputError, match=said):
        PastFittedFeatures(**{"log": log, "learners": {"x": Recorder()}, **parameters}).fit(frame)


def test_a_clone_learns_the_same(frame, log):
    table = VectorTable.from_arrays([str(item) for item in range(30)], np.random.default_rng(0).normal(size=(30, 5)))
    features = PastFittedFeatures(log, {"x": SimilarityLearner(table, LearnedSimilarity(3))})
    first = features.fit(frame).transform(frame)
    assert clone(features).fit(frame).transform(frame).tobytes() == first.tobytes()
    assert features.transform(pa.table(frame.slice(5, 1))).tobytes() == first[5:6].tobytes()
