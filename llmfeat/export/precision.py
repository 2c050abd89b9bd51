"""Lower precisions: float16, and int8 with scales that are fixed beforehand."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat.export.runner import as_graph_error, plain_session
from llmfeat.export.storage import load_graph, save_graph
from llmfeat.types import Float32Array

if TYPE_CHECKING:
    import onnx

__all__ = ["PRECISIONS", "smooth", "to_fp16", "to_int8"]

PRECISIONS = ("fp32", "fp16", "int8")
# How much of the range is moved from activations to weights; half, as in the paper's experiments.
_SMOOTHING = 0.5
_LEAST_RANGE = 1e-5
# A part of the energy of a layer's input.
_MOST_LOST = 0.005
_TOKENS_PER_TEXT = 3

Feeds = dict[str, Any]


def to_fp16(model: onnx.ModelProto, *, keep: Sequence[str]) -> onnx.ModelProto:
    """Return the graph in float16, but for the inputs and outputs named by `keep`, which stay float32."""
    convert = import_optional("onnxruntime.transformers.float16", purpose="exporting a model").convert_float_to_float16
    # Shapes are not needed to convert, and inferring them serializes the weights, of which there may be over 2 GB.
    converted: onnx.ModelProto = convert(model, keep_io_types=list(keep), disable_shape_infer=True)
    return converted


def to_int8(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> tuple[onnx.ModelProto, list[str]]:
    """Return the graph with its linear layers in int8, at scales taken from `feeds` and then fixed.

    Weights have a scale per output, activations one per tensor, after their range was evened out by `smooth`. The scale
    does not depend on the batch, so that a text's vector does not depend on its neighbours. A layer whose input has so
    wide a range that rounding would take too much of it stays in float32; returned second are those layers' names.

    Parameters
    ----------
    model : onnx.ModelProto
        A float32 graph; it is changed.
    feeds : sequence of dict
        Inputs to run it on, without padding.
    """
    quantization = import_optional("onnxruntime.quantization", purpose="quantizing")
    smooth(model, feeds)
    kept = _too_wide(model, feeds)
    _note_types(model)
    # Fusions and types are in the graph already; without this mark, the quantizer advises its developers to add them.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    with tempfile.TemporaryDirectory() as folder:
        plain, quantized = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        external = len(save_graph(model, plain)) > 1
        quantization.quantize_static(
            str(plain),
            str(quantized),
            _reader(feeds),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=kept,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            use_external_data_format=external,
            extra_options={
                "MatMulConstBOnly": True,
                # A product is added to what was before it: rounding it saves nothing, and costs most of all.
                "OpTypesToExcludeOutputQuantization": ["MatMul"],
            },
        )
        return load_graph(quantized), kept


def smooth(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> None:
    """Even out the channels of every linear layer's input, and give the difference to the weights, in place.

    A few channels of a transformer are far larger than the rest, and a scale for all of them leaves the rest few steps.
    The product stays the same: ``(X / s) @ (s * W)``, with ``s = max|X|^a / max|W|^(1 - a)`` for each channel.
    Source: Xiao et al., SmoothQuant, ICML 2023, arXiv:2211.10438.
    """
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    users = _linear_layers(model)
    largest = dict.fromkeys(users, np.zeros(1, dtype=np.float32))
    for arrays in _watch(model, list(users), feeds):
        for value, array in arrays.items():
            largest[value] = np.maximum(largest[value], np.abs(array).max(axis=0))
    replaced = {layer.input[1] for layers in users.values() for layer in layers}
    before: dict[str, onnx.NodeProto] = {}  # output of a layer -> what is to stand before it
    for number, (value, layers) in enumerate(users.items()):
        matrices = [numpy_helper.to_array(weights[layer.input[1]]) for layer in layers]
        rows = np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0)
        wide = np.maximum(largest[value], _LEAST_RANGE) ** _SMOOTHING
        wide = wide / np.maximum(rows, _LEAST_RANGE) ** (1 - _SMOOTHING)
        scale = (wide / np.exp(np.mean(np.log(wide)))).astype(np.float32)
        inverse, evened = f"llmfeat_smooth_{number}", f"llmfeat_smoothed_{number}"
        model.graph.initializer.append(numpy_helper.from_array(np.float32(1) / scale, inverse))
        before[layers[0].output[0]] = helper.make_node("Mul", [value, inverse], [evened], name=evened)
        for which, (layer, matrix) in enumerate(zip(layers, matrices, strict=True)):
            name = f"llmfeat_weight_{number}_{which}"
            model.graph.initializer.append(numpy_helper.from_array(matrix * scale[:, None], name))
            layer.input[0], layer.input[1] = evened, name
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.output[0] in before:
            nodes.append(before[node.output[0]])
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    # A weight that was replaced is dropped, unless something else reads it too, such as a table of words. In place:
    # the copy of a list cannot hold over 2 GB.
    read = {name for node in nodes for name in node.input}
    for at in reversed(range(len(model.graph.initializer))):
        if (name := model.graph.initializer[at].name) in replaced and name not in read:
            del model.graph.initializer[at]


def _note_types(model: onnx.ModelProto) -> None:
    """Say that what products take and give is float32, which cannot be inferred behind a fused operator."""
    from onnx import TensorProto, helper

    del model.graph.value_info[:]
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    known = {entry.name for entry in [*model.graph.initializer, *model.graph.input, *model.graph.output]}
    names = dict.fromkeys(name for node in products for name in (*node.input, *node.output) if name not in known)
    model.graph.value_info.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)


def _too_wide(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> list[str]:
    """Return the names of the linear layers whose input would lose too much to 255 steps over its whole range.

    In a few layers a language model's first token has values some hundred times those of all others, and few steps are
    left for the others: the loss is taken for each token, as a part of its own energy, and averaged. Cutting the range
    instead is no way out: what is cut off is needed, in the few tokens that have it.
    """
    users = _linear_layers(model)
    draw = np.random.default_rng(0)
    tokens: dict[str, list[Float32Array]] = {value: [] for value in users}
    low, high = dict.fromkeys(users, 0.0), dict.fromkeys(users, _LEAST_RANGE)
    for arrays in _watch(model, list(users), feeds):
        # The first and the last token are the special ones. A scorer's vocabulary product sees one token only.
        places = np.concatenate([[0.0, 1.0], draw.random(_TOKENS_PER_TEXT)])
        for value, array in arrays.items():
            low[value], high[value] = min(low[value], float(array.min())), max(high[value], float(array.max()))
            tokens[value].append(array[np.rint(places * (len(array) - 1)).astype(np.int64)])
    lost = {value: _lost(np.concatenate(parts), (high[value] - low[value]) / 255) for value, parts in tokens.items()}
    return [layer.name for value, layers in users.items() for layer in layers if lost[value] > _MOST_LOST]


def _lost(tokens: Float32Array, step: float) -> float:
    rest = tokens - np.round(tokens / step) * step
    energy = np.maximum((tokens**2).sum(axis=1), _LEAST_RANGE**2)
    return float(np.mean((rest**2).sum(axis=1) / energy))


def _linear_layers(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    """Return, for each value that is multiplied by constant matrices, the operators that do it."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights and len(weights[node.input[1]].dims) == 2:
            users.setdefault(node.input[0], []).append(node)
    return users


def _watch(model: onnx.ModelProto, values: list[str], feeds: Iterable[Feeds]) -> Iterator[dict[str, Float32Array]]:
    """Yield inner values for each of some inputs, of shape ``(n_tokens, width)``."""
    from onnx import helper

    n_outputs = len(model.graph.output)
    model.graph.output.extend(helper.make_empty_tensor_value_info(value) for value in values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "watched.onnx"
        save_graph(model, path)
        del model.graph.output[n_outputs:]
        session = plain_session(path)
        for feed in feeds:
            with as_graph_error():
                arrays = session.run(values, feed)
            yield {value: array.reshape(-1, array.shape[-1]) for value, array in zip(values, arrays, strict=True)}


def _reader(feeds: Sequence[Feeds]) -> Any:
    quantization = import_optional("onnxruntime.quantization", purpose="quantizing")
    remaining = iter(feeds)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> Feeds | None:
            return next(remaining, None)

    return Reader()
