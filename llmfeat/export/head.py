"""What follows the transformer in an embedding model: pooling, dense layers, normalization; and its prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmfeat._base.optional import import_optional
from llmfeat.errors import ExportError
from llmfeat.types import Float32Array

if TYPE_CHECKING:
    from llmfeat.export.source import ModelSource

__all__ = ["POOLINGS", "DenseLayer", "EmbeddingHead", "read_head", "read_prompts"]

POOLINGS = ("mean", "cls", "last")
# The names that sentence-transformers gives, before and since 5.4.
_POOLING_NAMES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last",
}
_ACTIVATIONS = {"Identity": "", "Tanh": "Tanh", "ReLU": "Relu", "Sigmoid": "Sigmoid"}
_DOCUMENT_NAMES, _QUERY_NAMES = ("document", "passage", "corpus"), ("query",)


@dataclass(frozen=True)
class DenseLayer:
    """A linear layer with an activation.

    Attributes
    ----------
    weight : ndarray of shape (n_out, n_in), float32
        As torch keeps it.
    bias : ndarray of shape (n_out,), float32, or None
        What is added.
    activation : str
        The ONNX operator, empty for none.
    """

    weight: Float32Array
    bias: Float32Array | None
    activation: str


@dataclass(frozen=True)
class EmbeddingHead:
    """What follows the transformer, in this order: pooling, dense layers, truncation to `dim`, normalization.

    Attributes
    ----------
    pooling : {"mean", "cls", "last"}
        Over which of the unmasked tokens.
    stated : bool
        Whether the model says so itself, in its ``modules.json``.
    include_prompt : bool
        Whether the prompt's tokens are pooled too.
    hidden_size, full_dim, dim : int
        Dimensions of a token, of what the dense layers give, and of the embedding.
    dense : tuple of DenseLayer
        After the pooling.
    normalize : bool
        Whether to scale to unit length.
    """

    pooling: str
    stated: bool
    include_prompt: bool
    hidden_size: int
    full_dim: int
    dim: int
    dense: tuple[DenseLayer, ...]
    normalize: bool


def read_head(source: ModelSource, *, pooling: str = "auto", dim: int | None = None) -> EmbeddingHead:
    """Return what follows the transformer of `source`, by its ``modules.json`` where it has one.

    Without one: mean pooling, or the last token for decoders, and unit length.

    Parameters
    ----------
    source : ModelSource
        The model.
    pooling : {"auto", "mean", "cls", "last"}
        Instead of what the model says.
    dim : int, optional
        Keep so many leading dimensions, for models that were trained for it (Matryoshka).

    Raises
    ------
    ExportError
        When the model has a part that cannot be put into the graph.
    """
    if pooling not in ("auto", *POOLINGS):
        raise ExportError(f"pooling={pooling!r}, but one of {['auto', *POOLINGS]} was expected")
    hidden_size = source.hidden_size
    modules = source.read_json("modules.json")
    include_prompt, normalize, stated = True, True, modules is not None
    dense: tuple[DenseLayer, ...] = ()
    chosen = "last" if source.is_decoder else "mean"
    if modules is not None:
        chosen, include_prompt, dense, normalize = _read_modules(source, modules, asked=pooling)
    widths = [hidden_size, *(len(layer.weight) for layer in dense)]
    if any(layer.weight.shape[1] != width for layer, width in zip(dense, widths, strict=False)):
        raise ExportError(f"{source.name}: the dense layers {[x.weight.shape for x in dense]} do not fit {hidden_size}")
    if dim is None:
        stated_dim = (source.read_json("config_sentence_transformers.json") or {}).get("truncate_dim")
        dim = int(stated_dim or widths[-1])
    if not 1 <= dim <= widths[-1]:
        raise ExportError(f"dim={dim!r}, but {source.name} has {widths[-1]} dimensions: pass 1 to {widths[-1]}")
    return EmbeddingHead(
        pooling=chosen if pooling == "auto" else pooling,
        stated=stated,
        include_prompt=include_prompt,
        hidden_size=hidden_size,
        full_dim=widths[-1],
        dim=dim,
        dense=dense,
        normalize=normalize,
    )


def read_prompts(source: ModelSource, *, query: str | None, document: str | None) -> tuple[str, str]:
    """Return what stands before a query and before a document: as given, else as the model says, else nothing."""
    config = source.read_json("config_sentence_transformers.json") or {}
    prompts: dict[str, str | None] = config.get("prompts") or {}
    default = prompts.get(config.get("default_prompt_name") or "") or ""

    def named(names: tuple[str, ...]) -> str:
        # sentence-transformers writes an empty "document" beside a "passage" that says something.
        stated = [prompts[name] or "" for name in names if name in prompts]
        return next(filter(None, stated), "") if stated else default

    return (
        named(_QUERY_NAMES) if query is None else query,
        named(_DOCUMENT_NAMES) if document is None else document,
    )


def _read_modules(
    source: ModelSource, modules: list[dict[str, Any]], *, asked: str
) -> tuple[str, bool, tuple[DenseLayer, ...], bool]:
    # sentence-transformers imports what is named there: a class of another package would be run, not only read.
    foreign = [module["type"] for module in modules if not module["type"].startswith("sentence_transformers.")]
    if foreign:
        raise ExportError(f"{source.name} has the module {foreign[0]!r}, but one of sentence-transformers was expected")
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    left = [kind for kind in kinds if kind != "Dropout"]  # which does nothing outside of training
    n_dense = left.count("Dense")
    expected = ["Transformer", "Pooling", *["Dense"] * n_dense]
    if left not in (expected, [*expected, "Normalize"]):
        raise ExportError(
            f"{source.name} has the modules {kinds}: Transformer, Pooling, any number of Dense and then Normalize "
            "can be exported"
        )
    if "message" in source.settings.get("modality_config", {}):
        raise ExportError(
            f"{source.name} reads each text through its chat template, which cannot be exported: for plain texts, take "
            "'message' out of the modality_config in its sentence_bert_config.json"
        )
    settings = source.read_json(f"{modules[kinds.index('Pooling')]['path']}/config.json") or {}
    include_prompt = bool(settings.get("include_prompt", True))
    dense = tuple(
        _read_dense(source, module["path"]) for module, kind in zip(modules, kinds, strict=True) if kind == "Dense"
    )
    return _pooling_mode(source, settings, asked=asked), include_prompt, dense, "Normalize" in kinds


def _pooling_mode(source: ModelSource, settings: dict[str, Any], *, asked: str) -> str:
    if asked != "auto":
        return asked
    modes = settings.get("pooling_mode")
    if modes is None:
        modes = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value is True]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in _POOLING_NAMES:
        raise ExportError(
            f"{source.name} pools by {modes}, but one of {list(POOLINGS)} can be exported: choose with pooling=..."
        )
    return _POOLING_NAMES[modes[0]]


def _read_dense(source: ModelSource, folder: str) -> DenseLayer:
    settings = source.read_json(f"{folder}/config.json") or {}
    activation = str(settings.get("activation_function", "Tanh")).rpartition(".")[2]
    path = source.root / folder / "model.safetensors"
    if activation not in _ACTIVATIONS:
        raise ExportError(
            f"{source.name}: a dense layer ends in {activation}, but one of {sorted(_ACTIVATIONS)} can be exported"
        )
    if settings.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise ExportError(f"{source.name}: a dense layer before the pooling cannot be exported")
    if not path.is_file():
        raise ExportError(f"{path} does not exist: save the model with safe_serialization=True, pickles are not read")
    # By torch, since numpy has no bfloat16.
    safetensors = import_optional("safetensors.torch", purpose="exporting a model")
    tensors = {name: tensor.float().numpy() for name, tensor in safetensors.load_file(path).items()}
    return DenseLayer(
        weight=tensors["linear.weight"],
        bias=tensors.get("linear.bias"),
        activation=_ACTIVATIONS[activation],
    )
