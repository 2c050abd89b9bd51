from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from llmfeat import ModelArtifact, TextEncoder
from llmfeat.encode import certify_backend, engine
from llmfeat.encode.backends import BACKENDS, choose, open_backend, unavailable
from llmfeat.encode.backends.openvino import OpenVino
from llmfeat.errors import BackendError, InputError, LLMFeatWarning
from llmfeat.export.sample import AWKWARD_TEXTS, sample_texts

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
HERE = [name for name in BACKENDS if not unavailable(name)]
TEXTS = [*AWKWARD_TEXTS, *sample_texts(48, seed=5)]


@pytest.fixture(params=HERE)
def backend(request):
    return request.param


@pytest.fixture(scope="session", params=["fp32", "int8"])
def exported(request, models, bert, tmp_path_factory) -> ModelArtifact:
    from llmfeat import export_model

    if request.param == "fp32":
        return bert
    return export_model(models["bert"], tmp_path_factory.mktemp("int8") / "a", precision="int8")


class TestBatchInvariance:
    def test_alone_in_a_batch_and_shuffled_are_the_same_bits(self, exported, backend):
        encoder = TextEncoder(exported, backend=backend)
        together = encoder.encode(TEXTS)
        order = np.random.default_rng(0).permutation(len(TEXTS))
        assert encoder.encode([TEXTS[at] for at in order]).tobytes() == together[order].tobytes()
        for at in range(0, len(TEXTS), 3):
            assert encoder.encode([TEXTS[at]]).tobytes() == together[at].tobytes()

    @pytest.mark.parametrize("changes", [{"threads": 1}, {"streams": 1}, {"batch_tokens": 64}])
    def test_settings_change_no_bit(self, exported, backend, changes):
        plain = TextEncoder(exported, backend=backend).encode(TEXTS)
        assert TextEncoder(exported, backend=backend, **changes).encode(TEXTS).tobytes() == plain.tobytes()

    def test_a_backend_that_looks_at_neighbours_is_found_by_its_certificate(self, bert, tmp_path, monkeypatch):
        class Leaky:
            """Scales by the batch, as dynamic int8 does."""

            def __init__(self, sound):
                self.sound = sound

            def __getattr__(self, name):
                return getattr(self.sound, name)

            def run(self, ids, mask, prompt_tokens):
                vectors = self.sound.run(ids, mask, prompt_tokens)
                step = np.abs(vectors).max() / 127
                return np.round(vectors / step) * step

        monkeypatch.setattr(engine, "open_backend", lambda *args, **kw: Leaky(open_backend(*args, **kw)))
        _, found = certify_backend(_copy(bert, tmp_path), "onnxruntime-cpu")
        assert found["batch_distance_max"] > 0.001


class TestAgreement:
    def test_every_backend_gives_the_reference_s_vectors(self, bert, backend):
        cosines = np.sum(TextEncoder(bert, backend=backend).encode(TEXTS) * TextEncoder(bert).encode(TEXTS), axis=1)
        assert cosines.min() > (0.9999 if backend == "openvino-bf16" else 0.999999)

    def test_what_is_measured_is_added_to_the_certificate(self, bert, tmp_path, backend):
        artifact = _copy(bert, tmp_path)
        certified, found = certify_backend(artifact, backend)
        assert certified.fingerprint == bert.fingerprint
        again = ModelArtifact.load(artifact.path).spec
        assert again.parity["numerics"] == {backend: found}
        assert again.agreement(backend) == (1.0 if backend == "onnxruntime-cpu" else found["cosine_min"])
        assert {key: value for key, value in again.parity.items() if key != "numerics"} == bert.spec.parity
        assert found["cosine_min"] > 0.9999
        assert found["batch_distance_max"] == 0

    def test_vectors_that_are_not_finite_are_refused(self, bert, tmp_path, monkeypatch):
        pytest.importorskip("openvino")
        monkeypatch.setattr(OpenVino, "run", lambda self, ids, *_: np.full((len(ids), bert.spec.dim), np.nan))
        with pytest.raises(BackendError, match="not finite"):
            certify_backend(_copy(bert, tmp_path), "openvino-f32")


