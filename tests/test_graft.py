"""What is grafted onto a graph, against numpy."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from llmfeat.errors import ExportError
from llmfeat.export.graft import graft_head, graft_last_logits, graft_positions
from llmfeat.export.head import DenseLayer
from llmfeat.export.precision import smooth, to_int8
from tests.conftest import DIM, tiny_graph, tiny_head

# A text of three tokens, one of two; padded on the right and on the left.
RIGHT = {"input_ids": np.array([[2, 4, 3], [2, 5, 0]]), "attention_mask": np.array([[1, 1, 1], [1, 1, 0]])}
LEFT = {"input_ids": np.array([[2, 4, 3], [0, 2, 5]]), "attention_mask": np.array([[1, 1, 1], [0, 1, 1]])}


def run(graph, feeds, output=None):
    options = onnxruntime.SessionOptions()
    # As the engine: processors that lack VNNI would saturate int8 products.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None if output is None else [output], feeds)[0]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class TestHead:
    @pytest.mark.parametrize("side", ["right", "left"])
    @pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
    def test_pooling(self, pooling, side):
        pooled = tiny_graph()
        graft_head(pooled, tiny_head(pooling), hidden_size=DIM)
        hidden = run(tiny_graph(), RIGHT)
        texts = [hidden[0], hidden[1, :2]]
        one_of = {"mean": lambda text: text.mean(axis=0), "cls": lambda text: text[0], "last": lambda text: text[-1]}
        expected = unit(np.stack([one_of[pooling](text) for text in texts]))
        np.testing.assert_allclose(run(pooled, RIGHT if side == "right" else LEFT), expected, rtol=1e-5)

    @pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
    def test_the_prompt_is_left_out(self, pooling):
        pooled = tiny_graph()
        graft_head(pooled, tiny_head(pooling, include_prompt=False, normalize=False), hidden_size=DIM)
        hidden = run(tiny_graph(), RIGHT)
        begins = np.array([2, 1])
        texts = [hidden[0, 2:], hidden[1, 1:2]]
        one_of = {"mean": lambda text: text.mean(axis=0), "cls": lambda text: text[0], "last": lambda text: text[-1]}
        expected = np.stack([one_of[pooling](text) for text in texts])
        for feeds in (RIGHT, LEFT):
            np.testing.assert_allclose(run(pooled, {**feeds, "prompt_tokens": begins}), expected, rtol=1e-5)

    @pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
    def test_a_text_that_is_all_prompt(self, pooling):
        """As sentence-transformers: nothing for the mean and the last token, the first token for cls."""
        pooled = tiny_graph()
        graft_head(pooled, tiny_head(pooling, include_prompt=False, normalize=False), hidden_size=DIM)
        got = run(pooled, {**RIGHT, "prompt_tokens": np.array([3, 2])})
        expected = run(tiny_graph(), RIGHT)[:, 0] if pooling == "cls" else np.zeros((2, DIM))
        np.testing.assert_allclose(got, expected, rtol=1e-5)

    @pytest.mark.parametrize(("activation", "function"), [("", lambda x: x), ("Tanh", np.tanh)])
    def test_dense_then_truncation_then_unit_length(self, activation, function):
        draw = np.random.default_rng(0)
        layer = DenseLayer(
            draw.standard_normal((6, DIM)).astype(np.float32), draw.standard_normal(6).astype(np.float32), activation
        )
        graph = tiny_graph()
        graft_head(graph, tiny_head(dense=(layer,), full_dim=6, dim=4), hidden_size=DIM)
        hidden = run(tiny_graph(), RIGHT)
        mean = np.stack([hidden[0].mean(axis=0), hidden[1, :2].mean(axis=0)])
        expected = unit(function(mean @ layer.weight.T + layer.bias)[:, :4])
        np.testing.assert_allclose(run(graph, RIGHT), expected, rtol=1e-4)

    def test_a_head_of_another_width_is_refused(self):
        with pytest.raises(ExportError, match="pooling is for 8 dimensions, the transformer has 9"):
            graft_head(tiny_graph(), tiny_head(), hidden_size=9)


def positions_graph():
    shape = ["batch", "length"]
    names = ("input_ids", "attention_mask", "position_ids")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in names]
    output = helper.make_tensor_value_info("out", TensorProto.INT64, shape)
    nodes = [helper.make_node("Add", ["position_ids", "input_ids"], ["out"])]
    graph = helper.make_graph(nodes, "positions", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_positions_count_what_the_mask_marks():
    graph = positions_graph()
    graft_positions(graph)
    assert [entry.name for entry in graph.graph.input] == ["input_ids", "attention_mask"]
    ids = np.zeros((3, 3), dtype=np.int64)
    mask = np.array([[1, 1, 1], [0, 1, 1], [1, 1, 0]])
    np.testing.assert_array_equal(
        run(graph, {"input_ids": ids, "attention_mask": mask}), [[0, 1, 2], [0, 0, 1], [0, 1, 1]]
    )
    # Two tokens in the cache: the mask covers them, the ids do not.
    np.testing.assert_array_equal(run(graph, {"input_ids": ids[:, :1], "attention_mask": mask}), [[2], [1], [1]])


@pytest.mark.parametrize("plain", [True, False])
def test_logits_are_those_of_the_last_token(plain):
    graph = tiny_graph()
    words = np.random.default_rng(1).standard_normal((DIM, 5)).astype(np.float32)
    graph.graph.initializer.append(numpy_helper.from_array(words, "words_out"))
    cap = numpy_helper.from_array(np.float32(30), "cap")
    graph.graph.initializer.append(cap)
    # Gemma caps its logits; a product of two computed values is one that is not recognized.
    second = "words_out" if plain else "computed"
    if not plain:
        graph.graph.node.append(helper.make_node("Neg", ["words_out"], ["computed"]))
    graph.graph.node.extend(
        [
            helper.make_node("MatMul", ["last_hidden_state", second], ["raw"]),
            helper.make_node("Div", ["raw", "cap"], ["small"]),
            helper.make_node("Tanh", ["small"], ["bent"]),
            helper.make_node("Mul", ["bent", "cap"], ["logits"]),
        ]
    )
    del graph.graph.output[:]
    graph.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", "length", 5]))
    everywhere = run(graph, RIGHT)
    assert graft_last_logits(graph, vocab_size=5) == plain
    expected = np.stack([everywhere[0, 2], everywhere[1, 1]])
    for feeds in (RIGHT, LEFT):
        np.testing.assert_allclose(run(graph, feeds, "logits"), expected, rtol=1e-5)


def test_smoothing_keeps_the_product_and_evens_the_channels():
    graph, smoothed = tiny_graph(), tiny_graph()
    for model in (graph, smoothed):
        table = numpy_helper.to_array(model.graph.initializer[0]).copy()
        table[:, 3] *= 100  # a channel far larger than the rest
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(table, "table"))
    smooth(smoothed, [RIGHT])
    np.testing.assert_allclose(run(smoothed, RIGHT), run(graph, RIGHT), rtol=1e-3, atol=1e-3)
    scaled = next(node for node in smoothed.graph.node if node.op_type == "Mul" and "smooth" in node.name)
    inverse = next(x for x in smoothed.graph.initializer if x.name == scaled.input[1])
    scales = numpy_helper.to_array(inverse)
    assert np.argmin(scales) == 3
    assert scales[3] < 0.3 * np.median(scales)


def test_a_layer_of_too_wide_a_range_stays_in_float32():
    """Two layers after one another; the second one's input has a token that is a thousand times the others."""
    draw = np.random.default_rng(0)
    weights = {"one": draw.standard_normal((8, 8)), "two": draw.standard_normal((8, 8))}
    shape = ["n", "length", 8]
    nodes = [
        helper.make_node("MatMul", ["x", "one"], ["y"], name="first"),
        helper.make_node("Mul", ["y", "scale"], ["z"]),
        helper.make_node("MatMul", ["z", "two"], ["out"], name="second"),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("scale", TensorProto.FLOAT, ["n", "length", 1]),
    ]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "wide", inputs, [output], constants)
    x = draw.standard_normal((1, 6, 8)).astype(np.float32)
    even, wide = np.ones((1, 6, 1), np.float32), np.array([1000, 1, 1, 1, 1, 1], np.float32).reshape(1, 6, 1)

    def quantize(scale):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        feeds = {"x": x, "scale": scale}
        expected = run(model, feeds)
        quantized, kept = to_int8(model, [feeds])
        got = run(quantized, feeds)
        return kept, float(np.max(np.linalg.norm(got - expected, axis=2) / np.linalg.norm(expected, axis=2)))

    kept, error = quantize(even)
    assert kept == []
    assert error < 0.03
    kept, error = quantize(wide)
    assert kept == ["second"]
    assert error < 0.03


def test_layers_that_see_other_numbers_of_tokens_are_calibrated_alike():
    """A scorer's vocabulary product sees the last token of a text, the layers before it see all."""
    draw = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(draw.standard_normal((8, 8)).astype(np.float32), "one"),
        numpy_helper.from_array(draw.standard_normal((8, 5)).astype(np.float32), "two"),
        numpy_helper.from_array(np.array(-1), "last"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "one"], ["y"], name="first"),
        helper.make_node("Gather", ["y", "last"], ["z"], axis=1),
        helper.make_node("MatMul", ["z", "two"], ["out"], name="second"),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "length", 8])]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 5])
    graph = helper.make_graph(nodes, "last", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    feeds = [{"x": draw.standard_normal((1, length, 8)).astype(np.float32)} for length in (11, 1, 4)]
    expected = [run(model, feed) for feed in feeds]
    quantized, kept = to_int8(model, feeds)
    assert kept == []
    for feed, wanted in zip(feeds, expected, strict=True):
        got = run(quantized, feed)
        assert np.linalg.norm(got - wanted) < 0.05 * np.linalg.norm(wanted)
