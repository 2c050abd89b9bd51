"""Texts for benchmarks of encoding: a tokenizer's own words, drawn with a fixed seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

__all__ = ["WORKLOADS", "make_texts", "with_duplicates", "words"]

# (number of texts, mean tokens): what a catalogue's titles, a user's history and a product page come to.
WORKLOADS = {"titles": (4000, 12), "histories": (600, 86), "descriptions": (500, 300)}

_LEAST_TOKENS, _MOST_TOKENS = 4, 510
_SPREAD = 1 / 3  # standard deviation over mean
_LEAST_WORDS = 50
_MOST_TRIES = 1000
# What vocabularies put before a word that follows a space: byte-level BPE, then SentencePiece.
_SPACE_MARKS = ("\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", "\N{LOWER ONE EIGHTH BLOCK}")


def words(tokenizer_path: str | Path) -> list[str]:
    """Return the whole words of a vocabulary, in alphabetical order: of ASCII letters alone, more than two of them."""
    return _words(Tokenizer.from_file(str(tokenizer_path)))


def make_texts(tokenizer_path: str | Path, *, n_texts: int, mean_tokens: float, seed: int) -> list[str]:
    """Return texts without two equal ones, whose lengths in tokens follow a gamma distribution.

    Parameters
    ----------
    tokenizer_path : str or Path
        ``tokenizer.json``.
    n_texts : int
        How many.
    mean_tokens : float
        The mean length, special tokens included, met within 3 %; the standard deviation is a third of it. No text has
        less than 4 tokens, or more than 510.
    seed : int
        The same texts for the same seed.

    Raises
    ------
    ValueError
        When there cannot be such texts, or the vocabulary has too few words for them.
    """
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    vocabulary = _words(tokenizer)
    if len(vocabulary) < _LEAST_WORDS:
        raise ValueError(f"{tokenizer_path} has {len(vocabulary)} words, but at least {_LEAST_WORDS} were expected")
    draw = np.random.default_rng(seed)
    wanted = _lengths(draw, n_texts, mean_tokens)
    drawn = [[vocabulary[at] for at in draw.integers(len(vocabulary), size=n_words)] for n_words in wanted.tolist()]
    # Special tokens come on top, and a text's first word, which has no space before it, may be several tokens.
    surplus = _n_tokens(tokenizer, map(" ".join, drawn)) - wanted
    drawn = [text[: max(1, len(text) - more)] for text, more in zip(drawn, surplus.tolist(), strict=True)]
    texts = _distinct(draw, drawn, vocabulary)
    mean = float(_n_tokens(tokenizer, texts).mean())
    if abs(mean / mean_tokens - 1) > 0.03:
        raise ValueError(f"{tokenizer_path} makes texts of {mean:.1f} tokens, but {mean_tokens} were expected")
    return texts


def with_duplicates(texts: list[str], *, share: float = 0.5, seed: int) -> list[str]:
    """Return a shuffled stream of `texts`, of which a `share` repeats earlier texts of it."""
    draw = np.random.default_rng(seed)
    n_repeats = round(len(texts) * share / (1 - share))
    rows = np.concatenate([np.arange(len(texts)), draw.integers(len(texts), size=n_repeats)])
    draw.shuffle(rows)
    return [texts[row] for row in rows.tolist()]


def _words(tokenizer: Any) -> list[str]:
    tokens = list(tokenizer.get_vocab())
    mark = next((mark for mark in _SPACE_MARKS if any(token.startswith(mark) for token in tokens)), "")
    whole = (token.removeprefix(mark) for token in tokens if token.startswith(mark))
    return sorted({word for word in whole if len(word) > 2 and word.isascii() and word.isalpha()})


def _lengths(draw: np.random.Generator, n_texts: int, mean_tokens: float) -> np.ndarray[Any, np.dtype[np.int64]]:
    if n_texts < 1:
        raise ValueError(f"n_texts={n_texts!r}, but at least 1 was expected")
    if not _LEAST_TOKENS < mean_tokens < _MOST_TOKENS:
        raise ValueError(f"mean_tokens={mean_tokens!r}, but {_LEAST_TOKENS} to {_MOST_TOKENS} were expected")
    shape = _SPREAD**-2
    lengths = draw.gamma(shape, mean_tokens / shape, size=n_texts)
    for _ in range(8):  # cutting at both ends moves the mean
        lengths = np.clip(lengths * (mean_tokens / lengths.mean()), _LEAST_TOKENS, _MOST_TOKENS)
    # Rounded so that the sum is kept, which counts where there are few texts.
    return np.diff(np.rint(np.cumsum(lengths)), prepend=0).clip(_LEAST_TOKENS, _MOST_TOKENS).astype(np.int64)


def _n_tokens(tokenizer: Any, texts: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return np.array([len(encoding.ids) for encoding in tokenizer.encode_batch_fast(list(texts))], dtype=np.int64)


def _distinct(draw: np.random.Generator, drawn: list[list[str]], vocabulary: list[str]) -> list[str]:
    """Return the texts of those words, where one that is there already gets another last word."""
    texts: dict[str, None] = {}
    for text in drawn:
        for _ in range(_MOST_TRIES):
            if " ".join(text) not in texts:
                break
            text[-1] = vocabulary[draw.integers(len(vocabulary))]
        else:
            raise ValueError(f"{len(vocabulary)} words are too few for {len(drawn)} different texts: ask for fewer")
        texts[" ".join(text)] = None
    return list(texts)
