"""The tokenizer of an artifact, read without transformers: the same for the certificate and for the engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmfeat._base.optional import import_optional

__all__ = ["TextTokenizer"]


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
        self._tokenizer: Any = import_optional("tokenizers", purpose="encoding").Tokenizer.from_file(str(path))
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
        return self.batch_ids([text])[0]

    def batch_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, computed on all cores."""
        # An empty text without any token is one padding token, seen: a row of nothing has no vector.
        return [encoding.ids or [self.pad_id] for encoding in self._tokenizer.encode_batch_fast(list(texts))]

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
