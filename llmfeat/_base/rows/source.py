"""What can be read in batches, over and over: the interface, and data frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import pyarrow as pa

from llmfeat._base.frames import to_frame
from llmfeat._base.rows.cells import CheckedColumn, from_arrow, from_series
from llmfeat.errors import InputError, MissingColumnError
from llmfeat.types import BoolArray

__all__ = ["FrameRows", "RowBatch", "RowSource"]


@dataclass(frozen=True)
class RowBatch:
    """Some rows of a catalogue.

    Attributes
    ----------
    table : pyarrow.Table
        The columns that were asked for. Where the source has no types of its own (JSON lines, objects of pandas), a
        column may have another type in another batch.
    unreadable : bool array of shape (n_rows,)
        Rows with a cell that is no Unicode text, such as a lone surrogate: that cell is null in `table`.
    """

    table: pa.Table
    unreadable: BoolArray

    @classmethod
    def from_columns(cls, columns: Mapping[str, CheckedColumn]) -> RowBatch:
        """Return columns, each with the marks of its unreadable cells, as a batch."""
        table = pa.table({name: array for name, (array, _) in columns.items()})
        return cls(table, np.logical_or.reduce([bad for _, bad in columns.values()]))

    @classmethod
    def from_table(cls, table: pa.Table) -> RowBatch:
        """Return an Arrow table, whose texts nobody checked yet, as a batch."""
        return cls.from_columns({name: from_arrow(table.column(name)) for name in table.column_names})


class RowSource(ABC):
    """Rows that can be read from the start as often as one likes; made by `open_rows`."""

    def __init__(self, what: str) -> None:
        self._what = what

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The names of the columns; of JSON lines, the keys that were seen so far."""

    @property
    def n_rows(self) -> int | None:
        """How many rows there are, None where only reading tells."""
        return None

    def batches(self, columns: Sequence[str], *, batch_rows: int = 65_536) -> Iterator[RowBatch]:
        """Return an iterator over the rows in order, `batch_rows` at a time, fewer in the last; empty without rows.

        Raises
        ------
        MissingColumnError
            When a column is not there; at once, not at the first batch.
        InputError
            When what is read is damaged, is not what its suffix says, or changed since it was opened.
        """
        wanted = list(dict.fromkeys(columns))
        if not wanted or batch_rows < 1:
            raise InputError(
                f"{len(wanted)} columns in batches of {batch_rows} rows were asked for, but at least one of each is "
                "needed: name a column, and pass batch_rows >= 1"
            )
        self._require(wanted)
        return self._read(wanted, batch_rows)

    def _require(self, wanted: list[str]) -> None:
        counts = Counter(self.columns)
        if missing := [name for name in wanted if not counts[name]]:
            raise MissingColumnError(
                f"{self._what} has the columns {list(self.columns)} but {missing} is needed: "
                "add it, or say which column holds it"
            )
        if twice := [name for name in wanted if counts[name] > 1]:
            raise InputError(f"{self._what} has several columns named {twice}, but one was expected: rename the others")

    @abstractmethod
    def _read(self, columns: list[str], batch_rows: int) -> Iterator[RowBatch]: ...


class FrameRows(RowSource):
    """The rows of a data frame of pandas, polars or Arrow."""

    def __init__(self, data: Any, what: str) -> None:
        super().__init__(what)
        try:
            self._frame = to_frame(data, what=what)
            self._columns = tuple(self._frame.columns)
        except nw.exceptions.DuplicateError as error:
            raise InputError(f"{what} has several columns of one name, but one was expected: rename them") from error

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return self._columns

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return len(self._frame)

    def _read(self, columns: list[str], batch_rows: int) -> Iterator[RowBatch]:
        whole = {name: self._frame.get_column(name) for name in columns}
        for begin in range(0, self.n_rows, batch_rows):
            part = {name: series[begin : begin + batch_rows] for name, series in whole.items()}
            yield RowBatch.from_columns({name: from_series(series) for name, series in part.items()})
