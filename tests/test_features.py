from __future__ import annotations

import gc
import tracemalloc
import weakref

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeat import ActivityFeatures, HistoryFeatures, InteractionLog, VectorTable
from llmfeat.errors import InputError, TableFingerprintError
from llmfeat.evaluate.controls import CollabVectors
from llmfeat.features import PastFittedFeatures
from llmfeat.features._activity import ACTIVITY_NAMES
from llmfeat.features._kernel import History, KernelSpec, similarity_features
from llmfeat.features._products import exact_unit
from llmfeat.features._summaries import STATISTICS
from llmfeat.history import AsOfIndex, LabelDelay
from tests.conftest import random_log

US = 10**6
VECTORS = VectorTable.from_arrays(["a", "b", "c"], [[1, 0], [0.6, 0.8], [0, 2]])


def random_vectors(seed: int, n_items: int = 30, dim: int = 24) -> VectorTable:
    vectors = np.random.default_rng(seed).standard_normal((n_items, dim)).astype(np.float32)
    vectors[3] = np.nan
    return VectorTable.from_arrays([str(item) for item in range(n_items)], vectors)


def features_of(kind: str, log: InteractionLog, **parameters):
    if kind == "activity":
        return ActivityFeatures(log, **parameters)
    if kind == "collab":
        return PastFittedFeatures(log, {"collab": CollabVectors()}, **parameters)
    every = {"statistics": tuple(STATISTICS), "half_lives_s": (3600,), "max_events": 20}
    return HistoryFeatures(log, {"x": random_vectors(0)}, **{**every, **parameters})


KINDS = ("activity", "history", "collab")


