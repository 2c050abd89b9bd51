"""``artifact.json``: the frozen description of an exported model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from llmfeat._base.files import canonical_json, text_sha256
from llmfeat.errors import ArtifactCorruptError, ArtifactSchemaError

__all__ = ["SCHEMA", "ArtifactSpec", "FileRecord"]

SCHEMA = 1


@dataclass(frozen=True)
class FileRecord:
    """A file of the artifact as it was exported."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class ArtifactSpec:
    """What identifies an encoder, and what was measured when it was exported.

    Attributes
    ----------
    kind : str
        ``"encoder"``.
    source, revision, architecture, licence : str
        Where the weights come from, their SHA-256, the model class, the licence they came under.
    pooling : str
        ``"mean"`` or ``"cls"``; like `normalize` it is a part of the graph.
    normalize : bool
        Whether the graph's output has unit length.
    max_tokens : int
        Longer texts are cut there, special tokens included.
    dim : int
        Dimensions of a vector.
    precision : str
        ``"fp32"``.
    opset : int
        ONNX opset of the graph.
    graph_sha256 : str
        Digest of the graph's operators, attributes, wiring and weights; names do not enter.
    tokenizer_sha256 : str
        Of ``tokenizer.json``.
    files : mapping of str to FileRecord
        Every file of the folder but ``artifact.json``.
    versions : mapping of str to str
        The libraries that exported it.
    parity : mapping
        The comparison with the model in torch.
    """

    kind: str
    source: str
    revision: str
    architecture: str
    licence: str
    pooling: str
    normalize: bool
    max_tokens: int
    dim: int
    precision: str
    opset: int
    graph_sha256: str
    tokenizer_sha256: str
    files: Mapping[str, FileRecord]
    versions: Mapping[str, str] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of everything that can change a vector, and of nothing else, in hex.

        Moving the folder, or exporting the same model again, keeps it.
        """
        identity = {
            "kind": self.kind,
            "graph": self.graph_sha256,
            "tokenizer": self.tokenizer_sha256,
            "max_tokens": self.max_tokens,
            "dim": self.dim,
            "precision": self.precision,
        }
        return text_sha256(canonical_json(identity))

    def to_json(self) -> str:
        """Return the text of ``artifact.json``."""
        body = {"schema": SCHEMA, "fingerprint": self.fingerprint, **dataclasses.asdict(self)}
        return json.dumps(body, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Self:
        """Read ``artifact.json``; `where` names it in errors.

        Raises
        ------
        ArtifactSchemaError
            When it was written by a newer version.
        ArtifactCorruptError
            When it is no JSON, lacks a field, or its fingerprint is not that of its content.
        """
        try:
            body = json.loads(text)
            schema = body.pop("schema")
            if schema != SCHEMA:
                raise ArtifactSchemaError(
                    f"{where} has schema {schema!r}, this version reads {SCHEMA}: upgrade llmfeat or export again"
                )
            claimed = body.pop("fingerprint")
            body["files"] = {name: FileRecord(**record) for name, record in body["files"].items()}
            spec = cls(**body)
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise ArtifactCorruptError(f"{where} is no artifact.json ({error}): export the model again") from error
        if claimed != spec.fingerprint:
            raise ArtifactCorruptError(
                f"{where} claims the fingerprint {claimed[:12]}, its content has {spec.fingerprint[:12]}: "
                "it was edited, export the model again"
            )
        return spec
