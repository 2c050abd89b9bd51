"""Next-item ranking of Office Products, from events that have an order and no times.

The valid events precede the test events, a user's rows follow one another, and each brings the history before it. So
the shortest history of a user's test rows ends before the test begins, but for a history of one event: a user's first
event has no row of its own, and may be of any time. Two states of knowledge follow: what was known before the valid
events (the shortest history of each user), whose features train the ranker on the valid targets; and what was known
before the test events (the same and the valid events), whose features the test is ranked by. Histories of one event
are in neither, unless a valid row of the same user comes after them, which puts them before the test.

Every query ranks what any of the scorers proposes out of the whole catalogue; a target that none proposes is a miss.
The candidates are the same for every arm.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.stats import rankdata

from llmfeat import HistoryFeatures, InteractionLog, LearnedSimilarity, VectorTable
from llmfeat.features import Whitening, reduce_table
from llmfeat.history import HISTORY_AS_OF_US, Sequences
from llmfeat.history.pairs import sum_pairs
from llmfeat.rank.candidates import Candidates, generate_candidates
from llmfeat.rank.scorers import (
    EASE,
    CollaborativeVectors,
    Cooccurrence,
    FittableScorer,
    Popularity,
    Repeats,
    SequenceNeighbours,
    TextNeighbours,
    TextSmoothing,
)

HISTORY = "history_item_ids"
MAX_EVENTS = 10
K_PER_SCORER = 50
# The most that co-occurrence counts apart, and how much less each place further apart counts.
WINDOW, DISTANCE_DECAY = 10, 0.6
_DIM = 128  # of whitened and of learned vectors


@dataclass(frozen=True, eq=False)
class Queries:
    """Rows to rank the catalogue for: their histories, with users, and the item that came next."""

    histories: Sequences
    targets: np.ndarray[Any, Any]

    def take(self, rows: np.ndarray[Any, Any]) -> Queries:
        """Return some of them."""
        return Queries(self.histories.take(rows), self.targets[rows])


@dataclass(frozen=True, eq=False)
class Office:
    """The catalogue, and both states of knowledge with the events that come after."""

    items: pa.Table
    valid: Queries
    test: Queries
    before_valid: Sequences
    before_test: Sequences
    inside_valid: Sequences

    @property
    def item_ids(self) -> pa.StringArray:
        """The catalogue."""
        return self.valid.histories.item_ids


def load_office(folder: Path) -> Office:
    """Read the files as they come, and derive what was known before each split."""
    items = pq.read_table(folder / "items.parquet")
    events = pq.read_table(folder / "interactions.parquet").sort_by(
        [("split", "ascending"), ("row_in_split", "ascending")]
    )
    ids = items.column("item_id").combine_chunks().cast(pa.string())
    queries = {}
    for split in ("valid", "test"):
        rows = events.filter(pc.equal(events["split"], split))
        histories = Sequences.from_lists(rows, HISTORY, item_ids=ids, user_id="user_id")
        queries[split] = Queries(histories, histories.item_code(rows["item_id"]))
    valid, test = queries["valid"], queries["test"]
    before_valid, continued = _known_before(valid, test)
    return Office(
        items,
        valid,
        test,
        before_valid=_sequences(before_valid, ids),
        before_test=_sequences(continued, ids),
        inside_valid=_sequences({user: before_valid[user] for user in valid.histories.users.to_pylist()}, ids),
    )


def _known_before(valid: Queries, test: Queries) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Return each user's events before the valid rows, and before the test rows."""
    before: dict[str, list[int]] = {}
    after: dict[str, list[int]] = {}
    for queries in (valid, test):
        for row, user in enumerate(queries.histories.users.to_pylist()):
            if user not in before:  # the first row of a user has the shortest history
                events = queries.histories.take(np.array([row])).item_codes.tolist()
                # The one event of a history of one may be of the time of the rows that it is to be known before.
                before[user] = events if len(events) > 1 else []
                after[user] = list(events) if len(events) > 1 or queries is valid else []
            if queries is valid:
                after[user].append(int(queries.targets[row]))
    return before, after


def _sequences(of_user: Mapping[str, list[int]], item_ids: pa.StringArray) -> Sequences:
    codes = np.array([code for events in of_user.values() for code in events], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(events) for events in of_user.values()])]).astype(np.int64)
    return Sequences(codes, offsets, item_ids, users=pa.array(list(of_user), pa.string()))


