"""The best items of many queries, a block of them at a time: of all products, or by graph search."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat._base.places import places_in_groups
from llmfeat.history.sequences import Sequences
from llmfeat.types import BoolArray, Float32Array, Float64Array, Int64Array

__all__ = ["Best", "ItemIndex", "best_items", "blocks", "on_grid"]

Best = tuple[Int64Array, Int64Array, Float32Array, Int64Array]
"""Query, item, score and rank, a row for each item that is recommended."""

_BLOCK_ROWS = 1024
_GRID = 2.0**26  # components of user vectors, so that products with those of items are exact; see `products`
_EXPANSION = 256  # of the search: it finds as many


def blocks(n_rows: int, most: int = _BLOCK_ROWS) -> Iterator[slice]:
    """Yield the rows in blocks; one without any where there are none."""
    for first in range(0, max(n_rows, 1), most):
        yield slice(first, min(first + most, n_rows))


def on_grid(users: Float32Array) -> Float64Array:
    """Return vectors of users whose products with those of items have no rounding."""
    found: Float64Array = np.rint(users.astype(np.float64) * _GRID) / _GRID
    return found


def best_items(
    scores: Float32Array, there: BoolArray, histories: Sequences, some: slice, n: int, exclude_history: bool
) -> Best:
    """Return query, item, score and rank of the best items of a block of queries."""
    scores[:, ~there] = -np.inf
    if exclude_history:
        block = histories.take(some)
        scores[block.row_of_event, block.item_codes] = -np.inf
    n = min(n, scores.shape[1])
    # All that are as good as the last of the best n, in the catalogue's order; of equals the first come first.
    least = np.partition(scores, -n, axis=1)[:, -n, None] if n else np.inf
    query, item = np.nonzero((scores >= least) & (scores > -np.inf))
    return _first(query, item, scores[query, item], n, some.start)


class ItemIndex:
    """A graph of the items of a catalogue, searched for those that are nearest to users.

    Parameters
    ----------
    unit : ndarray of shape (n_items, dim), float32
        The items' vectors, of unit length.
    there : ndarray of shape (n_items,), bool
        Which of them have one.
    """

    def __init__(self, unit: Float32Array, there: BoolArray) -> None:
        usearch = import_optional("usearch.index", purpose=f"searching {len(unit)} items")
        # Vectors in half precision find as many of the nearest; cosines are computed anew.
        self._index = usearch.Index(ndim=unit.shape[1], metric="cos", dtype="f16", expansion_search=_EXPANSION)
        items = np.flatnonzero(there)
        self._index.add(items, unit[items], threads=1)  # with more, the graph differs from run to run
        self._unit, self._n_items = unit, len(items)

    def best_items(self, users: Float64Array, histories: Sequences, some: slice, n: int, exclude_history: bool) -> Best:
        """Return query, item, score and rank of the best items of a block of queries, of those that the search finds.

        A query finds what it finds alone, and scores have the bits that they have among all products.
        """
        block = histories.take(some)
        seen = np.zeros(0, np.int64)
        if exclude_history:
            seen = np.unique(block.row_of_event * histories.n_items + block.item_codes)
        n_wanted = n + np.bincount(seen // max(histories.n_items, 1), minlength=len(users))
        # In few sizes, each large enough for its queries, and none that depends on the others of the block.
        sizes = np.minimum(2 ** np.ceil(np.log2(np.maximum(n_wanted, _EXPANSION))).astype(np.int64), self._n_items)
        found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        for size in np.unique(sizes[sizes > 0]).tolist():
            rows = np.flatnonzero(sizes == size)
            keys, there = self._nearest(users[rows], size)
            pairs = rows[:, None] * histories.n_items + keys
            there &= ~np.isin(pairs, seen)
            found.append((np.broadcast_to(rows[:, None], keys.shape)[there], keys[there]))
        query, item = (np.concatenate(each) for each in zip(*found, strict=True))
        value = np.einsum("ij,ij->i", users[query], self._unit[item].astype(np.float64)).astype(np.float32)
        return _first(query, item, value, n, some.start)

    def _nearest(self, users: Float64Array, n: int) -> tuple[Int64Array, BoolArray]:
        """Return the items that are found for each user, of shape ``(n_users, n)``, and which places hold one."""
        matches = self._index.search(users.astype(np.float32), n)
        keys = np.atleast_2d(matches.keys).astype(np.int64)
        # One query alone has no counts: its keys are all there.
        counts = np.asarray(matches.counts) if len(users) > 1 else np.array([keys.shape[1]])
        return keys, np.arange(keys.shape[1]) < counts[:, None]


def _first(query: Int64Array, item: Int64Array, value: Float32Array, n: int, first_query: int) -> Best:
    """Return the first `n` items of each query by falling value, of equal ones the first in the catalogue."""
    order = np.lexsort((item, -value, query))
    query, item, value = query[order], item[order], value[order]
    place = places_in_groups(query)
    kept = place < n
    return query[kept] + first_query, item[kept], value[kept], place[kept] + 1
