"""The towers in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat.types import BoolArray, Float32Array, Int64Array

__all__ = ["TowerRuntime"]

_BATCH_ROWS = 4096


class TowerRuntime:
    """Runs both graphs on the processor; a row has the bits that it has in any batch.

    Parameters
    ----------
    item_graph, user_graph : bytes
        See `llmfeat.rank.two_tower.graphs`.
    threads : int, optional
        Threads within an operator; by default ONNX Runtime's own choice, one per core.
    """

    def __init__(self, item_graph: bytes, user_graph: bytes, *, threads: int | None = None) -> None:
        ort = import_optional("onnxruntime", purpose="running two towers")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        self._items, self._users = (
            ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            for graph in (item_graph, user_graph)
        )

    def items(self, features: Float32Array, rows: Int64Array) -> Float32Array:
        """Return unit vectors of items, float32 of shape ``(n, dim)``."""
        return _run(self._items, {"features": features, "row": rows})

    def users(
        self, history: Float32Array, there: BoolArray, rows: Int64Array, context: Float32Array | None
    ) -> Float32Array:
        """Return unit vectors of users, float32 of shape ``(n, dim)``."""
        return _run(
            self._users, {"history": history, "there": there.astype(np.float32), "row": rows, "context": context}
        )


def _run(session: Any, given: Mapping[str, Any]) -> Float32Array:
    wanted = {entry.name: given[entry.name] for entry in session.get_inputs()}
    n_rows = len(next(iter(wanted.values())))
    out = np.empty((n_rows, session.get_outputs()[0].shape[1]), np.float32)
    for first in range(0, n_rows, _BATCH_ROWS):
        part = {name: values[first : first + _BATCH_ROWS] for name, values in wanted.items()}
        n_part = min(_BATCH_ROWS, n_rows - first)
        if n_part == 1:  # a batch of one takes other kernels, with other rounding: it runs as two equal rows
            part = {name: np.repeat(values, 2, axis=0) for name, values in part.items()}
        out[first : first + n_part] = session.run(["embedding"], part)[0][:n_part]
    return out
