"""What users encode with today: sentence-transformers' four backends, and fastembed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Encode = Callable[[Sequence[str]], "np.ndarray[Any, Any]"]


def peers(model: Path, folder: Path) -> Iterator[tuple[str, str, Encode | None]]:
    """Yield a name, its setting in words, and what encodes; None, and the reason as setting, where it cannot be had.

    `model` is a folder of sentence-transformers; what is exported from it goes to `folder`. Each runs as its
    documentation says, with the batch size that is its default.
    """
    import torch

    yield _sentence_transformers("st_torch_fp32", model)
    yield _sentence_transformers("st_torch_bf16", model, model_kwargs={"dtype": torch.bfloat16})
    for backend in ("onnx", "openvino"):
        saved = folder / backend
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _load(model, backend=backend, model_kwargs={"export": True}).save_pretrained(str(saved))
                yield _sentence_transformers(f"st_{backend}", saved, backend=backend)
        except Exception as error:  # a peer that does not install is a fact for the results, not a failure of ours
            yield f"st_{backend}", _reason(error), None
    try:
        yield "fastembed", "local ONNX file, mean pooling, batches of 256, defaults", _fastembed(folder / "onnx")
    except Exception as error:
        yield "fastembed", _reason(error), None


def _sentence_transformers(name: str, model: Path, **settings: Any) -> tuple[str, str, Encode]:
    loaded = _load(model, **settings)
    chosen = ", ".join(f"{key}={value}" for key, value in settings.items())
    precision = _openvino_precision(loaded)

    def encode(texts: Sequence[str]) -> np.ndarray[Any, Any]:
        vectors = loaded.encode(list(texts), show_progress_bar=False, convert_to_numpy=False, convert_to_tensor=True)
        return vectors.float().numpy()

    return name, f"{chosen or 'defaults'}, batch_size=32{precision}", encode


def _load(model: Path, **settings: Any) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(model), device="cpu", local_files_only=True, **settings)


def _openvino_precision(loaded: Any) -> str:
    """Return the precision that OpenVINO chose, as it says."""
    request = getattr(getattr(loaded[0], "auto_model", None), "request", None)
    if request is None:
        return ""
    compiled = request.get_compiled_model() if hasattr(request, "get_compiled_model") else request
    return f", {compiled.get_property('INFERENCE_PRECISION_HINT').to_string()}"


def _fastembed(folder: Path) -> Encode:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    name = "local/benchmark"
    TextEmbedding.add_custom_model(
        model=name,
        pooling=PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf=name),
        dim=384,
        model_file="onnx/model.onnx",
    )
    loaded = TextEmbedding(name, specific_model_path=str(folder))
    return lambda texts: np.stack(list(loaded.embed(list(texts))))


def _reason(error: Exception) -> str:
    return f"not here: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
