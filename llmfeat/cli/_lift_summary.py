"""What a terminal shows of ``lift.json``."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["print_lift", "signed"]

_METRICS = {"click": ("auc", "user_auc", "ndcg@10"), "next-item": ("hr@10", "ndcg@10", "mrr")}
_SHOWN = ("hybrid_vs_full_minus_llm", "hybrid_vs_no_text", "llm_vs_no_text", "llm_vs_tfidf", "random_vs_no_text")
_SAID = {
    "hybrid_vs_full_minus_llm": "LLM on top of everything else",
    "hybrid_vs_no_text": "everything over no text",
    "llm_vs_no_text": "LLM over no text",
    "llm_vs_tfidf": "LLM over TF-IDF",
    "random_vs_no_text": "random vectors over no text",
    "hybrid_vs_baseline": "everything over your own score",
}


def print_lift(console: Console, lift: dict[str, Any]) -> None:
    """Print the verdict, what each comparison adds, and the arms."""
    metric = lift["primary_metric"]
    headline = lift["lift"]["hybrid_vs_full_minus_llm"]["all"][metric]
    console.print(f"\n[bold]LLM on top of everything else: {metric} {signed(headline)}[/]  (hybrid, all but LLM)")
    console.print(f"  adopt: [bold]{lift['verdict']['adopt']}[/], {escape(lift['verdict']['because'])}")
    for lag_s, found in lift["lags"].items():
        if int(lag_s) != lift["method"]["history_lag_s"]:
            said = f"the same, events {int(lag_s) / 3600:g} h late"
            console.print(f"  {said:<31} {signed(found['hybrid_vs_full_minus_llm']['all'][metric])}")
    for name in (*_SHOWN[1:], "hybrid_vs_baseline"):
        if name in lift["lift"]:
            console.print(f"  {_SAID[name]:<31} {signed(lift['lift'][name]['all'][metric])}")
    if lift["candidates"]:
        found = lift["candidates"]
        console.print(
            f"  candidates: {100 * found['recall']:.1f} % of the targets are among {found['per_query']:.0f} a query"
        )
    rows = lift["data"]["test_rows_by_slice"]
    what = "test rows" if lift["task"] == "click" else "test queries"
    tested = lift["data"]["sampled"]["test"]
    drawn = f"drawn from {tested['of']:,}, " if tested["used"] < tested["of"] else ""
    console.print(f"\nArms: {rows['all']:,} {what}, {drawn}{rows['cold_item']:,} of them of cold items, 95 % intervals")
    console.print(_arms_table(lift, _METRICS[lift["task"]]))


def _arms_table(lift: dict[str, Any], metrics: tuple[str, ...]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("arm", no_wrap=True)
    parts = {"all": "all", "cold_item": "cold"}
    for label in parts.values():
        for metric in metrics:
            table.add_column(f"{metric}\n{label}", justify="right", no_wrap=True)
    for arm, found in lift["arms"].items():
        table.add_row(arm, *(_cell(found[part], metric) for part in parts for metric in metrics))
    return table


def _cell(found: dict[str, Any], metric: str) -> str:
    low, high = found["ci95"][metric]
    if found[metric] is None or low is None or high is None:
        return "undefined" if found[metric] is None else f"{found[metric]:.4f}"
    ends = "-".join(f"{end:.3f}".removeprefix("0") for end in (low, high))
    return f"{found[metric]:.4f}\n[dim]{ends}[/]"


def signed(gain: dict[str, Any]) -> str:
    """Return a difference with its interval, for a console."""
    if gain["diff"] is None:
        return "undefined"
    low, high = gain["ci95"]
    return f"{gain['diff']:+.4f}" + ("" if low is None else f" \\[{low:+.4f}, {high:+.4f}]")
