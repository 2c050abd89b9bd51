"""A language model as a ranker: its scores, what is learned on top, and what is left to a cheaper ranker."""

from __future__ import annotations

import dataclasses
import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

from llmfeat import InteractionLog, LLMScorer
from llmfeat.encode.lm import Answers, PromptScorer
from llmfeat.errors import InputError, LLMFeatWarning, MissingColumnError, NothingToLearnError, TableFingerprintError
from llmfeat.rank.llm import Calibrator
from llmfeat.text import PreferencePrompt
from tests.conftest import random_log
from tests.llm_fixtures import ANSWERS, alone

FRAME = random_log(2, n_events=120)
LOG = InteractionLog.from_frame(FRAME, label="label")
LABELS = FRAME.column("label").to_numpy()
NAMES = ("heat", "alien", "casino", "speed", "steel water bottle", "電影", "office chair")
TITLES: dict[str, str | None] = {str(at): f"{NAMES[at % 7]} {at}" for at in range(30)}
PROMPT = PreferencePrompt(system="Predict.", max_items=4)
CHEAP = np.random.default_rng(5).permutation(len(FRAME)).astype(float)
ROWS = FRAME.append_column("cheap", pa.array(CHEAP))


@pytest.fixture(scope="module")
def model(llm_artifact):
    return PromptScorer(llm_artifact, answers=ANSWERS, threads=1)


@pytest.fixture(scope="module")
def make(model):
    return lambda **parameters: LLMScorer(LOG, **{"artifact": model, "items": TITLES, "prompt": PROMPT, **parameters})


@pytest.fixture(scope="module")
def fitted(make):
    return make().fit(ROWS, LABELS)


def test_the_usual_prompt_shows_what_was_before_with_its_answers(make):
    """Against a loop over the log."""
    scorer = make(prompt=None).fit(ROWS)
    no, yes = scorer.prompt_.marks
    assert (no.strip(": ").lower(), yes.strip(": ").lower()) == ("b", "a")
    written = scorer._prompts(ROWS).texts
    events = [{**event, "item_id": str(event["item_id"])} for event in FRAME.to_pylist()]
    titles = {item: title for item, title in TITLES.items() if title}
    for event, text in zip(events, written, strict=True):
        if event["item_id"] not in titles:
            assert text is None
            continue
        own = [each for each in events if each["user_id"] == event["user_id"] and each["item_id"] in titles]
        # The newest 20 before it; what was at one time is in any order.
        before = [each for each in own if each["timestamp"] < event["timestamp"]]
        lines = [f"{titles[each['item_id']]}{yes if each['label'] > 0 else no}" for each in before]
        shown = text.split("\n")
        assert shown[-1] == f"{titles[event['item_id']]}:"
        assert len(shown) - 1 == min(20, len(lines))
        if len(lines) <= 20:
            assert sorted(shown[:-1]) == sorted(lines)


@pytest.fixture(scope="module")
def said(make):
    """What the model says of each row."""
    return make(calibration=None).fit(ROWS).log_odds(ROWS).astype(float)


class Cheap:
    """A fitted ranker that is no estimator."""

    def predict(self, X):
        return np.asarray(X["cheap"], dtype=float)


class CheapEstimator(Cheap, BaseEstimator):
    """One that is."""

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def predict(self, X):
        if not hasattr(self, "fitted_"):
            raise NotFittedError
        return super().predict(X)


@pytest.fixture
def stopped(monkeypatch):
    """Let the clock stop after so many runs of the model, those of prefixes included."""

    def stop(n_runs):
        left = iter([True] * n_runs)
        monkeypatch.setattr(
            PromptScorer, "_is_time", lambda self, n_tokens, deadline: deadline is None or next(left, False)
        )

    return stop


def groups():
    """Return the rows of each user."""
    users = FRAME.column("user_id").to_numpy()
    return [np.flatnonzero(users == user) for user in np.unique(users)]


def best(scores, rows):
    return rows[np.argsort(-scores[rows], kind="stable")]


