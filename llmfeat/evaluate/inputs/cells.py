"""Cells of a log as ids, labels, scores and splits; null where a cell is none, an error where a column is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.frames import id_array
from llmfeat.errors import InputError
from llmfeat.types import Float64Array, Int64Array

__all__ = ["binary_labels", "filled", "id_cells", "joined", "likes", "numbers", "splits", "whole_ids"]

# What pandas writes for a column of integers with a null in it.
_FLOAT_ID = r"^-?\d+\.0*$"
_TRUTH: Mapping[str, int] = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
_SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "trn", "fit"),
    "valid": ("valid", "validation", "val", "dev", "development", "eval", "tune"),
    "test": ("test", "testing", "tst", "holdout", "hold-out"),
}
_MAX_NAMED = 10


def joined(chunks: Iterable[pa.Array | pa.ChunkedArray], *, what: str) -> pa.Array:
    """Return the chunks of a column as one array of the type that holds them all.

    Raises
    ------
    InputError
        When they have no type in common.
    """
    tables = [pa.table({"cells": chunk}) for chunk in chunks]
    if not tables:
        return pa.nulls(0)
    try:
        whole = pa.concat_tables(tables, promote_options="permissive").column(0).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"{what} mixes types ({error}), but one was expected: cast it to one") from error
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def filled(cells: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return which cells are neither null nor NaN."""
    valid: np.ndarray[tuple[int], np.dtype[np.bool_]] = pc.is_valid(cells).to_numpy(zero_copy_only=False)
    if pa.types.is_floating(cells.type):
        valid &= ~pc.fill_null(pc.is_nan(cells), False).to_numpy(zero_copy_only=False)
    return valid


def id_cells(cells: pa.Array | pa.ChunkedArray, *, what: str) -> pa.StringArray:
    """Return ids as strings, see `id_array`; null where there is none, or an empty one."""
    whole = joined([cells], what=what)
    valid = filled(whole)
    if valid.all():
        ids = id_array(whole, what=what)
    else:
        present = id_array(whole.filter(pa.array(valid)), what=what)
        ids = present.take(pa.array(np.cumsum(valid) - 1, mask=~valid))
    empty = pc.equal(pc.binary_length(ids), 0)
    return pc.if_else(empty, pa.scalar(None, pa.string()), ids) if pc.any(empty).as_py() else ids


def whole_ids(ids: pa.StringArray) -> tuple[pa.StringArray, int]:
    """Return ids that all are texts of whole floats (``"7.0"``) as integers, and how many these are, else 0."""
    n_ids = len(ids) - ids.null_count
    if not n_ids or not pc.all(pc.match_substring_regex(ids, _FLOAT_ID)).as_py():
        return ids, 0
    return pc.replace_substring_regex(ids, r"\.0*$", ""), n_ids


def numbers(cells: pa.Array, *, what: str) -> Float64Array:
    """Return numbers as float64, NaN where a cell is null or not finite."""
    kind = cells.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (is_text or pa.types.is_null(kind) or pa.types.is_boolean(kind) or _is_number(kind)):
        raise InputError(f"{what} is of type {kind}, but numbers were expected: name another column, or cast it")
    try:
        values = np.array(cells.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
    except pa.ArrowInvalid:  # its message quotes a cell
        raise InputError(
            f"{what} holds texts that are no numbers, but numbers were expected: name another column, or map it"
        ) from None
    values[~np.isfinite(values)] = np.nan
    return values


def binary_labels(cells: pa.Array, name: str) -> Int64Array:
    """Return labels 0 and 1, and -1 where there is none.

    Raises
    ------
    InputError
        When there are other values: it says how to read them as ratings.
    """
    what = f"the column {name!r} of the interaction log"
    if pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type):
        known = pc.index_in(pc.utf8_lower(pc.utf8_trim_whitespace(cells)), pa.array(list(_TRUTH), cells.type))
        if known.null_count == cells.null_count:
            truth = np.array(list(_TRUTH.values()), dtype=np.int64)
            at = pc.fill_null(known, -1).to_numpy()
            return np.where(at < 0, -1, truth[at])
    values = numbers(cells, what=what)
    missing = np.isnan(values)
    if not (missing | (values == 0) | (values == 1)).all():
        present = values[~missing]
        raise InputError(
            f"{what} goes from {present.min():g} to {present.max():g}, but labels are 0 or 1: drop --label, and pass "
            f"--rating {name} --like-threshold {_even_threshold(present):g}"
        )
    return np.where(missing, -1, values).astype(np.int64)


