"""The LLM scorer: how fast, how near to the naive way, and how good on TALLRec's movie protocol, beside its controls.

``--full`` also adapts the model to the whole train split: about an hour an epoch on 2 cores. ``--parts`` runs some
parts alone, and keeps what the file holds of the others.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _report import parser, save, system, write
from _scorer_quality import measure_controls, measure_full, measure_shots, measure_stacked, measure_zero_shot
from _scorer_speed import measure_speed
from _tallrec import load_tallrec
from check import render_results

from llmfeat.artifact import ModelArtifact
from llmfeat.export import cached_artifact

FIGURES = ("prefix_speedup", "vs_torch", "auc_zero_shot", "auc_256", "auc_full", "stacked_diff")
_MODEL = "bundled:smollm2"
_OWN = (20, 12)
_PARTS = ("speed", "zero_shot", "shots", "stacked", "controls", "full")


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__)
    arguments.add_argument("--parts", nargs="+", choices=_PARTS, help="run these alone")
    arguments.add_argument("--artifact", type=Path, help="another scorer than SmolLM2-135M-Instruct")
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    folder = options.data or Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    parts = options.parts or [part for part in _PARTS if part != "full" or options.full]
    if not (folder / "ml100k_plots").is_dir() and set(parts) != {"speed"}:
        print(f"{folder} holds no ml100k_plots")
        raise SystemExit(2)
    known = json.loads(options.json.read_text())["rows"] if options.parts and options.json.is_file() else []
    rows = [row for row in known if row["part"] not in parts]
    artifact = ModelArtifact.load(options.artifact) if options.artifact else cached_artifact(_MODEL, kind="scorer")
    for row in _measured(artifact, folder / "ml100k_plots", parts, quick=options.quick):
        rows.append(row)
        print({key: value for key, value in row.items() if not isinstance(value, dict)}, flush=True)
        save(options.json, figures_of(rows), rows)  # what was measured stays, whatever comes
    rows.sort(key=lambda row: _PARTS.index(row["part"]))
    write(options.json, figures_of(rows), rows)
    if not options.quick and not options.parts:
        render_results(options.json)


def _measured(artifact: ModelArtifact, data: Path, parts: list[str], *, quick: bool) -> Iterator[dict[str, Any]]:
    if "speed" in parts:
        rounds = 1 if quick else 5
        for n_own in (60, 50) if quick else _OWN:  # a small vocabulary needs more tokens for the same words
            yield measure_speed(
                artifact,
                n_candidates=3 if quick else 20,
                n_prefix=240 if quick else 180,
                n_own=n_own,
                n_rounds=rounds,
            )
    if set(parts) == {"speed"}:
        return
    tallrec = load_tallrec(data, n_rows=1000 if quick else 10_000)
    ways: dict[str, Callable[..., dict[str, Any]]] = {
        "zero_shot": measure_zero_shot,
        "shots": measure_shots,
        "stacked": measure_stacked,
        "controls": measure_controls,
        "full": measure_full,
    }
    for name, measured in ways.items():
        if name in parts:
            yield {"part": name, **measured(artifact, tallrec, quick=quick)}


def figures_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the figures of the parts that were run."""
    found: dict[str, float] = {}
    for row in rows:
        if row["part"] == "speed" and "prefix_speedup" in found:
            continue  # the first is the one that is spoken of
        found |= {name: row[name] for name in FIGURES if name in row}
    return found


def table(results: dict[str, Any]) -> str:
    """Return the table of the page."""
    rows = {row["part"]: row for row in results["rows"] if row["part"] != "speed"}
    lines = ["| on TALLRec's movie protocol, 1,000 test rows | AUC |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for part in rows.values() for name, value in part.get("aucs", {}).items()]
    lines += ["", f"{system(results['machine'])}; SmolLM2-135M-Instruct."]
    return "\n".join(lines)


def speed_table(results: dict[str, Any]) -> str:
    """Return the table of speeds."""
    lines = ["| 20 candidates behind 180 tokens of a user | 20 tokens each | 12 tokens each |", "|---|---|---|"]
    by_own = {row["own_tokens"]: row["candidates_per_s"] for row in results["rows"] if row["part"] == "speed"}
    lines += [
        f"| {name} | {by_own[20][name]:.1f} candidates/s | {by_own[12][name]:.1f} candidates/s |" for name in by_own[20]
    ]
    lines += ["", f"{system(results['machine'])}."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
