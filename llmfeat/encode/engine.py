"""The engine: texts to vectors, in batches whose shape never changes a text's vector."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmfeat._base.ahead import ahead
from llmfeat._base.files import canonical_json, text_sha256
from llmfeat._base.progress import bar
from llmfeat.artifact import ModelArtifact, TextTokenizer
from llmfeat.encode.backends import Backend, open_backend
from llmfeat.encode.cache import VectorCache
from llmfeat.encode.pipeline import Tally, encode_distinct
from llmfeat.errors import ArtifactCorruptError, BackendError, InputError
from llmfeat.text import ItemTemplate
from llmfeat.types import BoolArray, Float32Array, Int64Array

__all__ = ["TextEncoder"]

_WINDOW_TEXTS = 16_384
# What a killed process loses of its work, at most: so many vectors, or those of so many seconds.
_PUT_ROWS, _PUT_S = 2048, 5.0


class TextEncoder:
    """Encodes texts with an exported model; on processors a text has the same bits, whatever is beside it in the call.

    Parameters
    ----------
    artifact : ModelArtifact, str or Path
        The model, or its folder.
    backend : str, default="auto"
        What runs it: ``onnxruntime-cpu``, ``openvino-bf16``, ``openvino-f32``, ``onnxruntime-cuda``,
        ``onnxruntime-tensorrt``, or ``auto``, the fastest of them that is installed and works here, TensorRT apart.
        Vectors of two backends differ in their last bits: see `numerics`. ``auto`` takes the environment's
        ``LLMFEAT_BACKEND`` where that is set.
    threads : int, optional
        Threads of the backend; one per core by default.
    streams : int, optional
        How many batches run at once; the backend's choice by default. One is best for single texts.
    batch_tokens : int, optional
        Padded tokens per batch, which bounds memory; the backend's choice by default.
    cache : VectorCache, bool, str or Path, optional
        Where vectors are kept from call to call and from process to process: a `VectorCache`, its folder, or True for
        the user's; none by default.

    Attributes
    ----------
    tally : Tally
        Counts of texts, cache hits, tokens and computed positions.

    Examples
    --------
    >>> encoder = TextEncoder("artifacts/minilm", cache=True)  # doctest: +SKIP
    >>> encoder.encode(["Heat (1995)", "Alien (1979)"]).shape  # doctest: +SKIP
    (2, 384)
    """

    def __init__(
        self,
        artifact: ModelArtifact | str | Path,
        *,
        backend: str = "auto",
        threads: int | None = None,
        streams: int | None = None,
        batch_tokens: int | None = None,
        cache: VectorCache | bool | str | Path | None = None,
    ) -> None:
        for name, value in (("threads", threads), ("streams", streams), ("batch_tokens", batch_tokens)):
            if value is not None and value < 1:
                raise InputError(f"{name}={value!r}, but at least 1 was expected")
        self.artifact = artifact if isinstance(artifact, ModelArtifact) else ModelArtifact.load(artifact)
        if self.artifact.spec.kind != "encoder":
            raise InputError(
                f"{self.artifact.path} is a {self.artifact.spec.kind}, but an encoder was expected: "
                "export the model with kind='encoder'"
            )
        self.backend = backend
        self.threads = threads
        self.streams = streams
        self.batch_tokens = batch_tokens
        if isinstance(cache, bool):
            cache = VectorCache() if cache else None
        self.cache = VectorCache(cache) if isinstance(cache, str | Path) else cache
        self.tally = Tally()

    @property
    def dim(self) -> int:
        """The number of dimensions of a vector."""
        return self.artifact.spec.dim

    @property
    def numerics(self) -> str:
        """The backend that runs the model, which is the class of backends whose vectors have the same bits."""
        return self._backend.numerics

    def table_fingerprint(self, template: ItemTemplate) -> str:
        """Return what identifies vectors of this model and backend over texts of that template, in hex."""
        identity = {
            "artifact": self.artifact.fingerprint,
            "numerics": self.numerics,
            "template": template.fingerprint,
        }
        return text_sha256(canonical_json(identity))

    def encode(self, texts: Sequence[str], *, role: str = "document", progress: bool = False) -> Float32Array:
        """Return a vector per text, in order.

        Parameters
        ----------
        texts : sequence of str
            The texts; longer ones are cut at the artifact's ``max_tokens``. Equal ones are encoded once.
        role : {"document", "query"}, default="document"
            Which of the artifact's prompts stands before each text; items are documents.
        progress : bool, default=False
            Whether to show a bar on standard error, when that is a terminal.

        Returns
        -------
        ndarray of shape (n_texts, dim), float32
            C-contiguous.

        Raises
        ------
        InputError
            When a text is not a string, or holds a lone surrogate; when there is no such role.
        BackendError
            When no backend works here, or a vector is not finite.
        """
        with bar(len(texts), what="encoding", unit="texts", shown=progress) as advance:
            shown, started, before = 0, time.perf_counter(), self.tally.tokens

            def done(rows: Int64Array) -> None:
                nonlocal shown
                shown += len(rows)
                advance(
                    len(rows), f"{(self.tally.tokens - before) / (time.perf_counter() - started + 1e-9):,.0f} tokens/s"
                )

            vectors = self.encode_raw(texts, role=role, done=done)
            advance(len(texts) - shown)  # equal texts, and those that the cache held
        bad = np.flatnonzero(~finite(vectors))
        if len(bad):
            raise BackendError(
                f"{len(bad)} of {len(texts)} vectors are not finite, such as that of text {bad[0]}: "
                f"{self.numerics} does not fit this model, take an artifact in fp32 or another backend"
            )
        return vectors

    def encode_iter(
        self, batches: Iterable[Sequence[str]], *, role: str = "document", window_texts: int = _WINDOW_TEXTS
    ) -> Iterator[Float32Array]:
        """Yield the vectors of each batch of texts, in order, with memory bounded by `window_texts` and one batch.

        Parameters
        ----------
        batches : iterable of sequences of str
            Of any sizes; read ahead in a thread while the model runs.
        role : {"document", "query"}, default="document"
            See `encode`.
        window_texts : int, default=16384
            So many texts are sorted by length, and encoded, together.

        Yields
        ------
        ndarray of shape (n_texts_of_the_batch, dim), float32
            What `encode` gives for it.
        """
        if window_texts < 1:
            raise InputError(f"window_texts={window_texts!r}, but at least 1 was expected")
        for window in ahead(_windows(batches, window_texts)):
            vectors = self.encode([text for batch in window for text in batch], role=role)
            ends = np.cumsum([len(batch) for batch in window])
            for batch, end in zip(window, ends.tolist(), strict=True):
                yield vectors[end - len(batch) : end]

    def encode_raw(
        self, texts: Sequence[str], *, role: str = "document", done: Callable[[Int64Array], object] | None = None
    ) -> Float32Array:
        """Return what `encode` does, where a vector that is not finite is the caller's to handle; see `finite`.

        `done` is told of texts as they are computed: some rows at a time, of the distinct ones that no cache held.
        """
        prompt = self._prompt(role)
        distinct: dict[str, int] = {}
        rows = [distinct.setdefault(text, len(distinct)) for text in _checked(texts)]
        prompted = [prompt + text for text in distinct] if prompt else list(distinct)
        vectors = self._encode_distinct(prompted, prompt, done or (lambda rows: None))
        return vectors if len(distinct) == len(rows) else vectors[rows]

    def count_tokens(self, texts: Sequence[str], *, role: str = "document") -> Int64Array:
        """Return the number of tokens of each text after cutting, special tokens and the prompt's included, int64."""
        prompt = self._prompt(role)
        return self._tokenizer.flat_ids([prompt + text for text in texts])[1]

    def truncate(self, texts: Sequence[str], n_tokens: int) -> list[str]:
        """Return each text cut behind its first `n_tokens` tokens: what templates with limits are rendered with."""
        return self._tokenizer.truncate(texts, n_tokens)

    def tokens_per_s(self, texts: Sequence[str]) -> float:
        """Return how many tokens of such texts are encoded per second here, measured, whatever the cache holds."""
        distinct = list(dict.fromkeys(_checked(texts)))
        self._compute(distinct[:8], "", lambda rows: None)  # opens the session
        started, before = time.perf_counter(), self.tally.tokens
        self._compute(distinct, "", lambda rows: None)
        return (self.tally.tokens - before) / (time.perf_counter() - started)

    def _prompt(self, role: str) -> str:
        prompts = {"document": self.artifact.spec.document_prompt, "query": self.artifact.spec.query_prompt}
        if role not in prompts:
            raise InputError(f"role={role!r}, but one of {list(prompts)} was expected")
        return prompts[role]

    def _encode_distinct(self, texts: list[str], prompt: str, done: Callable[[Int64Array], object]) -> Float32Array:
        self.tally.add(texts=len(texts))
        if self.cache is None:
            return self._compute(texts, prompt, done)
        keys = self.cache.keys(self._namespace(prompt), texts)
        vectors, found = self.cache.get(keys, self.dim)
        absent = np.flatnonzero(~found)
        self.tally.add(cached=len(texts) - len(absent))
        if len(absent):
            wanted = absent.tolist()
            put = _Put(self.cache, [keys[row] for row in wanted])
            vectors[absent] = self._compute([texts[row] for row in wanted], prompt, done, put)
        return vectors

    def _compute(
        self, texts: list[str], prompt: str, done: Callable[[Int64Array], object], put: _Put | None = None
    ) -> Float32Array:
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)

        def computed(rows: Int64Array) -> None:
            if put is not None:
                put.add(rows, vectors)
            done(rows)

        try:
            encode_distinct(
                texts,
                vectors,
                backend=self._backend,
                tokenizer=self._tokenizer,
                batch_tokens=self.batch_tokens or self._backend.batch_tokens,
                prompt_tokens=self._tokenizer.prompt_tokens(prompt),
                tally=self.tally,
                done=computed,
            )
        finally:  # what was computed before an interruption is not lost
            if put is not None:
                put.flush(vectors)
        return vectors

    def _namespace(self, prompt: str) -> bytes:
        # The prompt stands in the text; where graphs leave its tokens out, the same text may have two vectors.
        identity = [self.artifact.fingerprint, self.numerics, self.dim, prompt]
        return bytes.fromhex(text_sha256(canonical_json(identity)))

    def _check_unchanged(self) -> None:
        """Refuse a folder that was replaced since this encoder was made, perhaps in another process."""
        there = ModelArtifact.load(self.artifact.path).fingerprint
        if there != self.artifact.fingerprint:
            raise ArtifactCorruptError(
                f"{self.artifact.path} now holds {there[:12]}, this encoder was made for "
                f"{self.artifact.fingerprint[:12]}: make a new TextEncoder"
            )

    @cached_property
    def _backend(self) -> Backend:
        self._check_unchanged()
        return open_backend(self.artifact, self.backend, threads=self.threads, streams=self.streams)

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        self._check_unchanged()
        spec = self.artifact.spec
        return TextTokenizer(
            self.artifact.tokenizer_path,
            max_tokens=spec.max_tokens,
            pad_id=spec.pad_token_id,
            side=spec.truncation_side,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the session and the tokenizer out: they are opened again on use."""
        opened = ("_backend", "_tokenizer")
        return {name: value for name, value in self.__dict__.items() if name not in opened}


class _Put:
    """Puts vectors into the cache as they are computed, some thousand at a time."""

    def __init__(self, cache: VectorCache, keys: list[bytes]) -> None:
        self._cache = cache
        self._keys = keys
        self._waiting: list[Int64Array] = []
        self._n_waiting = 0
        self._put_at = time.monotonic()

    def add(self, rows: Int64Array, vectors: Float32Array) -> None:
        """Take rows of `vectors` that are computed."""
        self._waiting.append(rows)
        self._n_waiting += len(rows)
        if self._n_waiting >= _PUT_ROWS or time.monotonic() - self._put_at > _PUT_S:
            self.flush(vectors)

    def flush(self, vectors: Float32Array) -> None:
        """Put what is waiting, but vectors that are not finite."""
        if self._waiting:
            rows = np.concatenate(self._waiting)
            rows = rows[finite(vectors[rows])]
            self._cache.put([self._keys[row] for row in rows.tolist()], vectors[rows])
        self._waiting, self._n_waiting, self._put_at = [], 0, time.monotonic()


def finite(vectors: Float32Array) -> BoolArray:
    """Return which rows are finite, bool of shape ``(n,)``."""
    # A sum of squares is finite where all are, and takes no array of their size.
    squares = np.einsum("ij,ij->i", vectors, vectors)
    return np.asarray(np.isfinite(squares))


def _windows(batches: Iterable[Sequence[str]], n_texts: int) -> Iterator[list[Sequence[str]]]:
    window: list[Sequence[str]] = []
    n_waiting = 0
    for batch in batches:
        if isinstance(batch, str | bytes):
            raise InputError(
                f"a batch is one {type(batch).__name__}, but batches of texts were expected: pass lists of texts, or "
                "take encode"
            )
        window.append(batch)
        n_waiting += len(batch)
        if n_waiting >= n_texts:
            yield window
            window, n_waiting = [], 0
    if window:
        yield window


def _checked(texts: Sequence[str]) -> Sequence[str]:
    """Return `texts`, or raise for the first that cannot be encoded."""
    if isinstance(texts, str | bytes):
        raise InputError(f"texts is one {type(texts).__name__}, but a sequence of texts was expected: put it in a list")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(
                f"text {position} is of type {type(text).__name__}, but str was expected: render or drop it"
            )
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"text {position} holds a lone surrogate at character {error.start}: decode its source with "
                    "errors='replace'"
                ) from error
    return texts
