"""Vectors in the online store: written where they changed and read back, decoded straight from the response."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmfeat._base.frames import id_array
from llmfeat._base.optional import import_optional
from llmfeat._base.progress import bar
from llmfeat.encode.manifest import Manifest
from llmfeat.encode.table import latest_rows
from llmfeat.errors import StoreConfigError, StoreError, StoreWriteError
from llmfeat.store.repo import open_store
from llmfeat.store.views import VECTOR, view_name
from llmfeat.types import Float32Array, Int64Array

__all__ = ["FeastVectors", "OnlineSummary", "write_online"]

# Feast converts the first Arrow batch of a frame only; a chunk of this size is one batch.
_CHUNK_ROWS = 5000
_US_PER_S = 1_000_000
# What stands for "no vector": Feast drops a frame whose features are all null without a word.
_NOTHING = b""


@dataclass(frozen=True)
class OnlineSummary:
    """What one run of `write_online` did, in items.

    Attributes
    ----------
    written : int
        Vectors that were new or differed, read back after writing.
    cleared : int
        Items that had a vector online and have none any more.
    unchanged : int
        The rest.
    seconds : float
        Wall time.
    """

    written: int
    cleared: int
    unchanged: int
    seconds: float


class FeastVectors:
    """Item vectors read from the online store: a `VectorSource` for serving.

    Parameters
    ----------
    repo : str or Path
        The feature repository.
    fingerprint : str
        The generation to serve; a store that has no view of it is refused.

    Examples
    --------
    >>> serving = FeastVectors("feature_repo", fingerprint=table.fingerprint)  # doctest: +SKIP
    >>> features.set_params(vectors={"llm": serving}).transform(request)  # doctest: +SKIP
    """

    def __init__(self, repo: str | Path, *, fingerprint: str) -> None:
        self.repo = str(repo)
        self.fingerprint = fingerprint

    @property
    def dim(self) -> int:
        """The number of dimensions of a vector."""
        return int(self._view.tags["dim"])

    def lookup(self, ids: Any) -> Float32Array:
        """Return the vectors of `ids`, float32 of shape ``(len(ids), dim)``; NaN for those that the store lacks.

        Raises
        ------
        StoreError
            When a vector is not of the view's dimension.
        """
        encoded = id_array(ids).dictionary_encode()
        distinct = encoded.dictionary.to_pylist()
        cells, _ = _read(self._store, self._view.name, distinct)
        width = 4 * self.dim
        sizes = np.fromiter(map(len, cells), np.int64, len(cells))
        there = sizes == width
        if not np.all(there | (sizes == 0)):
            raise StoreError(
                f"{self._view.name} has vectors of {sorted(set(sizes.tolist()) - {0, width})} bytes, {width} were "
                "expected: something else writes to this view"
            )
        vectors = np.full((len(distinct), self.dim), np.nan, dtype=np.float32)
        vectors[there] = np.frombuffer(b"".join(cells), dtype="<f4").reshape(-1, self.dim)
        rows: Float32Array = vectors[encoded.indices.to_numpy()]
        return rows

    def __deepcopy__(self, memo: dict[int, Any]) -> FeastVectors:
        """Return itself: clones of an estimator share the connection."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave the connection out: it is opened again on use."""
        return {"repo": self.repo, "fingerprint": self.fingerprint}

    @cached_property
    def _store(self) -> Any:
        return open_store(self.repo)

    @cached_property
    def _view(self) -> Any:
        name = view_name(self.fingerprint)
        views = {view.name: view for view in self._store.list_feature_views()}
        if name not in views or views[name].tags.get("fingerprint") != self.fingerprint:
            raise StoreConfigError(
                f"{self.repo} has the views {sorted(views)}, but {name!r} was expected: encode with the model that "
                "the features were fitted with, and run `feast apply`"
            )
        return views[name]


