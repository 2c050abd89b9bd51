"""``llmfeat zeroshot``."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from llmfeat.cli._lift_summary import signed
from llmfeat.cli._texts import bundled_model, item_options

__all__ = ["command", "print_zeroshot"]

_FILE = click.Path(exists=True, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_SAID = {"llm_vs_cosine": "LLM over cosine", "llm_vs_popularity": "LLM over popularity"}


@click.command("zeroshot")
@click.option(
    "--items", type=_FILE, required=True, help="The catalogue: parquet, csv or jsonl, or a folder of parquet."
)
@click.option(
    "--interactions", type=_FILE, required=True, help="The log, a row per event, in a file of the same kinds."
)
@click.option(
    "--artifact",
    type=_FOLDER,
    help="The language model, exported with --kind scorer.  [default: SmolLM2-135M-Instruct, exported once into the "
    "user's cache]",
)
@item_options
@click.option("--label", metavar="COLUMN", help="0 or 1 of each row.")
@click.option("--rating", metavar="COLUMN", help="A rating of each row, positive from --like-threshold on.")
@click.option("--like-threshold", type=float, default=4.0, show_default=True, help="The least rating of a positive.")
@click.option("--user-id", default="user_id", show_default=True, metavar="COLUMN")
@click.option("--item-id", default="item_id", show_default=True, metavar="COLUMN", help="In both files.")
@click.option(
    "--timestamp", default="timestamp", show_default=True, metavar="COLUMN", help="Datetimes, or epochs in s, ms or us."
)
@click.option(
    "--encoder",
    "encoder_artifact",
    type=_FOLDER,
    help="The encoder of the arm cosine.  [default: all-MiniLM-L6-v2, exported once into the user's cache]",
)
@click.option(
    "--rows",
    "n_rows",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="How many rows are scored: test rows of whole users, or test events with their negatives.",
)
@click.option(
    "--negatives",
    "n_negatives",
    type=click.IntRange(min=1),
    default=19,
    show_default=True,
    help="Items drawn beside each event, where there is neither --label nor --rating.",
)
@click.option(
    "--max-items",
    type=click.IntRange(min=0),
    help="How many items of a user's history a prompt has, the newest.  [default: as [prompt] says, else 20]",
)
@click.option(
    "--test-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="The share of rows, the last by time, that is the test.",
)
@click.option(
    "--history-lag-s",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seconds by which events reach every arm late.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of what is drawn, and of resamples."
)
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Of the language model: auto, onnxruntime-cpu or onnxruntime-cuda.",
)
@click.option("--yes", "positive", multiple=True, metavar="WORD", help="What the model says of a like.  [default: yes]")
@click.option("--no", "negative", multiple=True, metavar="WORD", help="What it says of a dislike.  [default: no]")
@click.option("--out", type=_FOLDER, help="Where zeroshot.json goes.")
def command(
    artifact: Path | None,
    columns: tuple[str, ...],
    template_file: Path | None,
    encoder_artifact: Path | None,
    max_items: int | None,
    backend: str,
    positive: tuple[str, ...],
    negative: tuple[str, ...],
    out: Path | None,
    **options: Any,
) -> None:
    """Measure how well a language model ranks here, without any training.

    \b
    llmfeat zeroshot --items items.parquet --interactions log.parquet --text title --rating rating
    llmfeat zeroshot --items items.csv --interactions purchases.csv --text name --artifact artifacts/scorer \\
      --user-id CustomerID --item-id StockCode --timestamp InvoiceDate --rows 500 --out out/zeroshot

    Asks the model of some test rows whether the user would like the item, given what they did before, and ranks by how
    much more probable yes is than no. The same rows are ranked at random, by popularity, and by cosine to what the user
    liked. Without --label and --rating every event is a positive, beside which negatives are drawn.

    The usual prompt is the user's history, an item a line with Yes or No behind it, and the candidate. With
    --template, the file may hold a table [prompt] beside [item] for another, whose keys are those of PreferencePrompt.
    """  # noqa: D301  click reads the control character
    # Hugging Face reads it at import: the bundled models come from the package index.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from llmfeat.encode import TextEncoder
    from llmfeat.encode.lm import Answers
    from llmfeat.evaluate.inputs import InputSpec
    from llmfeat.evaluate.zeroshot import ListeningScorer, run_zeroshot, write_zeroshot
    from llmfeat.evaluate.zeroshot_rows import ZeroshotConfig
    from llmfeat.text import ItemTemplate

    taken = ("n_rows", "n_negatives", "test_fraction", "history_lag_s", "seed")
    config = ZeroshotConfig(**{name: options.pop(name) for name in taken})
    is_labelled = options["label"] is not None or options["rating"] is not None
    spec = InputSpec(
        **options,
        text=columns,
        template=None if template_file is None else ItemTemplate.from_file(template_file),
        task="click" if is_labelled else "next-item",
    )
    answers = Answers(positive or Answers().positive, negative or Answers().negative)
    console = Console(highlight=False, soft_wrap=True)
    scorer = ListeningScorer(artifact or bundled_model("scorer"), answers=answers, backend=backend, cache=True)
    body = run_zeroshot(
        spec,
        config,
        scorer=scorer,
        encoder=TextEncoder(encoder_artifact or bundled_model(), cache=True),
        prompt=_prompt(template_file, max_items, scorer),
        say=lambda line: console.print(line, markup=False),
    )
    print_zeroshot(console, body)
    if out is not None:
        console.print(f"\n{write_zeroshot(body, out)}", markup=False)


def _prompt(path: Path | None, max_items: int | None, scorer: Any) -> Any:
    """Return the prompt of a template's file, where it has one, else the usual one."""
    from llmfeat.rank.llm import usual_prompt
    from llmfeat.text import PreferencePrompt

    # `ItemTemplate.from_file` has read the file, and said what is wrong with it.
    if path is not None and "prompt" in tomllib.loads(path.read_text(encoding="utf-8")):
        prompt = PreferencePrompt.from_file(path)
    else:
        prompt = usual_prompt(scorer)
    return prompt if max_items is None else dataclasses.replace(prompt, max_items=max_items)


