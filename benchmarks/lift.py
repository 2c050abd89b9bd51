"""``llmfeat lift`` on three data sets: clicks on MovieLens-100K, next items of Office Products and of a shop.

``DIR`` has the folders ``ml100k_plots``, ``amazon_office`` and ``online_retail_uci``. A run looks at the test events of
each, and adds itself to the looks that the committed results keep. Every run begins with an empty cache of fitted
arms, so that its seconds are those of a first run on a machine that has the model.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _report import ROOT, commit, parser, save, system, write
from check import render_results

from llmfeat import TextEncoder
from llmfeat._version import __version__
from llmfeat.evaluate import InputSpec, LiftConfig
from llmfeat.evaluate.run import run_lift
from llmfeat.export import cached_artifact

RESULTS = ROOT / "benchmarks" / "results" / "lift.json"
_COMPARISONS = ("hybrid_vs_full_minus_llm", "hybrid_vs_no_text", "llm_vs_no_text", "llm_vs_tfidf", "random_vs_no_text")
_SLICES = ("all", "cold_item")
_METRICS = {"click": ("auc", "user_auc", "ndcg@10"), "next-item": ("hr@10", "ndcg@10", "mrr")}
_TITLES = {
    "ml100k": "MovieLens-100K with plots, clicks (a rating of 4 stars or more), the last fifth by time",
    "office": "Amazon Office Products, next item, the test rows of its split",
    "retail": "UCI Online Retail, next item, the last fifth by time",
}
_PEERS = {"pop": "Pop", "itemknn": "ItemKNN", "ease": "EASE", "sasrec": "SASRec"}


def specs(data: Path) -> dict[str, InputSpec]:
    """Return what ``llmfeat lift`` is asked of each data set."""

    def files(folder: str) -> dict[str, Path]:
        return {name: data / folder / f"{name}.parquet" for name in ("items", "interactions")}

    return {
        "ml100k": InputSpec(**files("ml100k_plots"), text=("title", "plot"), label="label"),
        "office": InputSpec(
            **files("amazon_office"),
            text=("title", "description"),
            task="next-item",
            history_column="history_item_ids",
            split_column="split",
        ),
        "retail": InputSpec(**files("online_retail_uci"), text=("title",), task="next-item"),
    }


def main() -> None:
    """Run the benchmark."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    arguments = parser(__doc__.partition("\n")[0])
    arguments.add_argument("--artifact", type=Path, help="an exported encoder; bundled:minilm by default")
    arguments.add_argument("--only", choices=list(_TITLES), help="one data set; the others stay as they are in FILE")
    options = arguments.parse_args()
    wanted = specs(options.data or ROOT.parent / "shared" / "data")
    missing = [str(spec.items.parent) for spec in wanted.values() if not spec.items.is_file()]
    if missing:
        print(
            f"there is no {' and no '.join(missing)}: pass --data DIR with the folders of its README", file=sys.stderr
        )
        sys.exit(2)
    encoder = TextEncoder(options.artifact or cached_artifact("bundled:minilm"))
    before = json.loads(options.json.read_text())["rows"] if options.only and options.json.is_file() else []
    rows = [row for row in before if row["part"] == "lift" and row["data"] != options.only]
    for name, spec in wanted.items():
        if options.only in (None, name):
            rows.append(_measured(name, spec, encoder, quick=options.quick))
            save(options.json, figures_of(rows), rows)
    rows.append({"part": "looks", "looks": _looks()})
    write(options.json, figures_of(rows), rows)
    if not options.quick:
        render_results(options.json)


def _measured(name: str, spec: InputSpec, encoder: TextEncoder, *, quick: bool) -> dict[str, Any]:
    print(name, flush=True)
    config = LiftConfig(task=spec.task)
    if quick:
        config = dataclasses.replace(
            config, lags_s=(0,), n_resamples=50, most_train_contexts=60, most_test_queries=100, most_train_rows=600
        )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLMFEAT_CACHE_DIR"] = str(Path(folder) / "cache")
        body = run_lift(spec, config, out=Path(folder) / "out", encoder=encoder, say=print, progress=False).lift
    return {"part": "lift", "data": name, **_shown(body)}


