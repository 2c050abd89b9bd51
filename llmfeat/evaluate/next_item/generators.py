"""The scorers of the catalogue that propose candidates, by the family that their columns belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmfeat.encode import VectorTable
from llmfeat.history import Sequences
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

__all__ = ["DISTANCE_DECAY", "WINDOW", "collaborative", "fit_generators", "fit_text_generators"]

# The most places apart that co-occurrence counts, and how much less each place further apart counts.
WINDOW, DISTANCE_DECAY = 10, 0.6
_DAY_S = 86_400.0
_HALF_LIVES_S = (_DAY_S, 7 * _DAY_S, 30 * _DAY_S)
# EASE inverts a matrix of the catalogue, neighbours are searched among all sequences: past these sizes EASE is left
# out, and neighbours are those of the sequences that ended last.
_MOST_ITEMS_OF_EASE = 10_000
_MOST_SEQUENCES = 50_000


def fit_generators(past: Sequences) -> list[tuple[str, FittableScorer]]:
    """Return what a good team proposes candidates with without text, fitted, each with its family."""
    decays: dict[str, Any] = {"distance_decay": DISTANCE_DECAY, "decay": DISTANCE_DECAY}
    pairs: dict[str, Any] = {"window": WINDOW, "shrinkage": 3.0, **decays}
    after = {**pairs, "forward": True, "normalize": "conditional"}
    made: list[tuple[str, FittableScorer]] = [
        ("popularity", Popularity().fit(past)),
        *(("no_text", scorer) for scorer in _recent(past)),
        ("no_text", Repeats().fit(past)),
        ("no_text", Cooccurrence(**pairs, name="together").fit(past)),
        ("no_text", Cooccurrence(**after, name="after").fit(past)),
        ("no_text", Cooccurrence(**{**after, "max_events": 1}, name="after_last").fit(past)),
        ("no_text", Cooccurrence(**{**after, "max_events": 1, "window": 1}, name="next_after_last").fit(past)),
        ("no_text", SequenceNeighbours(decay=DISTANCE_DECAY).fit(_latest(past))),
    ]
    if past.n_items <= _MOST_ITEMS_OF_EASE:
        made.append(("no_text", EASE(l2=20.0, decay=DISTANCE_DECAY).fit(past)))
    return [*made, ("collab", collaborative().fit(past))]


def collaborative() -> CollaborativeVectors:
    """Return the item vectors of co-occurrence, not fitted."""
    return CollaborativeVectors(window=WINDOW, distance_decay=DISTANCE_DECAY)


def fit_text_generators(past: Sequences, vectors: Mapping[str, VectorTable]) -> list[tuple[str, FittableScorer]]:
    """Return what item vectors propose candidates with, by the name of the vectors, which is the family too."""
    made: list[tuple[str, FittableScorer]] = []
    for family, table in vectors.items():
        smoothing = TextSmoothing(table, n_neighbours=15, temperature=0.05, prior_events=5)
        pairs: dict[str, Any] = {"window": WINDOW, "shrinkage": 3.0, "distance_decay": DISTANCE_DECAY}
        borrowed = Cooccurrence(**pairs, decay=DISTANCE_DECAY, smoothing=smoothing, name=f"{family}_smoothed")
        alike = SequenceNeighbours(table, decay=DISTANCE_DECAY, name=f"{family}_alike_users")
        made += [
            (family, borrowed.fit(past)),
            (family, alike.fit(_latest(past))),
            (family, TextNeighbours(table, decay=DISTANCE_DECAY, name=f"{family}_text").fit(past)),
        ]
    return made


def _recent(past: Sequences) -> list[Popularity]:
    """Return what is met of late: by half-lives, or, where events have no times, by what users met last."""
    if past.times_us is None:
        return [Popularity(name=f"recent{n}").fit(past.last(n)) for n in (1, 2, 3)]
    return [
        Popularity(half_life_s=half_life_s, name=f"recent{half_life_s / _DAY_S:.0f}d").fit(past)
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
