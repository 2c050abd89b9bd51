"""The manifest of a vector table: which immutable parts make which generation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Self

from llmfeat._base.files import atomic_write
from llmfeat.errors import TableCorruptError, TableFingerprintError, TableNotFoundError

__all__ = ["MANIFEST_FILE", "Generation", "Manifest", "Part"]

MANIFEST_FILE = "manifest.json"
_SCHEMA = 3


@dataclass(frozen=True)
class Part:
    """An immutable parquet file, named by the hash of its content, relative to the table's folder.

    Its `numerics` is another class than its generation's only where the artifact's certificate says that they agree.
    """

    file: str
    sha256: str
    size_bytes: int
    n_rows: int
    numerics: str


@dataclass(frozen=True)
class Generation:
    """All vectors of one table fingerprint; of rows with one id, the one in the latest part counts.

    Attributes
    ----------
    fingerprint, artifact, numerics, template_sha256 : str
        The table's fingerprint, and the three that it is made of.
    dim : int
        Dimensions of a vector.
    parts : tuple of Part
        Oldest first.
    """

    fingerprint: str
    artifact: str
    numerics: str
    template_sha256: str
    dim: int
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """The one small file that says what a table holds; replaced atomically, after the parts it names.

    Attributes
    ----------
    current : str or None
        The fingerprint of the generation that was completed last.
    generations : mapping of str to Generation
        By fingerprint.
    """

    current: str | None = None
    generations: Mapping[str, Generation] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def read(cls, table: Path) -> Self:
        """Read the manifest of a table folder.

        Raises
        ------
        TableNotFoundError
            When there is none.
        TableCorruptError
            When it cannot be read, or was written by a newer version.
        """
        path = table / MANIFEST_FILE
        if not path.is_file():
            raise TableNotFoundError(f"{table} holds no {MANIFEST_FILE}: make a table with encode_table(..., out=...)")
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
            if body["schema"] != _SCHEMA:
                old = body["schema"] in range(_SCHEMA)
                what = "encode into a new folder" if old else "upgrade llmfeat"
                raise TableCorruptError(f"{path} has schema {body['schema']!r}, this version reads {_SCHEMA}: {what}")
            generations = {
                name: Generation(**{**entry, "parts": tuple(Part(**part) for part in entry["parts"])})
                for name, entry in body["generations"].items()
            }
            return cls(body["current"], generations)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise TableCorruptError(
                f"{path} is no manifest ({error}): restore it, or encode into a new folder"
            ) from error

    def write(self, table: Path) -> None:
        """Replace the manifest of a table folder."""
        entries = {name: dataclasses.asdict(entry) for name, entry in self.generations.items()}
        body = {"schema": _SCHEMA, "current": self.current, "generations": entries}
        atomic_write(table / MANIFEST_FILE, (json.dumps(body, indent=2, sort_keys=True) + "\n").encode())

    def generation(self, fingerprint: str | None = None, *, where: Path) -> Generation:
        """Return a generation, the current one by default.

        Raises
        ------
        TableFingerprintError
            When the table has none of that fingerprint.
        """
        wanted = fingerprint or self.current
        if wanted is None or wanted not in self.generations:
            raise TableFingerprintError(
                f"{where} holds the generations {[name[:12] for name in self.generations]}, "
                f"but {(wanted or 'a complete one')[:14]} was expected: encode with that model to its end, or name one"
            )
        return self.generations[wanted]

    def only(self, *fingerprints: str) -> Self:
        """Return the manifest of some of its generations."""
        return dataclasses.replace(self, generations={name: self.generations[name] for name in fingerprints})

    def with_generation(self, generation: Generation, *, complete: bool) -> Self:
        """Return the manifest with `generation` put in, or in place of the one of its fingerprint.

        Only a complete one becomes the current: a reader never sees half a catalogue in place of a whole one.
        """
        generations = {**self.generations, generation.fingerprint: generation}
        current = generation.fingerprint if complete else self.current
        return dataclasses.replace(self, current=current, generations=generations)
