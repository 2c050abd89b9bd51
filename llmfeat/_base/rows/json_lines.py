"""JSON lines: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from llmfeat._base.rows.cells import from_cells
from llmfeat._base.rows.files import FileRows, text_lines
from llmfeat._base.rows.source import RowBatch
from llmfeat.errors import InputError

__all__ = ["JsonRows"]

_SNIFFED_ROWS = 1_000


class JsonRows(FileRows):
    """The objects of a file, blank lines left out; a key that an object lacks is null."""

    def __init__(self, path: Path, what: str, *, is_gzip: bool) -> None:
        super().__init__(path, what)
        self._is_gzip = is_gzip
        self._is_empty = True
        self._keys: dict[str, None] = {}
        self._learn(islice(self._records(), _SNIFFED_ROWS))

    @property
    def columns(self) -> tuple[str, ...]:
        """The keys that were seen so far: at first those of the first rows."""
        return tuple(self._keys)

    def _learn(self, records: Iterable[dict[str, Any]]) -> None:
        for record in records:
            self._is_empty = False
            self._keys.update(dict.fromkeys(record))

    def _require(self, wanted: list[str]) -> None:
        # A key may come late, so that it is missing only when no row has it; of no rows, none lacks it.
        unseen = set(wanted) - self._keys.keys()
        if unseen:
            self._learn(takewhile(lambda _: unseen - self._keys.keys(), self._records()))
        if not self._is_empty:
            super()._require(wanted)

    def _read_file(self, columns: list[str], batch_rows: int) -> Iterator[RowBatch]:
        rows = ([record.get(name) for name in columns] for record in self._records())
        while chunk := list(islice(rows, batch_rows)):
            cells = dict(zip(columns, zip(*chunk, strict=True), strict=True))
            yield RowBatch.from_columns({name: from_cells(column) for name, column in cells.items()})

    def _records(self) -> Iterator[dict[str, Any]]:
        for number, line in text_lines(self._path, is_gzip=self._is_gzip):
            if line.strip():
                yield self._record(number, line)

    def _record(self, number: int, line: str) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            return record
        found, todo = "no JSON object", "mend that line, or leave it out"
        if line.lstrip().startswith("["):
            found, todo = "a JSON array", "convert it to .jsonl, its elements one a line"
        raise InputError(f"{self._path}, line {number} is {found}, but one object a line was expected: {todo}")
