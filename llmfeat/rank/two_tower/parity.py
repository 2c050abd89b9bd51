"""The graphs against the towers in torch."""

from __future__ import annotations

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


def measure_parity(trained: Trained, data: TowerData, runtime: TowerRuntime) -> dict[str, float]:
    """Return how far the vectors of both are apart at most, ``1 - cosine``, and over how many rows.

    Raises
    ------
    ParityError
        When they are further apart than the order of additions explains.
    """
    torch = import_optional("torch", purpose="comparing the towers with their graphs")
    net = Net.of_state(trained.shape, trained.state)
    items = _some(data.n_items)
    events = _some(len(data.item_codes))
    history, there = data.histories(events)
    users = np.zeros(len(events), np.int64) if data.users is None else data.users[data.sequence_of_event[events]] + 1
    context = None if data.context is None else data.context[events]
    of_items = runtime.items(data.features, np.arange(1, data.n_items + 1))
    of_users = runtime.users(of_items[history], there, users, context)
    with torch.inference_mode():
        all_items = net.items(torch.from_numpy(data.features), torch.arange(1, data.n_items + 1))
        in_torch = net.users(
            all_items[torch.from_numpy(history)],
            torch.from_numpy(there),
            torch.from_numpy(users),
            None if context is None else torch.from_numpy(context),
        )
    found = {
        "items": _distance(of_items[items], all_items.numpy()[items]),
        "users": _distance(of_users, in_torch.numpy()),
    }
    if not max(found.values()) <= MOST_DISTANCE:
        raise ParityError(
            f"the graphs' vectors are {found} (1 - cosine) from those of torch, but at most {MOST_DISTANCE:g} was "
            "expected: please report it, with the versions of torch and onnxruntime"
        )
    return {**found, "n_items": len(items), "n_users": len(events)}


def _some(n_rows: int) -> Int64Array:
    return np.arange(n_rows)[:: max(1, n_rows // _MOST_ROWS)]


def _distance(left: Float32Array, right: Float32Array) -> float:
    """Return the largest ``1 - cosine`` of vectors of the same row, 0 where both are zero."""
    wide = [each.astype(np.float64) for each in (left, right)]
    lengths = [np.linalg.norm(each, axis=1) for each in wide]
    is_zero = (lengths[0] == 0) & (lengths[1] == 0)
    cosines = (wide[0] * wide[1]).sum(axis=1) / np.maximum(lengths[0] * lengths[1], 1e-300)
    return float(np.max(np.where(is_zero, 0.0, 1 - cosines), initial=0.0))
