"""Texts cut to a number of tokens, by a function that knows the model's tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from llmfeat.errors import TemplateError

__all__ = ["Truncate", "cut_distinct", "require_truncate"]

Truncate: TypeAlias = Callable[[Sequence[str], int], list[str]]
"""Returns each text, cut to so many tokens, in order."""


def require_truncate(truncate: Truncate | None, *, what: str) -> Truncate:
    """Return `truncate`, or raise `TemplateError` that says what limits need it."""
    if truncate is None:
        raise TemplateError(
            f"{what} in tokens, but no truncate= was passed: pass the function (texts, n_tokens) -> texts of the "
            "tokenizer of the model that the texts are for"
        )
    return truncate


def cut_distinct(texts: Iterable[str], n_tokens: int, truncate: Truncate) -> dict[str, str]:
    """Return what each text that may have more than `n_tokens` tokens is cut to, without white space around it.

    `truncate` is called once, on distinct texts, or not at all.
    """
    long = [text for text in dict.fromkeys(texts) if _may_exceed(text, n_tokens)]
    if not long:
        return {}
    cut = list(truncate(long, n_tokens))
    n_texts = sum(isinstance(text, str) for text in cut)
    if len(cut) != len(long) or n_texts != len(long):
        raise TemplateError(
            f"truncate returned {len(cut)} values, {n_texts} of them texts, for {len(long)} texts: "
            "pass a function that returns each text, cut, in order"
        )
    return {text: shorter.strip() for text, shorter in zip(long, cut, strict=True)}


def _may_exceed(text: str, n_tokens: int) -> bool:
    # An ASCII character is at most one token, and some tokenizers put one of their own before the text. Beyond ASCII
    # one character can be many tokens: its bytes, or what normalization makes of it.
    return len(text) >= n_tokens or not text.isascii()
