"""From a model to a verified artifact folder."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmfeat._base.files import atomic_folder, cache_dir, canonical_json, file_sha256, source_sha256, text_sha256
from llmfeat.artifact import ArtifactSpec, FileRecord, ModelArtifact, TextTokenizer
from llmfeat.artifact.model import GRAPH_FILE, SPEC_FILE, TOKENIZER_FILE
from llmfeat.artifact.spec import KINDS
from llmfeat.errors import ArtifactError, ExportError, InputError, LLMFeatWarning, ParityError
from llmfeat.export.fetch import is_non_commercial, open_source
from llmfeat.export.head import EmbeddingHead, read_head, read_prompts
from llmfeat.export.job import ExportJob, Made, Say
from llmfeat.export.precision import PRECISIONS
from llmfeat.export.sample import sample_texts
from llmfeat.export.source import ModelSource
from llmfeat.export.storage import data_file
from llmfeat.export.tokenizer import pad_token_id, save_tokenizer, truncation_side
from llmfeat.export.trace import OPSET

__all__ = ["cached_artifact", "export_model", "export_source"]

_LIBRARIES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "optimum",
    "optimum-onnx",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
)
_N_CALIBRATION, _N_LONG, _CALIBRATION_SEED = 200, 8, 1


def export_model(
    model: str | Path,
    out: str | Path,
    *,
    kind: str = "encoder",
    pooling: str = "auto",
    precision: str = "fp32",
    max_tokens: int | None = None,
    dim: int | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    calibration_texts: Sequence[str] | None = None,
    force: bool = False,
    say: Say | None = None,
    progress: bool = False,
) -> ModelArtifact:
    """Export a model to an artifact folder, check it against torch, and return it loaded.

    An encoder's pooling, dense layers, truncation and normalization are a part of the graph, whose one output
    ``embedding`` is float32 of shape ``(n_texts, dim)``. A scorer has a key/value cache, and its output ``logits`` is
    float32 of shape ``(batch, vocabulary)``, of each row's last token. What stood at `out` is replaced when, and only
    when, all went well.

    Parameters
    ----------
    model : str or Path
        ``"bundled:minilm"``, ``"bundled:smollm2"``, a local folder of sentence-transformers or transformers, a GGUF
        file, or a Hugging Face id (``"owner/name"``, ``"owner/name@revision"``).
    out : str or Path
        The folder to make.
    kind : {"encoder", "scorer"}, default="encoder"
        Texts to vectors, or a causal language model that scores.
    pooling : {"auto", "mean", "cls", "last"}, default="auto"
        As the model's ``modules.json`` says; without one the mean, or the last token for decoders.
    precision : {"fp32", "fp16", "int8"}, default="fp32"
        int8 has fixed scales, taken from `calibration_texts`.
    max_tokens : int, optional
        Where texts are cut, special tokens included; the model's own for encoders, 512 for decoders.
    dim : int, optional
        Keep so many leading dimensions, for models that were trained for it (Matryoshka).
    query_prompt, document_prompt : str, optional
        What stands before each text; as the model says by default.
    calibration_texts : sequence of str, optional
        Texts like those to be encoded; some hundred are enough. By default a sample that ships with the package.
    force : bool, default=False
        Write an artifact that missed a floor; its certificate and a warning say so.
    say : callable, optional
        Is called with a line when a stage is done.
    progress : bool, default=False
        Whether to show what is under way on standard error, when that is a terminal.

    Returns
    -------
    ModelArtifact
        The folder, verified.

    Raises
    ------
    InputError
        When a parameter makes no sense, or `out` holds something else than an artifact.
    ExportError
        When the model cannot be exported.
    ParityError
        When the graph does not give what the model gives.
    MissingDependencyError
        Without the extra ``export``.
    """
    _check_parameters(kind, precision, pooling=pooling, dim=dim, prompts=(query_prompt, document_prompt))
    out = Path(out)
    _check_place(out)
    with open_source(model) as source:
        return export_source(
            source,
            out,
            kind=kind,
            pooling=pooling,
            precision=precision,
            max_tokens=max_tokens,
            dim=dim,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            calibration_texts=calibration_texts,
            force=force,
            say=say,
            progress=progress,
        )


def export_source(
    source: ModelSource,
    out: Path,
    *,
    kind: str = "encoder",
    pooling: str = "auto",
    precision: str = "fp32",
    max_tokens: int | None = None,
    dim: int | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    calibration_texts: Sequence[str] | None = None,
    force: bool = False,
    say: Say | None = None,
    progress: bool = False,
) -> ModelArtifact:
    """Export a model that is on this machine; see `export_model`."""
    _check_place(out)
    say = say or (lambda line: None)
    if is_non_commercial(source.licence):
        warnings.warn(
            f"{source.name} is under {source.licence!r}, which forbids commercial use: ask its makers before you "
            "put it into production",
            LLMFeatWarning,
            stacklevel=3,
        )
    # All that can be refused for its configuration is refused before anything is computed.
    cut = source.max_tokens(max_tokens)
    head = _head(source, kind, pooling=pooling, dim=dim)
    prompts = read_prompts(source, query=query_prompt, document=document_prompt) if head else ("", "")
    say(f"{source.name}: {source.architecture}, licence {source.licence}{_pooling_words(head)}, cut at {cut} tokens")
    with atomic_folder(out) as staging:
        save_tokenizer(source, staging / TOKENIZER_FILE)
        tokenizer = TextTokenizer(
            staging / TOKENIZER_FILE, max_tokens=cut, pad_id=pad_token_id(source), side=truncation_side(source)
        )
        texts = _calibration_texts(calibration_texts)
        job = ExportJob(source, head, prompts, precision, tokenizer, texts, say, progress)
        made = job.run(staging / GRAPH_FILE)
        if made.parity["failures"] and not force:
            raise ParityError(_failure_message(source, precision, made.parity))
        files = {path.name: _record(path) for path in (*made.files, staging / TOKENIZER_FILE)}
        spec = ArtifactSpec(
            kind=kind,
            source=source.name,
            revision=source.revision,
            architecture=source.architecture,
            licence=source.licence,
            pooling=head.pooling if head else None,
            normalize=head.normalize if head else False,
            include_prompt=head.include_prompt if head else True,
            query_prompt=prompts[0],
            document_prompt=prompts[1],
            max_tokens=cut,
            truncation_side=tokenizer.side,
            pad_token_id=tokenizer.pad_id,
            dim=head.dim if head else int(source.config.vocab_size),
            precision=precision,
            opset=OPSET,
            chat_template=source.tokenizer.chat_template if kind == "scorer" else None,
            special_tokens=_special_tokens(source),
            graph_sha256=made.sha256,
            tokenizer_sha256=files[TOKENIZER_FILE].sha256,
            files=files,
            fusions=made.fusions.to_dict(),
            calibration=_calibration(texts, made) if precision == "int8" else {},
            versions=_versions(),
            parity=made.parity,
        )
        (staging / SPEC_FILE).write_text(spec.to_json(), encoding="utf-8")
    return ModelArtifact.load(out)


def cached_artifact(model: str, *, kind: str = "encoder") -> ModelArtifact:
    """Return the artifact of a bundled model from the user's cache, exported the first time.

    A model, an exporter or a version of a library that changed is another entry of the cache.
    """
    key = text_sha256(canonical_json([model, source_sha256(sys.modules["llmfeat.export"]), _versions()]))
    folder = cache_dir("artifacts") / f"{model.rpartition(':')[2]}-{kind}-{key[:16]}"
    try:
        return ModelArtifact.load(folder)
    except ArtifactError:
        return export_model(model, folder, kind=kind)


def _check_parameters(
    kind: str, precision: str, *, pooling: str, dim: int | None, prompts: tuple[str | None, str | None]
) -> None:
    if kind not in KINDS:
        raise InputError(f"kind={kind!r}, but one of {list(KINDS)} was expected")
    if "dynamic" in precision:
        raise InputError(
            f"precision={precision!r} is refused: its scales are taken over the whole batch, so that a text's vector "
            "depends on its neighbours (all-MiniLM-L6-v2: cosine 0.987 between a text alone and among 64), and a "
            "stored vector would not be the one that is served. Use 'int8', whose scales are fixed by calibration"
        )
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision!r}, but one of {list(PRECISIONS)} was expected")
    if kind == "scorer" and (pooling != "auto" or dim is not None or prompts != (None, None)):
        raise InputError("pooling, dim and prompts are an encoder's: leave them out for kind='scorer'")


def _check_place(out: Path) -> None:
    """Refuse a place where something else than an artifact is: exporting replaces the whole folder."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, but a folder was expected: pass a new one")
    known = {GRAPH_FILE, data_file(Path(GRAPH_FILE)).name, TOKENIZER_FILE, SPEC_FILE}
    others = sorted(entry.name for entry in out.iterdir() if entry.name not in known) if out.exists() else []
    if others:
        raise InputError(
            f"{out} holds {others[0]!r}{f' and {len(others) - 1} more' * (len(others) > 1)}, which an export would "
            "remove with the folder: pass a new folder, or that of an artifact"
        )


