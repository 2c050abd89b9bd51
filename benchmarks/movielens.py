"""What LLM features add on MovieLens-100K, and the README's table of it.

The data come from the package index, as in ``llmfeat demo``; without ``--quick``, and into benchmarks/results, the
README's table is rendered anew.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from _report import arguments, system, write
from check import render_results

_ARMS = ("popularity", "no_text", "random", "collab", "tfidf", "llm", "full_minus_llm", "hybrid")


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from llmfeat.evaluate.demo import run_demo
    from llmfeat.evaluate.task import LiftConfig

    config = LiftConfig(lags_s=(0,)) if options.quick else LiftConfig()
    with tempfile.TemporaryDirectory() as folder:
        done = run_demo(Path(folder), feature_repo=Path(folder) / "repo", config=config, say=print)
    first = done.lift
    gain = first["lift"]["llm_vs_no_text"]["all"]["auc"]
    figures = {
        "ml100k_no_text_auc": first["arms"]["no_text"]["all"]["auc"],
        "ml100k_llm_auc_lift": gain["diff"],
        "ml100k_llm_auc_lift_low": gain["ci95"][0],
        "ml100k_llm_auc_lift_high": gain["ci95"][1],
        "ml100k_random_auc_lift": first["lift"]["random_vs_no_text"]["all"]["auc"]["diff"],
        "ml100k_hybrid_auc_lift": first["lift"]["hybrid_vs_no_text"]["all"]["auc"]["diff"],
        "ml100k_encoder_over_all_auc_lift": first["lift"]["hybrid_vs_full_minus_llm"]["all"]["auc"]["diff"],
    }
    kept = ("arms", "lags", "runs", "ranker", "verdict", "checks")
    rows = [{"seed": first["method"]["seed"], **{key: first[key] for key in kept}}]
    write(options.json, figures, rows)
    if not options.quick:
        render_results(options.json)


def table(results: dict[str, Any]) -> str:
    """Return the README's table."""
    rows = results["rows"]
    run = rows[0]
    lines = ["| arm | AUC | over `no_text` | AUC, cold items |", "|---|---|---|---|"]
    for arm in _ARMS:
        found, name = run["arms"][arm], f"{arm}_vs_no_text"
        gain = run["lags"]["0"].get(name)
        shown = "" if gain is None else _signed(gain["all"]["auc"])
        cold = found["cold_item"]
        low, high = cold["ci95"]["auc"]
        lines.append(f"| `{arm}` | {found['all']['auc']:.4f} | {shown} | {cold['auc']:.3f} [{low:.3f}, {high:.3f}] |")
    lines += [
        "",
        "| events reach the features | LLM over `no_text` | random vectors over `no_text` | LLM over all else |",
    ]
    lines.append("|---|---|---|---|")
    for lag_s, found in run["lags"].items():
        gains = [
            found[name]["all"]["auc"] for name in ("llm_vs_no_text", "random_vs_no_text", "hybrid_vs_full_minus_llm")
        ]
        when = "at once" if lag_s == "0" else f"{int(lag_s) / 3600:g} h late"
        lines.append(f"| {when} | {' | '.join(map(_signed, gains))} |")
    ranker = ", ".join(f"{name} {_signed(gain)}" for name, gain in run["ranker"]["llm_vs_no_text"].items())
    lines += ["", f"As a lambdarank pipeline, LLM over no text: {ranker}."]
    lines += ["", f"MovieLens-100K, last 20 % by time, all-MiniLM-L6-v2; {system(results['machine'])}."]
    return "\n".join(lines)


def _signed(gain: dict[str, Any]) -> str:
    low, high = gain["ci95"]
    return f"{gain['diff']:+.4f} [{low:+.4f}, {high:+.4f}]"


if __name__ == "__main__":
    main()
