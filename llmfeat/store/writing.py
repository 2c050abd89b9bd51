"""One view brought up to date with the parts of its table: in chunks, read back, and recorded at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.ahead import ahead
from llmfeat._base.progress import bar
from llmfeat.encode.changes import now_us
from llmfeat.encode.index import last_rows
from llmfeat.encode.manifest import Part
from llmfeat.encode.parts import read_part
from llmfeat.errors import InputError, StoreWriteError
from llmfeat.store.dialects.base import CHUNK_ROWS
from llmfeat.store.online import OnlineView
from llmfeat.store.state import STATE_ID, ViewState, parts_digest
from llmfeat.store.values import Raw, pack_bytes
from llmfeat.types import BoolArray

__all__ = ["Chunk", "TableRows", "ViewSummary", "write_view"]

_US_PER_S = 1_000_000


@dataclass(frozen=True)
class ViewSummary:
    """What a run did to one view, in ids.

    Attributes
    ----------
    view : str
        Its name.
    written : int
        Ids that were new or differed, read back after writing.
    cleared : int
        Ids that have nothing any more, written as empty.
    unchanged : int
        The rest.
    """

    view: str
    written: int
    cleared: int
    unchanged: int


@dataclass(frozen=True)
class Chunk:
    """Rows as the store takes them.

    Attributes
    ----------
    ids : list of str
        Each once.
    fields : dict of str to list of bytes
        The values of each field.
    nothing : ndarray of shape (n_ids,), bool
        Which ids have nothing: deleted, or without a text.
    is_stray : bool
        Whether the table does not name them.
    """

    ids: list[str]
    fields: Mapping[str, Sequence[bytes]]
    nothing: BoolArray
    is_stray: bool = False

    def part(self, rows: Sequence[int]) -> Chunk:
        """Return some of the rows."""
        fields = {name: [values[at] for at in rows] for name, values in self.fields.items()}
        return Chunk([self.ids[at] for at in rows], fields, self.nothing[list(rows)])


@dataclass(frozen=True)
class TableRows:
    """The parts of a table, and how a row of them becomes what a view holds.

    Attributes
    ----------
    folder : Path
        The table's.
    parts : tuple of Part
        Oldest first; of rows of one id the last counts.
    key : str
        The column of ids.
    columns : tuple of str
        The others that `pack` needs.
    pack : callable
        Makes a chunk of a table of these columns.
    """

    folder: Path
    parts: Sequence[Part]
    key: str
    columns: Sequence[str]
    pack: Callable[[pa.Table], Chunk]

    def n_ids(self) -> int:
        """Return how many ids the parts have, deleted ones included."""
        return len(self.ids())

    def ids(self) -> pa.Array:
        """Return these ids, each once."""
        parts = [read_part(self.folder, part, [self.key]).column(self.key) for part in self.parts]
        return pa.chunked_array([chunk for column in parts for chunk in column.chunks], pa.string()).unique()

    def latest(self, since: int) -> list[pa.Array]:
        """Return, for each part from `since` on, the rows that are the last of their id among these parts."""
        ids = [
            read_part(self.folder, part, [self.key]).column(self.key).combine_chunks() for part in self.parts[since:]
        ]
        encoded = pa.chunked_array([pa.array([], pa.string()), *ids]).combine_chunks().dictionary_encode()
        is_last = np.zeros(len(encoded), dtype=bool)
        is_last[last_rows(encoded)] = True
        ends = np.cumsum([len(part) for part in ids])
        return [pa.array(np.flatnonzero(each)) for each in np.split(is_last, ends[:-1])] if ids else []

    def chunks(self, since: int, rows: Sequence[pa.Array]) -> Iterator[Chunk]:
        """Yield the chunks of those rows."""
        for part, kept in zip(self.parts[since:], rows, strict=True):
            if len(kept):
                table = read_part(self.folder, part, [self.key, *self.columns]).take(kept)
                for begin in range(0, len(table), CHUNK_ROWS):
                    chunk = self.pack(table.slice(begin, CHUNK_ROWS))
                    if STATE_ID in chunk.ids:
                        raise InputError(
                            f"an id of {self.folder} is {STATE_ID!r}, which llmfeat keeps for itself: rename it"
                        )
                    yield chunk


def write_view(
    view: OnlineView,
    rows: TableRows,
    *,
    full: bool = False,
    cleared: Callable[[Sequence[str]], None] | None = None,
    progress: bool = False,
) -> ViewSummary:
    """Bring a view up to date with its table; see `materialize` for how.

    What the view's record says is there is not looked at again: with a record that fits the table, only rows of newer
    parts are written. Without one, or with `full`, every row is compared with what the store holds, or simply written;
    what a store that can be asked holds of ids that the table does not name, as one that was made anew, is cleared.
    `cleared` is told of the ids that have nothing any more.
    """
    state = view.state()
    is_known = state is not None and state.holds(rows.parts)
    since = state.n_parts if state is not None and is_known and not full else 0
    if since == len(rows.parts):
        return ViewSummary(view.name, 0, 0, rows.n_ids())
    kept = rows.latest(since)
    n_rows = sum(map(len, kept))
    compares = not full and not is_known
    run = _Run(view, state or ViewState())
    with bar(n_rows, what=f"writing {view.name}", unit="rows", shown=progress) as advance:
        for chunk in ahead(rows.chunks(since, kept)):
            n_ids = len(chunk.ids)
            if cleared is not None and chunk.nothing.any():
                cleared([chunk.ids[at] for at in np.flatnonzero(chunk.nothing).tolist()])
            if compares or state is None:
                held = view.dialect.held(chunk.ids, view.fields)
                run.raise_bound(max(held.times_us))
                if compares:
                    chunk = chunk.part(_differing(chunk, held.values))
            run.write(chunk)
            advance(n_ids)
    if not since:
        for strays in _strays(view, rows.ids()):
            if cleared is not None:
                cleared(strays.ids)
            run.write(strays)
    run.finish(rows.parts)
    n_ids = n_rows if not since else rows.n_ids()
    n_unchanged = n_ids - run.n_written - run.n_cleared + run.n_strays
    return ViewSummary(view.name, run.n_written, run.n_cleared, n_unchanged)


def _strays(view: OnlineView, known: pa.Array) -> Iterator[Chunk]:
    """Yield, as empty rows, the ids that a store holds something of, and a table does not name."""
    nothing = {field.name: pack_bytes([b""])[0] if str(field.dtype) == "Bytes" else b"" for field in view.view.features}
    empty = (None, b"", *nothing.values())
    for ids in view.dialect.ids() or ():
        there = pc.is_in(pa.array(ids, pa.string()), value_set=known).to_pylist()
        others = [key for key, is_known in zip(ids, there, strict=True) if not is_known and key != STATE_ID]
        held = view.dialect.read(others, view.fields) if others else {}
        strays = [key for at, key in enumerate(others) if any(values[at] not in empty for values in held.values())]
        if strays:
            fields = {name: [value] * len(strays) for name, value in nothing.items()}
            yield Chunk(strays, fields, np.ones(len(strays), dtype=bool), is_stray=True)


class _Run:
    """One run's writes: all of them later than anything that the view holds."""

    def __init__(self, view: OnlineView, state: ViewState) -> None:
        self.n_written = self.n_cleared = self.n_strays = 0
        self._view = view
        self._state = state
        self._moment_us = max(now_us(), state.bound_us + _US_PER_S)
        self._is_announced = False

    def raise_bound(self, held_us: int) -> None:
        """Write later than `held_us`, which something else may have put there."""
        if held_us >= self._moment_us:
            self._moment_us = held_us + _US_PER_S
            self._is_announced = False

    def write(self, chunk: Chunk) -> None:
        """Write a chunk and read it back."""
        if not chunk.ids:
            return
        if not self._is_announced:
            # Before the first row: should this process die, the next one writes later than it did.
            self._state = dataclasses.replace(self._state, bound_us=self._moment_us)
            self._view.put_state(self._state, moment_us=self._moment_us)
            self._is_announced = True
        self._view.dialect.write(chunk.ids, chunk.fields, self._moment_us)
        held = self._view.read(chunk.ids, list(chunk.fields))
        wrong = {
            key: None
            for name, values in chunk.fields.items()
            if held[name] != values
            for key, old, new in zip(chunk.ids, held[name], values, strict=True)
            if (old or None) != (new or None)  # Feast tells a value of nothing from none at all in some stores only
        }
        if wrong:
            raise StoreWriteError(
                f"{len(wrong)} of {len(chunk.ids)} rows read back from {self._view.name} are not what was written, "
                f"such as those of {[*wrong][:3]}: run again, and see whether something else writes to this view"
            )
        n_cleared = int(np.count_nonzero(chunk.nothing))
        self.n_cleared += n_cleared
        self.n_strays += len(chunk.ids) if chunk.is_stray else 0
        self.n_written += len(chunk.ids) - n_cleared

    def finish(self, parts: Sequence[Part]) -> None:
        """Record that the parts are in the store, all of them read back."""
        moment_us = max(self._moment_us, self._state.bound_us)
        state = dataclasses.replace(
            self._state,
            bound_us=moment_us,
            n_parts=len(parts),
            digest=parts_digest(parts),
            revision=self._state.revision + 1,
            finished_us=now_us(),
        )
        self._view.put_state(state, moment_us=moment_us + 1)


def _differing(chunk: Chunk, held: Mapping[str, Sequence[Raw]]) -> list[int]:
    """Return the rows that the store holds otherwise; nothing at all is as good as an empty row."""
    nothing = (None, b"", *pack_bytes([b""]))
    differing = []
    for at, is_nothing in enumerate(chunk.nothing.tolist()):
        old = [held[name][at] for name in chunk.fields]
        if is_nothing and all(value in nothing for value in old):
            continue
        if old != [values[at] for values in chunk.fields.values()]:
            differing.append(at)
    return differing
