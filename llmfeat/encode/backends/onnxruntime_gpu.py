"""ONNX Runtime on an NVIDIA GPU: the CUDA provider, or TensorRT."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from llmfeat._base.files import cache_dir
from llmfeat._base.optional import import_optional
from llmfeat.encode.backends.base import OUTPUT, Buckets, feeds, first_line
from llmfeat.errors import BackendError
from llmfeat.types import Float32Array, Int64Array

__all__ = ["OnnxRuntimeGpu"]

_PROVIDERS = {"onnxruntime-cuda": "CUDAExecutionProvider", "onnxruntime-tensorrt": "TensorrtExecutionProvider"}
# Tensor cores multiply in tiles of 8 and more: finer steps would cost kernels and save nothing.
_BUCKETS: Buckets = ((64, 8), (128, 16), (512, 32), (1 << 30, 64))
# Parts of the names of operators that take nearly all of a model's time: none of them may run on the processor.
_HEAVY = ("MatMul", "Gemm", "Attention", "Conv")


class OnnxRuntimeGpu:
    """ONNX Runtime's CUDA or TensorRT provider; inputs and outputs are bound to the device.

    Parameters
    ----------
    graph_path : Path
        The ONNX file; an artifact of precision fp16 is what GPUs are fast at.
    numerics : {"onnxruntime-cuda", "onnxruntime-tensorrt"}
        Which of the two. TensorRT builds an engine at the first batch, minutes for large models, and keeps it in the
        user's cache.
    engine : str
        What identifies the model: TensorRT's engines are kept under it, since it tells two graphs of one architecture
        and different weights apart by their names alone.
    device_id : int, default=0
        Which GPU.
    streams : int, default=2
        How many batches are on their way at once, so that copies overlap with computing.

    Raises
    ------
    BackendError
        When the GPU cannot be used; the graph never runs on the processor instead, save the few operators that compute
        with its shapes, which ONNX Runtime puts there by design.
    """

    batch_tokens = 32_768
    buckets = _BUCKETS

    def __init__(
        self, graph_path: Path, *, numerics: str, engine: str, device_id: int = 0, streams: int | None = None
    ) -> None:
        ort = import_optional("onnxruntime", purpose="encoding")
        self.numerics = numerics
        self.n_streams = streams or 2
        self._device_id = device_id
        self._ort = ort
        provider = _PROVIDERS[numerics]
        if not hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
            raise BackendError(
                f"{numerics} needs an onnxruntime that tells where it runs a graph, {ort.__version__} does not: "
                "pip install --upgrade 'onnxruntime-gpu>=1.24.1'"
            )
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        settings = [(provider, _settings(numerics, engine, device_id))]
        if numerics == "onnxruntime-tensorrt":
            settings.append(("CUDAExecutionProvider", {"device_id": device_id, "use_tf32": 0}))
        said = _preload(ort)
        try:
            # enable_fallback=0: else a session that fails is opened again on the processor, with a line on stdout.
            self._session: Any = ort.InferenceSession(str(graph_path), options, providers=settings, enable_fallback=0)
        except Exception as error:  # onnxruntime's own kinds, which are many
            raise BackendError(f"{numerics} cannot open {graph_path}: {first_line(error)}") from error
        taken = self._session.get_providers()
        # A provider that does not load is left out of the list, and a graph may hold nothing that it takes.
        if provider not in taken:
            raise BackendError(
                f"{numerics} was asked for, onnxruntime took {taken}{said}: check the driver with nvidia-smi, and that "
                "onnxruntime-gpu fits the CUDA that is installed"
            )
        _check_assignment(self._session, provider, numerics, graph_path)
        self._inputs = {entry.name for entry in self._session.get_inputs()}

    def run(self, input_ids: Int64Array, attention_mask: Int64Array, prompt_tokens: int) -> Float32Array:
        """Return the vectors of a batch; see `Backend`."""
        n_texts = len(input_ids)
        if n_texts == 1:  # other kernels with other rounding, as on the processor
            input_ids, attention_mask = np.repeat(input_ids, 2, axis=0), np.repeat(attention_mask, 2, axis=0)
        binding = self._session.io_binding()
        for name, array in feeds(self._inputs, input_ids, attention_mask, prompt_tokens).items():
            value = self._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), "cuda", self._device_id)
            binding.bind_ortvalue_input(name, value)
        binding.bind_output(OUTPUT, "cuda", self._device_id)
        self._session.run_with_iobinding(binding)
        vectors: Float32Array = binding.copy_outputs_to_cpu()[0][:n_texts]
        return vectors


def _preload(ort: Any) -> str:
    """Load CUDA's libraries where pip put them, which is not where the linker looks; return what failed, in words."""
    said = io.StringIO()
    # It prints what it cannot load, which may still be none that this session needs.
    with contextlib.redirect_stdout(said):
        ort.preload_dlls()
    failed = [line for line in said.getvalue().splitlines() if line.startswith("Failed to load")]
    return f" ({failed[0].partition(': ')[0][:200]})" if failed else ""


def _check_assignment(session: Any, provider: str, numerics: str, graph_path: Path) -> None:
    """Refuse a session that was opened on the GPU, and computes elsewhere.

    ``session.disable_cpu_ep_fallback`` would be too strict: ONNX Runtime moves what follows a ``Shape`` to the
    processor on purpose, and then refuses its own choice.
    """
    operators: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        operators.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    if provider not in operators:
        raise BackendError(
            f"{numerics} takes nothing of {graph_path}, which went to {sorted(operators)}: take another backend"
        )
    heavy = {
        name: count
        for name, count in operators.get("CPUExecutionProvider", Counter()).items()
        if any(part in name for part in _HEAVY)
    }
    if heavy:
        raise BackendError(
            f"{numerics} left {heavy} of {graph_path} to the processor: take an artifact of precision fp16 or fp32, or "
            "another backend"
        )


def _settings(numerics: str, engine: str, device_id: int) -> dict[str, Any]:
    if numerics == "onnxruntime-cuda":
        # Exhaustive search would choose kernels by timing them, and so bits by chance.
        return {"device_id": device_id, "cudnn_conv_algo_search": "DEFAULT", "use_tf32": 0}
    return {
        "device_id": device_id,
        "trt_fp16_enable": True,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(cache_dir("tensorrt", engine)),
        "trt_timing_cache_enable": True,
    }
