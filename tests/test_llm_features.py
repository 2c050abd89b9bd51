"""What a language model says as a column: a user's own labels have no part in it."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import FeatureUnion

from llmfeat import ActivityFeatures, InteractionLog, LLMScoreFeatures, LLMScorer
from llmfeat.encode.lm import PromptScorer
from llmfeat.errors import InputError
from llmfeat.rank.scorers.crossfit import user_folds
from llmfeat.text import PreferencePrompt
from tests.conftest import random_log
from tests.llm_fixtures import ANSWERS

FRAME = random_log(3, n_events=120)
LOG = InteractionLog.from_frame(FRAME, label="label")
LABELS = FRAME.column("label").to_numpy()
USERS = FRAME.column("user_id").to_numpy()
TITLES: dict[str, str | None] = {**{str(at): f"steel {at}" for at in range(30)}, "7": None}
HAS_TEXT = FRAME.column("item_id").to_numpy() != 7


@pytest.fixture(scope="module")
def scorer(llm_artifact):
    prompt = PreferencePrompt(system="Predict.", max_items=3)
    return LLMScorer(LOG, PromptScorer(llm_artifact, answers=ANSWERS, threads=1), TITLES, prompt=prompt)


@pytest.fixture(scope="module")
def fitted(scorer):
    return LLMScoreFeatures(scorer, n_folds=3).fit(FRAME, LABELS)


@pytest.fixture(scope="module")
def matrix(fitted):
    return fitted.transform(FRAME)


def same(left, right):
    np.testing.assert_allclose(left, right, rtol=0, atol=2e-4)


class TestFolds:
    @pytest.mark.parametrize("calibration", ["logistic", "monotone"])
    def test_a_users_labels_have_no_part_in_their_own_scores(self, scorer, calibration):
        """Labels that follow the scores, so that there is something to learn, of which one user's are turned."""
        said = clone(scorer).set_params(calibration=None).fit(FRAME).log_odds(FRAME)
        labels = (said > np.nanmedian(said)).astype(int)
        own = np.bincount(USERS).argmax() == USERS
        turned = np.where(own, 1 - labels, labels)
        features = LLMScoreFeatures(clone(scorer).set_params(calibration=calibration), n_folds=3)
        one, two = (features.fit(FRAME, each).transform(FRAME) for each in (labels, turned))
        same(two[own], one[own])
        others = HAS_TEXT & ~own
        if calibration == "logistic":  # the other ranks by the scores themselves
            assert np.abs(two[others] - one[others]).max() > 0.05

    def test_a_double_that_scores_by_the_fit_on_all_fails_that_check(self, scorer, monkeypatch):
        monkeypatch.setattr(
            LLMScoreFeatures, "_fit_of", lambda self, users: np.full(len(users), len(self.scorers_) - 1)
        )
        with pytest.raises(AssertionError):
            self.test_a_users_labels_have_no_part_in_their_own_scores(scorer, "logistic")

    def test_each_user_is_scored_by_the_fit_without_their_fold(self, fitted, matrix):
        assert len(fitted.scorers_) == 4
        folds = user_folds(pa.array(USERS.astype(str)), n_folds=3, seed=0)
        for fold, scorer in enumerate(fitted.scorers_[:3]):
            assert scorer.calibrator_.n_rows_ == (HAS_TEXT & (folds != fold)).sum()
            same(matrix[folds == fold, 0], scorer.decision_function(FRAME.filter(pa.array(folds == fold))))

    def test_another_user_by_the_fit_on_all(self, fitted):
        rows = FRAME.set_column(0, "user_id", pa.array(["new"] * len(FRAME)))
        same(fitted.transform(rows)[:, 0], fitted.scorers_[-1].decision_function(rows))

    def test_folds_do_not_depend_on_the_rows(self, fitted, matrix, scorer):
        order = np.random.default_rng(0).permutation(len(FRAME))
        again = LLMScoreFeatures(scorer, n_folds=3).fit(FRAME.take(pa.array(order)), LABELS[order])
        same(again.transform(FRAME), matrix)
        same(fitted.transform(FRAME.slice(5, 1)), matrix[5:6])

    def test_what_learns_nothing_has_none(self, scorer):
        zero_shot = LLMScoreFeatures(clone(scorer).set_params(calibration=None)).fit(FRAME, LABELS)
        unlabelled = LLMScoreFeatures(scorer).fit(FRAME)
        assert len(zero_shot.scorers_) == len(unlabelled.scorers_) == 1
        same(zero_shot.transform(FRAME), unlabelled.transform(FRAME))
        same(zero_shot.transform(FRAME)[:, 0], zero_shot.scorers_[0].log_odds(FRAME))

    def test_every_row_has_a_score_whatever_the_scorer_is_limited_to(self, scorer, matrix):
        limited = clone(scorer).set_params(base_score="cheap", top_n=1, budget_ms=1e-6)
        same(LLMScoreFeatures(limited, n_folds=3).fit_transform(FRAME, LABELS), matrix)


