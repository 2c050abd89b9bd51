"""From ids to positions, fast for a million rows and for one request."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat.types import Int64Array

__all__ = ["IdIndex", "columns_as_bytes", "columns_of_bytes", "ids_as_bytes", "ids_of_bytes"]


class IdIndex:
    """Positions of ids in a list of distinct ids.

    Parameters
    ----------
    ids : pyarrow.StringArray
        Distinct ids.
    """

    def __init__(self, ids: pa.StringArray) -> None:
        self.ids = ids

    def __getstate__(self) -> dict[str, pa.StringArray]:
        return {"ids": self.ids}

    def positions(self, wanted: pa.StringArray) -> Int64Array:
        """Return the position of each wanted id, int64, -1 where it is not known."""
        # Arrow hashes all known ids at each call, Python once: the first pays for a batch, the second for a request.
        if len(wanted) * 8 >= len(self.ids):
            found: Int64Array = pc.fill_null(pc.index_in(wanted, value_set=self.ids), -1).cast(pa.int64()).to_numpy()
            return found
        return np.fromiter((self._table.get(key, -1) for key in wanted.to_pylist()), np.int64, len(wanted))

    @cached_property
    def _table(self) -> dict[str, int]:
        return {key: position for position, key in enumerate(self.ids.to_pylist())}


def ids_as_bytes(ids: pa.StringArray) -> bytes:
    """Return ids as an Arrow stream: the state of what holds them, for formats that know no Arrow arrays."""
    return columns_as_bytes({"ids": ids})


def ids_of_bytes(state: bytes) -> pa.StringArray:
    """Return the ids of `ids_as_bytes`."""
    return columns_of_bytes(state)["ids"]


def columns_as_bytes(columns: Mapping[str, pa.Array]) -> bytes:
    """Return columns of one length as an Arrow stream."""
    batch = pa.record_batch(list(columns.values()), names=list(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def columns_of_bytes(state: bytes) -> pa.RecordBatch:
    """Return the columns of `columns_as_bytes`."""
    return pa.ipc.open_stream(state).read_next_batch()
