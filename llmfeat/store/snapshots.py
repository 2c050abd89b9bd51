"""Rows that are derived and kept: what changed since the last time, as immutable parts and one small manifest.

The offline half of the views of scalars and histories: Feast joins these parts point in time, and what is written
online is read from them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.files import atomic_write
from llmfeat.encode.changes import now_us
from llmfeat.encode.generations import writing
from llmfeat.encode.index import hash_array, last_rows
from llmfeat.encode.manifest import Part
from llmfeat.encode.parts import part_folder, read_part, write_part
from llmfeat.errors import TableCorruptError, TableNotFoundError
from llmfeat.types import BoolArray, Int64Array

__all__ = ["ROW_COLUMNS", "SnapshotTable", "latest_of", "row_hashes"]

_MANIFEST = "manifest.json"
_SCHEMA = 1
# What every row has beside its id and its fields.
ROW_COLUMNS = (
    ("row_sha256", pa.binary(32)),  # of the fields; null where the row was deleted
    ("deleted", pa.bool_()),
    ("valid_from", pa.timestamp("us", "UTC")),
    ("written_at", pa.timestamp("us", "UTC")),
)


@dataclass(frozen=True)
class SnapshotTable:
    """One folder of such rows.

    Attributes
    ----------
    folder : Path
        Where it is.
    fingerprint : str
        Of how the rows are made: another one is another table.
    key : str
        The column of the ids.
    fields : tuple of (str, pyarrow.DataType)
        The columns that a row holds.
    parts : tuple of Part
        Oldest first; of rows of one id the last counts.
    """

    folder: Path
    fingerprint: str
    key: str
    fields: tuple[tuple[str, pa.DataType], ...]
    parts: tuple[Part, ...] = ()

    @property
    def schema(self) -> pa.Schema:
        """The columns of a part."""
        return pa.schema([(self.key, pa.string()), *self.fields, *ROW_COLUMNS])

    @property
    def rows_folder(self) -> Path:
        """The folder of the parts: the source of a Feast view."""
        return self.folder / part_folder(self.fingerprint)

    def opened(self) -> Self:
        """Return the table as it is on disk, empty where there is none yet.

        Raises
        ------
        TableCorruptError
            When its manifest cannot be read.
        """
        path = self.folder / _MANIFEST
        if not path.is_file():
            return self
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
            if body["schema"] != _SCHEMA:
                raise TableCorruptError(
                    f"{path} has schema {body['schema']!r}, this version reads {_SCHEMA}: upgrade llmfeat"
                )
            parts = body["tables"].get(self.fingerprint, [])
            return dataclasses.replace(self, parts=tuple(Part(**part) for part in parts))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise TableCorruptError(f"{path} is no manifest ({error!r}): restore it, or remove the folder") from error

    def prepare(self) -> None:
        """Put an empty part where there is none, for those who join before anything is materialized."""
        if not self.opened().parts:
            self._append(self.schema.empty_table())

    def update(self, rows: pa.Table, *, counted: Sequence[str] = ()) -> Self:
        """Append the rows that differ from what is there, delete the others, and return the table as it is then.

        Parameters
        ----------
        rows : pyarrow.Table
            The key, the fields and ``valid_from``; one row an id.
        counted : sequence of str, optional
            Fields that nobody knew before now. Rows of these are valid from now on; an id that is new has a row before
            it, from its own ``valid_from`` on, in which they are null.
        """
        held = self.opened()
        held._sweep()
        latest = held.latest([name for name, _ in ROW_COLUMNS])
        ids = rows.column(self.key).combine_chunks()
        hashes = row_hashes(rows.select([name for name, _ in self.fields]))
        at = pc.fill_null(pc.index_in(ids, value_set=latest.column(self.key).combine_chunks()), -1)
        position = at.cast(pa.int64()).to_numpy(zero_copy_only=False)
        was = hash_array(latest.column("row_sha256").combine_chunks())
        now = hash_array(hashes)
        is_known = position >= 0
        same = is_known.copy()
        same[is_known] = (now[is_known] == was[position[is_known]]).all(axis=1)
        changed = np.flatnonzero(~same)
        moment = now_us()
        added = _with_rows(rows.take(pa.array(changed)), hashes.take(pa.array(changed)), moment, self.schema)
        was_deleted = np.zeros(len(rows), dtype=bool)
        was_deleted[is_known] = latest.column("deleted").to_numpy()[position[is_known]]
        # What comes back is known anew: at its old time the deletion would be what a join finds.
        added = _valid_since(added, moment, np.ones(len(changed), bool) if counted else was_deleted[changed])
        first = rows.take(pa.array(np.flatnonzero(~is_known))) if counted else rows.slice(0, 0)
        first = _with_rows(_without(first, counted), pa.nulls(len(first), pa.binary(32)), moment, self.schema)
        alive = latest.filter(pc.invert(latest.column("deleted")))
        gone = alive.filter(pc.invert(pc.is_in(alive.column(self.key), value_set=ids)))
        tombstones = _tombstones(gone.column(self.key), moment, self.schema)
        written = pa.concat_tables([first, added, tombstones])
        return held._append(written) if len(written) else held

    def latest(self, columns: Iterable[str] | None = None) -> pa.Table:
        """Return the latest row of each id, deleted ones included; some columns, beside the id, or all."""
        names = [self.key, *(self.schema.names[1:] if columns is None else columns)]
        tables = [read_part(self.folder, part, names) for part in self.parts]
        return latest_of(pa.concat_tables([self.schema.empty_table().select(names), *tables]), self.key)

    def _sweep(self) -> None:
        """Remove what a killed process left: Feast joins every file of the folder."""
        named = {self.folder / part.file for part in self.parts}
        for path in self.rows_folder.glob("*") if self.rows_folder.is_dir() else ():
            if path.is_file() and path not in named:
                path.unlink()

    def _append(self, rows: pa.Table) -> Self:
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            part = write_part(self.folder, self.fingerprint, "", rows, schema=self.schema)
            table = dataclasses.replace(self, parts=(*self.parts, part))
            path = self.folder / _MANIFEST
            body: dict[str, Any] = {"schema": _SCHEMA, "tables": {}}
            if path.is_file():
                body = json.loads(path.read_text(encoding="utf-8"))
            body["tables"][self.fingerprint] = [dataclasses.asdict(each) for each in table.parts]
            atomic_write(path, (json.dumps(body, indent=2, sort_keys=True) + "\n").encode())
        return table

    def require(self) -> Self:
        """Return the table, or raise `TableNotFoundError` where nothing was ever written."""
        table = self.opened()
        if not table.parts:
            raise TableNotFoundError(
                f"{self.folder} holds no rows of {self.fingerprint[:12]}: run `llmfeat materialize`"
            )
        return table


def latest_of(rows: pa.Table, key: str) -> pa.Table:
    """Return the last row of each id."""
    return rows.take(pa.array(last_rows(rows.column(key).combine_chunks().dictionary_encode())))


def row_hashes(fields: pa.Table) -> pa.Array:
    """Return a SHA-256 of each row's cells."""
    import hashlib

    columns = [fields.column(name).to_pylist() for name in fields.column_names]
    return pa.array([hashlib.sha256(repr(row).encode()).digest() for row in zip(*columns, strict=True)], pa.binary(32))


