"""``llmfeat encode``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from llmfeat.cli._texts import bundled_model, text_options
from llmfeat.errors import InputError

__all__ = ["command"]

_KINDS = ("new", "changed", "unchanged", "deleted")
_RARE = {"missing": "without text", "failed": "failed", "remaining": "left for the next run"}


@click.command("encode")
@click.argument("items", type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The table's folder.")
@click.option("--id", "item_id", default="item_id", show_default=True, metavar="COLUMN", help="The column of ids.")
@text_options
@click.option("--valid-from", metavar="COLUMN", help="Since when a text is known.  [default: 1970, with a note]")
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="auto, onnxruntime-cpu, openvino-bf16, openvino-f32, onnxruntime-cuda or onnxruntime-tensorrt.",
)
@click.option("--threads", type=click.IntRange(min=1), help="Of the backend.  [default: one per core]")
@click.option("--batch-tokens", type=click.IntRange(min=1), help="Padded tokens per batch.  [default: the backend's]")
@click.option("--no-cache", is_flag=True, help="Neither read nor fill the user's cache of vectors.")
@click.option("--no-delete", is_flag=True, help="Keep items that ITEMS lacks: to add a few.")
@click.option("--max-texts", type=click.IntRange(min=1), help="Encode so many texts at most; run again to go on.")
@click.option(
    "--share",
    is_flag=True,
    help="Go on with what another backend wrote, where the artifact's certificate says that the two agree.",
)
@click.option("--plan", is_flag=True, help="Count texts, tokens and minutes, and write nothing.")
@click.option(
    "--prune",
    is_flag=True,
    help="At the end, when all is encoded, remove generations of other models, backends or templates.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def command(
    items: Path,
    out: Path,
    columns: tuple[str, ...],
    template_file: Path | None,
    artifact: Path | None,
    plan: bool,
    prune: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Encode the texts of ITEMS into the vector table OUT; only what is new or changed.

    ITEMS is a parquet, csv or jsonl file (.gz too), or a folder of parquet files; it may be larger than memory.

    \b
    llmfeat encode items.parquet --id item_id --text title --text description --artifact artifacts/bge --out vectors
    llmfeat encode items.csv --template item.toml --out vectors --plan

    Killed at any moment, the table is whole, and the next run goes on from there. Another model, backend or template
    begins a generation beside the old one, which stays readable until --prune.
    """  # noqa: D301  click reads the control character
    from llmfeat.encode import TextEncoder, encode_table, plan_table, prune_table

    if plan and prune:
        raise click.UsageError("--plan writes nothing, so that there is nothing to --prune: leave out one of them.")
    template = _template(columns, template_file)
    encoder = TextEncoder(
        artifact or bundled_model(),
        backend=options.pop("backend"),
        threads=options.pop("threads"),
        batch_tokens=options.pop("batch_tokens"),
        cache=not options.pop("no_cache"),
    )
    run = plan_table if plan else encode_table
    delete = not options.pop("no_delete")
    done = run(items, template=template, encoder=encoder, out=out, delete=delete, progress=True, **options)
    body = dataclasses.asdict(done)
    if prune and body["current"]:
        body["pruned"] = dataclasses.asdict(prune_table(out))
    if as_json:
        click.echo(json.dumps(body))
        return
    for line in _plan_lines(body) if plan else _summary_lines(body, out, encoder.numerics):
        click.echo(line)


def _template(columns: tuple[str, ...], path: Path | None) -> Any:
    from llmfeat.text import ItemTemplate

    if bool(columns) == bool(path):
        raise InputError(
            f"{'both --text and --template' if path else 'neither --text nor --template'} came, but one of them was "
            "expected: --text title --text description, or --template FILE"
        )
    return ItemTemplate.of_columns(columns) if path is None else ItemTemplate.from_file(path)


def _summary_lines(body: dict[str, Any], out: Path, numerics: str) -> list[str]:
    counts = ", ".join(f"{body[name]:,} {name}" for name in _KINDS)
    rare = "".join(f", {body[name]:,} {said}" for name, said in _RARE.items() if body[name])
    lines = [
        f"{out}: {counts}{rare}",
        f"{body['tokens']:,} tokens in {body['seconds']:.1f} s with {numerics}, {body['texts_per_s']:,.0f} texts/s, "
        f"{body['cached']:,} texts from the cache",
    ]
    if "pruned" in body:
        gone = body["pruned"]
        lines.append(f"pruned {gone['generations']} generations, {gone['size_bytes'] / 1e6:,.1f} MB")
        lines += [f"kept {name[:12]}, which {', '.join(by)} serves" for name, by in gone["held"].items()]
    return lines


def _plan_lines(body: dict[str, Any]) -> list[str]:
    counts = ", ".join(f"{body[name]:,} {name}" for name in (*_KINDS, "missing", "failed"))
    return [
        counts,
        f"{body['texts']:,} texts of {body['tokens']:,} tokens, about {body['minutes']:,.1f} minutes with "
        f"{body['numerics']}; nothing was written",
    ]
