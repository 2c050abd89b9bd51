"""EASE: a linear model of each item from the others, in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pyarrow as pa
import scipy.linalg
import scipy.sparse as sp

from llmfeat.errors import InputError
from llmfeat.history.pairs import first_of_each, user_codes
from llmfeat.history.sequences import Sequences
from llmfeat.rank.scorers.base import check_at_least, check_catalogue, check_share, history_weights
from llmfeat.types import Float32Array, Float64Array, Int32Array, Int64Array

__all__ = ["EASE"]


@dataclass(eq=False)
class EASE:
    """The sum over the history of item-to-item weights that reconstruct each row of the training matrix from its rest.

    H. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019: with ``G = X.T @ X + l2 * I`` and
    ``P = inv(G)``, the weights are ``-P / diag(P)``, their diagonal 0. Dense: ``8 * n_items ** 2`` bytes twice while it
    is fitted, half of one after, and time with the third power of the catalogue.

    Parameters
    ----------
    l2 : float, default=100
        The penalty; higher for sparser data.
    decay : float, default=1
        By how much an event of the history weighs less than the one after it; 1 is the published model.
    max_events : int, default=50
        How many events of the history are looked at.
    once_per_user : bool, default=False
        Whether all rows of a user are one row of ``X``. Needs users. For rows whose histories overlap.
    most_items : int, default=10000
        A larger catalogue is refused.
    name : str
        What its columns are called.

    Attributes
    ----------
    weights_ : ndarray of shape (n_items, n_items), float32
        ``weights_[j, k]``: what item ``j`` in a history says for item ``k``.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat.history.sequences import Sequences
    >>> from llmfeat.rank.scorers import EASE
    >>> rows = pa.table({"history": [["a", "b"], ["a", "b"], ["c"]]})
    >>> sequences = Sequences.from_lists(rows, "history")
    >>> EASE(l2=1).fit(sequences).weights_.round(2) + 0.0
    array([[0.  , 0.67, 0.  ],
           [0.67, 0.  , 0.  ],
           [0.  , 0.  , 0.  ]], dtype=float32)
    """

    l2: float = 100.0
    decay: float = 1.0
    max_events: int = 50
    once_per_user: bool = False
    most_items: int = 10_000
    name: str = "ease"
    item_ids_: pa.StringArray | None = field(default=None, init=False, repr=False)
    weights_: Float32Array = field(init=False, repr=False)

    def fit(self, sequences: Sequences) -> Self:
        """Solve for the weights.

        Raises
        ------
        InputError
            When the catalogue has more than `most_items` items, or a parameter is out of range.
        """
        check_at_least(1e-6, l2=self.l2)
        check_at_least(1, max_events=self.max_events)
        check_share(decay=self.decay)
        if sequences.n_items > self.most_items:
            gigabytes = 16 * sequences.n_items**2 / 2**30
            raise InputError(
                f"the catalogue has {sequences.n_items} items, but EASE takes up to most_items={self.most_items}: "
                f"it would need {gigabytes:.0f} GB, use Cooccurrence, or raise most_items where the memory is there"
            )
        owners = user_codes(sequences).astype(np.int64) if self.once_per_user else np.arange(len(sequences))
        rows = owners[sequences.row_of_event]
        self.weights_ = ease_weights(rows, sequences.item_codes, sequences.n_items, l2=self.l2)
        self.item_ids_ = sequences.item_ids
        return self

    def scores(self, histories: Sequences) -> Float32Array:
        """Return the sum of the weights, float32 of shape ``(n_queries, n_items)``; 0 for an empty history."""
        check_catalogue(self.item_ids_, histories, name=self.name)
        weights = history_weights(histories, decay=self.decay, max_events=self.max_events)
        scores: Float32Array = weights.astype(np.float32) @ self.weights_
        return scores


def ease_weights(rows: Int64Array, items: Int32Array, n_items: int, *, l2: float) -> Float32Array:
    """Return the weights of `EASE` for the distinct pairs of a row and an item."""
    kept = first_of_each(rows, items)
    shape = (int(rows.max(initial=-1)) + 1, n_items)
    matrix = sp.coo_array((np.ones(len(kept)), (rows[kept], items[kept])), shape=shape).tocsr()
    gram: Float64Array = (matrix.T @ matrix).toarray(order="F")
    gram[np.diag_indices(n_items)] += l2
    factor, _ = scipy.linalg.lapack.dpotrf(gram, lower=1, overwrite_a=1)
    inverse, _ = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    weights = np.empty((n_items, n_items), dtype=np.float32)
    diagonal = np.diag(inverse).copy()
    lower = np.tril(inverse, -1)
    np.divide(lower, -diagonal, out=weights, casting="same_kind")
    weights += (lower.T / -diagonal).astype(np.float32)
    return weights
