from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from benchmarks import _synthetic
from benchmarks._synthetic import EFFECTS, TASKS, SyntheticLog, make_log
from llmfeat.errors import InputError
from llmfeat.evaluate import split_by_time
from llmfeat.evaluate.controls import tfidf_vectors

SMALL = {"n_users": 60, "n_items": 80, "n_events_per_user": 8}
SEEDS = range(12)


def codes(log: SyntheticLog, name: str) -> np.ndarray:
    return np.array([int(each[1:]) for each in log.interactions.column(name).to_pylist()])


def times_s(log: SyntheticLog) -> np.ndarray:
    return log.interactions.column("timestamp").cast(pa.int64()).to_numpy() // 10**6


def words(log: SyntheticLog) -> np.ndarray:
    ids, titles = log.items.column("item_id").combine_chunks(), log.items.column("title").to_pylist()
    return tfidf_vectors(ids, titles, seed=0).vectors


def cosines(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


def earlier(log: SyntheticLog) -> np.ndarray:
    """Which events each row's user had strictly before, bool of shape (n_rows, n_rows)."""
    users, moments = codes(log, "user_id"), times_s(log)
    return (users[:, None] == users) & (moments[:, None] > moments)


def likeness(log: SyntheticLog, vectors: np.ndarray, items: np.ndarray) -> np.ndarray:
    """The mean over what each row's user met before: the cosine of its item to it, minus that where it was disliked."""
    labels = log.interactions.column("label").to_numpy() if "label" in log.interactions.column_names else 1
    before = earlier(log)
    signed = before * np.float32(2 * labels - 1)
    near = cosines(vectors)[np.ix_(items, codes(log, "item_id"))]
    return (signed * near).sum(axis=1) / np.maximum(before.sum(axis=1), 1)


def within_users(values: np.ndarray, users: np.ndarray) -> np.ndarray:
    return values - (np.bincount(users, values) / np.maximum(np.bincount(users), 1))[users]


def click_association(effect: str, seed: int, *, of_truth: bool) -> float:
    """The correlation within users of labels with the affinity, or with what vectors and history tell of it."""
    log = make_log("click", effect, seed, n_users=60, n_items=120)
    users = codes(log, "user_id")
    known = log.affinities if of_truth else likeness(log, log.vectors.vectors, codes(log, "item_id"))
    labels = log.interactions.column("label").to_numpy().astype(np.float64)
    return float(np.corrcoef(within_users(known, users), within_users(labels, users))[0, 1])


def choice_association(effect: str, seed: int, *, of_truth: bool) -> float:
    """The affinity of what was chosen; or how much nearer to the history it is than what somebody else chose."""
    log = make_log("next-item", effect, seed, n_users=60, n_items=120)
    if of_truth:
        return float(log.affinities.mean())
    items, vectors = codes(log, "item_id"), log.vectors.vectors
    others = np.random.default_rng(seed).permutation(items)
    # What was met before is not chosen again, and is nearest to itself.
    fair = ~(earlier(log) & (others[:, None] == items)).any(axis=1)
    return float((likeness(log, vectors, items) - likeness(log, vectors, others))[fair].mean())


def t_statistic(values: list[float]) -> float:
    return float(np.mean(values) / (np.std(values, ddof=1) / np.sqrt(len(values))))


class TestForm:
    @pytest.mark.parametrize("task", TASKS)
    def test_what_is_there(self, task):
        log = make_log(task, "small", 0)
        label = ["label"] if task == "click" else []
        assert log.interactions.column_names == ["user_id", "item_id", "timestamp", *label]
        assert log.interactions.schema.field("timestamp").type == pa.timestamp("us", "UTC")
        assert log.items.column_names == ["item_id", "title"]
        assert log.vectors.vectors.shape == (300, 32)
        assert not log.vectors.missing.any()
        assert log.vectors.ids.equals(log.items.column("item_id").combine_chunks())
        assert log.effect == EFFECTS[task]["small"]
        assert 4000 < len(log.affinities) == log.interactions.num_rows < 8000
        if task == "click":
            assert 0.3 < log.interactions.column("label").to_numpy().mean() < 0.7

    @settings(max_examples=8, deadline=None)
    @given(task=st.sampled_from(TASKS), effect=st.floats(0, 3), seed=st.integers(0, 2**32))
    def test_a_seed_says_everything(self, task, effect, seed):
        one, two, other = (make_log(task, effect, each, **SMALL) for each in (seed, seed, seed + 1))
        assert one.items.equals(two.items)
        assert one.interactions.equals(two.interactions)
        assert one.vectors.vectors.tobytes() == two.vectors.vectors.tobytes()
        assert one.affinities.tobytes() == two.affinities.tobytes()
        assert not one.items.equals(other.items)
        assert not one.interactions.equals(other.interactions)

    @settings(max_examples=8, deadline=None)
    @given(task=st.sampled_from(TASKS), effect=st.floats(0, 3), seed=st.integers(0, 2**32))
    def test_rows_come_by_time_and_nobody_meets_an_item_twice(self, task, effect, seed):
        log = make_log(task, effect, seed, **SMALL)
        assert (np.diff(times_s(log)) >= 0).all()
        pairs = codes(log, "user_id") * SMALL["n_items"] + codes(log, "item_id")
        assert len(np.unique(pairs)) == len(pairs)
        # The most that a user meets is three times the mean.
        assert np.bincount(codes(log, "user_id")).max() <= 24

    @pytest.mark.parametrize("task", TASKS)
    def test_sessions_ties_and_cold_items(self, task):
        log = make_log(task, "small", 0)
        users, items, moments = codes(log, "user_id"), codes(log, "item_id"), times_s(log)
        order = np.lexsort((moments, users))
        gaps_s = np.diff(moments[order])[np.diff(users[order]) == 0]
        assert 0.03 < (gaps_s == 0).mean() < 0.2  # events of one user at one moment
        assert 0.4 < ((gaps_s > 0) & (gaps_s < 1800)).mean() < 0.8  # of one session
        assert 0.1 < (gaps_s > 1800).mean() < 0.4
        split = split_by_time(moments * 10**6)
        test = np.isin(np.arange(len(items)), split.test)
        n_before = np.array(
            [((items == item) & (moments < then)).sum() for item, then in zip(items, moments, strict=True)]
        )
        assert 0.05 < (n_before[test] < 5).mean() < 0.4
        assert 0.1 < (~np.isin(users[test], users[~test])).mean() < 0.4

    def test_effects_of_one_seed_share_all_but_the_labels(self):
        zero, large = (make_log("click", effect, 0, **SMALL) for effect in ("zero", "large"))
        assert zero.items.equals(large.items)
        assert zero.vectors.fingerprint == large.vectors.fingerprint
        assert zero.interactions.drop_columns("label").equals(large.interactions.drop_columns("label"))
        changed = zero.interactions.column("label").to_numpy() != large.interactions.column("label").to_numpy()
        # The same luck: a label changes only where the affinity pushes it.
        risen = large.interactions.column("label").to_numpy() > zero.interactions.column("label").to_numpy()
        assert 0.1 < changed.mean() < 0.5
        np.testing.assert_array_equal(risen[changed], large.affinities[changed] > 0)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("rank", "zero", 0), "task='rank', but one of"),
            (("click", "huge", 0), "effect='huge', but one of"),
            (("click", float("nan"), 0), "effect=nan, but a finite number"),
        ],
    )
    def test_what_does_not_exist(self, arguments, message):
        with pytest.raises(InputError, match=message):
            make_log(*arguments)

    def test_sizes_that_do_not_fit(self):
        with pytest.raises(InputError, match="n_items=50, but users of 20 events"):
            make_log("click", "zero", 0, n_items=50)
        with pytest.raises(InputError, match="n_users=0"):
            make_log("click", "zero", 0, n_users=0)