def write_online(
    repo: str | Path, table: str | Path, *, fingerprint: str | None = None, progress: bool = False
) -> OnlineSummary:
    """Bring the online store up to date with a vector table, and read back what was written.

    Only vectors that differ from what the store holds are written, so a second run writes nothing, and a run after a
    crash writes what is left.

    Parameters
    ----------
    repo : str or Path
        The feature repository, already applied.
    table : str or Path
        A folder that `encode_table` wrote.
    fingerprint : str, optional
        The generation; the current one by default.
    progress : bool, default=False
        Whether to show a bar on standard error.

    Raises
    ------
    StoreConfigError
        When the repository has no view of that generation.
    StoreWriteError
        When what was read back is not what was written.
    """
    started = time.perf_counter()
    folder = Path(table)
    generation = Manifest.read(folder).generation(fingerprint, where=folder)
    serving = FeastVectors(repo, fingerprint=generation.fingerprint)
    store, view = serving._store, serving._view.name
    rows = latest_rows(folder, generation)
    ids = rows.column("item_id").to_pylist()
    wanted = [cell or _NOTHING for cell in rows.column("vector").to_pylist()]
    n_written = n_cleared = 0
    with bar(len(ids), what="writing online", unit="items", shown=progress) as advance:
        for begin in range(0, len(ids), _CHUNK_ROWS):
            chunk = slice(begin, begin + _CHUNK_ROWS)
            held, stored_us = _read(store, view, ids[chunk])
            differ = [at for at, (old, new) in enumerate(zip(held, wanted[chunk], strict=True)) if old != new]
            if differ:
                values = [wanted[chunk][at] for at in differ]
                _write(store, view, [ids[chunk][at] for at in differ], values, stored_us[differ])
                n_cleared += sum(value == _NOTHING for value in values)
                n_written += sum(value != _NOTHING for value in values)
            advance(len(ids[chunk]))
    return OnlineSummary(
        written=n_written,
        cleared=n_cleared,
        unchanged=len(ids) - n_written - n_cleared,
        seconds=time.perf_counter() - started,
    )


def _read(store: Any, view: str, ids: Sequence[str]) -> tuple[list[bytes], Int64Array]:
    """Return the bytes that the store holds for each id, empty where it has none, and their times in microseconds."""
    if not ids:
        return [], np.empty(0, dtype=np.int64)
    # `to_dict` would turn every byte string over once more; the message itself has what is needed.
    proto = store.get_online_features(features=[f"{view}:{VECTOR}"], entity_rows={"item_id": list(ids)}).proto
    column = proto.results[list(proto.metadata.feature_names.val).index(VECTOR)]
    # An absent value is an empty one: SQLite says NOT_FOUND and Redis says PRESENT, so the status decides nothing.
    cells = [value.bytes_val for value in column.values]
    if len(cells) != len(ids):
        raise StoreError(f"{view} gave {len(cells)} rows for {len(ids)} ids: the online store loses rows")
    times = [moment.seconds * _US_PER_S + moment.nanos // 1000 for moment in column.event_timestamps]
    return cells, np.array(times, dtype=np.int64)


def _write(store: Any, view: str, ids: list[str], values: list[bytes], stored_us: Int64Array) -> None:
    pandas = import_optional("pandas", purpose="writing to Feast")
    now_us = int(datetime.now(UTC).timestamp() * _US_PER_S)
    # Redis ignores a write at the stored time, SQLite lets an older one win: ours is later than both.
    moments = pandas.to_datetime(np.maximum(now_us, stored_us + _US_PER_S), unit="us", utc=True)
    frame = pandas.DataFrame({"item_id": ids, VECTOR: values, "valid_from": moments, "written_at": moments})
    store.write_to_online_store(view, frame)
    held, _ = _read(store, view, ids)
    wrong = [key for key, old, new in zip(ids, held, values, strict=True) if old != new]
    if wrong:
        raise StoreWriteError(
            f"{len(wrong)} of {len(ids)} vectors read back from {view} are not what was written, such as those of "
            f"{wrong[:3]}: run again, and see whether something else writes to this view"
        )
