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

__all__ = ["KINDS", "REFERENCE_NUMERICS", "SCHEMA", "ArtifactSpec", "FileRecord"]

SCHEMA = 2
KINDS = ("encoder", "scorer")
# What an exported graph is certified with, and what other numerics classes are compared with.
REFERENCE_NUMERICS = "onnxruntime-cpu"


@dataclass(frozen=True)
class FileRecord:
    """A file of the artifact as it was exported."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ArtifactSpec:
    """What identifies an exported model, and what was measured when it was exported.

    Attributes
    ----------
    kind : {"encoder", "scorer"}
        Whether the graph gives ``embedding``, or ``logits`` of the last token with a key/value cache.
    source, revision, architecture, licence : str
        Where the weights come from, the hub's commit or their SHA-256, the model class, the licence they came under.
    pooling : {"mean", "cls", "last"} or None
        Over which tokens; like `normalize`, `include_prompt` and the truncation to `dim` it is a part of the graph.
    normalize : bool
        Whether the graph's output has unit length.
    include_prompt : bool
        Whether the prompt's tokens are pooled too; if not, the graph has an input ``prompt_tokens``.
    query_prompt, document_prompt : str
        What stands before a text that searches, and before one that is found.
    max_tokens : int
        Longer texts are cut there, special tokens included.
    truncation_side : {"right", "left"}
        Which end of a longer text is cut off.
    pad_token_id : int
        What shorter texts are filled up with; an empty text without any token is one of it.
    dim : int
        Columns of the output: dimensions of a vector, or tokens of the vocabulary.
    precision : {"fp32", "fp16", "int8"}
        Of the weights; int8 has fixed scales.
    opset : int
        ONNX opset of the graph.
    chat_template : str or None
        How a scorer's model writes a conversation, in Jinja.
    special_tokens : mapping of str to str
        The tokenizer's, by their role.
    graph_sha256 : str
        Digest of the graph's operators, attributes, wiring and weights; names do not enter.
    tokenizer_sha256 : str
        Of ``tokenizer.json``.
    files : mapping of str to FileRecord
        Every file of the folder but ``artifact.json``.
    fusions : mapping
        What ONNX Runtime fused, and what it did not.
    calibration : mapping
        For int8: how many texts the scales were taken from, their digest, and the layers that stayed in float32.
    versions : mapping of str to str
        The libraries that exported it.
    parity : mapping
        The certificate: the comparison with the model in torch. What it missed is listed under ``failures``; how near
        other numerics classes come is added under ``numerics``.
    """

    kind: str
    source: str
    revision: str
    architecture: str
    licence: str
    pooling: str | None
    normalize: bool
    include_prompt: bool = True
    query_prompt: str = ""
    document_prompt: str = ""
    max_tokens: int
    truncation_side: str = "right"
    pad_token_id: int
    dim: int
    precision: str
    opset: int
    chat_template: str | None = None
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    graph_sha256: str
    tokenizer_sha256: str
    files: Mapping[str, FileRecord]
    fusions: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of everything that can change a vector or a score, and of nothing else, in hex.

        Moving the folder, or exporting the same model again, keeps it.
        """
        identity: dict[str, Any] = {
            "kind": self.kind,
            "graph": self.graph_sha256,
            "tokenizer": self.tokenizer_sha256,
            "max_tokens": self.max_tokens,
            "truncation_side": self.truncation_side,
            "pad_token_id": self.pad_token_id,
            "dim": self.dim,
            "precision": self.precision,
        }
        if self.kind == "encoder":
            identity["prompts"] = [self.query_prompt, self.document_prompt]
        else:
            identity["chat"] = [self.chat_template, dict(self.special_tokens)]
        return text_sha256(canonical_json(identity))

    @property
    def size_bytes(self) -> int:
        """The size of the files."""
        return sum(record.size_bytes for record in self.files.values())

    @property
    def failures(self) -> list[str]:
        """What the certificate missed, in words; such an artifact was written by force."""
        return list(self.parity.get("failures", ()))

    def agreement(self, numerics: str) -> float | None:
        """Return the least cosine measured between a numerics class and ONNX Runtime on the processor, or None."""
        if numerics == REFERENCE_NUMERICS:
            return 1.0
        found = self.parity.get("numerics", {}).get(numerics)
        return None if found is None else float(found["cosine_min"])

    def to_json(self) -> str:
        """Return the text of ``artifact.json``."""
        body = {"schema": SCHEMA, "fingerprint": self.fingerprint, **dataclasses.asdict(self)}
        body["seal"] = text_sha256(canonical_json(body))
        return json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Self:
        """Read ``artifact.json``; `where` names it in errors.

        Raises
        ------
        ArtifactSchemaError
            When it was written by a newer version, or by one that is too old.
        ArtifactCorruptError
            When it is no JSON, lacks a field, or was edited.
        """
        try:
            body = json.loads(text)
            schema = body.pop("schema")
            if schema != SCHEMA:
                what = "export the model again" if schema in range(SCHEMA) else "upgrade llmfeat or export again"
                raise ArtifactSchemaError(f"{where} has schema {schema!r}, this version reads {SCHEMA}: {what}")
            seal, sealed = body.pop("seal"), text_sha256(canonical_json({**body, "schema": schema}))
            claimed = body.pop("fingerprint")
            body["files"] = {name: FileRecord(**record) for name, record in body["files"].items()}
            spec = cls(**body)
            fingerprint = spec.fingerprint
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            raise ArtifactCorruptError(f"{where} is no artifact.json ({error}): export the model again") from error
        if (seal, claimed) != (sealed, fingerprint) or spec.kind not in KINDS:
            raise ArtifactCorruptError(
                f"{where} is not as it was written (fingerprint {str(claimed)[:12]}, its content has "
                f"{fingerprint[:12]}): it was edited, export the model again"
            )
        return spec
