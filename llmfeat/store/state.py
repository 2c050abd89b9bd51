"""The record that a view carries of what was written to it: kept in the online store, beside what it speaks of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from llmfeat._base.files import canonical_json, text_sha256
from llmfeat.encode.manifest import Part
from llmfeat.errors import StoreError

__all__ = ["STATE_ID", "ViewState", "parts_digest"]

STATE_ID = "__llmfeat_state__"
"""The id under which it stands. A view that is dropped, or a server that is emptied, loses the two together."""

_SCHEMA = 1


@dataclass(frozen=True)
class ViewState:
    """What is written last, when all that it speaks of was read back.

    Attributes
    ----------
    bound_us : int
        No row of the view has a later time; raised before a run writes its first row.
    n_parts : int
        How many parts of the table are in the store.
    digest : str
        Of these parts.
    revision : int
        How many runs have ended.
    finished_us : int
        When the last one did.
    """

    bound_us: int = 0
    n_parts: int = 0
    digest: str = ""
    revision: int = 0
    finished_us: int = 0

    @classmethod
    def of_bytes(cls, data: bytes, *, what: str) -> Self:
        """Return the record that a store holds.

        Raises
        ------
        StoreError
            When it is of another version, or something else.
        """
        try:
            body = json.loads(data)
            schema = body.pop("schema")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{what} holds no record of llmfeat under {STATE_ID!r}: apply the view anew") from error
        if schema != _SCHEMA:
            raise StoreError(
                f"{what} was written by another version (schema {schema!r}, not {_SCHEMA}): upgrade llmfeat"
            )
        return cls(**body)

    def to_bytes(self) -> bytes:
        """Return what the store keeps."""
        return canonical_json({"schema": _SCHEMA, **dataclasses.asdict(self)}).encode()

    def holds(self, parts: Sequence[Part]) -> bool:
        """Return whether the first of `parts` are those that are in the store."""
        return 0 < self.n_parts <= len(parts) and parts_digest(parts[: self.n_parts]) == self.digest


def parts_digest(parts: Sequence[Part]) -> str:
    """Return what identifies parts in their order."""
    return text_sha256(" ".join(part.sha256 for part in parts))
