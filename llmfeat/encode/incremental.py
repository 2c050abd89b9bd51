"""Keeping a vector table up to date: only new and changed texts are encoded."""

from __future__ import annotations

import dataclasses
import hashlib
import time
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.frames import id_column, require_rows, time_column
from llmfeat._base.ids import IdIndex
from llmfeat.encode.engine import TextEncoder
from llmfeat.encode.manifest import MANIFEST_FILE, Generation, Manifest
from llmfeat.encode.table import PART_SCHEMA, live_rows, part_table, vector_bytes
from llmfeat.errors import DuplicateIdError, LLMFeatWarning
from llmfeat.text import ItemTemplate
from llmfeat.types import Int64Array

__all__ = ["EPOCH_US", "EncodeSummary", "encode_table"]

# The declared epoch of texts that come without `valid_from`: they count as known since 1970.
EPOCH_US = 0
_PART_ROWS = 20_000


@dataclass(frozen=True)
class EncodeSummary:
    """What one run of `encode_table` did, in items.

    Attributes
    ----------
    new, changed, unchanged, deleted : int
        Against what the table held; an item whose `valid_from` alone was corrected is changed, and costs no tokens.
    missing : int
        Items of this run without a text, among the new and changed ones and the unchanged alike.
    tokens : int
        Tokens that were encoded.
    seconds : float
        Wall time.
    """

    new: int
    changed: int
    unchanged: int
    deleted: int
    missing: int
    tokens: int
    seconds: float

    @property
    def encoded(self) -> int:
        """How many items were written."""
        return self.new + self.changed


def encode_table(
    items: Any,
    *,
    template: ItemTemplate,
    encoder: TextEncoder,
    out: str | Path,
    item_id: str = "item_id",
    valid_from: str | None = None,
    progress: bool = False,
) -> EncodeSummary:
    """Bring the vector table at `out` up to date with a catalogue, and say what changed.

    Parameters
    ----------
    items : data frame
        The whole catalogue, one row per item, pandas, polars or Arrow. An item that the table holds and the catalogue
        does not is deleted.
    template : ItemTemplate
        Renders a row to a text; an item without one is recorded as missing, not encoded.
    encoder : TextEncoder
        The model. Another one than the table was written with opens a generation of its own beside the old.
    out : str or Path
        The table's folder.
    item_id : str, default="item_id"
        The column of ids.
    valid_from : str, optional
        The column that says since when the text is known. Without it new items count as known since 1970 (they are
        counted in a warning), changed ones since now.
    progress : bool, default=False
        Whether to show a bar on standard error.

    Raises
    ------
    DuplicateIdError
        When an id comes twice.
    MissingColumnError, EmptyInputError, InputError
        See `ItemTemplate.render`; a catalogue without rows would delete the table.
    """
    started = time.perf_counter()
    folder = Path(out)
    ids = _distinct_ids(items, item_id)
    texts = template.render(items)
    fingerprint = encoder.table_fingerprint(template)
    manifest = Manifest.read(folder) if (folder / MANIFEST_FILE).exists() else Manifest()
    generation = manifest.generations.get(fingerprint) or Generation(
        fingerprint, encoder.artifact.fingerprint, encoder.numerics, template.fingerprint, encoder.dim
    )
    held = live_rows(folder, generation)
    hashes = [_text_hash(fingerprint, text) for text in texts]
    was = IdIndex(held.column("item_id").combine_chunks()).positions(ids)
    held_hashes = held.column("text_sha256").to_pylist()
    is_new = was < 0
    same = np.array([not new and held_hashes[at] == now for new, at, now in zip(is_new, was, hashes, strict=True)])
    now_us = int(datetime.now(UTC).timestamp() * 1e6)
    known_us = _known_since(items, valid_from, is_new=is_new, now_us=now_us)
    moved = np.zeros(len(ids), dtype=bool)
    if valid_from is not None and len(held):
        moved = same & (known_us != held.column("valid_from").cast(pa.int64()).to_numpy()[was])
    work = np.flatnonzero(~same)
    n_tokens = 0
    for begin in range(0, len(work), _PART_ROWS):
        chunk = work[begin : begin + _PART_ROWS]
        rows, chunk_tokens = _encode_rows(encoder, ids, texts, hashes, known_us, chunk, now_us, progress=progress)
        n_tokens += chunk_tokens
        generation = _append(folder, generation, rows)
        manifest = manifest.with_generation(generation, complete=False)
        manifest.write(folder)
    if moved.any():
        # The text is the same, when it became known was corrected: the vector is kept, not encoded again.
        generation = _append(folder, generation, _redated(held, was[moved], known_us[moved], now_us))
    gone = pc.filter(held.column("item_id"), pc.invert(pc.is_in(held.column("item_id"), value_set=ids)))
    if len(gone):
        generation = _append(folder, generation, _tombstones(gone.combine_chunks(), now_us))
    if moved.any() or len(gone) or manifest.current != fingerprint:
        manifest.with_generation(generation, complete=True).write(folder)
    return EncodeSummary(
        new=int(np.count_nonzero(is_new)),
        changed=int(np.count_nonzero(~same & ~is_new) + np.count_nonzero(moved)),
        unchanged=int(np.count_nonzero(same & ~moved)),
        deleted=len(gone),
        missing=sum(text is None for text in texts),
        tokens=n_tokens,
        seconds=time.perf_counter() - started,
    )


def _distinct_ids(items: Any, item_id: str) -> pa.StringArray:
    what = "the item catalogue"
    ids = id_column(items, item_id, what=what)
    require_rows(len(ids), what=what)
    counts = pc.value_counts(ids)
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    if twice:
        raise DuplicateIdError(
            f"{len(twice)} ids of {what} come more than once, such as {twice[:3]}: keep one row per item"
        )
    return ids


def _known_since(items: Any, valid_from: str | None, *, is_new: np.ndarray[Any, Any], now_us: int) -> Int64Array:
    if valid_from is not None:
        return time_column(items, valid_from, what="the item catalogue")
    if n_new := int(np.count_nonzero(is_new)):
        warnings.warn(
            f"{n_new} new items come without valid_from: their texts count as known since 1970, "
            "pass valid_from= if they became known later",
            LLMFeatWarning,
            stacklevel=3,
        )
    return np.where(is_new, EPOCH_US, now_us).astype(np.int64)


def _encode_rows(
    encoder: TextEncoder,
    ids: pa.StringArray,
    texts: list[str | None],
    hashes: list[str | None],
    known_us: Int64Array,
    chunk: Int64Array,
    now_us: int,
    *,
    progress: bool,
) -> tuple[pa.Table, int]:
    present = [(row, text) for row in chunk.tolist() if (text := texts[row]) is not None]
    wanted = [text for _, text in present]
    vectors = dict(
        zip((row for row, _ in present), vector_bytes(encoder.encode(wanted, progress=progress)), strict=True)
    )
    tokens = dict(zip((row for row, _ in present), encoder.count_tokens(wanted).tolist(), strict=True))
    rows = chunk.tolist()
    table = pa.Table.from_arrays(
        [
            ids.take(pa.array(chunk)),
            pa.array([vectors.get(row) for row in rows], pa.binary()),
            pa.array([hashes[row] for row in rows], pa.string()),
            pa.array([tokens.get(row, 0) for row in rows], pa.int32()),
            pa.array(np.zeros(len(rows), dtype=bool)),
            pa.array(known_us[chunk], pa.timestamp("us", "UTC")),
            pa.array(np.full(len(rows), now_us), pa.timestamp("us", "UTC")),
        ],
        schema=PART_SCHEMA,
    )
    return table, sum(tokens.values())


def _redated(held: pa.Table, rows: Int64Array, known_us: Int64Array, now_us: int) -> pa.Table:
    moments = {"valid_from": known_us, "written_at": np.full(len(rows), now_us)}
    kept = held.take(pa.array(rows))
    for name, values in moments.items():
        kept = kept.set_column(kept.column_names.index(name), name, pa.array(values, pa.timestamp("us", "UTC")))
    return kept


def _tombstones(gone: pa.StringArray, now_us: int) -> pa.Table:
    n_rows = len(gone)
    now = pa.array(np.full(n_rows, now_us), pa.timestamp("us", "UTC"))
    nothing = [pa.nulls(n_rows, pa.binary()), pa.nulls(n_rows, pa.string()), pa.array(np.zeros(n_rows, dtype=np.int32))]
    return pa.Table.from_arrays([gone, *nothing, pa.array(np.ones(n_rows, dtype=bool)), now, now], schema=PART_SCHEMA)


def _append(folder: Path, generation: Generation, rows: pa.Table) -> Generation:
    part = part_table(folder, generation.fingerprint, rows)
    return dataclasses.replace(generation, parts=(*generation.parts, part))


def _text_hash(fingerprint: str, text: str | None) -> str | None:
    # Beside the text the fingerprint enters, so that one text has another hash in each table.
    return None if text is None else hashlib.sha256(f"{fingerprint}\0{text}".encode()).hexdigest()
