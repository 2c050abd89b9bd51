"""What is known of a moment, as the tower of users takes it."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmfeat.errors import InputError
from llmfeat.types import Float32Array, Float64Array

__all__ = ["checked_context", "scale_of", "scaled_context"]

_MOST_SPREADS = 10.0  # what is further from the mean of its column is no longer told apart
_LEAST_SPREAD = 1e-9  # of a column, as a part of its values


def checked_context(context: Any, n_rows: int, *, n_columns: int | None = None) -> Float64Array | None:
    """Return a context as numbers, a row each; None where there is none."""
    if context is not None and n_columns == 0:
        raise InputError("the towers learned from no context, but one came: leave context= out")
    if context is None:
        if n_columns:
            raise InputError(f"the towers learned from a context of {n_columns} columns, but none came: pass context=")
        return None
    try:
        found = np.asarray(context, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("the context holds no numbers: cast or encode its columns") from error
    if found.ndim != 2 or len(found) != n_rows or (n_columns is not None and found.shape[1] != n_columns):
        wanted = "n_context" if n_columns is None else n_columns
        raise InputError(f"the context has the shape {found.shape}, but ({n_rows}, {wanted}) was expected: a row each")
    if not found.shape[1]:
        raise InputError("the context has no columns: leave context= out")
    n_bad = int(np.isinf(found).sum())
    if n_bad:
        raise InputError(f"the context has {n_bad} values that are infinite: pass NaN where nothing is known")
    return found


def scale_of(context: Float64Array | None) -> tuple[tuple[float, float], ...]:
    """Return mean and standard deviation of each column, 1 where it is constant."""
    if context is None:
        return ()
    return tuple(_mean_and_spread(column[~np.isnan(column)]) for column in context.T)


def _mean_and_spread(column: Float64Array) -> tuple[float, float]:
    if not len(column):
        return 0.0, 1.0
    mean, spread = float(column.mean()), float(column.std())
    # A constant column has a spread too, of rounding.
    return mean, spread if spread > _LEAST_SPREAD * abs(mean) else 1.0


def scaled_context(context: Float64Array | None, scale: tuple[tuple[float, float], ...]) -> Float32Array | None:
    """Return a context in standard deviations from the mean, 0 where nothing is known."""
    if context is None:
        return None
    means, spreads = np.array(scale, dtype=np.float64).reshape(-1, 2).T
    scaled = np.clip((context - means) / spreads, -_MOST_SPREADS, _MOST_SPREADS)
    return np.nan_to_num(scaled, nan=0.0).astype(np.float32)