class TestKernel:
    def compute(self, vectors, candidate, events, labels, spec, labelled=None):
        history = History(
            np.array(events, dtype=np.int64), np.array(labels, dtype=np.float32), US * np.arange(len(events))
        )
        row = similarity_features(
            np.array(vectors, dtype=np.float32),
            np.array([candidate]),
            np.array([0]),
            np.array([len(events)]),
            history,
            spec,
            as_of_us=np.array([10 * US]),
            labelled=None if labelled is None else np.array([labelled]),
        )[0]
        return dict(zip(spec.names, row.tolist(), strict=True))

    SPEC = KernelSpec(
        max_events=4,
        top_k=2,
        half_lives=(1,),
        half_lives_s=(2,),
        temperatures=(0.5,),
        statistics=tuple(STATISTICS),
    )
    VECTORS = ((1, 0), (0.6, 0.8), (0, 2), (-3, 0))  # cosines to the first: 1, .6, 0, -1

    def test_by_hand(self):
        got = self.compute(self.VECTORS, 0, [3, 1, 2, 1], [0, 1, 1, 0], self.SPEC)
        weights = np.exp(np.array([-1, 0.6, 0, 0.6]) / 0.5)
        halves, seconds = np.array([1, 2, 4, 8]), 2 ** (-np.array([10, 9, 8, 7]) / 2)
        cosines = np.array([-1, 0.6, 0, 0.6])
        liked = np.array([False, True, True, False])
        unit = np.array([[-1, 0], [0.6, 0.8], [0, 1], [0.6, 0.8]])

        def mean(weight, side):
            return (cosines * weight * side).sum() / (weight * side).sum()

        def profile(side):
            return unit[side].sum(axis=0)[0] / np.linalg.norm(unit[side].sum(axis=0))

        expected = {
            "has_vector": 1,
            "history_share": 1,
            "n": 4,
            "pos_n": 2,
            "neg_n": 2,
            "last": 0.6,
            "max": 0.6,
            "mean": 0.05,
            "top2": 0.6,
            "pos_max": 0.6,
            "pos_mean": 0.3,
            "pos_top2": 0.3,
            "neg_max": 0.6,
            "neg_mean": -0.2,
            "neg_top2": -0.2,
            **{f"{side}decay1": mean(halves, mask) for side, mask in (("", 1), ("pos_", liked), ("neg_", ~liked))},
            **{f"{side}decay2s": mean(seconds, mask) for side, mask in (("", 1), ("pos_", liked), ("neg_", ~liked))},
            "profile": profile(liked | ~liked),
            "pos_profile": profile(liked),
            "neg_profile": profile(~liked),
            "label_t0.5": (weights[1] + weights[2]) / weights.sum(),
            "nearest_label": 0,
            "nearest_events_ago": 0,
            "nearest_age_s": 7,
            "novelty": 0.4,
        }
        assert got == pytest.approx(expected, abs=1e-6)
        assert list(got) == list(self.SPEC.names)

    def test_a_decayed_mean_is_of_what_is_there_however_old(self):
        spec = KernelSpec(max_events=50, half_lives=(0.3,), half_lives_s=(0.01,), statistics=("mean", "decay"))
        got = self.compute(self.VECTORS, 0, [1] + [3] * 49, [1] + [0] * 49, spec)
        assert got["pos_decay0.3"] == got["pos_decay0.01s"] == got["pos_mean"] == pytest.approx(0.6)

    def test_ages_are_of_the_own_events_alone(self):
        """The first event of the log, of somebody else and far later, is not looked at."""
        spec = KernelSpec(max_events=3, half_lives_s=(1,), statistics=("decay", "nearest"), sides=("all",))
        history = History(np.array([1, 1]), np.ones(2, np.float32), US * np.array([10**6, 0]))
        vectors = np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)
        row = similarity_features(
            vectors, np.array([0]), np.array([1]), np.array([2]), history, spec, as_of_us=np.array([5 * US])
        )[0]
        got = dict(zip(spec.names, row.tolist(), strict=True))
        assert got["decay1s"] == got["decay5"] == pytest.approx(0.6)
        assert got["nearest_age_s"] == 5

    def test_a_profile_that_cancels_out_has_no_direction(self):
        spec = KernelSpec(max_events=3, statistics=("profile",), sides=("all",))
        assert np.isnan(self.compute([[1, 0], [0.6, 0.8], [-0.6, -0.8]], 0, [1, 2], [1, 1], spec)["profile"])
        draw = np.random.default_rng(0)
        vectors = draw.standard_normal((3, 5))
        vectors[2] = -vectors[1] + 1e-4 * vectors[0]
        value = self.compute(vectors, 0, [1, 2], [1, 1], spec)["profile"]
        assert np.isnan(value) or abs(value) <= 1

    def test_memory_beside_the_result_does_not_grow_with_the_rows(self):
        draw = np.random.default_rng(0)
        vectors = draw.standard_normal((200, 64)).astype(np.float32)
        history = History(draw.integers(0, 200, 3000), np.ones(3000, np.float32))
        spec = KernelSpec()
        beside = []
        for n_rows in (8_000, 64_000):
            start = np.sort(draw.integers(0, 2900, n_rows))
            candidates = draw.integers(0, 200, n_rows)
            tracemalloc.start()
            out = similarity_features(vectors, candidates, start, start + 60, history, spec)
            beside.append(tracemalloc.get_traced_memory()[1] - out.nbytes)
            tracemalloc.stop()
        # A few indices a row; the windows alone would be 50 times that.
        assert beside[1] - beside[0] < 100 * (64_000 - 8_000)

    def test_windows_may_nest(self):
        draw = np.random.default_rng(0)
        vectors = draw.standard_normal((50, 8)).astype(np.float32)
        history = History(draw.integers(0, 50, 60), np.ones(60, np.float32))
        start = np.repeat([0, 5, 5], [300, 2, 1])
        stop = np.repeat([50, 10, 60], [300, 2, 1])
        candidates = draw.integers(0, 50, 303)
        spec = KernelSpec()
        matrix = similarity_features(vectors, candidates, start, stop, history, spec)
        for row in (0, 299, 300, 301, 302):
            alone = slice(row, row + 1)
            one = similarity_features(vectors, candidates[alone], start[alone], stop[alone], history, spec)
            assert one.tobytes() == matrix[alone].tobytes()

    def test_a_label_that_is_not_known_yet_is_on_neither_side(self):
        known = self.compute(self.VECTORS, 0, [3, 1, 2, 1], [0, 1, 1, 0], self.SPEC)
        late = self.compute(self.VECTORS, 0, [3, 1, 2, 1], [0, 1, 1, 0], self.SPEC, labelled=2)
        assert (late["n"], late["pos_n"], late["neg_n"]) == (4, 1, 1)
        assert late["pos_max"] == late["pos_mean"] == late["pos_profile"] == pytest.approx(0.6)
        assert late["neg_max"] == late["neg_mean"] == late["neg_profile"] == pytest.approx(-1)
        weights = np.exp(np.array([-1, 0.6]) / 0.5)
        assert late["label_t0.5"] == pytest.approx(weights[1] / weights.sum())
        assert np.isnan(late["nearest_label"])
        for name in ("last", "max", "mean", "top2", "decay1", "profile", "novelty"):
            assert late[name] == known[name]

    def test_only_the_last_events_count(self):
        spec = KernelSpec(max_events=1, top_k=5)
        assert self.compute([[1, 0], [0, 1]], 0, [0, 1], [1, 1], spec)["max"] == 0

    @pytest.mark.parametrize("candidate", [-1, 1, 2])
    def test_a_candidate_without_a_direction_is_missing(self, candidate):
        vectors = [[1, 0], [np.nan, np.nan], [0, 0]]
        got = self.compute(vectors, candidate, [0], [1], KernelSpec())
        assert got.pop("has_vector") == 0
        assert got.pop("history_share") == 1
        assert all(np.isnan(value) for value in got.values())

    def test_an_event_without_a_vector_is_left_out(self):
        got = self.compute([[1, 0], [0.6, 0.8]], 0, [1, -1], [1, 0], KernelSpec())
        assert got["history_share"] == 0.5
        assert np.isnan(got["last"])
        assert got["mean"] == pytest.approx(0.6)
        assert np.isnan(got["neg_mean"])

    def test_no_history(self):
        got = self.compute([[1, 0]], 0, [], [], KernelSpec())
        assert got.pop("has_vector") == 1
        assert all(np.isnan(value) for value in got.values())

    @given(st.integers(1, 300), st.integers(0, 20))
    @settings(max_examples=20, deadline=None)
    def test_products_are_exact_in_any_order(self, dim, seed):
        draw = np.random.default_rng(seed)
        unit, _ = exact_unit(draw.standard_normal((9, dim)).astype(np.float32))
        unit = unit.astype(np.float64)
        shuffled = draw.permutation(dim)
        assert np.array_equal(unit @ unit.T, unit[:, shuffled] @ unit[:, shuffled].T)
        assert np.array_equal(unit @ unit.T, np.stack([unit @ row for row in unit]))
        assert np.abs((unit**2).sum(axis=1) - 1).max() < 1e-7 * np.sqrt(dim)

    def test_a_double_without_the_grid_is_not_exact(self):
        """The property above can fail: plain unit vectors do not have it."""
        draw = np.random.default_rng(0)
        plain = draw.standard_normal((64, 384))
        plain /= np.linalg.norm(plain, axis=1, keepdims=True)
        shuffled = draw.permutation(384)
        assert not np.array_equal(plain @ plain.T, plain[:, shuffled] @ plain[:, shuffled].T)


