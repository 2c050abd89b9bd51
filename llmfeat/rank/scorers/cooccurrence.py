"""What came together before comes together again: item-to-item counts, where needed borrowed from alike texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from llmfeat.history.pairs import count_events, count_pairs
from llmfeat.history.sequences import Sequences
from llmfeat.rank.scorers.base import (
    check_at_least,
    check_catalogue,
    check_choice,
    check_counts,
    check_share,
    history_weights,
)
from llmfeat.rank.scorers.smoothing import TextSmoothing
from llmfeat.types import Float32Array, Float64Array

__all__ = ["Cooccurrence"]


@dataclass(eq=False)
class Cooccurrence:
    """The association of each item with the items of the history, from sequences.

    With ``C[j, k]`` for how often ``k`` came near (or after) ``j``, normalized, the score of item ``k`` is the sum over
    the last `max_events` events ``j`` of ``decay ** age_rank * C[j, k]``; 0 for what was never met beside any of them.

    Parameters
    ----------
    window : int, default=10
        Pairs at most so many places apart count.
    distance_decay : float, default=0.8
        A pair at distance ``d`` counts ``distance_decay ** (d - 1)``.
    forward : bool, default=False
        Whether only what came after an item counts for it; otherwise both directions do.
    normalize : {"cosine", "conditional"}, default="cosine"
        What counts are divided by, ``r`` being the sums of the rows and ``c`` those of the columns:
        ``sqrt(r[j] * c[k]) + shrinkage``, or ``r[j] + shrinkage``, which leaves popular items ahead.
    shrinkage : float, default=1
        How many counts short of certainty a pair starts: it holds down what was seen once.
    decay : float, default=0.8
        By how much an event of the history weighs less than the one after it.
    max_events : int, default=10
        How many events of the history are looked at.
    once_per_user : bool, default=False
        Whether a pair at one distance counts once per user. Needs users. For rows whose histories overlap.
    smoothing : TextSmoothing, optional
        Items with few events borrow the statistics of items with alike texts.
    name : str
        What its columns are called.

    Attributes
    ----------
    associations_ : scipy.sparse.csr_array of shape (n_items, n_items), float64
        ``C``, normalized, before smoothing.
    blend_ : scipy.sparse.csr_array of shape (n_items, n_items), float64, or None
        ``T`` of `TextSmoothing`; scores then come from ``T @ C @ T.T``, which is never formed.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat.history.sequences import Sequences
    >>> from llmfeat.rank.scorers import Cooccurrence
    >>> rows = pa.table({"history": [["a", "b"], ["a", "b"], ["a", "c"]]})
    >>> sequences = Sequences.from_lists(rows, "history")
    >>> scorer = Cooccurrence(forward=True, normalize="conditional", shrinkage=0).fit(sequences)
    >>> scorer.scores(sequences.keep(sequences.item_codes == 0).take([0])).round(2)  # after a: b twice, c once
    array([[0.  , 0.67, 0.33]], dtype=float32)
    """

    window: int = 10
    distance_decay: float = 0.8
    forward: bool = False
    normalize: Literal["cosine", "conditional"] = "cosine"
    shrinkage: float = 1.0
    decay: float = 0.8
    max_events: int = 10
    once_per_user: bool = False
    smoothing: TextSmoothing | None = None
    name: str = "cooccurrence"
    item_ids_: pa.StringArray | None = field(default=None, init=False, repr=False)
    associations_: Any = field(init=False, repr=False)
    blend_: Any = field(init=False, repr=False)

    def fit(self, sequences: Sequences, *, counts: Any = None) -> Self:
        """Count the pairs of the sequences.

        Parameters
        ----------
        sequences : Sequences
            What happened.
        counts : scipy.sparse.csr_array of shape (n_items, n_items), optional
            What `llmfeat.history.pairs.count_pairs` says of these sequences with the parameters of this scorer, where
            it is known: several scorers may share it.
        """
        check_at_least(1, window=self.window, max_events=self.max_events)
        check_at_least(0, shrinkage=self.shrinkage)
        check_share(distance_decay=self.distance_decay, decay=self.decay)
        check_choice(("cosine", "conditional"), normalize=self.normalize)
        if counts is None:
            counts = count_pairs(
                sequences,
                window=self.window,
                distance_decay=self.distance_decay,
                forward=self.forward,
                once_per_user=self.once_per_user,
            )
        check_counts(counts, sequences)
        self.associations_ = normalized(counts, how=self.normalize, shrinkage=self.shrinkage)
        self.blend_ = None
        if self.smoothing is not None:
            n_events = count_events(sequences, once_per_user=self.once_per_user)
            self.blend_ = self.smoothing.blend(sequences.item_ids, n_events)
        self.item_ids_ = sequences.item_ids
        return self

    def scores(self, histories: Sequences) -> Float32Array:
        """Return the association of each item with each history, float32 of shape ``(n_queries, n_items)``."""
        check_catalogue(self.item_ids_, histories, name=self.name)
        weights = history_weights(histories, decay=self.decay, max_events=self.max_events)
        # Sparse products add up in the order of their entries, so that a row has the same bits alone and in a batch.
        if self.blend_ is None:
            dense: Float32Array = (weights @ self.associations_).astype(np.float32).toarray()
            return dense
        own = (weights @ self.blend_ @ self.associations_).toarray()
        return np.ascontiguousarray((self.blend_ @ own.T).T, dtype=np.float32)


def normalized(counts: Any, *, how: str, shrinkage: float) -> Any:
    """Return counts divided as `Cooccurrence` says, as float64 CSR."""
    pairs = counts.tocoo()
    rows = np.asarray(counts.sum(axis=1)).ravel()
    columns = np.asarray(counts.sum(axis=0)).ravel()
    scale: Float64Array = rows[pairs.row] if how == "conditional" else np.sqrt(rows[pairs.row] * columns[pairs.col])
    values = pairs.data / (scale + shrinkage)
    result = sp.coo_array((values, (pairs.row, pairs.col)), shape=counts.shape).tocsr()
    result.sort_indices()
    return result