def print_zeroshot(console: Console, body: dict[str, Any]) -> None:
    """Print the arms, what the model adds to the controls, what it took, and what to know of it."""
    from llmfeat.evaluate.zeroshot import remarks

    counts, cost, share = body["counts"], body["cost"], body["model"]["answer_share"]
    negatives = "" if body["data"]["negatives"] == "labels" else ", negatives drawn"
    rows = f"{counts['rows']:,} test rows of {counts['users']:,} users, {counts['positives']:,} positive{negatives}"
    console.print(f"\nArms: {rows}, 95 % intervals over users")
    console.print(_arms_table(body["arms"]))
    console.print()
    for name, found in body["differences"].items():
        console.print(f"  {_SAID[name]:<20} auc {signed(found['auc'])}  user_auc {signed(found['user_auc'])}")
    rate = "" if cost["prompts_per_s"] is None else f", {cost['prompts_per_s']:,.1f} prompts/s"
    console.print(
        f"\n{cost['prompts']:,} prompts, {cost['cached']:,} of them from the cache; {cost['tokens']:,} tokens, "
        f"{cost['computed']:,} positions computed in {cost['seconds']:.1f} s{rate}; {body['model']['backend']}"
    )
    if share is not None:
        console.print(f"{share:.1%} of the probability is on the answers")
    for line in remarks(body):
        console.print(f"[yellow]note[/]  {escape(line)}")


def _arms_table(arms: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("arm", no_wrap=True)
    for metric in next(iter(arms.values())):
        table.add_column(metric, justify="right", no_wrap=True)
    for arm, found in arms.items():
        table.add_row(arm, *map(_cell, found.values()))
    return table


def _cell(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return "undefined"
    ends = found["ci95"]
    said = "" if None in ends else "\n[dim]" + "-".join(f"{end:.3f}".removeprefix("0") for end in ends) + "[/]"
    return f"{found['value']:.4f}{said}"
