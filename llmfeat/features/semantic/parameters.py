"""The parameters of `SemanticIds`: what they may be, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from llmfeat.errors import InputError
from llmfeat.features.semantic.residual import MAX_LEVELS

__all__ = ["check_parameters", "plain_parameters"]

_MOST_CODES = 2**24  # the integers that float32, into which LightGBM turns its matrices, holds


def check_parameters(parameters: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the number of codes of each level.

    Raises
    ------
    InputError
        When a parameter is wrong.
    """
    levels = parameters["levels"]
    if not (
        isinstance(levels, tuple | list)
        and 1 <= len(levels) <= MAX_LEVELS
        and all(_is_count(size) and size <= _MOST_CODES for size in levels)
    ):
        raise InputError(
            f"levels={levels!r}, but a tuple of 1 to {MAX_LEVELS} integers from 1 to 2**24 was expected: "
            "such as (256, 256, 256)"
        )
    sizes = tuple(int(size) for size in levels)
    if math.prod(sizes) >= 2**63:
        raise InputError(f"levels={levels!r} make more codes than int64 can number: take fewer or smaller levels")
    for name in ("n_init", "max_iter", "rows_per_code"):
        value = parameters[name]
        if not _is_count(value) and not (name == "rows_per_code" and value is None):
            raise InputError(f"{name}={value!r}, but an integer of at least 1 was expected")
    if not isinstance(parameters["normalize"], bool | np.bool_):
        raise InputError(f"normalize={parameters['normalize']!r}, but True or False was expected")
    return sizes


def plain_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as JSON has them; null for a RandomState."""
    return {name: _plain(value) for name, value in parameters.items()}


def _is_count(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and int(value) >= 1


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [int(each) for each in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    return int(value) if isinstance(value, int | np.integer) else None
