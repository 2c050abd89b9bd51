"""`read_inputs`: two files of any kind become clean columns; whatever is dropped or mended is counted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.ids import IdIndex
from llmfeat.errors import InputError
from llmfeat.evaluate.inputs.base import BaseFeatures
from llmfeat.evaluate.inputs.base_file import LogRows, read_base
from llmfeat.evaluate.inputs.catalogue import read_catalogue, with_items
from llmfeat.evaluate.inputs.finding import Finding, said_share
from llmfeat.evaluate.inputs.log import Log, read_log
from llmfeat.evaluate.inputs.spec import InputSpec
from llmfeat.text import ItemTemplate
from llmfeat.types import BoolArray, Float64Array, Int64Array

__all__ = ["LiftInputs", "read_inputs"]

# Files that say nothing of whose they are: then the folder's name does.
_PLAIN_NAMES = re.compile(r"(inter(actions?)?|logs?|events?|ratings?|clicks?|impressions?|purchases?|train|data)", re.I)


@dataclass(frozen=True, eq=False)
class LiftInputs:
    """What a comparison is made of; rows are in the order of the file, those that were dropped left out.

    Attributes
    ----------
    name : str
        What to call the data: the file's name, or its folder's.
    task : {"click", "next-item"}
    item_ids : pyarrow.StringArray
        The catalogue, distinct, in the order of its file; then items that only the log has.
    items : pyarrow.Table
        A row for each of `item_ids`: the id and the columns of its text, which are clean.
    template : ItemTemplate
        What renders them.
    users, row_items : pyarrow.StringArray
        The user and the item of each row.
    times_us : ndarray of shape (n_rows,), int64, or None
        Microseconds since the epoch, UTC; None where rows bring histories and no time.
    labels : ndarray of shape (n_rows,), int64, or None
        0 or 1; None where all rows are positive.
    split : pyarrow.StringArray or None
        ``train``, ``valid`` or ``test``.
    histories : pyarrow.ListArray or None
        Ids of each row's own history, as the file orders them.
    base : BaseFeatures or None
        The user's own columns.
    baseline_score : ndarray of shape (n_rows,), float64, or None
        The score of the user's own ranker, NaN where it is missing.
    groups : pyarrow.StringArray or None
        The slate or session of each row.
    file_rows : ndarray of shape (n_rows,), int64
        The number of each row in its file, from 0.
    findings : tuple of Finding
        What was noticed, dropped and mended.
    """

    name: str
    task: Literal["click", "next-item"]
    item_ids: pa.StringArray
    items: pa.Table
    template: ItemTemplate
    users: pa.StringArray
    row_items: pa.StringArray
    times_us: Int64Array | None
    labels: Int64Array | None
    split: pa.StringArray | None
    histories: pa.ListArray | None
    base: BaseFeatures | None
    baseline_score: Float64Array | None
    groups: pa.StringArray | None
    file_rows: Int64Array
    findings: tuple[Finding, ...]

    @property
    def n_rows(self) -> int:
        """How many interactions there are."""
        return len(self.users)

    @cached_property
    def user_ids(self) -> pa.StringArray:
        """The distinct users, by first appearance."""
        return self._encoded_users.dictionary

    @cached_property
    def user_codes(self) -> Int64Array:
        """The position of each row's user in `user_ids`."""
        codes: Int64Array = self._encoded_users.indices.to_numpy().astype(np.int64)
        return codes

    @cached_property
    def item_codes(self) -> Int64Array:
        """The position of each row's item in `item_ids`."""
        return IdIndex(self.item_ids).positions(self.row_items)

    @cached_property
    def _encoded_users(self) -> pa.DictionaryArray:
        return self.users.dictionary_encode()


def read_inputs(spec: InputSpec) -> LiftInputs:
    """Return catalogue, interactions and own features, clean, with a finding for all that was not.

    Rows without a user, item, time, label or split are dropped, as are exact repeats (user, item, time, label, and
    group where there is one); of items with one id the first is kept.

    Raises
    ------
    MissingColumnError
        When a column is not there: it names the closest one, and the option that mends it.
    EmptyInputError
        When a file has no row.
    InputError
        When over half of the rows would be dropped, or a column is not what it should be.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat.evaluate.inputs import InputSpec, read_inputs
    >>> items = pa.table({"item_id": [1, 2], "title": ["Heat &amp; dust", "Alien"]})
    >>> log = pa.table({"user_id": [7, 7, 8], "item_id": [1, 2, 1], "timestamp": [10**9] * 3, "label": [1, 0, 1]})
    >>> inputs = read_inputs(InputSpec(items, log, text=("title",), label="label"))
    >>> inputs.items.column("title").to_pylist(), inputs.labels.tolist()
    (['Heat & dust', 'Alien'], [1, 0, 1])
    >>> [finding.what for finding in inputs.findings]
    ['1 of 2 (50.0 %) items have HTML in their text', "the column 'timestamp' holds epochs in s, from \
2001-09-09T01:46:40Z to 2001-09-09T01:46:40Z"]
    """
    catalogue = read_catalogue(spec)
    log = read_log(spec)
    n_file_rows = len(log.users)
    dropped = _incomplete(log)
    rows = np.flatnonzero(log.valid)
    repeated = _repeats(log, rows)
    dropped += _repeated(int(repeated.sum()), len(rows))
    rows = rows[~repeated]
    whole = len(rows) == n_file_rows
    taken = pa.array(rows)

    def of_rows(cells: Any) -> Any:
        if cells is None or whole:
            return cells
        return cells[rows] if isinstance(cells, np.ndarray) else cells.take(taken)

    users, row_items, times_us = of_rows(log.users), of_rows(log.items), of_rows(log.times_us)
    histories, scores = of_rows(log.histories), of_rows(log.scores)
    catalogue = with_items(catalogue, _all_items(row_items, histories), spec)
    base: BaseFeatures | None = None
    said: list[Finding] = []
    if spec.base_features is not None:
        base, said = read_base(spec, LogRows(users, row_items, times_us, rows, n_file_rows))
    groups, ungrouped = _grouped(of_rows(log.groups), rows)
    return LiftInputs(
        name=_name(spec),
        task=spec.task,
        item_ids=catalogue.item_ids,
        items=catalogue.items,
        template=spec.item_template,
        users=users,
        row_items=row_items,
        times_us=times_us,
        labels=of_rows(log.labels),
        split=of_rows(log.split),
        histories=histories,
        base=base,
        baseline_score=scores,
        groups=groups,
        file_rows=rows,
        findings=(*catalogue.findings, *log.findings, *dropped, *ungrouped, *_unscored(scores), *said),
    )


