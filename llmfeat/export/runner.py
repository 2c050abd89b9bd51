"""An exported graph run in the plainest way there is, so that its checks do not lean on the engine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat.errors import ExportError
from llmfeat.export.share import PREFIXES
from llmfeat.types import Float32Array

if TYPE_CHECKING:
    import onnx

__all__ = ["GraphError", "GraphRunner", "as_graph_error", "graph_inputs", "make_feeds", "plain_session"]

_FATAL_ONLY = 4  # errors are raised as exceptions
_PAST = "past_key_values."


class _Cache(NamedTuple):
    """A key/value input, of shape (batch, n_heads, length, head_dim)."""

    n_heads: int
    head_dim: int
    dtype: Any


Inputs = dict[str, _Cache | None]


def plain_session(graph: Path) -> Any:
    """Return a session of ONNX Runtime on the CPU."""
    ort = import_optional("onnxruntime", purpose="exporting a model")
    options = ort.SessionOptions()
    # As the engine: without it, processors that lack VNNI saturate int8 products.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = _FATAL_ONLY
    with as_graph_error():
        return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def graph_inputs(model: onnx.ModelProto) -> Inputs:
    """Return what a graph takes: the shape and the type of each key/value input, nothing for the others."""
    from onnx import TensorProto

    half = TensorProto.FLOAT16
    return {
        entry.name: _cache(
            [axis.dim_value for axis in entry.type.tensor_type.shape.dim], entry.type.tensor_type.elem_type == half
        )
        if entry.name.startswith(_PAST)
        else None
        for entry in model.graph.input
    }


def make_feeds(
    inputs: Inputs,
    ids: Sequence[Sequence[int]],
    *,
    pad_id: int,
    side: str = "right",
    length: int | None = None,
    prompt_tokens: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Return the inputs for a batch of token ids, padded on one `side` to the longest, or to `length`; no cache."""
    length = length or max(len(row) for row in ids)
    input_ids = np.full((len(ids), length), pad_id, dtype=np.int64)
    mask = np.zeros_like(input_ids)
    for at, row in enumerate(ids):
        where = slice(0, len(row)) if side == "right" else slice(length - len(row), length)
        input_ids[at, where], mask[at, where] = row, 1
    feeds: dict[str, Any] = {
        "input_ids": input_ids,
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(input_ids),
        "prompt_tokens": np.array(prompt_tokens or [0] * len(ids), dtype=np.int64),
    }
    for name, cache in inputs.items():
        if cache is not None:
            feeds[name] = np.zeros((len(ids), cache.n_heads, 0, cache.head_dim), dtype=cache.dtype)
    return {name: feeds[name] for name in inputs}


class GraphError(ExportError):
    """A graph that ONNX Runtime does not load or run."""


class GraphRunner:
    """Runs a graph on lists of token ids.

    Parameters
    ----------
    graph : Path
        The ONNX file.
    pad_id : int
        What shorter lists are filled up with, behind a mask.
    """

    def __init__(self, graph: Path, *, pad_id: int) -> None:
        self.session = plain_session(graph)
        self.pad_id = pad_id
        self.outputs = [entry.name for entry in self.session.get_outputs()]
        self.inputs: Inputs = {
            entry.name: _cache(entry.shape, "float16" in entry.type) if entry.name.startswith(_PAST) else None
            for entry in self.session.get_inputs()
        }

    def run(self, ids: Sequence[Sequence[int]], **how: Any) -> Float32Array:
        """Return the first output for a batch; see `make_feeds`."""
        feeds = make_feeds(self.inputs, ids, pad_id=self.pad_id, **how)
        return self._run(self.outputs[:1], feeds)[0]

    def run_with_cache(self, prefixes: Sequence[Sequence[int]], suffixes: Sequence[Sequence[int]]) -> Float32Array:
        """Return the first output for each prefix followed by its suffix, the prefixes computed beforehand."""
        first = make_feeds(self.inputs, prefixes, pad_id=self.pad_id)
        outputs = dict(zip(self.outputs, self._run(self.outputs, first), strict=True))
        feeds = make_feeds(self.inputs, suffixes, pad_id=self.pad_id)
        for name, cache in self.inputs.items():
            if cache is not None:
                feeds[name] = outputs[name.replace(_PAST, "present.")]
        feeds["attention_mask"] = np.concatenate([first["attention_mask"], feeds["attention_mask"]], axis=1)
        return self._run(self.outputs[:1], feeds)[0]

    @property
    def shares_prefix(self) -> bool:
        """Whether a key/value cache of one row is read by all rows of a batch."""
        return any(entry.shape[0] == PREFIXES for entry in self.session.get_inputs() if entry.name.startswith(_PAST))

    def run_with_shared_cache(self, prefix: Sequence[int], suffixes: Sequence[Sequence[int]]) -> Float32Array:
        """Return the first output for one prefix followed by each suffix, its cache shared; see `shares_prefix`."""
        first = make_feeds(self.inputs, [prefix], pad_id=self.pad_id)
        outputs = dict(zip(self.outputs, self._run(self.outputs, first), strict=True))
        feeds = make_feeds(self.inputs, suffixes, pad_id=self.pad_id)
        for name, cache in self.inputs.items():
            if cache is not None:
                feeds[name] = outputs[name.replace(_PAST, "present.")]
        seen = np.ones((len(suffixes), len(prefix)), dtype=np.int64)
        feeds["attention_mask"] = np.concatenate([seen, feeds["attention_mask"]], axis=1)
        return self._run(self.outputs[:1], feeds)[0]

    def _run(self, outputs: list[str], feeds: dict[str, Any]) -> list[Float32Array]:
        with as_graph_error():
            found: list[Float32Array] = self.session.run(outputs, feeds)
            return found


@contextlib.contextmanager
def as_graph_error() -> Iterator[None]:
    """Turn what ONNX Runtime raises into a `GraphError`."""
    # The runtime's exceptions have no common base of their own.
    state = import_optional("onnxruntime.capi.onnxruntime_pybind11_state", purpose="exporting a model")
    kinds = ("Fail", "InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException")
    try:
        yield
    except tuple(getattr(state, kind) for kind in kinds) as error:
        raise GraphError(f"ONNX Runtime cannot run the exported graph, please report this model: {error}") from error


def _cache(shape: Sequence[Any], half: bool) -> _Cache:
    return _Cache(int(shape[1]), int(shape[3]), np.float16 if half else np.float32)
