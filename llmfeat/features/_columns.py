"""Whatever a scikit-learn user has for a table (a frame, an array, lists) as Arrow columns that have a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import pyarrow as pa
from narwhals.exceptions import DuplicateError
from scipy import sparse

from llmfeat.errors import InputError

__all__ = ["arrow_table", "as_two_dimensional", "column_names", "text_array"]


def as_two_dimensional(X: Any) -> Any:
    """Return a data frame as it is, and anything else as a 2-D array; of lists each cell keeps its type.

    Raises
    ------
    InputError
        When `X` is sparse, complex, not two-dimensional, or has two columns of one name.
    """
    if sparse.issparse(X):
        raise InputError("X is sparse, but columns of text were expected: pass a data frame, or X.toarray()")
    try:
        frame = nw.from_native(X, eager_only=True, pass_through=True)
    except DuplicateError as error:
        raise InputError("X has columns of the same name, but each was expected once: rename them") from error
    if isinstance(frame, nw.DataFrame):
        return X
    array = np.asarray(X) if hasattr(X, "__array__") else np.asarray(X, dtype=object)
    if array.ndim != 2:
        raise InputError(
            f"X is a {type(X).__name__} of {array.ndim} dimensions, but a table of rows and columns was expected. "
            "Reshape your data: take frame[['title']] rather than frame['title'], or array.reshape(-1, 1)"
        )
    if array.dtype.kind == "c":
        raise InputError("X is complex, but text or numbers were expected. Complex data not supported: convert it")
    return array


def column_names(X: Any) -> list[str]:
    """Return the names of the columns of what `as_two_dimensional` gives; ``x0``, ``x1`` and so on without."""
    names = range(X.shape[1]) if isinstance(X, np.ndarray) else nw.from_native(X, eager_only=True).columns
    return [name if isinstance(name, str) else f"x{at}" for at, name in enumerate(names)]


def arrow_table(X: Any, columns: list[str]) -> pa.Table:
    """Return some columns, by name, of what `as_two_dimensional` gives.

    The text of a cell must not depend on the cells beside it, and the type that Arrow finds for objects does: columns
    of objects come as text, each cell by its own type.
    """
    positions = {name: at for at, name in enumerate(column_names(X))}
    if isinstance(X, np.ndarray):
        return pa.table({name: _array(X[:, positions[name]]) for name in columns})
    frame = nw.from_native(X, eager_only=True)
    return pa.table({name: _series(frame[:, positions[name]]) for name in columns})


def _array(values: np.ndarray[Any, Any]) -> pa.Array:
    return text_array(values) if values.dtype == object else pa.array(values, from_pandas=True)


def _series(values: nw.Series[Any]) -> pa.Array | pa.ChunkedArray:
    if values.dtype == nw.Object:
        return text_array(values.to_list())
    try:
        return values.to_arrow()
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # pandas' object columns are called text by their first rows
        return text_array(values.to_list())


def text_array(cells: Iterable[Any]) -> pa.LargeStringArray:
    """Return the text of each Python object, null for None, NaN and their like."""
    return pa.array([_text(cell) for cell in cells], pa.large_string())


def _text(cell: Any) -> str | None:
    if isinstance(cell, str):
        return str(cell)
    if isinstance(cell, np.generic):
        cell = cell.item()
    if isinstance(cell, bytes | bytearray | memoryview):
        raise InputError(f"a cell of X is of type {type(cell).__name__}, but text was expected: decode it")
    if isinstance(cell, list | tuple | set | frozenset | np.ndarray):
        parts = [part for part in map(_text, sorted(cell) if isinstance(cell, set | frozenset) else cell) if part]
        return ", ".join(parts) or None
    # pandas' NA and NaT compare to nothing, themselves included; NaN is the one float that differs from itself.
    if cell is None or type(cell).__name__ in ("NAType", "NaTType") or (isinstance(cell, float) and cell != cell):
        return None
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)  # a column of integers with a null comes from pandas as floats
    return str(cell)
