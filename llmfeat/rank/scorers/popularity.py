"""How often each item was met, the same for every query."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pyarrow as pa

from llmfeat.errors import InputError
from llmfeat.history.pairs import first_of_each, user_codes
from llmfeat.history.sequences import Sequences
from llmfeat.rank.scorers.base import check_at_least, check_catalogue
from llmfeat.types import Float32Array, Float64Array

__all__ = ["Popularity"]


@dataclass(eq=False)
class Popularity:
    """The share of all events that an item has, so that fits on more and fewer events compare.

    Parameters
    ----------
    half_life_s : float, optional
        The age in seconds, counted back from the newest event, at which an event weighs half. Needs times. By default
        all events weigh the same.
    once_per_user : bool, default=False
        Whether an item counts once per user, at its latest event. Needs users. For rows whose histories overlap, which
        would otherwise count an event as often as there are rows after it.
    name : str
        What its columns are called.

    Attributes
    ----------
    shares_ : ndarray of shape (n_items,), float32
        They add up to 1; 0 for an item without an event.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat.history.sequences import Sequences
    >>> from llmfeat.rank.scorers import Popularity
    >>> rows = pa.table({"history": [["a", "b"], ["a"], ["a"]]})
    >>> sequences = Sequences.from_lists(rows, "history")
    >>> Popularity().fit(sequences).scores(sequences.take([0]))
    array([[0.75, 0.25]], dtype=float32)
    """

    half_life_s: float | None = None
    once_per_user: bool = False
    name: str = "popularity"
    item_ids_: pa.StringArray | None = field(default=None, init=False, repr=False)
    shares_: Float32Array = field(init=False, repr=False)

    def fit(self, sequences: Sequences) -> Self:
        """Count the events of each item."""
        weights = self._weights(sequences)
        codes = sequences.item_codes
        if self.once_per_user:
            # Heaviest first: of a user's events of one item, the latest stays.
            order = np.argsort(-weights, kind="stable")
            kept = order[first_of_each(user_codes(sequences)[sequences.row_of_event][order], codes[order])]
            codes, weights = codes[kept], weights[kept]
        counts = np.bincount(codes, weights=weights, minlength=sequences.n_items)
        self.shares_ = (counts / max(counts.sum(), 1e-300)).astype(np.float32)
        self.item_ids_ = sequences.item_ids
        return self

    def scores(self, histories: Sequences) -> Float32Array:
        """Return the shares for each query, float32 of shape ``(n_queries, n_items)``."""
        check_catalogue(self.item_ids_, histories, name=self.name)
        return np.tile(self.shares_, (len(histories), 1))

    def _weights(self, sequences: Sequences) -> Float64Array:
        if self.half_life_s is None:
            return np.ones(len(sequences.item_codes))
        check_at_least(1e-6, half_life_s=self.half_life_s)
        if sequences.times_us is None:
            raise InputError(
                f"half_life_s={self.half_life_s!r} needs the times of events, but the sequences have none: "
                "leave it out, or make them with Sequences.of_log"
            )
        if not len(sequences.times_us):
            return np.ones(0)
        ages_s = (sequences.times_us.max() - sequences.times_us) / 1e6
        weights: Float64Array = 0.5 ** (ages_s / self.half_life_s)
        return weights
