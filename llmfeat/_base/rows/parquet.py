"""A parquet file, or a folder of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import or_
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from llmfeat._base.rows.files import FileRows, damaged, rechunked
from llmfeat._base.rows.source import RowBatch
from llmfeat.errors import InputError

__all__ = ["ParquetRows"]

# Pages of a column come through a buffer of this size, not a row group at once.
_BUFFER_BYTES = 1 << 20


class ParquetRows(FileRows):
    """The rows of parquet files in order; a column that a file lacks is null there."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(path, what)
        if not self._stamps:
            raise InputError(f"{self._what} is a folder without a parquet file, but one was expected: check the path")
        self._footers = {file: _footer(file) for file, _, _ in self._stamps}

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns of all files, as often as one file has them."""
        names = dict.fromkeys(tuple(schema.names) for schema, _ in self._footers.values())
        return tuple(reduce(or_, map(Counter, names)).elements())

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return sum(n_rows for _, n_rows in self._footers.values())

    def _read_file(self, columns: list[str], batch_rows: int) -> Iterator[RowBatch]:
        types = {name: self._type(name) for name in columns}
        tables = (table for file in self._footers for table in self._tables(file, types, batch_rows))
        return map(RowBatch.from_table, rechunked(tables, batch_rows))

    def _type(self, name: str) -> pa.DataType:
        """Return the type that holds a column of every file."""
        common = None
        for file, (schema, _) in self._footers.items():
            if name not in schema.names:
                continue
            own = schema.field(name).type
            own = own.value_type if pa.types.is_dictionary(own) else own
            both = [pa.schema([(name, each)]) for each in (own, common or own)]
            try:
                common = pa.unify_schemas(both, promote_options="permissive").field(0).type
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise InputError(
                    f"the column {name!r} is of type {own} in {file}, but {common} in a file before it: "
                    "write all files with one type"
                ) from error
        return common

    def _tables(self, file: Path, types: Mapping[str, pa.DataType], batch_rows: int) -> Iterator[pa.Table]:
        present = [name for name in types if name in self._footers[file][0].names]
        try:
            with pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False) as opened:
                for batch in opened.iter_batches(batch_rows, columns=present):
                    yield _typed(batch, present, types)
        except (pa.ArrowException, OSError) as error:
            raise damaged(file, "parquet", error) from error


def _footer(file: Path) -> tuple[pa.Schema, int]:
    try:
        with pq.ParquetFile(file) as opened:
            return opened.schema_arrow, opened.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, "parquet", error) from error


def _typed(batch: pa.RecordBatch, present: list[str], types: Mapping[str, pa.DataType]) -> pa.Table:
    return pa.table(
        {
            name: batch.column(name).cast(kind) if name in present else pa.nulls(batch.num_rows, kind)
            for name, kind in types.items()
        }
    )
