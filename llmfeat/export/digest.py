"""A digest of what an ONNX graph computes, whatever its values are called."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

__all__ = ["graph_sha256"]


def graph_sha256(model: onnx.ModelProto) -> str:
    """Return a digest of what a graph computes: operators, attributes, wiring and weights, in hex.

    Names, documentation, and metadata do not enter, nor where the weights are stored, so that exporting again keeps it.
    """
    digest = hashlib.sha256()
    for domain, version in sorted({(entry.domain, entry.version) for entry in model.opset_import}):
        digest.update(f"opset {domain} {version}\n".encode())
    _digest_graph(model.graph, digest, {})
    return digest.hexdigest()


def _digest_graph(graph: onnx.GraphProto, digest: Any, outer: dict[str, str]) -> None:
    values = dict(outer)  # name of a value -> what it stands for, whatever it is called
    for tensor in graph.initializer:
        values[tensor.name] = f"w{_tensor_sha256(tensor)}"
    # The inputs keep their names: the runtime feeds them by name.
    values.update((entry.name, f"in {entry.name} {entry.type.tensor_type.elem_type}") for entry in graph.input)
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
    digest = hashlib.sha256(f"{tensor.data_type} {array.shape} ".encode())
    # The bytes are read where they are: a copy of a word table can take gigabytes.
    digest.update(np.ascontiguousarray(array).reshape(-1).view("u1").data)
    return digest.hexdigest()
