"""Hugging Face model to artifact: the only stage that imports torch, optimum and sentence-transformers."""

from llmfeat.export.encoder import cached_artifact, export_encoder
from llmfeat.export.sources import ModelSource, resolve_source

__all__ = ["ModelSource", "cached_artifact", "export_encoder", "resolve_source"]
