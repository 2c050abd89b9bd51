"""What a catalogue changes in a table: every row is rendered and compared, and what differs is given out in windows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.frames import id_column, require_rows, time_column
from llmfeat._base.ids import IdIndex
from llmfeat._base.rows import RowBatch, RowSource, open_rows
from llmfeat.encode.index import TableIndex, hash_array
from llmfeat.encode.manifest import Generation
from llmfeat.errors import DuplicateIdError, InputError
from llmfeat.text import ItemTemplate, Truncate
from llmfeat.types import BoolArray, Int64Array

__all__ = ["WHAT", "Catalogue", "Changes", "Counts", "Work", "now_us", "read_ids"]

# The declared epoch of texts that come without `valid_from`, and that no generation has a time of.
EPOCH_US = 0
WHAT = "the item catalogue"


@dataclass(frozen=True)
class Work:
    """Rows that the table lacks, or has with another text.

    Attributes
    ----------
    ids : pyarrow.StringArray of length n
        Their ids.
    texts : pyarrow.StringArray of length n
        Their texts, null where an item has none.
    hashes : pyarrow.FixedSizeBinaryArray of length n
        Of fingerprint and text, null where an item has none.
    known_us : ndarray of shape (n,), int64
        Since when the text is known.
    is_new : ndarray of shape (n,), bool
        Whether the table lacks the id.
    """

    ids: pa.StringArray
    texts: pa.StringArray
    hashes: pa.FixedSizeBinaryArray
    known_us: Int64Array
    is_new: BoolArray

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, begin: int, end: int) -> Work:
        """Return the rows from `begin` up to `end`."""
        return Work(
            self.ids[begin:end],
            self.texts[begin:end],
            self.hashes[begin:end],
            self.known_us[begin:end],
            self.is_new[begin:end],
        )

    def keep(self, kept: BoolArray) -> Work:
        """Return some of the rows."""
        mask = pa.array(kept)
        return Work(
            self.ids.filter(mask),
            self.texts.filter(mask),
            self.hashes.filter(mask),
            self.known_us[kept],
            self.is_new[kept],
        )

    @staticmethod
    def join(parts: Sequence[Work]) -> Work:
        """Return the rows of several."""
        return Work(
            pa.concat_arrays([part.ids for part in parts]),
            pa.concat_arrays([part.texts for part in parts]),
            pa.concat_arrays([part.hashes for part in parts]),
            np.concatenate([part.known_us for part in parts]),
            np.concatenate([part.is_new for part in parts]),
        )


@dataclass
class Counts:
    """How many rows were passed, and what became of those that are no work.

    Attributes
    ----------
    passed, unchanged, missing, failed, remaining : int
        Rows in all; as the table has them; without a text; that are no Unicode text; beyond the bound of this run.
    moved, moved_us : list of ndarray, int64
        Positions in the index of the rows whose text is the same and whose `valid_from` is not, and the new one.
    failed_ids : list of str
        The first that failed.
    """

    passed: int = 0
    unchanged: int = 0
    missing: int = 0
    failed: int = 0
    remaining: int = 0
    moved: list[Int64Array] = field(default_factory=list)
    moved_us: list[Int64Array] = field(default_factory=list)
    failed_ids: list[str] = field(default_factory=list)


class Changes:
    """Compares a catalogue with a table.

    Parameters
    ----------
    source : RowSource
        The catalogue.
    ids : pyarrow.StringArray
        Its ids, in its order; see `read_ids`.
    index : TableIndex
        What the table holds.
    template : ItemTemplate
        Renders rows to texts.
    truncate : callable
        What cuts a field at its limit.
    fingerprint : str
        The table's.
    item_id : str
        The column of ids.
    valid_from : str or None
        The column of times.
    now_us : int
        The time of this run.
    max_texts : int or None
        How many texts are work at most.
    before : TableIndex or None
        What readers see so far, where that is another generation: new items keep the times that it has of them.
    """

    def __init__(
        self,
        source: RowSource,
        *,
        ids: pa.StringArray,
        index: TableIndex,
        template: ItemTemplate,
        truncate: Truncate,
        fingerprint: str,
        item_id: str,
        valid_from: str | None,
        now_us: int,
        max_texts: int | None = None,
        before: TableIndex | None = None,
    ) -> None:
        self.counts = Counts()
        self._source = source
        self._ids = ids
        self._index = index
        self._template = template
        self._truncate = truncate
        # Beside the text the fingerprint enters, so that one text has another hash in each table.
        self._salt = hashlib.sha256(f"{fingerprint}\0".encode())
        self._item_id = item_id
        self._valid_from = valid_from
        self._texts_left = max_texts
        self._at = IdIndex(index.ids).positions(ids)
        self._is_new = (self._at < 0) | index.deleted[self._at] if len(index) else np.ones(len(ids), dtype=bool)
        # Without a column of times: what was changed or came back is known since now.
        self._known_us = np.where(self._at < 0, EPOCH_US, now_us).astype(np.int64)
        if before is not None:
            was = IdIndex(before.ids).positions(ids)
            there = (self._at < 0) & (was >= 0)
            self._known_us[there] = np.where(before.deleted[was[there]], now_us, before.valid_from_us[was[there]])

    @property
    def n_undated(self) -> int:
        """How many items no time is known of."""
        return 0 if self._valid_from else int(np.count_nonzero(self._known_us == EPOCH_US))

    def windows(self, n_rows: Callable[[], int]) -> Iterator[Work]:
        """Yield the work in windows of about as many rows as `n_rows` says at the time, in the catalogue's order."""
        waiting: list[Work] = []
        n_waiting = 0
        for work in self._work():
            waiting.append(work)
            n_waiting += len(work)
            if n_waiting >= n_rows():
                joined, begin = Work.join(waiting), 0
                while n_waiting >= (size := n_rows()):
                    yield joined.part(begin, begin + size)
                    begin, n_waiting = begin + size, n_waiting - size
                waiting = [joined.part(begin, len(joined))]
        if n_waiting:
            yield Work.join(waiting)

    def _work(self) -> Iterator[Work]:
        columns = [self._item_id, *self._template.fields, *([self._valid_from] if self._valid_from else [])]
        begin = 0
        for batch in self._source.batches(list(dict.fromkeys(columns))):
            rows = slice(begin, begin + len(batch.table))
            begin = rows.stop
            if not id_column(batch.table, self._item_id, what=WHAT).equals(self._ids[rows]):
                raise InputError(f"{WHAT} gave other ids when it was read again: let nothing write to it meanwhile")
            work = self._compare(batch, rows)
            if len(work):
                yield work
        if begin != len(self._ids):
            raise InputError(f"{WHAT} had {len(self._ids)} rows, and {begin} when it was read again: run again")

    def _compare(self, batch: RowBatch, rows: slice) -> Work:
        counts, at, is_new = self.counts, self._at[rows], self._is_new[rows]
        truncate = self._truncate if self._template.limits else None
        texts = self._template.render_arrow(batch.table, truncate=truncate)
        hashes = self._hashes(texts)
        if self._valid_from is None:
            known_us = self._known_us[rows]
        else:
            known_us = time_column(batch.table, self._valid_from, what=WHAT)
        given_us, known_us = known_us, self._index.known_since(at, known_us)
        same = ~is_new
        same[same] = np.all(hash_array(hashes.filter(pa.array(same))) == self._index.hashes[at[same]], axis=1)
        same &= ~batch.unreadable
        moved = np.zeros(len(at), dtype=bool)
        if self._valid_from is not None:
            moved[same] = self._index.valid_from_us[at[same]] != given_us[same]
        counts.passed += len(at)
        counts.unchanged += int(np.count_nonzero(same & ~moved))
        counts.missing += int(np.count_nonzero(~batch.unreadable)) - int(
            np.count_nonzero(texts.is_valid().to_numpy(zero_copy_only=False) & ~batch.unreadable)
        )
        counts.moved.append(at[moved])
        counts.moved_us.append(given_us[moved])
        if batch.unreadable.any():
            unreadable = self._ids[rows].filter(pa.array(batch.unreadable))
            counts.failed += len(unreadable)
            counts.failed_ids += unreadable[: max(0, 3 - len(counts.failed_ids))].to_pylist()
        work = Work(self._ids[rows], texts, hashes, known_us, is_new).keep(~same & ~batch.unreadable)
        return self._within_bound(work)

    def _within_bound(self, work: Work) -> Work:
        if self._texts_left is None:
            return work
        n_texts = np.cumsum(work.texts.is_valid().to_numpy(zero_copy_only=False))
        n_rows = int(np.searchsorted(n_texts, self._texts_left, side="right"))
        self._texts_left -= int(n_texts[n_rows - 1]) if n_rows else 0
        self.counts.remaining += len(work) - n_rows
        return work.part(0, n_rows)

    def _hashes(self, texts: pa.StringArray) -> pa.FixedSizeBinaryArray:
        def hashed(text: bytes | None) -> bytes | None:
            if text is None:
                return None
            digest = self._salt.copy()
            digest.update(text)
            return digest.digest()

        raw = texts.cast(pa.large_binary() if pa.types.is_large_string(texts.type) else pa.binary())
        return pa.array([hashed(text) for text in raw.to_pylist()], pa.binary(32))


