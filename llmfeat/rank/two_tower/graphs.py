"""The towers as two ONNX graphs, written operator by operator: the same towers are the same bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat.rank.two_tower.net import LEAST_LENGTH, MASKED
from llmfeat.rank.two_tower.training import Trained
from llmfeat.types import Float32Array

__all__ = ["item_graph", "user_graph"]

_OPSET = 18
_IR = 10  # what ONNX Runtime reads since 1.18


def item_graph(trained: Trained, fill: Float32Array) -> bytes:
    """Return the tower of items: ``features`` and ``row`` in, unit vectors ``embedding`` out.

    ``features``, float32 of shape ``(n, n_features)``, may be NaN where a text says nothing: `fill` stands there.
    ``row``, int64 of shape ``(n,)``, is 1 plus the item's position in the catalogue, 0 for an item that is not in it.
    """
    graph = _Graph(trained.state)
    given = graph.input("features", "float", ["n", trained.shape.n_features])
    row = graph.input("row", "int64", ["n"])
    features = graph.add("Where", graph.add("IsNaN", given), graph.constant("fill", fill), given)
    made = graph.affine(features, "project", "shift")
    if trained.shape.hidden:
        inner = graph.gelu(graph.affine(features, "widen", "widen_shift"))
        made = graph.add("Add", made, graph.add("MatMul", inner, graph.weight("narrow")))
    made = graph.add("Add", made, graph.add("Gather", graph.weight("items"), row))
    return graph.bytes_of(graph.normalized(made), trained.shape.dim)


def user_graph(trained: Trained) -> bytes:
    """Return the tower of users: the vectors of a history, whose they are and the moment in, unit vectors out.

    ``history``, float32 of shape ``(n, max_events, dim)``, has what the tower of items says of the last events, newest
    first, and ``there``, float32 of shape ``(n, max_events)``, 1 where there is one; ``row``, int64 of shape ``(n,)``,
    is 1 plus the user's position among those that were fitted, 0 for another; ``context``, float32 of shape
    ``(n, n_context)``, is asked for where it was learned from.
    """
    shape = trained.shape
    graph = _Graph(trained.state)
    history = graph.input("history", "float", ["n", shape.max_events, shape.dim])
    there = graph.input("there", "float", ["n", shape.max_events])
    one, axis = graph.constant("one", np.float32(1)), graph.constant("axis", np.array([1]))
    masked = graph.add("Mul", graph.add("Sub", one, there), graph.constant("masked", np.float32(MASKED)))
    logits = graph.add("Add", graph.weight("places"), masked)
    weights = graph.add("Mul", graph.add("Softmax", logits, axis=1), there)
    pooled = graph.add("Squeeze", graph.add("MatMul", graph.add("Unsqueeze", weights, axis), history), axis)
    made = graph.affine(pooled, "turn", "lean")
    nothing = graph.add("Sub", one, graph.add("ReduceMax", there, axis))
    made = graph.add("Add", made, graph.add("Mul", nothing, graph.weight("start")))
    if shape.n_users:
        made = graph.add("Add", made, graph.add("Gather", graph.weight("users"), graph.input("row", "int64", ["n"])))
    if shape.n_context:
        context = graph.input("context", "float", ["n", shape.n_context])
        made = graph.add("Add", made, graph.add("MatMul", context, graph.weight("moment")))
    return graph.bytes_of(graph.normalized(made), shape.dim)


class _Graph:
    """A graph as it is written."""

    def __init__(self, state: dict[str, Float32Array]) -> None:
        self._onnx: Any = import_optional("onnx", purpose="writing the towers")
        self._state = state
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._constants: dict[str, Any] = {}

    def input(self, name: str, kind: str, shape: list[Any]) -> str:
        types = {"float": self._onnx.TensorProto.FLOAT, "int64": self._onnx.TensorProto.INT64}
        self._inputs.append(self._onnx.helper.make_tensor_value_info(name, types[kind], shape))
        return name

    def constant(self, name: str, value: Any) -> str:
        self._constants[name] = self._onnx.numpy_helper.from_array(np.asarray(value), name)
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self._state[name])

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def affine(self, given: str, weight: str, shift: str) -> str:
        return self.add("Add", self.add("MatMul", given, self.weight(weight)), self.weight(shift))

    def gelu(self, given: str) -> str:
        scaled = self.add("Mul", given, self.constant("root_half", np.float32(np.sqrt(0.5))))
        lifted = self.add("Add", self.add("Erf", scaled), self.constant("one", np.float32(1)))
        return self.add("Mul", self.add("Mul", given, lifted), self.constant("half", np.float32(0.5)))

    def normalized(self, given: str) -> str:
        length = self.add("ReduceL2", given, self.constant("axis", np.array([1])))
        return self.add("Div", given, self.add("Max", length, self.constant("least", np.float32(LEAST_LENGTH))))

    def bytes_of(self, result: str, dim: int) -> bytes:
        helper = self._onnx.helper
        self._nodes.append(helper.make_node("Identity", [result], ["embedding"]))
        output = helper.make_tensor_value_info("embedding", self._onnx.TensorProto.FLOAT, ["n", dim])
        graph = helper.make_graph(self._nodes, "tower", self._inputs, [output], list(self._constants.values()))
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR, producer_name="llmfeat"
        )
        self._onnx.checker.check_model(model)
        written: bytes = model.SerializeToString(deterministic=True)
        return written
