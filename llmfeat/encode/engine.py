"""The engine: texts to vectors, in batches whose shape never changes a text's vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmfeat._base.files import canonical_json, text_sha256
from llmfeat._base.progress import bar
from llmfeat.artifact import ModelArtifact, TextTokenizer
from llmfeat.encode.backend import Backend, OnnxRuntimeCpu
from llmfeat.errors import ArtifactCorruptError, InputError
from llmfeat.text import ItemTemplate
from llmfeat.types import Float32Array, Int64Array

__all__ = ["TextEncoder", "bucket_lengths"]

# (up to this length, padded to a multiple of this): few shapes, few padded positions.
_BUCKETS = ((32, 4), (64, 8), (128, 16), (256, 32), (1 << 30, 64))


def bucket_lengths(lengths: Int64Array, *, max_tokens: int) -> Int64Array:
    """Return the padded length of each text: a function of its own length alone, so that neighbours never matter."""
    padded = np.zeros_like(lengths)
    below = 0
    for limit, step in _BUCKETS:
        here = (lengths > below) & (lengths <= limit)
        padded[here] = -(-lengths[here] // step) * step
        below = limit
    return np.minimum(np.maximum(padded, _BUCKETS[0][1]), max(max_tokens, int(lengths.max(initial=0))))


class TextEncoder:
    """Encodes texts with an exported model; the same text gives the same bits, whatever is beside it in the call.

    Parameters
    ----------
    artifact : ModelArtifact, str or Path
        The model, or its folder.
    threads : int, optional
        Threads of the backend; one per core by default.
    batch_tokens : int, default=4096
        Padded tokens per batch, which bounds memory.

    Examples
    --------
    >>> encoder = TextEncoder("artifacts/minilm")  # doctest: +SKIP
    >>> encoder.encode(["Heat (1995)", "Alien (1979)"]).shape  # doctest: +SKIP
    (2, 384)
    """

    def __init__(
        self, artifact: ModelArtifact | str | Path, *, threads: int | None = None, batch_tokens: int = 4096
    ) -> None:
        if batch_tokens < 1:
            raise InputError(f"batch_tokens={batch_tokens!r}, but at least 1 was expected")
        self.artifact = artifact if isinstance(artifact, ModelArtifact) else ModelArtifact.load(artifact)
        if self.artifact.spec.kind != "encoder":
            raise InputError(
                f"{self.artifact.path} is a {self.artifact.spec.kind}, but an encoder was expected: "
                "export the model with kind='encoder'"
            )
        self.threads = threads
        self.batch_tokens = batch_tokens

    @property
    def dim(self) -> int:
        """The number of dimensions of a vector."""
        return self.artifact.spec.dim

    @property
    def numerics(self) -> str:
        """The numerics class of the backend."""
        return OnnxRuntimeCpu.numerics

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
        """
        prompt = self._prompt(role)
        distinct: dict[str, int] = {}
        rows = np.empty(len(texts), dtype=np.int64)
        for position, text in enumerate(texts):
            rows[position] = distinct.setdefault(_checked(text, position), len(distinct))
        return self._encode_distinct([prompt + text for text in distinct], prompt, progress=progress)[rows]

    def count_tokens(self, texts: Sequence[str], *, role: str = "document") -> Int64Array:
        """Return the number of tokens of each text after cutting, special tokens and the prompt's included, int64."""
        prompt = self._prompt(role)
        return np.array(
            [len(ids) for ids in self._tokenizer.batch_ids([prompt + text for text in texts])], dtype=np.int64
        )

    def _prompt(self, role: str) -> str:
        prompts = {"document": self.artifact.spec.document_prompt, "query": self.artifact.spec.query_prompt}
        if role not in prompts:
            raise InputError(f"role={role!r}, but one of {list(prompts)} was expected")
        return prompts[role]

    def _encode_distinct(self, texts: list[str], prompt: str, *, progress: bool) -> Float32Array:
        ids = self._tokenizer.batch_ids(texts)
        prompt_tokens = self._tokenizer.prompt_tokens(prompt)
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        padded = bucket_lengths(lengths, max_tokens=self.artifact.spec.max_tokens)
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        with bar(len(texts), what="encoding", unit="texts", shown=progress) as advance:
            for rows in self._batches(padded):
                length = int(padded[rows[0]])
                input_ids = np.full((len(rows), length), self.artifact.spec.pad_token_id, dtype=np.int64)
                for line, row in zip(input_ids, rows, strict=True):
                    line[: lengths[row]] = ids[row]
                mask = (np.arange(length) < lengths[rows, None]).astype(np.int64)
                vectors[rows] = self._backend.run(input_ids, mask, prompt_tokens)
                advance(len(rows))
        return vectors

    def _batches(self, padded: Int64Array) -> Iterator[Int64Array]:
        """Yield rows of one padded length, longest first, so that memory peaks at once and not at the end."""
        order = np.argsort(-padded, kind="stable")
        edges = np.flatnonzero(np.diff(padded[order])) + 1
        for bucket in np.split(order, edges):
            if len(bucket):
                n_rows = max(1, self.batch_tokens // int(padded[bucket[0]]))
                for begin in range(0, len(bucket), n_rows):
                    yield bucket[begin : begin + n_rows]

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
        return OnnxRuntimeCpu(self.artifact.graph_path, threads=self.threads)

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


def _checked(text: object, position: int) -> str:
    if not isinstance(text, str):
        raise InputError(f"text {position} is of type {type(text).__name__}, but str was expected: render or drop it")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"text {position} holds a lone surrogate at character {error.start}: decode its source with "
                "errors='replace'"
            ) from error
    return text
