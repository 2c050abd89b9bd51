"""OpenVINO on the processor, reading the same graph."""

from __future__ import annotations

import os
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from llmfeat._base.machine import instruction_sets
from llmfeat._base.optional import import_optional
from llmfeat.encode.backends.base import CPU_BUCKETS, OUTPUT, feeds, first_line
from llmfeat.errors import BackendError
from llmfeat.types import Float32Array, Int64Array

__all__ = ["OpenVino", "native_precision"]

_MOST_STREAMS = 8
_KEPT_KERNELS = 16


def native_precision() -> str:
    """Return the precision that OpenVINO takes here by itself: bf16 where the processor multiplies it, else f32."""
    core = import_optional("openvino", purpose="encoding").Core()
    kind = core.get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    return "bf16" if kind in ("bf16", "bfloat16") else "f32"


class OpenVino:
    """OpenVINO's CPU plugin, several batches at once.

    Parameters
    ----------
    graph_path : Path
        The ONNX file.
    precision : {"bf16", "f32"}
        In which matrices are multiplied.
    threads : int, optional
        Threads in all; one per usable core by default.
    streams : int, optional
        How many batches run at once, sharing the threads; by default one per thread, at most 8.

    Raises
    ------
    BackendError
        When OpenVINO cannot read the graph.
    """

    batch_tokens = 2048
    buckets = CPU_BUCKETS

    def __init__(
        self, graph_path: Path, *, precision: str, threads: int | None = None, streams: int | None = None
    ) -> None:
        ov = import_optional("openvino", purpose="encoding")
        threads = threads or usable_cores()
        self.numerics = f"openvino-{precision}"
        # A stream of one thread never waits for another at the end of an operator.
        self.n_streams = min(streams or min(threads, _MOST_STREAMS), threads)
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": self.n_streams,
            # By itself it keeps kernels of thousands of shapes, half a megabyte each and more.
            "CPU_RUNTIME_CACHE_CAPACITY": _KEPT_KERNELS,
        }
        if "AMX" not in instruction_sets():
            # Attention as one generated kernel is a tenth slower on short texts than as separate products, without AMX.
            settings["SNIPPETS_MODE"] = "DISABLE"
        try:
            compiled = ov.Core().compile_model(str(graph_path), "CPU", settings)
        except RuntimeError as error:
            raise BackendError(f"{self.numerics} cannot open {graph_path}: {first_line(error)}") from error
        self._inputs = {entry.get_any_name() for entry in compiled.inputs}
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self.n_streams):
            self._idle.put(compiled.create_infer_request())

    def run(self, input_ids: Int64Array, attention_mask: Int64Array, prompt_tokens: int) -> Float32Array:
        """Return the vectors of a batch; see `Backend`."""
        request = self._idle.get()
        try:
            fed = feeds(self._inputs, input_ids, attention_mask, prompt_tokens)
            vectors: Float32Array = request.infer(fed, share_inputs=True)[OUTPUT]
            return vectors
        finally:
            self._idle.put(request)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
