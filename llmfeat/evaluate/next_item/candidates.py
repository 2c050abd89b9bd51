"""Candidates of queries and their columns, from what was known before a stage."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa

from llmfeat._base.progress import Doing, quiet
from llmfeat.encode import VectorTable
from llmfeat.errors import EmptyInputError, LLMFeatWarning, NothingToLearnError
from llmfeat.evaluate.columns import Columns
from llmfeat.evaluate.next_item.generators import (
    PastPairs,
    fit_generators,
    fit_text_generators,
)
from llmfeat.evaluate.next_item.metrics import TargetRanks, target_ranks
from llmfeat.evaluate.next_item.queries import Queries, Stage
from llmfeat.features import ActivityFeatures, HistoryFeatures, LearnedSimilarity, Whitening, reduce_table
from llmfeat.history import HISTORY_AS_OF_US, InteractionLog, Sequences
from llmfeat.rank.candidates import Candidates, iter_candidates
from llmfeat.rank.scorers import CollaborativeVectors, FittableScorer
from llmfeat.rank.two_tower import TwoTower
from llmfeat.types import BoolArray, Float32Array, Float64Array, Int64Array

__all__ = [
    "K_PER_GENERATOR",
    "TOWERS",
    "CandidateRows",
    "FittedStage",
    "ItemVectors",
    "concatenate_queries",
    "history_features",
    "kernel_rows",
]

K_PER_GENERATOR = 50
MAX_EVENTS = 20
TOWERS = "two_tower"
_DIM = 128  # of whitened and of learned vectors
# Where all events are positives, rates and mean labels are constant: these columns are not.
_ACTIVITY = ("_n_events", "_n_1h", "_n_1d", "_n_7d", "_since_last_s", "_since_first_s", "session_n", "session_s")

# By family, then by what the vectors are of: all text, or the first column of it alone.
ItemVectors = Mapping[str, Mapping[str, VectorTable]]


@dataclass(frozen=True, eq=False)
class CandidateRows:
    """The candidates of the contexts of some queries, with their columns.

    Attributes
    ----------
    candidates : Candidates
        Rows of context and item; a "query" of theirs is a context.
    columns : Columns
        A row for each.
    queries : Queries
        What is to be found.
    """

    candidates: Candidates
    columns: Columns
    queries: Queries

    @classmethod
    def concatenate(cls, parts: list[CandidateRows]) -> Self:
        """Return the rows of several stages as one; contexts are numbered through."""
        if len(parts) == 1:
            return cls(parts[0].candidates, parts[0].columns, parts[0].queries)
        return cls(
            Candidates.concatenate([part.candidates for part in parts]),
            Columns.concatenate([part.columns for part in parts]),
            concatenate_queries([part.queries for part in parts]),
        )

    @cached_property
    def is_target(self) -> BoolArray:
        """Which rows are a target of their context, bool of shape ``(n_rows,)``."""
        queries, n_items = self.queries, self.queries.contexts.n_items
        there = queries.targets >= 0
        wanted = np.unique(queries.context[there] * n_items + queries.targets[there])
        keys = self.candidates.query * n_items + self.candidates.item
        return wanted[np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)] == keys if len(wanted) else keys < 0

    def ranks(self, scores: Float64Array) -> TargetRanks:
        """Return where the target of each query stands among the candidates of its context."""
        rows, query = self._rows_of_queries
        return target_ranks(query, self.candidates.item[rows], scores[rows], self.queries.targets)

    @cached_property
    def target_rows(self) -> Int64Array:
        """The row of each query's target, int64 of shape ``(n_queries,)``, -1 where it is no candidate."""
        rows, query = self._rows_of_queries
        hit = np.flatnonzero(self.candidates.item[rows] == self.queries.targets[query])
        found = np.full(len(self.queries), -1)
        found[query[hit]] = rows[hit]
        return found

    @cached_property
    def _rows_of_queries(self) -> tuple[Int64Array, Int64Array]:
        """The rows of the candidates of each query, one query after the other, and which query each is of."""
        counts = self.candidates.counts
        first = np.concatenate([[0], np.cumsum(counts)])[:-1].astype(np.int64)
        sizes = counts[self.queries.context]
        query = np.repeat(np.arange(len(self.queries)), sizes)
        starts = np.concatenate([[0], np.cumsum(sizes)])[:-1].astype(np.int64)
        rows = np.arange(len(query)) - np.repeat(starts, sizes) + first[self.queries.context][query]
        return rows, query


