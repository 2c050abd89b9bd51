"""Reading and writing ONNX files, with the weights beside the graph where they pass 2 GB."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["data_file", "load_graph", "save_graph"]

# A protocol buffer holds 2 GiB at most; the graph itself and its names need some of it.
INLINE_BYTES = 2**31 - 2**27


def data_file(path: Path) -> Path:
    """Return where the weights of the graph at `path` are, when they are not inside."""
    return path.with_name(path.name + ".data")


def load_graph(path: Path) -> onnx.ModelProto:
    """Return a graph with its weights."""
    import onnx

    return onnx.load(str(path))


def save_graph(model: onnx.ModelProto, path: Path) -> list[Path]:
    """Write a graph, with its weights beside it when they are over 2 GB, and return the files that were made."""
    import onnx
    from onnx.external_data_helper import load_external_data_for_model

    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) < INLINE_BYTES:
        onnx.save(model, str(path))
        return [path]
    onnx.save(model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=data_file(path).name)
    # Saving moved the weights out of the model: they come back as they were.
    load_external_data_for_model(model, str(path.parent))
    return [path, data_file(path)]
