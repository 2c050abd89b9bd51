"""The tokenizer of an artifact: saved from transformers, then read without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmfeat._base.optional import import_optional
from llmfeat.export.source import ModelSource

__all__ = ["TextTokenizer", "pad_token_id", "save_tokenizer", "truncation_side"]


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


class TextTokenizer:
    """An artifact's tokenizer.

    Parameters
    ----------
    path : Path
        ``tokenizer.json``.
    max_tokens : int
        Where texts are cut, special tokens included.
    pad_id : int
        What an empty text is, where the tokenizer makes no token of it.
    side : {"right", "left"}, default="right"
        Which end of a longer text is cut off.
    """

    def __init__(self, path: Path, *, max_tokens: int, pad_id: int, side: str = "right") -> None:
        self._tokenizer: Any = import_optional("tokenizers", purpose="exporting a model").Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens, direction=side)
        self.max_tokens = max_tokens
        self.side = side
        self.pad_id = pad_id

    @property
    def pad_token(self) -> str:
        """The padding token, as text."""
        return str(self._tokenizer.id_to_token(self.pad_id))

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a text: at least one, at most `max_tokens`."""
        return self._tokenizer.encode(text).ids or [self.pad_id]

    def counts_any(self, text: str) -> bool:
        """Return whether a text has any token, special ones included."""
        return bool(self._tokenizer.encode(text).ids)

    def prompt_tokens(self, prompt: str) -> int:
        """Return how many tokens a text has before what follows the prompt: those at its begin, and the prompt's."""
        if not prompt:
            return 0
        encoded = self._tokenizer.encode(prompt)
        return len(encoded.ids) - int(sum(encoded.special_tokens_mask[-1:]))

    def token_ends(self, text: str) -> list[int]:
        """Return, for each token of a text, where in the text it ends, however long the text is."""
        self._tokenizer.no_truncation()
        ends = [end for _, end in self._tokenizer.encode(text, add_special_tokens=False).offsets]
        self._tokenizer.enable_truncation(self.max_tokens, direction=self.side)
        return ends