def _pooling_words(head: EmbeddingHead | None) -> str:
    if head is None:
        return ""
    return f", pooling {head.pooling}{'' if head.stated else ' (the model states none)'}"


def _head(source: ModelSource, kind: str, *, pooling: str, dim: int | None) -> EmbeddingHead | None:
    if kind == "encoder":
        return read_head(source, pooling=pooling, dim=dim)
    if not source.is_decoder:
        raise ExportError(
            f"{source.name} ({source.architecture}) is no causal language model: it can be exported with kind='encoder'"
        )
    return None


def _calibration_texts(given: Sequence[str] | None) -> list[str]:
    if given is not None:
        if isinstance(given, str) or not all(isinstance(text, str) for text in given) or not len(given):
            raise InputError("calibration_texts is no sequence of texts: pass a list of some hundred str")
        return list(given)
    texts = sample_texts(_N_CALIBRATION, seed=_CALIBRATION_SEED)
    # Ranges grow with the length of a text, so some are as long as a model takes; and a missing text is empty.
    long = [" ".join(texts[at::_N_LONG][: 2**at]) for at in range(_N_LONG)]
    return [*texts, *long, ""]


def _calibration(texts: list[str], made: Made) -> dict[str, Any]:
    digest = text_sha256(json.dumps(texts))
    return {"n_texts": len(texts), "texts_sha256": digest, "kept_float32": made.kept_float32}


def _special_tokens(source: ModelSource) -> dict[str, str]:
    found = source.tokenizer.special_tokens_map
    return {role: str(token) for role, token in sorted(found.items()) if not isinstance(token, list)}


def _failure_message(source: ModelSource, precision: str, parity: dict[str, Any]) -> str:
    worst = "; ".join(f"{entry['text']}: {entry['value']:.6f}" for entry in parity["worst"])
    advice = {
        "fp32": "its export cannot be trusted, please report this model",
        "fp16": "use precision='fp32'",
        "int8": "calibrate on texts of your own (calibration_texts, --calibration), or use precision='fp32'",
    }[precision]
    return (
        f"{source.name} in {precision}: {'; '.join(parity['failures'])}. Nothing was written. The texts that differ "
        f"most: {worst}. What to do: {advice}; force=True (--force) writes it all the same"
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        # Of onnxruntime and onnxruntime-gpu there is one.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _record(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, file_sha256(path))
