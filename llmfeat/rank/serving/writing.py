"""Blocks as JSON, and what of them is a file of its own."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmfeat.errors import BundleError
from llmfeat.features.semantic import SemanticIds
from llmfeat.rank.serving.blocks import (
    ActivityBlock,
    BaseBlock,
    Block,
    HistoryBlock,
    SemanticBlock,
    StoreBlock,
    VectorPart,
)
from llmfeat.rank.serving.reducers import reducer_bytes, reducer_of
from llmfeat.store.columns import StoreColumns

__all__ = ["block_json", "block_of"]


def block_json(block: Block, files: dict[str, bytes]) -> dict[str, Any]:
    """Return a block as plain values, and add its files to `files`."""
    names = list(block.names)
    if isinstance(block, HistoryBlock):
        return {
            "kind": "history",
            "names": names,
            "vectors": [_part_json(part, files) for part in block.parts],
            "params": {key: list(value) if isinstance(value, tuple) else value for key, value in block.params.items()},
            "available_after_us": block.available_after_us,
        }
    if isinstance(block, ActivityBlock):
        return {"kind": "activity", "names": names, "lag_s": block.lag_s}
    if isinstance(block, SemanticBlock):
        file = f"semantic-{block.book.fingerprint_[:16]}.bin"
        files[file] = _book_bytes(block.book)
        return {"kind": "semantic", "names": names, "vectors": [_part_json(block.part, files)], "book": file}
    if isinstance(block, StoreBlock):
        return {"kind": "store", "names": names, "views": [dataclasses.asdict(view) for view in block.views]}
    assert isinstance(block, BaseBlock), block
    return {"kind": "base", "names": names, "columns": list(block.columns)}


def block_of(body: Mapping[str, Any], files: Mapping[str, bytes]) -> Block:
    """Return the block that `block_json` wrote.

    Raises
    ------
    BundleError
        When it is of a kind that this version does not know.
    """
    names, kind = tuple(body["names"]), body["kind"]
    if kind == "history":
        parts = tuple(_part_of(part, files) for part in body["vectors"])
        return HistoryBlock(names, parts, body["params"], int(body["available_after_us"]))
    if kind == "activity":
        return ActivityBlock(names, float(body["lag_s"]))
    if kind == "semantic":
        (part,) = (_part_of(part, files) for part in body["vectors"])
        return SemanticBlock(names, part, _book_of(files[body["book"]]))
    if kind == "store":
        lists = ("numbers", "types")
        views = [{**view, **{name: tuple(view[name]) for name in lists}} for view in body["views"]]
        return StoreBlock(names, tuple(StoreColumns(**view) for view in views))
    if kind == "base":
        return BaseBlock(names, tuple(body["columns"]))
    raise BundleError(f"the bundle has a block of the kind {kind!r}, which this version does not know: upgrade llmfeat")


def _part_json(part: VectorPart, files: dict[str, bytes]) -> dict[str, Any]:
    body: dict[str, Any] = {"name": part.name, "fingerprint": part.fingerprint, "base": part.base, "reducer": None}
    if part.reducer is not None:
        body["reducer"] = f"reducer-{part.fingerprint[:16]}.npz"
        files[body["reducer"]] = reducer_bytes(part.reducer)
    return body


def _part_of(body: Mapping[str, Any], files: Mapping[str, bytes]) -> VectorPart:
    reducer = None if body["reducer"] is None else reducer_of(files[body["reducer"]])
    return VectorPart(body["name"], body["fingerprint"], body["base"], reducer)


def _book_bytes(book: SemanticIds) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "book"
        book.save(path)
        return path.read_bytes()


def _book_of(data: bytes) -> SemanticIds:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "book"
        path.write_bytes(data)
        return SemanticIds.load(path)
