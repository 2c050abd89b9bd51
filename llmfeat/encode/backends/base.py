"""What runs a graph: one small protocol, and ONNX Runtime on the CPU behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat.types import Float32Array, Int64Array

__all__ = ["Backend", "OnnxRuntimeCpu"]

_OUTPUT = "embedding"


class Backend(Protocol):
    """Runs an exported graph on padded token ids."""

    @property
    def numerics(self) -> str:
        """The class of backends whose vectors have the same bits, up to the kind of processor."""
        ...

    def run(self, input_ids: Int64Array, attention_mask: Int64Array, prompt_tokens: int) -> Float32Array:
        """Return the vectors, float32 of shape ``(n_texts, dim)``, of ids and mask of shape ``(n_texts, length)``.

        The first `prompt_tokens` of each text are the prompt's, for graphs that leave them out of the pooling.
        """
        ...


class OnnxRuntimeCpu:
    """ONNX Runtime's CPU provider.

    Parameters
    ----------
    graph_path : Path
        The ONNX file.
    threads : int, optional
        Threads within an operator; by default ONNX Runtime's own choice, one per core.
    """

    numerics = "onnxruntime-cpu"

    def __init__(self, graph_path: Path, *, threads: int | None = None) -> None:
        ort = import_optional("onnxruntime", purpose="encoding")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
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
        feeds = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": np.zeros_like(input_ids),
            "prompt_tokens": np.full(len(input_ids), prompt_tokens, dtype=np.int64),
        }
        (vectors,) = self._session.run([_OUTPUT], {name: feeds[name] for name in self._inputs})
        kept: Float32Array = vectors[:n_texts]
        return kept
