"""Many prompts at once, against each alone in torch."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeat import ModelArtifact
from llmfeat.artifact import TextTokenizer
from llmfeat.encode.lm import Answers, PromptScorer
from llmfeat.encode.lm.answers import AnswerTokens
from llmfeat.encode.lm.causal import CausalModel
from llmfeat.errors import ArtifactCorruptError, BackendError, InputError
from tests.llm_fixtures import ANSWERS, AWKWARD_TITLES, alone, whole

WORDS = ("heat", "steel", "water", "bottle", "office", "chair", "the", "電影", "c", "d")


def said(draw, n_words):
    return " ".join(draw.choice(WORDS, n_words))


@pytest.fixture(scope="module")
def prompts():
    """Three users with seven candidates each, two prompts that share nothing, and some of them again."""
    draw = np.random.default_rng(0)
    users = [said(draw, 60) for _ in range(3)]
    shared = [
        f"Does the user like it? {user} Next: {said(draw, draw.integers(1, 9))}." for user in users for _ in "7" * 7
    ]
    lone = [said(draw, 25), "x"]
    return [*shared, *lone, shared[3], lone[1], shared[3]]


@pytest.fixture(scope="module")
def expected(llm_source, prompts):
    return alone(llm_source, prompts)


@pytest.fixture(scope="module")
def opened(llm_artifact):
    """A scorer that the tests share; what they count is counted on scorers of their own."""
    return PromptScorer(llm_artifact, answers=ANSWERS, threads=1)


@pytest.fixture
def scorer(llm_artifact):
    return PromptScorer(llm_artifact, answers=ANSWERS, threads=1)


@pytest.fixture
def run(monkeypatch):
    """The tokens of each row that the model was given, those of its prefix included."""
    rows = []
    logits = CausalModel.logits

    def recording(self, prefix, own):
        rows.extend((*prefix.tokens, *row) for row in own if any(row))  # but not what measures the speed
        return logits(self, prefix, own)

    monkeypatch.setattr(CausalModel, "logits", recording)
    return rows


def close(left, right, atol=1e-3):
    np.testing.assert_allclose(left, right, rtol=0, atol=atol)


class TestScores:
    @pytest.mark.parametrize("graph", ["llm_artifact", "llm_unshared"])
    def test_are_those_of_each_prompt_alone(self, request, prompts, expected, graph):
        scorer = PromptScorer(request.getfixturevalue(graph), answers=ANSWERS, threads=1)
        found = scorer.log_probs(prompts)
        assert found.shape == (len(prompts), 2)
        assert found.dtype == np.float32
        assert np.ptp(expected[:, 0] - expected[:, 1]) > 1  # what would tell a mixed-up row
        close(found, expected)
        close(scorer.scores(prompts), expected[:, 0] - expected[:, 1])

    @pytest.mark.parametrize("before", ["Next:", "Next: ", "Next: don", "Next: 電", "Next: 👨‍", "Next: <"])
    @pytest.mark.parametrize("after", ["", " ok", "!"])
    def test_titles_that_merge_with_what_is_beside_them(self, opened, llm_source, run, before, after):
        history = said(np.random.default_rng(1), 40)
        prompts = [f"{history} {before}{title}{after}" for title in AWKWARD_TITLES]
        close(opened.log_probs(prompts), alone(llm_source, prompts))
        # Whatever the split, it is between two tokens of the whole prompt.
        assert {whole(llm_source, prompt) for prompt in prompts} == set(run)

    def test_without_the_special_tokens_of_the_tokenizer(self, opened, llm_source, prompts, run):
        close(opened.log_probs(prompts[:9], special=False), alone(llm_source, prompts[:9], special=False))
        assert {whole(llm_source, prompt, special=False) for prompt in prompts[:9]} == set(run)

    @given(st.lists(st.integers(0, 25), max_size=12), st.integers(1, 4096))
    @settings(max_examples=25, deadline=None)
    def test_are_the_same_whatever_is_beside_them(self, llm_artifact, opened, prompts, expected, rows, batch_tokens):
        opened.batch_tokens = batch_tokens
        found = opened.log_probs([prompts[row] for row in rows])
        opened.batch_tokens = 4096
        close(found, expected[rows].reshape(-1, 2), atol=1e-4)

    def test_do_not_depend_on_the_order(self, opened, prompts, expected):
        for seed in range(5):
            order = np.random.default_rng(seed).permutation(len(prompts))
            close(opened.log_probs([prompts[row] for row in order]), expected[order], atol=1e-4)

    def test_of_no_prompts(self, opened):
        assert opened.log_probs([]).shape == (0, 2)
        assert opened.scores([]).shape == (0,)

    def test_of_several_words(self, llm_artifact, llm_source, prompts):
        answers = Answers(("a", "c"), ("b", "d"))
        found = PromptScorer(llm_artifact, answers=answers, threads=1).log_probs(prompts[:3])
        sides = [
            np.logaddexp(*(alone(llm_source, prompts[:3], answers=Answers((one,), ("0",)))[:, 0] for one in pair))
            for pair in (("a", "c"), ("b", "d"))
        ]
        close(found, np.stack(sides, axis=1))
        assert (np.exp(found).sum(axis=1) < 1).all()

    def test_in_a_pickle(self, opened, prompts, expected):
        opened.scores(prompts[:2])
        pickled = pickle.dumps(opened)
        assert len(pickled) < 10_000
        again = pickle.loads(pickled)
        assert "_model" not in again.__dict__
        assert again.tally == opened.tally
        close(again.log_probs(prompts), expected)

    def test_of_threads_at_once(self, scorer, prompts, expected):
        parts = [list(range(start, len(prompts), 6)) for start in range(6)] * 2
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(lambda rows: scorer.log_probs([prompts[row] for row in rows]), parts))
        for rows, values in zip(parts, found, strict=True):
            close(values, expected[rows], atol=1e-4)
        assert scorer.tally.prompts == sum(len({prompts[row] for row in rows}) for rows in parts)


@pytest.mark.parametrize(("family", "begin"), [("llama", [1]), ("qwen3", []), ("modernbert", [1]), ("starcoder2", [])])
def test_a_prompt_is_to_be_continued(models, family, begin):
    """Qwen3's tokenizer puts a token of the end behind a text, after which nothing would be an answer."""
    tokenizer = TextTokenizer(models[family] / "tokenizer.json", max_tokens=512, pad_id=0)
    plain = tokenizer.plain_ids("heat 電影")
    assert tokenizer.whole_ids(["heat 電影", ""]) == [begin + plain, begin]
    assert tokenizer.whole_ids(["heat 電影"], special=False) == [plain]
    assert tokenizer.whole_ids(["<end>"], special=False) == [[2]]


