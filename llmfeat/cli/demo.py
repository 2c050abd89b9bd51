"""``llmfeat demo``."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click
from rich.console import Console

from llmfeat.cli._lift_summary import print_lift, signed

__all__ = ["command"]


@click.command("demo")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out/demo"),
    show_default=True,
    help="Where lift.json and report.html go.",
)
@click.option(
    "--feature-repo",
    type=click.Path(file_okay=False, path_type=Path),
    help="The Feast repository to apply and to write into, made if need be.  [default: feature_repo below --out]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of rankers and controls.")
def command(out: Path, feature_repo: Path | None, seed: int) -> None:
    """Walk the whole road on MovieLens-100K, and say what LLM features add.

    Exports all-MiniLM-L6-v2 to ONNX, encodes the films, writes the vectors into Feast, builds point-in-time history
    features, trains LightGBM on the past, tests on the last 20 % by time against controls, and checks that a server
    computes the same bytes. What did not change since the last run is reused.
    """
    # Hugging Face reads it at import: everything the demo needs comes from the package index.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from llmfeat.evaluate.demo import run_demo
    from llmfeat.evaluate.movielens import TERMS
    from llmfeat.evaluate.task import LiftConfig

    console = Console(highlight=False, soft_wrap=True)
    console.print(TERMS, style="dim")
    console.print()
    started = time.perf_counter()

    def say(line: str) -> None:
        console.print(f"{line}  [dim]({time.perf_counter() - started:.0f} s)[/]")

    result = run_demo(out, feature_repo=feature_repo or out / "feature_repo", config=LiftConfig(seed=seed), say=say)
    print_lift(console, result.lift)
    ranker = result.lift["ranker"]["llm_vs_no_text"]
    console.print(
        "lambdarank, LLM over no text: " + ", ".join(f"{name} {signed(gain)}" for name, gain in ranker.items())
    )
    console.print(f"\n{result.json_path}  {result.report_path}")
    if not result.lift["checks"]["online_equals_offline"]:
        raise click.ClickException("what was served is not what was trained on: see `checks` in lift.json")
