"""What fitted towers are, in memory and on disk: two graphs, and the ids that have rows in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from llmfeat._base.files import atomic_folder, canonical_json, text_sha256
from llmfeat._base.ids import columns_as_bytes, columns_of_bytes
from llmfeat.errors import ArtifactCorruptError, ArtifactNotFoundError, ArtifactSchemaError
from llmfeat.types import BoolArray

__all__ = ["TOWERS_FILE", "Towers"]

TOWERS_FILE = "towers.json"
_SCHEMA = 1
_FILES = {
    "item_graph": "item_tower.onnx",
    "user_graph": "user_tower.onnx",
    "items": "items.arrow",
    "users": "users.arrow",
}


@dataclass(frozen=True, eq=False)
class Towers:
    """Two fitted towers; what serves them needs ONNX Runtime and no torch.

    Attributes
    ----------
    item_graph, user_graph : bytes
        See `item_graph` and `user_graph`.
    items, users : bytes
        The ids of the rows from 1 on, in order: the catalogue, with whether each item came in an event, and the users
        that have an embedding. Arrow streams.
    sources : mapping of str to str
        The fingerprint of each vector source, in the order of the features.
    dims : mapping of str to int
        How many features each source has.
    dim : int
        Of the vectors.
    max_events : int
        How many of its last events a history has.
    context : tuple of (float, float)
        Mean and standard deviation of each column of the context.
    parameters : mapping
        Those of the `TwoTower`.
    trained : mapping
        Parity with torch, epochs, versions: what is to be known of how they came about.
    """

    item_graph: bytes
    user_graph: bytes
    items: bytes
    users: bytes
    sources: Mapping[str, str]
    dims: Mapping[str, int]
    dim: int
    max_events: int
    context: tuple[tuple[float, float], ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def item_ids(self) -> pa.StringArray:
        """The catalogue that was fitted on; its rows in the graph, from 1 on."""
        return columns_of_bytes(self.items)["id"]

    @cached_property
    def is_met(self) -> BoolArray:
        """Which items of the catalogue came in an event, bool of shape ``(n_items,)``."""
        met: BoolArray = columns_of_bytes(self.items)["met"].to_numpy(zero_copy_only=False)
        return met

    @cached_property
    def user_ids(self) -> pa.StringArray:
        """The users that have an embedding; their rows in the graph, from 1 on."""
        return columns_of_bytes(self.users)["id"]

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of everything that can change a vector, in hex."""
        digests = {name: sha256(getattr(self, name)).hexdigest() for name in _FILES}
        made_of = {"sources": list(self.sources.items()), "dims": list(self.dims.items()), "context": self.context}
        return text_sha256(canonical_json({**digests, **made_of, "max_events": self.max_events, "dim": self.dim}))

    def save(self, folder: str | Path) -> None:
        """Write the towers into a folder, in place of what is there."""
        about = {
            "schema": _SCHEMA,
            "fingerprint": self.fingerprint,
            "sources": [list(pair) for pair in self.sources.items()],
            "dims": [list(pair) for pair in self.dims.items()],
            "dim": self.dim,
            "max_events": self.max_events,
            "context": [list(pair) for pair in self.context],
            "parameters": dict(self.parameters),
            "trained": dict(self.trained),
        }
        with atomic_folder(Path(folder)) as staging:
            for name, file in _FILES.items():
                (staging / file).write_bytes(getattr(self, name))
            text = json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False)
            (staging / TOWERS_FILE).write_text(f"{text}\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the towers of a folder.

        Raises
        ------
        ArtifactNotFoundError, ArtifactSchemaError, ArtifactCorruptError
            When there are none, a newer version wrote them, or they are not what was written.
        """
        path = Path(folder) / TOWERS_FILE
        missing = [file for file in (TOWERS_FILE, *_FILES.values()) if not (path.parent / file).is_file()]
        if missing:
            raise ArtifactNotFoundError(f"{folder} lacks {missing}: write towers there with TwoTower.save")
        try:
            about = json.loads(path.read_text(encoding="utf-8", errors="replace"))
            schema = about["schema"]
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactCorruptError(f"{path} was not written by TwoTower.save ({error}): write it again") from error
        if schema != _SCHEMA:
            raise ArtifactSchemaError(f"{path} has schema {schema!r}, this version reads {_SCHEMA}: upgrade llmfeat")
        try:
            read = cls(
                **{name: (path.parent / file).read_bytes() for name, file in _FILES.items()},
                sources=dict(about["sources"]),
                dims=dict(about["dims"]),
                dim=about["dim"],
                max_events=about["max_events"],
                context=tuple((mean, spread) for mean, spread in about["context"]),
                parameters=dict(about["parameters"]),
                trained=about["trained"],
            )
            is_whole = read.fingerprint == about["fingerprint"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactCorruptError(f"{path} was not written by TwoTower.save ({error}): write it again") from error
        if not is_whole:
            raise ArtifactCorruptError(f"{folder} is not as it was written: copy it again, or fit again")
        return read

    @staticmethod
    def ids_as_fields(item_ids: pa.StringArray, is_met: BoolArray, user_ids: pa.StringArray | None) -> dict[str, bytes]:
        """Return ids as the fields that hold them."""
        users = pa.array([], pa.string()) if user_ids is None else user_ids
        return {
            "items": columns_as_bytes({"id": item_ids, "met": pa.array(is_met)}),
            "users": columns_as_bytes({"id": users}),
        }
