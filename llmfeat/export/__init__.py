"""Model to artifact: the only stage that imports torch, optimum and sentence-transformers."""

from llmfeat.export.exporter import cached_artifact, export_model
from llmfeat.export.sources import ModelSource, open_source

__all__ = ["ModelSource", "cached_artifact", "export_model", "open_source"]
