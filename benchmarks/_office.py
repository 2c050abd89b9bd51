"""Office Products as stages of next-item ranking, from events that have an order and no times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmfeat.evaluate.next_item.queries import Stage, stages_of_histories
from llmfeat.history import Sequences

HISTORY = "history_item_ids"


@dataclass(frozen=True, eq=False)
class Queries:
    """Rows to rank the catalogue for: their histories, with users, and the item that came next."""

    histories: Sequences
    targets: np.ndarray[Any, Any]

    def take(self, rows: np.ndarray[Any, Any]) -> Queries:
        """Return some of them."""
        return Queries(self.histories.take(rows), self.targets[rows])


@dataclass(frozen=True, eq=False)
class Office:
    """The catalogue, and what was known before the valid events and before the test events, with those events."""

    items: pa.Table
    item_ids: pa.StringArray
    taught: Stage
    tested: Stage

    @property
    def valid(self) -> Queries:
        """The valid events."""
        return _queries(self.taught)

    @property
    def test(self) -> Queries:
        """The test events."""
        return _queries(self.tested)

    @property
    def before_valid(self) -> Sequences:
        """What was known before the valid events."""
        return self.taught.past

    @property
    def before_test(self) -> Sequences:
        """What was known before the test events, the valid events included."""
        return self.tested.past


def load_office(folder: Path) -> Office:
    """Read the files as they come, and derive what was known before each split."""
    items = pq.read_table(folder / "items.parquet")
    events = pq.read_table(folder / "interactions.parquet")
    ids = items.column("item_id").combine_chunks().cast(pa.string())
    split = events.column("split").combine_chunks().cast(pa.string())
    (taught,), (tested,) = stages_of_histories(events, split, ids, history=HISTORY)
    return Office(items, ids, taught, tested)


def _queries(stage: Stage) -> Queries:
    return Queries(stage.queries.contexts, stage.queries.targets)