def likes(cells: pa.Array, name: str, threshold: float, *, needs_both: bool) -> Int64Array:
    """Return 1 for ratings from the threshold on, 0 for others, -1 where there is none.

    Raises
    ------
    InputError
        When no rating is positive or, where both are needed, none negative: it says which thresholds part them.
    """
    what = f"the column {name!r} of the interaction log"
    values = numbers(cells, what=what)
    missing = np.isnan(values)
    present = values[~missing]
    labels = np.where(missing, -1, values >= threshold).astype(np.int64)
    if len(present) and (present.max() < threshold or (needs_both and present.min() >= threshold)):
        side = "under" if present.max() < threshold else "at or over"
        raise InputError(
            f"{what} goes from {present.min():g} to {present.max():g}, all {side} --like-threshold {threshold:g}, but "
            f"ratings on both sides were expected: {_said_thresholds(present)}"
        )
    return labels


def splits(cells: pa.Array, name: str) -> tuple[pa.StringArray, tuple[str, ...]]:
    """Return splits as ``train``, ``valid`` and ``test``, and the other spellings that were taken for these.

    Raises
    ------
    InputError
        When there are other values, no row of the test, or no other row.
    """
    what = f"the column {name!r} of the interaction log"
    encoded = cells.cast(pa.string()).dictionary_encode()
    spelled = {value: split for split, values in _SPLITS.items() for value in values}
    found = [value for value in encoded.dictionary.to_pylist() if value is not None]
    read = [spelled.get(value.strip().lower()) for value in found]
    unknown = [value for value, split in zip(found, read, strict=True) if split is None]
    if unknown or "test" not in read or len(set(read)) == 1:
        named = sorted(found)[:_MAX_NAMED]
        more = f" and {len(found) - len(named):,} more" if len(found) > len(named) else ""
        raise InputError(
            f"{what} has the values {named}{more}, but train, valid and test were expected, test and one of the others "
            "at least: map them, or name another column with --split-column"
        )
    plain = pa.array(read, pa.string()).take(encoded.indices)
    other = (f"{value!r} as {split!r}" for value, split in zip(found, read, strict=True) if value != split)
    return plain, tuple(sorted(other))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _thresholds(values: Float64Array) -> list[tuple[float, float]]:
    """Return the values that part others below from those that are not, each with the share of the latter."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) > _MAX_NAMED:
        distinct = np.unique(np.quantile(values, np.linspace(0.1, 0.9, 9), method="nearest"))
        return [(float(value), float((values >= value).mean())) for value in distinct if value > values.min()]
    shares = 1 - np.cumsum(counts) / len(values)
    return list(zip(distinct[1:].tolist(), shares[:-1].tolist(), strict=True))


def _even_threshold(values: Float64Array) -> float:
    return min(_thresholds(values), key=lambda found: abs(found[1] - 0.5), default=(float(values.max()), 1.0))[0]


def _said_thresholds(values: Float64Array) -> str:
    parts = _thresholds(values)
    if not parts:
        return "as all are equal, name another column, or, where the log holds positives only, pass --task next-item"
    said = ", ".join(f"{value:g} ({share:.0%} positive)" for value, share in parts)
    return f"pass one of --like-threshold {said}"
