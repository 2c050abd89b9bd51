"""From a model in torch to an ONNX graph that gives hidden states, or logits with a key/value cache."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmfeat._base.optional import import_optional
from llmfeat.errors import ExportError
from llmfeat.export.quiet import quietly
from llmfeat.export.source import ModelSource, require_weights
from llmfeat.export.storage import load_graph

if TYPE_CHECKING:
    import onnx

__all__ = ["OPSET", "load_torch", "trace"]

OPSET = 18  # the least that optimum recommends for BERT, and what the grafts are written for


def trace(source: ModelSource, *, kind: str) -> onnx.ModelProto:
    """Return the graph of a model, in float32, traced by optimum.

    An architecture that optimum does not list is traced as the family that it is built like: encoders as BERT is,
    decoders as Llama is. The parity check decides whether that was right.

    Parameters
    ----------
    source : ModelSource
        The model.
    kind : {"encoder", "scorer"}
        Hidden states without a key/value cache, or logits with one.

    Raises
    ------
    ExportError
        When the model cannot be loaded or traced.
    """
    convert = import_optional("optimum.exporters.onnx", purpose="exporting a model").onnx_export_from_model
    task = "text-generation-with-past" if kind == "scorer" else "feature-extraction"
    with tempfile.TemporaryDirectory() as folder, quietly():
        model = load_torch(source, kind=kind)
        model.config.use_cache = kind == "scorer"
        try:
            convert(
                model,
                folder,
                task=task,
                opset=OPSET,
                do_validation=False,
                no_post_process=True,
                custom_onnx_configs=_unlisted(source, task=task),
            )
        except (ValueError, KeyError, RuntimeError, TypeError, NotImplementedError, AttributeError) as error:
            raise ExportError(f"optimum could not export {source.name} ({source.architecture}): {error}") from error
        # The tracer leaves cycles that hold the whole model, which would stand beside the graph for long.
        del model
        gc.collect()
        return load_graph(Path(folder) / "model.onnx")


def load_torch(source: ModelSource, *, kind: str) -> Any:
    """Return the model in torch, float32, in evaluation mode."""
    transformers = import_optional("transformers", purpose="exporting a model")
    torch = import_optional("torch", purpose="exporting a model")
    broken = import_optional("safetensors", purpose="exporting a model").SafetensorError
    auto = transformers.AutoModelForCausalLM if kind == "scorer" else transformers.AutoModel
    try:
        model, loaded = auto.from_pretrained(
            str(source.path),
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (ValueError, OSError, KeyError, RuntimeError, broken) as error:
        raise ExportError(f"{source.name} ({source.architecture}) cannot be loaded: {error}") from error
    require_weights(f"{source.name} ({source.architecture})", loaded)
    return model.eval()


def _unlisted(source: ModelSource, *, task: str) -> dict[str, Any] | None:
    """Return the export configuration of the nearest family for an architecture that optimum does not list."""
    configs = import_optional("optimum.exporters.onnx.model_configs", purpose="exporting a model")
    tasks = import_optional("optimum.exporters.tasks", purpose="exporting a model").TasksManager
    if task in tasks._SUPPORTED_MODEL_TYPE.get(source.config.model_type, {}).get("onnx", {}):
        return None
    family = configs.LlamaOnnxConfig if source.is_decoder else configs.DistilBertOnnxConfig
    cached = {"use_past": True, "use_past_in_inputs": True} if task.endswith("-with-past") else {}
    return {"model": family(source.config, task=task.removesuffix("-with-past"), **cached)}
