"""The towers in torch: from what is known of an item, and of a user, to vectors whose product is their affinity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat.types import Float32Array

if TYPE_CHECKING:
    import torch

__all__ = ["LEAST_LENGTH", "MASKED", "Net", "NetShape", "principal_axes"]

LEAST_LENGTH = 1e-12  # of a vector before it gets unit length
MASKED = -1e9  # the logit of a place without an event

_SMALL = 0.01  # of what is learned about one item or user alone: nothing, to begin with
_TABLES = ("items", "users")
_PRIOR_DECAY = -0.3  # the logarithm of how much less an event weighs than the next one, to begin with
_MOST_SAMPLED = 100_000  # rows that principal axes are taken from
_GAIN = 0.5  # of the axes: a first vector is then about as long as what training adds to it


@dataclass(frozen=True)
class NetShape:
    """The sizes of the towers."""

    dim: int
    n_features: int
    n_items: int
    n_users: int
    n_context: int
    max_events: int
    hidden: int


class Net:
    """Both towers and their parameters; see `TwoTower` for what they are made of.

    Row 0 of the embeddings of items and users is nobody's, and stays zero: what has no row of its own has that one.
    """

    def __init__(self, shape: NetShape, parameters: dict[str, torch.Tensor]) -> None:
        self._torch = import_optional("torch", purpose="training two towers")
        self._functional = self._torch.nn.functional
        self.shape, self.parameters = shape, parameters

    @classmethod
    def begin(
        cls, shape: NetShape, axes: Float32Array, mean: Float32Array, *, temperature: float, draw: torch.Generator
    ) -> Self:
        """Return towers that know what texts say, and nothing of what happened."""
        torch = import_optional("torch", purpose="training two towers")
        dim = shape.dim
        weight = np.zeros((dim, shape.n_features), np.float32)
        weight[: len(axes)] = _GAIN * axes[:dim]
        parameters = {
            "project": torch.from_numpy(weight.T.copy()),
            "shift": torch.from_numpy((-mean @ weight.T).astype(np.float32)),
            "items": _SMALL * torch.randn(shape.n_items + 1, dim, generator=draw),
            "users": _SMALL * torch.randn(shape.n_users + 1, dim, generator=draw),
            "places": _PRIOR_DECAY * torch.arange(shape.max_events, dtype=torch.float32),
            "turn": torch.eye(dim),
            "lean": torch.zeros(dim),
            # Not zero: a vector of no length has no direction, and a gradient without bounds.
            "start": _SMALL * torch.randn(dim, generator=draw),
            "scale": torch.tensor(math.log(1 / temperature)),
        }
        if shape.hidden:
            scale = 1 / math.sqrt(shape.n_features)
            parameters["widen"] = scale * torch.randn(shape.n_features, shape.hidden, generator=draw)
            parameters["widen_shift"] = torch.zeros(shape.hidden)
            parameters["narrow"] = torch.zeros(shape.hidden, dim)
        if shape.n_context:
            parameters["moment"] = torch.zeros(shape.n_context, dim)
        for name in _TABLES:
            parameters[name][0] = 0
        for value in parameters.values():
            value.requires_grad_(True)
        return cls(shape, parameters)

    @classmethod
    def of_state(cls, shape: NetShape, state: Mapping[str, Float32Array]) -> Self:
        """Return the towers whose parameters `state` gave."""
        torch = import_optional("torch", purpose="training two towers")
        return cls(shape, {name: torch.from_numpy(value) for name, value in state.items()})

    def items(self, features: torch.Tensor, rows: torch.Tensor, *, kept: torch.Tensor | None = None) -> torch.Tensor:
        """Return unit vectors of items, given what texts say of them and their rows; `kept` is 0 where a row is not."""
        own = self.parameters
        made = features @ own["project"] + own["shift"]
        if self.shape.hidden:
            inner = self._functional.gelu(features @ own["widen"] + own["widen_shift"])
            made = made + inner @ own["narrow"]
        of_rows = self._embedded(rows, "items")
        return self._normalized(made + (of_rows if kept is None else of_rows * kept[:, None]))

    def users(
        self,
        history: torch.Tensor,
        there: torch.Tensor,
        rows: torch.Tensor,
        context: torch.Tensor | None,
        *,
        dropped: Any = None,
    ) -> torch.Tensor:
        """Return unit vectors of users, given the vectors of their histories, newest first, and their rows."""
        own, torch = self.parameters, self._torch
        weights = torch.softmax(own["places"] + MASKED * ~there, dim=1) * there
        pooled = (weights[:, :, None] * history).sum(1)
        made = pooled if dropped is None else dropped(pooled)
        made = made @ own["turn"] + own["lean"] + own["start"] * ~there.any(1, keepdim=True)
        if self.shape.n_users:
            of_rows = self._embedded(rows, "users")
            made = made + (of_rows if dropped is None else dropped(of_rows))
        if context is not None:
            made = made + context @ own["moment"]
        return self._normalized(made)

    @property
    def tables(self) -> list[torch.Tensor]:
        """The parameters of single items and users, whose gradients are sparse."""
        return [self.parameters[name] for name in _TABLES]

    @property
    def others(self) -> list[torch.Tensor]:
        """The parameters that all items or users share."""
        return [value for name, value in self.parameters.items() if name not in _TABLES]

    def state(self) -> dict[str, Float32Array]:
        """Return the parameters as arrays, float32; copies."""
        return {name: value.detach().numpy().copy() for name, value in self.parameters.items()}

    def _embedded(self, rows: torch.Tensor, table: str) -> Any:
        return self._functional.embedding(rows, self.parameters[table], padding_idx=0, sparse=True)

    def _normalized(self, made: torch.Tensor) -> Any:
        return self._functional.normalize(made, dim=1, eps=LEAST_LENGTH)


def principal_axes(features: Float32Array, dim: int) -> tuple[Float32Array, Float32Array]:
    """Return the first principal axes of rows, float32 of shape ``(<= dim, n_features)``, and their mean.

    Projected on them, items begin as near to each other as their texts are.
    """
    some = features[:: max(1, -(-len(features) // _MOST_SAMPLED))].astype(np.float64)
    mean = some.mean(axis=0)
    some -= mean
    _, axes = np.linalg.eigh(some.T @ some)
    chosen = axes[:, ::-1][:, :dim].T
    # An axis has no direction: its largest entry is positive, on every machine.
    signs = np.sign(chosen[np.arange(len(chosen)), np.abs(chosen).argmax(axis=1)])
    return (chosen * signs[:, None]).astype(np.float32), mean.astype(np.float32)
