"""The certificate can fail: exports that are broken on purpose, one way each."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from llmfeat import export_model
from llmfeat.errors import ParityError
from llmfeat.export import exporter, fuse, graft, job
from llmfeat.export.runner import GraphRunner

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_another_pooling_is_found(models, tmp_path, monkeypatch):
    right = graft._pool
    monkeypatch.setattr(graft, "_pool", lambda make, mask, pooling: right(make, mask, "cls"))
    with pytest.raises(ParityError, match=r"at least 0\.99999 was expected"):
        export_model(models["bert"], tmp_path / "artifact")
    assert list(tmp_path.iterdir()) == []


def test_a_head_that_ignores_the_mask_is_found(models, tmp_path, monkeypatch):
    right = graft._pool
    monkeypatch.setattr(graft, "_pool", lambda make, mask, pooling: right(make, make("Equal", mask, mask), pooling))
    with pytest.raises(ParityError):
        export_model(models["bert"], tmp_path / "artifact")


def test_positions_that_count_padding_are_found(models, tmp_path, monkeypatch):
    right = graft._last_columns
    # Every token one place late: a shift of all positions is invisible, but not one that grows with the padding.
    monkeypatch.setattr(graft, "_last_columns", lambda make, value: right(make, make("Mul", value, value)))
    with pytest.raises(ParityError):
        export_model(models["llama"], tmp_path / "artifact")


def test_logits_of_another_token_are_found(models, tmp_path, monkeypatch):
    right = graft._position
    monkeypatch.setattr(graft, "_position", lambda make, mask, first: right(make, mask, first=True))
    with pytest.raises(ParityError, match=r"nats to the model in torch, at most 0\.001"):
        export_model(models["llama"], tmp_path / "artifact", kind="scorer")


def test_a_head_that_does_not_normalize_is_found(models, tmp_path, monkeypatch):
    right = graft.graft_head

    def without(model, head, *, hidden_size):
        right(model, dataclasses.replace(head, normalize=False), hidden_size=hidden_size)

    monkeypatch.setattr(job, "graft_head", without)
    with pytest.raises(ParityError, match="vectors longer or shorter by"):
        export_model(models["bert"], tmp_path / "artifact")


def test_a_cache_that_gives_nothing_is_found(models, tmp_path, monkeypatch):
    right = GraphRunner.run_with_cache
    monkeypatch.setattr(GraphRunner, "run_with_cache", lambda *args: right(*args) * np.float32(np.nan))
    with pytest.raises(ParityError, match="nan nats between a text in one piece and with a key/value cache"):
        export_model(models["llama"], tmp_path / "artifact", kind="scorer")


def test_vectors_of_nothing_are_found(models, tmp_path, monkeypatch):
    right = GraphRunner.run

    def spoiled(self, ids, **how):
        return right(self, ids, **how) * np.float32(np.nan if len(ids) == 64 else 1)

    monkeypatch.setattr(GraphRunner, "run", spoiled)
    with pytest.raises(ParityError, match=r"cosine nan to the model in torch.*cosine nan between a text alone"):
        export_model(models["bert"], tmp_path / "artifact")


def test_a_tokenizer_that_cuts_elsewhere_is_found(models, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "truncation_side", lambda source: "left")
    with pytest.raises(ParityError, match="is not cut as sentence-transformers cuts it"):
        export_model(models["bert"], tmp_path / "artifact")


def test_fusions_that_fail_are_left_out(models, tmp_path, monkeypatch):
    from onnxruntime.transformers import optimizer

    def fail(*args, **how):
        raise IndexError("list index out of range")

    monkeypatch.setattr(optimizer, "optimize_model", fail)
    artifact = export_model(models["bert"], tmp_path / "artifact", precision="int8")
    assert "IndexError" in artifact.spec.fusions["left"][0]


def test_fusions_that_break_the_model_are_left_out(models, tmp_path, monkeypatch):
    def break_it(model, source, *, attention_for):
        graph, report = fuse.fuse(model, source, attention_for=attention_for)
        for node in graph.graph.node:
            if node.op_type == "SkipLayerNormalization":
                node.input[0], node.input[2] = node.input[0], node.input[3]  # the offset in place of the gain
        return graph, report

    monkeypatch.setattr(job, "fuse", break_it)
    said = []
    artifact = export_model(models["bert"], tmp_path / "artifact", say=said.append)
    assert artifact.spec.parity["cosine_min"] > 0.99999
    assert artifact.spec.fusions["fused"] == {}
    assert "cosine" in artifact.spec.fusions["left"][0]
    assert any("again without them" in line for line in said)
