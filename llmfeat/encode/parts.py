"""The parts of a vector table: immutable parquet files, named by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmfeat._base.files import atomic_write
from llmfeat._base.verified import verified_sha256
from llmfeat.encode.manifest import MANIFEST_FILE, Generation, Part
from llmfeat.errors import TableCorruptError
from llmfeat.types import BoolArray, Float32Array, Int64Array

__all__ = ["PART_SCHEMA", "part_folder", "read_part", "sweep", "vector_cells", "vectors_of", "write_part"]

PART_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("vector", pa.binary()),  # little-endian float32; null where there is no text
        ("n_tokens", pa.int32()),  # of the text after cutting, special ones included; null where there is no text
        ("text_sha256", pa.binary(32)),  # of fingerprint and text together; null where there is no text
        ("deleted", pa.bool_()),
        ("valid_from", pa.timestamp("us", "UTC")),
        ("written_at", pa.timestamp("us", "UTC")),
    ]
)


def part_folder(fingerprint: str) -> str:
    """Return the folder of a generation's parts, below the table's."""
    return fingerprint[:16]


def write_part(
    folder: Path, fingerprint: str, numerics: str, rows: pa.Table, *, schema: pa.Schema = PART_SCHEMA
) -> Part:
    """Write rows of a schema as a new part, and return its record."""
    buffer = pa.BufferOutputStream()
    pq.write_table(rows.cast(schema), buffer, compression="zstd")
    data = memoryview(buffer.getvalue())
    digest = hashlib.sha256(data).hexdigest()
    name = f"{part_folder(fingerprint)}/part-{digest[:16]}.parquet"
    atomic_write(folder / name, data)
    return Part(name, digest, len(data), len(rows), numerics)


def read_part(folder: Path, part: Part, columns: Sequence[str] | None = None) -> pa.Table:
    """Return some columns of a part, all by default.

    Raises
    ------
    TableCorruptError
        When the file is missing, or is not the one that was written.
    """
    path = folder / part.file
    if not path.is_file() or path.stat().st_size != part.size_bytes or verified_sha256(path) != part.sha256:
        raise TableCorruptError(
            f"{path} is missing or is not the part that was written: restore it, or encode into a new folder"
        )
    with pq.ParquetFile(path) as file:
        return file.read(columns=None if columns is None else list(columns))


def sweep(folder: Path, generations: Sequence[Generation]) -> int:
    """Remove what a killed process left: parts that no generation names, and temporary files; return how many."""
    named = {folder / part.file for generation in generations for part in generation.parts}
    folders = {folder / part_folder(generation.fingerprint) for generation in generations}
    left = [path for each in folders for path in each.glob("*") if path.is_file() and path not in named]
    left += folder.glob(f".{MANIFEST_FILE}.*")
    for path in left:
        path.unlink()
    return len(left)


def vector_cells(vectors: Float32Array, there: BoolArray) -> pa.Array:
    """Return vectors as binary cells, null where `there` is False; `vectors` has a row for each True."""
    width = vectors.shape[1] * 4
    offsets = np.zeros(len(there) + 1, dtype=np.int32)
    np.cumsum(there * width, out=offsets[1:])
    data = np.ascontiguousarray(vectors, dtype="<f4")
    valid = pa.array(there).buffers()[1]
    return pa.Array.from_buffers(pa.binary(), len(there), [valid, pa.py_buffer(offsets), pa.py_buffer(data)])


def vectors_of(cells: pa.ChunkedArray, dim: int) -> tuple[Int64Array, Float32Array]:
    """Return which cells hold a vector, and these vectors, float32 of shape ``(n_there, dim)``."""
    there = np.flatnonzero(cells.is_valid().to_numpy())
    blocks = [_block(chunk.drop_null()) for chunk in cells.chunks]
    data = np.concatenate([np.empty(0, dtype=np.float32), *blocks])
    return there, data.reshape(-1, dim)


def _block(cells: pa.BinaryArray) -> Float32Array:
    _, offsets, data = cells.buffers()
    if not len(cells):
        return np.empty(0, dtype=np.float32)
    ends = np.frombuffer(offsets, dtype=np.int32)[cells.offset : cells.offset + len(cells) + 1]
    return np.frombuffer(data, dtype="<f4", count=(ends[-1] - ends[0]) // 4, offset=int(ends[0]))
