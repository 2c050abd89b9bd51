"""Item vectors from what came together: what an encoder's vectors are compared with, and joined to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd

from llmfeat.encode import VectorTable
from llmfeat.history.pairs import count_pairs
from llmfeat.history.sequences import Sequences
from llmfeat.rank.scorers.base import check_at_least, check_catalogue, check_choice, check_counts, check_share
from llmfeat.rank.scorers.cooccurrence import normalized
from llmfeat.rank.scorers.cosine import unit_rows
from llmfeat.rank.scorers.neighbours import history_cosines
from llmfeat.types import Float32Array

__all__ = ["CollaborativeVectors"]


@dataclass(eq=False)
class CollaborativeVectors:
    """The cosine of each item to the history, in a space where items that come together are near.

    The symmetric counts of `Cooccurrence` are weighted and factorized; a vector is ``U * sqrt(S)``.

    Parameters
    ----------
    dim : int, default=64
        The number of dimensions, where the catalogue allows it.
    weighting : {"ppmi", "cosine"}, default="ppmi"
        What is factorized: the positive pointwise mutual information less ``log(shift)`` (Levy and Goldberg, "Neural
        word embedding as implicit matrix factorization", 2014), or counts over ``sqrt(r[j] * r[k]) + shrinkage``.
    shift : float, default=1
        How many times likelier than by chance a pair must be to count, for ``ppmi``.
    shrinkage : float, default=1
        As in `Cooccurrence`, for ``cosine``.
    window, distance_decay, once_per_user
        As in `Cooccurrence`.
    aggregate, decay, max_events
        As in `TextNeighbours`.
    random_state : int, default=0
        Of the randomized SVD.
    name : str
        What its columns are called.

    Attributes
    ----------
    vectors_ : VectorTable
        A row of NaN for an item that came beside no other. `HistoryFeatures` takes it.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat.history.sequences import Sequences
    >>> from llmfeat.rank.scorers import CollaborativeVectors
    >>> rows = pa.table({"history": [["a", "b"], ["a", "b"], ["c", "d"], ["c", "d"]]})
    >>> sequences = Sequences.from_lists(rows, "history")
    >>> scorer = CollaborativeVectors(dim=2, shift=0.5).fit(sequences)
    >>> scorer.vectors_.vectors.shape
    (4, 2)
    """

    dim: int = 64
    weighting: Literal["ppmi", "cosine"] = "ppmi"
    shift: float = 1.0
    shrinkage: float = 1.0
    window: int = 10
    distance_decay: float = 0.8
    once_per_user: bool = False
    aggregate: Literal["mean", "max", "last"] = "mean"
    decay: float = 0.8
    max_events: int = 10
    random_state: int = 0
    name: str = "collab"
    item_ids_: pa.StringArray | None = field(default=None, init=False, repr=False)
    vectors_: VectorTable = field(init=False, repr=False)
    unit_: Float32Array = field(init=False, repr=False)

    def fit(self, sequences: Sequences, *, counts: Any = None) -> Self:
        """Factorize the counts of the sequences; `counts` as in `Cooccurrence.fit`, symmetric."""
        check_at_least(1, dim=self.dim, window=self.window, max_events=self.max_events)
        check_at_least(0, shrinkage=self.shrinkage)
        check_at_least(1e-6, shift=self.shift)
        check_share(distance_decay=self.distance_decay, decay=self.decay)
        check_choice(("ppmi", "cosine"), weighting=self.weighting)
        check_choice(("mean", "max", "last"), aggregate=self.aggregate)
        if counts is None:
            counts = count_pairs(
                sequences,
                window=self.window,
                distance_decay=self.distance_decay,
                forward=False,
                once_per_user=self.once_per_user,
            )
        check_counts(counts, sequences)
        if self.weighting == "ppmi":
            weighted = shifted_ppmi(counts, shift=self.shift)
        else:
            weighted = normalized(counts, how="cosine", shrinkage=self.shrinkage)
        vectors = factors(weighted, dim=self.dim, random_state=self.random_state)
        self.vectors_ = VectorTable.from_arrays(sequences.item_ids, vectors)
        self.unit_ = unit_rows(self.vectors_.vectors)
        self.item_ids_ = sequences.item_ids
        return self

    def scores(self, histories: Sequences) -> Float32Array:
        """Return the cosines, float32 of shape ``(n_queries, n_items)``; NaN as in `TextNeighbours.scores`."""
        check_catalogue(self.item_ids_, histories, name=self.name)
        return history_cosines(
            self.unit_, histories, aggregate=self.aggregate, decay=self.decay, max_events=self.max_events
        )


def shifted_ppmi(counts: Any, *, shift: float) -> Any:
    """Return ``max(0, log(count * total / (row sum * column sum)) - log(shift))``, CSR of float64."""
    pairs = counts.tocoo()
    rows = np.asarray(counts.sum(axis=1)).ravel()
    columns = np.asarray(counts.sum(axis=0)).ravel()
    # A pair's count of 0 cannot occur: what is not stored never came together.
    chance = rows[pairs.row] * columns[pairs.col] / max(rows.sum(), 1e-300)
    values = np.maximum(np.log(pairs.data / chance) - np.log(shift), 0.0)
    result = sp.coo_array((values, (pairs.row, pairs.col)), shape=counts.shape).tocsr()
    result.eliminate_zeros()
    return result


def factors(matrix: Any, *, dim: int, random_state: int) -> Float32Array:
    """Return ``U * sqrt(S)`` of the items that have an entry, float32; NaN rows for the others."""
    there = np.flatnonzero(np.diff(matrix.indptr))
    dim = min(dim, max(len(there) - 1, 1))
    vectors = np.full((matrix.shape[0], dim), np.nan, dtype=np.float32)
    if len(there):
        inner = matrix[there][:, there]
        left, sizes, _ = randomized_svd(inner, n_components=dim, random_state=random_state)
        vectors[there] = left * np.sqrt(sizes)
    return vectors