class TestScores:
    def test_are_those_of_each_prompt_alone(self, make, llm_source, said):
        scorer = make(calibration=None).fit(ROWS)
        texts = scorer._prompts(ROWS).texts[:20]
        found = alone(llm_source, texts, special=False)
        np.testing.assert_allclose(said[:20], found[:, 0] - found[:, 1], rtol=0, atol=1e-3)

    def test_are_the_models_own_without_labels(self, make, said):
        scorer = make().fit(ROWS)
        assert scorer.calibrator_ is None
        np.testing.assert_allclose(scorer.predict(ROWS), said, atol=1e-4)
        np.testing.assert_allclose(scorer.decision_function(ROWS), said, atol=1e-4)
        with pytest.raises(InputError, match="nothing was calibrated"):
            scorer.predict_proba(ROWS)

    def test_are_the_models_own_without_a_calibration(self, make, said):
        np.testing.assert_allclose(make(calibration=None).fit(ROWS, LABELS).predict(ROWS), said, atol=1e-4)

    def test_are_calibrated_where_labels_came(self, fitted, said):
        calibrator = Calibrator("logistic").fit(said, LABELS)
        np.testing.assert_allclose(fitted.predict(ROWS), calibrator.decision(said), atol=1e-3)
        shares = fitted.predict_proba(ROWS)
        assert shares.shape == (len(ROWS), 2)
        np.testing.assert_allclose(shares.sum(axis=1), 1)
        np.testing.assert_allclose(shares[:, 1], calibrator.probability(said), atol=1e-3)
        assert fitted.epochs_ == []

    def test_do_not_depend_on_what_is_beside_a_row(self, fitted):
        scores = fitted.predict(ROWS)
        order = np.random.default_rng(0).permutation(len(ROWS))
        np.testing.assert_allclose(fitted.predict(ROWS.take(pa.array(order))), scores[order], atol=1e-4)
        np.testing.assert_allclose(fitted.predict(ROWS.slice(7, 1)), scores[7:8], atol=1e-4)

    def test_of_pandas_polars_and_arrow_are_alike(self, fitted):
        scores = fitted.predict(ROWS)
        np.testing.assert_allclose(fitted.predict(ROWS.to_pandas()), scores, atol=1e-4)
        np.testing.assert_allclose(fitted.predict(pl.from_arrow(ROWS)), scores, atol=1e-4)

    def test_of_no_rows(self, fitted):
        ranking = fitted.rank(ROWS.slice(0, 0))
        assert ranking.scores.shape == (0,)
        assert ranking.degraded == ()

    def test_items_from_a_frame(self, make):
        items = pd.DataFrame({"item_id": list(TITLES), "name": [NAMES[int(item) % 7] for item in TITLES]})
        scorer = make(items=items, item_template="{name}", calibration=None).fit(ROWS)
        assert (
            "Next: heat\n" in scorer._prompts(ROWS.filter(pa.array(FRAME.column("item_id").to_numpy() == 0))).texts[0]
        )

    def test_a_lag_hides_what_happened_within_it(self, make):
        late, now = (make(calibration=None, history_lag_s=lag).fit(ROWS) for lag in (10**8, 0))
        assert not late._prompts(ROWS).n_items.any()
        assert now._prompts(ROWS).n_items.any()

    def test_the_score_is_an_ndcg(self, fitted):
        assert 0 < fitted.score(ROWS, LABELS) <= 1


class TestCalibration:
    @pytest.mark.parametrize("calibration", ["logistic", "monotone"])
    @pytest.mark.parametrize("turned", [False, True])
    def test_a_model_that_is_worse_than_chance_is_turned_round(self, make, said, calibration, turned):
        labels = (said > np.median(said)) ^ turned
        scorer = make(calibration=calibration).fit(ROWS, labels.astype(int))
        assert scorer.calibrator_.sign_ == (-1 if turned else 1)
        assert roc_auc_score(labels, scorer.predict_proba(ROWS)[:, 1]) > 0.99
        assert roc_auc_score(labels, scorer.predict(ROWS)) == 1

    def test_the_eval_set_is_what_it_learns_from(self, make, said):
        labels = (said > np.median(said)).astype(int)
        other = ROWS.slice(0, 60), 1 - labels[:60]
        scorer = make().fit(ROWS, labels, eval_set=other)
        assert scorer.calibrator_.sign_ == -1
        assert scorer.calibrator_.n_rows_ == 60

    def test_labels_of_one_kind(self, make):
        with pytest.raises(NothingToLearnError, match="of 1 kinds, but both 0 and 1"):
            make().fit(ROWS, np.ones(len(ROWS)))

    def test_a_logistic_fit_by_hand(self):
        """Two scores; three quarters of the higher ones are liked, a quarter of the lower: log-odds of log(3), but
        for a penalty that is small with many rows, whatever the scale of the scores."""
        scores, labels = np.repeat([-50.0, 50.0], 4000), np.tile([0, 0, 0, 1], 1000)
        labels = np.concatenate([labels, 1 - labels])
        for scale in (1e-3, 1.0, 1e3):
            calibrator = Calibrator("logistic").fit(scores * scale, labels)
            np.testing.assert_allclose(calibrator.probability([-50 * scale, 50 * scale]), [0.25, 0.75], atol=1e-3)
            np.testing.assert_allclose(calibrator.decision([50 * scale]), np.log(3), atol=1e-2)

    def test_a_monotone_fit_by_hand(self):
        calibrator = Calibrator("monotone").fit([1, 2, 3, 4, 5, 6] * 10, [0, 1, 0, 1, 1, 1] * 10)
        np.testing.assert_allclose(calibrator.probability([0, 1, 2.5, 4, 9]), [0, 0, 0.5, 1, 1])
        np.testing.assert_array_equal(calibrator.decision([3, 1, 2]), [3, 1, 2])  # ties of steps are none of ranks
        assert np.isnan(calibrator.probability([np.nan, 1])).tolist() == [True, False]
        assert np.isnan(calibrator.decision([np.nan, 1])).tolist() == [True, False]

    def test_a_score_that_says_nothing(self):
        calibrator = Calibrator("logistic").fit(np.zeros(8), [0, 0, 0, 1] * 2)
        np.testing.assert_allclose(calibrator.probability([0.0]), [0.25], atol=1e-3)

    def test_a_monotone_fit_of_noise(self):
        """In which direction it goes is not known, which is no reason for another library's warning."""
        draw = np.random.default_rng(0)
        Calibrator("monotone").fit(draw.standard_normal(40), draw.integers(0, 2, 40))


