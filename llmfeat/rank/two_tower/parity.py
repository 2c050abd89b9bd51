"""The graphs against the towers in torch."""

from __future__ import annotations

import math

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat.errors import ParityError
from llmfeat.rank.two_tower.data import TowerData
from llmfeat.rank.two_tower.net import Net
from llmfeat.rank.two_tower.runtime import TowerRuntime
from llmfeat.rank.two_tower.training import Trained
from llmfeat.types import Float32Array, Int64Array

__all__ = ["MOST_DISTANCE", "measure_parity"]

MOST_DISTANCE = 1e-5  # 1 - cosine: what remains of a difference is the order of additions
_MOST_ROWS = 20_000
_BLOCK_ROWS = 1024


def measure_parity(trained: Trained, data: TowerData, runtime: TowerRuntime) -> dict[str, float]:
    """Return how far the vectors of both are apart at most, ``1 - cosine``, and over how many rows.

    Raises
    ------
    ParityError
        When they are further apart than the order of additions explains.
    """
    torch = import_optional("torch", purpose="comparing the towers with their graphs")
    net = Net.of_state(trained.shape, trained.state)
    items, events = _some(data.n_items), _some(len(data.item_codes))
    distances: dict[str, list[float]] = {"items": [0.0], "users": [0.0]}
    for some in np.array_split(items, -(-len(items) // _BLOCK_ROWS)):
        features, rows = data.features[some], some + 1
        with torch.inference_mode():
            in_torch = net.items(torch.from_numpy(features), torch.from_numpy(rows)).numpy()
        distances["items"].append(_distance(runtime.items(features, rows), in_torch))
    for some in np.array_split(events, -(-len(events) // _BLOCK_ROWS)):
        history, there = data.histories(some)
        distinct, place = np.unique(history, return_inverse=True)
        vectors = runtime.items(data.features[distinct], distinct + 1)[place.reshape(history.shape)]
        owners = data.owners[data.sequence_of_event[some]] + 1
        context = None if data.context is None else data.context[some]
        with torch.inference_mode():
            in_torch = net.users(
                torch.from_numpy(vectors),
                torch.from_numpy(there),
                torch.from_numpy(owners),
                None if context is None else torch.from_numpy(context),
            ).numpy()
        distances["users"].append(_distance(runtime.users(vectors, there, owners, context), in_torch))
    found = {name: max(map(_or_most, each)) for name, each in distances.items()}
    if not all(each <= MOST_DISTANCE for each in found.values()):
        raise ParityError(
            f"the graphs' vectors are {found} (1 - cosine) from those of torch, but at most {MOST_DISTANCE:g} was "
            "expected: please report it, with the versions of torch and onnxruntime"
        )
    return {**found, "n_items": len(items), "n_users": len(events)}


def _or_most(distance: float) -> float:
    """Return a distance, one that is no number as the largest."""
    return math.inf if math.isnan(distance) else distance


def _some(n_rows: int) -> Int64Array:
    return np.arange(n_rows)[:: max(1, -(-n_rows // _MOST_ROWS))]


def _distance(left: Float32Array, right: Float32Array) -> float:
    """Return the largest ``1 - cosine`` of vectors of the same row, 0 where both are zero."""
    wide = [each.astype(np.float64) for each in (left, right)]
    lengths = [np.linalg.norm(each, axis=1) for each in wide]
    is_zero = (lengths[0] == 0) & (lengths[1] == 0)
    cosines = (wide[0] * wide[1]).sum(axis=1) / np.maximum(lengths[0] * lengths[1], 1e-300)
    return float(np.max(np.where(is_zero, 0.0, 1 - cosines)))
