"""`verify`: what the online store holds against what it is made of, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmfeat._base.progress import bar
from llmfeat.encode.manifest import Manifest
from llmfeat.errors import InputError
from llmfeat.history import UserHistory
from llmfeat.store.definitions import RepoTables
from llmfeat.store.dialects.base import CHUNK_ROWS
from llmfeat.store.histories import FIELDS, history_cells
from llmfeat.store.materialize import history_table_rows, scalar_table_rows, vector_rows, wanted_generations
from llmfeat.store.online import OnlineView, open_view
from llmfeat.store.repo import open_store
from llmfeat.store.values import Raw, pack_bytes, unpack_bytes
from llmfeat.store.writing import Chunk, TableRows

__all__ = ["ViewCheck", "verify"]


@dataclass(frozen=True)
class ViewCheck:
    """What was compared of one view.

    Attributes
    ----------
    view : str
        Its name.
    n_compared : int
        Ids, deleted ones among them.
    differing : tuple of str
        Ids whose bytes are other ones online than offline.
    n_behind : int
        Parts of the table that were never materialized: `materialize` writes them, and they explain some differences.
    """

    view: str
    n_compared: int
    differing: tuple[str, ...]
    n_behind: int


def verify(
    repo: str | Path, *, sample: int | None = 1000, seed: int | None = None, progress: bool = False
) -> tuple[ViewCheck, ...]:
    """Compare the online store with its tables and its log, and return what differs.

    Vectors and scalars are compared with the latest row of the table; histories with the log itself.

    Parameters
    ----------
    repo : str or Path
        The applied repository.
    sample : int or None, default=1000
        How many ids of each view are drawn; None for all.
    seed : int, optional
        Of the draw; another one at every call by default.
    progress : bool, default=False
        Whether to show a bar on standard error.

    Raises
    ------
    StoreConfigError
        When the repository lacks a view.
    """
    if sample is not None and sample < 1:
        raise InputError(f"sample={sample!r}, but at least 1 was expected; None for all")
    draw = np.random.default_rng(seed)
    tables, store = RepoTables.of(repo), open_store(repo)
    checks = []

    def opened(fingerprint: str, kind: str) -> OnlineView:
        return open_view(store, fingerprint, kind, where=repo)

    for generation in wanted_generations(tables, None):
        rows = vector_rows(tables.sources.items, generation)
        checks.append(_of_table(opened(generation.fingerprint, "item_vectors"), rows, sample, draw, progress))
        scalars = tables.scalars(generation).require()
        checks.append(
            _of_table(opened(scalars.fingerprint, "item_scalars"), scalar_table_rows(scalars), sample, draw, progress)
        )
    if tables.log is not None:
        histories = tables.histories().require()
        view = opened(histories.fingerprint, "user_histories")
        checks.append(_of_log(view, tables, history_table_rows(histories), sample, draw, progress))
    if tables.sources.users is not None:
        folder = tables.sources.users
        generation = Manifest.read(folder).generation(where=folder)
        rows = vector_rows(folder, generation)
        checks.append(_of_table(opened(generation.fingerprint, "user_vectors"), rows, sample, draw, progress))
    return tuple(checks)


def _of_table(
    view: OnlineView, rows: TableRows, sample: int | None, draw: np.random.Generator, progress: bool
) -> ViewCheck:
    kept = rows.latest(0)
    n_rows = sum(map(len, kept))
    chosen = _chosen(n_rows, sample, draw)
    ends = np.cumsum([len(part) for part in kept])
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1])) if kept else []
    begins = ends - [len(part) for part in kept]
    picked = [part.take(pa.array(at - begin)) for part, at, begin in zip(kept, parts, begins, strict=True)]
    differing: list[str] = []
    with bar(len(chosen), what=f"verifying {view.name}", unit="ids", shown=progress) as advance:
        for chunk in rows.chunks(0, picked):
            differing += _compared(view, chunk)
            advance(len(chunk.ids))
    return ViewCheck(view.name, len(chosen), tuple(differing), _behind(view, rows))


def _of_log(
    view: OnlineView,
    tables: RepoTables,
    rows: TableRows,
    sample: int | None,
    draw: np.random.Generator,
    progress: bool,
) -> ViewCheck:
    log = tables.log
    assert log is not None, "the caller looked"
    chosen = _chosen(len(log.user_ids), sample, draw)
    ids = log.user_ids.take(pa.array(chosen)).to_pylist()
    differing: list[str] = []
    with bar(len(ids), what=f"verifying {view.name}", unit="ids", shown=progress) as advance:
        for begin in range(0, len(ids), CHUNK_ROWS):
            some = ids[begin : begin + CHUNK_ROWS]
            cells: Sequence[Mapping[str, bytes]] = [
                history_cells(UserHistory.of_log(log, user, max_events=tables.sources.max_events)) for user in some
            ]
            fields = {name: pack_bytes([cell[name] for cell in cells]) for name in FIELDS}
            differing += _compared(view, Chunk(some, fields, np.zeros(len(some), dtype=bool)))
            advance(len(some))
    return ViewCheck(view.name, len(ids), tuple(differing), _behind(view, rows))


def _chosen(n_rows: int, sample: int | None, draw: np.random.Generator) -> Any:
    if sample is None or sample >= n_rows:
        return np.arange(n_rows)
    return np.sort(draw.choice(n_rows, size=sample, replace=False))


def _compared(view: OnlineView, chunk: Chunk) -> list[str]:
    held = view.read(chunk.ids, list(chunk.fields))
    differing = []
    for at, key in enumerate(chunk.ids):
        if any(not _same(held[name][at], values[at], bool(chunk.nothing[at])) for name, values in chunk.fields.items()):
            differing.append(key)
    return differing


def _same(held: Raw, value: bytes, is_nothing: bool) -> bool:
    # What was deleted before it was ever written is as absent as what was emptied.
    return held == value or (is_nothing and (held is None or not unpack_bytes(held)))


def _behind(view: OnlineView, rows: TableRows) -> int:
    state = view.state()
    return len(rows.parts) - (state.n_parts if state is not None and state.holds(rows.parts) else 0)