def _incomplete(log: Log) -> list[Finding]:
    """Return what is said of rows that lack something; raise when these are most of them."""
    n_rows, n_null = len(log.valid), int((~log.valid).sum())
    if not n_null:
        return []
    lacks = _said_lacks(log.lacks)
    if 2 * n_null > n_rows:
        raise InputError(
            f"{said_share(n_null, n_rows)} rows of the interaction log lack a value ({lacks}), but most were expected "
            "to be whole: fill those columns, name others with these options, or drop such rows yourself"
        )
    said = f"{said_share(n_null, n_rows)} rows lack a value ({lacks})"
    return [Finding("null_rows", "warning" if 20 * n_null > n_rows else "note", n_null, n_rows, said, "dropped")]


def _said_lacks(lacks: Mapping[str, int]) -> str:
    return ", ".join(f"{option} {count:,}" for option, count in lacks.items() if count)


def _repeats(log: Log, rows: Int64Array) -> BoolArray:
    """Return which rows repeat an earlier one; none where there are no times, as one may buy a thing twice."""
    repeated = np.zeros(len(rows), dtype=np.bool_)
    if log.times_us is None:
        return repeated
    users, items = (_codes(ids)[rows] for ids in (log.users, log.items))
    pair = users * (int(items.max()) + 1) + items
    alike = np.flatnonzero(_shared(pair))  # most pairs of a user and an item come once: the rest is sorted by all
    keys = [log.times_us[rows[alike]], pair[alike]]
    if log.labels is not None:
        keys.append(log.labels[rows[alike]])
    if log.groups is not None:
        keys.append(_codes(log.groups)[rows[alike]])
    order = np.lexsort(keys)  # stable: of equal rows the first of the file stands first
    same = np.ones(max(len(alike) - 1, 0), dtype=np.bool_)
    for key in keys:
        same &= np.diff(key[order]) == 0
    repeated[alike[order[1:][same]]] = True
    return repeated


def _shared(keys: Int64Array) -> BoolArray:
    """Return which keys come more than once."""
    ordered = np.sort(keys)
    several = ordered[1:][np.diff(ordered) == 0]
    if not len(several):
        return np.zeros(len(keys), dtype=np.bool_)
    at = np.searchsorted(several, keys)
    found: BoolArray = several[np.minimum(at, len(several) - 1)] == keys
    return found


def _codes(ids: pa.StringArray) -> Int64Array:
    codes: Int64Array = ids.dictionary_encode().indices.fill_null(-1).to_numpy().astype(np.int64)
    return codes


def _repeated(n_repeated: int, n_rows: int) -> list[Finding]:
    said = f"{said_share(n_repeated, n_rows)} rows repeat an earlier one exactly (user, item, time, label)"
    return [Finding("duplicate_rows", "note", n_repeated, n_rows, said, "dropped")] if n_repeated else []


def _all_items(row_items: pa.StringArray, histories: pa.ListArray | None) -> pa.StringArray:
    return row_items if histories is None else pa.concat_arrays([row_items, pc.unique(histories.flatten())])


def _grouped(groups: pa.StringArray | None, rows: Int64Array) -> tuple[pa.StringArray | None, list[Finding]]:
    """Return groups, each row without one being a group of its own."""
    if groups is None or not groups.null_count:
        return groups, []
    alone = pc.binary_join_element_wise("no group, row", pa.array(rows).cast(pa.string()), " ")
    said = f"{said_share(groups.null_count, len(groups))} rows have no group"
    finding = Finding("null_groups", "note", groups.null_count, len(groups), said, "each is a group of its own")
    return pc.coalesce(groups, alone), [finding]


def _unscored(scores: Float64Array | None) -> list[Finding]:
    n_missing = 0 if scores is None else int(np.isnan(scores).sum())
    if scores is None or not n_missing:
        return []
    said = f"{said_share(n_missing, len(scores))} rows have no baseline score"
    return [Finding("null_scores", "warning", n_missing, len(scores), said, "missing (NaN) there")]


def _name(spec: InputSpec) -> str:
    if not isinstance(spec.interactions, str | PathLike):
        return "data frame"
    path = Path(spec.interactions).resolve()
    stem = path.name.split(".")[0]
    return path.parent.name if _PLAIN_NAMES.fullmatch(stem) and path.parent.name else stem
