"""What the owners of the most alike histories met."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from llmfeat.history.sequences import Sequences
from llmfeat.rank.scorers.base import check_at_least, check_catalogue, check_share, check_vectors, history_weights
from llmfeat.rank.scorers.cosine import has_direction, mean_vectors, unit_rows
from llmfeat.types import Float32Array, Float64Array, VectorSource

__all__ = ["SequenceNeighbours"]


@dataclass(eq=False)
class SequenceNeighbours:
    """The items of the fitted sequences that are most like the history, each sequence weighing as it is alike.

    Without `vectors` two sequences are alike by the items that they share (Ludewig and Jannach, "Evaluation of
    session-based recommendation algorithms", 2018: V-SkNN); with them by the cosine of their mean vectors, so that
    people who met other items of the same kind count as well.

    Parameters
    ----------
    vectors : VectorSource, optional
        Item vectors, such as a `VectorTable`.
    n_neighbours : int, default=100
        How many sequences are looked at.
    temperature : float, default=0.1
        A sequence at cosine ``c`` weighs ``exp(c / temperature)``, for `vectors`.
    decay : float, default=0.8
        By how much an event of the history weighs less than the one after it.
    max_events : int, default=10
        How many events of the history are looked at.
    name : str
        What its columns are called.

    Attributes
    ----------
    items_ : scipy.sparse.csr_array of shape (n_sequences, n_items), float64
        Which items each sequence has: 1 where it does.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat.history.sequences import Sequences
    >>> from llmfeat.rank.scorers import SequenceNeighbours
    >>> rows = pa.table({"history": [["a", "b"], ["a", "c"], ["d", "c"]]})
    >>> sequences = Sequences.from_lists(rows, "history")
    >>> scorer = SequenceNeighbours().fit(sequences)
    >>> scorer.scores(sequences.keep(sequences.item_codes == 0).take([0])).round(2)  # of a alone
    array([[1. , 0.5, 0.5, 0. ]], dtype=float32)
    """

    vectors: VectorSource | None = None
    n_neighbours: int = 100
    temperature: float = 0.1
    decay: float = 0.8
    max_events: int = 10
    name: str = "sequences"
    item_ids_: pa.StringArray | None = field(default=None, init=False, repr=False)
    items_: Any = field(init=False, repr=False)

    def fit(self, sequences: Sequences) -> Self:
        """Keep the sequences, and their mean vectors."""
        check_at_least(1, n_neighbours=self.n_neighbours, max_events=self.max_events)
        check_at_least(1e-6, temperature=self.temperature)
        check_share(decay=self.decay)
        shape = (len(sequences), sequences.n_items)
        ones = np.ones(len(sequences.item_codes))
        # A copy: adding up duplicates sorts in place.
        items = sp.csr_array((ones, sequences.item_codes, sequences.offsets), shape=shape, copy=True)
        items.sum_duplicates()
        items.data[:] = 1
        self.items_ = items
        self._sizes = np.sqrt(np.diff(items.indptr))
        if self.vectors is not None:
            check_vectors(self.vectors)
            self._unit = unit_rows(self.vectors.lookup(sequences.item_ids))
            self._means, self._norms = self._mean_vectors(sequences, decay=1.0)
        self.item_ids_ = sequences.item_ids
        return self

    def scores(self, histories: Sequences) -> Float32Array:
        """Return the weight of the neighbours that have each item, float32 of shape ``(n_queries, n_items)``.

        0 for what no neighbour has. Weights add up to 1 over the neighbours of a query.
        """
        check_catalogue(self.item_ids_, histories, name=self.name)
        recent = histories.last(self.max_events)
        alike = self._shared(recent) if self.vectors is None else self._cosines(recent)
        nearest = _largest(alike, self.n_neighbours)
        weights = np.take_along_axis(alike, nearest, axis=1)
        if self.vectors is not None:
            best = weights.max(axis=1, initial=-np.inf, keepdims=True)
            weights = np.exp((weights - np.where(np.isfinite(best), best, 0.0)) / self.temperature)
        totals = weights.sum(axis=1, keepdims=True)
        shares = np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)
        offsets = np.arange(len(shares) + 1) * shares.shape[1]
        rows = sp.csr_array((shares.ravel(), nearest.ravel(), offsets), shape=(len(shares), self.items_.shape[0]))
        # Sparse products add up in the order of their entries: a row has the same bits alone and in a batch.
        dense: Float32Array = (rows @ self.items_).astype(np.float32).toarray()
        return dense

    def _shared(self, histories: Sequences) -> Float64Array:
        weights = history_weights(histories, decay=self.decay, max_events=self.max_events)
        shared: Float64Array = (weights @ self.items_.T.tocsr()).toarray()
        np.divide(shared, self._sizes, out=shared, where=self._sizes > 0)
        return shared

    def _cosines(self, histories: Sequences) -> Float64Array:
        means, norms = self._mean_vectors(histories, decay=self.decay)
        # Means are on the grid of `cosine`, so that the product is exact; -inf where one of the two has no vector.
        cosines = np.full((len(means), len(self._means)), -np.inf)
        lengths = norms[:, None] * self._norms
        np.divide(means @ self._means.T, lengths, out=cosines, where=lengths > 0)
        return cosines

    def _mean_vectors(self, sequences: Sequences, *, decay: float) -> tuple[Float64Array, Float64Array]:
        known = sequences.keep(has_direction(self._unit)[sequences.item_codes])
        means = mean_vectors(self._unit, known, decay=decay)
        return means, np.sqrt(np.einsum("ij,ij->i", means, means))


def _largest(values: Float64Array, n: int) -> Any:
    """Return the columns of the `n` largest values of each row, of equal ones the first; by falling value."""
    n = min(n, values.shape[1])
    return np.argsort(-values, axis=1, kind="stable")[:, :n]
