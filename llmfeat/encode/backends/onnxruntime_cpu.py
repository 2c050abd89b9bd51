"""ONNX Runtime on the processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat.encode.backends.base import CPU_BUCKETS, OUTPUT, feeds
from llmfeat.types import Float32Array, Int64Array

__all__ = ["OnnxRuntimeCpu"]


class OnnxRuntimeCpu:
    """ONNX Runtime's CPU provider, in the precision of the graph.

    Parameters
    ----------
    graph_path : Path
        The ONNX file.
    threads : int, optional
        Threads within an operator; by default ONNX Runtime's own choice, one per core.
    """

    numerics = "onnxruntime-cpu"
    # One batch at a time on all cores is as fast as a batch per core, and a single text is faster.
    n_streams = 1
    batch_tokens = 4096
    buckets = CPU_BUCKETS

    def __init__(self, graph_path: Path, *, threads: int | None = None) -> None:
        ort = import_optional("onnxruntime", purpose="encoding")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.enable_mem_pattern = False  # it keeps a plan for every shape that was ever seen
        # Without it, processors that lack VNNI saturate int8 products, and give other vectors than those that have it.
        options.add_session_config_entry("session.x64quantprecision", "1")
        options.log_severity_level = 3  # errors: the warnings speak of graph internals that a user cannot change
        self._session: Any = ort.InferenceSession(str(graph_path), options, providers=["CPUExecutionProvider"])
        self._inputs = {entry.name for entry in self._session.get_inputs()}

    def run(self, input_ids: Int64Array, attention_mask: Int64Array, prompt_tokens: int) -> Float32Array:
        """Return the vectors of a batch; see `Backend`."""
        # A batch of one takes other kernels (matrix times vector) with other rounding: it runs as two equal rows.
        n_texts = len(input_ids)
        if n_texts == 1:
            input_ids, attention_mask = np.repeat(input_ids, 2, axis=0), np.repeat(attention_mask, 2, axis=0)
        (vectors,) = self._session.run([OUTPUT], feeds(self._inputs, input_ids, attention_mask, prompt_tokens))
        kept: Float32Array = vectors[:n_texts]
        return kept
