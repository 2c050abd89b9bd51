"""Strings to vectors."""

from llmfeat.encode.engine import TextEncoder
from llmfeat.encode.incremental import EncodeSummary, encode_table
from llmfeat.encode.table import VectorTable

__all__ = ["EncodeSummary", "TextEncoder", "VectorTable", "encode_table"]
