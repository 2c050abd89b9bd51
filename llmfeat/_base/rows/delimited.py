"""CSV and TSV files."""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv

from llmfeat._base.rows.files import FileRows, damaged, rechunked, text_lines
from llmfeat._base.rows.source import RowBatch
from llmfeat.errors import EmptyInputError, InputError

__all__ = ["CsvRows"]

# Arrow parses a file by blocks, infers types from the first, and needs a row to fit into one.
_BLOCK_BYTES = 16 << 20


class CsvRows(FileRows):
    """The rows below a header; cells may hold line ends in quotes, and only an empty cell is null."""

    def __init__(self, path: Path, what: str, *, is_gzip: bool, delimiter: str, strings: frozenset[str]) -> None:
        super().__init__(path, what)
        self._is_gzip, self._delimiter, self._strings = is_gzip, delimiter, strings
        self._columns = self._header()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names in the header."""
        return self._columns

    def _header(self) -> tuple[str, ...]:
        lines = (line for _, line in text_lines(self._path, is_gzip=self._is_gzip))
        try:
            header = next(filter(None, csv.reader(lines, delimiter=self._delimiter)), None)
        except csv.Error as error:
            raise damaged(self._path, "CSV", error) from error
        if header is None:
            raise EmptyInputError(
                f"{self._what} is empty, but a line of column names was expected: check what wrote it"
            )
        return tuple(header)

    def _read_file(self, columns: list[str], batch_rows: int) -> Iterator[RowBatch]:
        return map(RowBatch.from_table, rechunked(self._tables(columns), batch_rows))

    def _tables(self, columns: list[str]) -> Iterator[pa.Table]:
        wrong: list[Any] = []
        # Arrow takes the rest of a file for one cell when its quote is left open: then a row at the end goes missing.
        end = "\n" + self._delimiter.join(['""'] * len(self._columns)) + "\n"
        held = None
        try:
            with (
                gzip.open(self._path, "rb") if self._is_gzip else open(self._path, "rb") as file,
                pa_csv.open_csv(_Extended(file, end.encode()), **self._options(columns, wrong)) as reader,
            ):
                if any(map(pa.types.is_binary, reader.schema.types)):  # what Arrow infers where it meets no UTF-8
                    raise self._no_utf8()
                for batch in reader:
                    if held is not None:
                        yield held
                    held = pa.Table.from_batches([batch])
        except (pa.ArrowException, OSError, EOFError, zlib.error) as error:
            raise self._explained(error, wrong) from None  # Arrow's message quotes cells
        if held is None or not all(cells.null_count for cells in held.slice(held.num_rows - 1).columns):
            raise self._open_quote()
        yield held.slice(0, held.num_rows - 1)

    def _options(self, columns: list[str], wrong: list[Any]) -> dict[str, Any]:
        def refuse(row: Any) -> str:
            wrong.append(row)
            return "error"

        return {
            # With threads Arrow loses count of the rows, and is no faster.
            "read_options": pa_csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False),
            "parse_options": pa_csv.ParseOptions(
                delimiter=self._delimiter, newlines_in_values=True, invalid_row_handler=refuse
            ),
            "convert_options": pa_csv.ConvertOptions(
                include_columns=columns,
                column_types=dict.fromkeys(self._strings.intersection(columns), pa.string()),
                null_values=[""],  # "NA" and "null" are titles
                strings_can_be_null=True,
            ),
        }

    def _explained(self, error: Exception, wrong: list[Any]) -> InputError:
        if wrong:
            return InputError(
                f"{self._path}, row {wrong[0].number} (the header is row 1, empty lines do not count) has "
                f"{wrong[0].actual_columns} fields, but {wrong[0].expected_columns} were expected: put cells that hold "
                "a delimiter, a quote or a line end in quotes"
            )
        if "invalid UTF8" in str(error):
            return self._no_utf8()
        if found := re.match(r"In CSV column #(\d+)", str(error)):
            return InputError(
                f"the column {self._columns[int(found[1])]!r} of {self._path} begins with cells of one type and goes "
                "on with others, but one was expected: write all of its cells in one form"
            )
        if "straddl" in str(error):
            return self._open_quote()
        return damaged(self._path, "CSV", "it cannot be parsed" if isinstance(error, pa.ArrowException) else error)

    def _open_quote(self) -> InputError:
        return InputError(
            f"{self._path} has a quote that is left open, or a row of more than {_BLOCK_BYTES >> 20} MiB, but closed "
            "quotes and smaller rows were expected: close the quote, or write parquet"
        )

    def _no_utf8(self) -> InputError:
        try:
            for _ in text_lines(self._path, is_gzip=self._is_gzip):
                pass
        except InputError as error:
            return error  # it names the line
        return damaged(self._path, "CSV", "a cell is no UTF-8")


class _Extended(io.RawIOBase):
    """A file with some bytes after its last."""

    def __init__(self, file: Any, end: bytes) -> None:
        self._file, self._end = file, io.BytesIO(end)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._file.read(size)
        # Filled up, for Arrow refuses a row that goes on after the next block, be that as short as it may.
        return data + self._end.read(size - len(data))