class TestPointInTime:
    @pytest.mark.parametrize("kind", KINDS)
    @given(st.integers(0, 30))
    @settings(max_examples=10, deadline=None)
    def test_a_future_event_changes_no_earlier_row(self, kind, seed):
        frame = random_log(seed)
        times = frame.column("timestamp").to_numpy()
        cut = int(np.median(times))
        # From the cut on, everything else happens: other items, flipped labels.
        changed = frame.to_pandas()
        later = changed.timestamp >= cut
        changed.loc[later, "item_id"] = (changed.item_id[later] + 7) % 30
        changed.loc[later, "label"] = 1 - changed.label[later]
        rows = frame.filter(pa.array(times <= cut))
        matrices = [
            features_of(kind, InteractionLog.from_frame(events, label="label")).fit(rows).transform(rows)
            for events in (frame, pa.Table.from_pandas(changed))
        ]
        np.testing.assert_array_equal(*matrices)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_double_with_at_or_before_fails_that_check(self, kind, monkeypatch):
        before = AsOfIndex.before
        monkeypatch.setattr(AsOfIndex, "before", lambda self, codes, times: before(self, codes, times + 1))
        with pytest.raises(AssertionError):
            self.test_a_future_event_changes_no_earlier_row.hypothesis.inner_test(self, kind, 1)

    @pytest.mark.parametrize("kind", KINDS)
    @given(st.integers(0, 30))
    @settings(max_examples=5, deadline=None)
    def test_a_label_that_arrives_late_changes_no_earlier_row(self, kind, seed):
        frame = random_log(seed).to_pandas()
        late_s = 7200
        cut = int(frame.timestamp.median())
        changed = frame.copy()
        unknown = changed.timestamp >= cut - late_s
        changed.loc[unknown, "label"] = 1 - changed.label[unknown]
        rows = frame[frame.timestamp <= cut]
        matrices = [
            features_of(kind, InteractionLog.from_frame(events, label="label", available_after_s=late_s))
            .fit(rows)
            .transform(rows)
            for events in (frame, changed)
        ]
        np.testing.assert_array_equal(*matrices)

    @pytest.mark.parametrize("kind", ["activity", "history", "collab"])
    def test_a_double_that_knows_labels_at_once_fails_that_check(self, kind, monkeypatch):
        monkeypatch.setattr(LabelDelay, "known_before", lambda self, as_of_us: as_of_us)
        with pytest.raises(AssertionError):
            self.test_a_label_that_arrives_late_changes_no_earlier_row.hypothesis.inner_test(self, kind, 1)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_lag_hides_what_happened_within_it(self, kind):
        frame = random_log(3)
        log = InteractionLog.from_frame(frame, label="label")
        late = frame.set_column(2, "timestamp", pa.array(frame.column("timestamp").to_numpy() - 3600))
        lagged = features_of(kind, log, history_lag_s=3600).fit(frame).transform(frame)
        if kind == "collab":
            assert not np.array_equal(lagged, features_of(kind, log).fit(frame).transform(frame), equal_nan=True)
        else:
            np.testing.assert_array_equal(lagged, features_of(kind, log).fit(late).transform(late))

    def test_shuffled_labels_say_nothing(self):
        from sklearn.metrics import roc_auc_score

        frame = random_log(5, n_events=6000, n_users=40)
        log = InteractionLog.from_frame(frame, label="label")
        matrix = features_of("history", log).fit(frame).transform(frame)
        labels = frame.column("label").to_numpy()
        names = list(features_of("history", log).fit(frame).get_feature_names_out())
        for column in (
            "label_t0.05",
            "label_t0.2",
            "pos_max",
            "neg_mean",
            "pos_decay5",
            "nearest_label",
            "max",
            "last",
        ):
            values = matrix[:, names.index(f"x_{column}")]
            there = np.isfinite(values)
            assert abs(roc_auc_score(labels[there], values[there]) - 0.5) < 0.03


