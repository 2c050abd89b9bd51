"""Cells of any kind as Arrow columns, each with a mark where one is no Unicode text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import narwhals.stable.v2 as nw
import numpy as np
import pyarrow as pa

from llmfeat.types import BoolArray

__all__ = ["CheckedColumn", "from_arrow", "from_cells", "from_series"]

# An Arrow array, in chunks or whole, and which of its cells were no Unicode text: these are null.
CheckedColumn: TypeAlias = tuple[Any, BoolArray]

# What Arrow raises for Python cells that it cannot hold in one column.
_NO_ARROW = (pa.ArrowException, OverflowError, UnicodeEncodeError)


def from_series(series: nw.Series[Any]) -> CheckedColumn:
    """Return a column of a data frame; see `from_cells` for what has no type of its own."""
    if series.dtype != nw.Object:  # polars would give Arrow the addresses of its objects
        try:
            return from_arrow(series.to_arrow())
        except _NO_ARROW:
            pass
    return from_cells(series.to_list())


def from_arrow(array: Any) -> CheckedColumn:
    """Return a column without dictionaries, its texts checked: Arrow reads parquet without asking for UTF-8."""
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if not pa.types.is_primitive(array.type):
        try:
            array.validate(full=True)
        except pa.ArrowInvalid:
            cells, bad = zip(*map(_decoded, array), strict=True)
            return pa.array(cells, array.type), np.array(bad)
    return array, np.zeros(len(array), dtype=np.bool_)


def from_cells(cells: Sequence[Any]) -> CheckedColumn:
    """Return Python cells as a column: of the type that they have in common, else of their texts."""
    try:
        return pa.array(cells, from_pandas=True), np.zeros(len(cells), dtype=np.bool_)
    except _NO_ARROW:
        plain, bad = zip(*map(_plain, cells), strict=True)
    try:
        return pa.array(plain), np.array(bad)
    except _NO_ARROW:
        return pa.array([None if cell is None else _text(cell) for cell in plain], pa.string()), np.array(bad)


def _decoded(cell: pa.Scalar) -> tuple[Any, bool]:
    try:
        return cell.as_py(), False
    except UnicodeDecodeError:
        return None, True


def _plain(cell: Any) -> tuple[Any, bool]:
    """Return what Arrow makes of a cell alone, and whether it is no Unicode text."""
    try:
        return pa.array([cell], from_pandas=True)[0].as_py(), False
    except UnicodeEncodeError:
        return None, True
    except _NO_ARROW:
        text = _text(cell)
    try:
        text.encode()
    except UnicodeEncodeError:
        return None, True
    return text, False


def _text(cell: Any) -> str:
    # A template renders 7.0 as 7 and joins lists. A cell must read alike whatever else its batch holds.
    if isinstance(cell, list):
        return ", ".join(_text(part) for part in cell if part is not None)
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell)
