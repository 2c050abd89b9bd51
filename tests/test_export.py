"""The real export, on a tiny BERT with random weights."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmfeat import ModelArtifact, TextEncoder, export_encoder
from llmfeat.errors import ExportError, ParityError
from llmfeat.export import parity, resolve_source

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "heat", "alien", "casino"]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{name}"}
                for at, (path, name) in enumerate(modules)
            ]
        )
    )
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24, "do_lower_case": False}))
    return folder


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return export_encoder(model, tmp_path_factory.mktemp("out") / "artifact")


def test_the_spec_says_what_the_model_says(exported):
    spec = exported.spec
    assert (spec.pooling, spec.normalize, spec.max_tokens, spec.dim) == ("mean", True, 24, 16)
    assert spec.architecture == "BertModel"
    assert spec.parity["n_texts"] == 200
    assert spec.parity["cosine_min"] >= 0.9999


def test_it_gives_the_vectors_of_sentence_transformers(exported, model):
    from sentence_transformers import SentenceTransformer

    texts = ["heat", "alien casino", "a b c d e f", "", "heat " * 50]
    expected = SentenceTransformer(str(model), device="cpu").encode(texts)
    np.testing.assert_allclose(TextEncoder(exported).encode(texts), expected, atol=1e-5)


def test_exporting_again_keeps_the_fingerprint_and_the_file(exported, model, tmp_path):
    again = export_encoder(model, tmp_path / "again")
    assert again.fingerprint == exported.fingerprint


def test_an_export_that_misses_its_floor_changes_nothing(model, tmp_path, monkeypatch):
    out = tmp_path / "artifact"
    export_encoder(model, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    wrong = parity._reference

    def other_model(source, texts, *, max_tokens):
        return wrong(source, texts, max_tokens=max_tokens)[::-1]

    monkeypatch.setattr(parity, "_reference", other_model)
    with pytest.raises(ParityError, match=r"at least 0\.9999 was expected"):
        export_encoder(model, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_models_that_cannot_be_exported_say_why(model, tmp_path):
    with pytest.raises(ExportError, match=r"no folder with a config\.json"):
        resolve_source("nothing/here")
    with pytest.raises(ExportError, match="the bundled models are"):
        resolve_source("bundled:gpt9")
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / "config.json").write_text('{"architectures": ["Odd"]}')
    (odd / "modules.json").write_text('[{"type": "a.Transformer", "path": ""}, {"type": "a.Dense", "path": "1"}]')
    with pytest.raises(ExportError, match=r"Transformer, Pooling and Normalize can be exported"):
        export_encoder(odd, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ExportError, match="states no maximum length"):
        resolve_source(odd).max_tokens()


def test_the_artifact_needs_no_torch(exported):
    import subprocess
    import sys

    code = (
        "import sys; from llmfeat import TextEncoder; "
        f"TextEncoder({str(exported.path)!r}).encode(['heat']); "
        "print([name for name in ('torch', 'transformers', 'optimum') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert ModelArtifact.load(exported.path) == exported
