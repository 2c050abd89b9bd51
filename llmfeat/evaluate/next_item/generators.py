"""The scorers of the catalogue that propose candidates, by the family that their columns belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from llmfeat._base.progress import Doing, quiet
from llmfeat.encode import VectorTable
from llmfeat.history import Sequences
from llmfeat.history.pairs import both_ways, count_pairs
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

__all__ = ["PastPairs", "fit_generators", "fit_text_generators"]

# The most places apart that co-occurrence counts, and how much less each place further apart counts.
WINDOW, DISTANCE_DECAY = 10, 0.6
_NEAR: Mapping[str, Any] = {
    "window": WINDOW,
    "shrinkage": 3.0,
    "distance_decay": DISTANCE_DECAY,
    "decay": DISTANCE_DECAY,
}
_DAY_S = 86_400.0
_HALF_LIVES_S = (_DAY_S, 7 * _DAY_S, 30 * _DAY_S)
# EASE inverts a matrix of the catalogue, neighbours are searched among all sequences: past these sizes EASE is left
# out, and neighbours are those of the sequences that ended last.
_MOST_ITEMS_OF_EASE = 10_000
_MOST_SEQUENCES = 50_000


@dataclass(frozen=True, eq=False)
class PastPairs:
    """What came near what in a past, counted once for all that is fitted on it.

    Attributes
    ----------
    together, after : scipy.sparse.csr_array of shape (n_items, n_items), float64
        Within `WINDOW` places, in both directions and forward.
    next : scipy.sparse.csr_array of shape (n_items, n_items), float64
        At the very next place.
    """

    together: Any
    after: Any
    next: Any

    @classmethod
    def of(cls, past: Sequences) -> Self:
        """Count the pairs of a past."""
        after, follows = (
            count_pairs(past, window=window, distance_decay=DISTANCE_DECAY, forward=True) for window in (WINDOW, 1)
        )
        return cls(both_ways(after), after, follows)


def fit_generators(past: Sequences, pairs: PastPairs, doing: Doing = quiet) -> list[tuple[str, FittableScorer]]:
    """Return what a good team proposes candidates with without text, fitted, each with its family."""
    made = _Fitted(doing)
    after = {**_NEAR, "forward": True, "normalize": "conditional"}
    last = {**after, "max_events": 1}
    made.add("popularity", Popularity(), past)
    for scorer, what in _recent(past):
        made.add("no_text", scorer, what)
    made.add("no_text", Repeats(), past)
    made.add("no_text", Cooccurrence(**_NEAR, name="together"), past, counts=pairs.together)
    made.add("no_text", Cooccurrence(**after, name="after"), past, counts=pairs.after)
    made.add("no_text", Cooccurrence(**last, name="after_last"), past, counts=pairs.after)
    made.add("no_text", Cooccurrence(**{**last, "window": 1}, name="next_after_last"), past, counts=pairs.next)
    made.add("no_text", SequenceNeighbours(decay=DISTANCE_DECAY), _latest(past))
    if past.n_items <= _MOST_ITEMS_OF_EASE:
        made.add("no_text", EASE(l2=20.0, decay=DISTANCE_DECAY), past)
    collab = CollaborativeVectors(window=WINDOW, distance_decay=DISTANCE_DECAY)
    made.add("collab", collab, past, counts=pairs.together)
    return made.scorers


def fit_text_generators(
    past: Sequences, pairs: PastPairs, vectors: Mapping[str, VectorTable], doing: Doing = quiet
) -> list[tuple[str, FittableScorer]]:
    """Return what item vectors propose candidates with, by the name of the vectors, which is the family too."""
    made = _Fitted(doing)
    for family, table in vectors.items():
        smoothing = TextSmoothing(table, n_neighbours=15, temperature=0.05, prior_events=5)
        borrowed = Cooccurrence(**_NEAR, smoothing=smoothing, name=f"{family}_smoothed")
        made.add(family, borrowed, past, counts=pairs.together)
        alike = SequenceNeighbours(table, decay=DISTANCE_DECAY, name=f"{family}_alike_users")
        made.add(family, alike, _latest(past))
        made.add(family, TextNeighbours(table, decay=DISTANCE_DECAY, name=f"{family}_text"), past)
    return made.scorers


class _Fitted:
    """Scorers as they are fitted, each with its family."""

    def __init__(self, doing: Doing) -> None:
        self._doing = doing
        self.scorers: list[tuple[str, FittableScorer]] = []

    def add(self, family: str, scorer: FittableScorer, past: Sequences, **known: Any) -> None:
        self._doing(f"fitting {scorer.name}")
        self.scorers.append((family, scorer.fit(past, **known)))


def _recent(past: Sequences) -> list[tuple[Popularity, Sequences]]:
    """Return what is met of late: by half-lives, or, where events have no times, by what users met last."""
    if past.times_us is None:
        return [(Popularity(name=f"recent{n}"), past.last(n)) for n in (1, 2, 3)]
    return [
        (Popularity(half_life_s=half_life_s, name=f"recent{half_life_s / _DAY_S:.0f}d"), past)
        for half_life_s in _HALF_LIVES_S
    ]


def _latest(past: Sequences) -> Sequences:
    """Return the sequences that ended last, at most `_MOST_SEQUENCES`; the last rows where there are no times."""
    if len(past) <= _MOST_SEQUENCES:
        return past
    kept = np.arange(len(past) - _MOST_SEQUENCES, len(past))
    if past.times_us is not None:
        ends = np.full(len(past), np.iinfo(np.int64).min)
        filled = past.lengths > 0
        ends[filled] = past.times_us[past.offsets[1:][filled] - 1]
        kept = np.sort(np.argsort(ends, kind="stable")[-_MOST_SEQUENCES:])
    return past.take(kept)