def _with_rows(rows: pa.Table, hashes: pa.Array, moment_us: int, schema: pa.Schema) -> pa.Table:
    n_rows = len(rows)
    beside = {
        "row_sha256": hashes,
        "deleted": pa.array(np.zeros(n_rows, dtype=bool)),
        "written_at": _times(np.full(n_rows, moment_us)),
    }
    columns = [beside[name] if name in beside else rows.column(name) for name in schema.names]
    return pa.table(columns, names=schema.names).cast(schema)


def _without(rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """Return the rows with some columns null."""
    for name in names:
        at = rows.column_names.index(name)
        rows = rows.set_column(at, name, pa.nulls(len(rows), rows.schema.field(name).type))
    return rows


def _valid_since(rows: pa.Table, moment_us: int, which: BoolArray) -> pa.Table:
    """Return the rows, some of them valid from a moment on, if not later."""
    known_us = rows.column("valid_from").cast(pa.int64()).to_numpy()
    since = _times(np.where(which, np.maximum(known_us, moment_us), known_us))
    return rows.set_column(rows.column_names.index("valid_from"), "valid_from", since)


def _tombstones(ids: pa.ChunkedArray, moment_us: int, schema: pa.Schema) -> pa.Table:
    n_rows = len(ids)
    given = {
        schema.names[0]: ids,
        "deleted": pa.array(np.ones(n_rows, dtype=bool)),
        "valid_from": _times(np.full(n_rows, moment_us)),
        "written_at": _times(np.full(n_rows, moment_us)),
    }
    columns = [given[field.name] if field.name in given else pa.nulls(n_rows, field.type) for field in schema]
    return pa.table(columns, names=schema.names).cast(schema)


def _times(values_us: Int64Array) -> pa.Array:
    return pa.array(values_us, pa.timestamp("us", "UTC"))