class TestHistoryFeatures:
    def test_by_hand(self, log, events):
        features = HistoryFeatures(log, {"text": VECTORS}).fit(events)
        names = list(features.get_feature_names_out())
        row = pa.table({"user_id": ["u1"], "item_id": ["b"], "timestamp": [10**9 + 500]})
        got = dict(zip(names, features.transform(row)[0].tolist(), strict=True))
        assert got["text_last"] == pytest.approx(0.8)  # c, at 400 s
        assert got["text_mean"] == pytest.approx((0.6 + 1 + 0.8) / 3)
        assert got["text_pos_mean"] == pytest.approx((0.6 + 0.8) / 2)

    def test_an_item_outside_the_catalogue_is_an_indicator_not_a_zero(self, log, events):
        features = HistoryFeatures(log, {"text": VECTORS}).fit(events)
        row = pa.table({"user_id": ["u1"], "item_id": ["zz"], "timestamp": [10**9 + 500]})
        got = dict(zip(features.get_feature_names_out(), features.transform(row)[0], strict=True))
        assert got["text_has_vector"] == 0
        assert np.isnan(got["text_max"])

    def test_because_of_which_item(self, log, events):
        features = HistoryFeatures(log, {"text": VECTORS, "other": VECTORS}).fit(events)
        rows = pa.table(
            {
                "user_id": ["u1", "u1", "u1", "nobody", "u1"],
                "item_id": ["b", "c", "a", "a", "zz"],
                "timestamp": [10**9 + second for second in (350, 350, 500, 500, 500)],
            }
        )
        got = features.because(rows, source="other")
        # u1 met a at 100 s, b at 200 s, c at 400 s; b is .8 from c and .6 from a.
        assert got["because_item_id"].to_pylist() == ["b", "b", "a", None, None]
        assert got["similarity"].to_pylist() == pytest.approx([1, 0.8, 1, None, None])
        names = list(features.get_feature_names_out())
        largest = features.transform(rows)[:3, names.index("other_max")].tolist()
        assert got["similarity"].to_pylist()[:3] == largest
        with pytest.raises(InputError, match=r"the vector sources are \['text', 'other'\]"):
            features.because(rows, source="nonsense")

    def test_columns_do_not_depend_on_the_order_of_what_is_asked_for(self, log, events):
        one = HistoryFeatures(log, {"t": VECTORS}, statistics=("mean", "last"), sides=("neg", "all")).fit(events)
        two = HistoryFeatures(log, {"t": VECTORS}, statistics=("last", "mean"), sides=("all", "neg")).fit(events)
        assert list(one.get_feature_names_out()) == ["t_last", "t_mean", "t_neg_mean"]
        assert one.transform(events).tobytes() == two.transform(events).tobytes()

    def test_another_fingerprint_is_refused(self, log, events):
        features = HistoryFeatures(log, {"text": VECTORS}).fit(events)
        features.set_params(vectors={"text": VectorTable.from_arrays(["a"], [[1.0, 2.0]])})
        with pytest.raises(TableFingerprintError, match="serve the generation that the ranker was trained on"):
            features.transform(events)

    @pytest.mark.parametrize(
        ("parameters", "said"),
        [
            ({"vectors": None}, "a mapping of names to vector sources"),
            ({"vectors": {"x": np.eye(2)}}, r"VectorTable.from_arrays"),
            ({"max_events": 0}, "max_events=0"),
            ({"top_k": 1.5}, r"top_k=1\.5"),
            ({"temperatures": (0.0,)}, "numbers over 0"),
            ({"temperatures": 0.1}, "numbers over 0"),
            ({"half_lives": (-1,)}, r"half_lives=\(-1,\)"),
            ({"half_lives_s": 5}, "half_lives_s=5"),
            ({"statistics": ("maximum",)}, "one or more of"),
            ({"statistics": ()}, "one or more of"),
            ({"sides": "all"}, "one or more of"),
            ({"history_lag_s": "1h"}, "history_lag_s='1h'"),
            ({"history_lag_s": float("inf")}, "history_lag_s=inf"),
            ({"history_lag_s": -1}, "history_lag_s=-1"),
            ({"log": None}, r"InteractionLog\.from_frame"),
        ],
    )
    def test_bad_parameters(self, log, events, parameters, said):
        with pytest.raises(InputError, match=said):
            HistoryFeatures(**{"log": log, "vectors": {"text": VECTORS}, **parameters}).fit(events)


