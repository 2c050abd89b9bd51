"""Catalogues of any size, read in batches: data frames, parquet, CSV and JSON lines alike."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from llmfeat._base.rows.delimited import CsvRows
from llmfeat._base.rows.json_lines import JsonRows
from llmfeat._base.rows.parquet import ParquetRows
from llmfeat._base.rows.source import FrameRows, RowBatch, RowSource
from llmfeat.errors import InputError

__all__ = ["RowBatch", "RowSource", "open_rows"]

_JSON_KINDS = (".jsonl", ".ndjson", ".json")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def open_rows(data: Any, *, what: str = "the item catalogue", strings: Collection[str] = ()) -> RowSource:
    """Return the rows of a data frame, of a file, or of a folder of parquet files.

    Parameters
    ----------
    data : data frame, str or Path
        A frame of pandas, polars or Arrow, or a path. Files are told by their suffix: ``.parquet``, ``.csv``, ``.tsv``,
        ``.jsonl``, ``.ndjson``, the last four also with ``.gz``. Of a folder all parquet files are read, sorted by
        name, except those in or with a name that begins with a dot or an underscore; a column that some lack is null
        there.
    what : str, default="the item catalogue"
        What errors call the rows.
    strings : collection of str, default=()
        Columns of a CSV file that are text or ids, so that ``007`` keeps its zeros; the types of the others are
        inferred. Only an empty cell is null.

    Raises
    ------
    InputError
        When there is no such file, it is of another kind, or cannot be read.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat._base.rows import open_rows
    >>> rows = open_rows(pa.table({"item_id": [1, 2, 3], "title": ["Heat", "Alien", None]}))
    >>> rows.columns, rows.n_rows
    (('item_id', 'title'), 3)
    >>> [batch.table.column("title").to_pylist() for batch in rows.batches(["title"], batch_rows=2)]
    [['Heat', 'Alien'], [None]]
    """
    if not isinstance(data, str | os.PathLike):
        return FrameRows(data, what)
    path = Path(data)
    if not path.exists():
        raise InputError(f"{what} is {str(path)!r}, but there is no such file or folder: check the path")
    name = path.name.lower()
    is_gzip = name.endswith(".gz")
    kind = Path(name.removesuffix(".gz")).suffix
    if path.is_dir() or (kind == ".parquet" and not is_gzip):
        return ParquetRows(path, what)
    if kind in _DELIMITERS:
        return CsvRows(path, what, is_gzip=is_gzip, delimiter=_DELIMITERS[kind], strings=frozenset(strings))
    if kind in _JSON_KINDS:
        return JsonRows(path, what, is_gzip=is_gzip)
    raise InputError(
        f"{what} is {str(path)!r}, but a name was expected that ends in .parquet, .csv, .tsv, .jsonl or .ndjson, "
        "the last four also with .gz: convert the file, or rename it"
    )