@dataclass(frozen=True, eq=False)
class Vectors:
    """Item vectors by what they are made of; each of title alone, and of title and description."""

    tfidf: Mapping[str, VectorTable]
    llm: Mapping[str, VectorTable]
    random: Mapping[str, VectorTable]

    def __getitem__(self, kind: str) -> Mapping[str, VectorTable]:
        found: Mapping[str, VectorTable] = getattr(self, kind)
        return found


# Families of columns by arm; each arm beside no_text is no_text and the same families over other vectors.
NO_TEXT = ("popularity", "recent", "repeats", "cooccurrence", "ease", "sequences", "collab", "length")
TEXT_FAMILIES = ("similarity", "learned", "smoothed", "alike_users")
ARMS: Mapping[str, tuple[str, ...]] = {
    "popularity": ("popularity",),
    "no_text": NO_TEXT,
    "random": (*NO_TEXT, *(f"random_{family}" for family in TEXT_FAMILIES)),
    "tfidf": (*NO_TEXT, *(f"tfidf_{family}" for family in TEXT_FAMILIES)),
    "llm": (*NO_TEXT, *(f"llm_{family}" for family in TEXT_FAMILIES)),
    "hybrid": (*NO_TEXT, *(f"{kind}_{family}" for kind in ("tfidf", "llm") for family in TEXT_FAMILIES)),
}


@dataclass(frozen=True, eq=False)
class Rows:
    """Candidates of queries, with their columns by family."""

    candidates: Candidates
    targets: np.ndarray[Any, Any]
    families: Mapping[str, np.ndarray[Any, Any]]
    names: Mapping[str, tuple[str, ...]]

    def of_queries(self, queries: np.ndarray[Any, Any]) -> Rows:
        """Return the rows of some queries, ascending, which are numbered anew."""
        number = np.full(self.candidates.n_queries, -1)
        number[queries] = np.arange(len(queries))
        kept = np.flatnonzero(number[self.candidates.query] >= 0)
        candidates = Candidates(
            number[self.candidates.query[kept]],
            self.candidates.item[kept],
            self.candidates.scores[kept],
            self.candidates.ranks[kept],
            self.candidates.names,
            len(queries),
        )
        families = {family: columns[kept] for family, columns in self.families.items()}
        return Rows(candidates, self.targets[queries], families, self.names)

    def matrix(self, families: Iterable[str]) -> np.ndarray[Any, Any]:
        """Return the columns of some families side by side, float32."""
        return np.concatenate([self.families[family] for family in families], axis=1)


def scorers_of(past: Sequences, vectors: Vectors, kinds: Iterable[str]) -> list[tuple[str, FittableScorer]]:
    """Return fitted scorers with the family of each; the first of the text families propose candidates too."""
    decays = {"distance_decay": DISTANCE_DECAY, "decay": DISTANCE_DECAY}
    pairs: dict[str, Any] = {"window": WINDOW, "shrinkage": 3.0, **decays}
    after = {**pairs, "forward": True, "normalize": "conditional"}
    made: list[tuple[str, FittableScorer]] = [
        ("popularity", Popularity()),
        ("repeats", Repeats()),
        ("cooccurrence", Cooccurrence(**pairs, name="together")),
        ("cooccurrence", Cooccurrence(**after, name="after")),
        ("cooccurrence", Cooccurrence(**{**after, "max_events": 1}, name="after_last")),
        ("cooccurrence", Cooccurrence(**{**after, "max_events": 1, "window": 1}, name="next_after_last")),
        ("ease", EASE(l2=20.0, decay=DISTANCE_DECAY)),
        ("sequences", SequenceNeighbours(decay=DISTANCE_DECAY)),
        ("collab", CollaborativeVectors(window=WINDOW, distance_decay=DISTANCE_DECAY)),
    ]
    for kind in kinds:
        table = vectors[kind]["all"]
        smoothing = TextSmoothing(table, n_neighbours=15, temperature=0.05, prior_events=5)
        made += [
            (f"{kind}_smoothed", Cooccurrence(**pairs, smoothing=smoothing, name=f"{kind}_smoothed")),
            (f"{kind}_alike_users", SequenceNeighbours(table, decay=DISTANCE_DECAY, name=f"{kind}_alike_users")),
            (f"{kind}_similarity", TextNeighbours(table, decay=DISTANCE_DECAY, name=f"{kind}_text")),
        ]
    fitted = [(family, scorer.fit(past)) for family, scorer in made]
    # What users met last is what is met of late, where events have no times.
    recent = [("recent", Popularity(name=f"recent{n}").fit(past.last(n))) for n in (1, 2, 3)]
    return [*fitted, *recent]