def _shown(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of ``lift.json``: two slices, three metrics."""
    metrics = _METRICS[body["task"]]

    def arm(found: Mapping[str, Any]) -> dict[str, Any]:
        return {metric: [found[metric], *found["ci95"][metric]] for metric in metrics}

    def gains(lift: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: {part: {metric: _triple(lift[name][part][metric]) for metric in metrics} for part in _SLICES}
            for name in _COMPARISONS
        }

    return {
        "task": body["task"],
        "metric": body["primary_metric"],
        "facts": body["data"],
        "arms": {name: {part: arm(found[part]) for part in _SLICES} for name, found in body["arms"].items()},
        "lift": gains(body["lift"]),
        "lags": {lag: {part: gains(lift)[part]["all"] for part in _COMPARISONS} for lag, lift in body["lags"].items()},
        "candidates": body["candidates"],
        "importance": {arm: found["families"] for arm, found in body["importance"].items()},
        "verdict": body["verdict"],
        "checks": body["checks"],
        "cost": body["cost"],
        "backend": body["encoder"]["backend"],
    }


def _triple(gain: Mapping[str, Any]) -> list[Any]:
    return [gain["diff"], *gain["ci95"]]


def figures_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the figures by name: what the hybrid gets, and adds."""
    figures: dict[str, float] = {}
    for row in (each for each in rows if each["part"] == "lift"):
        name, metric = row["data"], row["metric"]
        for each in {metric, "hr@10"} if row["task"] == "next-item" else {metric}:
            figures[f"{name}_{each.replace('@', '')}"] = row["arms"]["hybrid"]["all"][each][0]
        for comparison in ("hybrid_vs_no_text", "hybrid_vs_full_minus_llm"):
            diff, low, high = row["lift"][comparison]["all"][metric]
            figures |= {
                f"{name}_{comparison}": diff,
                f"{name}_{comparison}_low": low,
                f"{name}_{comparison}_high": high,
            }
        for lag in (each for each in row["lags"] if each != "0"):
            gain = row["lags"][lag]["hybrid_vs_no_text"][metric][0]
            figures[f"{name}_hybrid_vs_no_text_lag_{int(lag) // 3600}h"] = gain
        if row["candidates"]:
            figures[f"{name}_candidate_recall"] = row["candidates"]["recall"]
        figures[f"{name}_total_s"] = row["cost"]["total_s"]
    return figures


def _looks() -> list[dict[str, str]]:
    """Return every look at the test events so far, this one included."""
    looks = []
    if RESULTS.is_file():
        parts = json.loads(RESULTS.read_text())["rows"]
        looks = next((part["looks"] for part in parts if part["part"] == "looks"), [])
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return [*looks, {"date": today, "version": __version__, "commit": commit(), "at": "all arms"}]


def table(results: dict[str, Any]) -> str:
    """Return the tables of the docs."""
    lines: list[str] = []
    for row in (each for each in results["rows"] if each["part"] == "lift"):
        metrics = _METRICS[row["task"]]
        lines += [f"**{_TITLES[row['data']]}.**", ""]
        heads = [*(metric.upper() for metric in metrics), f"{row['metric'].upper()}, cold items"]
        lines += [f"| arm | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
        for arm, found in row["arms"].items():
            cold = found["cold_item"][row["metric"]][0]
            values = [*(found["all"][metric][0] for metric in metrics), cold]
            lines.append(f"| `{arm}` | {' | '.join('–' if v is None else f'{v:.4f}' for v in values)} |")
        lines += ["", f"| {row['metric'].upper()}, all test rows | difference |", "|---|---|"]
        lines += [f"| `{name}` | {_signed(found['all'][row['metric']])} |" for name, found in row["lift"].items()]
        for lag, gains in row["lags"].items():
            if lag != "0":
                gain = _signed(gains["hybrid_vs_full_minus_llm"][row["metric"]])
                lines.append(f"| `hybrid_vs_full_minus_llm`, events {int(lag) / 3600:g} h late | {gain} |")
        said = f"Verdict: {row['verdict']['adopt']}. {row['facts']['test_rows']:,} test rows"
        if row["candidates"]:
            said += f", {100 * row['candidates']['recall']:.1f} % of their targets among the candidates"
        lines += ["", f"{said}; {row['cost']['total_s'] / 60:.0f} minutes in all.", ""]
    looks = next(each["looks"] for each in results["rows"] if each["part"] == "looks")
    backend = next(each["backend"] for each in results["rows"] if each["part"] == "lift")
    lines += [f"Looks at the test events with this protocol: {len(looks)}, the last on {looks[-1]['date']}."]
    lines += [f"all-MiniLM-L6-v2, {backend}; {system(results['machine'])}."]
    return "\n".join(lines)


def beside_peers(results: dict[str, Any]) -> str:
    """Return the table of Office Products beside peers on the same rows."""
    peers = json.loads((ROOT / "benchmarks" / "results" / "peers.json").read_text())
    lines = ["| on the same rows | HR@10 | NDCG@10 |", "|---|---|---|"]
    for row in (each for each in peers["rows"] if each["part"] == "peer"):
        values = " | ".join(f"{row[metric]['value']:.4f}" for metric in ("hr@10", "ndcg@10"))
        lines.append(f"| {_PEERS[row['peer']]} ({row['library']}) | {values} |")
    office = next(each for each in results["rows"] if each.get("data") == "office")
    for arm in ("no_text", "full_minus_llm", "hybrid"):
        found = office["arms"][arm]["all"]
        lines.append(f"| `{arm}` | {found['hr@10'][0]:.4f} | {found['ndcg@10'][0]:.4f} |")
    return "\n".join(lines)


def _signed(triple: list[Any]) -> str:
    diff, low, high = triple
    return f"{diff:+.4f} [{low:+.4f}, {high:+.4f}]"


if __name__ == "__main__":
    main()