class TestBest:
    @pytest.mark.parametrize("base", ["cheap", Cheap(), CheapEstimator().fit(None)])
    def test_only_the_best_of_a_cheaper_ranker_are_asked_about(self, make, said, base):
        ranking = make(base_score=base, top_n=3, calibration=None).fit(ROWS).rank(ROWS)
        assert ranking.degraded == ()
        for rows in groups():
            order = best(CHEAP, rows)
            assert ranking.is_scored[order[:3]].all()
            assert not ranking.is_scored[order[3:]].any()
            np.testing.assert_allclose(ranking.scores[order[:3]], said[order[:3]], atol=1e-4)
            # The rest below, as the cheaper ranker has them.
            assert best(ranking.scores, rows)[3:].tolist() == order[3:].tolist()
            assert set(best(ranking.scores, rows)[:3]) == set(order[:3])
        assert np.isnan(ranking.log_odds).tolist() == (~ranking.is_scored).tolist()

    def test_groups_may_be_other_than_users(self, make):
        requests = np.arange(len(ROWS)) // 10
        scorer = make(base_score="cheap", top_n=2, calibration=None).fit(ROWS)
        assert scorer.rank(ROWS, groups=requests).is_scored.sum() == 2 * 12
        named = ROWS.append_column("request", pa.array(requests))
        by_column = make(base_score="cheap", top_n=2, calibration=None, group="request").fit(named)
        assert by_column.rank(named).is_scored.sum() == 2 * 12
        with pytest.raises(InputError, match="5 groups came for 120 rows"):
            scorer.rank(ROWS, groups=requests[:5])

    def test_probabilities_are_of_all(self, make):
        assert np.isfinite(make(base_score="cheap", top_n=1).fit(ROWS, LABELS).predict_proba(ROWS)).all()

    def test_a_clone_takes_the_same_fitted_ranker(self, make):
        scorer = make(base_score=Cheap(), top_n=3, calibration=None)
        assert clone(scorer).fit(ROWS).rank(ROWS).is_scored.any()

    def test_a_clone_takes_the_same_fitted_estimator(self, make):
        scorer = make(base_score=CheapEstimator().fit(None), top_n=3, calibration=None)
        assert clone(scorer).fit(ROWS).rank(ROWS).is_scored.any()

    def test_a_base_score_that_is_none(self, make):
        holes = ROWS.set_column(4, "cheap", pa.array([None, *CHEAP[1:]], pa.float64()))
        with pytest.raises(InputError, match="with 1 NaN, but a number for each of 120 rows"):
            make(base_score="cheap", top_n=3).fit(ROWS).rank(holes)
        with pytest.raises(MissingColumnError, match="cheap"):
            make(base_score="cheap", top_n=3).fit(ROWS).rank(FRAME)