class TestTally:
    def test_what_is_shared_is_computed_once(self, scorer, run):
        begin = said(np.random.default_rng(0), 80)
        prompts = [f"{begin} {letter}" for letter in "cdefghk"]
        lengths = scorer.count_tokens(prompts)
        assert len(set(lengths)) == 1
        scorer.scores([*prompts, *prompts])
        n_shared = lengths[0] - 1
        assert scorer.tally.prompts == 7
        assert scorer.tally.tokens == 7 * lengths[0]
        assert scorer.tally.computed == n_shared + 7
        assert len(run) == 7  # and equal prompts once

    def test_a_later_call_finds_the_prefix(self, scorer, prompts, expected):
        scorer.log_probs(prompts[:7])
        computed = scorer.tally.computed
        close(scorer.log_probs(prompts[2:3]), expected[2:3])
        n_tokens = scorer.count_tokens(prompts[2:3])[0]
        assert 0 < scorer.tally.computed - computed < n_tokens / 2

    def test_nothing_is_remembered_without_room(self, llm_artifact, prompts, expected):
        scorer = PromptScorer(llm_artifact, answers=ANSWERS, threads=1, prefix_bytes=0)
        scorer.log_probs(prompts[:7])
        computed = scorer.tally.computed
        close(scorer.log_probs(prompts[2:3]), expected[2:3])
        assert scorer.tally.computed - computed == scorer.count_tokens(prompts[2:3])[0]


class TestCache:
    def test_a_second_call_computes_nothing(self, llm_artifact, prompts, tmp_path, run):
        first = PromptScorer(llm_artifact, answers=ANSWERS, threads=1, cache=tmp_path)
        found = first.log_probs(prompts)
        ran = len(run)
        again = PromptScorer(llm_artifact, answers=ANSWERS, threads=1, cache=str(tmp_path))
        assert again.log_probs(prompts).tobytes() == found.tobytes()
        assert len(run) == ran
        assert again.tally.cached == again.tally.prompts == len(set(prompts))
        assert again.tally.computed == again.tally.tokens == 0

    def test_other_answers_another_model_and_other_tokens_do_not_hit(
        self, llm_artifact, llm_unshared, llm_source, prompts, tmp_path
    ):
        PromptScorer(llm_artifact, answers=ANSWERS, threads=1, cache=tmp_path).scores(prompts[:5])
        others = [
            (llm_artifact, Answers(("a",), ("c",)), True),
            (llm_artifact, Answers(("b",), ("a",)), True),
            (llm_unshared, ANSWERS, True),
            (llm_artifact, ANSWERS, False),
        ]
        for artifact, answers, special in others:
            scorer = PromptScorer(artifact, answers=answers, threads=1, cache=tmp_path)
            found = scorer.log_probs(prompts[:5], special=special)
            assert scorer.tally.cached == 0
            close(found, alone(llm_source, prompts[:5], special=special, answers=answers))

    def test_what_an_interruption_left_is_kept(self, llm_artifact, prompts, tmp_path, monkeypatch):
        logits, calls = CausalModel.logits, []

        def failing(self, prefix, rows):
            calls.append(len(rows))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return logits(self, prefix, rows)

        interrupted = PromptScorer(llm_artifact, answers=ANSWERS, threads=1, cache=tmp_path)
        monkeypatch.setattr(CausalModel, "logits", failing)
        with pytest.raises(KeyboardInterrupt):
            interrupted.scores(prompts)
        again = PromptScorer(llm_artifact, answers=ANSWERS, threads=1, cache=tmp_path)
        again.scores(prompts)
        assert again.tally.cached == sum(calls[:2])


