"""Candidates of a query out of the whole catalogue: the best items of several scorers, as a ranker's rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from llmfeat._base.places import places_in_groups
from llmfeat.errors import InputError
from llmfeat.history.sequences import Sequences
from llmfeat.rank.scorers import ItemScorer
from llmfeat.rank.scorers.base import check_whole
from llmfeat.types import BoolArray, Float32Array, Int32Array, Int64Array

__all__ = ["Candidates", "generate_candidates", "iter_candidates"]

# A query's cells are one score per item. Each takes 8 bytes per scorer and about 24 more while a block is worked on.
_BLOCK_CELLS = 1 << 22
_UNDEFINED = np.uint32(0xFFFFFFFE)
_EXCLUDED = np.uint32(0xFFFFFFFF)
_HALF = np.uint64(32)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Rows of query and item, each pair once, sorted by query and then by the item's place in the catalogue.

    Attributes
    ----------
    query : ndarray of shape (n_rows,), int64
        The query of each row, from 0 to ``n_queries - 1``.
    item : ndarray of shape (n_rows,), int32
        The item, as a position in the catalogue.
    scores : ndarray of shape (n_rows, n_scorers), float32
        What each scorer says, also where it was another that proposed the item; NaN where undefined.
    ranks : ndarray of shape (n_rows, n_scorers), int32
        1 plus the number of items of the catalogue that the scorer puts higher; equal scores share a rank, undefined
        ones the last. Excluded items are not counted.
    names : tuple of str
        The scorers, by column.
    n_queries : int
        Queries without any candidate included.
    proposed : ndarray of shape (n_rows, n_proposing), bool, optional
        Which scorers proposed the item, where they were asked; those that only say something of it come last in
        `names`, and have no column.
    """

    query: Int64Array
    item: Int32Array
    scores: Float32Array
    ranks: Int32Array
    names: tuple[str, ...]
    n_queries: int
    proposed: BoolArray | None = None

    def __len__(self) -> int:
        return len(self.query)

    @property
    def counts(self) -> Int64Array:
        """The number of candidates of each query, int64 of shape ``(n_queries,)``."""
        return np.bincount(self.query, minlength=self.n_queries)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the columns of `features`."""
        return (*(f"{name}_score" for name in self.names), *(f"{name}_rank" for name in self.names))

    def features(self) -> Float32Array:
        """Return scores and ranks side by side, float32 of shape ``(n_rows, 2 * n_scorers)``."""
        return np.concatenate([self.scores, self.ranks.astype(np.float32)], axis=1)

    def is_target(self, targets: Int64Array) -> BoolArray:
        """Return which rows are the target of their query, bool; ``targets`` is one item per query, -1 for none."""
        return np.asarray(self.item == self._checked(targets)[self.query])

    def found(self, targets: Int64Array) -> BoolArray:
        """Return for which queries the target is among the candidates, bool of shape ``(n_queries,)``."""
        found = np.zeros(self.n_queries, dtype=bool)
        found[self.query[self.is_target(targets)]] = True
        return found

    def recall(self, targets: Int64Array) -> float:
        """Return the share of queries whose target is among the candidates; NaN without queries."""
        return float(self.found(targets).mean()) if self.n_queries else float("nan")

    def best(self, scores: Any, n: int) -> Self:
        """Return the best candidates of each query by some score, in the order that they have here.

        Parameters
        ----------
        scores : ndarray of shape (n_rows,), float
            Higher is better, NaN comes last; of equal ones the first in the catalogue.
        n : int
            How many of each query at most.
        """
        scores = np.asarray(scores, dtype=np.float64)
        if scores.shape != (len(self),):
            raise InputError(f"scores have the shape {scores.shape}, but one for each of {len(self)} rows was expected")
        check_whole(1, n=n)
        order = np.lexsort((-scores, self.query))  # stable: NaN comes last
        return self.take(np.sort(order[places_in_groups(self.query) < n]))

    def take(self, rows: Int64Array) -> Self:
        """Return some rows, which ascend."""
        if (np.diff(rows) <= 0).any():
            raise InputError("the rows do not ascend, but candidates stay in their order: pass np.sort(rows)")
        return replace(
            self,
            query=self.query[rows],
            item=self.item[rows],
            scores=self.scores[rows],
            ranks=self.ranks[rows],
            proposed=None if self.proposed is None else self.proposed[rows],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Candidates]) -> Self:
        """Return the candidates of consecutive blocks of queries as one, queries numbered through."""
        if not parts:
            raise InputError("there are 0 parts to put together, at least 1 was expected")
        shifts = np.cumsum([0, *(part.n_queries for part in parts)])
        proposed = [part.proposed for part in parts if part.proposed is not None]
        return cls(
            np.concatenate([part.query + shift for part, shift in zip(parts, shifts[:-1], strict=True)]),
            np.concatenate([part.item for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.ranks for part in parts]),
            parts[0].names,
            int(shifts[-1]),
            np.concatenate(proposed) if len(proposed) == len(parts) else None,
        )

    def _checked(self, targets: Int64Array) -> Int64Array:
        targets = np.asarray(targets)
        if targets.shape != (self.n_queries,):
            raise InputError(
                f"targets have the shape {targets.shape}, but one item for each of {self.n_queries} queries "
                "was expected: pass -1 for a target outside the catalogue"
            )
        return targets


def generate_candidates(
    scorers: Sequence[ItemScorer],
    histories: Sequences,
    k_per_scorer: int,
    *,
    also: Sequence[ItemScorer] = (),
    exclude_history: bool = False,
    block_cells: int = _BLOCK_CELLS,
) -> Candidates:
    """Return the union of the best items of each scorer, for each query.

    Parameters
    ----------
    scorers : sequence of ItemScorer
        Of distinct names.
    histories : Sequences
        What each query saw.
    k_per_scorer : int
        How many items each scorer proposes: the highest scores, of equal ones the first in the catalogue. An item that
        it puts no higher than its worst, as 0 of a co-occurrence or an undefined cosine, is not proposed. From the
        size of the catalogue on, every item is a candidate, whatever is said of it.
    also : sequence of ItemScorer, optional
        Scorers that propose nothing: what they say of the candidates comes after the columns of `scorers`.
    exclude_history : bool, default=False
        Whether the items of the query's own history are left out.
    block_cells : int
        Queries are worked on in blocks of at most so many scores; memory, not the result, depends on it.

    Returns
    -------
    Candidates
        Its size is that of the result; `iter_candidates` gives it block by block.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat.history.sequences import Sequences
    >>> from llmfeat.rank.candidates import generate_candidates
    >>> from llmfeat.rank.scorers import Cooccurrence, Popularity
    >>> past = Sequences.from_lists(pa.table({"h": [["a", "b"], ["a", "c"], ["d"]]}), "h")
    >>> scorers = [Popularity().fit(past), Cooccurrence().fit(past)]
    >>> candidates = generate_candidates(scorers, past.take([2, 0]), 2)
    >>> candidates.query.tolist(), candidates.item.tolist(), candidates.ranks.tolist()  # d was beside nothing
    ([0, 1, 1], [0, 0, 1], [[1, 1], [1, 1], [2, 2]])
    """
    options: dict[str, Any] = {"also": also, "exclude_history": exclude_history, "block_cells": block_cells}
    return Candidates.concatenate(list(iter_candidates(scorers, histories, k_per_scorer, **options)))


def iter_candidates(
    scorers: Sequence[ItemScorer],
    histories: Sequences,
    k_per_scorer: int,
    *,
    also: Sequence[ItemScorer] = (),
    exclude_history: bool = False,
    block_cells: int = _BLOCK_CELLS,
) -> Iterator[Candidates]:
    """Yield the candidates of consecutive blocks of queries, each numbered from 0; see `generate_candidates`."""
    _check([*scorers, *also], len(scorers), k_per_scorer)
    block = max(1, block_cells // max(histories.n_items, 1))
    for first in range(0, max(len(histories), 1), block):
        some = histories.take(slice(first, first + block))
        yield _of_block(scorers, also, some, k_per_scorer, exclude_history)


def _of_block(
    scorers: Sequence[ItemScorer],
    also: Sequence[ItemScorer],
    histories: Sequences,
    k_per_scorer: int,
    exclude_history: bool,
) -> Candidates:
    excluded = (histories.row_of_event, histories.item_codes) if exclude_history else None
    scores, ordered, proposed = [], [], []
    for scorer in scorers:
        scores.append(_checked_scores(scorer, histories))
        levels = _levels(scores[-1], excluded)
        ordered.append(np.sort(levels, axis=1))
        proposed.append(_proposed(levels, ordered[-1], k_per_scorer))
    chosen = np.logical_or.reduce(proposed)
    query, item = np.nonzero(chosen)
    columns = [each[chosen] for each in scores]
    ranks = [_shared_ranks(query, column, each) for column, each in zip(columns, ordered, strict=True)]
    for scorer in also:
        said = _checked_scores(scorer, histories)
        columns.append(said[chosen])
        ranks.append(_shared_ranks(query, columns[-1], np.sort(_levels(said, excluded), axis=1)))
    return Candidates(
        query,
        item.astype(np.int32),
        np.stack(columns, axis=1),
        np.stack(ranks, axis=1),
        tuple(scorer.name for scorer in (*scorers, *also)),
        len(histories),
        np.stack([each[chosen] for each in proposed], axis=1),
    )


def _checked_scores(scorer: ItemScorer, histories: Sequences) -> Float32Array:
    scores = scorer.scores(histories)
    shape = (len(histories), histories.n_items)
    if scores.shape != shape or scores.dtype != np.float32:
        raise InputError(
            f"the scorer {scorer.name!r} gave {scores.dtype} of shape {scores.shape}, but float32 of shape {shape} was "
            "expected: a score for each query and item"
        )
    return scores


def _falling(scores: Float32Array) -> Any:
    """Return whole numbers, uint32, that rise as scores fall; the highest for NaN."""
    bits = (scores + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0, its equal
    # The bits of floats rise with them above 0 and fall below: the former are turned around, the latter keep the sign.
    turned = ~(bits.view(np.int32) >> 31) & 0x7FFFFFFF
    bits ^= turned.view(np.uint32)
    bits[np.isnan(scores)] = _UNDEFINED
    return bits


def _levels(scores: Float32Array, excluded: tuple[Int64Array, Int32Array] | None) -> Any:
    levels = _falling(scores)
    if excluded is not None:
        levels[excluded] = _EXCLUDED
    return levels


def _proposed(levels: Any, ordered: Any, k_per_scorer: int) -> BoolArray:
    """Return which items a scorer proposes: the lowest `levels`, `ordered` being those of each query, sorted."""
    n_queries, n_items = levels.shape
    if k_per_scorer >= n_items:
        return np.asarray(levels != _EXCLUDED)
    n_left = np.count_nonzero(ordered != _EXCLUDED, axis=1)
    worst = ordered[np.arange(n_queries), np.maximum(n_left - 1, 0)]
    last = ordered[:, k_per_scorer - 1]
    chosen: BoolArray = levels < np.minimum(last, worst)[:, None]
    # Of those that share the last place the first in the catalogue, as many as there are places left.
    query, item = np.nonzero((levels == last[:, None]) & (last < worst)[:, None])
    place = places_in_groups(query)
    kept = place < (k_per_scorer - np.count_nonzero(chosen, axis=1))[query]
    chosen[query[kept], item[kept]] = True
    return chosen


def _shared_ranks(query: Int64Array, scores: Float32Array, ordered: Any) -> Int32Array:
    """Return the rank of each row of query and score, int32: 1 plus how many of its query's are higher."""
    n_queries, n_items = ordered.shape
    every = ordered | (np.arange(n_queries, dtype=np.uint64) << _HALF)[:, None]
    wanted = _falling(scores) | (query.astype(np.uint64) << _HALF)
    ranks: Int32Array = (np.searchsorted(every.ravel(), wanted) - query * n_items + 1).astype(np.int32)
    return ranks


def _check(asked: Sequence[ItemScorer], n_scorers: int, k_per_scorer: int) -> None:
    names = [scorer.name for scorer in asked]
    if not n_scorers or len(set(names)) != len(names):
        raise InputError(
            f"the scorers are named {names}, but at least one, of distinct names, was expected: pass name="
        )
    check_whole(1, k_per_scorer=k_per_scorer)
