"""Features from language models for the recommenders you already run.

The stages, in the order in which data flows: `text` renders rows to strings, `export` and `artifact` hold the model,
`encode` turns strings into vectors, `history` answers what was known at a moment, `features` are the scikit-learn
transformers, `store` is Feast, `rank` and `evaluate` come last. Names below are imported on use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from llmfeat._version import __version__

if TYPE_CHECKING:
    from llmfeat.artifact import ModelArtifact
    from llmfeat.encode import TextEncoder, VectorTable, encode_table, write_table
    from llmfeat.export import export_model
    from llmfeat.features import (
        ActivityFeatures,
        HistoryFeatures,
        LearnedSimilarity,
        PastFittedFeatures,
        SemanticIdFeatures,
        SemanticIds,
        TextEmbedder,
        UserTextFeatures,
    )
    from llmfeat.history import InteractionLog
    from llmfeat.rank import RankingPipeline, group_sizes
    from llmfeat.rank.llm import LLMScoreFeatures, LLMScorer
    from llmfeat.rank.serving import OnlineRanker, RankerBundle
    from llmfeat.rank.two_tower import TwoTower
    from llmfeat.store import EventPusher, FeastFeatures, FeastHistories, FeastVectors, materialize
    from llmfeat.text import ItemTemplate, PreferencePrompt

__all__ = [
    "ActivityFeatures",
    "EventPusher",
    "FeastFeatures",
    "FeastHistories",
    "FeastVectors",
    "HistoryFeatures",
    "InteractionLog",
    "ItemTemplate",
    "LLMScoreFeatures",
    "LLMScorer",
    "LearnedSimilarity",
    "ModelArtifact",
    "OnlineRanker",
    "PastFittedFeatures",
    "PreferencePrompt",
    "RankerBundle",
    "RankingPipeline",
    "SemanticIdFeatures",
    "SemanticIds",
    "TextEmbedder",
    "TextEncoder",
    "TwoTower",
    "UserTextFeatures",
    "VectorTable",
    "__version__",
    "encode_table",
    "export_model",
    "group_sizes",
    "materialize",
    "write_table",
]

_HOME = {
    "ActivityFeatures": "features",
    "EventPusher": "store",
    "FeastFeatures": "store",
    "FeastHistories": "store",
    "FeastVectors": "store",
    "HistoryFeatures": "features",
    "InteractionLog": "history",
    "ItemTemplate": "text",
    "LLMScoreFeatures": "rank.llm",
    "LLMScorer": "rank.llm",
    "LearnedSimilarity": "features",
    "ModelArtifact": "artifact",
    "OnlineRanker": "rank.serving",
    "PastFittedFeatures": "features",
    "PreferencePrompt": "text",
    "RankerBundle": "rank.serving",
    "RankingPipeline": "rank",
    "SemanticIdFeatures": "features",
    "SemanticIds": "features",
    "TextEmbedder": "features",
    "TextEncoder": "encode",
    "TwoTower": "rank.two_tower",
    "UserTextFeatures": "features",
    "VectorTable": "encode",
    "encode_table": "encode",
    "export_model": "export",
    "group_sizes": "rank",
    "materialize": "store",
    "write_table": "encode",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'llmfeat' has no attribute {name!r}")
    return getattr(importlib.import_module(f"llmfeat.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
