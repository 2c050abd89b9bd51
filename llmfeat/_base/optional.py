"""Packages of optional extras, imported on use; the one place that names how to install them."""

from __future__ import annotations

import importlib
from types import ModuleType

from llmfeat.errors import MissingDependencyError

__all__ = ["import_optional", "missing_dependency"]

_EXTRA_OF = {
    "feast": "feast",
    "gguf": "llm",
    "huggingface_hub": "export",
    "pandas": "feast",
    "lightgbm": "lightgbm",
    "lmdb": "cpu",
    "onnx": "export",
    "onnxruntime": "cpu",
    "openvino": "openvino",
    "optimum": "export",
    "safetensors": "export",
    "sentence_transformers": "export",
    "tokenizers": "cpu",
    "torch": "export",
    "transformers": "export",
    "usearch": "ann",
    "yaml": "export",
}


def import_optional(name: str, *, purpose: str) -> ModuleType:
    """Return the module `name`, or say which extra brings it.

    Raises
    ------
    MissingDependencyError
        When the package is not installed. An error inside the package passes through.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise missing_dependency(package, purpose=purpose) from error


def missing_dependency(package: str, *, purpose: str) -> MissingDependencyError:
    """Return the error that says what to install for want of a package."""
    wanted = f"'llmfeat[{_EXTRA_OF[package]}]'" if package in _EXTRA_OF else package.replace("_", "-")
    return MissingDependencyError(f"{purpose} needs {package!r}, which is not installed: pip install {wanted}")