class TestTransformer:
    def test_fit_transform_is_fit_and_transform(self, scorer, matrix):
        same(LLMScoreFeatures(scorer, n_folds=3).fit_transform(FRAME, LABELS), matrix)

    def test_shape_and_what_has_no_text(self, matrix):
        assert matrix.shape == (len(FRAME), 1)
        assert matrix.dtype == np.float32
        assert np.isnan(matrix[:, 0]).tolist() == (~HAS_TEXT).tolist()

    def test_no_rows(self, fitted):
        assert fitted.transform(FRAME.slice(0, 0)).shape == (0, 1)

    def test_names_and_set_output(self, scorer, matrix):
        features = LLMScoreFeatures(scorer, n_folds=3).set_output(transform="pandas")
        shown = features.fit_transform(FRAME.to_pandas(), LABELS)
        assert isinstance(shown, pd.DataFrame)
        assert list(shown.columns) == features.get_feature_names_out().tolist() == ["llm_score"]
        same(shown.to_numpy(), matrix)
        assert features.feature_names_in_.tolist() == FRAME.column_names

    def test_in_a_union(self, scorer):
        union = FeatureUnion([("activity", ActivityFeatures(LOG)), ("llm", LLMScoreFeatures(scorer, n_folds=3))])
        assert union.fit(FRAME, LABELS).get_feature_names_out()[-1] == "llm__llm_score"

    def test_clone_and_pickle(self, fitted, scorer, matrix):
        fresh = clone(fitted)
        assert not hasattr(fresh, "scorers_")
        assert fresh.get_params()["n_folds"] == 3
        assert fresh.set_params(scorer__calibration=None).scorer.calibration is None
        assert scorer.calibration == "logistic"
        pickled = pickle.dumps(fitted)
        assert len(pickled) < 100_000
        same(pickle.loads(pickled).transform(FRAME), matrix)

    def test_the_scorer_that_was_passed_stays_unfitted(self, scorer, fitted):
        with pytest.raises(NotFittedError):
            scorer.predict(FRAME)
        with pytest.raises(NotFittedError):
            clone(fitted).transform(FRAME)

    def test_each_fold_has_a_model_of_its_own(self, scorer):
        features = LLMScoreFeatures(clone(scorer).set_params(finetune="lora", finetune_out="models/shop"))
        assert [features._scorer(fold).finetune_out for fold in (0, 1, None)] == [
            "models/shop-fold0",
            "models/shop-fold1",
            "models/shop",
        ]

    @pytest.mark.parametrize(
        ("parameters", "what"),
        [
            ({"scorer": None}, "scorer is a NoneType, but an LLMScorer"),
            ({"n_folds": 1}, "n_folds=1, but a whole number from 2"),
            ({"n_folds": 2.5}, r"n_folds=2\.5, but a whole number"),
        ],
    )
    def test_parameters_that_cannot_be_worked_with(self, scorer, parameters, what):
        with pytest.raises(InputError, match=what):
            LLMScoreFeatures(scorer).set_params(**parameters).fit(FRAME, LABELS)

    def test_one_user_has_no_folds(self, scorer):
        rows = FRAME.filter(pa.array(USERS == 1))
        with pytest.raises(InputError, match="1 users fall into 1 folds"):
            LLMScoreFeatures(scorer).fit(rows, LABELS[USERS == 1])