def rows_of(queries: Queries, past: Sequences, vectors: Vectors, *, k: int = K_PER_SCORER) -> Rows:
    """Return the candidates of some queries and their columns, from what was known before them.

    Every arm ranks the same candidates: those that all scorers but the placebo's propose.
    """
    proposing = scorers_of(past, vectors, ("tfidf", "llm"))
    candidates = generate_candidates([scorer for _, scorer in proposing], queries.histories, k)
    families: dict[str, list[np.ndarray[Any, Any]]] = {}
    names: dict[str, list[str]] = {}

    def add(family: str, columns: np.ndarray[Any, Any], called: Iterable[str]) -> None:
        families.setdefault(family, []).append(columns)
        names.setdefault(family, []).extend(called)

    for at, (family, scorer) in enumerate(proposing):
        columns = np.stack([candidates.scores[:, at], candidates.ranks[:, at].astype(np.float32)], axis=1)
        add(family, columns, (f"{scorer.name}_score", f"{scorer.name}_rank"))
    for family, scorer in scorers_of(past, vectors, ("random",)):
        if family.startswith("random_"):  # the placebo proposes nothing, and has the same columns
            columns = _scores_and_ranks(scorer, queries.histories, candidates)
            add(family, columns, (f"{scorer.name}_score", f"{scorer.name}_rank"))
    lengths = queries.histories.lengths[candidates.query].astype(np.float32)
    add("length", lengths[:, None], ("history_length",))
    collab = next(scorer for family, scorer in proposing if family == "collab")
    for family, table in _kernel_sources(past, vectors, collab.vectors_):
        add(family, *_kernel(queries.histories, candidates, table, family))
    return Rows(
        candidates,
        queries.targets,
        {family: np.concatenate(blocks, axis=1) for family, blocks in families.items()},
        {family: tuple(called) for family, called in names.items()},
    )


def _kernel_sources(past: Sequences, vectors: Vectors, collab: VectorTable) -> list[tuple[str, VectorTable]]:
    affinity = sum_pairs(
        past.item_codes, past.row_of_event, n_items=past.n_items, window=WINDOW, distance_decay=DISTANCE_DECAY
    )
    affinity.setdiag(0)
    affinity.eliminate_zeros()
    sources = [("collab", collab)]
    for kind in ("random", "tfidf", "llm"):
        for table in vectors[kind].values():
            white = reduce_table(Whitening(min(_DIM, table.dim)), table)
            learned = LearnedSimilarity(min(_DIM, table.dim)).fit(table.vectors, affinity)
            sources += [(f"{kind}_similarity", white), (f"{kind}_learned", reduce_table(learned, table))]
    return sources


def _kernel(
    histories: Sequences, candidates: Candidates, table: VectorTable, prefix: str
) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Return the history features of each candidate; a query is a user of its own, which brings its history."""
    brought = pa.table({HISTORY: pa.array(histories.to_lists(), pa.list_(pa.string()))})
    log = InteractionLog.from_histories(brought, history=HISTORY)
    rows = pa.table(
        {
            "row_id": candidates.query,
            "item_id": histories.item_ids.take(pa.array(candidates.item)),
            "timestamp": pa.array(np.full(len(candidates), HISTORY_AS_OF_US), pa.timestamp("us", "UTC")),
        }
    )
    features = HistoryFeatures(
        log,
        {prefix: table},
        max_events=MAX_EVENTS,
        half_lives=(1.5,),
        sides=("all",),
        user_id="row_id",
        statistics=("last", "top", "mean", "decay"),
        top_k=3,
    )
    return features.fit(rows).transform(rows), list(features.get_feature_names_out())


def _scores_and_ranks(
    scorer: FittableScorer, histories: Sequences, candidates: Candidates, *, n_block: int = 512
) -> np.ndarray[Any, Any]:
    """Return what a scorer that proposed nothing says of the candidates, as `Candidates` has it of those that did."""
    out = np.empty((len(candidates), 2), dtype=np.float32)
    edges = np.searchsorted(candidates.query, np.arange(0, candidates.n_queries + n_block, n_block))
    for block, (first, last) in enumerate(itertools.pairwise(edges)):
        scores = scorer.scores(histories.take(slice(n_block * block, n_block * (block + 1))))
        ranks = rankdata(-np.nan_to_num(scores, nan=-np.inf), method="min", axis=1)
        at = candidates.query[first:last] - n_block * block, candidates.item[first:last]
        out[first:last] = np.stack([scores[at], ranks[at]], axis=1)
    return out
