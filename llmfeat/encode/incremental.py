"""Keeping a vector table up to date: only new and changed texts are encoded."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmfeat._base.ahead import ahead
from llmfeat._base.progress import Advance, bar
from llmfeat.encode.changes import Catalogue, Changes, Work
from llmfeat.encode.engine import TextEncoder, finite
from llmfeat.encode.generations import choose_generation, locked, read_manifest, writing
from llmfeat.encode.index import TableIndex
from llmfeat.encode.manifest import Generation, Manifest
from llmfeat.encode.parts import PART_SCHEMA, read_part, sweep, vector_cells
from llmfeat.encode.writer import TableWriter
from llmfeat.errors import InputError, LLMFeatWarning
from llmfeat.text import ItemTemplate
from llmfeat.types import Int64Array

__all__ = ["EncodeSummary", "encode_table"]

# A part is what a killed process loses at most: about so many seconds of work, within these bounds.
_PART_S = 20.0
_FIRST_ROWS, _LEAST_ROWS = 256, 32
_MOST_FAILED = 100  # one in so many, for a generation to take the place of another


@dataclass(frozen=True)
class EncodeSummary:
    """What one run of `encode_table` did, in items.

    Attributes
    ----------
    new, changed, unchanged, deleted : int
        Against what the table held; an item whose `valid_from` alone was corrected is changed, and costs no tokens.
    missing : int
        Items of this run without a text, among the new and changed ones and the unchanged alike.
    failed : int
        Items whose text is no Unicode, or whose vector is not finite; the table keeps what it held of them.
    remaining : int
        New and changed items that `max_texts` left for the next run.
    tokens : int
        Tokens that were encoded; none for texts that the cache held.
    cached : int
        Texts that the cache held.
    seconds : float
        Wall time.
    texts_per_s : float
        Texts that were new or changed, per second of it.
    current : bool
        Whether this generation is what readers see. It becomes that when a whole catalogue is encoded: not while some
        of it remains, not by adding items to another one (``delete=False``), and not when one vector in a hundred is
        not finite.
    """

    new: int
    changed: int
    unchanged: int
    deleted: int
    missing: int
    failed: int
    remaining: int
    tokens: int
    cached: int
    seconds: float
    texts_per_s: float
    current: bool


def encode_table(
    items: Any,
    *,
    template: ItemTemplate,
    encoder: TextEncoder,
    out: str | Path,
    item_id: str = "item_id",
    valid_from: str | None = None,
    delete: bool = True,
    max_texts: int | None = None,
    share: bool = False,
    progress: bool = False,
) -> EncodeSummary:
    """Bring the vector table at `out` up to date with a catalogue, and say what changed.

    The catalogue is read twice, and never held: beside its ids and some 80 bytes per item, memory is bounded. A process
    that is killed leaves a whole table, and loses the texts of the last seconds; the next run goes on from there.

    Parameters
    ----------
    items : data frame, str or Path
        The whole catalogue, one row per item: pandas, polars or Arrow; or a parquet, csv or jsonl file, or a folder of
        parquet files.
    template : ItemTemplate
        Renders a row to a text; an item without one is recorded as missing, not encoded.
    encoder : TextEncoder
        The model. Another one than the table was written with opens a generation of its own beside the old.
    out : str or Path
        The table's folder.
    item_id : str, default="item_id"
        The column of ids.
    valid_from : str, optional
        The column that says since when the text is known. Without it new items have the time that the generation has
        which readers see, else count as known since 1970 (they are counted in a warning); changed ones are known since
        now.
    delete : bool, default=True
        Whether items that the table holds and the catalogue lacks are deleted; False to add a few items.
    max_texts : int, optional
        How many texts to encode at most; the next run goes on from there.
    share : bool, default=False
        Whether to go on with a generation of the same model and template that another backend wrote, where the
        artifact's certificate says that the two agree.
    progress : bool, default=False
        Whether to show a bar on standard error.

    Raises
    ------
    DuplicateIdError
        When an id comes twice.
    MissingColumnError, EmptyInputError, InputError
        See `ItemTemplate.render`; a catalogue without rows would delete the table.
    TableFingerprintError
        When `share` is asked for, and nothing says that the two backends agree.
    TableWriteError
        When another process writes to the table, the folder is read-only, or the disk is full.
    """
    started = time.perf_counter()
    if max_texts is not None and max_texts < 1:
        raise InputError(f"max_texts={max_texts!r}, but at least 1 was expected")
    folder = Path(out)
    catalogue = Catalogue.read(items, template, item_id=item_id, valid_from=valid_from)
    ids = catalogue.ids
    with locked(folder):
        manifest = read_manifest(folder)
        generation = choose_generation(manifest, encoder, template, share=share)
        with writing(folder):
            sweep(folder, [*manifest.generations.values(), generation])
        index = TableIndex.read(folder, generation)
        before = _before(folder, manifest, generation) if valid_from is None else None
        changes = catalogue.changes(index, generation, encoder.truncate, max_texts=max_texts, before=before)
        if changes.n_undated:
            warnings.warn(
                f"{changes.n_undated} new items come without valid_from: their texts count as known since 1970, "
                "pass valid_from= if they became known later",
                LLMFeatWarning,
                stacklevel=2,
            )
        run = _Run(TableWriter(folder, manifest, generation), encoder)
        with bar(len(ids), what=f"encoding with {encoder.numerics}", unit="rows", shown=progress) as advance:
            for work in ahead(changes.windows(run.window_rows)):
                run.encode(work, changes, advance)
            advance(len(ids) - run.n_shown)
        n_moved = run.redate(index, changes)
        gone = index.absent_from(ids) if delete else np.empty(0, dtype=np.int64)
        run.delete(index, gone)
        current = run.complete(whole=not changes.counts.remaining, every=delete)
    counts = changes.counts
    n_failed = counts.failed + run.n_failed
    if n_failed:
        warnings.warn(
            f"{n_failed} items were not encoded, such as {[*counts.failed_ids, *run.failed_ids][:3]}: their text is no "
            "Unicode, or their vector is not finite; what the table held of them is kept",
            LLMFeatWarning,
            stacklevel=2,
        )
    if not current and not counts.remaining:
        warnings.warn(
            f"readers of {folder} see what they saw before: a generation takes the place of another one only when all "
            "items are given (delete=True), and nearly all vectors are finite",
            LLMFeatWarning,
            stacklevel=2,
        )
    seconds = time.perf_counter() - started
    return EncodeSummary(
        new=run.n_new,
        changed=run.n_changed + n_moved,
        unchanged=counts.unchanged,
        deleted=len(gone),
        missing=counts.missing,
        failed=n_failed,
        remaining=counts.remaining,
        tokens=run.n_tokens(),
        cached=run.n_cached(),
        seconds=seconds,
        texts_per_s=run.n_texts / seconds,
        current=current,
    )


class _Run:
    """One run's writing: parts and manifests, and how many rows of which kind."""

    def __init__(self, writer: TableWriter, encoder: TextEncoder) -> None:
        self.n_new = self.n_changed = self.n_texts = self.n_shown = self.n_failed = 0
        self.failed_ids: list[str] = []
        self._writer = writer
        self._encoder = encoder
        self._most_rows = max(_LEAST_ROWS, writer.most_rows)
        self._rows = min(_FIRST_ROWS, self._most_rows)
        self._before = (encoder.tally.tokens, encoder.tally.cached, encoder.tally.texts)
        self._started = time.perf_counter()

    def window_rows(self) -> int:
        """Return how many rows the next part should have."""
        return self._rows

    def n_tokens(self) -> int:
        """Return how many tokens were encoded."""
        return self._encoder.tally.tokens - self._before[0]

    def n_cached(self) -> int:
        """Return how many texts the cache held."""
        return self._encoder.tally.cached - self._before[1]

    def encode(self, work: Work, changes: Changes, advance: Advance) -> None:
        """Encode a window of rows and write it as a part."""
        started = time.perf_counter()
        there = work.texts.is_valid().to_numpy(zero_copy_only=False)
        texts = work.texts.drop_null().to_pylist()
        vectors = self._encoder.encode_raw(texts, done=lambda rows: self._show(len(rows), changes, advance))
        n_tokens = np.zeros(len(work), dtype=np.int32)
        n_tokens[there] = self._encoder.count_tokens(texts)
        whole = finite(vectors)
        kept = np.ones(len(work), dtype=bool)
        kept[np.flatnonzero(there)[~whole]] = False
        failed = work.ids.filter(pa.array(~kept))
        self.n_failed += len(failed)
        self.failed_ids += failed[: max(0, 3 - len(self.failed_ids))].to_pylist()
        work = work.keep(kept)
        self._writer.append(
            pa.table(
                [
                    work.ids,
                    vector_cells(vectors[whole], there[kept]),
                    pa.array(n_tokens[kept], mask=~there[kept]),
                    work.hashes,
                    pa.array(np.zeros(len(work), dtype=bool)),
                    _times(work.known_us),
                    _times(np.full(len(work), self._writer.written_us)),
                ],
                schema=PART_SCHEMA,
            ),
            numerics=self._encoder.numerics,
        )
        self.n_texts += int(np.count_nonzero(there[kept]))
        self.n_new += int(np.count_nonzero(work.is_new))
        self.n_changed += int(np.count_nonzero(~work.is_new))
        self._show(max(0, changes.counts.passed - self._rows - self.n_shown), changes, advance)
        rows_per_s = len(work) / (time.perf_counter() - started)
        self._rows = int(min(max(_LEAST_ROWS, rows_per_s * _PART_S), 2 * self._rows, self._most_rows))

    def redate(self, index: TableIndex, changes: Changes) -> int:
        """Write the rows whose `valid_from` alone was corrected, with the vectors that they have; return how many."""
        moved = np.concatenate([np.empty(0, dtype=np.int64), *changes.counts.moved])
        known_us = np.zeros(len(index), dtype=np.int64)
        known_us[moved] = np.concatenate([np.empty(0, dtype=np.int64), *changes.counts.moved_us])
        for number, positions in index.by_part(moved):
            part = self._writer.generation.parts[number]
            rows = read_part(self._writer.folder, part).take(pa.array(index.row[positions]))
            moments = {
                "valid_from": known_us[positions],
                "written_at": np.full(len(positions), self._writer.written_us),
            }
            for name, values in moments.items():
                rows = rows.set_column(rows.column_names.index(name), name, _times(values))
            self._writer.append(rows, numerics=part.numerics)
        return len(moved)

    def delete(self, index: TableIndex, gone: Int64Array) -> None:
        """Write that ids, by their positions in an index, are gone."""
        self._writer.delete(index, gone, numerics=self._encoder.numerics)

    def complete(self, *, whole: bool, every: bool) -> bool:
        """Make the generation what readers see when it is `whole`; return whether it is that.

        In place of another one only a run over `every` item does so, of whose vectors nearly all are finite.
        """
        generation, current = self._writer.generation, self._writer.manifest.current
        if current == generation.fingerprint:
            return True
        better = every and self.n_failed * _MOST_FAILED <= self.n_texts
        if not whole or not (better if current else generation.parts):
            return False
        self._writer.complete()
        return True

    def _show(self, n_rows: int, changes: Changes, advance: Advance) -> None:
        n_rows = min(n_rows, changes.counts.passed - self.n_shown)
        tally = self._encoder.tally
        tokens_per_s = self.n_tokens() / (time.perf_counter() - self._started)
        share = self.n_cached() / max(1, tally.texts - self._before[2])
        advance(n_rows, f"{tokens_per_s:,.0f} tokens/s, {share:.0%} cached")
        self.n_shown += n_rows


def _before(folder: Path, manifest: Manifest, generation: Generation) -> TableIndex | None:
    """Return the index of what readers see, where that is another generation."""
    if manifest.current in (None, generation.fingerprint):
        return None
    return TableIndex.read(folder, manifest.generation(where=folder))


def _times(values_us: Int64Array) -> pa.Array:
    return pa.array(values_us, pa.timestamp("us", "UTC"))