class TestBudget:
    def test_what_is_late_stands_below_in_the_cheaper_order_and_is_said(self, make, said, stopped):
        scorer = make(base_score="cheap", budget_ms=1e6, calibration=None).fit(ROWS)
        stopped(5)
        ranking = scorer.rank(ROWS)
        assert ranking.degraded == ("time",)
        assert 0 < ranking.is_scored.sum() < len(ROWS)
        np.testing.assert_allclose(ranking.scores[ranking.is_scored], said[ranking.is_scored], atol=1e-4)
        for rows in groups():
            n_scored = ranking.is_scored[rows].sum()
            left = [row for row in best(CHEAP, rows) if not ranking.is_scored[row]]
            assert best(ranking.scores, rows)[n_scored:].tolist() == left
        stopped(5)
        with pytest.warns(LLMFeatWarning, match=r"of 120 rows were ranked without the model \(time\)"):
            scorer.predict(ROWS)

    def test_no_time_at_all_leaves_the_cheaper_order(self, make, stopped):
        scorer = make(base_score="cheap", budget_ms=1e6).fit(ROWS, LABELS)
        stopped(0)
        ranking = scorer.rank(ROWS)
        assert not ranking.is_scored.any()
        for rows in groups():
            assert best(ranking.scores, rows).tolist() == best(CHEAP, rows).tolist()

    def test_a_real_clock(self, make):
        late = make(budget_ms=1e-6, calibration=None).fit(ROWS).rank(ROWS)
        assert late.degraded == ("time",)
        assert late.elapsed_ms > 0
        relaxed = make(budget_ms=1e7, calibration=None).fit(ROWS).rank(ROWS)
        assert relaxed.degraded == ()
        assert relaxed.is_scored.all()

    def test_fit_takes_its_time(self, make):
        assert make(budget_ms=1e-6).fit(ROWS, LABELS).calibrator_.n_rows_ == len(ROWS)

    def test_candidates_without_a_text_stand_below(self, make, said):
        titles = {**TITLES, "3": None, "4": "  "}
        scorer = make(items=titles, calibration=None, base_score="cheap", top_n=100).fit(ROWS)
        ranking = scorer.rank(ROWS)
        bare = np.isin(FRAME.column("item_id").to_numpy(), [3, 4])
        assert ranking.degraded == ("text",)
        assert (~ranking.is_scored).tolist() == bare.tolist()
        for rows in groups():
            without, others = rows[bare[rows]], rows[~bare[rows]]
            assert ranking.scores[without].max(initial=-np.inf) < ranking.scores[others].min(initial=np.inf)
        assert np.isnan(scorer.log_odds(ROWS)).tolist() == bare.tolist()
        with pytest.warns(LLMFeatWarning, match=rf"{bare.sum()} of 120 rows were ranked without the model \(text\)"):
            scorer.predict(ROWS)


