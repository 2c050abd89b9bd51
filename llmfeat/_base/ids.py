"""From ids to positions, fast for a million rows and for one request."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat.types import Int64Array

__all__ = ["IdIndex", "ids_as_bytes", "ids_of_bytes"]


class IdIndex:
    """Positions of ids in a list of distinct ids.

    Parameters
    ----------
    ids : pyarrow.StringArray
        Distinct ids.
    """

    def __init__(self, ids: pa.StringArray) -> None:
        self.ids = ids

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
    batch = pa.record_batch([ids], names=["ids"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def ids_of_bytes(state: bytes) -> pa.StringArray:
    """Return the ids of `ids_as_bytes`."""
    return pa.ipc.open_stream(state).read_next_batch().column(0)
