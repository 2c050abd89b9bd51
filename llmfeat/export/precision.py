"""Lower precisions: float16, and int8 with scales that are fixed beforehand."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat.export.runner import plain_session
from llmfeat.export.storage import load_graph, save_graph
from llmfeat.types import Float32Array

if TYPE_CHECKING:
    import onnx

__all__ = ["PRECISIONS", "smooth", "to_fp16", "to_int8"]

PRECISIONS = ("fp32", "fp16", "int8")
# How much of the range is moved from activations to weights; half, as in the paper's experiments.
_SMOOTHING = 0.5
_LEAST_RANGE = 1e-5

Feeds = dict[str, Any]


def to_fp16(model: onnx.ModelProto, *, keep: Sequence[str]) -> onnx.ModelProto:
    """Return the graph in float16, but for the inputs and outputs named by `keep`, which stay float32."""
    convert = import_optional("onnxruntime.transformers.float16", purpose="exporting a model").convert_float_to_float16
    # Shapes are not needed to convert, and inferring them serializes the weights, of which there may be over 2 GB.
    converted: onnx.ModelProto = convert(model, keep_io_types=list(keep), disable_shape_infer=True)
    return converted


def to_int8(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> onnx.ModelProto:
    """Return the graph with its linear layers in int8, at scales taken from `feeds` and then fixed.

    Weights have a scale per output, activations one per tensor, after their range was evened out by `smooth`. The scale
    does not depend on the batch, so that a text's vector does not depend on its neighbours.

    Parameters
    ----------
    model : onnx.ModelProto
        A float32 graph; it is changed.
    feeds : sequence of dict
        Inputs to run it on, without padding.
    """
    quantization = import_optional("onnxruntime.quantization", purpose="quantizing")
    smooth(model, feeds)
    _note_types(model)
    with tempfile.TemporaryDirectory() as folder:
        plain, quantized = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        external = len(save_graph(model, plain)) > 1
        quantization.quantize_static(
            str(plain),
            str(quantized),
            _reader(feeds),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            use_external_data_format=external,
            extra_options={"MatMulConstBOnly": True},
        )
        return load_graph(quantized)


def smooth(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> None:
    """Even out the channels of every linear layer's input, and give the difference to the weights, in place.

    A few channels of a transformer are far larger than the rest, and a scale for all of them leaves the rest few steps.
    The product stays the same: ``(X / s) @ (s * W)``, with ``s = max|X|^a / max|W|^(1 - a)`` for each channel.
    Source: Xiao et al., SmoothQuant, ICML 2023, arXiv:2211.10438.
    """
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}  # an input of linear layers -> those layers
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights and len(weights[node.input[1]].dims) == 2:
            users.setdefault(node.input[0], []).append(node)
    largest = _largest(model, list(users), feeds)
    before: dict[str, onnx.NodeProto] = {}  # output of a layer -> what is to stand before it
    for number, (value, layers) in enumerate(users.items()):
        arrays = [numpy_helper.to_array(weights[layer.input[1]]) for layer in layers]
        rows = np.max([np.abs(array).max(axis=1) for array in arrays], axis=0)
        wide = np.maximum(largest[value], _LEAST_RANGE) ** _SMOOTHING
        wide = wide / np.maximum(rows, _LEAST_RANGE) ** (1 - _SMOOTHING)
        scale = (wide / np.exp(np.mean(np.log(wide)))).astype(np.float32)
        inverse, evened = f"llmfeat_smooth_{number}", f"llmfeat_smoothed_{number}"
        model.graph.initializer.append(numpy_helper.from_array(np.float32(1) / scale, inverse))
        before[layers[0].output[0]] = helper.make_node("Mul", [value, inverse], [evened], name=evened)
        for which, (layer, array) in enumerate(zip(layers, arrays, strict=True)):
            name = f"llmfeat_weight_{number}_{which}"
            model.graph.initializer.append(numpy_helper.from_array(array * scale[:, None], name))
            layer.input[0], layer.input[1] = evened, name
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.output[0] in before:
            nodes.append(before[node.output[0]])
        nodes.append(node)
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)


def _note_types(model: onnx.ModelProto) -> None:
    """Say that what products take and give is float32, which cannot be inferred behind a fused operator."""
    from onnx import TensorProto, helper

    del model.graph.value_info[:]
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    known = {entry.name for entry in [*model.graph.initializer, *model.graph.input, *model.graph.output]}
    names = dict.fromkeys(name for node in products for name in (*node.input, *node.output) if name not in known)
    model.graph.value_info.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)


def _largest(model: onnx.ModelProto, values: list[str], feeds: Iterable[Feeds]) -> dict[str, Float32Array]:
    """Return the largest absolute value of each channel of some inner values, over all `feeds`."""
    from onnx import helper

    n_outputs = len(model.graph.output)
    model.graph.output.extend(helper.make_empty_tensor_value_info(value) for value in values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "watched.onnx"
        save_graph(model, path)
        session = plain_session(path)
        found = {value: np.zeros(1, dtype=np.float32) for value in values}
        for feed in feeds:
            for value, array in zip(values, session.run(values, feed), strict=True):
                found[value] = np.maximum(found[value], np.abs(array).reshape(-1, array.shape[-1]).max(axis=0))
    del model.graph.output[n_outputs:]
    return found


def _reader(feeds: Sequence[Feeds]) -> Any:
    quantization = import_optional("onnxruntime.quantization", purpose="quantizing")
    remaining = iter(feeds)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> Feeds | None:
            return next(remaining, None)

    return Reader()
