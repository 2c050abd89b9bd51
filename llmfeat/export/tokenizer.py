"""What an artifact keeps of a tokenizer of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmfeat._base.optional import import_optional
from llmfeat.export.source import ModelSource

__all__ = ["pad_token_id", "save_tokenizer", "truncation_side"]


def save_tokenizer(source: ModelSource, path: Path) -> None:
    """Write ``tokenizer.json``, without padding and truncation, which belong to the engine."""
    backend: Any = source.tokenizer.backend_tokenizer
    if source.settings.get("do_lower_case"):
        # sentence-transformers lowercases whatever the tokenizer itself does.
        normalizers = import_optional("tokenizers.normalizers", purpose="exporting a model")
        own = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    backend.no_padding()
    backend.no_truncation()
    path.write_text(backend.to_str(), encoding="utf-8")


def pad_token_id(source: ModelSource) -> int:
    """Return the id that shorter texts are filled up with, behind the mask; the end of a text where there is none."""
    tokenizer = source.tokenizer
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0


def truncation_side(source: ModelSource) -> str:
    """Return which end of a longer text is cut off."""
    return str(source.tokenizer.truncation_side)
