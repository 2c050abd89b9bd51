"""``llmfeat export``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from llmfeat.artifact import ModelArtifact
from llmfeat.errors import EmptyInputError, InputError

__all__ = ["command", "read_texts"]


@click.command("export")
@click.argument("model")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The folder to make; what stood there is replaced when all went well.",
)
@click.option(
    "--kind",
    type=click.Choice(["encoder", "scorer"]),
    default="encoder",
    show_default=True,
    help="Texts to vectors, or a causal language model that scores, with a key/value cache.",
)
@click.option(
    "--pooling",
    type=click.Choice(["auto", "mean", "cls", "last"]),
    default="auto",
    show_default=True,
    help="auto: as the model's modules.json says; without one mean, or last for decoders.",
)
@click.option(
    "--precision",
    metavar="[fp32|fp16|int8]",
    default="fp32",
    show_default=True,
    help="int8 has fixed scales, taken from calibration texts.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    help="Where texts are cut, special tokens included.  [default: the model's own, 512 for decoders]",
)
@click.option(
    "--dim",
    type=click.IntRange(min=1),
    help="Keep so many leading dimensions, for models trained for it (Matryoshka).  [default: all]",
)
@click.option("--query-prompt", metavar="TEXT", help="What stands before a query.  [default: as the model says]")
@click.option("--document-prompt", metavar="TEXT", help="What stands before a document.  [default: as the model says]")
@click.option(
    "--calibration",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="For int8: texts like those to be encoded, one a line, or a parquet file with a column `text`."
    "  [default: a sample that ships with llmfeat]",
)
@click.option("--force", is_flag=True, help="Write an artifact that missed a floor; its certificate says so.")
def command(model: str, out: Path, calibration: Path | None, **options: Any) -> None:
    """Export MODEL to a folder that runs without torch, checked against torch.

    MODEL is a Hugging Face id (owner/name, owner/name@revision), a folder of sentence-transformers or transformers, a
    .gguf file, bundled:minilm or bundled:smollm2.

    \b
    llmfeat export BAAI/bge-small-en-v1.5 --out artifacts/bge
    llmfeat export Qwen/Qwen3-Embedding-0.6B --dim 256 --precision fp16 --out artifacts/qwen3
    llmfeat export bundled:smollm2 --kind scorer --out artifacts/scorer

    An encoder's pooling, dense layers, truncation and normalization become a part of the graph; a scorer gives the
    logits of the last token only. The comparison with the original is stored beside it: see `llmfeat inspect`.
    """  # noqa: D301  click reads the control character
    from llmfeat.export import export_model

    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    started = time.perf_counter()
    texts = None if calibration is None else read_texts(calibration)

    def say(line: str) -> None:
        errors.print(f"{escape(line)}  [dim]({time.perf_counter() - started:.0f} s)[/]")

    artifact = export_model(model, out, calibration_texts=texts, say=say, progress=True, **options)
    if artifact.spec.kind == "encoder":
        artifact = _compare_backends(artifact, say)
    spec = artifact.spec
    click.echo(
        f"{out}: {spec.kind}, {spec.dim:,} {'dimensions' if spec.kind == 'encoder' else 'tokens in the vocabulary'}, "
        f"{spec.precision}, {spec.size_bytes / 1e6:,.1f} MB, fingerprint {artifact.fingerprint[:12]}"
    )


def _compare_backends(artifact: ModelArtifact, say: Callable[[str], None]) -> ModelArtifact:
    from llmfeat.encode import certify_backend
    from llmfeat.encode.agreement import here

    for name in here():
        try:
            artifact, found = certify_backend(artifact, name, progress=True)
            say(f"compared    {name}: cosine at least {found['cosine_min']:.6f} to onnxruntime-cpu")
        except RuntimeError as error:  # ours, or a runtime's own: the artifact is whole without it
            say(f"compared    {error}")
    return artifact


def read_texts(path: Path) -> list[str]:
    """Return the texts of a file: the column ``text`` of a parquet file, else a text a line, blank ones left out."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        from llmfeat._base.frames import column

        texts = column(pq.read_table(path), "text", what=str(path)).to_pylist()
    else:
        try:
            texts = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no UTF-8 text ({error}): convert it, or pass a parquet file") from error
    kept = [text for text in texts if isinstance(text, str) and text.strip()]
    if not kept:
        raise EmptyInputError(f"{path} holds no text: put some hundred there, one a line")
    return kept
