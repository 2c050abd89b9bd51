"""Statistics for items with few events, borrowed from the items whose texts are nearest."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from llmfeat._base.optional import import_optional
from llmfeat.rank.scorers.base import check_at_least, check_vectors
from llmfeat.rank.scorers.cosine import has_direction, products, unit_rows
from llmfeat.types import Float32Array, Float64Array, Int64Array, VectorSource

__all__ = ["TextSmoothing", "nearest_items"]

_CHUNK_CELLS = 1 << 22
_TINY = 1e-6


_Found = tuple[Int64Array, Float64Array]
# Of each source of vectors the last search: for what, over which catalogue, and what it found.
_NEIGHBOURS: weakref.WeakKeyDictionary[VectorSource, tuple[tuple[str, int, int], pa.StringArray, _Found]] = (
    weakref.WeakKeyDictionary()
)


@dataclass(frozen=True, eq=False)
class TextSmoothing:
    """How items borrow: the matrix ``T`` whose row ``j`` says which items' statistics stand for those of item ``j``.

    ``T[j, j]`` is ``n / (n + prior_events)`` for an item of `n` events; the rest goes to its nearest neighbours by
    cosine, as ``softmax(cosine / temperature)``. An item without a vector, or without neighbours, stands for itself.
    The neighbours are kept with the source of the vectors, so that they are searched once for all fits of a
    `CrossFitted`.

    Parameters
    ----------
    vectors : VectorSource
        Item vectors, such as a `VectorTable`.
    n_neighbours : int, default=20
        How many items an item borrows from.
    temperature : float, default=0.1
        How much more the nearest count than the others; in cosines.
    prior_events : float, default=5
        From how many events on an item's own statistics weigh more than the borrowed ones.
    exact_limit : int, default=20000
        Up to this many items neighbours are exact; above it, ``usearch`` finds them by graph search.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat import VectorTable
    >>> from llmfeat.rank.scorers import TextSmoothing
    >>> table = VectorTable.from_arrays(["a", "b", "c"], [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> smoothing = TextSmoothing(table, n_neighbours=1, prior_events=5)
    >>> smoothing.blend(table.ids, [15, 0, 5]).toarray()  # b has no event: a stands for it
    array([[0.75, 0.25, 0.  ],
           [1.  , 0.  , 0.  ],
           [0.  , 0.5 , 0.5 ]])
    """

    vectors: VectorSource
    n_neighbours: int = 20
    temperature: float = 0.1
    prior_events: float = 5.0
    exact_limit: int = 20_000

    def blend(self, item_ids: pa.StringArray, n_events: Any) -> Any:
        """Return ``T`` for a catalogue and its counts: a CSR array, float64, whose rows add up to 1."""
        check_vectors(self.vectors)
        check_at_least(1, n_neighbours=self.n_neighbours)
        check_at_least(_TINY, temperature=self.temperature)
        check_at_least(0, prior_events=self.prior_events, exact_limit=self.exact_limit)
        neighbours, cosines = self._neighbours(item_ids)
        shares = _softmax(np.where(neighbours >= 0, cosines / self.temperature, -np.inf))
        counts = np.asarray(n_events, dtype=np.float64)
        own = counts / np.maximum(counts + self.prior_events, _TINY)
        own[shares.sum(axis=1) == 0] = 1.0
        item, place = np.nonzero(neighbours >= 0)
        borrowed = (1 - own)[item] * shares[item, place]
        every = np.arange(len(own))
        entries = (np.concatenate([own, borrowed]), (np.append(every, item), np.append(every, neighbours[item, place])))
        blend = sp.coo_array(entries, shape=(len(own), len(own))).tocsr()
        blend.eliminate_zeros()
        blend.sort_indices()
        return blend

    def _neighbours(self, item_ids: pa.StringArray) -> _Found:
        key = (self.vectors.fingerprint, self.n_neighbours, self.exact_limit)
        kept = _NEIGHBOURS.get(self.vectors)
        if kept is None or kept[0] != key or not kept[1].equals(item_ids):
            unit = unit_rows(self.vectors.lookup(item_ids))
            found = nearest_items(unit, self.n_neighbours, exact_limit=self.exact_limit)
            kept = _NEIGHBOURS[self.vectors] = (key, item_ids, found)
        return kept[2]


def nearest_items(unit: Float32Array, n_neighbours: int, *, exact_limit: int) -> tuple[Int64Array, Float64Array]:
    """Return the nearest other items of each item, and their cosines.

    Parameters
    ----------
    unit : ndarray of shape (n_items, dim), float32
        What `unit_rows` gave; an item without a direction has no neighbours, and is nobody's.
    n_neighbours : int
        How many.
    exact_limit : int
        Up to this many items with a direction all cosines are computed.

    Returns
    -------
    neighbours : ndarray of shape (n_items, n_neighbours), int64
        Nearest first, of equals the first in the catalogue; -1 where there are no more.
    cosines : ndarray of shape (n_items, n_neighbours), float64
        NaN where there is no neighbour.
    """
    there = np.flatnonzero(has_direction(unit))
    neighbours = np.full((len(unit), n_neighbours), -1, dtype=np.int64)
    cosines = np.full((len(unit), n_neighbours), np.nan)
    n_found = min(n_neighbours, len(there) - 1)
    if n_found < 1:
        return neighbours, cosines
    search = _exact if len(there) <= exact_limit else _by_graph
    found, values = search(unit[there], n_found)
    neighbours[there, :n_found] = np.where(found >= 0, there[found], -1)
    cosines[there, :n_found] = np.where(found >= 0, values, np.nan)
    return neighbours, cosines


def _exact(unit: Float32Array, n_found: int) -> tuple[Int64Array, Float64Array]:
    neighbours = np.empty((len(unit), n_found), dtype=np.int64)
    cosines = np.empty((len(unit), n_found))
    block = max(1, _CHUNK_CELLS // len(unit))
    for first in range(0, len(unit), block):
        rows = np.arange(first, min(first + block, len(unit)))
        found = products(unit[rows].astype(np.float64), unit)
        found[np.arange(len(rows)), rows] = -np.inf
        best = np.argsort(-found, axis=1, kind="stable")[:, :n_found]
        neighbours[rows], cosines[rows] = best, np.take_along_axis(found, best, axis=1)
    return neighbours, cosines


def _by_graph(unit: Float32Array, n_found: int) -> tuple[Int64Array, Float64Array]:
    usearch = import_optional("usearch.index", purpose=f"finding neighbours among {len(unit)} items")
    # Half precision finds as many of the nearest as float32, in little more than half the time; their cosines are
    # computed anew.
    index = usearch.Index(ndim=unit.shape[1], metric="cos", dtype="f16")
    # One thread: with more, the graph and so the neighbours differ from run to run.
    index.add(np.arange(len(unit)), unit, threads=1)
    matches = index.search(unit, min(n_found + 1, len(unit)))
    keys = matches.keys.astype(np.int64)
    there = np.arange(keys.shape[1]) < np.asarray(matches.counts)[:, None]
    others = there & (keys != np.arange(len(unit))[:, None])
    # Others first, nearest first; of those the first n_found.
    order = np.argsort(~others, axis=1, kind="stable")[:, :n_found]
    others = np.take_along_axis(others, order, axis=1)
    neighbours = np.where(others, np.take_along_axis(keys, order, axis=1), -1)
    cosines = np.where(others, _cosines_of_pairs(unit, neighbours), np.nan)
    # Nearest first by the cosines themselves; NaN comes last.
    order = np.lexsort((neighbours, -cosines), axis=1)
    return np.take_along_axis(neighbours, order, axis=1), np.take_along_axis(cosines, order, axis=1)


def _cosines_of_pairs(unit: Float32Array, neighbours: Int64Array) -> Float64Array:
    """Return the cosine of each item to each of its neighbours, float64; of -1 to the last item."""
    cosines = np.empty(neighbours.shape)
    block = max(1, _CHUNK_CELLS // (neighbours.shape[1] * unit.shape[1]))
    for first in range(0, len(unit), block):
        some = slice(first, first + block)
        cosines[some] = np.einsum(
            "ij,ikj->ik", unit[some].astype(np.float64), unit[neighbours[some]].astype(np.float64)
        )
    return cosines


def _softmax(logits: Float64Array) -> Float64Array:
    """Return the softmax of each row; zeros for a row of ``-inf``."""
    top = logits.max(axis=1, keepdims=True, initial=-np.inf)
    weights: Float64Array = np.exp(logits - np.where(np.isfinite(top), top, 0.0))
    totals = weights.sum(axis=1, keepdims=True)
    np.divide(weights, totals, out=weights, where=totals > 0)
    return weights
