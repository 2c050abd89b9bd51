"""Numbers as JSON can hold them."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmfeat.evaluate.metrics import Estimate, interval

__all__ = ["interval_json", "number"]


def number(value: float) -> float | None:
    """Return a number as JSON can hold it: NaN, which it cannot, as None."""
    return float(value) if np.isfinite(value) else None


def interval_json(difference: Estimate) -> dict[str, Any]:
    """Return a difference and its 95 % interval."""
    return {"diff": number(difference.point), "ci95": [number(end) for end in interval(difference)]}
