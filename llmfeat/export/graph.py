"""ONNX graphs: pooling and normalization grafted on, and a digest of what a graph computes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from llmfeat.errors import ExportError

if TYPE_CHECKING:
    import onnx

__all__ = ["OUTPUT", "graft_pooling", "graph_sha256"]

OUTPUT = "embedding"
_HIDDEN = "last_hidden_state"
_MASK = "attention_mask"
# As torch.nn.functional.normalize and the mean pooling of sentence-transformers divide.
_LEAST_NORM = 1e-12
_LEAST_COUNT = 1e-9


def graft_pooling(model: onnx.ModelProto, *, pooling: str, normalize: bool, dim: int) -> None:
    """Replace the output of a transformer by ``embedding``, float32 of shape ``(n_texts, dim)``, in place.

    Parameters
    ----------
    model : onnx.ModelProto
        A graph with the input ``attention_mask`` and the output ``last_hidden_state``, opset 18 or later.
    pooling : {"mean", "cls"}
        The mean over the tokens that the mask marks, or the first token.
    normalize : bool
        Whether to scale to unit length.
    dim : int
        The width of ``last_hidden_state``.
    """
    from onnx import TensorProto, helper, numpy_helper

    if _HIDDEN not in {output.name for output in model.graph.output}:
        raise ExportError(f"the graph has the outputs {[o.name for o in model.graph.output]}, not {_HIDDEN!r}")
    import numpy as np

    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(value: Any) -> str:
        name = f"llmfeat_c{len(constants)}"
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(op: str, *inputs: str, **attributes: Any) -> str:
        output = f"llmfeat_n{len(nodes)}"
        nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    if pooling == "mean":
        mask = node("Unsqueeze", node("Cast", _MASK, to=TensorProto.FLOAT), constant(np.array([-1])))
        total = node("ReduceSum", node("Mul", _HIDDEN, mask), constant(np.array([1])), keepdims=0)
        count = node("ReduceSum", mask, constant(np.array([1])), keepdims=0)
        pooled = node("Div", total, node("Max", count, constant(np.float32(_LEAST_COUNT))))
    elif pooling == "cls":
        pooled = node("Gather", _HIDDEN, constant(np.int64(0)), axis=1)
    else:
        raise ExportError(f"pooling={pooling!r}, but 'mean' or 'cls' was expected")
    if normalize:
        norm = node("ReduceL2", pooled, constant(np.array([1])), keepdims=1)
        pooled = node("Div", pooled, node("Max", norm, constant(np.float32(_LEAST_NORM))))
    nodes.append(helper.make_node("Identity", [pooled], [OUTPUT]))
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n_texts", dim]))


def graph_sha256(model: onnx.ModelProto) -> str:
    """Return a digest of what a graph computes: operators, attributes, wiring and weights, in hex.

    Names, documentation, and metadata do not enter, so that exporting again keeps it.
    """
    digest = hashlib.sha256()
    for opset in sorted(model.opset_import, key=lambda entry: entry.domain):
        digest.update(f"opset {opset.domain} {opset.version}\n".encode())
    _digest_graph(model.graph, digest, {})
    return digest.hexdigest()


def _digest_graph(graph: onnx.GraphProto, digest: Any, outer: dict[str, str]) -> None:
    values = dict(outer)  # name of a value -> what it stands for, whatever it is called
    for tensor in graph.initializer:
        values[tensor.name] = f"w{_tensor_sha256(tensor)}"
    # The inputs keep their names: the runtime feeds them by name.
    values.update((entry.name, f"in {entry.name}") for entry in graph.input)
    for position, node in enumerate(graph.node):
        digest.update(f"{node.domain}:{node.op_type}({[values.get(name, '') for name in node.input]})\n".encode())
        for attribute in sorted(node.attribute, key=lambda entry: entry.name):
            _digest_attribute(attribute, digest, values)
        values.update((name, f"n{len(outer)}.{position}.{i}") for i, name in enumerate(node.output))
    digest.update(f"out {[(entry.name, values[entry.name]) for entry in graph.output]}\n".encode())


def _digest_attribute(attribute: onnx.AttributeProto, digest: Any, values: dict[str, str]) -> None:
    from onnx import AttributeProto, helper

    if attribute.type == AttributeProto.GRAPH:
        digest.update(f"@{attribute.name}{{\n".encode())
        _digest_graph(attribute.g, digest, values)
        digest.update(b"}\n")
        return
    value = helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.TENSOR:
        value = _tensor_sha256(value)
    digest.update(f"@{attribute.name}={value!r}\n".encode())


def _tensor_sha256(tensor: onnx.TensorProto) -> str:
    from onnx import numpy_helper

    array = numpy_helper.to_array(tensor)
    header = f"{tensor.data_type} {array.shape} ".encode()
    return hashlib.sha256(header + array.tobytes()).hexdigest()
