"""``llmfeat demo``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

__all__ = ["command"]

_METRICS = ("auc", "user_auc", "ndcg@10")


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
    from llmfeat.evaluate.lift import LiftConfig
    from llmfeat.evaluate.movielens import TERMS

    console = Console(highlight=False, soft_wrap=True)
    console.print(TERMS, style="dim")
    console.print()
    started = time.perf_counter()

    def say(line: str) -> None:
        console.print(f"{line}  [dim]({time.perf_counter() - started:.0f} s)[/]")

    result = run_demo(out, feature_repo=feature_repo or out / "feature_repo", config=LiftConfig(seed=seed), say=say)
    _print_lift(console, result.lift)
    console.print(f"\n{result.json_path}  {result.report_path}")
    if not result.lift["checks"]["online_equals_offline"]:
        raise click.ClickException("what was served is not what was trained on: see `checks` in lift.json")


def _print_lift(console: Console, lift: dict[str, Any]) -> None:
    gain = lift["lift"]["hybrid_vs_full_minus_llm"]["all"]["auc"]
    console.print(f"\n[bold]LLM on top of everything else: AUC {_signed(gain)}[/]  (hybrid against all but LLM)")
    for lag_s, found in lift["lags"].items():
        when = "at once" if lag_s == "0" else f"{int(lag_s) / 3600:g} h late"
        over, placebo = found["llm_vs_no_text"]["all"]["auc"], found["random_vs_no_text"]["all"]["auc"]
        console.print(f"  events seen {when:>9}: LLM over no text {_signed(over)}, random vectors {_signed(placebo)}")
    console.print(f"  adopt: {lift['verdict']['adopt']}, {lift['verdict']['because']}")
    ranker = lift["ranker"]["llm_vs_no_text"]
    console.print("  lambdarank, LLM over no text: " + ", ".join(f"{m} {_signed(g)}" for m, g in ranker.items()))
    rows = lift["data"]["test_rows_by_slice"]
    console.print(f"\nArms: {rows['all']:,} test rows, {rows['cold_item']:,} of them of cold items, 95 % intervals")
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("arm", no_wrap=True)
    parts = {"all": "all", "cold_item": "cold"}
    for label in parts.values():
        for metric in _METRICS:
            table.add_column(f"{metric}\n{label}", justify="right", no_wrap=True)
    for arm, found in lift["arms"].items():
        table.add_row(arm, *(_cell(found[part], metric) for part in parts for metric in _METRICS))
    console.print(table)


def _cell(found: dict[str, Any], metric: str) -> str:
    if found[metric] is None:
        return "undefined"
    low, high = (f"{end:.3f}".removeprefix("0") for end in found["ci95"][metric])
    return f"{found[metric]:.4f}\n[dim]{low}-{high}[/]"


def _signed(gain: dict[str, Any]) -> str:
    low, high = gain["ci95"]
    return f"{gain['diff']:+.4f} \\[{low:+.4f}, {high:+.4f}]"