def concatenate_queries(parts: list[Queries]) -> Queries:
    """Return the queries of several stages as one."""
    shifts = np.cumsum([0, *(len(part.contexts) for part in parts)])
    first = parts[0].contexts
    contexts = Sequences(
        np.concatenate([part.contexts.item_codes for part in parts]),
        np.concatenate([[0], np.cumsum(np.concatenate([part.contexts.lengths for part in parts]))]).astype(np.int64),
        first.item_ids,
        users=pa.concat_arrays([part.users for part in parts]),
    )
    moments = [part.moments_us for part in parts if part.moments_us is not None]
    as_of = [part.as_of_us for part in parts if part.as_of_us is not None]
    return Queries(
        contexts,
        np.concatenate(moments) if len(moments) == len(parts) else None,
        np.concatenate(as_of) if len(as_of) == len(parts) else None,
        np.concatenate([part.context + shift for part, shift in zip(parts, shifts[:-1], strict=True)]),
        np.concatenate([part.targets for part in parts]),
    )


class FittedStage:
    """What a stage knows, fitted once, and asked for the candidates of any of its queries.

    Parameters
    ----------
    stage : Stage
        What was known.
    vectors : ItemVectors
        Item vectors by family; those of `random` propose nothing.
    log : InteractionLog, optional
        The events, where they have times: what is counted of them up to each moment.
    own : OwnColumns, optional
        The user's own columns of a user, an item and a moment.
    k : int
        How many candidates each generator proposes.
    towers : callable, optional
        Returns two towers to fit on what was known: they propose too, and their scores and the kernel over their
        vectors are columns of the family `two_tower`. None by default.
    doing : callable
        Takes what is being done.

    Raises
    ------
    NothingToLearnError
        When two towers are asked for, and what was known teaches them nothing.
    """

    def __init__(
        self,
        stage: Stage,
        vectors: ItemVectors,
        *,
        log: InteractionLog | None = None,
        own: Any = None,
        k: int = K_PER_GENERATOR,
        towers: Callable[[], TwoTower] | None = None,
        doing: Doing = quiet,
    ) -> None:
        self.stage, self._log, self._own, self._k = stage, log, own, k
        past = stage.past
        alike = {family: next(iter(tables.values())) for family, tables in vectors.items()}
        proposing = {family: table for family, table in alike.items() if family != "random"}
        doing(f"counting pairs of {len(past.item_codes):,} events")
        pairs = PastPairs.of(past)
        self._generators = [
            *fit_generators(past, pairs, doing),
            *fit_text_generators(past, pairs, proposing, doing),
        ]
        self._placebo = fit_text_generators(past, pairs, {"random": alike["random"]}, doing)
        self._tables = self._kernel_tables(pairs, vectors, doing)
        if towers is not None:
            doing("training two towers")
            fitted = towers().fit(past)
            self._generators.append((TOWERS, fitted))
            self._tables.append((TOWERS, fitted.name, fitted.item_vectors_))

    @property
    def generators(self) -> list[tuple[str, FittableScorer]]:
        """Family and scorer of all that propose."""
        return self._generators

    def rows(self, queries: Queries, doing: Doing = quiet) -> CandidateRows:
        """Return the candidates of the contexts of some queries, and their columns; `doing` as in the constructor.

        Every arm ranks the same candidates: what all generators propose. A row has the bits that it has alone.
        """
        proposing, placebo = ([scorer for _, scorer in each] for each in (self._generators, self._placebo))
        candidates = self._candidates(queries.contexts, proposing, placebo, doing)
        made = _Blocks()
        for at, (family, scorer) in enumerate([*self._generators, *self._placebo]):
            pair = np.stack([candidates.scores[:, at], candidates.ranks[:, at].astype(np.float32)], axis=1)
            made.add(family, pair, [f"{scorer.name}_score", f"{scorer.name}_rank"])
        lengths = queries.contexts.lengths[candidates.query].astype(np.float32)
        made.add("no_text", lengths[:, None], ["history_length"])
        self._add_activity(made, queries, candidates)
        for family, name, table in self._tables:
            doing(f"columns of {len(candidates):,} candidates, {name}")
            made.add(family, *_kernel(queries.contexts, candidates, table, name))
        made.families["no_text"] = [*made.families["popularity"], *made.families["no_text"]]
        made.names["no_text"] = [*made.names["popularity"], *made.names["no_text"]]
        return CandidateRows(candidates, made.columns(), queries)

    def _candidates(
        self, contexts: Sequences, proposing: list[FittableScorer], placebo: list[FittableScorer], doing: Doing
    ) -> Candidates:
        parts: list[Candidates] = []
        done = 0
        for part in iter_candidates(proposing, contexts, self._k, also=placebo):
            parts.append(part)
            done += part.n_queries
            doing(f"candidates of {done:,} of {len(contexts):,} histories")
        return Candidates.concatenate(parts)

    def _add_activity(self, made: _Blocks, queries: Queries, candidates: Candidates) -> None:
        if self._log is None and self._own is None:
            return
        users = queries.users.take(pa.array(candidates.query))
        items = queries.contexts.item_ids.take(pa.array(candidates.item))
        if self._log is not None and queries.as_of_us is not None:
            as_of = pa.array(queries.as_of_us[candidates.query], pa.timestamp("us", "UTC"))
            rows = pa.table({"user_id": users, "item_id": items, "timestamp": as_of})
            features = ActivityFeatures(self._log).fit(rows)
            names = features.get_feature_names_out()
            kept = [at for at, name in enumerate(names) if name.endswith(_ACTIVITY)]
            made.add("no_text", features.transform(rows)[:, kept], [names[at] for at in kept])
        if self._own is not None:
            # As they were at the moment itself: how late they are is their owner's to know.
            moments_us = None if queries.moments_us is None else queries.moments_us[candidates.query]
            made.add("own", self._own.columns(None, users, items, moments_us), list(self._own.names))

    def _kernel_tables(
        self, pairs: PastPairs, vectors: ItemVectors, doing: Doing
    ) -> list[tuple[str, str, VectorTable]]:
        affinity = pairs.together.copy()
        affinity.setdiag(0)
        affinity.eliminate_zeros()
        collab = next(scorer for _, scorer in self._generators if isinstance(scorer, CollaborativeVectors))
        tables = [("collab", "collab", collab.vectors_)]
        for family, views in vectors.items():
            for view, table in views.items():
                name = family if view == "all" else f"{family}_{view}"
                dim = min(_DIM, table.dim)
                doing(f"whitening, learning: {name}")
                tables.append((family, name, _whitened(table, dim)))
                try:
                    learned = LearnedSimilarity(dim).fit(table.vectors, affinity)
                    projected = reduce_table(learned, table)
                except NothingToLearnError:  # of a past without two items that one user met
                    projected = VectorTable.from_arrays(table.ids, np.full((len(table), 1), np.nan))
                tables.append((f"{family}_learned", f"{name}_learned", projected))
        return tables