class TestBudget:
    def test_of_nothing_leaves_all(self, scorer, prompts):
        found = scorer.scores(prompts, budget_s=0)
        assert np.isnan(found).all()
        assert scorer.tally.late == len(set(prompts))

    def test_of_an_hour_leaves_none(self, opened, prompts, expected):
        close(opened.log_probs(prompts, budget_s=3600), expected)

    @staticmethod
    def of_runs(scorer, monkeypatch, n_runs):
        """Let the clock stop after so many runs, those of prefixes included."""
        left = iter([True] * n_runs)
        monkeypatch.setattr(scorer, "_is_time", lambda n_tokens, deadline: deadline is None or next(left, False))

    @pytest.mark.parametrize("n_runs", [2, 3])
    def test_first_prompts_come_first(self, scorer, llm_source, monkeypatch, n_runs):
        draw = np.random.default_rng(0)
        history = said(draw, 60)
        prompts = [f"{history} {title} {at}" for at, title in enumerate(draw.permutation([*WORDS, *WORDS]))]
        self.of_runs(scorer, monkeypatch, n_runs)
        found = scorer.log_probs(prompts, budget_s=1)
        n_scored = int((~np.isnan(found[:, 0])).sum())
        assert 8 * (n_runs - 1) == n_scored < len(prompts)
        close(found[:n_scored], alone(llm_source, prompts[:n_scored]))
        assert scorer.tally.late == len(prompts) - n_scored

    def test_the_first_user_comes_first(self, scorer, prompts, monkeypatch):
        self.of_runs(scorer, monkeypatch, 3)
        found = scorer.scores([*prompts[14:21], *prompts[:14]], budget_s=1)
        assert not np.isnan(found[:7]).any()
        assert np.isnan(found[7:]).all()

    def test_the_best_candidate_comes_first_whatever_shares_its_title(self, scorer, prompts, monkeypatch):
        """The best two share a long title, which makes a branch of their own."""
        best = [f"{prompts[0]} {said(np.random.default_rng(5), 30)} {at}" for at in (1, 2)]
        self.of_runs(scorer, monkeypatch, 3)
        found = scorer.scores([*best, *(f"{prompts[0]} {word}" for word in WORDS)], budget_s=1)
        assert not np.isnan(found[:2]).any()

    def test_lone_prompts_wait_for_their_turn(self, scorer, prompts, monkeypatch):
        self.of_runs(scorer, monkeypatch, 2)
        found = scorer.scores([*prompts[:7], *prompts[21:23]], budget_s=1)
        assert not np.isnan(found[:7]).any()

    def test_what_is_late_is_not_cached(self, llm_artifact, prompts, tmp_path):
        scorer = PromptScorer(llm_artifact, answers=ANSWERS, threads=1, cache=tmp_path)
        assert np.isnan(scorer.scores(prompts, budget_s=0)).all()
        assert np.isfinite(scorer.scores(prompts)).all()
        assert scorer.tally.cached == 0


