"""Vectors that were not encoded here, written as a table: from an API, of two towers, of images."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmfeat._base.frames import to_us
from llmfeat._base.ids import IdIndex
from llmfeat.encode.generations import locked, read_manifest, writing
from llmfeat.encode.index import TableIndex, hash_array
from llmfeat.encode.manifest import Generation
from llmfeat.encode.parts import PART_SCHEMA, sweep, vector_cells
from llmfeat.encode.table import VectorTable
from llmfeat.encode.writer import TableWriter
from llmfeat.errors import InputError, LLMFeatWarning
from llmfeat.types import BoolArray, Int64Array

__all__ = ["GIVEN", "WriteSummary", "write_table"]

GIVEN = "given"
"""The numerics class of vectors that were not computed here."""
_HASH_BYTES = 32
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class WriteSummary:
    """What one run of `write_table` did, in items.

    Attributes
    ----------
    new, changed, unchanged, deleted : int
        Against what the table held; an item whose time alone was corrected is changed.
    missing : int
        Items of this run without a vector, among the new, changed and unchanged.
    current : bool
        Whether these vectors are what readers see. In place of others they become that when a whole catalogue is given:
        not by adding items (``delete=False``).
    """

    new: int
    changed: int
    unchanged: int
    deleted: int
    missing: int
    current: bool


def write_table(vectors: VectorTable, out: str | Path, *, valid_from: Any, delete: bool = True) -> WriteSummary:
    """Bring the table at `out` up to date with vectors that somebody else computed, and say what changed.

    Readers, Feast's views and `materialize` then take them as they take those of `encode_table`. Vectors of another
    fingerprint begin a generation of their own, which is what readers see once it is whole. Give them a folder of their
    own: in one with encoded vectors, each of the two would take the other's place.

    Parameters
    ----------
    vectors : VectorTable
        Such as ``TwoTower.item_vectors_``, or what `VectorTable.from_parquet` read; its fingerprint names them.
    out : str or Path
        The table's folder.
    valid_from : time, or sequence of times
        Since when the vectors are known: one time for all, or one for each id. Vectors that were learned from events
        are known since the last of them: an earlier time would carry them into the rows that they were learned from.
        What replaces a vector, or comes back, counts as known no earlier than what it replaces.
    delete : bool, default=True
        Whether items that the table holds and `vectors` lacks are deleted; False to add a few.

    Raises
    ------
    InputError
        When `vectors` is no table of vectors, or of a fingerprint that is no SHA-256; when none is there, or one is
        finite in part; when there is not a time for each id.
    TimestampError
        When `valid_from` is no time.
    TableWriteError
        When another process writes to the table, the folder is read-only, or the disk is full.
    """
    folder = Path(out)
    _check(vectors)
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
        at = IdIndex(index.ids).positions(vectors.ids)
        is_new, is_other, is_moved = _changes(index, at, hash_array(hashes), known_us)
        since_us = np.where(is_new | is_other, index.known_since(at, known_us), known_us)
        gone = index.absent_from(vectors.ids) if delete else np.empty(0, dtype=np.int64)
        writer = TableWriter(folder, manifest, generation)
        rows = np.flatnonzero(is_new | is_other | is_moved)
        for first in range(0, len(rows), writer.most_rows):
            some = rows[first : first + writer.most_rows]
            writer.append(_rows(vectors, some, hashes, since_us, writer.written_us), numerics=GIVEN)
        writer.delete(index, gone, numerics=GIVEN)
        current = delete or manifest.current in (None, vectors.fingerprint)
        if current:
            writer.complete()
    if not current:
        warnings.warn(
            f"readers of {folder} see what they saw before: these vectors are of another fingerprint, and take the "
            "place of the others only when all items are given (delete=True); to add some, pass fingerprint= of those",
            LLMFeatWarning,
            stacklevel=2,
        )
    n_new, n_changed = int(is_new.sum()), int((is_other | is_moved).sum())
    return WriteSummary(
        new=n_new,
        changed=n_changed,
        unchanged=len(vectors) - n_new - n_changed,
        deleted=len(gone),
        missing=int(np.count_nonzero(vectors.missing)),
        current=current,
    )


def _moments(valid_from: Any, n_rows: int) -> Int64Array:
    is_many = not isinstance(valid_from, str | date | int | float | np.generic)
    one = np.array([valid_from], "datetime64[us]") if isinstance(valid_from, np.datetime64) else [valid_from]
    found = to_us(valid_from if is_many else one, what="valid_from")
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


def _check(vectors: VectorTable) -> None:
    given: object = vectors
    if not isinstance(given, VectorTable):
        raise InputError(
            f"vectors is a {type(given).__name__}, but a VectorTable was expected: wrap arrays with "
            "VectorTable.from_arrays(ids, vectors), or pass item_vectors_ of a TwoTower"
        )
    if not _DIGEST.fullmatch(vectors.fingerprint):
        raise InputError(
            f"the vectors' fingerprint is {vectors.fingerprint!r}, but 64 hex digits in lower case were expected, "
            "which name folders and Feast's views: leave fingerprint= out for a hash of ids and vectors, or pass a "
            "SHA-256 of the model's name and version"
        )
    in_part = np.flatnonzero(~np.isfinite(vectors.vectors).all(axis=1) & ~np.isnan(vectors.vectors).all(axis=1))
    if len(in_part):
        some = vectors.ids.take(pa.array(in_part[:3])).to_pylist()
        raise InputError(
            f"{len(in_part)} of {len(vectors)} vectors, such as those of {some}, are not finite: pass NaN in all "
            "dimensions of an item that has none"
        )
    if vectors.missing.all():
        raise InputError(f"none of the {len(vectors)} items has a vector: check where they came from")


def _changes(
    index: TableIndex, at: Int64Array, hashes: Any, known_us: Int64Array
) -> tuple[BoolArray, BoolArray, BoolArray]:
    """Return which ids the table lacks, which it holds with another vector, and which with another time alone."""
    held = at >= 0
    is_new = ~held
    is_new[held] = index.deleted[at[held]]
    is_other, is_moved = np.zeros(len(at), dtype=bool), np.zeros(len(at), dtype=bool)
    is_other[held] = (index.hashes[at[held]] != hashes[held]).any(axis=1)
    is_moved[held] = index.valid_from_us[at[held]] != known_us[held]
    return is_new, is_other & ~is_new, is_moved & ~is_new & ~is_other


def _rows(
    vectors: VectorTable, rows: Int64Array, hashes: pa.FixedSizeBinaryArray, known_us: Int64Array, now: int
) -> pa.Table:
    there = ~vectors.missing[rows]
    return pa.table(
        [
            vectors.ids.take(pa.array(rows)),
            vector_cells(vectors.vectors[rows[there]], there),
            pa.nulls(len(rows), pa.int32()),
            hashes.take(pa.array(rows)),
            pa.array(np.zeros(len(rows), dtype=bool)),
            pa.array(known_us[rows], pa.timestamp("us", "UTC")),
            pa.array(np.full(len(rows), now), pa.timestamp("us", "UTC")),
        ],
        schema=PART_SCHEMA,
    )
