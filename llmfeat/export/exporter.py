"""From a model to a verified artifact folder."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmfeat._base.files import atomic_folder, cache_dir, canonical_json, file_sha256, source_sha256, text_sha256
from llmfeat.artifact import ArtifactSpec, FileRecord, ModelArtifact
from llmfeat.artifact.model import GRAPH_FILE, SPEC_FILE, TOKENIZER_FILE
from llmfeat.artifact.spec import KINDS
from llmfeat.errors import ArtifactError, ExportError, InputError, LLMFeatWarning, ParityError
from llmfeat.export.digest import graph_sha256
from llmfeat.export.fetch import is_non_commercial, open_source
from llmfeat.export.fuse import Fusions, fuse, unfused
from llmfeat.export.graft import HIDDEN, LOGITS, graft_head, graft_last_logits, graft_positions, trim_rotary
from llmfeat.export.head import EmbeddingHead, read_head, read_prompts
from llmfeat.export.parity import certify_encoder, certify_scorer
from llmfeat.export.precision import PRECISIONS, to_fp16, to_int8
from llmfeat.export.quiet import quietly
from llmfeat.export.reference import EncoderReference, ScorerReference
from llmfeat.export.runner import GraphError, GraphRunner, graph_inputs, make_feeds
from llmfeat.export.sample import sample_texts
from llmfeat.export.source import ModelSource
from llmfeat.export.storage import data_file, save_graph
from llmfeat.export.tokenizer import TextTokenizer, pad_token_id, save_tokenizer, truncation_side
from llmfeat.export.trace import OPSET, trace

if TYPE_CHECKING:
    import onnx

__all__ = ["cached_artifact", "export_model"]

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

Say = Callable[[str], None]


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
    say = say or (lambda line: None)
    with open_source(model) as source:
        if is_non_commercial(source.licence):
            warnings.warn(
                f"{source.name} is under {source.licence!r}, which forbids commercial use: ask its makers before you "
                "put it into production",
                LLMFeatWarning,
                stacklevel=2,
            )
        # All that can be refused for its configuration is refused before anything is computed.
        cut = source.max_tokens(max_tokens)
        head = _head(source, kind, pooling=pooling, dim=dim)
        prompts = read_prompts(source, query=query_prompt, document=document_prompt) if head else ("", "")
        say(
            f"{source.name}: {source.architecture}, licence {source.licence}{_pooling_words(head)}, cut at {cut} tokens"
        )
        with atomic_folder(out) as staging:
            save_tokenizer(source, staging / TOKENIZER_FILE)
            tokenizer = TextTokenizer(
                staging / TOKENIZER_FILE, max_tokens=cut, pad_id=pad_token_id(source), side=truncation_side(source)
            )
            texts = _calibration_texts(calibration_texts)
            job = _Job(source, head, prompts, precision, tokenizer, texts, say)
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


def cached_artifact(model: str) -> ModelArtifact:
    """Return the artifact of a bundled model from the user's cache, exported the first time.

    A model, an exporter or a version of a library that changed is another entry of the cache.
    """
    key = text_sha256(canonical_json([model, source_sha256(sys.modules["llmfeat.export"]), _versions()]))
    folder = cache_dir("artifacts") / f"{model.rpartition(':')[2]}-{key[:16]}"
    try:
        return ModelArtifact.load(folder)
    except ArtifactError:
        return export_model(model, folder)


def _check_parameters(
    kind: str, precision: str, *, pooling: str, dim: int | None, prompts: tuple[str | None, str | None]
) -> None:
    if kind not in KINDS:
        raise InputError(f"kind={kind!r}, but one of {list(KINDS)} was expected")
    if "dynamic" in precision:
        raise InputError(
            f"precision={precision!r} is refused: its scales are taken over the whole batch, so that a text's vector "
            "depends on its neighbours (cosine 0.984 between batches of 1 and 64 was seen), and a stored vector would "
            "not be the one that is served. Use 'int8', whose scales are fixed by calibration"
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


@dataclass(frozen=True)
class _Made:
    """A graph on disk, and what was found out about it."""

    files: list[Path]
    sha256: str
    fusions: Fusions
    kept_float32: list[str]
    parity: dict[str, Any]


@dataclass(frozen=True)
class _Job:
    """One model in one precision: built, written and compared with torch."""

    source: ModelSource
    head: EmbeddingHead | None  # None for a scorer
    prompts: tuple[str, str]
    precision: str
    tokenizer: TextTokenizer
    calibration_texts: list[str]
    say: Say

    def run(self, path: Path) -> _Made:
        """Write the graph; where the fused one does not run or misses a floor, the one as it was traced."""
        try:
            made = self._attempt(path)
        except GraphError as error:
            why = str(error)
        else:
            why = "; ".join(made.parity["failures"])
            # int8 misses a floor by itself, whatever is fused.
            if not why or self.precision == "int8":
                return made
        self.say(f"with fusions: {why}; again without them")
        for file in (path, data_file(path)):
            file.unlink(missing_ok=True)
        return self._attempt(path, why_unfused=why)

    def _attempt(self, path: Path, *, why_unfused: str | None = None) -> _Made:
        graph, fusions, kept = self._build(why_unfused)
        digest, files = graph_sha256(graph), save_graph(graph, path)
        del graph
        parity = self._certify(path)
        self.say(_parity_line(parity))
        return _Made(files, digest, fusions, kept, parity)

    def _build(self, why_unfused: str | None) -> tuple[onnx.ModelProto, Fusions, list[str]]:
        """Return the graph: traced, fused, with its positions, in its precision, with its head.

        Beside it: what was fused, and which layers of an int8 graph stayed in float32.
        """
        source, head, tokenizer = self.source, self.head, self.tokenizer
        graph = trace(source, kind="encoder" if head else "scorer")
        if why_unfused is None:
            with quietly():
                graph, fusions = fuse(graph, source, attention=self.precision != "int8")
        else:
            fusions = unfused(graph, why_unfused)
        self.say(_fusion_line(fusions))
        kept: list[str] = []
        graft_positions(graph)
        trim_rotary(graph, n_positions=tokenizer.max_tokens if head else source.context_tokens or tokenizer.max_tokens)
        if head is None:
            graft_last_logits(graph, vocab_size=int(source.config.vocab_size))
        if self.precision == "fp16":
            graph = to_fp16(graph, keep=[HIDDEN, LOGITS])
        elif self.precision == "int8":
            inputs, prompt = graph_inputs(graph), self.prompts[1]
            feeds = [
                make_feeds(inputs, [tokenizer.ids(prompt + text)], pad_id=tokenizer.pad_id)
                for text in self.calibration_texts
            ]
            with quietly():
                graph, kept = to_int8(graph, feeds)
            self.say(f"int8, calibrated on {len(feeds)} texts; {len(kept)} layers of a wide range stay in float32")
        if head is not None:
            graft_head(graph, head, hidden_size=source.hidden_size)
        return graph, fusions, kept

    def _certify(self, graph: Path) -> dict[str, Any]:
        runner = GraphRunner(graph, pad_id=self.tokenizer.pad_id)
        if self.head is None:
            reference = ScorerReference(self.source)
            return certify_scorer(runner, self.tokenizer, reference, precision=self.precision)
        return certify_encoder(
            runner,
            self.tokenizer,
            EncoderReference(self.source, self.head, max_tokens=self.tokenizer.max_tokens),
            prompts=self.prompts,
            precision=self.precision,
            both_sides=self.source.is_decoder,
        )


def _calibration_texts(given: Sequence[str] | None) -> list[str]:
    if given is not None:
        if isinstance(given, str) or not all(isinstance(text, str) for text in given) or not len(given):
            raise InputError("calibration_texts is no sequence of texts: pass a list of some hundred str")
        return list(given)
    texts = sample_texts(_N_CALIBRATION, seed=_CALIBRATION_SEED)
    # Ranges grow with the length of a text, so some are as long as a model takes; and a missing text is empty.
    long = [" ".join(texts[at::_N_LONG][: 2**at]) for at in range(_N_LONG)]
    return [*texts, *long, ""]


def _calibration(texts: list[str], made: _Made) -> dict[str, Any]:
    digest = text_sha256(json.dumps(texts))
    return {"n_texts": len(texts), "texts_sha256": digest, "kept_float32": made.kept_float32}


def _special_tokens(source: ModelSource) -> dict[str, str]:
    found = source.tokenizer.special_tokens_map
    return {role: str(token) for role, token in sorted(found.items()) if not isinstance(token, list)}


def _fusion_line(fusions: Fusions) -> str:
    fused = ", ".join(f"{count} {name}" for name, count in fusions.fused.items()) or "nothing"
    left = f"; not fused: {', '.join(fusions.left)}" if fusions.left else ""
    return f"{fusions.nodes_before} operators became {fusions.nodes_after}: {fused}{left}"


def _parity_line(parity: dict[str, Any]) -> str:
    if "cosine_min" in parity:
        measured = f"cosine at least {parity['cosine_min']:.7f}, mean {parity['cosine_mean']:.7f}"
    else:
        measured = f"log-probabilities differ by {parity['log_prob_diff_max']:.2g} nats at most"
    equal = "the same bits" if parity["batch_invariance"]["bit_equal"] else "not the same bits"
    return (
        f"against {parity['reference']}, {parity['n_texts']} texts: {measured}, "
        f"top-10 overlap {parity['top10_overlap']:.3f}; alone and in a batch {equal}"
    )


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
