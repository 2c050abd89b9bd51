"""`materialize`: a repository's online store brought up to date with its table, its log and its code book."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmfeat._base.files import claimed
from llmfeat.encode.manifest import Generation, Manifest
from llmfeat.errors import InputError, StoreConfigError, StoreWriteError, TableFingerprintError
from llmfeat.store.definitions import RepoTables
from llmfeat.store.histories import FIELDS, USER_KEY, history_rows
from llmfeat.store.online import open_view
from llmfeat.store.repo import open_store
from llmfeat.store.scalars import COUNTED, ITEM_KEY, TEXT_HASH, scalar_rows
from llmfeat.store.snapshots import SnapshotTable
from llmfeat.store.stream import drop_pushed
from llmfeat.store.values import pack_bytes, pack_numbers
from llmfeat.store.views import VECTOR
from llmfeat.store.writing import Chunk, TableRows, ViewSummary, write_view

__all__ = [
    "WHAT",
    "MaterializeSummary",
    "OnlineSummary",
    "history_table_rows",
    "materialize",
    "scalar_table_rows",
    "vector_rows",
    "wanted_generations",
    "write_online",
]

WHAT = ("items", "scalars", "histories", "users")


@dataclass(frozen=True)
class MaterializeSummary:
    """What a run did.

    Attributes
    ----------
    views : tuple of ViewSummary
        By view.
    seconds : float
        Wall time.
    """

    views: tuple[ViewSummary, ...]
    seconds: float

    @property
    def written(self) -> int:
        """Rows that were written, of all views."""
        return sum(view.written for view in self.views)

    @property
    def cleared(self) -> int:
        """Rows that were emptied, of all views."""
        return sum(view.cleared for view in self.views)


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


def materialize(
    repo: str | Path,
    *,
    only: Sequence[str] = WHAT,
    fingerprints: Sequence[str] | None = None,
    full: bool = False,
    progress: bool = False,
) -> MaterializeSummary:
    """Bring the online store of an applied repository up to date, and say what was written.

    In order: item vectors, scalars of items, histories, vectors of users. Of each view only what changed since the run
    that its record speaks of is written, in chunks of 5,000 rows, each read back; then the record. A process that dies
    at any moment leaves every row whole, old or new, and the next run writes what is left: rows carry a time later than
    any that the store holds, so that neither SQLite, where the last write wins, nor Redis, whose own writer ignores
    what is not later, can keep an old one. Deleted items and users are written as empty. A second run writes nothing.

    Parameters
    ----------
    repo : str or Path
        The repository: ``llmfeat.toml`` names its table and its log.
    only : sequence of str, default=("items", "scalars", "histories", "users")
        Which of these to look at; scalars bring the items along.
    fingerprints : sequence of str, optional
        The generations of the vector table, or their first digits; by default the current one and those that a
        registered ranker serves.
    full : bool, default=False
        Whether to write every row, whatever the records say: after a server lost some, say.
    progress : bool, default=False
        Whether to show a bar on standard error.

    Raises
    ------
    StoreConfigError
        When the repository lacks a view: run ``feast apply`` after a model, the log's delay or a code book changed.
    StoreWriteError
        When what was read back is not what was written, or another process is materializing.
    """
    unknown = set(only) - set(WHAT)
    if unknown or not only:
        raise InputError(f"only={list(only)!r}, but some of {list(WHAT)} were expected")
    started = time.perf_counter()
    tables, store = RepoTables.of(repo), open_store(repo)
    _require_lasting(store, repo)
    if "users" in only and set(only) != set(WHAT) and tables.sources.users is None:
        raise StoreConfigError(f"{repo} names no vectors of users: set users.table in llmfeat.toml")
    summaries: list[ViewSummary] = []
    with _alone(tables.sources.repo):

        def write(fingerprint: str, kind: str, rows: TableRows, **options: Any) -> None:
            view = open_view(store, fingerprint, kind, where=repo)
            summaries.append(write_view(view, rows, full=full, progress=progress, **options))

        for generation in wanted_generations(tables, fingerprints):
            if "items" in only or "scalars" in only:  # a hash of a text says that the text's vector is there
                write(generation.fingerprint, "item_vectors", vector_rows(tables.sources.items, generation))
            if "scalars" in only:
                scalars = tables.scalars(generation)
                rows = scalar_rows(tables.sources.items, generation, book=tables.book, log=tables.log)
                scalars = scalars.update(rows, counted=COUNTED if tables.log is not None else ())
                write(scalars.fingerprint, "item_scalars", scalar_table_rows(scalars))
        if "histories" in only and tables.log is not None:
            histories = tables.histories()
            histories = histories.update(history_rows(tables.log, max_events=tables.sources.max_events))
            events = open_view(store, histories.fingerprint, "user_events", where=repo)
            drop = functools.partial(drop_pushed, events, until_us=int(tables.log.times_us.max()))
            write(histories.fingerprint, "user_histories", history_table_rows(histories), cleared=drop)
        if "users" in only and tables.sources.users is not None:
            folder = tables.sources.users
            generation = Manifest.read(folder).generation(where=folder)
            write(generation.fingerprint, "user_vectors", vector_rows(folder, generation))
    return MaterializeSummary(tuple(summaries), time.perf_counter() - started)


def write_online(
    repo: str | Path, table: str | Path, *, fingerprint: str | None = None, progress: bool = False
) -> OnlineSummary:
    """Bring the online view of one vector table up to date: `materialize` for a repository of anybody's making.

    Parameters
    ----------
    repo : str or Path
        The feature repository, already applied, with the objects of `feature_views`.
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
        When what was read back is not what was written, or another process is materializing.
    """
    started = time.perf_counter()
    folder = Path(table)
    generation = Manifest.read(folder).generation(fingerprint, where=folder)
    store = open_store(repo)
    _require_lasting(store, repo)
    view = open_view(store, generation.fingerprint, "item_vectors", where=repo)
    with _alone(Path(repo)):
        done = write_view(view, vector_rows(folder, generation), progress=progress)
    return OnlineSummary(done.written, done.cleared, done.unchanged, time.perf_counter() - started)


def vector_rows(folder: Path, generation: Generation) -> TableRows:
    """Return the rows of a vector table's generation, for `write_view`."""

    def pack(rows: pa.Table) -> Chunk:
        cells = rows.column("vector").to_pylist()
        nothing = np.fromiter((not cell for cell in cells), bool, len(cells))
        return Chunk(rows.column(ITEM_KEY).to_pylist(), {VECTOR: pack_bytes(cells)}, nothing)

    return TableRows(folder, generation.parts, ITEM_KEY, (VECTOR,), pack)


