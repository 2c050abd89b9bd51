"""Histories that rows bring along: lists of ids, or the texts that CSV files hold instead."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat.errors import InputError
from llmfeat.evaluate.inputs.cells import id_cells, whole_ids
from llmfeat.types import BoolArray, Int64Array

__all__ = ["read_histories"]

_BRACKETS = r"^\s*[\[(]|[\])]\s*$"
_QUOTED = r"""^(?:'[^']*'|"[^"]*")$"""
# In this order: a text with a bar may have spaces within ids, one with spaces has no bars.
_SEPARATORS = {"'|'": r"\s*\|\s*", "','": r"\s*,\s*", "';'": r"\s*;\s*", "white space": r"\s+"}
_NO_IDS = ("", "nan", "NaN", "None", "null")


def read_histories(cells: pa.Array, name: str) -> tuple[pa.ListArray, str | None]:
    """Return each row's history as a list of ids, and how texts were read, None where lists came.

    A null history is an empty one; null ids within one are left out.

    Raises
    ------
    InputError
        When the column holds neither lists nor texts, or a text that looks like a list is none.
    """
    what = f"the column {name!r} of the interaction log"
    kind = cells.type
    if pa.types.is_null(kind):
        raise InputError(f"{what} is empty, but lists of ids were expected: name another column with --history-column")
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lists = cells.cast(pa.large_list(kind.value_type))
        ids = id_cells(pc.list_flatten(lists), what=what)
        return _lists(ids, pc.list_parent_indices(lists).to_numpy(), len(cells)), None
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(
            f"{what} is of type {kind}, but lists of ids, or texts of ids with a separator, were expected: cast it"
        )
    return _parsed(cells.cast(pa.large_string()), what=what)


def _lists(ids: pa.StringArray, rows: Int64Array, n_rows: int) -> pa.ListArray:
    """Return ids, each with the row that it belongs to, as a list a row; null ids are left out."""
    ids, _ = whole_ids(ids)
    held = pc.is_valid(ids).to_numpy(zero_copy_only=False)
    offsets = np.zeros(n_rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows[held], minlength=n_rows), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), ids.drop_null())


def _parsed(texts: pa.LargeStringArray, *, what: str) -> tuple[pa.ListArray, str]:
    bracketed = pc.fill_null(pc.match_substring_regex(texts, r"^\s*[\[(].*[\])]\s*$"), False)
    n_bracketed = pc.sum(bracketed).as_py()
    inner = pc.utf8_trim_whitespace(pc.if_else(bracketed, pc.replace_substring_regex(texts, _BRACKETS, ""), texts))
    # Between brackets a bar or a semicolon is a part of an id; numpy prints arrays with spaces.
    separators = ["','", "white space"] if n_bracketed else list(_SEPARATORS)
    separator = next((one for one in separators[:-1] if _occurs(inner, one)), separators[-1])
    lists = pc.split_pattern_regex(inner, _SEPARATORS[separator])
    ids, rows = pc.list_flatten(lists), pc.list_parent_indices(lists).to_numpy()
    said = f"texts, {'in brackets, ' if n_bracketed else ''}separated by {separator}"
    quoted = pc.match_substring_regex(ids, _QUOTED).to_numpy(zero_copy_only=False)
    if n_bracketed and _has_quotes(ids, ~quoted):  # a separator, or a quote, within quotes
        return _literals(texts, what=what), said
    ids = pc.if_else(pa.array(quoted), pc.utf8_slice_codeunits(ids, 1, -1), ids) if quoted.any() else ids
    none = pc.is_in(ids, pa.array(_NO_IDS, ids.type)).to_numpy(zero_copy_only=False) & ~quoted
    return _lists(ids.filter(pa.array(~none)).cast(pa.string()), rows[~none], len(texts)), said


def _occurs(texts: pa.LargeStringArray, separator: str) -> bool:
    return bool(pc.any(pc.match_substring(texts, separator.strip("'"))).as_py())


def _has_quotes(ids: pa.LargeStringArray, rows: BoolArray) -> bool:
    return bool(rows.any() and pc.any(pc.match_substring_regex(ids.filter(pa.array(rows)), "['\"]")).as_py())


def _literals(texts: pa.LargeStringArray, *, what: str) -> pa.ListArray:
    histories = [_literal(text, what=what) for text in texts.to_pylist()]
    rows = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    ids = pa.array([None if one is None else str(one) for history in histories for one in history], pa.string())
    return _lists(ids, rows, len(histories))


def _literal(text: str | None, *, what: str) -> Sequence[object]:
    if text is None or not text.strip():
        return ()
    for read in (json.loads, ast.literal_eval):
        try:
            history = read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(history, list | tuple):
            return history
    raise InputError(
        f"{what} has a text that begins or quotes like a list but is none, but lists of ids were expected: "
        "write JSON, or a parquet column of lists"
    )
