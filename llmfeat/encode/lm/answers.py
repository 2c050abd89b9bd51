"""The answers whose probabilities are compared, as tokens of a vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llmfeat.artifact import TextTokenizer
from llmfeat.errors import InputError
from llmfeat.types import Float32Array, Float64Array, Int64Array

__all__ = ["AnswerTokens", "Answers"]

_STYLES: Mapping[str, Callable[[str], str]] = {
    "capitalized": str.capitalize,
    "small": str.lower,
    "given": str,
    "capitals": str.upper,
}
_BLOCK_ROWS = 32  # in float64, 150,000 tokens of a vocabulary take a megabyte a row


@dataclass(frozen=True)
class Answers:
    """What a model may answer: words that mean yes, and words that mean no.

    A word stands for all its variants: in small letters, capitalized and in capitals, with and without a space before
    it. Of these, the ones that are a single token count; the probability of an answer is the sum of theirs.

    Parameters
    ----------
    positive, negative : tuple of str
        The words.

    Examples
    --------
    >>> from llmfeat.encode.lm import Answers
    >>> Answers(("good",), ("bad",)).variants("good")
    ['good', 'Good', 'GOOD', ' good', ' Good', ' GOOD']
    """

    positive: tuple[str, ...] = ("yes",)
    negative: tuple[str, ...] = ("no",)

    def __post_init__(self) -> None:
        given: tuple[tuple[str, object], ...] = (("positive", self.positive), ("negative", self.negative))
        for name, words in given:
            good = isinstance(words, tuple) and words and all(isinstance(word, str) and word.strip() for word in words)
            if not good:
                raise InputError(f"{name}={words!r}, but a tuple of words was expected: pass one such as ('yes',)")
        shared = {word.strip().lower() for word in self.positive} & {word.strip().lower() for word in self.negative}
        if shared:
            raise InputError(f"{sorted(shared)} means both yes and no: give each answer words of its own")

    @staticmethod
    def variants(word: str) -> list[str]:
        """Return how a word may be written, each way once."""
        word = word.strip()
        spelled = dict.fromkeys((word, word.lower(), word.capitalize(), word.upper()))
        return [before + each for before in ("", " ") for each in spelled]

    def shown(self, tokenizer: TextTokenizer) -> tuple[str, str]:
        """Return how no and yes are best written behind a colon: as one token, and both in the same way if that can be.

        Each begins with a space where it is a token so. Where no way is, which no usual tokenizer has, it is the first
        word with a capital.
        """
        no, yes = (self._ways(words, tokenizer) for words in (self.negative, self.positive))
        same = [way for way in no if way in yes]
        if same:
            return no[same[0]], yes[same[0]]
        return (
            next(iter(no.values()), f" {self.negative[0].strip().capitalize()}"),
            next(iter(yes.values()), f" {self.positive[0].strip().capitalize()}"),
        )

    @staticmethod
    def _ways(words: Sequence[str], tokenizer: TextTokenizer) -> dict[tuple[str, str], str]:
        """Return by space and style, the best first, the first word that is one token in that way."""
        found: dict[tuple[str, str], str] = {}
        for before in (" ", ""):
            for name, style in _STYLES.items():
                for word in words:
                    written = before + style(word.strip())
                    if _token(written, tokenizer) is not None:
                        found.setdefault((before, name), written)
        return found

    def tokens(self, tokenizer: TextTokenizer) -> AnswerTokens:
        """Return the tokens of both answers in a vocabulary.

        Raises
        ------
        InputError
            When an answer has no variant that is one token, or both have the same one.
        """
        yes, no = (self._of(words, tokenizer) for words in (self.positive, self.negative))
        for name, words, found in (("positive", self.positive, yes), ("negative", self.negative, no)):
            if not found:
                raise InputError(
                    f"no variant of {name}={words!r} is a single token of this model: take shorter or more usual words"
                )
        if set(yes) & set(no):
            raise InputError(f"{self!r}: both answers have a token in common, take other words")
        return AnswerTokens(np.array(yes, dtype=np.int64), np.array(no, dtype=np.int64))

    def _of(self, words: Sequence[str], tokenizer: TextTokenizer) -> list[int]:
        found: set[int] = set()
        for variant in (variant for word in words for variant in self.variants(word)):
            if (token := _token(variant, tokenizer)) is not None:
                found.add(token)
            # Where the tokenizer puts a space before every text, a word without one is reached by its name only.
            if (known := tokenizer.token_id(variant)) is not None:
                found.add(known)
        return sorted(found)


@dataclass(frozen=True, eq=False)
class AnswerTokens:
    """The tokens of two answers: int64 arrays of ids."""

    positive: Int64Array
    negative: Int64Array

    def log_probs(self, logits: Float32Array) -> Float32Array:
        """Return log P(yes) and log P(no), in nats, of logits of the whole vocabulary: float32 of shape ``(n, 2)``."""
        found = np.empty((len(logits), 2), dtype=np.float32)
        for begin in range(0, len(logits), _BLOCK_ROWS):
            wide = logits[begin : begin + _BLOCK_ROWS].astype(np.float64)
            total = _log_sum(wide)
            for column, ids in enumerate((self.positive, self.negative)):
                found[begin : begin + _BLOCK_ROWS, column] = _log_sum(wide[:, ids]) - total
        return found


def _token(text: str, tokenizer: TextTokenizer) -> int | None:
    """Return the token that a text is, None where it is several."""
    ids = tokenizer.plain_ids(text)
    return ids[0] if len(ids) == 1 else None


def _log_sum(values: Float64Array) -> Float64Array:
    largest = values.max(axis=1, keepdims=True)
    found: Float64Array = (largest + np.log(np.exp(values - largest).sum(axis=1, keepdims=True)))[:, 0]
    return found
