"""The interactions as they lie in the file: each column as cells of its meaning, no row dropped yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.frames import read_times, require_rows
from llmfeat._base.rows import RowSource, open_rows
from llmfeat.errors import InputError, MissingColumnError
from llmfeat.evaluate.inputs.cells import binary_labels, filled, id_cells, joined, likes, numbers, splits, whole_ids
from llmfeat.evaluate.inputs.finding import Finding, said_share
from llmfeat.evaluate.inputs.histories import read_histories
from llmfeat.evaluate.inputs.names import missing_column
from llmfeat.evaluate.inputs.spec import InputSpec, option_of
from llmfeat.types import BoolArray, Float64Array, Int64Array

__all__ = ["Log", "read_log"]

_WHAT = "the interaction log"
_IDS = ("user_id", "item_id", "group_id")
# A CSV file's "007" and "1 2 3" are no numbers.
_STRINGS = (*_IDS, "split_column", "history_column")
_ROLES = (*_IDS, "timestamp", "label", "rating", "split_column", "history_column", "baseline_score")
_EPOCH_TEXT = r"^\d{9,19}$"


@dataclass(frozen=True, eq=False)
class Log:
    """Columns of equal length; ids and splits are null, and `valid` says so, where a row lacks what it needs.

    `lacks` counts the rows without a value by option; times and labels of such rows mean nothing.
    """

    users: pa.StringArray
    items: pa.StringArray
    times_us: Int64Array | None
    labels: Int64Array | None
    split: pa.StringArray | None
    histories: pa.ListArray | None
    scores: Float64Array | None
    groups: pa.StringArray | None
    valid: BoolArray
    lacks: Mapping[str, int]
    findings: tuple[Finding, ...]


def read_log(spec: InputSpec) -> Log:
    """Return the columns of the interactions that a spec names.

    Raises
    ------
    MissingColumnError, EmptyInputError, TimestampError, InputError
        When a column is not there or not what it should be; there is no row; labels are constant.
    """
    source = open_rows(spec.interactions, what=_WHAT, strings=[name for role, name in _named(spec) if role in _STRINGS])
    roles = dict(_present(spec, source))
    columns = _columns(source, roles)
    n_rows = len(columns["user_id"])
    require_rows(n_rows, what=_WHAT)
    found: list[Finding] = []
    valid: dict[str, BoolArray] = {}
    for role in ("user_id", "item_id"):
        columns[role], n_whole = whole_ids(columns[role])
        valid[role] = filled(columns[role])
        found += _whole(roles[role], n_whole, n_rows)
    times_us = _times(columns, roles, valid, found)
    labels = _labels(columns, spec, valid, found)
    split = _split(columns, roles, valid, found)
    histories = _histories(columns, roles, found)
    lacks = {option_of(role): int((~one).sum()) for role, one in valid.items()}
    scores = numbers(columns["baseline_score"], what=_said(roles, "baseline_score")) if spec.baseline_score else None
    whole = np.logical_and.reduce(list(valid.values()))
    users, items, groups = columns["user_id"], columns["item_id"], columns.get("group_id")
    return Log(users, items, times_us, labels, split, histories, scores, groups, whole, lacks, tuple(found))


def _named(spec: InputSpec) -> Iterator[tuple[str, str]]:
    return ((role, getattr(spec, role)) for role in _ROLES if getattr(spec, role) is not None)


def _present(spec: InputSpec, source: RowSource) -> Iterator[tuple[str, str]]:
    """Yield the roles that are read; rows with histories need no time, so that its usual name may be absent."""
    for role, name in _named(spec):
        usual = InputSpec.__dataclass_fields__["timestamp"].default
        optional = role == "timestamp" and spec.history_column is not None and name == usual
        if not optional or name in source.columns:
            yield role, name


def _columns(source: RowSource, roles: Mapping[str, str]) -> dict[str, pa.Array]:
    """Return each role's cells; ids as strings already, batch by batch, as they are the largest."""
    try:
        batches = source.batches(list(roles.values()), batch_rows=1 << 18)
    except MissingColumnError:
        missing = [(option_of(role), name) for role, name in roles.items() if name not in source.columns]
        raise missing_column(missing, source.columns, what=_WHAT, taken=list(roles.values())) from None
    chunks: dict[str, list[pa.Array | pa.ChunkedArray]] = {role: [] for role in roles}
    for batch in batches:
        for role, name in roles.items():
            cells = batch.table.column(name)
            chunks[role].append(id_cells(cells, what=_said(roles, role)) if role in _IDS else cells)
    return {role: joined(held, what=_said(roles, role)) for role, held in chunks.items()}


