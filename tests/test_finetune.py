"""A model that is adapted to labels: it learns what there is to learn, the same for a seed, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from llmfeat import InteractionLog, LLMScorer
from llmfeat.encode.lm import PromptScorer
from llmfeat.errors import ExportError, InputError, NothingToLearnError
from llmfeat.export import Examples, Lora, finetune_scorer
from llmfeat.export.fetch import open_source
from llmfeat.export.finetune import _adapt, _Trainer
from llmfeat.rank.llm.tuning import held_out_rows
from llmfeat.text import PreferencePrompt
from tests.llm_fixtures import ANSWERS, few_texts
from tests.tiny_models import save_tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

WORDS = ("the", "water", "bottle", "office", "chair", "alien")
LORA = Lora(rank=4, layers=2, learning_rate=2e-2, epochs=4, batch_rows=16, patience=4, dtype="float32", device="cpu")


def toy(n_rows, seed):
    """Prompts whose last word decides."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, n_rows)
    texts = [f"{' '.join(draw.choice(WORDS, 4))} {('steel', 'heat')[label]}" for label in labels]
    return texts, labels.astype(float)


@pytest.fixture(scope="module")
def scorer(llm_artifact):
    return PromptScorer(llm_artifact, answers=ANSWERS, threads=1)


@pytest.fixture(scope="module")
def examples(scorer):
    """Rows to learn from, and rows held out."""
    return [
        Examples(scorer.tokenizer.whole_ids(texts), labels) for texts, labels in (toy(240, seed=0), toy(60, seed=1))
    ]


@pytest.fixture(scope="module")
def answers(scorer):
    tokens = scorer.answer_tokens
    return tokens.positive.tolist(), tokens.negative.tolist()


def adapt(folder, out, examples, answers, lora=LORA, *, seed=0):
    """Return what each epoch gave, and a digest of the weights that were saved."""
    with open_source(folder) as source:
        epochs = _adapt(source, out, *examples, answers, lora, seed, lambda line: None, False)
    return epochs, hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()


class TestTuned:
    @pytest.fixture(scope="module")
    @staticmethod
    def made(llm_artifact, examples, answers, tmp_path_factory):
        lines = []
        with few_texts():
            found = finetune_scorer(
                llm_artifact,
                tmp_path_factory.mktemp("tuned") / "artifact",
                *examples,
                positive=answers[0],
                negative=answers[1],
                lora=LORA,
                say=lines.append,
            )
        return *found, lines

    def test_learns_what_decides(self, made, scorer):
        texts, labels = toy(80, seed=2)
        tuned = PromptScorer(made[0], answers=ANSWERS, threads=1)
        assert roc_auc_score(labels, scorer.scores(texts)) < 0.9
        assert roc_auc_score(labels, tuned.scores(texts)) > 0.98

    def test_the_epochs_tell_of_the_scores_that_it_gives(self, made, examples, scorer):
        _, epochs, lines = made
        assert [set(epoch) for epoch in epochs] == [{"loss", "held_out_loss", "seconds"}] * len(epochs)
        tuned = PromptScorer(made[0], answers=ANSWERS, threads=1)
        texts, labels = toy(60, seed=1)
        loss = log_loss(labels, 1 / (1 + np.exp(-tuned.scores(texts).astype(float))))
        assert min(epoch["held_out_loss"] for epoch in epochs) == pytest.approx(loss, abs=2e-3)
        assert sum(line.startswith("epoch ") for line in lines) == len(epochs)
        assert "of the last 2 of 2 layers, float32 on cpu" in lines[0]

    def test_is_a_model_of_its_own(self, made, llm_artifact):
        new, old = made[0].spec, llm_artifact.spec
        assert made[0].fingerprint != llm_artifact.fingerprint
        assert new.revision != old.revision
        assert new.source == f"{old.source}+lora"
        assert new.parity["failures"] == []
        same = ("chat_template", "max_tokens", "precision", "special_tokens", "tokenizer_sha256", "pad_token_id")
        assert [getattr(new, name) for name in same] == [getattr(old, name) for name in same]


