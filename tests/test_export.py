"""The real export, on tiny models of the real architectures with random weights."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from llmfeat import ModelArtifact, TextEncoder, export_model
from llmfeat.errors import ExportError, InputError
from llmfeat.export import storage
from llmfeat.export.runner import GraphRunner, make_feeds
from tests.tiny_models import ENCODERS, SCORERS, TEXTS, save_modules

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def scorer(models, tmp_path_factory):
    return export_model(models["llama"], tmp_path_factory.mktemp("scorer") / "artifact", kind="scorer")


def by_sentence_transformers(folder, texts, *, pooling="mean", prompt=None, max_tokens=512):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers import models as parts

    if (folder / "modules.json").is_file():
        model = SentenceTransformer(str(folder), device="cpu")
    else:
        transformer = parts.Transformer(str(folder))
        pool = parts.Pooling(transformer.get_embedding_dimension(), pooling_mode=pooling)
        model = SentenceTransformer(modules=[transformer, pool, parts.Normalize()], device="cpu")
    model.max_seq_length = max_tokens
    return model.encode(texts, prompt=prompt, batch_size=2)


class TestFamilies:
    @pytest.mark.parametrize("family", ENCODERS)
    def test_encoders_give_the_vectors_of_sentence_transformers(self, models, tmp_path, family):
        artifact = export_model(models[family], tmp_path / "artifact")
        decoder = family in SCORERS
        spec = artifact.spec
        assert (spec.kind, spec.precision, spec.dim) == ("encoder", "fp32", 32)
        assert (spec.pooling, spec.max_tokens) == ("last" if decoder else "mean", 512)
        assert spec.parity["cosine_min"] > 0.999999
        assert spec.parity["tokens"][1] == 512
        assert spec.parity["batch_invariance"]["bit_equal"]
        assert ("left_right_cosine_min" in spec.parity) == decoder
        names = set(GraphRunner(artifact.graph_path, pad_id=0).inputs)
        assert names <= {"input_ids", "attention_mask", "token_type_ids"}
        # Starcoder2's tokenizer makes no token of an empty text, with which sentence-transformers cannot do anything.
        texts = [text or "<pad>" for text in TEXTS] if family == "starcoder2" else TEXTS
        expected = by_sentence_transformers(models[family], texts, pooling="lasttoken" if decoder else "mean")
        np.testing.assert_allclose(TextEncoder(artifact).encode(TEXTS), expected, atol=1e-5)

    @pytest.mark.parametrize("family", SCORERS)
    def test_scorers_give_the_logits_of_the_last_token(self, models, tmp_path, family):
        import torch
        from transformers import AutoModelForCausalLM

        artifact = export_model(models[family], tmp_path / "artifact", kind="scorer")
        assert artifact.spec.parity["log_prob_diff_max"] < 1e-4
        assert artifact.spec.parity["cache_log_prob_diff_max"] < 1e-4
        assert artifact.spec.parity["left_right_log_prob_diff_max"] < 1e-4
        runner = GraphRunner(artifact.graph_path, pad_id=0)
        rows = [[5, 6, 7, 8, 9], [10, 11], [12]]
        model = AutoModelForCausalLM.from_pretrained(models[family], dtype=torch.float32).eval()
        with torch.no_grad():
            expected = np.stack([model(torch.tensor([row])).logits[0, -1].numpy() for row in rows])
        for side in ("left", "right"):
            got = runner.run(rows, side=side)
            assert got.shape == (3, artifact.spec.dim)
            np.testing.assert_allclose(got, expected, atol=1e-4)
        # Prefixes and suffixes of unlike length: padding stands between what is in the cache and what follows.
        with torch.no_grad():
            whole = np.stack(
                [
                    model(torch.tensor([row + after])).logits[0, -1].numpy()
                    for row, after in zip(rows, rows[::-1], strict=True)
                ]
            )
        np.testing.assert_allclose(runner.run_with_cache(rows, rows[::-1]), whole, atol=1e-4)

    def test_what_fuses_and_what_does_not_is_said(self, bert, models, tmp_path):
        assert bert.spec.fusions["fused"] == {
            "Attention": 2,
            "LayerNormalization": 1,
            "SkipLayerNormalization": 4,
            "BiasGelu": 2,
        }
        assert bert.spec.fusions["left"] == []
        said = []
        modern = export_model(models["modernbert"], tmp_path / "artifact", say=said.append)
        assert "attention in 4 layers" in modern.spec.fusions["left"]
        assert any("not fused: attention in 4 layers" in line for line in said)

    def test_a_scorer_needs_a_causal_model(self, models, tmp_path):
        with pytest.raises(ExportError, match="no causal language model"):
            export_model(models["bert"], tmp_path / "artifact", kind="scorer")

    def test_a_scorer_does_not_encode(self, scorer):
        with pytest.raises(InputError, match="is a scorer, but an encoder was expected"):
            TextEncoder(scorer)


class TestModules:
    @pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
    @pytest.mark.parametrize("family", ["bert", "qwen3"])
    def test_pooling_dense_normalize_and_length(self, models, tmp_path, family, pooling):
        folder = shutil.copytree(models[family], tmp_path / "model")
        save_modules(folder, pooling=pooling, dense=(24, 16), normalize=pooling != "cls", max_seq_length=48)
        artifact = export_model(folder, tmp_path / "artifact")
        spec = artifact.spec
        assert (spec.pooling, spec.dim, spec.max_tokens, spec.normalize) == (pooling, 16, 48, pooling != "cls")
        expected = by_sentence_transformers(folder, TEXTS, max_tokens=48)
        np.testing.assert_allclose(TextEncoder(artifact).encode(TEXTS), expected, atol=2e-5)

    @pytest.mark.parametrize("family", ["bert", "qwen3"])
    @pytest.mark.parametrize("include_prompt", [True, False])
    def test_prompts(self, models, tmp_path, family, include_prompt):
        folder = shutil.copytree(models[family], tmp_path / "model")
        prompts = {"query": "Which bottle? ", "passage": "Product: "}
        save_modules(folder, include_prompt=include_prompt, prompts=prompts)
        artifact = export_model(folder, tmp_path / "artifact")
        assert (artifact.spec.query_prompt, artifact.spec.document_prompt) == ("Which bottle? ", "Product: ")
        assert artifact.spec.include_prompt == include_prompt
        encoder = TextEncoder(artifact)
        for role, prompt in (("query", "Which bottle? "), ("document", "Product: ")):
            expected = by_sentence_transformers(folder, TEXTS, prompt=prompt)
            np.testing.assert_allclose(encoder.encode(TEXTS, role=role), expected, atol=1e-5)
        assert not np.allclose(encoder.encode(TEXTS), encoder.encode(TEXTS, role="query"), atol=1e-2)
        with pytest.raises(InputError, match="role='item'"):
            encoder.encode(TEXTS, role="item")

    def test_prompts_can_be_given(self, models, bert, tmp_path):
        artifact = export_model(
            models["bert"], tmp_path / "artifact", query_prompt="query: ", document_prompt="passage: "
        )
        plain = TextEncoder(bert).encode(["passage: steel bottle", "query: steel bottle"])
        encoder = TextEncoder(artifact)
        np.testing.assert_array_equal(encoder.encode(["steel bottle"])[0], plain[0])
        np.testing.assert_array_equal(encoder.encode(["steel bottle"], role="query")[0], plain[1])
        assert artifact.fingerprint != bert.fingerprint

    def test_an_empty_document_prompt_is_not_the_default_one(self, models, tmp_path):
        folder = save_modules(shutil.copytree(models["bert"], tmp_path / "model"), prompts={"query": "Which? "})
        path = folder / "config_sentence_transformers.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "default_prompt_name": "query"}))
        spec = export_model(folder, tmp_path / "artifact").spec
        assert (spec.query_prompt, spec.document_prompt) == ("Which? ", "")

    def test_a_prompt_longer_than_most_texts(self, models, tmp_path):
        prompt = "Instruct: find what goes with the things that were bought before. " * 6
        artifact = export_model(models["bert"], tmp_path / "artifact", document_prompt=prompt)
        assert artifact.spec.parity["batch_invariance"]["padded_to"] > 64

    def test_leading_dimensions_are_kept(self, models, bert, tmp_path):
        artifact = export_model(models["bert"], tmp_path / "artifact", dim=8)
        cut = TextEncoder(bert).encode(TEXTS)[:, :8]
        np.testing.assert_allclose(
            TextEncoder(artifact).encode(TEXTS), cut / np.linalg.norm(cut, axis=1, keepdims=True), atol=1e-6
        )
        with pytest.raises(ExportError, match=r"dim=33, but .* has 32 dimensions"):
            export_model(models["bert"], tmp_path / "artifact", dim=33)

    def test_a_transformer_below_the_root_and_lower_case(self, models, tmp_path):
        folder = tmp_path / "model"
        save_modules(shutil.copytree(models["llama"], folder))
        below = folder / "0_Transformer"
        below.mkdir()
        for path in list(folder.iterdir()):
            if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
                path.rename(below / path.name)
        modules = json.loads((folder / "modules.json").read_text())
        modules[0]["path"] = "0_Transformer"
        (folder / "modules.json").write_text(json.dumps(modules))
        (below / "sentence_bert_config.json").write_text('{"max_seq_length": 40, "do_lower_case": true}')
        artifact = export_model(folder, tmp_path / "artifact")
        assert artifact.spec.max_tokens == 40
        one, two = TextEncoder(artifact).encode(["Steel BOTTLE", "steel bottle"])
        np.testing.assert_array_equal(one, two)

    def test_a_chat_template_around_each_text_is_refused(self, models, tmp_path):
        folder = shutil.copytree(models["llama"], tmp_path / "model")
        (folder / "chat_template.jinja").write_text("{% for m in messages %}<begin>{{ m['content'] }}<end>{% endfor %}")
        plain = export_model(folder, tmp_path / "plain")
        assert plain.fingerprint == export_model(models["llama"], tmp_path / "same").fingerprint
        save_modules(folder)
        with pytest.raises(ExportError, match="reads each text through its chat template"):
            export_model(folder, tmp_path / "artifact")

    def test_what_cannot_be_exported_says_why(self, models, tmp_path):
        folder = save_modules(shutil.copytree(models["bert"], tmp_path / "model"), pooling="max")
        with pytest.raises(ExportError, match=r"pools by \['max'\], but one of \['mean', 'cls', 'last'\]"):
            export_model(folder, tmp_path / "artifact")
        assert export_model(folder, tmp_path / "artifact", pooling="cls").spec.pooling == "cls"
        modules = json.loads((folder / "modules.json").read_text())
        modules[1]["type"] = "evil.Pooling"
        (folder / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(ExportError, match=r"has the module 'evil\.Pooling'"):
            export_model(folder, tmp_path / "other")
        modules[1]["type"] = "sentence_transformers.models.Pooling"
        modules.append({"idx": 3, "name": "3", "path": "3_CNN", "type": "sentence_transformers.models.CNN"})
        (folder / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(ExportError, match=r"has the modules \['Transformer', 'Pooling', 'Normalize', 'CNN'\]"):
            export_model(folder, tmp_path / "other")
        assert not (tmp_path / "other").exists()


class TestOpenVino:
    @pytest.mark.parametrize(("family", "pooling"), [("bert", "mean"), ("xlm-roberta", "cls"), ("qwen3", "last")])
    def test_it_reads_the_same_file(self, models, tmp_path, family, pooling):
        import openvino

        artifact = export_model(models[family], tmp_path / "artifact", pooling=pooling)
        runner = GraphRunner(artifact.graph_path, pad_id=0)
        feeds = make_feeds(runner.inputs, [[5, 6, 7, 8], [9, 10]], pad_id=0)
        precise = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(str(artifact.graph_path), "CPU", precise)
        expected = runner.session.run(None, feeds)[0]
        np.testing.assert_allclose(compiled(feeds)["embedding"], expected, atol=1e-5)


class TestFingerprint:
    def test_exporting_again_or_moving_keeps_it(self, models, bert, tmp_path):
        moved = shutil.copytree(models["bert"], tmp_path / "elsewhere")
        assert export_model(moved, tmp_path / "again").fingerprint == bert.fingerprint

    def test_of_a_scorer_too(self, models, scorer, tmp_path):
        assert export_model(models["llama"], tmp_path / "again", kind="scorer").fingerprint == scorer.fingerprint

    def test_so_does_where_the_weights_are(self, models, bert, tmp_path, monkeypatch):
        monkeypatch.setattr(storage, "INLINE_BYTES", 1000)
        artifact = export_model(models["bert"], tmp_path / "artifact")
        assert set(artifact.spec.files) == {"model.onnx", "model.onnx.data", "tokenizer.json"}
        assert artifact.fingerprint == bert.fingerprint
        np.testing.assert_array_equal(TextEncoder(artifact).encode(TEXTS), TextEncoder(bert).encode(TEXTS))

    def test_int8_too_with_weights_beside(self, models, tmp_path, monkeypatch):
        inline = export_model(models["bert"], tmp_path / "inline", precision="int8")
        monkeypatch.setattr(storage, "INLINE_BYTES", 1000)
        beside = export_model(models["bert"], tmp_path / "beside", precision="int8")
        assert "model.onnx.data" in beside.spec.files
        assert beside.fingerprint == inline.fingerprint

    def test_what_changes_a_vector_changes_it(self, models, bert, tmp_path):
        others = [
            export_model(models["bert"], tmp_path / str(at), **changed).fingerprint
            for at, changed in enumerate(({"max_tokens": 100}, {"pooling": "cls"}, {"query_prompt": "q: "}))
        ]
        assert len({bert.fingerprint, *others}) == 4


def test_parameters_are_checked_first(models, tmp_path):
    out = tmp_path / "artifact"
    for wrong, message in (
        ({"kind": "ranker"}, "kind='ranker', but one of"),
        ({"precision": "int4"}, "precision='int4', but one of"),
        ({"kind": "scorer", "dim": 8}, "are an encoder's"),
    ):
        with pytest.raises(InputError, match=message):
            export_model(models["llama"], out, **wrong)
    with pytest.raises(ExportError, match="pooling='max'"):
        export_model(models["llama"], out, pooling="max")
    with pytest.raises(ExportError, match=r"max_tokens=2, but .* puts 2 special tokens around a text"):
        export_model(models["bert"], out, max_tokens=2)
    with pytest.raises(ExportError, match=r"max_tokens=601, but .* has 600 positions"):
        export_model(models["llama"], out, max_tokens=601)


def test_weights_that_are_missing_are_not_drawn_at_random(models, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(models["bert"], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")

    def without(begin):
        kept = {name: weight for name, weight in weights.items() if not name.startswith(begin)}
        assert len(kept) < len(weights)
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})

    # No graph has the pooler; many checkpoints come without one.
    without("pooler.")
    vectors = [TextEncoder(export_model(folder, tmp_path / name)).encode(TEXTS) for name in ("one", "two")]
    np.testing.assert_array_equal(*vectors)
    without("encoder.layer.1.output")
    with pytest.raises(ExportError, match=r"lacks 4 weights, such as 'encoder\.layer\.1\.output"):
        export_model(folder, tmp_path / "artifact")


def test_a_folder_of_other_things_is_not_replaced(models, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "notes").mkdir()
    with pytest.raises(InputError, match=r"holds 'notes' and 1 more, which an export would remove"):
        export_model(models["bert"], tmp_path)
    with pytest.raises(InputError, match="is a file"):
        export_model(models["bert"], tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_positions_after_padding_are_not_promised(models, tmp_path):
    # XLM-RoBERTa's first position is that of the padding token plus one: of 600 rows, 598 can be used.
    with pytest.raises(ExportError, match="598 positions"):
        export_model(models["xlm-roberta"], tmp_path / "artifact", max_tokens=599)
    assert export_model(models["xlm-roberta"], tmp_path / "artifact", max_tokens=598).spec.max_tokens == 598


def test_the_artifact_needs_no_torch(bert):
    import subprocess
    import sys

    code = (
        "import sys; from llmfeat import TextEncoder; "
        f"TextEncoder({str(bert.path)!r}).encode(['heat']); "
        "print([name for name in ('torch', 'transformers', 'optimum', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert ModelArtifact.load(bert.path) == bert
