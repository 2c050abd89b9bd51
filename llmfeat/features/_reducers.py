"""Reducers of anybody's making: applied where there is a vector, and told apart by what they have learned."""

from __future__ import annotations

import hashlib
from typing import Any

import joblib
import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from llmfeat.features._rowwise import complete_rows
from llmfeat.types import Float32Array

__all__ = ["content", "is_fitted", "reduced"]


def reduced(reducer: Any, vectors: Float32Array) -> Float32Array:
    """Return what a fitted reducer makes of vectors, float32 of shape ``(n_vectors, n_out)``; rows of NaN stay."""
    there = complete_rows(vectors)
    # A reducer of somebody else may not take an empty matrix, and only what it gives says how wide that is.
    example = vectors[there] if there.any() else np.zeros((1, vectors.shape[1]), dtype=np.float32)
    values = np.asarray(reducer.transform(example), dtype=np.float32)
    out = np.full((len(vectors), values.shape[1]), np.nan, dtype=np.float32)
    if there.any():
        out[there] = values
    return out


def is_fitted(reducer: Any) -> bool:
    """Return whether scikit-learn takes it for fitted."""
    try:
        check_is_fitted(reducer)
    except NotFittedError:
        return False
    return True


def content(reducer: Any) -> dict[str, str]:
    """Return a digest of each parameter and of each thing learned; names that begin with ``_`` change no vector."""
    public = {name: value for name, value in vars(reducer).items() if not name.startswith("_")}
    return {"class": type(reducer).__qualname__, **{name: _digest(public[name]) for name in sorted(public)}}


def _digest(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"{value.dtype.str} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if value is None or isinstance(value, int | float | str):
        return repr(value)
    return str(joblib.hash(value))
