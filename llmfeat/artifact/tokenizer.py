"""The tokenizer of an artifact, read without transformers: the same for the certificate and for the engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat.errors import InputError
from llmfeat.types import Int64Array

__all__ = ["TextTokenizer"]

# A text of more characters is tokenized from its near end only, as far as its limit reaches: at least so many, or so
# many for each token of the limit.
_LONG_CHARACTERS, _CHARACTERS_PER_TOKEN = 16_384, 32
# So many times the limit: where a text is cut can change the tokens beside the cut, never those so far from it.
_SPARE = 4


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
        self._path = path
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
        near = [self._near_end(text, self.max_tokens, side=self.side) for text in texts]
        return [encoding.ids or [self.pad_id] for encoding in self._tokenizer.encode_batch_fast(near)]

    def whole_ids(self, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        """Return the token ids of each text, however long it is, to be continued: nothing stands behind it.

        With `special` the tokenizer's own tokens stand before it, such as that of a begin.
        """
        before = list(self._begin_ids) if special else []
        return [before + each.ids for each in self._whole.encode_batch_fast(list(texts), add_special_tokens=False)]

    def plain_ids(self, text: str) -> list[int]:
        """Return the token ids of a text, and no special ones."""
        return self.whole_ids([text], special=False)[0]

    def token_id(self, token: str) -> int | None:
        """Return the id of a token of the vocabulary, None where there is no such token."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    @cached_property
    def _begin_ids(self) -> tuple[int, ...]:
        """The special tokens that the tokenizer puts before a text."""
        encoded = self._whole.encode("a")
        n_before = next((at for at, is_special in enumerate(encoded.special_tokens_mask) if not is_special), 0)
        return tuple(encoded.ids[:n_before])

    @cached_property
    def special_texts(self) -> tuple[str, ...]:
        """The texts that stand for special tokens wherever they come, longest first."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return tuple(sorted((token.content for token in added if token.special), key=lambda text: (-len(text), text)))

    def flat_ids(self, texts: Sequence[str]) -> tuple[Int64Array, Int64Array]:
        """Return the token ids of all texts one after another, and the number of each text's, both int64."""
        ids = self.batch_ids(texts)
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        return np.fromiter(chain.from_iterable(ids), np.int64, int(lengths.sum())), lengths

    def truncate(self, texts: Sequence[str], n_tokens: int) -> list[str]:
        """Return each text cut behind its first `n_tokens` tokens, special ones and prompts not counted."""
        if n_tokens < 1:
            raise InputError(f"n_tokens={n_tokens!r}, but at least 1 was expected")
        near = [self._near_end(text, n_tokens) for text in texts]
        cut = []
        for text, encoding in zip(texts, self._whole.encode_batch(near, add_special_tokens=False), strict=True):
            ends = encoding.offsets
            cut.append(text if len(ends) <= n_tokens else text[: ends[n_tokens - 1][1]])
        return cut

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
        return [end for _, end in self._whole.encode(text, add_special_tokens=False).offsets]

    def _near_end(self, text: str, n_tokens: int, *, side: str = "right") -> str:
        """Return as much of a very long text as its first (or last) tokens can depend on.

        A text of 10 MB costs seconds and a gigabyte to tokenize; what is behind the cut does not.
        """
        size = max(_LONG_CHARACTERS, _CHARACTERS_PER_TOKEN * n_tokens)
        while size < len(text):
            near = text[:size] if side == "right" else text[-size:]
            if len(self._whole.encode(near, add_special_tokens=False).ids) >= _SPARE * n_tokens:
                return near
            size *= 2  # white space, or words that are one unknown token
        return text

    @cached_property
    def _whole(self) -> Any:
        """The tokenizer without a limit: a second one, since other threads use the first."""
        tokenizer = import_optional("tokenizers", purpose="encoding").Tokenizer.from_file(str(self._path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer
