"""What a feature store holds of an item beside its vector: a few numbers, and what tells one text from another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.files import canonical_json, text_sha256
from llmfeat.encode import VectorTable
from llmfeat.encode.manifest import Generation
from llmfeat.encode.table import latest_rows
from llmfeat.history import InteractionLog
from llmfeat.store.config import RepoSources
from llmfeat.store.snapshots import SnapshotTable

if TYPE_CHECKING:
    from llmfeat.features.semantic import SemanticIds

__all__ = ["COUNTED", "ITEM_KEY", "TEXT_HASH", "scalar_rows", "scalars_table"]

ITEM_KEY = "item_id"
TEXT_HASH = "text_hash"
COUNTED = ("popularity",)
"""What is counted of a log as it is when a run begins."""
_LAYOUT = 1
_HASH_BYTES = 8


def scalars_table(
    sources: RepoSources, generation: Generation, *, book: SemanticIds | None, has_log: bool
) -> SnapshotTable:
    """Return where the scalars of a generation's items are kept; `SnapshotTable.opened` reads it."""
    levels = book.trie_.n_levels if book is not None else 0
    fields = [("has_text", pa.int64()), ("n_tokens", pa.int64()), (TEXT_HASH, pa.binary())]
    if has_log:
        fields.append(("popularity", pa.int64()))
    fields += [(f"semantic_level{level}", pa.int64()) for level in range(1, levels + 1)]
    identity = {
        "kind": "item_scalars",
        "layout": _LAYOUT,
        "vectors": generation.fingerprint,
        "book": book.fingerprint_ if book is not None else None,
        "popularity": has_log,
    }
    folder = sources.repo / "data" / "item_scalars"
    return SnapshotTable(folder, text_sha256(canonical_json(identity)), ITEM_KEY, tuple(fields))


def scalar_rows(
    folder: Path, generation: Generation, *, book: SemanticIds | None, log: InteractionLog | None
) -> pa.Table:
    """Return a row for each item of a generation that is not deleted, valid from when its text was known.

    ``popularity`` is how many events the log holds of the item. Nobody could know it before it was counted,
    whatever the events' times are: see `SnapshotTable.update`, which is told of `COUNTED`.
    """
    rows = latest_rows(folder, generation, ["item_id", "n_tokens", "text_sha256", "deleted", "valid_from"])
    rows = rows.filter(pc.invert(rows.column("deleted")))
    ids = rows.column("item_id").combine_chunks()
    hashes = rows.column("text_sha256")
    columns = {
        ITEM_KEY: ids,
        "has_text": pc.cast(pc.is_valid(hashes), pa.int64()),
        "n_tokens": pc.fill_null(rows.column("n_tokens"), 0).cast(pa.int64()),
        TEXT_HASH: pc.binary_slice(hashes.cast(pa.binary()), 0, _HASH_BYTES),
    }
    if log is not None:
        counts = np.bincount(log.item_codes, minlength=len(log.item_ids))
        codes = log.item_code(ids)
        columns["popularity"] = pa.array(np.where(codes >= 0, counts[codes], 0).astype(np.int64))
    if book is not None:
        table = VectorTable.open(folder, fingerprint=generation.fingerprint)
        levels = book.item_codes(table).lookup(ids).astype(np.int64)
        for level in range(levels.shape[1]):
            columns[f"semantic_level{level + 1}"] = pa.array(levels[:, level])
    return pa.table({**columns, "valid_from": rows.column("valid_from")})