class TestChoice:
    @pytest.fixture(autouse=True)
    def _free(self, monkeypatch):
        monkeypatch.delenv("LLMFEAT_BACKEND")

    def test_auto_takes_the_first_that_is_here(self, bert):
        assert TextEncoder(bert).numerics == next(name for name in choose._AUTO if not unavailable(name))

    def test_the_environment_decides_for_auto_only(self, bert, monkeypatch):
        monkeypatch.setenv("LLMFEAT_BACKEND", "onnxruntime-cpu")
        assert TextEncoder(bert).numerics == "onnxruntime-cpu"
        if not unavailable("openvino-f32"):
            assert TextEncoder(bert, backend="openvino-f32").numerics == "openvino-f32"

    def test_an_unknown_one_is_refused_with_the_list(self, bert):
        with pytest.raises(InputError, match=r"backend='onnx', but one of \['auto', 'onnxruntime-cuda'"):
            open_backend(bert, "onnx")

    def test_what_is_asked_for_is_never_replaced(self, bert):
        if not unavailable("onnxruntime-cuda"):
            pytest.skip("there is a GPU here")
        with pytest.raises(BackendError, match=r"onnxruntime-cuda was asked for, but .*'llmfeat\[gpu\]'"):
            open_backend(bert, "onnxruntime-cuda")

    def test_auto_falls_back_with_a_warning_when_the_best_does_not_open(self, bert, monkeypatch):
        monkeypatch.setattr(choose, "unavailable", lambda name: "" if name in HERE else "no")
        opened = choose._open

        def fails(artifact, name, *rest):
            if name != "onnxruntime-cpu":
                raise BackendError(f"{name} cannot open it: no driver")
            return opened(artifact, name, *rest)

        monkeypatch.setattr(choose, "_open", fails)
        if HERE == ["onnxruntime-cpu"]:
            pytest.skip("there is nothing to fall back from")
        with pytest.warns(LLMFeatWarning, match="no driver; the next best backend is taken"):
            assert open_backend(bert).numerics == "onnxruntime-cpu"

    def test_auto_falls_back_when_the_best_opens_and_does_not_run(self, bert, monkeypatch):
        pytest.importorskip("openvino")

        def fails(*_):
            raise RuntimeError("unsupported operator\nand a page of more")

        monkeypatch.setattr(OpenVino, "run", fails)
        with pytest.warns(LLMFeatWarning, match="does not run .*: unsupported operator; the next"):
            assert open_backend(bert).numerics == "onnxruntime-cpu"

    def test_auto_leaves_out_what_the_certificate_says_to_disagree(self, bert):
        measured = {name: {"cosine_min": 0.99} for name in HERE if name != "onnxruntime-cpu"}
        parity = {**bert.spec.parity, "numerics": measured}
        artifact = dataclasses.replace(bert, spec=dataclasses.replace(bert.spec, parity=parity))
        assert open_backend(artifact).numerics == "onnxruntime-cpu"

    def test_a_gpu_package_without_a_gpu_is_said(self, bert, monkeypatch):
        monkeypatch.setattr(choose, "_has_gpu_package", lambda: True)
        if not unavailable("onnxruntime-cuda"):
            pytest.skip("there is a GPU here")
        with pytest.warns(LLMFeatWarning, match="onnxruntime-gpu is installed, but onnxruntime-cuda: "):
            open_backend(bert)

    def test_a_broken_package_is_a_reason_and_no_crash(self, bert, monkeypatch):
        pytest.importorskip("openvino")

        def broken():
            raise ImportError("libopenvino.so: cannot open shared object file")

        monkeypatch.setattr(choose, "native_precision", broken)
        assert "cannot be used (libopenvino.so: cannot open" in unavailable("openvino-bf16")
        with pytest.raises(BackendError, match=r"libopenvino\.so.*install it again"):
            open_backend(bert, "openvino-bf16")

    def test_nothing_at_all(self, bert, monkeypatch):
        monkeypatch.setattr(choose, "unavailable", lambda name: "it is not installed")
        with pytest.raises(BackendError, match=r"nothing here runs .*onnxruntime-cpu: it is not installed"):
            open_backend(bert)


def _copy(artifact: ModelArtifact, folder) -> ModelArtifact:
    import shutil

    return ModelArtifact.load(shutil.copytree(artifact.path, folder / "copy"))