def history_table_rows(table: SnapshotTable) -> TableRows:
    """Return the rows of a table of histories, for `write_view`."""

    def pack(rows: pa.Table) -> Chunk:
        fields = {name: pack_bytes(rows.column(name).to_pylist()) for name in FIELDS}
        return Chunk(rows.column(USER_KEY).to_pylist(), fields, rows.column("deleted").to_numpy())

    return TableRows(table.folder, table.parts, USER_KEY, (*FIELDS, "deleted"), pack)


def scalar_table_rows(table: SnapshotTable) -> TableRows:
    """Return the rows of a table of scalars, for `write_view`."""
    names = [name for name, _ in table.fields]

    def pack(rows: pa.Table) -> Chunk:
        fields: Mapping[str, Any] = {
            name: pack_bytes(rows.column(name).to_pylist())
            if name == TEXT_HASH
            else pack_numbers(rows.column(name).to_pylist(), field="int64_val")
            for name in names
        }
        return Chunk(rows.column(ITEM_KEY).to_pylist(), fields, rows.column("deleted").to_numpy())

    return TableRows(table.folder, table.parts, ITEM_KEY, (*names, "deleted"), pack)


def wanted_generations(tables: RepoTables, fingerprints: Sequence[str] | None) -> list[Generation]:
    """Return generations by fingerprint; by default the current one, and those that a registered ranker serves."""
    folder = tables.sources.items
    manifest = Manifest.read(folder)
    if fingerprints is None:
        served = [name for name in tables.served() if name in manifest.generations]
        fingerprints = list(dict.fromkeys([manifest.generation(where=folder).fingerprint, *served]))
    every = list(manifest.generations)
    found = {name: [one for one in every if one.startswith(name)] for name in fingerprints}
    unknown = [name[:12] for name, ones in found.items() if len(ones) != 1]
    if unknown:
        raise TableFingerprintError(
            f"{folder} holds the generations {[name[:12] for name in manifest.generations]}, but {unknown} were "
            "asked for: encode with those models, or name others"
        )
    return [manifest.generations[ones[0]] for ones in found.values()]


def _require_lasting(store: Any, repo: str | Path) -> None:
    """Raise where rows would expire: what does not change is not written again."""
    ttl_s = getattr(store.config.online_store, "key_ttl_seconds", None)
    if ttl_s:
        raise StoreConfigError(
            f"{repo} has key_ttl_seconds: {ttl_s} under online_store, but rows that do not change are not written "
            "again, and would be gone by then: remove it"
        )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the repository against other runs of this machine; a process that dies lets go."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(claimed(folder))
        except BlockingIOError as error:
            raise StoreWriteError(
                f"another process materializes from {folder}: wait for it to end, then run again"
            ) from error
        yield
