"""Loading an artifact folder: every file is there, and is the one that was exported."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from llmfeat._base.verified import verified_sha256
from llmfeat.artifact.spec import ArtifactSpec
from llmfeat.errors import ArtifactCorruptError, ArtifactNotFoundError, ArtifactPathError, LLMFeatWarning

__all__ = ["GRAPH_FILE", "SPEC_FILE", "TOKENIZER_FILE", "ModelArtifact"]

GRAPH_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
SPEC_FILE = "artifact.json"


@dataclass(frozen=True)
class ModelArtifact:
    """A verified folder that holds one exported model; made by `load`.

    Attributes
    ----------
    path : Path
        The folder.
    spec : ArtifactSpec
        Its description.
    """

    path: Path
    spec: ArtifactSpec

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load an artifact folder, checking the size of every file, and its SHA-256 when it is new or was touched.

        A digest that was found is remembered in the user's cache, for the file's size and times.

        Raises
        ------
        ArtifactNotFoundError
            When the folder, its ``artifact.json``, or a file named there does not exist.
        ArtifactCorruptError
            When a file was changed.
        ArtifactPathError
            When a path leaves the folder.
        ArtifactSchemaError
            When it was written by a newer version, or by one that is too old.
        """
        folder = Path(path)
        spec_path = folder / SPEC_FILE
        if not spec_path.is_file():
            raise ArtifactNotFoundError(
                f"{folder} holds no {SPEC_FILE}: make one with `llmfeat export MODEL --out DIR`"
            )
        spec = ArtifactSpec.from_json(spec_path.read_text(encoding="utf-8", errors="replace"), where=str(spec_path))
        for name in {GRAPH_FILE, TOKENIZER_FILE} - set(spec.files):
            raise ArtifactCorruptError(f"{spec_path} does not list {name}: export the model again")
        for name in spec.files:
            _check_file(folder, name, spec)
        if spec.failures:
            warnings.warn(f"{folder} was written by force: {'; '.join(spec.failures)}", LLMFeatWarning, stacklevel=2)
        return cls(folder, spec)

    @property
    def fingerprint(self) -> str:
        """See `ArtifactSpec.fingerprint`."""
        return self.spec.fingerprint

    @property
    def graph_path(self) -> Path:
        """The ONNX file."""
        return self.path / GRAPH_FILE

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer's file."""
        return self.path / TOKENIZER_FILE


def _check_file(folder: Path, name: str, spec: ArtifactSpec) -> None:
    path, record = folder / name, spec.files[name]
    relative = PurePosixPath(name)
    if (
        "\0" in name
        or relative.is_absolute()
        or ".." in relative.parts
        or not path.resolve().is_relative_to(folder.resolve())
    ):
        raise ArtifactPathError(f"{folder / SPEC_FILE} names {name!r}, which leaves the folder: export again")
    if not path.is_file():
        raise ArtifactNotFoundError(f"{path} is missing: copy the whole folder, or export the model again")
    size_bytes = path.stat().st_size
    if size_bytes != record.size_bytes:
        raise ArtifactCorruptError(
            f"{path} has {size_bytes} bytes, {record.size_bytes} were exported: copy it again, or export again"
        )
    if verified_sha256(path) != record.sha256:
        raise ArtifactCorruptError(f"{path} is not the file that was exported: copy it again, or export again")
