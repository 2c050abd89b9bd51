"""scikit-learn transformers: what a ranker can use of texts, vectors and histories."""

from llmfeat.features.activity import ActivityFeatures
from llmfeat.features.history import HistoryFeatures
from llmfeat.features.learned import LearnedSimilarity, SimilarityLearner
from llmfeat.features.past import PastFittedFeatures, VectorLearner
from llmfeat.features.reduce import Matryoshka, Whitening, reduce_table
from llmfeat.features.semantic import SemanticIdFeatures, SemanticIds
from llmfeat.features.text_embedder import TextEmbedder
from llmfeat.features.user_text import UserTextFeatures

__all__ = [
    "ActivityFeatures",
    "HistoryFeatures",
    "LearnedSimilarity",
    "Matryoshka",
    "PastFittedFeatures",
    "SemanticIdFeatures",
    "SemanticIds",
    "SimilarityLearner",
    "TextEmbedder",
    "UserTextFeatures",
    "VectorLearner",
    "Whitening",
    "reduce_table",
]
