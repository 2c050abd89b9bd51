"""From an embedding model to an artifact folder."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmfeat._base.files import atomic_folder, cache_dir, canonical_json, file_sha256, source_sha256, text_sha256
from llmfeat._base.optional import import_optional
from llmfeat.artifact import ArtifactSpec, FileRecord, ModelArtifact
from llmfeat.artifact.model import GRAPH_FILE, SPEC_FILE, TOKENIZER_FILE
from llmfeat.errors import ArtifactCorruptError, ArtifactNotFoundError, ExportError
from llmfeat.export.graph import graft_pooling, graph_sha256
from llmfeat.export.parity import check_parity
from llmfeat.export.sources import ModelSource, resolve_source

if TYPE_CHECKING:
    import onnx

__all__ = ["cached_artifact", "export_encoder"]

_OPSET = 18  # the least that optimum recommends for BERT, and what the pooling graft is written for
_LIBRARIES = ("torch", "transformers", "sentence-transformers", "optimum", "optimum-onnx", "onnx", "onnxruntime")


def export_encoder(model: str | Path, out: str | Path) -> ModelArtifact:
    """Export an embedding model to an artifact folder, check it against torch, and return it loaded.

    Pooling and normalization are a part of the graph, whose one output ``embedding`` is float32 of shape
    ``(n_texts, dim)``. What stood at `out` is replaced when, and only when, all went well.

    Parameters
    ----------
    model : str or Path
        ``"bundled:minilm"``, or a local folder of a sentence-transformers or BERT-like transformers model.
    out : str or Path
        The folder to make.

    Raises
    ------
    ExportError
        When the model cannot be exported.
    ParityError
        When the graph does not give the model's vectors.
    MissingDependencyError
        Without the extra ``export``.
    """
    source = resolve_source(model)
    pooling, normalize = source.pooling()
    max_tokens = source.max_tokens()
    with atomic_folder(Path(out)) as staging:
        graph = _trace(source)
        dim = int(source.config()["hidden_size"])
        graft_pooling(graph, pooling=pooling, normalize=normalize, dim=dim)
        (staging / GRAPH_FILE).write_bytes(graph.SerializeToString())
        _save_tokenizer(source, staging / TOKENIZER_FILE)
        parity = check_parity(staging / GRAPH_FILE, staging / TOKENIZER_FILE, source, max_tokens=max_tokens)
        files = {name: _record(staging / name) for name in (GRAPH_FILE, TOKENIZER_FILE)}
        spec = ArtifactSpec(
            kind="encoder",
            source=source.name,
            revision=source.revision(),
            architecture=_architecture(source),
            licence=source.licence,
            pooling=pooling,
            normalize=normalize,
            max_tokens=max_tokens,
            dim=dim,
            precision="fp32",
            opset=_OPSET,
            graph_sha256=graph_sha256(graph),
            tokenizer_sha256=files[TOKENIZER_FILE].sha256,
            files=files,
            versions={name: importlib.metadata.version(name) for name in _LIBRARIES},
            parity=parity,
        )
        (staging / SPEC_FILE).write_text(spec.to_json(), encoding="utf-8")
    return ModelArtifact.load(out)


def cached_artifact(model: str) -> ModelArtifact:
    """Return the artifact of a bundled model from the user's cache, exported the first time.

    A model, an exporter or a version of a library that changed is another entry of the cache.
    """
    versions = [importlib.metadata.version(name) for name in _LIBRARIES]
    key = text_sha256(canonical_json([model, source_sha256(sys.modules["llmfeat.export"]), versions]))
    folder = cache_dir("artifacts") / f"{model.rpartition(':')[2]}-{key[:16]}"
    try:
        return ModelArtifact.load(folder)
    except (ArtifactNotFoundError, ArtifactCorruptError):
        return export_encoder(model, folder)


def _trace(source: ModelSource) -> onnx.ModelProto:
    """Return the transformer's graph, traced by optimum."""
    # Hugging Face reads this once, at import; a local folder needs no hub, and a machine without one waits for it.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    exporter = import_optional("optimum.exporters.onnx", purpose="exporting a model")
    load = import_optional("onnx", purpose="exporting a model").load
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The tracer warns of constants that depend on the configuration alone; the parity check is what decides.
        warnings.simplefilter("ignore")
        _quiet("optimum", "transformers")
        try:
            exporter.main_export(
                str(source.path),
                folder,
                task="feature-extraction",
                library_name="transformers",
                opset=_OPSET,
                do_validation=False,
                local_files_only=True,
            )
        except (ValueError, KeyError, RuntimeError, OSError) as error:
            raise ExportError(f"optimum could not export {source.name} ({_architecture(source)}): {error}") from error
        graph: onnx.ModelProto = load(str(Path(folder) / "model.onnx"))
    return graph


def _save_tokenizer(source: ModelSource, path: Path) -> None:
    transformers = import_optional("transformers", purpose="exporting a model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(source.path), local_files_only=True)
    if not tokenizer.is_fast:
        raise ExportError(f"{source.name} has no fast tokenizer: its words cannot be split without transformers")
    backend: Any = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    path.write_text(backend.to_str(), encoding="utf-8")


def _architecture(source: ModelSource) -> str:
    return str((source.config().get("architectures") or ["unknown"])[0])


def _record(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, file_sha256(path))


def _quiet(*loggers: str) -> None:
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
