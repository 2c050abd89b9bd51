"""ONNX Runtime's transformer fusions, and what of a graph they did not find."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llmfeat._base.optional import import_optional
from llmfeat.export.runner import GraphError
from llmfeat.export.source import ModelSource
from llmfeat.export.storage import light_copy, put_back

if TYPE_CHECKING:
    import onnx

__all__ = ["Fusions", "fuse", "unfused"]

_FUSED = (
    "Attention",
    "MultiHeadAttention",
    "GroupQueryAttention",
    "RotaryEmbedding",
    "LayerNormalization",
    "SkipLayerNormalization",
    "SimplifiedLayerNormalization",
    "SkipSimplifiedLayerNormalization",
    "Gelu",
    "BiasGelu",
    "FastGelu",
    "QuickGelu",
)
_MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Fusions:
    """What the fusions made of a graph.

    Attributes
    ----------
    family : str
        ONNX Runtime's name for the set of fusions that was tried.
    nodes_before, nodes_after : int
        Operators.
    fused : dict of str to int
        How many of each fused operator there are now.
    left : tuple of str
        What stayed as plain operators, in words.
    """

    family: str
    nodes_before: int
    nodes_after: int
    fused: dict[str, int]
    left: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {**asdict(self), "left": list(self.left)}


def fuse(model: onnx.ModelProto, source: ModelSource, *, attention_for: str = "") -> tuple[onnx.ModelProto, Fusions]:
    """Return a graph with what ONNX Runtime fuses, and a report.

    Only the fusions by pattern run, none of the optimizations that suit one processor alone: the graph stays one that
    every provider, and OpenVINO, can read.

    Parameters
    ----------
    model : onnx.ModelProto
        A traced graph.
    source : ModelSource
        Its model, for the number of heads.
    attention_for : str, default=""
        Why attention is to stay as plain products; by default it may become one operator, which hides them.
    """
    from onnx import helper

    optimizer = import_optional("onnxruntime.transformers.optimizer", purpose="exporting a model")
    options_of = import_optional("onnxruntime.transformers.fusion_options", purpose="exporting a model").FusionOptions
    family = "qwen3" if source.is_decoder else "bert"
    options = options_of(family)
    options.enable_attention = not attention_for
    options.enable_embed_layer_norm = False  # takes 32-bit ids and builds its own mask, which OpenVINO does not read
    options.use_raw_attention_mask(True)  # a mask index knows padding on the right only
    before = _count(model)
    light = light_copy(model, _unread(model, decoder=source.is_decoder))
    try:
        fused_model: onnx.ModelProto = optimizer.optimize_model(
            light,
            model_type=family,
            num_heads=int(getattr(source.config, "num_attention_heads", 0)),  # 0: told by the graph
            hidden_size=source.hidden_size,
            optimization_options=options,
            opt_level=0,
        ).model
        put_back(fused_model, model)
    except Exception as error:
        # A pattern that almost fits fails in ways of its own; the graph as it was traced is as right, only slower.
        raise GraphError(f"ONNX Runtime's fusions failed: {type(error).__name__}: {error}") from error
    after = _count(fused_model)
    fused = {name: after[name] for name in _FUSED if after[name]}
    if not any(entry.domain == _MICROSOFT for entry in fused_model.opset_import):
        fused_model.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
    report = Fusions(family, before.total(), after.total(), fused, tuple(_left(after, attention_for)))
    return fused_model, report


def unfused(model: onnx.ModelProto, why: str) -> Fusions:
    """Return the report of a graph that was left as it was traced."""
    n_nodes = _count(model).total()
    return Fusions("none", n_nodes, n_nodes, {}, (f"anything: {why}",))


def _unread(model: onnx.ModelProto, *, decoder: bool) -> set[str]:
    """Return the weights that no fusion looks into: word tables, and a decoder's matrices, most of a large model.

    The fusions infer shapes on copies of the graph, which would take the memory of a large model several times.
    """
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    unread = {"Gather", "MatMul"} if decoder else {"Gather"}
    matrices = [tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2]
    return {name for name in matrices if readers.get(name, set()) <= unread}


def _left(after: Counter[str], attention_for: str) -> list[str]:
    # A softmax that is still a node of its own stands for an attention that was not fused.
    left = []
    if after["Softmax"]:
        why = f", so that {attention_for}" if attention_for else ""
        left.append(f"attention in {after['Softmax']} layers{why}")
    if after["Erf"]:
        left.append(f"{after['Erf']} GELU")
    if (after["Cos"] or after["Sin"]) and not after["RotaryEmbedding"]:
        left.append("rotary embeddings")
    if (n_norms := after["ReduceMean"]) > 0:
        left.append(f"{n_norms} normalizations")
    return left


def _count(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)
