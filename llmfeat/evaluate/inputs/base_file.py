"""The user's own columns as they lie in a file: which are keys, which are numbers, which are categories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.frames import read_times, require_rows
from llmfeat._base.rows import RowSource, open_rows
from llmfeat.errors import InputError, MissingColumnError
from llmfeat.evaluate.inputs.base import BaseFeatures
from llmfeat.evaluate.inputs.cells import filled, id_cells, joined, whole_ids
from llmfeat.evaluate.inputs.finding import Finding, Severity, said_share
from llmfeat.evaluate.inputs.names import closest_name
from llmfeat.evaluate.inputs.spec import InputSpec, option_of
from llmfeat.types import BoolArray, Float32Array, Int64Array

__all__ = ["LogRows", "read_base"]

_WHAT = "the file of --base-features"
_ROW = "row_id"
_KEYS = ("user_id", "item_id", "timestamp")
# "24" is a number, the postal code "01234" is not.
_NO_NUMBER = r"^[+-]?0\d|[^0-9.+-]|\..*\.|.[+-]|^[+-]?\.?$"


@dataclass(frozen=True, eq=False)
class LogRows:
    """What the base features are joined to: rows of the interactions, `file_rows` being their numbers in the file."""

    users: pa.StringArray
    items: pa.StringArray
    times_us: Int64Array | None
    file_rows: Int64Array
    n_file_rows: int


def read_base(spec: InputSpec, log: LogRows) -> tuple[BaseFeatures, list[Finding]]:
    """Return the features of a spec's file, and what was noticed.

    Raises
    ------
    MissingColumnError
        When there is no key column.
    DuplicateIdError, InputError
        When a key is there twice; no column is a feature; the key does not suit the task or the rows.
    """
    ids = [spec.user_id, spec.item_id]
    source = open_rows(spec.base_features, what=_WHAT, strings=ids)
    key = _key(spec, source.columns)
    _require_usable(key, spec, log)
    table = _table(source)
    n_rows = len(next(iter(table.values())))
    require_rows(n_rows, what=_WHAT)
    keys = {role: _key_cells(table[name], role, name) for role, name in key.items()}
    kept = np.logical_and.reduce([filled(cells) for cells in keys.values()])
    found = _null_keys(kept, key)
    values, names, said = _features(table, spec)
    found += said
    keys = {role: cells.filter(pa.array(kept)) for role, cells in keys.items()}
    base = _built(names, values[kept], keys, key, log)
    found += _joined(base, log, key)
    return base, found


def _key(spec: InputSpec, columns: tuple[str, ...]) -> Mapping[str, str]:
    """Return the column of each part of the key; the number of a row says all."""
    if _ROW in columns:
        return {_ROW: _ROW}
    key = {role: name for role in _KEYS if (name := getattr(spec, role)) in columns}
    if not key:
        near = [(role, closest_name(getattr(spec, role), columns, option=option_of(role))) for role in _KEYS]
        renames = [f"{found!r} to {getattr(spec, role)!r}" for role, found in near if found is not None]
        todo = f"rename {', '.join(renames)}" if renames else "add one"
        raise MissingColumnError(
            f"{_WHAT} has the columns {list(columns)} but a key is needed, {_ROW!r} (the row of the interactions, from "
            f"0) or some of {[getattr(spec, role) for role in _KEYS]}: {todo}"
        )
    return key


def _require_usable(key: Mapping[str, str], spec: InputSpec, log: LogRows) -> None:
    if _ROW in key and spec.task == "next-item":
        raise InputError(
            f"{_WHAT} is keyed by {_ROW!r}, but --task next-item ranks items for which the log has no row: key it by "
            f"{spec.user_id!r}, {spec.item_id!r} and {spec.timestamp!r}, or some of them"
        )
    if "timestamp" in key and log.times_us is None:
        raise InputError(
            f"{_WHAT} has the times {spec.timestamp!r}, but the interaction log has none to compare them with: add "
            "them to the log, or drop that column"
        )


def _table(source: RowSource) -> dict[str, pa.Array]:
    names = source.columns
    batches = [batch.table for batch in source.batches(names)]
    return {
        name: joined((batch.column(name) for batch in batches), what=f"the column {name!r} of {_WHAT}")
        for name in names
    }


def _key_cells(cells: pa.Array, role: str, name: str) -> pa.Array:
    if role in ("user_id", "item_id"):
        return whole_ids(id_cells(cells, what=f"the column {name!r} of {_WHAT}"))[0]
    return cells


def _null_keys(kept: BoolArray, key: Mapping[str, str]) -> list[Finding]:
    n_null = int((~kept).sum())
    if 2 * n_null > len(kept):
        raise InputError(
            f"{_WHAT} has null keys in {said_share(n_null, len(kept))} rows, but most rows were expected to have "
            f"{list(key.values())}: fill them, or drop the column that is null"
        )
    said = f"{said_share(n_null, len(kept))} rows of {_WHAT} lack {list(key.values())}"
    return [Finding("base_null_keys", "note", n_null, len(kept), said, "left out")] if n_null else []


def _built(
    names: list[str], values: Float32Array, keys: Mapping[str, pa.Array], key: Mapping[str, str], log: LogRows
) -> BaseFeatures:
    if _ROW in keys:
        rows = _log_rows(keys[_ROW], log)
        stays = rows >= 0  # entries of rows that were dropped from the log go with them
        return BaseFeatures(names, values[stays], rows=rows[stays])
    times_us = None
    if "timestamp" in keys:
        times_us, _ = read_times(keys["timestamp"], what=f"the column {key['timestamp']!r} of {_WHAT}")
    return BaseFeatures(names, values, users=keys.get("user_id"), items=keys.get("item_id"), times_us=times_us)


def _log_rows(cells: pa.Array, log: LogRows) -> Int64Array:
    """Return the rows of `LiftInputs` for numbers of rows of the file, -1 for rows that were dropped."""
    try:
        numbered: Int64Array = cells.cast(pa.int64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{_ROW!r} of {_WHAT} is of type {cells.type}, but whole numbers were expected") from error
    low, high = int(numbered.min()), int(numbered.max())
    if low < 0 or high >= log.n_file_rows:
        hint = ": subtract 1" if (low, high) == (1, log.n_file_rows) else ": number them as they lie in that file"
        raise InputError(
            f"{_ROW!r} of {_WHAT} goes from {low:,} to {high:,}, but rows of the interactions are 0 to "
            f"{log.n_file_rows - 1:,}{hint}"
        )
    position = np.full(log.n_file_rows, -1, dtype=np.int64)
    position[log.file_rows] = np.arange(len(log.file_rows))
    return position[numbered]


def _features(table: Mapping[str, pa.Array], spec: InputSpec) -> tuple[Float32Array, list[str], list[Finding]]:
    """Return the columns that are numbers, or codes of categories, and what was said of them and of the others."""
    answers = [name for name in (spec.label, spec.rating) if name in table]
    keys = {_ROW, spec.user_id, spec.item_id, spec.timestamp}
    texts = set(spec.item_template.fields)
    numeric: dict[str, Float32Array] = {}
    coded, left_out = [], []
    for name, cells in table.items():
        if name in keys or name in answers:
            continue
        column = _numbers(cells)
        if column is None and _is_text(cells.type) and name not in texts:
            column = _codes(cells)
            coded.append(name)
        if column is None:
            left_out.append(name)
        else:
            numeric[name] = column
    if not numeric:
        raise InputError(
            f"{_WHAT} has the columns {list(table)}, none of which is a feature, but numbers or categories beside the "
            "key were expected: add some, or drop --base-features"
        )
    found = []
    n_columns = len(table)
    if answers:
        said = f"{_WHAT} has {answers}, which the interactions name as the answer"
        found.append(Finding("base_has_label", "warning", len(answers), n_columns, said, "left out"))
    if coded:
        said = f"the columns {coded} of {_WHAT} are texts"
        handling = "read as codes, 0 for the most frequent value, ties by the text"
        found.append(Finding("base_categories", "note", len(coded), n_columns, said, handling))
    if left_out:
        said = f"the columns {left_out} of {_WHAT} are neither numbers nor categories"
        found.append(Finding("base_left_out", "note", len(left_out), n_columns, said, "left out"))
    return np.column_stack(list(numeric.values())), list(numeric), found


def _numbers(cells: pa.Array) -> Float32Array | None:
    if _is_text(cells.type) and not pc.any(pc.match_substring_regex(cells, _NO_NUMBER)).as_py():
        cells = cells.cast(pa.float64())
    kind = cells.type
    if pa.types.is_boolean(kind) or pa.types.is_decimal(kind):
        cells = cells.cast(pa.float64() if pa.types.is_decimal(kind) else pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    column: Float32Array = cells.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return column


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _codes(texts: pa.Array) -> Float32Array:
    """Return the rank of each text by how often it comes, 0 for the most frequent; NaN for null."""
    counted = pc.value_counts(texts.drop_null())
    order = pc.sort_indices(
        pa.table({"count": counted.field("counts"), "text": counted.field("values")}),
        sort_keys=[("count", "descending"), ("text", "ascending")],
    )
    ranks = pc.index_in(texts, counted.field("values").take(order), skip_nulls=True)
    codes: Float32Array = ranks.cast(pa.float32()).to_numpy(zero_copy_only=False)
    return codes


def _joined(base: BaseFeatures, log: LogRows, key: Mapping[str, str]) -> list[Finding]:
    n_rows = len(log.users)
    matched = base.matched(np.arange(n_rows), log.users, log.items, log.times_us)
    n_missing = int((~matched).sum())
    said = f"{said_share(n_missing, n_rows)} rows of the interactions have no base features by {list(key.values())}"
    severity: Severity = "warning" if 2 * n_missing > n_rows else "note"
    found = [Finding("base_missing", severity, n_missing, n_rows, said, "missing (NaN) there")] if n_missing else []
    if "timestamp" not in key and _ROW not in key:
        said = f"{_WHAT} is keyed by {list(key.values())} without a time, so that all {n_rows:,} rows see its values"
        handling = "used as they are: values of today may know what happened after a row; add the time since when"
        found.append(Finding("base_without_time", "warning", n_rows, n_rows, said, handling))
    return found
