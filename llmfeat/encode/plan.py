"""What keeping a table up to date would cost, before it is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmfeat._base.progress import bar
from llmfeat.encode.changes import Catalogue
from llmfeat.encode.engine import TextEncoder
from llmfeat.encode.generations import choose_generation, read_manifest
from llmfeat.encode.index import TableIndex
from llmfeat.text import ItemTemplate

__all__ = ["EncodePlan", "plan_table"]

_WINDOW_ROWS = 65_536
_TIMED_TEXTS = 256


@dataclass(frozen=True)
class EncodePlan:
    """What a run of `encode_table` would do.

    Attributes
    ----------
    new, changed, unchanged, deleted, missing, failed : int
        As in `EncodeSummary`, as far as it can be known beforehand.
    texts, tokens : int
        What would be encoded, equal texts counted each.
    minutes : float
        How long, from the tokens per second of some of these texts on this machine; nothing is taken off for texts that
        are equal, or that the cache holds.
    numerics : str
        The backend that would run.
    """

    new: int
    changed: int
    unchanged: int
    deleted: int
    missing: int
    failed: int
    texts: int
    tokens: int
    minutes: float
    numerics: str


def plan_table(
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
) -> EncodePlan:
    """Return what `encode_table` with the same parameters would do; some hundred texts are encoded to time it."""
    folder = Path(out)
    catalogue = Catalogue.read(items, template, item_id=item_id, valid_from=valid_from)
    ids = catalogue.ids
    generation = choose_generation(read_manifest(folder), encoder, template, share=share)
    index = TableIndex.read(folder, generation)
    changes = catalogue.changes(index, generation, encoder.truncate, max_texts=max_texts)
    n_new = n_changed = n_texts = n_tokens = 0
    timed: list[str] = []
    with bar(len(ids), what="counting tokens", unit="rows", shown=progress) as advance:
        for work in changes.windows(lambda: _WINDOW_ROWS):
            texts = work.texts.drop_null().to_pylist()
            # From everywhere in the first window: catalogues are often sorted.
            timed = timed or texts[:: max(1, len(texts) // _TIMED_TEXTS)][:_TIMED_TEXTS]
            n_texts += len(texts)
            n_tokens += int(encoder.count_tokens(texts).sum())
            n_new += int(np.count_nonzero(work.is_new))
            n_changed += int(np.count_nonzero(~work.is_new))
            advance(len(work))
    return EncodePlan(
        new=n_new,
        changed=n_changed + sum(map(len, changes.counts.moved)),
        unchanged=changes.counts.unchanged,
        deleted=len(index.absent_from(ids)) if delete else 0,
        missing=changes.counts.missing,
        failed=changes.counts.failed,
        texts=n_texts,
        tokens=n_tokens,
        minutes=n_tokens / encoder.tokens_per_s(timed) / 60 if timed else 0.0,
        numerics=encoder.numerics,
    )