class TestEstimator:
    def test_parameters_go_in_and_out(self, make):
        scorer = make(top_n=3, base_score="cheap")
        assert scorer.get_params()["top_n"] == 3
        assert scorer.set_params(top_n=5).get_params()["top_n"] == 5
        assert set(LLMScorer().get_params()) == set(scorer.get_params())

    def test_a_clone_shares_the_open_model(self, fitted, model):
        fresh = clone(fitted)
        assert fresh.artifact is model
        assert not hasattr(fresh, "calibrator_")
        assert fresh.fit(ROWS, LABELS).predict(ROWS).tolist() == pytest.approx(fitted.predict(ROWS).tolist(), abs=1e-4)

    def test_a_folder_is_opened_once_for_all_clones(self, make, llm_artifact, monkeypatch):
        opened = []
        init = PromptScorer.__init__
        monkeypatch.setattr(PromptScorer, "__init__", lambda self, *a, **k: opened.append(1) or init(self, *a, **k))
        scorer = make(artifact=str(llm_artifact.path), answers=ANSWERS, threads=1).fit(ROWS, LABELS)
        clone(scorer).fit(ROWS, LABELS).predict(ROWS.slice(0, 5))
        assert len(opened) == 1
        clone(scorer).set_params(answers=Answers(("a",), ("c",))).fit(ROWS, LABELS)
        assert len(opened) == 2

    def test_a_pickle_is_small_and_predicts_alike(self, fitted, make, llm_artifact):
        folder = make(artifact=llm_artifact.path, answers=ANSWERS, threads=1).fit(ROWS, LABELS)
        for scorer in (fitted, folder):
            pickled = pickle.dumps(scorer)
            assert len(pickled) < 60_000
            np.testing.assert_allclose(pickle.loads(pickled).predict(ROWS), scorer.predict(ROWS), atol=1e-4)

    def test_scores_come_from_the_cache(self, make, llm_artifact, tmp_path):
        parameters = {"artifact": llm_artifact, "answers": ANSWERS, "threads": 1, "cache": tmp_path}
        first = make(**parameters).fit(ROWS, LABELS)
        again = make(**parameters).fit(ROWS, LABELS)
        assert again.predict(ROWS).tolist() == first.predict(ROWS).tolist()
        assert again._fitted().tally.computed == 0

    def test_another_model_is_refused(self, make, llm_artifact):
        scorer = make(artifact=llm_artifact, answers=ANSWERS, threads=1).fit(ROWS, LABELS)
        spec = dataclasses.replace(llm_artifact.spec, graph_sha256="0" * 64)
        scorer.set_params(artifact=dataclasses.replace(llm_artifact, spec=spec))
        for method in (scorer.predict, scorer.predict_proba, scorer.log_odds):
            with pytest.raises(TableFingerprintError, match="pass the artifact that it was fitted with, or refit"):
                method(ROWS)

    def test_another_log_takes_the_place_of_the_fitted(self, make):
        scorer = make(calibration=None).fit(ROWS)
        assert scorer._prompts(ROWS).n_items.any()
        scorer.set_params(log=LOG.until(int(LOG.times_us.min()) + 1))
        assert scorer._prompts(ROWS).n_items.max() == 1

    def test_a_prompt_that_is_changed_later_counts(self, make, said):
        scorer = make(calibration=None).fit(ROWS)
        scorer.predict(ROWS)
        scorer.set_params(prompt=PreferencePrompt("{candidate}?", chat=False))
        assert not np.allclose(scorer.predict(ROWS), said, atol=0.01)

    @pytest.mark.parametrize(
        ("parameters", "what"),
        [
            ({"log": None}, "log is a NoneType"),
            ({"artifact": None}, "artifact=None, but the folder of an exported model"),
            ({"items": None}, "items is a NoneType"),
            ({"prompt": "Like?"}, "prompt is a str, but PreferencePrompt"),
            ({"answers": ("a", "b")}, "answers is a tuple, but Answers"),
            ({"calibration": "platt"}, "calibration='platt', but one of"),
            ({"finetune": "full"}, "finetune='full', but 'lora'"),
            ({"base_score": "cheap", "top_n": 0}, "top_n=0, but a whole number from 1"),
            ({"base_score": "cheap", "top_n": 2.5}, r"top_n=2\.5, but a whole number"),
            ({"top_n": 3}, "but base_score is None"),
            ({"budget_ms": 0}, "budget_ms=0, but more than 0"),
            ({"budget_ms": float("nan")}, "budget_ms=nan, but more than 0"),
            ({"base_score": 5}, "base_score=5, but a column or a fitted ranker"),
            ({"history_lag_s": -1}, "history_lag_s=-1"),
        ],
    )
    def test_parameters_that_cannot_be_worked_with(self, make, parameters, what):
        with pytest.raises(InputError, match=what):
            make().set_params(**parameters).fit(ROWS, LABELS)

    def test_finetuning_needs_labels(self, make):
        with pytest.raises(InputError, match="finetune was asked for and no labels came"):
            make(finetune="lora").fit(ROWS)

    def test_an_encoder_is_refused(self, make, artifact):
        with pytest.raises(InputError, match="a scorer was expected"):
            make(artifact=artifact).fit(ROWS)

    def test_rows_without_their_columns_and_labels(self, make):
        with pytest.raises(MissingColumnError, match="timestamp"):
            make().fit(ROWS.drop(["timestamp"]))
        with pytest.raises(InputError, match=r"y has the shape \(3,\)"):
            make().fit(ROWS, [0, 1, 0])

    def test_before_fit(self, make):
        with pytest.raises(NotFittedError):
            make().predict(ROWS)

    def test_a_prompt_that_is_too_long_is_said_in_fit(self, make, monkeypatch):
        monkeypatch.setattr(PromptScorer, "max_tokens", 60)
        with pytest.raises(InputError, match="is longer than the 60 that"):
            make().fit(ROWS)

    def test_what_had_no_room_is_counted_and_said(self, make, monkeypatch):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert make().fit(ROWS, LABELS).n_dropped_ == 0
        monkeypatch.setattr(PromptScorer, "max_tokens", 130)
        short = PreferencePrompt(system="Predict.", max_items=10, item_tokens=8)
        with pytest.warns(LLMFeatWarning, match="prompts had no room for all items of the history"):
            scorer = make(prompt=short).fit(ROWS, LABELS)
        assert scorer.n_dropped_ == scorer.rank(ROWS).n_dropped.sum() > 0