class TestTraining:
    def test_is_the_same_for_a_seed_and_leaves_other_draws_alone(self, llm_source, examples, answers, tmp_path):
        import torch

        short = dataclasses.replace(LORA, epochs=1)
        torch.manual_seed(7)
        np.random.seed(7)  # noqa: NPY002  the global one is what must not be touched
        state, other = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
        one = adapt(llm_source, tmp_path / "one", examples, answers, short)[1]
        assert torch.equal(torch.random.get_rng_state(), state)
        np.testing.assert_array_equal(np.random.get_state()[1], other)  # noqa: NPY002
        torch.manual_seed(8)
        assert adapt(llm_source, tmp_path / "two", examples, answers, short)[1] == one
        assert adapt(llm_source, tmp_path / "three", examples, answers, short, seed=1)[1] != one

    def test_keeps_the_best_epoch(self, llm_source, examples, answers, tmp_path):
        """What is held out contradicts what is learned, so that a later epoch is worse."""
        import torch
        from transformers import AutoModelForCausalLM

        train, held_out = examples
        turned = Examples(held_out.ids, 1 - held_out.labels)
        lora = dataclasses.replace(LORA, patience=2)
        epochs, _ = adapt(llm_source, tmp_path / "out", [train, turned], answers, lora)
        losses = [epoch["held_out_loss"] for epoch in epochs]
        best = int(np.argmin(losses))
        assert len(losses) == best + 1 + 2
        assert losses[-1] > losses[best] + 0.1
        saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
        trainer = _Trainer(torch, saved, [], answers, None, pad_id=0, device="cpu")
        assert trainer._held_out_loss(turned, 16) == pytest.approx(losses[best], abs=1e-3)

    def test_adapts_the_last_layers_only(self, llm_source, examples, answers, tmp_path):
        from safetensors.numpy import load_file

        adapt(llm_source, tmp_path / "out", examples, answers, dataclasses.replace(LORA, layers=1, epochs=1))
        old, new = load_file(llm_source / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
        changed = {name for name in old if not np.array_equal(old[name], new[name])}
        assert changed
        assert all(name.startswith("model.layers.1.") for name in changed)
        assert set(new) == set(old)

    def test_what_is_learned_in_bfloat16_is_merged_without_its_rounding(self, llm_source, examples, answers, tmp_path):
        import torch
        from safetensors.torch import load_file

        lora = dataclasses.replace(LORA, layers=1, epochs=2, dtype="bfloat16")
        epochs, _ = adapt(llm_source, tmp_path / "out", examples, answers, lora)
        weights = load_file(tmp_path / "out" / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
        rounded = {name for name, weight in weights.items() if torch.equal(weight, weight.bfloat16().float())}
        assert {name for name in weights if "layers.1." in name and "_proj" in name}.isdisjoint(rounded)
        assert all(name in rounded for name in weights if "layers.0." in name)
        assert np.isfinite([epoch["held_out_loss"] for epoch in epochs]).all()

    def test_a_loss_that_is_not_finite_is_said(self, llm_source, examples, answers, tmp_path):
        wild = dataclasses.replace(LORA, learning_rate=1e30)
        with pytest.raises(ExportError, match=r"lower the learning rate"):
            adapt(llm_source, tmp_path / "out", examples, answers, wild)


class TestKeptStates:
    """What the layers below the adapted ones make of a row is computed once, and changes nothing."""

    LORA = dataclasses.replace(LORA, layers=1, epochs=3)

    @pytest.fixture
    @staticmethod
    def calls(monkeypatch):
        """The rows that came through the first layer, a number a call."""
        from transformers.models.llama.modeling_llama import LlamaDecoderLayer

        found, plain = [], LlamaDecoderLayer.forward

        def forward(self, hidden_states, *args, **options):
            if self.self_attn.layer_idx == 0:
                found.append(len(hidden_states))
            return plain(self, hidden_states, *args, **options)

        monkeypatch.setattr(LlamaDecoderLayer, "forward", forward)
        return found

    def test_a_row_is_computed_once_and_learned_from_as_before(
        self, llm_source, examples, answers, tmp_path, calls, monkeypatch
    ):
        n_rows, n_checked = sum(map(len, examples)), 8  # four in both ways
        kept, _ = adapt(llm_source, tmp_path / "kept", examples, answers, self.LORA)
        assert sum(calls) == n_rows + n_checked
        calls.clear()
        monkeypatch.setattr("llmfeat.export.frozen._MOST_BYTES", 0)
        anew, _ = adapt(llm_source, tmp_path / "anew", examples, answers, self.LORA)
        assert sum(calls) == n_rows * len(anew)
        for name in ("loss", "held_out_loss"):
            assert [each[name] for each in kept] == pytest.approx([each[name] for each in anew], abs=1e-4)

    def test_one_epoch_keeps_nothing(self, llm_source, examples, answers, tmp_path, monkeypatch):
        monkeypatch.setattr("llmfeat.export.finetune.KeptStates.of", lambda *args, **options: 1 / 0)
        adapt(llm_source, tmp_path / "out", examples, answers, dataclasses.replace(self.LORA, epochs=1))

    def test_a_model_that_scales_what_it_is_given_is_computed_anew(
        self, llm_source, examples, answers, tmp_path, calls, monkeypatch
    ):
        from transformers.models.llama.modeling_llama import LlamaModel

        plain = LlamaModel.forward

        def scaled(self, input_ids=None, inputs_embeds=None, **options):
            embedded = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
            return plain(self, inputs_embeds=embedded * 3, **options)

        monkeypatch.setattr(LlamaModel, "forward", scaled)
        epochs, _ = adapt(llm_source, tmp_path / "out", examples, answers, self.LORA)
        assert sum(calls) >= sum(map(len, examples)) * len(epochs)

    def test_a_model_that_takes_no_states_is_computed_anew_and_that_is_said(
        self, llm_source, examples, answers, tmp_path, monkeypatch
    ):
        from transformers.models.llama.modeling_llama import LlamaModel

        plain = LlamaModel.forward

        def refusing(self, input_ids=None, inputs_embeds=None, **options):
            if input_ids is None:
                raise ValueError("input_ids are needed")
            return plain(self, input_ids=input_ids, **options)

        monkeypatch.setattr(LlamaModel, "forward", refusing)
        lines = []
        with open_source(llm_source) as source:
            _adapt(source, tmp_path / "out", *examples, answers, self.LORA, 0, lines.append, False)
        assert any("all layers are computed in each epoch" in line for line in lines)

    def test_all_layers_adapted_leave_nothing_to_keep(self, llm_source, examples, answers, tmp_path, calls):
        epochs, _ = adapt(llm_source, tmp_path / "out", examples, answers, dataclasses.replace(LORA, epochs=2))
        assert sum(calls) == sum(map(len, examples)) * len(epochs)


class TestErrors:
    def test_weights_that_were_changed_since(self, llm_artifact, examples, answers, tmp_path):
        other = save_tiny("llama", tmp_path / "other", seed=1)
        moved = dataclasses.replace(llm_artifact, spec=dataclasses.replace(llm_artifact.spec, source=str(other)))
        with pytest.raises(ExportError, match="export it again, then fine-tune"):
            finetune_scorer(moved, tmp_path / "out", *examples, positive=answers[0], negative=answers[1])
        assert not (tmp_path / "out").exists()

    def test_no_rows(self, llm_artifact, examples, answers, tmp_path):
        none = Examples([], np.empty(0))
        with pytest.raises(InputError, match="240 rows to learn from and 0 held out"):
            finetune_scorer(llm_artifact, tmp_path / "out", examples[0], none, positive=[1], negative=[2])

    @pytest.mark.parametrize(
        ("parameters", "said"),
        [
            ({"rank": 0}, "rank=0, but a whole number from 1"),
            ({"epochs": 1.5}, r"epochs=1\.5"),
            ({"layers": 0}, "layers=0"),
            ({"patience": True}, "patience=True"),
            ({"learning_rate": 0}, "learning_rate=0, but more than 0"),
            ({"learning_rate": float("nan")}, "learning_rate=nan"),
            ({"dtype": "float16"}, "dtype='float16', but 'auto'"),
        ],
    )
    def test_parameters(self, parameters, said):
        with pytest.raises(InputError, match=said):
            Lora(**parameters)


class TestHeldOut:
    def test_users_are_held_out_whole(self):
        users = pa.array([f"u{at % 50}" for at in range(400)])
        held = held_out_rows(users, seed=0)
        names = np.array(users.to_pylist())
        assert not set(names[held]) & set(names[~held])
        assert 0 < len(set(names[held])) < 15
        assert held.tolist() == held_out_rows(users, seed=0).tolist()
        assert held.tolist() != held_out_rows(users, seed=1).tolist()

    @pytest.mark.parametrize("n_users", [2, 3, 4])
    def test_some_of_few_and_never_all(self, n_users):
        for seed in range(20):
            held = held_out_rows(pa.array([f"u{at}" for at in range(n_users)]), seed=seed)
            assert 0 < held.sum() < n_users


class TestRanker:
    """A user likes heat and not steel, whatever happened before."""

    @pytest.fixture(scope="module")
    @staticmethod
    def rows():
        draw = np.random.default_rng(0)
        items = draw.integers(0, 20, 240)
        return pa.table(
            {
                "user_id": [f"u{at}" for at in draw.integers(0, 30, 240)],
                "item_id": [str(item) for item in items],
                "timestamp": 10**9 + draw.integers(0, 10**6, 240),
                "label": items % 2,
            }
        )

    @pytest.fixture
    def ranker(self, scorer, llm_artifact, rows):
        titles = {str(at): f"{WORDS[at % 6]} {('steel', 'heat')[at % 2]}" for at in range(20)}
        return LLMScorer(
            InteractionLog.from_frame(rows, label="label"),
            llm_artifact,
            titles,
            prompt=PreferencePrompt("[{history} ]{candidate}", system=None, chat=False, max_items=1),
            answers=ANSWERS,
            threads=1,
            finetune=LORA,
        )

    @pytest.mark.slow
    def test_learns_and_is_found_again(self, ranker, rows, llm_artifact, monkeypatch):
        labels = rows.column("label").to_numpy()
        with few_texts():
            ranker.fit(rows, labels)
        assert ranker.epochs_
        assert ranker.fingerprint_ == ranker.artifact_.fingerprint != llm_artifact.fingerprint
        assert roc_auc_score(labels, ranker.predict_proba(rows)[:, 1]) > 0.95
        scores = ranker.predict(rows)
        monkeypatch.setattr("llmfeat.rank.llm.tuning.finetune_scorer", None)  # not called again
        again = ranker.fit(rows, labels)
        np.testing.assert_allclose(again.predict(rows), scores, atol=1e-4)

    def test_a_tuned_model_is_asked_as_the_scorer_that_was_passed(self, ranker, scorer, rows, monkeypatch):
        tuned = scorer.artifact, [{"loss": 0.0}]
        monkeypatch.setattr("llmfeat.rank.llm.scorer.finetuned", lambda *given, **how: tuned)
        ranker.set_params(artifact=scorer, answers=None, threads=None).fit(rows, rows.column("label").to_numpy())
        assert ranker._fitted().answers == ANSWERS

    def test_labels_of_one_kind(self, ranker, rows):
        with pytest.raises(NothingToLearnError, match="rows learned from have labels of one kind"):
            ranker.fit(rows, np.ones(len(rows)))