def _whitened(table: VectorTable, dim: int) -> VectorTable:
    """Return whitened vectors, of fewer dimensions where there are fewer directions; all the same stay as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LLMFeatWarning)
        try:
            return reduce_table(Whitening(dim), table)
        except (EmptyInputError, NothingToLearnError):
            return table


class _Blocks:
    """Columns as they are made, by family."""

    def __init__(self) -> None:
        self.families: dict[str, list[Float32Array]] = {}
        self.names: dict[str, list[str]] = {}

    def add(self, family: str, columns: Float32Array, names: list[str]) -> None:
        self.families.setdefault(family, []).append(columns)
        self.names.setdefault(family, []).extend(names)

    def columns(self) -> Columns:
        families = {family: np.concatenate(blocks, axis=1) for family, blocks in self.families.items()}
        return Columns(families, {family: tuple(names) for family, names in self.names.items()})


def history_features(histories: Sequences, tables: Mapping[str, VectorTable]) -> HistoryFeatures:
    """Return the kernel over contexts: each is a user of its own, the number of its row, and brings its history."""
    brought = pa.table({"history": pa.array(histories.to_lists(), pa.list_(pa.string()))})
    return HistoryFeatures(
        InteractionLog.from_histories(brought, history="history"),
        tables,
        max_events=MAX_EVENTS,
        half_lives=(1.5,),
        sides=("all",),
        user_id="row_id",
        statistics=("last", "top", "mean", "decay"),
        top_k=3,
    )


def kernel_rows(histories: Sequences, candidates: Candidates) -> pa.Table:
    """Return the rows that `history_features` takes."""
    moment = pa.array(np.full(len(candidates), HISTORY_AS_OF_US), pa.timestamp("us", "UTC"))
    items = histories.item_ids.take(pa.array(candidates.item))
    return pa.table({"row_id": candidates.query, "item_id": items, "timestamp": moment})


def _kernel(
    histories: Sequences, candidates: Candidates, table: VectorTable, name: str
) -> tuple[Float32Array, list[str]]:
    features, rows = history_features(histories, {name: table}), kernel_rows(histories, candidates)
    return features.fit(rows).transform(rows), list(features.get_feature_names_out())
