"""`LearnedSimilarity`: a projection of item vectors in which near means "met by the same people"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from sklearn.base import clone

from llmfeat._base.ids import IdIndex
from llmfeat.encode import VectorTable
from llmfeat.errors import InputError, NothingToLearnError
from llmfeat.features._rowwise import grid_bits, on_grid, product, unit_rows
from llmfeat.features.reduce import VectorReducer, moments, reduce_table
from llmfeat.history import InteractionLog
from llmfeat.history.pairs import sum_pairs
from llmfeat.types import Float64Array

__all__ = ["LearnedSimilarity", "SimilarityLearner", "affinity_of_log"]


class LearnedSimilarity(VectorReducer):
    """Linear projection of vectors, learned from which items go together.

    Two texts can be alike in ways that say nothing of who wants them. Given how often items ``i`` and ``j`` went
    together, this finds the projection whose inner products reproduce it best: with ``Z`` the vectors, whitened under
    `shrinkage`, and ``A`` the affinities, over ``sqrt(row sum)`` of both sides, it keeps the directions of the largest
    eigenvalues of ``Z' A Z``, each as long as the root of its eigenvalue. That is the linear case of the spectral
    contrastive loss [1]_, solved in closed form: no step size, no negatives, the same result at every run. What was
    learned of some items holds for all, those without an event included.

    Parameters
    ----------
    n_components : int, optional
        How many directions at most, 128 by default or the dimensions of the vectors where they are fewer.
    shrinkage : float, default=0.03
        How much of the largest variance is added to each in whitening: more keeps closer to the vectors as they were.
    pair_shrinkage : float, default=3
        How many pairs are added to those of each item: more holds items of few pairs down.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features_in_,), float64
        Of the fitted vectors at unit length.
    components_ : ndarray of shape (n_components_, n_features_in_), float64
        Directions of unit length, of the largest eigenvalue first.
    scales_ : ndarray of shape (n_components_,), float64
        What the projections on them are multiplied by.
    n_components_, n_features_in_ : int
        Dimensions of the result and of the vectors.

    References
    ----------
    .. [1] HaoChen et al. "Provable Guarantees for Self-Supervised Deep Learning with Spectral Contrastive Loss",
       NeurIPS 2021. https://arxiv.org/abs/2106.04156

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from llmfeat.features.learned import LearnedSimilarity
    >>> vectors = np.array([[1, 0, 0.9], [0, 1, 0.9], [1, 0.1, -0.9], [0.1, 1, -0.9]], dtype=np.float32)
    >>> pairs = [0, 2, 1, 3], [2, 0, 3, 1]  # 0 goes with 2, 1 with 3
    >>> together = sp.csr_array((np.ones(4), pairs), shape=(4, 4))
    >>> near = LearnedSimilarity(1).fit(vectors, together).transform(vectors)[:, 0] > 0
    >>> bool(near[0] == near[2] != near[1] == near[3])
    True
    """

    def __init__(
        self, n_components: int | None = None, *, shrinkage: float = 0.03, pair_shrinkage: float = 3.0
    ) -> None:
        self.n_components = n_components
        self.shrinkage = shrinkage
        self.pair_shrinkage = pair_shrinkage

    def fit(self, X: Any, affinity: Any) -> Self:
        """Learn the projection.

        Parameters
        ----------
        X : array-like of shape (n_items, n_features)
            Vectors; a row with NaN is a missing one.
        affinity : scipy.sparse array of shape (n_items, n_items)
            How much items go together, symmetric; negative where they go apart. See `affinity_of_log`.

        Raises
        ------
        InputError
            When a parameter or the shape of `affinity` is wrong, or fewer than two vectors are there.
        NothingToLearnError
            When no two items with a vector go together, or all vectors are the same.
        """
        for name, value in (("shrinkage", self.shrinkage), ("pair_shrinkage", self.pair_shrinkage)):
            given: object = value
            if not (isinstance(given, int | float | np.number) and 0 < float(given) < np.inf):
                raise InputError(f"{name}={value!r}, but a number over 0 was expected")
        vectors = self._vectors(X, reset=True)
        if not sp.issparse(affinity) or affinity.shape != (len(vectors), len(vectors)):
            raise InputError(
                f"affinity is a {type(affinity).__name__} of shape {getattr(affinity, 'shape', None)}, but a sparse "
                f"array of shape {(len(vectors), len(vectors))} was expected: make one with affinity_of_log"
            )
        wanted = min(128, vectors.shape[1]) if self.n_components is None else self._wanted(vectors.shape[1])
        there = np.flatnonzero(_directed(vectors))
        unit = unit_rows(vectors[there].astype(np.float64))
        _, self.mean_, covariance = moments(unit)
        variance, axes = np.linalg.eigh(covariance)
        among = affinity.tocsr()[there][:, there].astype(np.float64)
        if variance[-1] <= 0 or not among.nnz:
            raise _nothing(len(there), among.nnz)
        whitening = axes / np.sqrt(np.maximum(variance, 0) + self.shrinkage * variance[-1])
        white = (unit - self.mean_) @ whitening
        n_pairs = np.asarray(abs(among).sum(axis=1)).ravel()
        damped = white / np.sqrt(n_pairs + self.pair_shrinkage)[:, None]
        together = damped.T @ (among @ damped)
        strength, directions = np.linalg.eigh((together + together.T) / 2)
        kept = np.argsort(-strength, kind="stable")[:wanted]
        kept = kept[strength[kept] > 1e-10 * max(float(np.abs(strength).max()), 1e-300)]
        if not len(kept):
            raise _nothing(len(there), among.nnz)
        projection = whitening @ directions[:, kept]
        projection *= np.sign(projection[np.abs(projection).argmax(axis=0), np.arange(len(kept))])
        lengths = np.linalg.norm(projection, axis=0)
        self.components_ = on_grid(np.ascontiguousarray((projection / lengths).T), grid_bits(vectors.shape[1]))
        self.scales_ = lengths * np.sqrt(strength[kept])
        self.n_components_ = len(kept)
        return self

    def _reduce(self, vectors: Float64Array) -> Float64Array:
        projected: Float64Array = product(unit_rows(vectors) - self.mean_, self.components_.T) * self.scales_
        return projected


@dataclass(frozen=True)
class SimilarityLearner:
    """Learns the similarity of the items of a table from a log; `PastFittedFeatures` takes it.

    Parameters
    ----------
    table : VectorTable
        The vectors that are projected.
    similarity : LearnedSimilarity
        How; it is cloned.
    window : int, default=20
        Events of a user at most so many places apart go together.
    distance_decay : float, default=0.8
        A pair at distance ``d`` counts ``distance_decay ** (d - 1)``.
    """

    table: VectorTable
    similarity: LearnedSimilarity = field(default_factory=LearnedSimilarity)
    window: int = 20
    distance_decay: float = 0.8

    def learn(self, log: InteractionLog) -> VectorTable:
        """Return the table, projected as the events of `log` teach; without a vector where they teach nothing."""
        affinity = affinity_of_log(log, self.table, window=self.window, distance_decay=self.distance_decay)
        try:
            fitted = clone(self.similarity).fit(self.table.vectors, affinity)
        except NothingToLearnError:
            return VectorTable.from_arrays(self.table.ids, np.full((len(self.table), 1), np.nan))
        return reduce_table(fitted, self.table)


def affinity_of_log(log: InteractionLog, table: VectorTable, *, window: int = 20, distance_decay: float = 0.8) -> Any:
    """Return how much the items of a table went together in a log.

    Two events of one user that agree (both liked, or both disliked) count for their items going together, two that
    disagree against it. Where all events are positives, all agree.

    Returns
    -------
    scipy.sparse.csr_array of shape (len(table), len(table)), float64
        Symmetric, without a diagonal.
    """
    row_of_item = IdIndex(table.ids).positions(log.item_ids)
    items = row_of_item[log.item_codes]
    known = items >= 0
    signs = np.where(log.labels > 0, 1.0, -1.0)[known]
    affinity = sum_pairs(
        items[known],
        log.user_codes[known],
        n_items=len(table),
        window=window,
        distance_decay=distance_decay,
        signs=signs,
    )
    affinity.setdiag(0)  # that an item is like itself teaches nothing
    affinity.eliminate_zeros()
    return affinity


def _nothing(n_vectors: int, n_pairs: int) -> NothingToLearnError:
    return NothingToLearnError(
        f"of {n_vectors} items with a vector no two different ones go together ({n_pairs} affinities), so there is "
        "nothing to learn: pass events of more users, or use the vectors as they are"
    )


def _directed(vectors: Any) -> Any:
    return np.isfinite(vectors).all(axis=1) & (vectors != 0).any(axis=1)
