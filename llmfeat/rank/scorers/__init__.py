"""Scorers of a whole catalogue for a history: where candidates come from."""

from llmfeat.rank.scorers.base import FittableScorer, ItemScorer
from llmfeat.rank.scorers.collaborative import CollaborativeVectors
from llmfeat.rank.scorers.cooccurrence import Cooccurrence
from llmfeat.rank.scorers.crossfit import CrossFitted
from llmfeat.rank.scorers.ease import EASE
from llmfeat.rank.scorers.neighbours import TextNeighbours
from llmfeat.rank.scorers.popularity import Popularity
from llmfeat.rank.scorers.repeats import Repeats
from llmfeat.rank.scorers.sequence_neighbours import SequenceNeighbours
from llmfeat.rank.scorers.smoothing import TextSmoothing

__all__ = [
    "EASE",
    "CollaborativeVectors",
    "Cooccurrence",
    "CrossFitted",
    "FittableScorer",
    "ItemScorer",
    "Popularity",
    "Repeats",
    "SequenceNeighbours",
    "TextNeighbours",
    "TextSmoothing",
]