class TestErrors:
    def test_an_encoder(self, artifact):
        with pytest.raises(InputError, match="is an encoder, but a scorer was expected"):
            PromptScorer(artifact)

    @pytest.mark.parametrize(
        ("prompts", "what"),
        [
            ("heat", "prompts is one str"),
            (["heat", None], "prompt 1 is a NoneType"),
            (["heat", b"x"], "prompt 1 is a bytes"),
            (["heat\ud800"], "prompt 0 holds a lone surrogate"),
            (["heat", "heat " * 600], "1 of 2 prompts are longer than the 512 tokens"),
        ],
    )
    def test_prompts(self, opened, prompts, what):
        with pytest.raises(InputError, match=what):
            opened.scores(prompts)

    def test_a_prompt_without_any_token(self, opened):
        with pytest.raises(InputError, match="a prompt is empty"):
            opened.scores(["heat", ""], special=False)

    @pytest.mark.parametrize(
        ("parameters", "what"),
        [
            ({"threads": 0}, "threads=0"),
            ({"batch_tokens": 0}, "batch_tokens=0"),
            ({"prefix_bytes": -1}, "prefix_bytes=-1"),
        ],
    )
    def test_parameters(self, llm_artifact, parameters, what):
        with pytest.raises(InputError, match=what):
            PromptScorer(llm_artifact, **parameters)

    def test_a_backend_that_there_is_not(self, llm_artifact):
        with pytest.raises(InputError, match="backend='openvino', but one of"):
            PromptScorer(llm_artifact, answers=ANSWERS, backend="openvino").scores(["heat"])

    def test_probabilities_that_are_not_finite(self, scorer, monkeypatch):
        logits = CausalModel.logits
        monkeypatch.setattr(CausalModel, "logits", lambda *given: logits(*given) * np.float32(np.nan))
        with pytest.raises(BackendError, match="not finite for 1 prompts"):
            scorer.scores(["heat"])

    def test_a_folder_that_holds_another_model_now(self, llm_artifact, llm_unshared, tmp_path):
        link = tmp_path / "artifact"
        link.symlink_to(llm_artifact.path)
        scorer = PromptScorer(ModelArtifact.load(link), answers=ANSWERS, threads=1)
        link.unlink()
        link.symlink_to(llm_unshared.path)
        with pytest.raises(ArtifactCorruptError, match="make a new PromptScorer"):
            scorer.scores(["heat"])


class TestAnswers:
    def test_a_word_is_all_its_ways_of_one_token(self, opened):
        tokens = opened.answer_tokens
        spelled = {opened.tokenizer.plain_ids(way)[0] for way in ("a", "A", " a", " A")}
        assert set(tokens.positive.tolist()) == spelled
        assert not spelled & set(tokens.negative.tolist())

    def test_words_that_are_no_token(self, llm_artifact):
        with pytest.raises(InputError, match=r"no variant of positive=\('certainly',\) is a single token"):
            PromptScorer(llm_artifact, answers=Answers(("certainly",), ("b",))).scores(["heat"])

    @pytest.mark.parametrize(
        ("positive", "negative", "what"),
        [
            ((), ("b",), r"positive=\(\)"),
            ("a", ("b",), "positive='a'"),
            (("a",), (" ",), r"negative=\(' ',\)"),
            (("a", "c"), ("C ",), r"\['c'\] means both yes and no"),
        ],
    )
    def test_that_say_nothing(self, positive, negative, what):
        with pytest.raises(InputError, match=what):
            Answers(positive, negative)

    def test_a_word_is_written_each_way_once(self):
        assert Answers.variants(" a ") == ["a", "A", " a", " A"]

    @pytest.mark.parametrize(
        ("positive", "negative"), [(("a",), ("b",)), (("b",), ("a",)), (("certainly", "a"), ("b", "never"))]
    )
    def test_answers_are_shown_as_tokens_that_are_compared(self, llm_artifact, positive, negative):
        answers = Answers(positive, negative)
        tokenizer = PromptScorer(llm_artifact).tokenizer
        no, yes = answers.shown(tokenizer)
        tokens = answers.tokens(tokenizer)
        assert tokenizer.plain_ids(yes)[0] in tokens.positive
        assert tokenizer.plain_ids(no)[0] in tokens.negative
        assert len(tokenizer.plain_ids(yes)) == len(tokenizer.plain_ids(no)) == 1
        assert (yes.strip().lower(), no.strip().lower()) == (positive[-1], negative[0])

    def test_answers_are_shown_in_one_style_where_both_can_be(self):
        class Tokenizer:
            """Knows some words as one token."""

            def plain_ids(self, text):
                return [1] if text in (" Good", " good", " bad", "Odd", "ODD", "Even", " EVEN") else [1, 2]

        assert Answers(("good",), ("bad",)).shown(Tokenizer()) == (" bad", " good")
        assert Answers(("odd",), ("even",)).shown(Tokenizer()) == ("Even", "Odd")
        assert Answers(("good",), ("odd",)).shown(Tokenizer()) == ("Odd", " Good")
        assert Answers(("what", "good"), ("no",)).shown(Tokenizer()) == (" No", " Good")

    def test_log_probs_of_large_logits(self):
        logits = np.array([[1000.0, 1000.0, 0.0], [-1000.0, 0.0, -1000.0]], dtype=np.float32)
        found = AnswerTokens(np.array([0]), np.array([1, 2])).log_probs(logits)
        np.testing.assert_allclose(found, [[-np.log(2), -np.log(2)], [-1000, 0]], atol=1e-4)
