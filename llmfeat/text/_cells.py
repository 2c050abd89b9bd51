"""Columns of any type to columns of text, null where a cell has none."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmfeat.errors import InputError

__all__ = ["TEXT", "null_if_empty", "text_cells"]

# 64-bit offsets, so that no step on the way overflows at 2 GB.
TEXT = pa.large_string()


def text_cells(array: pa.Array, *, what: str) -> pa.LargeStringArray:
    """Return the text of each cell, without white space around it; null for null, NaN, blank text, empty lists.

    Raises
    ------
    InputError
        When the cells are bytes or structures, which have no text of their own.
    """
    kind = array.type
    if _has_no_text(kind):
        raise InputError(f"{what} is of type {kind}, but text, numbers or lists of them were expected: cast the column")
    if pa.types.is_dictionary(kind):
        return text_cells(array.dictionary, what=what).take(array.indices)
    if pa.types.is_integer(kind):
        return array.cast(TEXT)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_view(kind, "string"):
        return null_if_empty(pc.utf8_trim_whitespace(array.cast(TEXT)))
    if pa.types.is_primitive(kind) or pa.types.is_decimal(kind):
        distinct = array.dictionary_encode()  # a column of years or dates has few
        return _python_cells(distinct.dictionary).take(distinct.indices)
    return _python_cells(array)


def null_if_empty(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    """Return the texts, null instead of empty."""
    empty = pc.equal(pc.binary_length(texts), 0)
    return pc.if_else(empty, pa.scalar(None, TEXT), texts) if pc.any(empty).as_py() else texts


def _has_no_text(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_struct(kind) or types.is_map(kind) or types.is_union(kind):
        return True
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return True
    values = getattr(kind, "value_type", None)  # of lists and dictionaries
    return _is_view(kind, "binary") or (values is not None and _has_no_text(values))


def _is_view(kind: pa.DataType, of: str) -> bool:
    return str(kind) == f"{of}_view"  # pyarrow 15 has no predicate for it


def _python_cells(array: pa.Array) -> pa.LargeStringArray:
    return pa.array([_cell(value) for value in array.to_pylist()], TEXT)


def _cell(value: Any) -> str | None:
    if value is None or value != value:  # NaN is the one value that differs from itself
        return None
    if isinstance(value, list):
        parts = [part for part in map(_cell, value) if part is not None]
        return ", ".join(parts) or None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of integers with a null comes from pandas as floats
    return str(value).strip() or None
