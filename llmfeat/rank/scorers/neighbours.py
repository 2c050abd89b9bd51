"""Items whose texts are near those of the history."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np
import pyarrow as pa

from llmfeat.history.sequences import Sequences
from llmfeat.rank.scorers.base import check_at_least, check_catalogue, check_choice, check_share, check_vectors
from llmfeat.rank.scorers.cosine import best_cosines, has_direction, mean_cosines, unit_rows
from llmfeat.types import Float32Array, VectorSource

__all__ = ["TextNeighbours", "history_cosines"]


@dataclass(eq=False)
class TextNeighbours:
    """The cosine of each item's vector to those of the history.

    Parameters
    ----------
    vectors : VectorSource
        Item vectors, such as a `VectorTable`.
    aggregate : {"mean", "max", "last"}, default="mean"
        Over the last `max_events` events that have a vector: the mean cosine, an event weighing ``decay ** age_rank``
        (it orders the items of a query as the decayed sum does, and stays within -1 and 1); the largest
        ``decay ** age_rank * cosine``; or the cosine to the last of them.
    decay : float, default=0.8
        By how much an event weighs less than the one after it.
    max_events : int, default=10
        How many events are looked at.
    name : str
        What its columns are called.

    Attributes
    ----------
    unit_ : ndarray of shape (n_items, dim), float32
        The vectors of the catalogue at unit length, zeros where an item has none.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat import VectorTable
    >>> from llmfeat.history.sequences import Sequences
    >>> from llmfeat.rank.scorers import TextNeighbours
    >>> table = VectorTable.from_arrays(["a", "b", "c"], [[1.0, 0.0], [0.6, 0.8], [0.0, 2.0]])
    >>> histories = Sequences.from_lists(pa.table({"history": [["a"]]}), "history", item_ids=["a", "b", "c", "d"])
    >>> TextNeighbours(table).fit(histories).scores(histories)  # d has no vector
    array([[1. , 0.6, 0. , nan]], dtype=float32)
    """

    vectors: VectorSource
    aggregate: Literal["mean", "max", "last"] = "mean"
    decay: float = 0.8
    max_events: int = 10
    name: str = "text"
    item_ids_: pa.StringArray | None = field(default=None, init=False, repr=False)
    unit_: Float32Array = field(init=False, repr=False)

    def fit(self, sequences: Sequences) -> Self:
        """Look up the vectors of the catalogue; nothing is learned from what happened."""
        check_vectors(self.vectors)
        check_choice(("mean", "max", "last"), aggregate=self.aggregate)
        check_share(decay=self.decay)
        check_at_least(1, max_events=self.max_events)
        self.unit_ = unit_rows(self.vectors.lookup(sequences.item_ids))
        self.item_ids_ = sequences.item_ids
        return self

    def scores(self, histories: Sequences) -> Float32Array:
        """Return the cosines, float32 of shape ``(n_queries, n_items)``.

        NaN for an item without a vector, and for a history without one.
        """
        check_catalogue(self.item_ids_, histories, name=self.name)
        return history_cosines(
            self.unit_, histories, aggregate=self.aggregate, decay=self.decay, max_events=self.max_events
        )


def history_cosines(
    unit: Float32Array, histories: Sequences, *, aggregate: str, decay: float, max_events: int
) -> Float32Array:
    """Return the cosines of `TextNeighbours` for vectors that `unit_rows` gave."""
    direction = has_direction(unit)
    seen = histories.keep(direction[histories.item_codes]).last(1 if aggregate == "last" else max_events)
    scores = (best_cosines if aggregate == "max" else mean_cosines)(unit, seen, decay=decay)
    scores[:, ~direction] = np.nan
    scores[seen.lengths == 0] = np.nan
    return scores
