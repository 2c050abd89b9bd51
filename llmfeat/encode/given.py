"""Vectors that were not encoded here, written as a table: from an API, of two towers, of images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.frames import to_us
from llmfeat.encode.generations import locked, read_manifest, writing
from llmfeat.encode.index import TableIndex, hash_array
from llmfeat.encode.manifest import Generation
from llmfeat.encode.parts import PART_SCHEMA, sweep, vector_cells
from llmfeat.encode.table import VectorTable
from llmfeat.encode.writer import TableWriter
from llmfeat.errors import InputError
from llmfeat.types import BoolArray, Int64Array

__all__ = ["GIVEN", "WriteSummary", "write_table"]

GIVEN = "given"
"""The numerics class of vectors that were not computed here."""
_HASH_BYTES = 32
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class WriteSummary:
    """What one run of `write_table` did, in items; those without a vector are among the new, changed and unchanged."""

    new: int
    changed: int
    unchanged: int
    deleted: int
    missing: int


def write_table(vectors: VectorTable, out: str | Path, *, valid_from: Any, delete: bool = True) -> WriteSummary:
    """Bring the table at `out` up to date with vectors that somebody else computed, and say what changed.

    Readers, Feast's views and `materialize` then take them as they take those of `encode_table`. Vectors of another
    fingerprint begin a generation of their own, which is what readers see once it is whole.

    Parameters
    ----------
    vectors : VectorTable
        Such as ``TwoTower.item_vectors_``, or what `VectorTable.from_parquet` read; its fingerprint names them.
    out : str or Path
        The table's folder.
    valid_from : time, or sequence of times
        Since when the vectors are known: one time for all, or one for each id. Vectors that were learned from events
        are known since the last of them: an earlier time would carry them into the rows that they were learned from.
    delete : bool, default=True
        Whether items that the table holds and `vectors` lacks are deleted; False to add a few.

    Raises
    ------
    InputError
        When the fingerprint is no SHA-256, or there is not a time for each id.
    TimestampError
        When `valid_from` is no time.
    TableWriteError
        When another process writes to the table, the folder is read-only, or the disk is full.
    """
    folder = Path(out)
    if not _DIGEST.fullmatch(vectors.fingerprint):
        raise InputError(
            f"the vectors' fingerprint is {vectors.fingerprint!r}, but 64 hex digits were expected, the first of which "
            "name folders and Feast's views: leave fingerprint= out for a hash of ids and vectors, or pass a SHA-256 "
            "of the model's name and version"
        )
    known_us = _moments(valid_from, len(vectors))
    hashes = _hashes(vectors)
    with locked(folder):
        manifest = read_manifest(folder)
        fresh = Generation(vectors.fingerprint, vectors.fingerprint, GIVEN, "", vectors.dim)
        generation = manifest.generations.get(vectors.fingerprint, fresh)
        if (generation.numerics, generation.dim) != (GIVEN, vectors.dim):
            raise InputError(
                f"{folder} holds vectors of the fingerprint {vectors.fingerprint[:12]!r} with {generation.dim} "
                f"dimensions of {generation.numerics}, but {vectors.dim} of {GIVEN} came: pass another fingerprint="
            )
        with writing(folder):
            sweep(folder, [*manifest.generations.values(), generation])
        index = TableIndex.read(folder, generation)
        is_new, is_changed = _changes(index, vectors.ids, hash_array(hashes), known_us)
        gone = index.ids.take(pa.array(index.absent_from(vectors.ids))) if delete else vectors.ids[:0]
        writer = TableWriter(folder, manifest, generation)
        rows = np.flatnonzero(is_new | is_changed)
        for first in range(0, len(rows), writer.most_rows):
            some = rows[first : first + writer.most_rows]
            writer.append(_rows(vectors, some, hashes, known_us, writer.written_us), numerics=GIVEN)
        writer.delete(gone, numerics=GIVEN)
        writer.complete()
    n_new, n_changed = int(is_new.sum()), int(is_changed.sum())
    return WriteSummary(
        new=n_new,
        changed=n_changed,
        unchanged=len(vectors) - n_new - n_changed,
        deleted=len(gone),
        missing=int(np.count_nonzero(vectors.missing)),
    )


def _moments(valid_from: Any, n_rows: int) -> Int64Array:
    is_many = isinstance(valid_from, list | tuple | np.ndarray | pa.Array | pa.ChunkedArray) or hasattr(
        valid_from, "to_arrow"
    )
    found = to_us(valid_from if is_many else [valid_from], what="valid_from")
    if len(found) not in ({n_rows} if is_many else {1}):
        raise InputError(f"valid_from has {len(found)} times for {n_rows} ids: pass one for each, or one for all")
    return np.broadcast_to(found, n_rows)


def _hashes(vectors: VectorTable) -> pa.FixedSizeBinaryArray:
    """Return what tells one vector from another, null where there is none."""
    named = vectors.fingerprint.encode()
    cells = [
        None if is_missing else sha256(named + row.tobytes()).digest()
        for row, is_missing in zip(vectors.vectors, vectors.missing.tolist(), strict=True)
    ]
    return pa.array(cells, pa.binary(_HASH_BYTES))


def _changes(index: TableIndex, ids: pa.StringArray, hashes: Any, known_us: Int64Array) -> tuple[BoolArray, BoolArray]:
    """Return which ids the table lacks, and which it holds with another vector or another time."""
    at = pc.fill_null(pc.index_in(ids, value_set=index.ids), -1).cast(pa.int64()).to_numpy()
    held = at >= 0
    is_new = ~held
    is_new[held] = index.deleted[at[held]]
    is_changed = np.zeros(len(ids), dtype=bool)
    is_changed[held] = (index.hashes[at[held]] != hashes[held]).any(axis=1) | (
        index.valid_from_us[at[held]] != known_us[held]
    )
    return is_new, is_changed & ~is_new


def _rows(
    vectors: VectorTable, rows: Int64Array, hashes: pa.FixedSizeBinaryArray, known_us: Int64Array, now: int
) -> pa.Table:
    there = ~vectors.missing[rows]
    return pa.table(
        [
            vectors.ids.take(pa.array(rows)),
            vector_cells(vectors.vectors[rows[there]], there),
            pa.array(np.zeros(len(rows), dtype=np.int32), mask=~there),
            hashes.take(pa.array(rows)),
            pa.array(np.zeros(len(rows), dtype=bool)),
            pa.array(known_us[rows], pa.timestamp("us", "UTC")),
            pa.array(np.full(len(rows), now), pa.timestamp("us", "UTC")),
        ],
        schema=PART_SCHEMA,
    )