class TestActivityFeatures:
    def row(self, log, user, item, second, **parameters):
        frame = pa.table({"user_id": [user], "item_id": [item], "timestamp": [10**9 + second]})
        values = ActivityFeatures(log, **parameters).fit(frame).transform(frame)[0].tolist()
        return dict(zip(ACTIVITY_NAMES, values, strict=True))

    def test_by_hand(self, log):
        got = self.row(log, "u1", "a", 400)
        assert got["user_n_events"] == 2
        assert got["user_label_last1"] == 0
        assert got["user_label_last5"] == 0.5
        assert got["user_since_last_s"] == 200
        assert got["user_since_first_s"] == 300
        assert got["user_session_n"] == 2
        assert got["user_session_s"] == 300
        assert got["item_n_events"] == 2
        assert got["pair_n_events"] == 1
        assert got["rate"] == pytest.approx(3 / 5)
        assert got["user_rate"] == pytest.approx((1 + 10 * 3 / 5) / 12)

    def test_a_session_ends_after_half_an_hour(self, log):
        assert self.row(log, "u1", "a", 400 + 1800)["user_session_n"] == 3
        assert self.row(log, "u1", "a", 400 + 1801)["user_session_n"] == 0

    def test_time_windows(self, log):
        got = self.row(log, "u1", "a", 3600 + 150)
        assert got["user_n_1h"] == 2  # those of 200 s and 400 s
        assert got["user_n_1d"] == 3

    def test_a_new_user_and_item(self, log):
        got = self.row(log, "new", "new", 400)
        assert got["user_n_events"] == got["item_n_events"] == got["pair_n_events"] == 0
        assert got["user_rate"] == got["item_rate"] == pytest.approx(got["rate"])
        assert np.isnan(got["user_label_last5"])
        assert np.isnan(got["item_since_last_s"])

    def test_what_is_prepared_for_a_log_goes_with_it(self, events):
        log = InteractionLog.from_frame(events, label="label")
        ActivityFeatures(log).fit(events).transform(events)
        gone = weakref.ref(log)
        del log
        gc.collect()
        assert gone() is None

    def test_excess_is_over_what_was_expected_then(self, log):
        # u1 before 400 s: a at 100 s (liked, nothing known: expected .5), b at 200 s (disliked, expected: all before
        # it, which is a, liked, so 1).
        assert self.row(log, "u1", "c", 400)["user_excess"] == pytest.approx(((1 - 0.5) + (0 - 1)) / 2)
