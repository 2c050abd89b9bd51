"""Attention to a key/value cache of one row, shared by all rows of a batch: a prefix is neither copied nor joined.

The traced graph joins cache and new keys row by row, and repeats both for each head. Softmax aside, attention is linear
in its keys: the scores of the cached and of the new ones can be computed apart, each against keys of its own batch
size, and so can what they weigh (Juravsky et al., Hydragen, 2024; Athiwaratkun et al., Bifurcated Attention, 2024).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from llmfeat.export.graft import Nodes

if TYPE_CHECKING:
    import onnx

__all__ = ["PREFIXES", "share_prefix"]

PREFIXES = "prefixes"
"""The name of the first dimension of the key/value inputs of a graph that shares a prefix: 1, or as many as rows."""

_PAST, _PRESENT = "past_key_values.", "present."
_VIEWS = ("Unsqueeze", "Expand", "Reshape", "Transpose")
_END = np.iinfo(np.int64).max


class _Unlike(Exception):  # noqa: N818  it is no error: the graph stays as it is
    """A graph whose attention is written in another way."""


@dataclass
class _Layer:
    """Where a layer's attention is in the graph."""

    at: int
    n_groups: int
    head_dim: int
    new: dict[str, str]  # "key" and "value" of the tokens at hand
    scores: onnx.NodeProto  # queries times keys
    weighted: onnx.NodeProto  # weights times values
    scale: float  # which the graph multiplies keys with
    shapes: list[tuple[onnx.NodeProto, bool]] = field(default_factory=list)  # of all keys; whether for each head


def share_prefix(model: onnx.ModelProto) -> bool:
    """Let each key/value input have one row for a whole batch, in place; ``present`` is of the new tokens alone.

    Returns False, and leaves the graph alone, where its attention is not written as products of queries with keys and
    of weights with values: then a cache has as many rows as the batch, and ``present`` has all tokens.

    Parameters
    ----------
    model : onnx.ModelProto
        A graph with inputs ``past_key_values.N.key`` and ``.value`` of shape (batch, heads, length, head_dim).
    """
    graph = _Graph(model)
    try:
        layers = [graph.layer(at) for at in range(graph.n_layers())]
    except _Unlike:
        return False
    if not layers:
        return False
    made = Nodes("share")
    n_past = _dimension(made, f"{_PAST}0.key", 2)
    n_all = made("Add", n_past, _dimension(made, "input_ids", 1))
    replaced = {name: nodes for layer in layers for name, nodes in _shared(layer, made, n_past, n_all)}
    graph.replace(replaced, begin=_drain(made, keep=0), constants=made.constants)
    _rename_batch(model)
    return True


