"""Templates of item texts: a string with field names, and sections that vanish when a field is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import pyarrow as pa

from llmfeat._base.files import canonical_json, text_sha256
from llmfeat._base.frames import column, require_columns, to_frame
from llmfeat.errors import InputError, TemplateError

__all__ = ["ItemTemplate"]

_TOKEN = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{(?P<field>[^{}]*)\}|(?P<open>\[)|(?P<close>\])|(?P<stray>[{}])")
_SPACES = re.compile(r"\s+")
# Bumped when the same template and row give another text: it is a part of the fingerprint.
_RENDERING = 1

# A piece of a template: literal text, or the name of a field.
_Piece: TypeAlias = tuple[str, bool]


@dataclass(frozen=True)
class _Section:
    pieces: tuple[_Piece, ...]
    optional: bool


@dataclass(frozen=True)
class ItemTemplate:
    """A text per item, from its columns.

    ``{name}`` stands for a column. A section in square brackets is left out when one of its fields is missing (null,
    NaN, or only spaces). A field outside of brackets is required: an item without it has no text, and is rendered as
    None, never as an empty string that would be encoded into a vector that looks real. Double a bracket to mean
    itself. Runs of white space become one space; lists are joined by commas.

    Parameters
    ----------
    template : str
        Such as ``"{title}[ ({year})][. Genres: {genres}]"``.

    Raises
    ------
    TemplateError
        When brackets do not match, sections nest, or there is no field.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat.text import ItemTemplate
    >>> template = ItemTemplate("{title}[ ({year})]")
    >>> template.render(pa.table({"title": ["Heat", "Alien", None], "year": [1995, None, 2000]}))
    ['Heat (1995)', 'Alien', None]
    """

    template: str

    def __post_init__(self) -> None:
        if not self.fields:
            raise TemplateError(f"the template {self.template!r} names no field: write one as {{column}}")

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The columns that the template needs, in order of appearance."""
        names = (text for section in self._sections for text, is_field in section.pieces if is_field)
        return tuple(dict.fromkeys(names))

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of everything that can change a rendered text, in hex."""
        return text_sha256(canonical_json({"template": self.template, "rendering": _RENDERING}))

    def render(self, items: Any) -> list[str | None]:
        """Return a text for each row of a pandas, polars or Arrow frame, None where it has none.

        Raises
        ------
        MissingColumnError
            When `items` lacks a column that the template names.
        """
        frame = to_frame(items, what="the item catalogue")
        require_columns(frame, self.fields, what="the item catalogue")
        columns = {name: _cells(column(items, name, what="the item catalogue")) for name in self.fields}
        return [self._render_row({name: columns[name][row] for name in self.fields}) for row in range(len(frame))]

    @cached_property
    def _sections(self) -> tuple[_Section, ...]:
        return tuple(_parse(self.template))

    def _render_row(self, cells: dict[str, str | None]) -> str | None:
        text = ""
        for section in self._sections:
            filled = [cells[piece] if is_field else piece for piece, is_field in section.pieces]
            if all(piece is not None for piece in filled):
                text += "".join(piece for piece in filled if piece is not None)
            elif not section.optional:
                return None
        return _SPACES.sub(" ", text).strip() or None


def _parse(template: str) -> Iterator[_Section]:
    pieces: list[_Piece] = []
    in_section = False
    end = 0
    for token in _TOKEN.finditer(template):
        pieces.append((template[end : token.start()], False))
        end = token.end()
        if token["field"] is not None:
            if not token["field"].strip():
                raise TemplateError(f"the template {template!r} has a field without a name: write {{column}}")
            pieces.append((token["field"].strip(), True))
        elif token["open"] or token["close"]:
            if bool(token["open"]) == in_section:
                problem = "a section within a section" if in_section else "a ']' without its '['"
                raise TemplateError(f"the template {template!r} has {problem}: double a bracket to mean itself")
            yield _Section(tuple(pieces), optional=in_section)
            pieces, in_section = [], not in_section
        elif token["stray"]:
            raise TemplateError(f"the template {template!r} has a lone {token['stray']!r}: double it to mean itself")
        else:
            pieces.append((token[0][0], False))
    if in_section:
        raise TemplateError(f"the template {template!r} has a '[' without its ']': close it, or double it")
    pieces.append((template[end:], False))
    yield _Section(tuple(pieces), optional=False)


def _cells(array: pa.Array) -> Sequence[str | None]:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_binary(array.type) or pa.types.is_struct(array.type):
        raise InputError(f"a template field is of type {array.type}, but text, numbers or lists were expected")
    return [_cell(value) for value in array.to_pylist()]


def _cell(value: Any) -> str | None:
    if value is None or value != value:  # NaN is the one value that differs from itself
        return None
    if isinstance(value, list):
        parts = [part for part in map(_cell, value) if part is not None]
        return ", ".join(parts) or None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of integers with a null comes from pandas as floats
    return str(value).strip() or None
