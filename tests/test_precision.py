"""float16 and int8: what they keep, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from llmfeat import ModelArtifact, TextEncoder, export_model
from llmfeat.artifact import TextTokenizer
from llmfeat.errors import InputError, LLMFeatWarning, ParityError
from llmfeat.export import parity, storage
from llmfeat.export.runner import GraphRunner
from tests.tiny_models import TEXTS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_fp16_is_half_the_size_and_gives_float32(models, bert, tmp_path):
    artifact = export_model(models["bert"], tmp_path / "artifact", precision="fp16")
    assert artifact.spec.parity["cosine_min"] >= 0.9995
    assert artifact.spec.files["model.onnx"].size_bytes < 0.7 * bert.spec.files["model.onnx"].size_bytes
    vectors = TextEncoder(artifact).encode(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, TextEncoder(bert).encode(TEXTS), atol=5e-3)
    assert artifact.fingerprint != bert.fingerprint


def test_a_scorer_s_cache_is_fp16_and_its_logits_are_float32(models, tmp_path):
    artifact = export_model(models["qwen3"], tmp_path / "artifact", kind="scorer", precision="fp16")
    runner = GraphRunner(artifact.graph_path, pad_id=0)
    assert {cache.dtype for cache in runner.inputs.values() if cache is not None} == {np.float16}
    assert runner.run([[3, 4, 5]]).dtype == np.float32


def test_int8_has_fixed_scales(models, bert, tmp_path, caplog):
    artifact = export_model(models["bert"], tmp_path / "artifact", precision="int8")
    assert caplog.records == []  # the quantizer's advice to its developers
    found = artifact.spec.parity
    assert found["cosine_min"] >= 0.985
    assert found["top10_overlap"] >= 0.85
    assert found["batch_invariance"]["bit_equal"]
    assert artifact.spec.calibration["n_texts"] > 200
    operators = {node.op_type for node in storage.load_graph(artifact.graph_path).graph.node}
    assert "QuantizeLinear" in operators
    assert not {"DynamicQuantizeLinear", "DynamicQuantizeMatMul"} & operators
    encoder = TextEncoder(artifact)
    together = encoder.encode(TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_array_equal(encoder.encode([text])[0], vector)


def test_own_texts_calibrate(models, tmp_path):
    texts = [f"bottle number {at}" for at in range(20)]
    with pytest.warns(LLMFeatWarning, match="written by force"):
        one = export_model(models["llama"], tmp_path / "one", precision="int8", calibration_texts=texts, force=True)
    assert one.spec.calibration["n_texts"] == 20
    with pytest.raises(InputError, match="no sequence of texts"):
        export_model(models["llama"], tmp_path / "two", precision="int8", calibration_texts="bottle")


def test_int8_that_misses_its_floor_is_refused_and_changes_nothing(models, tmp_path):
    out = tmp_path / "artifact"
    export_model(models["llama"], out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ParityError, match=r"at least 0\.985 was expected.*differ most: .* tokens: 0\.\d+.*--force"):
        export_model(models["llama"], out, precision="int8")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_force_writes_the_failure_into_the_certificate(models, tmp_path):
    with pytest.warns(LLMFeatWarning, match=r"written by force: cosine 0\.\d+ to the model in torch"):
        artifact = export_model(models["llama"], tmp_path / "artifact", precision="int8", force=True)
    assert artifact.spec.failures
    assert len(artifact.spec.parity["worst"]) == 3
    with pytest.warns(LLMFeatWarning, match="written by force"):
        ModelArtifact.load(artifact.path)


@pytest.mark.parametrize("name", ["int8-dynamic", "dynamic"])
def test_dynamic_int8_is_refused_with_the_reason(models, tmp_path, name):
    with pytest.raises(InputError, match="a text's vector depends on its neighbours"):
        export_model(models["bert"], tmp_path / "artifact", precision=name)


def test_the_reason_is_true(bert, tmp_path):
    """Of a graph with dynamic scales, the batch-invariance check says that it is not."""
    from onnxruntime.quantization import quantize_dynamic

    # Types behind a fused operator cannot be inferred: 1 is float32.
    options = {"DefaultTensorType": 1}
    quantize_dynamic(str(bert.graph_path), str(tmp_path / "dynamic.onnx"), extra_options=options)
    tokenizer = TextTokenizer(bert.tokenizer_path, max_tokens=512, pad_id=0)
    texts = parity.catalogue_probes(tokenizer, "", n_texts=100)
    runner = GraphRunner(tmp_path / "dynamic.onnx", pad_id=0)
    found = parity._batch_invariance(runner, texts, parity._cosine_distance)
    assert not found["bit_equal"]
    assert found["distance_max"] > 1 - parity.LEAST_BATCH_COSINE
