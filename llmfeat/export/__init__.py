"""Model to artifact: the only stage that imports torch, optimum and sentence-transformers."""

from llmfeat.export.exporter import cached_artifact, export_model
from llmfeat.export.fetch import open_source
from llmfeat.export.finetune import TRAINING, Examples, Lora, finetune_scorer
from llmfeat.export.source import ModelSource

__all__ = [
    "TRAINING",
    "Examples",
    "Lora",
    "ModelSource",
    "cached_artifact",
    "export_model",
    "finetune_scorer",
    "open_source",
]
