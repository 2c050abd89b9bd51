"""What an export keeps of a model, and what each precision costs: two real models, and tiny ones of four families.

The real models come from the package index; the tiny ones have random weights. ``--full`` takes SmolLM2 too, some half
an hour on two cores; with it, and into benchmarks/results, the tables in docs/artifacts.md are rendered anew.
``--quick`` takes one tiny model only. Texts per second: short catalogue texts, precisions in turn, the median of three
rounds; for scorers, prompts in batches of 16 without a shared prefix. ``--only`` measures some rows again, and keeps
the others of the file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _report import ROOT, commit, parser, save, system, write
from check import render_results

sys.path.insert(0, str(ROOT))

PRECISIONS = ("fp32", "fp16", "int8")
FAMILIES = ("bert", "modernbert", "qwen3", "xlm-roberta")
N_TIMED, N_ROUNDS, BATCH = 128, 3, 16


def main() -> None:
    """Run the benchmark."""
    understood = parser(__doc__)
    understood.add_argument("--only", action="append", metavar="MODEL/KIND/PRECISION", help="or the begin of it")
    options = understood.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    old = json.loads(options.json.read_text())["rows"] if options.only else []
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for job in _jobs(Path(folder), options):
            rows += _rows(Path(folder), *job, only=tuple(options.only or [""]))
            # After every model: a run of half an hour that breaks keeps what it measured.
            measured = _merged(old, rows) if options.only else rows
            save(options.json, _figures(measured), measured)
    write(options.json, _figures(measured), measured)
    if options.full or options.only:
        render_results(options.json)


def _figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the figures of the real models, or of a smoke run's tiny one."""
    real = [row for row in rows if not row["tiny"]] or rows
    return {
        f"{row['name']}_{row['kind']}_{row['precision']}_{figure}".replace("-", "_"): row[figure]
        for row in real
        for figure in ("distance", "top10_overlap", "texts_per_s")
    }


def _jobs(folder: Path, options: argparse.Namespace) -> list[tuple[str, str | Path, str, dict[str, Any]]]:
    """Return (name, model, kind, parameters)."""
    from tests.tiny_models import save_tiny

    if options.quick:
        return [("bert", save_tiny("bert", folder / "bert"), "encoder", {})]
    tiny = [(family, save_tiny(family, folder / family), "encoder", {}) for family in FAMILIES]
    tiny.append(("qwen3", folder / "qwen3", "scorer", {}))
    small = ("all-MiniLM-L6-v2", "bundled:minilm", "encoder", {})
    large = [
        ("SmolLM2-135M", "bundled:smollm2", "encoder", {"pooling": "mean"}),
        ("SmolLM2-135M", "bundled:smollm2", "scorer", {}),
    ]
    return [small, *(large if options.full or options.only else []), *tiny]


def _merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a file, those that were measured again in their place."""
    again = {(row["name"], row["kind"], row["precision"]): row for row in new}
    return [again.get((row["name"], row["kind"], row["precision"]), row) for row in old]


def _rows(
    folder: Path, name: str, model: str | Path, kind: str, parameters: dict[str, Any], *, only: tuple[str, ...]
) -> list[dict[str, Any]]:
    from llmfeat import export_model
    from llmfeat.errors import LLMFeatWarning

    artifacts = {}
    for precision in (one for one in PRECISIONS if f"{name}/{kind}/{one}".startswith(only)):
        out = folder / f"{name}-{kind}-{precision}"
        with warnings.catch_warnings():
            # What misses its floor is measured all the same, and the table says that it is refused.
            warnings.simplefilter("ignore", LLMFeatWarning)
            started = time.perf_counter()
            artifacts[precision] = export_model(model, out, kind=kind, precision=precision, force=True, **parameters)
            print(f"{name} {kind} {precision}: {time.perf_counter() - started:.0f} s", flush=True)
    speeds = _texts_per_s({precision: _runner(artifact) for precision, artifact in artifacts.items()})
    return [
        {
            "name": name,
            "commit": commit(),
            "tiny": not isinstance(model, str),
            "kind": kind,
            "precision": precision,
            "size_mb": artifact.spec.size_bytes / 1e6,
            # Of an encoder the least cosine, of a scorer the largest difference in nats.
            "distance": artifact.spec.parity["cosine_min" if kind == "encoder" else "log_prob_diff_max"],
            "top10_overlap": artifact.spec.parity["top10_overlap"],
            "bit_equal": artifact.spec.parity["batch_invariance"]["bit_equal"],
            "batch_distance": artifact.spec.parity["batch_invariance"]["distance_max"],
            "texts_per_s": speeds[precision],
            "failures": artifact.spec.failures,
            "fused": dict(artifact.spec.fusions["fused"]),
            "left": list(artifact.spec.fusions["left"]),
        }
        for precision, artifact in artifacts.items()
    ]


def _runner(artifact: Any) -> Callable[[], object]:
    from llmfeat import TextEncoder
    from llmfeat.artifact import TextTokenizer
    from llmfeat.export.runner import GraphRunner
    from llmfeat.export.sample import sample_texts

    texts, spec = sample_texts(N_TIMED, seed=4), artifact.spec
    if spec.kind == "encoder":
        encoder = TextEncoder(artifact)
        return lambda: encoder.encode(texts)
    tokenizer = TextTokenizer(artifact.tokenizer_path, max_tokens=spec.max_tokens, pad_id=spec.pad_token_id)
    runner = GraphRunner(artifact.graph_path, pad_id=spec.pad_token_id)
    ids = sorted((tokenizer.ids(text) for text in texts), key=len)
    return lambda: [runner.run(ids[at : at + BATCH]) for at in range(0, len(ids), BATCH)]


def _texts_per_s(runners: dict[str, Callable[[], object]]) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for run in runners.values():
        run()
    for _ in range(N_ROUNDS):
        for name, run in runners.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: N_TIMED / statistics.median(times) for name, times in seconds.items()}


def table(results: dict[str, Any]) -> str:
    """Return the table of the documentation."""
    rows = results["rows"]
    lines = [
        "| model | kind | precision | MB | to the model in torch | top-10 overlap | alone = in a batch | texts/s | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = f"{row['name']}, tiny" if row["tiny"] else row["name"]
        worst = f"cosine {row['distance']:.6f}" if row["kind"] == "encoder" else f"{row['distance']:.2g} nats"
        equal = "same bits" if row["bit_equal"] else f"within {row['batch_distance']:.1g}"
        lines.append(
            f"| {name} | {row['kind']} | {row['precision']} | {row['size_mb']:,.1f} | {worst} | "
            f"{row['top10_overlap']:.3f} | {equal} | {row['texts_per_s']:,.0f} | {'refused' * bool(row['failures'])} |"
        )
    lines += ["", "| model | kind | fused | not fused |", "|---|---|---|---|"]
    for row in rows:
        if row["precision"] == "fp32":
            fused = ", ".join(f"{count} {operator}" for operator, count in row["fused"].items())
            left = ", ".join(row["left"]) or "nothing known"
            lines.append(f"| {row['name']}{', tiny' * row['tiny']} | {row['kind']} | {fused} | {left} |")
    lines += ["", f"Measured on {system(results['machine'])}."]
    if len({row["commit"] for row in rows}) > 1:
        lines.append("Some rows were measured again, in a run of their own: see `commit` in the results.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
