"""scikit-learn transformers: what a ranker can use of histories and vectors."""

from llmfeat.features.activity import ActivityFeatures
from llmfeat.features.history import HistoryFeatures

__all__ = ["ActivityFeatures", "HistoryFeatures"]