def _times(
    columns: dict[str, pa.Array], roles: Mapping[str, str], valid: dict[str, BoolArray], found: list[Finding]
) -> Int64Array | None:
    if "timestamp" not in columns:
        return None
    cells, what = columns.pop("timestamp"), _said(roles, "timestamp")
    valid["timestamp"] = held = filled(cells)
    present = cells if held.all() else cells.filter(pa.array(held))
    if not len(present):
        raise InputError(f"{what} is null in all {len(cells):,} rows, but times were expected: name another column")
    if pa.types.is_string(present.type) and pc.all(pc.match_substring_regex(present, _EPOCH_TEXT)).as_py():
        present = present.cast(pa.int64())
    known_us, form = read_times(present, what=what)
    first, last = (np.datetime64(int(us), "us").astype("datetime64[s]") for us in (known_us.min(), known_us.max()))
    said = f"the column {roles['timestamp']!r} holds {form}, from {first}Z to {last}Z"
    handling = "taken as UTC" if form != "datetimes with a time zone" else "converted to UTC"
    found.append(Finding("times", "note", len(present), len(cells), said, handling))
    if held.all():
        return known_us
    times_us = np.zeros(len(cells), dtype=np.int64)
    times_us[held] = known_us
    return times_us


def _labels(
    columns: dict[str, pa.Array], spec: InputSpec, valid: dict[str, BoolArray], found: list[Finding]
) -> Int64Array | None:
    if spec.rating is not None:
        is_click = spec.task == "click"
        labels = likes(columns.pop("rating"), spec.rating, spec.like_threshold, needs_both=is_click)
        valid["rating"] = labels >= 0
        n_positive, n_rated = int((labels == 1).sum()), int(valid["rating"].sum())
        said = f"{said_share(n_positive, n_rated)} ratings are {spec.like_threshold:g} or more"
        found.append(Finding("likes", "note", n_positive, n_rated, said, "these are the positives"))
        return labels
    if spec.label is None:
        return None
    labels = binary_labels(columns.pop("label"), spec.label)
    valid["label"] = labels >= 0
    _require_varied(labels[labels >= 0], spec)
    return labels


def _require_varied(labels: Int64Array, spec: InputSpec) -> None:
    if not len(labels) or labels.min() < labels.max() or (spec.task == "next-item" and labels[0] == 1):
        return  # rows without any label are an error of their own
    mend = "name another column with --label"
    if labels[0] == 1:
        mend += ", or, where the log holds positives only, drop it and pass --task next-item"
    raise InputError(
        f"the column {spec.label!r} of {_WHAT} is {labels[0]} in all {len(labels):,} rows that have a label, but "
        f"{'positives' if spec.task == 'next-item' else 'both 0 and 1'} were expected: {mend}"
    )


def _split(
    columns: dict[str, pa.Array], roles: Mapping[str, str], valid: dict[str, BoolArray], found: list[Finding]
) -> pa.StringArray | None:
    if "split_column" not in columns:
        return None
    plain, other = splits(columns.pop("split_column"), roles["split_column"])
    valid["split_column"] = filled(plain)
    if other:
        said = f"the column {roles['split_column']!r} has other names of splits: {', '.join(other)}"
        found.append(Finding("split_names", "note", len(other), len(other), said, "taken as said"))
    return plain


def _histories(columns: dict[str, pa.Array], roles: Mapping[str, str], found: list[Finding]) -> pa.ListArray | None:
    if "history_column" not in columns:
        return None
    histories, form = read_histories(columns.pop("history_column"), roles["history_column"])
    if form is not None:
        said = f"the column {roles['history_column']!r} holds {form}"
        handling = f"read as {len(histories.values):,} ids in {len(histories):,} lists, the oldest first"
        found.append(Finding("history_texts", "note", len(histories), len(histories), said, handling))
    return histories


def _whole(name: str, n_whole: int, n_rows: int) -> list[Finding]:
    said = f"{said_share(n_whole, n_rows)} ids in the column {name!r} are whole floats"
    return [Finding("ids_whole", "note", n_whole, n_rows, said, "7.0 is read as 7")] if n_whole else []


def _said(roles: Mapping[str, str], role: str) -> str:
    return f"the column {roles[role]!r} of {_WHAT}"
