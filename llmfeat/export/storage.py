"""Reading and writing ONNX files, with the weights beside the graph where they pass 2 GB."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

__all__ = ["data_file", "light_copy", "load_graph", "put_back", "save_graph"]

# A protocol buffer holds 2 GiB at most; the graph itself and its names need some of it.
INLINE_BYTES = 2**31 - 2**27
# Smaller tensors, such as shapes and axes, are read while a graph is changed: they stay inside.
_SMALL_BYTES = 1024
_PAGE_BYTES = 4096  # what starts at a page can be mapped into memory as it is


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

    sizes = {tensor.name: len(tensor.raw_data) for tensor in model.graph.initializer}
    if sum(sizes.values()) < INLINE_BYTES:
        onnx.save(model, str(path))
        return [path]
    large = {name for name, n_bytes in sizes.items() if n_bytes >= _SMALL_BYTES}
    # The library's own way moves the weights out of the model, which takes their memory twice to have them back.
    light = light_copy(model, large)
    with data_file(path).open("wb") as file:
        for full, empty in zip(model.graph.initializer, light.graph.initializer, strict=True):
            if full.name in large:
                file.write(b"\0" * (-file.tell() % _PAGE_BYTES))
                begin = file.tell()
                _refer(empty, location=data_file(path).name, offset=begin, length=file.write(full.raw_data))
    onnx.save(light, str(path))
    return [path, data_file(path)]


def light_copy(model: onnx.ModelProto, without: Collection[str]) -> onnx.ModelProto:
    """Return a copy of a graph in which the weights named by `without` have a type and a shape, but no data.

    It cannot be saved before `put_back`: a weight without data says that it lies in a file of its own name.
    """
    import onnx

    light = onnx.ModelProto()
    _copy_fields(model, light, except_for="graph")
    _copy_fields(model.graph, light.graph, except_for="initializer")
    for tensor in model.graph.initializer:
        if tensor.name not in without:
            light.graph.initializer.append(tensor)
            continue
        empty = light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        _refer(empty, location=tensor.name)
    return light


def put_back(light: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Give the weights without data those of the graph that `light` is a copy of, in place."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in light.graph.initializer:
        if tensor.data_location == tensor.EXTERNAL:
            tensor.CopyFrom(weights[tensor.name])


def _refer(tensor: onnx.TensorProto, **where: Any) -> None:
    """Say that a tensor's data are in a file."""
    tensor.data_location = tensor.EXTERNAL
    del tensor.external_data[:]
    for key, value in where.items():
        tensor.external_data.add(key=key, value=str(value))


def _copy_fields(source: Any, target: Any, *, except_for: str) -> None:
    for field, value in source.ListFields():
        if field.name == except_for:
            continue
        if hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)
