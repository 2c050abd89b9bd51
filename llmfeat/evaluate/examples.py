"""Some users' best items without and with text, and because of which item of their history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmfeat.evaluate.arms import ARMS
from llmfeat.evaluate.fitting import FittedArm
from llmfeat.evaluate.task import LiftData, Request

__all__ = ["examples_json"]

_TOP = 10
_SIDES = {"without_text": "no_text", "with_text": "hybrid"}


def examples_json(requests: Sequence[Request], arms: Mapping[str, FittedArm], data: LiftData) -> list[dict[str, Any]]:
    """Return ``examples`` of ``lift.json``; histories are personal data, so only who asks for them gets them."""
    texts = dict(zip(data.item_ids.to_pylist(), data.texts, strict=True))
    return [_example(request, arms, texts) for request in requests]


def _example(request: Request, arms: Mapping[str, FittedArm], texts: Mapping[str, str | None]) -> dict[str, Any]:
    def item(item_id: str) -> dict[str, Any]:
        return {"item_id": item_id, "text": texts.get(item_id)}

    items = request.items.to_pylist()
    reasons = request.because.to_pylist()
    found: dict[str, Any] = {
        "user_id": request.user_id,
        "history": [item(each) for each in request.history],
        "target": item(request.targets[0]) if request.targets else None,
    }
    for side, arm in _SIDES.items():
        scores = arms[arm].scores(request.columns.matrix(ARMS[arm])).mean(axis=0)
        best = np.argsort(-scores, kind="stable")[:_TOP].tolist()
        found[side] = [{**item(items[at]), "is_target": bool(request.is_target[at])} for at in best]
        if side == "with_text":
            for shown, at in zip(found[side], best, strict=True):
                nearest = reasons[at]["because_item_id"]
                similarity = reasons[at]["similarity"]
                shown["because"] = None if nearest is None else {**item(nearest), "similarity": float(similarity)}
    return found
