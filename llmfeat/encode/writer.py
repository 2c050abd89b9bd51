"""Writing a generation of a table: parts, each named by the manifest as soon as it is there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa

from llmfeat.encode.changes import now_us
from llmfeat.encode.generations import writing
from llmfeat.encode.index import TableIndex
from llmfeat.encode.manifest import Generation, Manifest
from llmfeat.encode.parts import PART_SCHEMA, write_part
from llmfeat.types import Int64Array

__all__ = ["TableWriter"]

_OF_TEXT = ("vector", "n_tokens", "text_sha256")
_MOST_ROWS = 65_536
_MOST_BYTES = 32 << 20


class TableWriter:
    """Adds parts to a generation of a table that is `locked`.

    Parameters
    ----------
    folder : Path
        The table's.
    manifest : Manifest
        What it holds.
    generation : Generation
        What is written to; it may be new.

    Attributes
    ----------
    written_us : int
        When the run began, which its rows say they were written at; microseconds since 1970, UTC.
    most_rows : int
        How many rows a part should have at most.
    """

    def __init__(self, folder: Path, manifest: Manifest, generation: Generation) -> None:
        self.folder, self.manifest, self.generation = folder, manifest, generation
        self.written_us = now_us()
        self.most_rows = max(1, min(_MOST_ROWS, _MOST_BYTES // (4 * generation.dim)))

    def append(self, rows: pa.Table, *, numerics: str) -> None:
        """Write rows as a part, if there are any; what is named is kept when this process dies."""
        if not len(rows):
            return
        with writing(self.folder):
            part = write_part(self.folder, self.generation.fingerprint, numerics, rows)
        self.generation = dataclasses.replace(self.generation, parts=(*self.generation.parts, part))
        self._write(complete=False)

    def delete(self, index: TableIndex, gone: Int64Array, *, numerics: str) -> None:
        """Write that ids, by their positions in the generation's index, are gone."""
        now_us = np.full(len(gone), self.written_us)
        since, now = (pa.array(each, pa.timestamp("us", "UTC")) for each in (index.known_since(gone, now_us), now_us))
        nothing = [pa.nulls(len(gone), field.type) for field in PART_SCHEMA if field.name in _OF_TEXT]
        ids, deleted = index.ids.take(pa.array(gone)), pa.array(np.ones(len(gone), dtype=bool))
        self.append(pa.table([ids, *nothing, deleted, since, now], schema=PART_SCHEMA), numerics=numerics)

    def complete(self) -> None:
        """Make the generation what readers see."""
        self._write(complete=True)

    def _write(self, *, complete: bool) -> None:
        self.manifest = self.manifest.with_generation(self.generation, complete=complete)
        with writing(self.folder):
            self.manifest.write(self.folder)
