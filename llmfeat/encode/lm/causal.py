"""A causal language model in ONNX Runtime: tokens behind a prefix to logits and keys/values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat.artifact import ModelArtifact
from llmfeat.encode.backends import unavailable
from llmfeat.encode.backends.base import first_line
from llmfeat.errors import BackendError, InputError
from llmfeat.types import Float32Array, Int64Array

__all__ = ["BACKENDS", "CausalModel", "Prefix"]

# In float32: scores of a prompt alone and behind a shared prefix are held to 1e-3 nats, which bf16 is too coarse for.
BACKENDS = ("onnxruntime-cuda", "onnxruntime-cpu")
_PROVIDERS = {"onnxruntime-cuda": "CUDAExecutionProvider", "onnxruntime-cpu": "CPUExecutionProvider"}
_PAST, _PRESENT, _LOGITS = "past_key_values.", "present.", "logits"
_SHARED = "prefixes"  # the first dimension of a cache that is shared: see `llmfeat.export.share`


class Prefix(NamedTuple):
    """Tokens that were run, and their keys and values: an array of shape (1, heads, n_tokens, head_dim) for each input.

    Of the empty prefix ``cache`` is empty.
    """

    tokens: tuple[int, ...]
    cache: tuple[np.ndarray[Any, Any], ...]

    @property
    def n_bytes(self) -> int:
        """The memory of the keys and values."""
        return sum(each.nbytes for each in self.cache)

    def cut(self, n_tokens: int) -> Prefix:
        """Return its first tokens; keys and values of a causal model do not depend on what follows."""
        if n_tokens >= len(self.tokens):
            return self
        return Prefix(self.tokens[:n_tokens], tuple(np.ascontiguousarray(each[:, :, :n_tokens]) for each in self.cache))


class CausalModel:
    """Runs a scorer's graph; thread-safe.

    Parameters
    ----------
    artifact : ModelArtifact
        The model.
    backend : str, default="auto"
        One of `BACKENDS`, or the first of them that works here.
    threads : int, optional
        Threads within an operator; one per core by default.
    """

    def __init__(self, artifact: ModelArtifact, *, backend: str = "auto", threads: int | None = None) -> None:
        self._pad_id = artifact.spec.pad_token_id
        self.numerics, self._session = _open(artifact, backend, threads)
        inputs = [entry for entry in self._session.get_inputs() if entry.name.startswith(_PAST)]
        if not inputs:
            raise BackendError(f"{artifact.path} has no key/value cache: export the model again with kind='scorer'")
        self._past = [entry.name for entry in inputs]
        self._present = [entry.name.replace(_PAST, _PRESENT) for entry in inputs]
        self._empty = [
            np.zeros((1, entry.shape[1], 0, entry.shape[3]), np.float16 if "float16" in entry.type else np.float32)
            for entry in inputs
        ]
        self._is_shared = inputs[0].shape[0] == _SHARED
        self._takes = {entry.name for entry in self._session.get_inputs()}

    def logits(self, prefix: Prefix, rows: Sequence[Sequence[int]]) -> Float32Array:
        """Return the logits of the last token of each row behind the prefix, float32 of shape ``(n_rows, vocab)``."""
        ids, mask = self._padded(rows)
        # A single row would go through other kernels, matrix times vector, with other rounding.
        again = [0, 0] if len(rows) == 1 else slice(None)
        (found,) = self._session.run([_LOGITS], self._feeds(prefix, ids[again], mask[again]))
        kept: Float32Array = found[: len(rows)]
        return kept

    def extend(self, prefix: Prefix, tokens: Sequence[int]) -> Prefix:
        """Return a prefix that is longer by these tokens."""
        ids, mask = self._padded([tokens])
        found = self._session.run(self._present, self._feeds(prefix, ids, mask))
        if not self._is_shared:
            return Prefix((*prefix.tokens, *tokens), tuple(found))
        old = prefix.cache or self._empty
        joined = tuple(np.concatenate(pair, axis=2) for pair in zip(old, found, strict=True))
        return Prefix((*prefix.tokens, *tokens), joined)

    def _feeds(self, prefix: Prefix, ids: Int64Array, mask: Int64Array) -> dict[str, Any]:
        cache = prefix.cache or self._empty
        if not self._is_shared:
            cache = [np.repeat(each, len(ids), axis=0) for each in cache]
        seen = np.ones((len(ids), len(prefix.tokens)), dtype=np.int64)
        fed = {
            "input_ids": ids,
            "attention_mask": np.concatenate([seen, mask], axis=1),
            "token_type_ids": np.zeros_like(ids),
        }
        return {**{name: fed[name] for name in fed if name in self._takes}, **dict(zip(self._past, cache, strict=True))}

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Int64Array, Int64Array]:
        ids = np.full((len(rows), max(map(len, rows))), self._pad_id, dtype=np.int64)
        mask = np.zeros_like(ids)
        for at, row in enumerate(rows):
            ids[at, : len(row)], mask[at, : len(row)] = row, 1
        return ids, mask


def _open(artifact: ModelArtifact, backend: str, threads: int | None) -> tuple[str, Any]:
    if backend not in (*BACKENDS, "auto"):
        raise InputError(f"backend={backend!r}, but one of {['auto', *BACKENDS]} was expected")
    if backend != "auto":
        if reason := unavailable(backend):
            raise BackendError(f"{backend} was asked for, but {reason}")
        return backend, _session(artifact, backend, threads)
    reasons = []
    for candidate in BACKENDS:
        if reason := unavailable(candidate):
            reasons.append(f"{candidate}: {reason}")
        else:
            return candidate, _session(artifact, candidate, threads)
    raise BackendError(f"nothing here runs {artifact.path}: {'; '.join(reasons)}")


def _session(artifact: ModelArtifact, backend: str, threads: int | None) -> Any:
    ort = import_optional("onnxruntime", purpose="scoring")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.enable_mem_pattern = False  # it keeps a plan for every shape that was ever seen
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3
    provider: Any = _PROVIDERS[backend]
    if backend == "onnxruntime-cuda":
        provider = (provider, {"use_tf32": 0})
    try:
        session = ort.InferenceSession(str(artifact.graph_path), options, providers=[provider], enable_fallback=0)
    except Exception as error:  # onnxruntime's own kinds, which are many
        raise BackendError(f"{backend} cannot open {artifact.graph_path}: {first_line(error)}") from error
    if _PROVIDERS[backend] not in session.get_providers():
        raise BackendError(f"{backend} was asked for, onnxruntime took {session.get_providers()}: check nvidia-smi")
    return session
