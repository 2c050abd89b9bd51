"""What is grafted onto a traced graph, so that ids and mask go in, and only what is wanted comes out.

Positions are counted from the attention mask, so that padding on the left and on the right give the same. An encoder
gets pooling, dense layers, truncation and normalization; a scorer computes the logits of each row's last token only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llmfeat.errors import ExportError
from llmfeat.export.head import DenseLayer, EmbeddingHead

if TYPE_CHECKING:
    import onnx

__all__ = [
    "EMBEDDING",
    "HIDDEN",
    "LOGITS",
    "PROMPT_TOKENS",
    "Nodes",
    "graft_head",
    "graft_last_logits",
    "graft_positions",
    "trim_rotary",
]

EMBEDDING = "embedding"
HIDDEN = "last_hidden_state"
LOGITS = "logits"
PROMPT_TOKENS = "prompt_tokens"
_IDS, _MASK, _POSITIONS = "input_ids", "attention_mask", "position_ids"
# As torch.nn.functional.normalize and the mean pooling of sentence-transformers divide.
_LEAST_NORM = 1e-12
_LEAST_COUNT = 1e-9


class Nodes:
    """New nodes and constants, written as one writes expressions."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._n_made = 0
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: Any) -> str:
        """Return the name of a new constant."""
        from onnx import numpy_helper

        name = f"llmfeat_{self._prefix}_c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def like(self, value: Any, other: str) -> str:
        """Return a constant in the type of another value, which a conversion to float16 may change."""
        return self("CastLike", self.constant(value), other)

    def __call__(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Return the name of what an operator gives."""
        from onnx import helper

        output = f"llmfeat_{self._prefix}_n{self._n_made}"
        self._n_made += 1
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def call_it(self, value: str, name: str) -> None:
        """Give a value the name that the rest of the graph, or its caller, knows it by."""
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [value], [name], name=f"llmfeat_{self._prefix}_{name}"))


def graft_positions(model: onnx.ModelProto) -> None:
    """Compute ``position_ids`` from the attention mask where the graph asks for them, in place.

    A token's position is the number of unmasked tokens before it, those in the key/value cache included.
    """
    if _POSITIONS not in {entry.name for entry in model.graph.input}:
        return
    make = Nodes("positions")
    counted = make("Sub", make("CumSum", _MASK, make.constant(np.int64(1))), make.constant(np.int64(1)))
    positions = make("Max", counted, make.constant(np.int64(0)))
    make.call_it(_last_columns(make, positions), _POSITIONS)
    kept = [entry for entry in model.graph.input if entry.name != _POSITIONS]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    _prepend(model, make)


def graft_head(model: onnx.ModelProto, head: EmbeddingHead, *, hidden_size: int) -> None:
    """Replace the output of a transformer by ``embedding``, float32 of shape ``(n_texts, dim)``, in place.

    Parameters
    ----------
    model : onnx.ModelProto
        A graph with the input ``attention_mask`` and the output ``last_hidden_state`` in float32, opset 18 or later.
    head : EmbeddingHead
        What follows the transformer. Where it leaves the prompt out of the pooling, the graph gets a further input
        ``prompt_tokens``, int64 of shape ``(n_texts,)``: how many tokens at the begin of each text are prompt.
    hidden_size : int
        The width of ``last_hidden_state``.
    """
    from onnx import TensorProto, helper

    if HIDDEN not in {output.name for output in model.graph.output}:
        raise ExportError(f"the graph has the outputs {[o.name for o in model.graph.output]}, not {HIDDEN!r}")
    if hidden_size != head.hidden_size:
        raise ExportError(f"the pooling is for {head.hidden_size} dimensions, the transformer has {hidden_size}")
    make = Nodes("head")
    mask = _MASK
    if not head.include_prompt:
        seen = make("CumSum", mask, make.constant(np.int64(1)))
        behind = make("Greater", seen, make("Unsqueeze", PROMPT_TOKENS, make.constant(np.array([1]))))
        mask = make("Mul", mask, make("Cast", behind, to=TensorProto.INT64))
        model.graph.input.append(helper.make_tensor_value_info(PROMPT_TOKENS, TensorProto.INT64, ["n_texts"]))
    pooled = _pool(make, mask, head.pooling)
    for layer in head.dense:
        pooled = _dense(make, pooled, layer)
    if head.dim < head.full_dim:
        begin, end, axis = (make.constant(np.array([value])) for value in (0, head.dim, 1))
        pooled = make("Slice", pooled, begin, end, axis)
    if head.normalize:
        norm = make("ReduceL2", pooled, make.constant(np.array([1])), keepdims=1)
        pooled = make("Div", pooled, make("Max", norm, make.constant(np.float32(_LEAST_NORM))))
    make.call_it(pooled, EMBEDDING)
    _append(model, make)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["n_texts", head.dim]))


def graft_last_logits(model: onnx.ModelProto, *, vocab_size: int) -> bool:
    """Make ``logits`` those of each row's last unmasked token, of shape ``(batch, vocab_size)``, in place.

    The hidden state is gathered before the product with the vocabulary, which is then computed for one position instead
    of all; returns False where that product was not found and the logits were gathered after it.
    """
    from onnx import TensorProto, helper

    producers = {output: node for node in model.graph.node for output in node.output}
    constants = {entry.name for entry in model.graph.initializer}
    node = producers[LOGITS]
    # Scaling and soft-capping may stand between the product and the output.
    while node.op_type in ("Cast", "Mul", "Div", "Tanh", "Add"):
        inner = [name for name in node.input if name in producers and producers[name].op_type != "Constant"]
        if len(inner) != 1:
            break
        node = producers[inner[0]]
    found = node.op_type == "MatMul" and node.input[1] in constants
    make = Nodes("last")
    last = _position(make, _last_columns(make, _MASK), first=False)
    if found:
        node.input[0] = make("GatherND", node.input[0], last, batch_dims=1)
        _insert_before(model, make, node)
    else:
        produced = "llmfeat_all_logits"
        node = producers[LOGITS]
        node.output[:] = [produced if name == LOGITS else name for name in node.output]
        make.call_it(make("GatherND", produced, last, batch_dims=1), LOGITS)
        _append(model, make)
    outputs = [entry for entry in model.graph.output if entry.name != LOGITS]
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["batch", vocab_size]))
    model.graph.output.extend(outputs)
    # The shapes that the tracer noted are no longer those of the values.
    del model.graph.value_info[:]
    return found


def trim_rotary(model: onnx.ModelProto, *, n_positions: int) -> None:
    """Cut the tables of rotary embeddings at `n_positions`, in place: the fusion lays out 131,072 rows always."""
    from onnx import numpy_helper

    tables = {name for node in model.graph.node if node.op_type == "RotaryEmbedding" for name in node.input[2:4]}
    for tensor in model.graph.initializer:
        if tensor.name in tables and tensor.dims[0] > n_positions:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:n_positions].copy(), tensor.name))


def _pool(make: Nodes, mask: str, pooling: str) -> str:
    from onnx import TensorProto

    if pooling == "mean":
        columns = make.constant(np.array([1]))
        mask = make("Cast", mask, to=TensorProto.FLOAT)
        weighted = make("Mul", HIDDEN, make("Unsqueeze", mask, make.constant(np.array([2]))))
        total = make("ReduceSum", weighted, columns, keepdims=0)
        count = make("ReduceSum", mask, columns, keepdims=1)
        return make("Div", total, make("Max", count, make.constant(np.float32(_LEAST_COUNT))))
    if pooling in ("cls", "last"):
        pooled = make("GatherND", HIDDEN, _position(make, mask, first=pooling == "cls"), batch_dims=1)
        if pooling == "cls":
            return pooled
        # As sentence-transformers does: a text that is all prompt, which is not pooled, has nothing for its last token.
        seen = make("ReduceMax", mask, make.constant(np.array([1])), keepdims=1)
        return make("Mul", pooled, make("Cast", seen, to=TensorProto.FLOAT))
    raise ExportError(f"pooling={pooling!r}, but 'mean', 'cls' or 'last' was expected")


def _position(make: Nodes, mask: str, *, first: bool) -> str:
    """Return where the first or last one of an int64 mask of shape (n, length) is, of shape (n, 1); 0 without any."""
    from onnx import numpy_helper

    # Of the mask times 1..length, the largest is the last token's; times length..1, it is the first one's.
    shape, one = make("Shape", mask), make.constant(np.int64(1))
    ones = make("ConstantOfShape", shape, value=numpy_helper.from_array(np.array([1])))
    counts = make("CumSum", ones, one, reverse=int(first))
    best = make("ReduceMax", make("Mul", mask, counts), make.constant(np.array([1])), keepdims=1)
    place = make("Sub", make("Gather", shape, one, axis=0), best) if first else make("Sub", best, one)
    none = make.constant(np.int64(0))
    return make("Where", make("Greater", best, none), place, none)


def _dense(make: Nodes, value: str, layer: DenseLayer) -> str:
    value = make("MatMul", value, make.constant(np.ascontiguousarray(layer.weight.T)))
    if layer.bias is not None:
        value = make("Add", value, make.constant(layer.bias))
    return make(layer.activation, value) if layer.activation else value


def _last_columns(make: Nodes, value: str) -> str:
    """Return the columns of a (batch, past + length) value that belong to the ids at hand."""
    length = make("Gather", make("Shape", _IDS), make.constant(np.array([1])), axis=0)
    end, axis = make.constant(np.array([np.iinfo(np.int64).max])), make.constant(np.array([1]))
    return make("Slice", value, make("Neg", length), end, axis)


def _append(model: onnx.ModelProto, made: Nodes) -> None:
    model.graph.node.extend(made.nodes)
    model.graph.initializer.extend(made.constants)


def _prepend(model: onnx.ModelProto, made: Nodes) -> None:
    _insert_before(model, made, model.graph.node[0])


def _insert_before(model: onnx.ModelProto, made: Nodes, node: onnx.NodeProto) -> None:
    nodes = list(model.graph.node)
    at = next(position for position, other in enumerate(nodes) if other.output[0] == node.output[0])
    for offset, new in enumerate(made.nodes):
        model.graph.node.insert(at + offset, new)
    model.graph.initializer.extend(made.constants)
