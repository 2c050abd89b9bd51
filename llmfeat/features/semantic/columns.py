"""Codes as the columns that a ranker gets: those of each level, then the prefixes as one category each."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmfeat.features.semantic.trie import CodeTrie
from llmfeat.types import Int32Array

__all__ = ["code_columns", "column_names"]


def column_names(n_levels: int) -> np.ndarray[Any, Any]:
    """Return the names of the columns, str of shape ``(2 * n_levels - 1,)``."""
    levels = [f"semantic_level{number}" for number in range(1, n_levels + 1)]
    prefixes = [f"semantic_prefix{number}" for number in range(2, n_levels + 1)]
    return np.array([*levels, *prefixes], dtype=object)


def code_columns(codes: Int32Array, fitted: CodeTrie) -> Int32Array:
    """Return the columns, int32 of shape ``(n, 2 * n_levels - 1)``; prefixes are numbered as in `fitted`."""
    return np.concatenate([codes, fitted.prefix_ids(codes)[:, 1:]], axis=1)
