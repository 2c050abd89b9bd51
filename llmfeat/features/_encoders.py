"""What the transformers that encode texts share: one open model for an estimator and its clones, none in pickles."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from llmfeat.artifact import ModelArtifact
from llmfeat.encode import TextEncoder, VectorCache
from llmfeat.errors import InputError, TableFingerprintError
from llmfeat.features._opened import opened, share_opened
from llmfeat.types import Float32Array

__all__ = ["EncoderMixin", "encode_column"]


class EncoderMixin:
    """Gives an estimator with these parameters its encoder; goes before `BaseEstimator`."""

    artifact: TextEncoder | ModelArtifact | str | Path | None
    cache: VectorCache | bool | str | Path | None
    backend: str
    threads: int | None
    streams: int | None
    batch_tokens: int | None
    role: str
    fingerprint_: str

    def _encoder(self) -> TextEncoder:
        """Return the encoder of the parameters; its session opens on first use."""
        if self.role not in ("document", "query"):
            raise InputError(f"role={self.role!r}, but 'document' or 'query' was expected")
        options = {
            "cache": self.cache,
            "backend": self.backend,
            "threads": self.threads,
            "streams": self.streams,
            "batch_tokens": self.batch_tokens,
        }
        if isinstance(self.artifact, TextEncoder):
            given = [name for name, value in options.items() if value not in (None, "auto")]
            if given:
                raise InputError(
                    f"artifact is a TextEncoder and {given} was passed too, but an encoder has its own: set it there"
                )
            return self.artifact
        if not isinstance(self.artifact, ModelArtifact | str | Path):
            raise InputError(
                f"artifact={self.artifact!r}, but the folder of an exported model, a ModelArtifact or a TextEncoder "
                "was expected: run `llmfeat export bundled:minilm --out DIR`, and pass DIR"
            )
        model = self.artifact
        key = tuple(map(repr, (model if isinstance(model, str | Path) else (model.path, model.fingerprint), options)))
        return opened(self, key, lambda: TextEncoder(model, **options))  # type: ignore[arg-type]

    def _fitted_encoder(self) -> TextEncoder:
        """Return the encoder, or raise where it is not the one that was fitted with."""
        encoder = self._encoder()
        if encoder.artifact.fingerprint != self.fingerprint_:
            raise TableFingerprintError(
                f"{encoder.artifact.path} holds the model {encoder.artifact.fingerprint[:12]!r}, but "
                f"{type(self).__name__} was fitted with {self.fingerprint_[:12]!r}: pass the artifact that the ranker "
                "was trained on, or refit"
            )
        return encoder

    def __sklearn_clone__(self) -> Self:
        """Return a clone that shares the open model."""
        fresh: Any = super().__sklearn_clone__()  # type: ignore[misc]
        if isinstance(self.artifact, TextEncoder):
            fresh.artifact = self.artifact
        share_opened(fresh, self)
        return fresh  # type: ignore[no-any-return]


def encode_column(encoder: TextEncoder, texts: pa.Array, *, role: str) -> Float32Array:
    """Return a vector per text, float32 of shape ``(len(texts), dim)``, a row of NaN for null; equal texts once."""
    distinct = texts.dictionary_encode()
    vectors = encoder.encode(distinct.dictionary.to_pylist(), role=role)
    out = np.full((len(texts), encoder.dim), np.nan, dtype=np.float32)
    there = distinct.indices.is_valid().to_numpy(zero_copy_only=False)
    out[there] = vectors[distinct.indices.drop_null().to_numpy()]
    return out
