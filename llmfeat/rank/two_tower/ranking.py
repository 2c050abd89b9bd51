"""The best items of many queries, a block of them at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llmfeat.history.sequences import Sequences
from llmfeat.types import BoolArray, Float32Array, Int64Array

__all__ = ["best_items", "blocks"]

_BLOCK_ROWS = 1024


def blocks(n_rows: int, most: int = _BLOCK_ROWS) -> Iterator[slice]:
    """Yield the rows in blocks; one without any where there are none."""
    for first in range(0, max(n_rows, 1), most):
        yield slice(first, min(first + most, n_rows))


def best_items(
    scores: Float32Array, there: BoolArray, histories: Sequences, some: slice, n: int, exclude_history: bool
) -> tuple[Int64Array, Int64Array, Float32Array, Int64Array]:
    """Return query, item, score and rank of the best items of a block of queries."""
    scores[:, ~there] = -np.inf
    if exclude_history:
        block = histories.take(some)
        scores[block.row_of_event, block.item_codes] = -np.inf
    n = min(n, scores.shape[1])
    # All that are as good as the last of the best n, in the catalogue's order; of equals the first come first.
    least = np.partition(scores, -n, axis=1)[:, -n, None] if n else np.inf
    query, item = np.nonzero((scores >= least) & (scores > -np.inf))
    value = scores[query, item]
    order = np.lexsort((item, -value, query))
    query, item, value = query[order], item[order], value[order]
    place = np.arange(len(query)) - np.searchsorted(query, query)
    kept = place < n
    return query[kept] + some.start, item[kept], value[kept], place[kept] + 1
