"""Vectors by id: read from a table that llmfeat encoded, or from a parquet file that somebody else computed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmfeat._base.files import canonical_json, text_sha256
from llmfeat._base.frames import column, id_array, id_column, require_rows
from llmfeat._base.ids import IdIndex, ids_as_bytes, ids_of_bytes
from llmfeat.encode.index import TableIndex
from llmfeat.encode.manifest import Generation, Manifest
from llmfeat.encode.parts import PART_SCHEMA, read_part, vectors_of
from llmfeat.errors import DuplicateIdError, InputError
from llmfeat.types import BoolArray, Float32Array

__all__ = ["VectorTable", "latest_rows"]


class VectorTable:
    """Vectors by id, in memory; immutable, so that copies and clones of estimators share it.

    Made by `open`, `from_parquet` or `from_arrays`.

    Parameters
    ----------
    ids : pyarrow.StringArray of length n
        Distinct ids.
    vectors : ndarray of shape (n, dim), float32
        A row of NaN where an id has no text.
    fingerprint : str
        What identifies the vectors.
    """

    def __init__(self, ids: pa.StringArray, vectors: Float32Array, *, fingerprint: str) -> None:
        self.ids = ids
        self.vectors = vectors
        self.fingerprint = fingerprint
        vectors.setflags(write=False)

    @classmethod
    def open(cls, path: str | Path, *, fingerprint: str | None = None) -> Self:
        """Open a generation of a table that `encode_table` wrote, the current one by default.

        Raises
        ------
        TableNotFoundError, TableFingerprintError, TableCorruptError
            When there is no table, no such generation, or a part is not the one that was written.
        """
        folder = Path(path)
        generation = Manifest.read(folder).generation(fingerprint, where=folder)
        index = TableIndex.read(folder, generation)
        live = index.live()
        slot = np.full(len(index), -1, dtype=np.int64)
        slot[live] = np.arange(len(live))
        vectors = np.full((len(live), generation.dim), np.nan, dtype=np.float32)
        for number, positions in index.by_part(live):
            cells = read_part(folder, generation.parts[number], ["vector"]).column("vector")
            there, block = vectors_of(cells.take(pa.array(index.row[positions])), generation.dim)
            vectors[slot[positions[there]]] = block
        return cls(index.ids.take(pa.array(live)), vectors, fingerprint=generation.fingerprint)

    @classmethod
    def from_parquet(
        cls, path: str | Path, *, item_id: str = "item_id", vector: str = "vector", fingerprint: str | None = None
    ) -> Self:
        """Read vectors that somebody else computed: an API, an in-house two-tower, images.

        Parameters
        ----------
        path : str or Path
            A parquet file, or a folder of them.
        item_id, vector : str
            The columns of ids and of vectors (lists of numbers of one length, null where there is none).
        fingerprint : str, optional
            What identifies them, such as a model's name and version; by default a hash of their content.

        Raises
        ------
        MissingColumnError, EmptyInputError, DuplicateIdError, InputError
            When a column is missing, there is no row, an id comes twice, or the vectors are of several lengths.
        """
        rows = pq.read_table(path, columns=None)
        ids = id_column(rows, item_id, what=str(path))
        vectors = _from_lists(column(rows, vector, what=str(path)), what=f"the column {vector!r} of {path}")
        return cls.from_arrays(ids, vectors, fingerprint=fingerprint)

    @classmethod
    def from_arrays(cls, ids: Any, vectors: Any, *, fingerprint: str | None = None) -> Self:
        """Make a table of ids and of an array of shape ``(n, dim)``, a row of NaN where an id has no vector."""
        keys = id_array(ids, what="the ids of the vectors")
        require_rows(len(keys), what="the vector table")
        try:
            matrix = np.array(vectors, dtype=np.float32, order="C")
        except (ValueError, TypeError) as error:
            raise InputError(f"vectors are no matrix of numbers ({error}): pass rows of one length") from error
        if matrix.ndim != 2 or len(matrix) != len(keys) or not matrix.shape[1]:
            raise InputError(f"vectors have the shape {matrix.shape}, but ({len(keys)}, dim) was expected: one per id")
        n_twice = len(keys) - len(pc.unique(keys))
        if n_twice:
            raise DuplicateIdError(f"{n_twice} of {len(keys)} ids come more than once: keep one vector per id")
        if fingerprint is None:
            fingerprint = text_sha256(f"{matrix.shape} {_bytes_sha256(matrix)} {canonical_json(keys.to_pylist())}")
        return cls(keys, matrix, fingerprint=fingerprint)

    @property
    def dim(self) -> int:
        """The number of dimensions of a vector."""
        return int(self.vectors.shape[1])

    @property
    def missing(self) -> BoolArray:
        """Which ids have no vector, bool of shape ``(n,)``."""
        missing: BoolArray = np.isnan(self.vectors[:, 0])
        return missing

    def lookup(self, ids: Any) -> Float32Array:
        """Return the vectors of `ids`, float32 of shape ``(len(ids), dim)``; NaN for unknown and textless ones."""
        positions = self._index.positions(id_array(ids))
        out = self.vectors[positions]
        out[positions < 0] = np.nan
        return out

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"VectorTable({len(self)} ids, dim={self.dim}, fingerprint={self.fingerprint[:12]!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return itself: it is immutable, and `sklearn.base.clone` would copy it for every fold."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"ids": ids_as_bytes(self.ids), "vectors": self.vectors, "fingerprint": self.fingerprint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(ids_of_bytes(state["ids"]), state["vectors"], fingerprint=state["fingerprint"])  # type: ignore[misc]

    @cached_property
    def _index(self) -> IdIndex:
        return IdIndex(self.ids)


def latest_rows(
    folder: Path, generation: Generation, columns: Sequence[str] | None = None, *, most: int | None = None
) -> pa.Table:
    """Return the latest row of each id of a generation, deleted ones included.

    Parameters
    ----------
    folder : Path
        The table's.
    generation : Generation
        One of its generations.
    columns : sequence of str, optional
        Of the parts' schema; all by default, vectors among them.
    most : int, optional
        The first so many ids that are not deleted; all ids by default.
    """
    index = TableIndex.read(folder, generation)
    wanted = np.arange(len(index)) if most is None else index.live()[:most]
    tables = [
        read_part(folder, generation.parts[number], columns).take(pa.array(index.row[positions]))
        for number, positions in index.by_part(wanted)
    ]
    schema = PART_SCHEMA if columns is None else pa.schema([PART_SCHEMA.field(name) for name in columns])
    return pa.concat_tables([schema.empty_table(), *(table.select(schema.names) for table in tables)])


def _from_lists(cells: pa.Array, *, what: str) -> Float32Array:
    if not (
        pa.types.is_list(cells.type) or pa.types.is_large_list(cells.type) or pa.types.is_fixed_size_list(cells.type)
    ):
        raise InputError(f"{what} is of type {cells.type}, but lists of numbers were expected")
    there = cells.is_valid().to_numpy(zero_copy_only=False)
    lists = cells.drop_null()
    dims = pc.unique(pc.list_value_length(lists)).to_pylist()
    if len(dims) != 1 or dims[0] == 0:
        raise InputError(f"{what} holds lists of the lengths {sorted(dims)[:5]}, but one length over 0 was expected")
    vectors = np.full((len(cells), dims[0]), np.nan, dtype=np.float32)
    vectors[there] = pc.list_flatten(lists).cast(pa.float32()).to_numpy(zero_copy_only=False).reshape(-1, dims[0])
    return vectors


def _bytes_sha256(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()
