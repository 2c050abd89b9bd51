"""Semantic ids: item vectors as a few categorical codes, of which alike items share the first ones."""

from llmfeat.features.semantic.ids import SemanticIds
from llmfeat.features.semantic.items import ItemCodes, SemanticIdFeatures
from llmfeat.features.semantic.report import LevelUse, SemanticIdReport
from llmfeat.features.semantic.residual import CodeBook
from llmfeat.features.semantic.trie import CodeTrie

__all__ = [
    "CodeBook",
    "CodeTrie",
    "ItemCodes",
    "LevelUse",
    "SemanticIdFeatures",
    "SemanticIdReport",
    "SemanticIds",
]
