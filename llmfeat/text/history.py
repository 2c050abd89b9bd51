"""A text per history, from the texts of its items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from llmfeat._base.files import canonical_json, text_sha256
from llmfeat.errors import InputError, TemplateError
from llmfeat.text._file import load_template
from llmfeat.text._parse import parse_frame
from llmfeat.text._truncate import Truncate, cut_distinct, require_truncate

__all__ = ["HistoryTemplate"]

# Bumped when the same template and history give another text: it is a part of the fingerprint.
_RENDERING = 1


@dataclass(frozen=True)
class HistoryTemplate:
    """A text per history: the newest items' texts in a row, with words around them.

    Items without text are left out before the newest are counted. A history of which nothing is left has no text, and
    is rendered as None, never as the words alone. White space around an item's text is dropped; the template and the
    separator are taken as they are.

    Parameters
    ----------
    template : str, default="{items}"
        Literal text around one ``{items}``. Double a brace to mean itself.
    separator : str, default="; "
        What stands between two items.
    max_items : int, default=20
        How many items a text holds; the newest are kept.
    item_tokens : int, optional
        How many tokens of each item's text are kept; all by default.
    newest_first : bool, default=False
        Whether the newest item stands first rather than last.

    Raises
    ------
    TemplateError
        When the template does not have exactly one ``{items}``, or a parameter is of another type or below 1.

    Examples
    --------
    >>> from llmfeat.text import HistoryTemplate
    >>> template = HistoryTemplate("Watched: {items}", max_items=2)
    >>> template.render([["Heat", "Alien", None, "Speed"], []])
    ['Watched: Alien; Speed', None]
    """

    template: str = "{items}"
    separator: str = "; "
    max_items: int = 20
    item_tokens: int | None = None
    newest_first: bool = False

    def __post_init__(self) -> None:
        parse_frame(self.template, "items")
        if not isinstance(self.separator, str):
            raise TemplateError(f"separator={self.separator!r}, but a str was expected: pass one such as '; '")
        if not isinstance(self.newest_first, bool):
            raise TemplateError(f"newest_first={self.newest_first!r}, but a bool was expected: pass True or False")
        for name, value in (("max_items", self.max_items), ("item_tokens", self.item_tokens)):
            if value is None and name == "item_tokens":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise TemplateError(f"{name}={value!r}, but a whole number from 1 on was expected: pass one such as 20")

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Return the template in the table ``[history]`` of a TOML file, whose keys are the parameters.

        Raises
        ------
        TemplateError
            When there is no such file or table, or it holds anything else.
        """
        return load_template(cls, path, "history")

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of everything that can change a rendered text, in hex."""
        return text_sha256(canonical_json({**asdict(self), "rendering": _RENDERING}))

    def render(
        self, histories: Sequence[Sequence[str | None]], *, truncate: Truncate | None = None
    ) -> list[str | None]:
        """Return a text for each history, None where it has no item with text.

        Parameters
        ----------
        histories : sequence of sequences of str or None
            The texts of each history's items, oldest first; None is an item without text.
        truncate : callable, optional
            Takes texts and a number of tokens, and returns the texts cut to it; needed with `item_tokens`. It is
            called at most once, on distinct texts.

        Raises
        ------
        InputError
            When a history is not a sequence of texts.
        TemplateError
            When there is `item_tokens` and `truncate` is not passed.
        """
        kept = [_with_text(history, at)[-self.max_items :] for at, history in enumerate(histories)]
        if self.item_tokens is not None:
            truncate = require_truncate(truncate, what=f"item_tokens={self.item_tokens} limits items")
            cut = cut_distinct((text for texts in kept for text in texts), self.item_tokens, truncate)
            kept = [[short for text in texts if (short := cut.get(text, text))] for texts in kept]
        before, after = parse_frame(self.template, "items")
        step = -1 if self.newest_first else 1
        return [before + self.separator.join(texts[::step]) + after if texts else None for texts in kept]


def _with_text(history: Sequence[str | None], at: int) -> list[str]:
    if isinstance(history, str):
        raise InputError(f"history {at} is one str, but a sequence of item texts was expected: put them in a list")
    texts: list[str] = []
    for text in history:
        if isinstance(text, str):
            texts.append(text.strip())
        elif text is not None:
            raise InputError(
                f"history {at} has an item of type {type(text).__name__}, but a str or None was expected: "
                "render items with ItemTemplate, and pass None for one without text"
            )
    return [text for text in texts if text]
