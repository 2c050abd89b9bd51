"""What a view held at the moments of some rows: an as-of join over the files behind it, or Feast's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlparse

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmfeat._base.frames import to_us
from llmfeat._base.optional import import_optional
from llmfeat.errors import StoreError
from llmfeat.history import AsOfIndex
from llmfeat.types import Int64Array

__all__ = ["AsOfFiles", "join_through_feast"]

_ROW = "llmfeat_row"


@dataclass(frozen=True)
class AsOfFiles:
    """The parquet files of a view's source, joined as Feast joins them: the latest row at or before a moment.

    Of rows at one time the one that was created last counts; a row older than the view's time to live does not. Of the
    files only keys and times are read whole; other columns where a row of theirs is wanted.

    Attributes
    ----------
    files : tuple of Path
        In the order of their names.
    key, timestamp, created : str
        Their columns; `created` is empty where there is none.
    renamed : dict of str to str
        From the files' names to the view's.
    ttl_us : int
        The time to live, 0 for ever.
    """

    files: tuple[Path, ...]
    key: str
    timestamp: str
    created: str
    renamed: dict[str, str]
    ttl_us: int

    @classmethod
    def of(cls, view: Any, *, repo: Path) -> Self | None:
        """Return those of a Feast view, None where its source is no parquet on a disk of this machine."""
        source = view.batch_source
        if type(source).__name__ != "FileSource" or urlparse(source.path).scheme not in ("", "file"):
            return None
        if source.file_format is not None and type(source.file_format).__name__ != "ParquetFormat":
            return None
        path = repo / urlparse(source.path).path
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        (key,) = view.join_keys
        back = {new: old for old, new in source.field_mapping.items()}
        return cls(
            tuple(files),
            back.get(key, key),
            source.timestamp_field,
            source.created_timestamp_column or "",
            dict(source.field_mapping),
            round(view.ttl.total_seconds() * 1e6) if view.ttl else 0,
        )

    def join(self, keys: pa.StringArray, times_us: Int64Array, columns: Sequence[str]) -> pa.Table:
        """Return some columns of the view for each row, null where nothing was known.

        Parameters
        ----------
        keys : pyarrow.StringArray of length n_rows
            The entities.
        times_us : ndarray of shape (n_rows,), int64
            The moments.
        columns : sequence of str
            Of the view.
        """
        back = {new: old for old, new in self.renamed.items()}
        names = [back.get(name, name) for name in columns]
        index = [self.key, self.timestamp, *([self.created] if self.created else [])]
        parts = [pq.read_table(file, columns=index, partitioning=None) for file in self.files]
        found = self._rows(parts, keys, times_us)
        sizes = np.array([len(part) for part in parts], dtype=np.int64)
        ends = np.cumsum(sizes)
        file_of = np.searchsorted(ends, found, side="right")
        tables, placed = [], []
        for number in np.unique(file_of[found >= 0]).tolist():
            rows = np.flatnonzero((file_of == number) & (found >= 0))
            at, inverse = np.unique(found[rows] - (ends[number] - sizes[number]), return_inverse=True)
            table = pq.read_table(self.files[number], columns=names, partitioning=None).take(pa.array(at))
            tables.append(table.combine_chunks())
            placed.append((rows, inverse))
        return _scattered(tables, placed, len(keys), list(columns), names, self.files)

    def _rows(self, parts: Sequence[pa.Table], keys: pa.StringArray, times_us: Int64Array) -> Int64Array:
        """Return the row that each moment sees, among those of all files; -1 where there is none."""
        every = pa.concat_tables(parts)
        encoded = every.column(self.key).cast(pa.string()).combine_chunks().dictionary_encode()
        moments = to_us(every.column(self.timestamp).combine_chunks(), what=f"the column {self.timestamp!r}")
        codes = encoded.indices.to_numpy().astype(np.int64)
        # Later files, and later rows of one, last: what was created at one time is told apart by nothing else.
        order = np.arange(len(every))
        if self.created:
            created = to_us(every.column(self.created).combine_chunks(), what=f"the column {self.created!r}")
            order = np.lexsort((created, moments))
        index = AsOfIndex(codes[order], moments[order], len(encoded.dictionary))
        wanted = pc.fill_null(pc.index_in(keys, value_set=encoded.dictionary), -1).cast(pa.int64()).to_numpy()
        stop = index.before(wanted, times_us + 1)  # at or before, as Feast has it
        seen = stop > index.first(wanted)
        seen &= wanted >= 0
        rows = np.full(len(keys), -1, dtype=np.int64)
        rows[seen] = order[np.asarray(index.order)[stop[seen] - 1]]
        if self.ttl_us:
            late = rows >= 0
            late[late] = moments[rows[late]] < times_us[late] - self.ttl_us
            rows[late] = -1
        return rows


def join_through_feast(
    store: Any, view: Any, keys: pa.StringArray, times_us: Int64Array, columns: Sequence[str]
) -> pa.Table:
    """Return what `AsOfFiles.join` does, by Feast's own historical retrieval: for any offline store.

    Each distinct row is sent once, with a number by which the answer is put back in order.

    Raises
    ------
    StoreError
        When the answer has not every row once.
    """
    pandas = import_optional("pandas", purpose="Feast's historical retrieval")
    (key,) = view.join_keys
    encoded = keys.dictionary_encode()
    pairs = np.stack([encoded.indices.to_numpy().astype(np.int64), times_us], axis=1)
    distinct, inverse = np.unique(pairs, axis=0, return_inverse=True)
    frame = pandas.DataFrame(
        {
            key: encoded.dictionary.take(pa.array(distinct[:, 0])).to_pylist(),
            "event_timestamp": pandas.to_datetime(distinct[:, 1], unit="us", utc=True),
            _ROW: np.arange(len(distinct)),
        }
    )
    features = [f"{view.name}:{name}" for name in columns]
    answer = store.get_historical_features(entity_df=frame, features=features).to_arrow()
    numbers = answer.column(_ROW).to_numpy() if _ROW in answer.column_names else np.empty(0)
    if len(numbers) != len(distinct) or len(np.unique(numbers)) != len(distinct):
        raise StoreError(
            f"{view.name} gave {len(numbers)} rows for {len(distinct)}: the offline store loses or doubles rows, see "
            "`llmfeat store probe`"
        )
    order = np.empty(len(distinct), dtype=np.int64)
    order[numbers.astype(np.int64)] = np.arange(len(distinct))
    return answer.select(list(columns)).take(pa.array(order[inverse.reshape(-1)]))


def _scattered(
    tables: Sequence[pa.Table],
    placed: Sequence[tuple[Int64Array, Int64Array]],
    n_rows: int,
    columns: list[str],
    names: list[str],
    files: Sequence[Path],
) -> pa.Table:
    """Return the rows of several tables, each where it belongs, null elsewhere."""
    position = np.full(n_rows, -1, dtype=np.int64)
    offset = 0
    for table, (rows, inverse) in zip(tables, placed, strict=True):
        position[rows] = offset + inverse
        offset += len(table)
    if not tables:
        schema = pq.read_schema(files[0])
        return pa.table([pa.nulls(n_rows, schema.field(name).type) for name in names], names=columns)
    together = pa.concat_tables(tables, promote_options="permissive").rename_columns(columns)
    return together.take(pa.array(position, mask=position < 0))
