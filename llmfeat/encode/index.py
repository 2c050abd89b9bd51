"""What a vector table holds, without the vectors: of each id the latest row, and where it stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat.encode.manifest import Generation
from llmfeat.encode.parts import PART_SCHEMA, read_part
from llmfeat.types import BoolArray, Int32Array, Int64Array

__all__ = ["TableIndex", "hash_array", "last_rows"]

_COLUMNS = ("item_id", "text_sha256", "deleted", "valid_from")


@dataclass(frozen=True)
class TableIndex:
    """The latest row of each id of a generation, about 80 bytes each.

    Attributes
    ----------
    ids : pyarrow.StringArray of length n
        Distinct ids, deleted ones included.
    hashes : ndarray of shape (n, 4), uint64
        Of the texts; zeros where an item has none.
    deleted : ndarray of shape (n,), bool
        Which were deleted.
    valid_from_us : ndarray of shape (n,), int64
        Since when the text is known, in microseconds since 1970, UTC.
    last_us : ndarray of shape (n,), int64
        The latest such time of all rows of the id: what is written from then on is what every later join finds.
    part, row : ndarray of shape (n,), int32
        Where the row stands.
    """

    ids: pa.StringArray
    hashes: np.ndarray[tuple[int, int], np.dtype[np.uint64]]
    deleted: BoolArray
    valid_from_us: Int64Array
    last_us: Int64Array
    part: Int32Array
    row: Int32Array

    @classmethod
    def read(cls, folder: Path, generation: Generation) -> Self:
        """Read the index of a generation.

        Raises
        ------
        TableCorruptError
            When a part is missing, or is not the one that was written.
        """
        parts = [read_part(folder, part, _COLUMNS) for part in generation.parts]
        schema = pa.schema([PART_SCHEMA.field(name) for name in _COLUMNS])
        rows = pa.concat_tables([schema.empty_table(), *parts])
        sizes = [len(part) for part in parts]
        part_of = np.repeat(np.arange(len(parts), dtype=np.int32), sizes)
        row_of = np.concatenate([np.empty(0, dtype=np.int32), *(np.arange(size, dtype=np.int32) for size in sizes)])
        encoded = rows.column("item_id").combine_chunks().dictionary_encode()
        last = last_rows(encoded)
        times_us = rows.column("valid_from").cast(pa.int64()).to_numpy()
        last_us = np.full(len(last), np.iinfo(np.int64).min)
        np.maximum.at(last_us, encoded.indices.to_numpy(), times_us)
        kept = rows.drop_columns(["item_id"]).take(pa.array(last))
        return cls(
            ids=encoded.dictionary,
            hashes=hash_array(kept.column("text_sha256").combine_chunks()),
            deleted=kept.column("deleted").to_numpy(),
            valid_from_us=times_us[last],
            last_us=last_us,
            part=part_of[last],
            row=row_of[last],
        )

    def __len__(self) -> int:
        return len(self.ids)

    def known_since(self, positions: Int64Array, known_us: Int64Array) -> Int64Array:
        """Return since when what replaces rows is known: never before a row that it replaces, or joins would find that.

        A position of -1 is an id that is not among them.
        """
        if not len(self):
            return known_us
        return np.where(positions >= 0, np.maximum(known_us, self.last_us[positions]), known_us)

    def live(self) -> Int64Array:
        """Return the positions of the ids that are not deleted."""
        return np.flatnonzero(~self.deleted)

    def absent_from(self, ids: pa.StringArray) -> Int64Array:
        """Return the positions of the ids that are not deleted, and not among `ids`."""
        live = self.live()
        known: BoolArray = pc.is_in(self.ids.take(pa.array(live)), value_set=ids).to_numpy(zero_copy_only=False)
        absent: Int64Array = live[~known]
        return absent

    def by_part(self, positions: Int64Array) -> Iterator[tuple[int, Int64Array]]:
        """Yield, for each part that holds some of `positions`, its number and those positions, in the part's order."""
        order = positions[np.lexsort((self.row[positions], self.part[positions]))]
        edges = np.flatnonzero(np.diff(self.part[order])) + 1
        for chunk in np.split(order, edges) if len(order) else ():
            yield int(self.part[chunk[0]]), chunk


def last_rows(encoded: pa.DictionaryArray) -> Int64Array:
    """Return, for each distinct id of a column, the last row that it stands in."""
    last = np.zeros(len(encoded.dictionary), dtype=np.int64)
    last[encoded.indices.to_numpy()] = np.arange(len(encoded))  # of equal indices numpy keeps the last assignment
    return last


def hash_array(cells: pa.FixedSizeBinaryArray) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    """Return 32-byte hashes as uint64 of shape ``(n, 4)``, zeros where a cell is null."""
    hashes = np.zeros((len(cells), 4), dtype=np.uint64)
    there = cells.is_valid().to_numpy(zero_copy_only=False)
    kept = cells.drop_null()
    block = np.frombuffer(kept.buffers()[1] or b"", dtype=np.uint64, count=4 * len(kept), offset=32 * kept.offset)
    hashes[there] = block.reshape(-1, 4)
    return hashes
