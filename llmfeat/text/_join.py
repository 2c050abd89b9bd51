"""Sections and columns of text to one text per row, column by column rather than row by row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmfeat.text._cells import TEXT, null_if_empty
from llmfeat.text._parse import Section

__all__ = ["collapse", "compact", "join_sections"]

# What Python's `\s` and str.strip() take for white space but the space itself; RE2's `\s` is ASCII only.
_ODD_SPACE = r"\t-\r\x1c-\x1f\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
_UNEVEN = rf"[{_ODD_SPACE}]|  "
_RUN = rf"[ {_ODD_SPACE}]+"
_MAX_STRING_BYTES = 2**31 - 1


def join_sections(sections: Iterable[Section], columns: Mapping[str, pa.LargeStringArray]) -> pa.LargeStringArray:
    """Return a text per row, runs of white space made one space; null where a required field is, or nothing is left."""
    parts: list[Any] = []
    for section in sections:
        pieces = [columns[text] if is_field else pa.scalar(text, TEXT) for text, is_field in section.pieces]
        if not section.optional:
            parts += pieces
        elif pieces:
            parts.append(pc.fill_null(_join(pieces), pa.scalar("", TEXT)))
    return null_if_empty(pc.utf8_trim_whitespace(collapse(_join(parts))))


def collapse(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    """Return the texts with each run of white space made one space."""
    # Replacing costs seven times what finding does, and few texts need it.
    uneven = pc.fill_null(pc.match_substring_regex(texts, _UNEVEN), False)
    if not pc.any(uneven).as_py():
        return texts
    return pc.replace_with_mask(texts, uneven, pc.replace_substring_regex(texts.filter(uneven), _RUN, " "))


def compact(texts: pa.LargeStringArray) -> pa.StringArray | pa.LargeStringArray:
    """Return the texts with 32-bit offsets, where these reach."""
    return texts.cast(pa.string()) if texts.nbytes <= _MAX_STRING_BYTES else texts


def _join(pieces: list[Any]) -> Any:
    # A null among the pieces makes the whole null.
    return pc.binary_join_element_wise(*pieces, pa.scalar("", TEXT), null_handling="emit_null")