class _Graph:
    """A graph, and who makes what in it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._model = model
        self.producers = {output: node for node in model.graph.node for output in node.output}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def n_layers(self) -> int:
        return sum(entry.name.startswith(_PAST) and entry.name.endswith(".key") for entry in self._graph.input)

    def layer(self, at: int) -> _Layer:
        """Return where the attention of a layer is, or raise `_Unlike`."""
        new, products, scale, shapes = {}, {}, 1.0, []
        for kind in ("key", "value"):
            past, present = f"{_PAST}{at}.{kind}", f"{_PRESENT}{at}.{kind}"
            joined = self.producers.get(present)
            if joined is None or joined.op_type != "Concat" or list(joined.input)[:1] != [past]:
                raise _Unlike
            new[kind] = joined.input[1]
            products[kind], factor, seen = self._product(present)
            if kind == "key":
                scale, shapes = factor, seen
            elif factor != 1.0:
                raise _Unlike
        shape = next(e for e in self._graph.input if e.name == f"{_PAST}{at}.key").type.tensor_type.shape.dim
        n_groups, head_dim = shape[1].dim_value, shape[3].dim_value
        return _Layer(at, n_groups, head_dim, new, products["key"], products["value"], scale, shapes)

    def _product(self, present: str) -> tuple[onnx.NodeProto, float, list[tuple[onnx.NodeProto, bool]]]:
        """Follow keys or values down to the product that they are for: it, the scale on the way, and shapes asked."""
        name, scale, per_head, turned = present, 1.0, False, False
        shapes: list[tuple[onnx.NodeProto, bool]] = []
        while True:
            users = self._consumers.get(name, [])
            asked = [node for node in users if node.op_type == "Shape"]
            others = [node for node in users if node.op_type != "Shape"]
            if len(others) != 1 or (asked and turned):
                raise _Unlike
            shapes += [(node, per_head) for node in asked]
            node = others[0]
            if node.op_type == "MatMul" and node.input[1] == name:
                return node, scale, shapes
            if node.op_type == "Mul":
                scale *= self._scalar(next(other for other in node.input if other != name))
            elif node.op_type not in _VIEWS or node.input[0] != name:
                raise _Unlike
            turned = turned or node.op_type == "Transpose"
            per_head = per_head or node.op_type == "Reshape"  # after an Expand, heads that shared keys have their own
            name = node.output[0]

    def _scalar(self, name: str) -> float:
        from onnx import numpy_helper

        node, tensor = self.producers.get(name), self._constants.get(name)
        if node is not None and node.op_type == "Constant":
            tensor = node.attribute[0].t
        if tensor is None or numpy_helper.to_array(tensor).size != 1:
            raise _Unlike
        return float(numpy_helper.to_array(tensor).reshape(()))

    def replace(
        self, replaced: dict[str, list[onnx.NodeProto]], *, begin: list[onnx.NodeProto], constants: list[Any]
    ) -> None:
        """Put nodes in the place of those that made the values of these names, and drop what nothing needs then."""
        nodes = list(begin)
        for node in self._graph.node:
            nodes += replaced.get(node.output[0], [node])
        needed = {entry.name for entry in self._graph.output}
        kept = []
        for node in reversed(nodes):
            if not needed.isdisjoint(node.output):
                kept.append(node)
                needed.update(node.input)
        del self._graph.node[:]
        self._graph.node.extend(_in_order(kept[::-1], {entry.name for entry in (*self._graph.input, *constants)}))
        self._graph.initializer.extend(constants)
        for tensor in [tensor for tensor in self._graph.initializer if tensor.name not in needed]:
            self._graph.initializer.remove(tensor)
        del self._graph.value_info[:]


def _shared(layer: _Layer, make: Nodes, n_past: str, n_all: str) -> list[tuple[str, list[onnx.NodeProto]]]:
    """Return the nodes in the place of a layer's products, of its joined keys and values, and of their shapes."""
    begin, found = len(make.nodes), []
    past_key, past_value = f"{_PAST}{layer.at}.key", f"{_PAST}{layer.at}.value"
    heads_of = layer.scores.input[0]  # (batch, n_heads, length, head_dim)

    def done(name: str) -> None:
        found.append((name, _drain(make, keep=begin)))

    # Heads that share keys stand in a row, as if they were so many more queries: nothing is repeated.
    queries = heads_of if layer.scale == 1 else make("Mul", heads_of, make.like(np.float32(layer.scale), heads_of))
    grouped = make("Reshape", queries, make.constant(np.array([0, layer.n_groups, -1, layer.head_dim])))
    parts = [make("MatMul", grouped, make("Transpose", k, perm=[0, 1, 3, 2])) for k in (past_key, layer.new["key"])]
    scores = make("Concat", *parts, axis=-1)
    shape = make("Concat", _slice(make, make("Shape", heads_of), 0, 3), n_all, axis=0)
    make.call_it(make("Reshape", scores, shape), layer.scores.output[0])
    done(layer.scores.output[0])
    weights = layer.weighted.input[0]  # (batch, n_heads, length, all tokens)
    rows = make("Reshape", weights, make("Concat", make.constant(np.array([0, layer.n_groups, -1])), n_all, axis=0))
    axis, zero, end = make.constant(np.array([3])), make.constant(np.array([0])), make.constant(np.array([_END]))
    old = make("MatMul", make("Slice", rows, zero, n_past, axis), past_value)
    new = make("MatMul", make("Slice", rows, n_past, end, axis), layer.new["value"])
    width = make.constant(np.array([layer.head_dim]))
    shape = make("Concat", _slice(make, make("Shape", weights), 0, 3), width, axis=0)
    make.call_it(make("Reshape", make("Add", old, new), shape), layer.weighted.output[0])
    done(layer.weighted.output[0])
    for kind, name in layer.new.items():
        make.call_it(name, f"{_PRESENT}{layer.at}.{kind}")
        done(f"{_PRESENT}{layer.at}.{kind}")
    for node, per_head in layer.shapes:
        first = _slice(make, make("Shape", heads_of), 0, 1)
        n_heads = _slice(make, make("Shape", heads_of), 1, 2) if per_head else make.constant(np.array([layer.n_groups]))
        width = make.constant(np.array([layer.head_dim]))
        make.call_it(make("Concat", first, n_heads, n_all, width, axis=0), node.output[0])
        done(node.output[0])
    return found


def _in_order(nodes: list[onnx.NodeProto], known: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes in their order, but each behind those that make what it reads."""
    makers = {output: at for at, node in enumerate(nodes) for output in node.output}
    placed: list[int] = []
    is_placed = [False] * len(nodes)
    for at in range(len(nodes)):
        waiting = [at]
        while waiting:
            missing = [makers[name] for name in nodes[waiting[-1]].input if name not in known and name in makers]
            missing = [other for other in missing if not is_placed[other]]
            if missing:
                waiting += missing[::-1]
                continue
            last = waiting.pop()
            if not is_placed[last]:
                is_placed[last] = True
                placed.append(last)
    return [nodes[at] for at in placed]


def _drain(make: Nodes, *, keep: int) -> list[onnx.NodeProto]:
    """Take the nodes made since, all but the first `keep`."""
    taken, make.nodes[keep:] = make.nodes[keep:], []
    return taken


def _dimension(make: Nodes, name: str, axis: int) -> str:
    return _slice(make, make("Shape", name), axis, axis + 1)


def _slice(make: Nodes, vector: str, begin: int, end: int) -> str:
    return make("Slice", vector, make.constant(np.array([begin])), make.constant(np.array([end])))


def _rename_batch(model: onnx.ModelProto) -> None:
    for entry in model.graph.input:
        if entry.name.startswith(_PAST):
            entry.type.tensor_type.shape.dim[0].dim_param = PREFIXES
    for entry in model.graph.output:
        if entry.name.startswith(_PRESENT):
            entry.type.tensor_type.shape.dim[2].dim_param = "sequence_length"
