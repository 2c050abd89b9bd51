"""Strings to vectors."""

from llmfeat.encode.agreement import certify_backend
from llmfeat.encode.cache import VectorCache
from llmfeat.encode.engine import TextEncoder
from llmfeat.encode.generations import PruneSummary, prune_table
from llmfeat.encode.given import WriteSummary, write_table
from llmfeat.encode.incremental import EncodeSummary, encode_table
from llmfeat.encode.plan import EncodePlan, plan_table
from llmfeat.encode.table import VectorTable

__all__ = [
    "EncodePlan",
    "EncodeSummary",
    "PruneSummary",
    "TextEncoder",
    "VectorCache",
    "VectorTable",
    "WriteSummary",
    "certify_backend",
    "encode_table",
    "plan_table",
    "prune_table",
    "write_table",
]
