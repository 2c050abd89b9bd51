"""``llmfeat lift``."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from llmfeat.cli._lift_summary import print_lift
from llmfeat.cli._texts import bundled_model, text_options

__all__ = ["command"]

_FILE = click.Path(exists=True, path_type=Path)
_LAGS_S = (0, 3600, 86400)


@click.command("lift")
@click.option(
    "--items", type=_FILE, required=True, help="The catalogue: parquet, csv or jsonl, or a folder of parquet."
)
@click.option(
    "--interactions", type=_FILE, required=True, help="The log, a row per event, in a file of the same kinds."
)
@text_options
@click.option(
    "--task",
    type=click.Choice(["click", "next-item"]),
    default="click",
    show_default=True,
    help="click: rows carry a label, and are ranked within a user. next-item: rows are positives, and the whole "
    "catalogue is ranked.",
)
@click.option("--label", metavar="COLUMN", help="0 or 1 of each row.")
@click.option("--rating", metavar="COLUMN", help="A rating of each row, positive from --like-threshold on.")
@click.option("--like-threshold", type=float, default=4.0, show_default=True, help="The least rating of a positive.")
@click.option("--user-id", default="user_id", show_default=True, metavar="COLUMN")
@click.option("--item-id", default="item_id", show_default=True, metavar="COLUMN", help="In both files.")
@click.option(
    "--timestamp", default="timestamp", show_default=True, metavar="COLUMN", help="Datetimes, or epochs in s, ms or us."
)
@click.option("--split-column", metavar="COLUMN", help="train, valid or test of each row.  [default: split by time]")
@click.option(
    "--test-fraction",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="The share of rows, the last by time, that is the test.",
)
@click.option("--history-column", metavar="COLUMN", help="Each row's own history, a list of item ids, oldest first.")
@click.option("--backend", default="auto", show_default=True, metavar="NAME", help="See llmfeat encode --help.")
@click.option(
    "--history-lag-s",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seconds by which events reach every feature late, in training and test alike.",
)
@click.option("--freeze-at-test-start", is_flag=True, help="What the test sees ends where it begins.")
@click.option(
    "--base-features",
    type=_FILE,
    help="Your own columns, by row_id (of the log, from 0), or by user, item and time: in every arm.",
)
@click.option(
    "--baseline-score", metavar="COLUMN", help="The score of your own ranker: an arm, and a column of every arm."
)
@click.option("--group-id", metavar="COLUMN", help="What was ranked together, such as request_id.  [default: the user]")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of rankers, controls and samples."
)
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Fit every arm so many times.")
@click.option(
    "--origins",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Test so many times, going back in time.",
)
@click.option("--examples", is_flag=True, help="Show some users' rankings. Their histories are personal data.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The folder of the results."
)
def command(
    out: Path,
    artifact: Path | None,
    backend: str,
    columns: tuple[str, ...],
    template_file: Path | None,
    history_lag_s: int,
    examples: bool,
    **options: Any,
) -> None:
    """Measure how much text features would add to your ranker, on your own data.

    \b
    llmfeat lift --items items.parquet --interactions log.parquet --text title --text description \\
      --rating rating --out out/lift
    llmfeat lift --items items.csv --interactions purchases.csv --text name --task next-item \\
      --user-id CustomerID --item-id StockCode --timestamp InvoiceDate --out out/lift

    Looks at the data and says what will hurt; encodes the texts; fits the same ranker with and without text, words in
    place of a language model, random vectors, and more; tests all of them on the last part of the data by time; and
    writes OUT/lift.json and OUT/report.html, one self-contained page. Interrupted at any moment, the next run goes on
    from there.
    """  # noqa: D301  click reads the control character
    # Hugging Face reads it at import: the bundled model comes from the package index.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from llmfeat.encode import TextEncoder
    from llmfeat.evaluate.inputs import InputSpec
    from llmfeat.evaluate.run import N_EXAMPLES, run_lift
    from llmfeat.evaluate.task import LiftConfig
    from llmfeat.text import ItemTemplate

    shared = ("task", "test_fraction", "freeze_at_test_start", "seed", "seeds", "origins")
    taken = {name: options.pop(name) for name in shared if name != "task"}
    template = None if template_file is None else ItemTemplate.from_file(template_file)
    spec = InputSpec(**options, text=columns, template=template)
    lags_s = (history_lag_s, *(lag_s for lag_s in _LAGS_S if lag_s != history_lag_s))
    config = LiftConfig(task=spec.task, lags_s=lags_s, **taken)
    console = Console(highlight=False, soft_wrap=True)
    started = time.perf_counter()

    def say(line: str) -> None:
        console.print(line, markup=False, end="")
        console.print(f"  [dim]({time.perf_counter() - started:.0f} s)[/]")

    encoder = TextEncoder(artifact or bundled_model(), backend=backend, cache=True)
    done = run_lift(
        spec,
        config,
        out=out,
        encoder=encoder,
        n_examples=N_EXAMPLES if examples else 0,
        command=shlex.join(["llmfeat", *sys.argv[1:]]),
        say=say,
    )
    print_lift(console, done.lift)
    console.print(f"\n{done.json_path}  {done.report_path}", markup=False)
    if not done.lift["checks"]["online_equals_offline"]:
        raise click.ClickException("a request alone is not what it is in a batch: see `checks` in lift.json")
