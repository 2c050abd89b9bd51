"""A question per user and candidate, for a language model to answer with yes or no."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Self, TypeAlias

from llmfeat._base.files import canonical_json, text_sha256
from llmfeat.errors import TemplateError
from llmfeat.text._file import load_template
from llmfeat.text._parse import Section, parse_sections

__all__ = ["PreferencePrompt", "Seen"]

# Bumped when the same prompt and history give another text: it is a part of the fingerprint.
_RENDERING = 1
_LISTS = ("liked", "disliked", "seen", "history")
_FIELDS = (*_LISTS, *(f"n_{name}" for name in _LISTS), "candidate")

Seen: TypeAlias = tuple[str, bool | None]
"""An item's text, and whether it was liked; None where that is not known."""


@dataclass(frozen=True)
class PreferencePrompt:
    """Whether a user would like a candidate, asked of a language model.

    `template` may name ``{liked}``, ``{disliked}`` and ``{seen}``, the items whose label is positive, negative and not
    known yet, ``{history}``, all of them, ``{n_liked}`` and so on, how many each list has, and ``{candidate}``, which
    it must. A section in square brackets is left out when a list in it is empty. What is the same for all candidates
    of a user is computed once, as far as it stands before the candidate: the candidate belongs to the end.

    Parameters
    ----------
    template : str
        The user's message.
    system : str or None
        The instruction; the system's message of a chat model, else what stands before the template.
    chat : bool, default=True
        Whether the message goes into the model's chat template, where it has one.
    opening : str, default=""
        What the answer begins with, for models that answer in sentences.
    separator : str, default="; "
        What stands between two items.
    marks : tuple of (str, str), optional
        What stands right behind an item that was disliked, and behind one that was liked; nothing behind one whose
        label is not known. See `by_example`.
    max_items : int, default=20
        How many items of the history are used; the newest.
    item_tokens : int or None, default=64
        How many tokens of each item's text are kept, the candidate's too; all with None.
    newest_first : bool, default=False
        Whether lists begin with the newest item.

    Raises
    ------
    TemplateError
        When the template lacks ``{candidate}``, names anything else, or a parameter is of another type.

    Examples
    --------
    >>> from llmfeat.text import PreferencePrompt
    >>> prompt = PreferencePrompt("[Liked: {liked}. ][Disliked: {disliked}. ]Next: {candidate}?")
    >>> prompt.render([("Heat", True), ("Alien", True)], "Speed")
    'Liked: Heat; Alien. Next: Speed?'
    """

    template: str = (
        "[Liked {n_liked} of {n_history}: {liked}\n][Disliked {n_disliked} of {n_history}: {disliked}\n]"
        "[Seen: {seen}\n]Next: {candidate}\nWould the user like it? Answer Yes or No."
    )
    system: str | None = "You predict whether a user will like an item."
    chat: bool = True
    opening: str = ""
    separator: str = "; "
    marks: tuple[str, str] | None = None
    max_items: int = 20
    item_tokens: int | None = 64
    newest_first: bool = False

    def __post_init__(self) -> None:
        for name in ("template", "opening", "separator"):
            if not isinstance(getattr(self, name), str):
                raise TemplateError(f"{name}={getattr(self, name)!r}, but a str was expected")
        if not (self.system is None or isinstance(self.system, str)):
            raise TemplateError(f"system={self.system!r}, but a str or None was expected")
        if self.marks is not None:
            object.__setattr__(self, "marks", _pair(self.marks))
        for name in ("chat", "newest_first"):
            if not isinstance(getattr(self, name), bool):
                raise TemplateError(f"{name}={getattr(self, name)!r}, but a bool was expected: pass True or False")
        for name, least in (("max_items", 0), ("item_tokens", 1)):
            value = getattr(self, name)
            if value is None and name == "item_tokens":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise TemplateError(f"{name}={value!r}, but a whole number from {least} on was expected")
        sections, limits = self._parsed
        named = [text for section in sections for text, is_field in section.pieces if is_field]
        unknown = sorted(set(named) - set(_FIELDS))
        if unknown or limits:
            raise TemplateError(
                f"the template {self.template!r} names {unknown or sorted(limits)}, but only {list(_FIELDS)} were "
                "expected, without limits: item_tokens limits all items"
            )
        if named.count("candidate") != 1 or ("candidate", True) in [
            piece for section in sections if section.optional for piece in section.pieces
        ]:
            raise TemplateError(
                f"the template {self.template!r} has {{candidate}} {named.count('candidate')} times, but once, outside "
                "of brackets, was expected"
            )

    @classmethod
    def by_example(cls, no: str = "No", yes: str = "Yes", *, max_items: int = 20, item_tokens: int | None = 64) -> Self:
        r"""Return the prompt of a history that is its own example: a line for each item, with whether it was liked.

        No question is asked, and no chat is around it: the candidate's line lacks its answer. `no` and `yes` must be
        among the answers that are compared, each one token of the model behind its space. Of a user without a history
        the prompt is the candidate alone.

        Examples
        --------
        >>> from llmfeat.text import PreferencePrompt
        >>> prompt = PreferencePrompt.by_example()
        >>> print(prompt.render([("Heat", True), ("Alien", False)], "Speed"))
        Heat: Yes
        Alien: No
        Speed:
        """
        return cls(
            "[{history}\n]{candidate}:",
            system=None,
            chat=False,
            separator="\n",
            marks=(f": {no}", f": {yes}"),
            max_items=max_items,
            item_tokens=item_tokens,
        )

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Return the prompt in the table ``[prompt]`` of a TOML file, whose keys are the parameters.

        Raises
        ------
        TemplateError
            When there is no such file or table, or it holds anything else.
        """
        return load_template(cls, path, "prompt")

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of everything that can change a rendered text, in hex."""
        return text_sha256(canonical_json({**asdict(self), "rendering": _RENDERING}))

    @property
    def is_shareable(self) -> bool:
        """Whether nothing of the user stands behind the candidate."""
        named = [text for section in self._parsed[0] for text, is_field in section.pieces if is_field]
        return named[-1] == "candidate"

    def render(self, history: Sequence[Seen], candidate: str) -> str:
        """Return the user's message.

        Parameters
        ----------
        history : sequence of (str, bool or None)
            Items' texts, oldest first, and whether each was liked.
        candidate : str
            The candidate's text.
        """
        kept = list(history)[-self.max_items :] if self.max_items else []
        if self.newest_first:
            kept.reverse()
        written = [(self._marked(text, liked), liked) for text, liked in kept]
        lists = {
            "liked": [text for text, liked in written if liked],
            "disliked": [text for text, liked in written if liked is not None and not liked],
            "seen": [text for text, liked in written if liked is None],
            "history": [text for text, _ in written],
        }
        values = {name: self.separator.join(texts) for name, texts in lists.items()}
        values |= {f"n_{name}": str(len(texts)) for name, texts in lists.items()}
        values["candidate"] = candidate
        parts = []
        for section in self._parsed[0]:
            named = [text for text, is_field in section.pieces if is_field]
            if section.optional and not all(lists[name] for name in named if name in lists):
                continue
            parts += [values[text] if is_field else text for text, is_field in section.pieces]
        return "".join(parts)

    def _marked(self, text: str, liked: bool | None) -> str:
        return text if self.marks is None or liked is None else text + self.marks[bool(liked)]

    @cached_property
    def _parsed(self) -> tuple[tuple[Section, ...], dict[str, int]]:
        return parse_sections(self.template)


def _pair(marks: object) -> tuple[str, str]:
    """Return both marks, which TOML has in a list."""
    if isinstance(marks, tuple | list) and len(marks) == 2 and all(isinstance(mark, str) for mark in marks):
        return marks[0], marks[1]
    raise TemplateError(
        f"marks={marks!r}, but two str were expected, for disliked and for liked, or None: pass (': No', ': Yes')"
    )