@dataclass(frozen=True)
class Catalogue:
    """Where rows come from, and how they are read.

    Attributes
    ----------
    source : RowSource
        The rows.
    ids : pyarrow.StringArray
        Their ids, in their order.
    template, item_id, valid_from
        See `encode_table`.
    """

    source: RowSource
    ids: pa.StringArray
    template: ItemTemplate
    item_id: str
    valid_from: str | None

    @classmethod
    def read(cls, items: Any, template: ItemTemplate, *, item_id: str, valid_from: str | None) -> Self:
        """Open a catalogue and read its ids; see `read_ids` for what it raises."""
        source = open_rows(items, what=WHAT, strings=(item_id, *template.fields))
        return cls(source, read_ids(source, item_id), template, item_id, valid_from)

    def changes(
        self,
        index: TableIndex,
        generation: Generation,
        truncate: Truncate,
        *,
        max_texts: int | None,
        before: TableIndex | None = None,
    ) -> Changes:
        """Return what it changes in a generation; see `Changes`."""
        return Changes(
            self.source,
            ids=self.ids,
            index=index,
            template=self.template,
            truncate=truncate,
            fingerprint=generation.fingerprint,
            item_id=self.item_id,
            valid_from=self.valid_from,
            now_us=now_us(),
            max_texts=max_texts,
            before=before,
        )


def read_ids(source: RowSource, item_id: str) -> pa.StringArray:
    """Return the ids of a catalogue.

    Raises
    ------
    DuplicateIdError
        When an id comes twice.
    EmptyInputError, InputError
        When there is no row, or a row has no id.
    """
    parts = [id_column(batch.table, item_id, what=WHAT) for batch in source.batches([item_id])]
    ids = pa.concat_arrays(parts) if parts else pa.array([], pa.string())
    require_rows(len(ids), what=WHAT)
    counts = pc.value_counts(ids)
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    if twice:
        raise DuplicateIdError(
            f"{len(twice)} ids of {WHAT} come more than once, such as {twice[:3]}: keep one row per item"
        )
    return ids


def now_us() -> int:
    """Return the time, in microseconds since 1970."""
    return int(datetime.now(UTC).timestamp() * 1e6)