class TestNothingPlanted:
    @pytest.mark.parametrize("task", TASKS)
    @pytest.mark.parametrize("effect", [0.0, 0.5])
    def test_what_happens_does_not_depend_on_meanings(self, monkeypatch, task, effect):
        """Every item gets the meaning of another: nothing happens otherwise, but for a log with an effect."""
        log = make_log(task, effect, 0, **SMALL)
        directions = _synthetic._directions

        def exchanged(draw, n, dim):
            found = directions(draw, n, dim)
            return found[::-1] if dim == _synthetic._MEANING_DIM else found

        monkeypatch.setattr(_synthetic, "_directions", exchanged)
        other = make_log(task, effect, 0, **SMALL)
        assert other.vectors.fingerprint != log.vectors.fingerprint
        assert other.interactions.equals(log.interactions) == (effect == 0)

    @pytest.mark.parametrize("association", [click_association, choice_association])
    @pytest.mark.parametrize("of_truth", [True, False])
    def test_over_seeds_nothing_is_found_but_what_was_planted(self, association, of_truth):
        assert abs(t_statistic([association("zero", seed, of_truth=of_truth) for seed in SEEDS])) < 3
        assert t_statistic([association("large", seed, of_truth=of_truth) for seed in SEEDS]) > 10


class TestPlanted:
    def test_labels_follow_the_stated_probability(self, monkeypatch):
        for name in ("_QUALITY", "_GENEROSITY", "_KINSHIP"):
            monkeypatch.setattr(_synthetic, name, 0.0)
        log = make_log("click", 1.5, 0, n_users=500)
        labels = log.interactions.column("label").to_numpy()
        for weight, agrees in ((1.5, True), (1.0, False)):
            expected = expit(_synthetic._BASE + weight * log.affinities)
            bins = np.digitize(log.affinities, np.linspace(-1.5, 1.5, 7))
            errors = np.bincount(bins, labels - expected) / np.sqrt(np.bincount(bins, expected * (1 - expected)))
            assert (np.abs(errors).max() < 4) == agrees

    def test_choices_follow_the_softmax_of_what_is_open(self):
        n_users = 6000
        utility = np.broadcast_to(np.log([1.0, 2.0, 3.0, 100.0]), (n_users, 4))
        users, moments = np.repeat(np.arange(n_users), 2), np.tile([10, 20], n_users)
        released = np.array([0, 0, 0, 30])
        items = _synthetic._choices(np.random.default_rng(0), utility, users, moments, released)
        first, second = items.reshape(-1, 2).T
        np.testing.assert_allclose(np.bincount(first, minlength=4) / n_users, [1 / 6, 2 / 6, 3 / 6, 0], atol=0.02)
        after_third = second[first == 2]  # 1 and 2 are left
        np.testing.assert_allclose(np.bincount(after_third) / len(after_third), [1 / 3, 2 / 3], atol=0.04)

    def test_affinities_have_the_unit_that_effects_are_in(self):
        log = make_log("click", "zero", 0, n_users=500)
        assert log.affinities.mean() == pytest.approx(0, abs=0.05)
        assert log.affinities.std() == pytest.approx(1, abs=0.05)

    def test_history_separates_labels_through_the_vectors_and_not_through_words(self):
        found = {}
        for effect in ("zero", "large"):
            log = make_log("click", effect, 0, n_users=150)
            labels, items = log.interactions.column("label").to_numpy(), codes(log, "item_id")
            for name, vectors in (("llm", log.vectors.vectors), ("tfidf", words(log))):
                found[name, effect] = roc_auc_score(labels, likeness(log, vectors, items))
        assert found["llm", "large"] > 0.6
        assert found["llm", "zero"] == pytest.approx(0.5, abs=0.03)
        assert found["tfidf", "large"] == pytest.approx(found["tfidf", "zero"], abs=0.03)
        assert found["tfidf", "large"] < 0.55

    def test_vectors_know_the_meanings_and_words_do_not(self, monkeypatch):
        seen = {}
        encoded = _synthetic._encoded
        monkeypatch.setattr(
            _synthetic, "_encoded", lambda draw, meanings: encoded(draw, seen.setdefault("meanings", meanings))
        )
        log = make_log("click", "zero", 0)
        pairs = np.triu_indices(300, 1)
        meant, read, said = (cosines(each)[pairs] for each in (seen["meanings"], log.vectors.vectors, words(log)))
        assert np.corrcoef(meant, read)[0, 1] > 0.8
        assert abs(np.corrcoef(meant, said)[0, 1]) < 0.03
        assert (said > 0).mean() > 0.01  # titles do share words: those of no meaning
