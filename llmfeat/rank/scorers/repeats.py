"""What the history has already."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pyarrow as pa

from llmfeat.history.sequences import Sequences
from llmfeat.rank.scorers.base import check_at_least, check_catalogue, check_share
from llmfeat.types import Float32Array

__all__ = ["Repeats"]


@dataclass(eq=False)
class Repeats:
    """How recently each item was met by this very user: ``decay ** age_rank`` of its newest event, 0 for a new item.

    Parameters
    ----------
    decay : float, default=0.8
        By how much an event weighs less than the one after it.
    max_events : int, default=50
        How many events of the history are looked at.
    name : str
        What its columns are called.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat.history.sequences import Sequences
    >>> from llmfeat.rank.scorers import Repeats
    >>> sequences = Sequences.from_lists(pa.table({"history": [["a", "b", "a", "c"]]}), "history")
    >>> Repeats(decay=0.5).fit(sequences).scores(sequences)
    array([[0.5 , 0.25, 1.  ]], dtype=float32)
    """

    decay: float = 0.8
    max_events: int = 50
    name: str = "repeats"
    item_ids_: pa.StringArray | None = field(default=None, init=False, repr=False)

    def fit(self, sequences: Sequences) -> Self:
        """Remember the catalogue; nothing is learned from what happened."""
        check_share(decay=self.decay)
        check_at_least(1, max_events=self.max_events)
        self.item_ids_ = sequences.item_ids
        return self

    def scores(self, histories: Sequences) -> Float32Array:
        """Return the recencies, float32 of shape ``(n_queries, n_items)``."""
        check_catalogue(self.item_ids_, histories, name=self.name)
        recent = histories.last(self.max_events)
        out = np.zeros((len(recent), recent.n_items), dtype=np.float32)
        # Oldest first within a row, so that of an item's events the newest is written last.
        out[recent.row_of_event, recent.item_codes] = self.decay ** recent.age_rank.astype(np.float32)
        return out
