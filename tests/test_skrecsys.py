"""Our features inside skrecsys' own cascade, each pair as of its time."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import NotFittedError
from skrecsys.base import is_features
from skrecsys.compose import Cascade, ConcatFeatures, GeneratorScores, PointwiseRanker
from skrecsys.recommendation import MostPopularRecommender

from llmfeat import ActivityFeatures, HistoryFeatures, InteractionLog, VectorTable
from llmfeat.errors import InputError
from llmfeat.rank.adapters.skrecsys import LogFeatures, vector_features

DRAW = np.random.default_rng(0)
T0 = 1_700_000_000
EVENTS = pd.DataFrame(
    {
        "user_id": DRAW.integers(0, 20, 400),
        "item_id": DRAW.integers(100, 130, 400),
        "timestamp": T0 + np.arange(400) * 60,
    }
)
TABLE = VectorTable.from_arrays(range(100, 130), DRAW.standard_normal((30, 4)))
LOG = InteractionLog.from_frame(EVENTS)
TRANSFORMERS = {"history": HistoryFeatures(LOG, {"text": TABLE}), "activity": ActivityFeatures(LOG)}


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("kind", ["numbers", "datetimes"])
def test_pairs_get_what_the_transformer_gives(name, kind):
    transformer = TRANSFORMERS[name]
    component = LogFeatures(transformer).fit(EVENTS.to_numpy())
    pairs = EVENTS.to_numpy()[::-3]
    if kind == "datetimes":
        pairs = np.column_stack([pairs[:, :2].astype(object), pairs[:, 2].astype("datetime64[s]").astype(object)])
    wanted = transformer.fit(EVENTS).transform(EVENTS[::-3])
    np.testing.assert_array_equal(component.transform(pairs), wanted.astype(np.float64))
    assert component.get_feature_names_out().tolist() == transformer.get_feature_names_out().tolist()
    assert is_features(component)


def test_a_pair_without_a_time_sees_the_whole_log():
    component = LogFeatures(TRANSFORMERS["activity"]).fit()
    column = list(component.get_feature_names_out()).index("user_n_events")
    pairs = np.array([[3.0, 101.0, np.nan], [3.0, 101.0, T0 + 100 * 60.0]])
    counts = component.transform(pairs)[:, column]
    user = EVENTS[EVENTS.user_id == 3]
    assert counts.tolist() == [len(user), (user.timestamp < T0 + 100 * 60).sum()]


def test_the_whole_log_is_that_with_what_is_held_back():
    """A lag delays what rows see of a log that knows more; as of now, the log itself knows no more."""
    component = LogFeatures(ActivityFeatures(LOG, history_lag_s=3600)).fit()
    column = list(component.get_feature_names_out()).index("user_n_events")
    found = component.transform(np.array([[3.0, 101.0, np.nan]]))
    assert found[0, column] == (EVENTS.user_id == 3).sum()


def test_large_ids_stay_apart():
    ids = [10**18 + step for step in (200, 400, 600)]
    component = vector_features(VectorTable.from_arrays(ids, np.eye(3)), ids).fit()
    found = component.transform(np.array([[1, 10**18 + 201], [1, 10**18 + 400]]))
    assert np.isnan(found[0]).all()
    assert found[1].tolist() == [0, 1, 0]


def test_ids_of_arrow_are_ids():
    table = VectorTable.from_arrays(["a", "b"], np.eye(2))
    component = vector_features(table, table.ids).fit()
    assert component.transform(np.array([["u", "b"]], dtype=object)).tolist() == [[0, 1]]
    with pytest.raises(InputError, match="none of the 2 items"):
        vector_features(table, ["x", "y"])


def test_what_is_not_fitted_says_so():
    component = LogFeatures(TRANSFORMERS["activity"])
    for method in (component.get_feature_names_out, lambda: component.transform(EVENTS.to_numpy()[:2])):
        with pytest.raises(NotFittedError):
            method()


def test_a_shallow_copy_is_of_its_own():
    other = copy.copy(LogFeatures(TRANSFORMERS["activity"]).fit())
    other.set_params(transformer=TRANSFORMERS["history"]).fit()
    assert other.transform(EVENTS.to_numpy()[:3]).shape[1] == len(other.get_feature_names_out())


def test_copies_and_pickles_give_the_same():
    component = LogFeatures(TRANSFORMERS["history"]).fit()
    pairs = EVENTS.to_numpy()[:50]
    for other in (clone(component).fit(), pickle.loads(pickle.dumps(component))):
        np.testing.assert_array_equal(other.transform(pairs), component.transform(pairs))


def test_what_is_no_transformer_is_refused():
    with pytest.raises(InputError, match="a transformer of a log was expected"):
        LogFeatures(TABLE).fit()


def test_vectors_are_joined_by_the_ids_of_the_interactions():
    component = vector_features(TABLE, [100, 101, 500], name="llm").fit()
    found = component.transform(np.array([[1, 101], [1, 500], [1, 7]]))
    np.testing.assert_array_equal(found[0], TABLE.lookup([101])[0].astype(np.float64))
    assert np.isnan(found[1:]).all()
    assert component.get_feature_names_out().tolist() == [f"llm_{at}" for at in range(4)]


class Watched(LogFeatures):
    """Keeps what it was asked."""

    def __init__(self, transformer=None, asked=None):
        self.asked = asked
        super().__init__(transformer)

    def transform(self, pairs, *, scores=None, context=None):
        found = super().transform(pairs, scores=scores, context=context)
        self.asked.append((np.array(pairs), found))
        return found


class Asked(list):
    """A list that copies share."""

    def __deepcopy__(self, memo):
        return self


def test_a_cascade_sees_nothing_of_the_events_it_holds_out():
    asked = Asked()
    features = ConcatFeatures(
        [GeneratorScores(), Watched(TRANSFORMERS["activity"], asked), vector_features(TABLE, range(100, 130))]
    )
    cascade = Cascade(
        MostPopularRecommender(),
        features,
        PointwiseRanker(HistGradientBoostingClassifier(max_iter=5)),
        n_retrieved=10,
        time=True,
    ).fit(EVENTS.to_numpy())
    items, _ = cascade.recommend([1, 2], n_recommendations=3)
    assert items.shape == (2, 3)
    (taught, columns), *_, (served, _) = asked
    names = list(ActivityFeatures(LOG).fit(EVENTS).get_feature_names_out())
    counts = columns[:, names.index("user_n_events")]
    user_of, time_of = taught[:, 0], taught[:, 2].astype(np.int64)
    users, times = EVENTS.user_id.to_numpy(), EVENTS.timestamp.to_numpy()
    before = [int(((users == user) & (times < time)).sum()) for user, time in zip(user_of, time_of, strict=True)]
    ever = [int((users == user).sum()) for user in user_of]
    assert counts.tolist() == before
    assert before != ever  # what a leak would count
    assert pd.isna(served[:, 2]).all()


def test_times_are_those_of_arrow_too():
    frame = pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp": pa.array([T0], pa.timestamp("s", "UTC"))})
    component = LogFeatures(ActivityFeatures(InteractionLog.from_frame(frame))).fit()
    column = list(component.get_feature_names_out()).index("user_n_events")
    pairs = np.array([["u", "a", np.datetime64(T0 + 1, "s")], ["u", "a", np.datetime64("NaT")]], dtype=object)
    assert component.transform(pairs)[:, column].tolist() == [1, 1]
