"""Columns of any data frame (pandas, polars, Arrow) as Arrow or numpy arrays, checked."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat.errors import EmptyInputError, InputError, LLMFeatWarning, MissingColumnError, TimestampError
from llmfeat.types import Float32Array, Int64Array

__all__ = [
    "column",
    "id_array",
    "id_column",
    "is_null",
    "label_column",
    "read_times",
    "require_columns",
    "require_rows",
    "time_column",
    "to_frame",
    "to_us",
]

US_PER_S = 1_000_000
# Epochs between 1973 and 5138 have 9 to 11 digits in seconds; each finer unit has three more. To microseconds each is
# multiplied and then divided.
_EPOCH_UNITS = (
    ("s", 1e8, 1e11, US_PER_S, 1),
    ("ms", 1e11, 1e14, 1_000, 1),
    ("us", 1e14, 1e17, 1, 1),
    ("ns", 1e17, 1e20, 1, 1_000),
)
_NAIVE = "datetimes without a time zone"


def to_frame(data: Any, *, what: str) -> nw.DataFrame[Any]:
    """Return `data` as an eager narwhals frame.

    Raises
    ------
    InputError
        When `data` is no data frame of pandas, polars, Arrow or another library that narwhals reads.
    """
    try:
        return nw.from_native(data, eager_only=True)
    except TypeError as error:
        raise InputError(
            f"{what} is a {type(data).__name__}, but a data frame was expected: pass a pandas, polars or Arrow table"
        ) from error


def require_columns(frame: nw.DataFrame[Any], names: Iterable[str], *, what: str) -> None:
    """Raise `MissingColumnError` naming what `frame` lacks, and what it has."""
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise MissingColumnError(
            f"{what} has the columns {list(frame.columns)} but {missing} is needed: "
            "add it, or say which column holds it"
        )


def column(data: Any, name: str, *, what: str) -> pa.Array:
    """Return one column as a single Arrow array."""
    frame = to_frame(data, what=what)
    require_columns(frame, [name], what=what)
    try:
        return _combine(frame.get_column(name).to_arrow())
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"the column {name!r} of {what} mixes types ({error}): cast it to one") from error


def id_array(values: Any, *, what: str = "ids") -> pa.StringArray:
    """Return ids as strings, the form in which every part of llmfeat and Feast compares them.

    Integers, strings, UUIDs and whole floats are taken (``7``, ``7.0`` and ``"7"`` are one id).

    Raises
    ------
    InputError
        When an id is null or a fraction.
    """
    if isinstance(values, str | bytes):
        raise InputError(f"{what} is one {type(values).__name__}, but a sequence of ids was expected: put it in a list")
    array = values if isinstance(values, pa.Array) else _to_arrow(values, what=what)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if isinstance(array.type, pa.BaseExtensionType):
        array = pa.array([None if cell is None else str(cell) for cell in array.to_pylist()], pa.string())  # UUIDs
    n_null = array.null_count
    if pa.types.is_floating(array.type):
        n_null += _count_nan(array)
    if n_null:
        raise InputError(f"{what} has {n_null} null ids of {len(array)}: every row needs an id, drop or fill those")
    if pa.types.is_floating(array.type):
        try:
            array = array.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise InputError(f"{what} has ids that are fractions: ids are integers or strings, cast them") from error
    if pa.types.is_boolean(array.type) or pa.types.is_nested(array.type) or _is_binary(array.type):
        raise InputError(f"{what} has ids of type {array.type}: ids are integers or strings, cast them")
    return array.cast(pa.string())


def id_column(data: Any, name: str, *, what: str) -> pa.StringArray:
    """Return the column `name` of `data` as ids; see `id_array`."""
    return id_array(column(data, name, what=what), what=f"the column {name!r} of {what}")


def label_column(data: Any, name: str, *, what: str) -> Float32Array:
    """Return a numeric column as float32 labels; null or non-numeric ones raise `InputError`."""
    array = column(data, name, what=what)
    try:
        labels: Float32Array = array.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"the column {name!r} of {what} is of type {array.type}, but labels are numbers") from error
    n_bad = int(np.count_nonzero(~np.isfinite(labels)))
    if n_bad:
        raise InputError(f"the column {name!r} of {what} has {n_bad} null labels of {len(labels)}: drop those rows")
    return labels


def time_column(data: Any, name: str, *, what: str) -> Int64Array:
    """Return the column `name` of `data` in microseconds since the epoch, UTC; see `to_us`."""
    return to_us(column(data, name, what=what), what=f"the column {name!r} of {what}")


def to_us(values: Any, *, what: str = "timestamps") -> Int64Array:
    """Return times in microseconds since 1970-01-01 UTC, int64.

    Datetimes, and ISO 8601 texts, with a zone are converted; naive ones are taken as UTC, with a warning. Numbers are
    epochs whose unit (s, ms, us, ns) is told by their size.

    Raises
    ------
    TimestampError
        When a time is null, is no time, or its unit cannot be told.
    """
    times_us, form = read_times(values, what=what)
    if form == _NAIVE:
        warnings.warn(f"{what} has no time zone: taken as UTC", LLMFeatWarning, stacklevel=3)
    return times_us


def read_times(values: Any, *, what: str = "timestamps") -> tuple[Int64Array, str]:
    """Return what `to_us` does, and the form in which the times came, such as ``"epochs in ms"``, without a warning."""
    array = values if isinstance(values, pa.Array) else _to_arrow(values, what=what)
    if len(array) == 0:
        return np.empty(0, dtype=np.int64), "no times"
    n_null = array.null_count + (_count_nan(array) if pa.types.is_floating(array.type) else 0)
    if n_null:
        raise TimestampError(f"{what} has {n_null} null times of {len(array)}: drop or fill those rows")
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        array = _parsed_times(array, what=what)
    if pa.types.is_timestamp(array.type):
        micros: Int64Array = array.cast(pa.timestamp("us", array.type.tz), safe=False).cast(pa.int64()).to_numpy()
        return micros, _NAIVE if array.type.tz is None else "datetimes with a time zone"
    if pa.types.is_date(array.type):
        dates: Int64Array = array.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy()
        return dates, "dates"
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
        return _epochs_to_us(array.to_numpy(), what=what)
    raise TimestampError(f"{what} is of type {array.type}, but datetimes or epoch numbers were expected: convert it")


def _count_nan(array: pa.Array) -> int:
    return int(pc.sum(pc.is_nan(array)).as_py() or 0)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _parsed_times(texts: pa.Array, *, what: str) -> pa.Array:
    """Return ISO 8601 texts as timestamps, with a zone where all of them have one."""
    # Arrow knows no names of zones, but "2019-10-01 00:00:00 UTC" is what BigQuery and many exports write.
    texts = pc.replace_substring_regex(texts, r" ?(UTC|GMT)$", "Z")
    for kind in (pa.timestamp("us", "UTC"), pa.timestamp("us")):
        try:
            return texts.cast(kind)
        except pa.ArrowInvalid:
            continue
    raise TimestampError(f"{what} holds texts that are no ISO 8601 times, such as 2026-01-31T12:00:00Z: convert it")


def _epochs_to_us(numbers: np.ndarray[Any, Any], *, what: str) -> tuple[Int64Array, str]:
    low, high = float(np.min(numbers)), float(np.max(numbers))
    for unit, least, most, times, over in _EPOCH_UNITS:
        if least <= low and high < most:
            if np.issubdtype(numbers.dtype, np.integer):
                whole: Int64Array = numbers.astype(np.int64) * times // over
                return whole, f"epochs in {unit}"
            rounded: Int64Array = np.rint(numbers * times / over).astype(np.int64)
            return rounded, f"epochs in {unit}"
    raise TimestampError(
        f"{what} goes from {low:g} to {high:g}, which is no epoch in s, ms, us or ns after 1973: pass datetimes"
    )


def require_rows(n_rows: int, *, what: str) -> None:
    """Raise `EmptyInputError` when there are none."""
    if n_rows == 0:
        raise EmptyInputError(f"{what} has 0 rows, at least 1 is needed: check the filter or the path it came from")


def _to_arrow(values: Any, *, what: str) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        return _combine(values)
    if isinstance(values, nw.Series):
        return _combine(values.to_arrow())
    try:
        return _combine(pa.array(values, from_pandas=True))  # from_pandas: NaN and NA are nulls
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        pass
    # UUIDs and mixed integers and strings have no Arrow type of their own: their text is what identifies them.
    return pa.array([None if is_null(cell) else str(cell) for cell in values], pa.string())


def is_null(cell: object) -> bool:
    """Return whether a cell is None, NaN or pandas' NA."""
    # pandas' NA compares to nothing, itself included; NaN is the one float that differs from itself.
    return cell is None or type(cell).__name__ == "NAType" or (isinstance(cell, float) and cell != cell)


def _combine(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    # combine_chunks() gives a ChunkedArray again when the strings pass 2 GB.
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
