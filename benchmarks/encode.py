"""Texts to vectors on a processor: llmfeat beside sentence-transformers and fastembed, with all-MiniLM-L6-v2.

All in one process, in turn, quiet rounds repeated, medians; texts are made of the tokenizer's own words with a fixed
seed. Then what a cache, an unchanged table and a million rows cost. ``--quick`` takes a tiny model and few texts,
``--full`` more rounds; without ``--quick``, and into benchmarks/results, the tables in docs/performance.md are rendered
anew. Office's texts stand beside them where ``--data`` has them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _encode_costs import cached, changed, memory
from _encode_inside import gemm, profile, seconds
from _report import ROOT, arguments, system, write
from _texts import WORKLOADS, make_texts, with_duplicates
from check import render_results

sys.path.insert(0, str(ROOT))

MAIN = ("titles", "histories")
Rows = list[dict[str, Any]]


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as name:
        figures, rows = _measure(Path(name), options)
    write(options.json, figures, rows)
    if not options.quick:
        render_results(options.json)


def _measure(folder: Path, options: argparse.Namespace) -> tuple[dict[str, float], Rows]:
    from llmfeat._base.machine import instruction_sets

    model, artifact = _model(folder, quick=options.quick)
    shrink, rounds = (200, 2) if options.quick else (1, 5 if options.full else 3)
    texts = {
        name: make_texts(artifact.tokenizer_path, n_texts=max(8, n_texts // shrink), mean_tokens=mean, seed=7)
        for name, (n_texts, mean) in WORKLOADS.items()
    }
    main = {kind: texts.pop(kind) for kind in MAIN}
    texts["half duplicates"] = with_duplicates(main["titles"][::4], share=0.5, seed=7)
    texts |= {} if options.quick else _office(options.data)
    from _peers import peers

    ours = _encoders(artifact)
    theirs = list(peers(model, folder / "peers"))
    settings = {name: setting for name, setting, _ in theirs} | {
        name: f"streams={encoder._backend.n_streams}, batch_tokens={encoder._backend.batch_tokens}"
        for name, encoder in ours.items()
    }
    runners: dict[str, Callable[[Sequence[str]], Any]] = {name: run for name, _, run in theirs if run is not None}
    runners |= {name: encoder.encode for name, encoder in ours.items()}
    best = next(iter(ours))
    rows: Rows = [{"what": "setting", "name": name, "setting": setting} for name, setting in settings.items()]
    speeds = {kind: _compare(kind, some, runners, ours, rounds, rows) for kind, some in main.items()}
    figures, fastest = _figures(speeds, best, rows)
    # On the others only the peers that matter: the reference of the cosines, and the best.
    few = {name: run for name, run in runners.items() if name in ours or name in ("st_torch_fp32", fastest)}
    for kind, some in texts.items():
        _compare(kind, some, few, ours, min(rounds, 2), rows)
    figures["amx"] = float("AMX" in instruction_sets())
    figures |= gemm(artifact, ours[best], main["histories"], rows, rounds)
    profile(artifact, ours[best], main, rows)
    figures |= cached(artifact, best, folder, shrink, rows)
    figures |= changed(artifact, best, folder, shrink, rows)
    figures |= memory(folder, shrink, rows)
    return figures, rows


def _model(folder: Path, *, quick: bool) -> tuple[Path, Any]:
    """Return a folder of sentence-transformers and the artifact made of it."""
    from llmfeat import export_model
    from llmfeat.export import open_source
    from tests.tiny_models import save_tiny

    if quick:
        tiny = save_tiny("bert", folder / "model")
        return tiny, export_model(tiny, folder / "artifact")
    with open_source("bundled:minilm") as source:
        path = Path(source.path)
    return path, export_model("bundled:minilm", folder / "artifact")


def _encoders(artifact: Any) -> dict[str, Any]:
    """Return an encoder per backend of this machine's processor, the one that `auto` takes first."""
    from llmfeat import TextEncoder
    from llmfeat.encode.backends import BACKENDS, unavailable

    here = [name for name in BACKENDS if not name.endswith(("-cuda", "-tensorrt")) and not unavailable(name)]
    return {name: TextEncoder(artifact, backend=name) for name in here}


def _office(data: Path | None) -> dict[str, list[str]]:
    """Return Office's titles, and titles with descriptions, where they are."""
    folder = (data or ROOT.parent / "shared" / "data") / "amazon_office"
    if not folder.is_dir():
        print(f"{folder} is absent: its rows are left out", file=sys.stderr)
        return {}
    import pyarrow.parquet as pq

    from llmfeat import ItemTemplate

    items = pq.read_table(folder / "items.parquet")
    rendered = {
        "office titles": ItemTemplate("{title}").render(items),
        "office descriptions": ItemTemplate("{title}[. {description}]").render(items)[:600],
    }
    return {kind: [text for text in texts if text is not None] for kind, texts in rendered.items()}


def _compare(
    kind: str,
    texts: list[str],
    runners: dict[str, Callable[[Sequence[str]], Any]],
    ours: dict[str, Any],
    rounds: int,
    rows: Rows,
) -> dict[str, float]:
    """Return texts per second of each, in turn A B A B; cosines are to sentence-transformers in fp32."""
    wanted = runners["st_torch_fp32"](texts)
    cosines = {name: _least_cosine(run(texts), wanted) for name, run in runners.items()}
    taken: dict[str, list[float]] = {name: [] for name in runners}
    before = {name: (encoder.tally.tokens, encoder.tally.positions) for name, encoder in ours.items()}
    for _ in range(rounds):
        for name, run in runners.items():
            taken[name].append(seconds(lambda run=run: run(texts)))
    speeds = {name: len(texts) / statistics.median(times) for name, times in taken.items()}
    for name, speed in speeds.items():
        row = {"what": kind, "name": name, "n_texts": len(texts), "texts_per_s": speed, "cosine_min": cosines[name]}
        if name in ours:
            tokens, positions = before[name]
            tally = ours[name].tally
            row["tokens_per_s"] = (tally.tokens - tokens) / rounds / len(texts) * speed
            row["real_token_share"] = (tally.tokens - tokens) / (tally.positions - positions)
        rows.append(row)
    print(kind, {name: round(speed) for name, speed in speeds.items()}, flush=True)
    return speeds


def _figures(speeds: dict[str, dict[str, float]], best: str, rows: Rows) -> tuple[dict[str, float], str]:
    """Return the figures, and which peer is the best by the same mean."""

    def over(peer: str) -> float:
        return statistics.geometric_mean(speeds[kind][best] / speeds[kind][peer] for kind in MAIN)

    peers = [name for name in speeds["titles"] if name.startswith("st_")]
    fastest = min(peers, key=over)
    rows.append({"what": "best peer", "name": fastest, "ours": best})
    mine = [row for row in rows if row.get("name") == best and row["what"] in MAIN]
    figures = {
        "vs_st_torch_fp32": over("st_torch_fp32"),
        "vs_st_best": over(fastest),
        "st_openvino_ran": float("st_openvino" in peers),
        "cosine_min": min(row["cosine_min"] for row in mine),
        "real_token_share": min(row["real_token_share"] for row in mine),
    }
    return figures, fastest


def _least_cosine(one: Any, other: Any) -> float:
    wide = [np.asarray(vectors, dtype=np.float64) for vectors in (one, other)]
    lengths = np.linalg.norm(wide[0], axis=1) * np.linalg.norm(wide[1], axis=1)
    return float(np.min(np.einsum("ij,ij->i", *wide) / lengths))


def table(results: dict[str, Any]) -> str:
    """Return the tables of the documentation."""
    rows: Rows = results["rows"]
    settings = {row["name"]: row["setting"] for row in rows if row["what"] == "setting"}
    kinds = list(dict.fromkeys(row["what"] for row in rows if "texts_per_s" in row))
    found = {(row["what"], row["name"]): row for row in rows if "texts_per_s" in row}
    lines = [f"| texts/s | {' | '.join(kinds)} | least cosine | |", f"|---|{'---|' * (len(kinds) + 2)}"]
    for name, setting in settings.items():
        speeds = [found.get((kind, name)) for kind in kinds]
        cells = ["" if row is None else f"{row['texts_per_s']:,.0f}" for row in speeds]
        cosine = min((row["cosine_min"] for row in speeds if row is not None), default=None)
        shown = "" if cosine is None else f"{cosine:.5f}"
        lines.append(f"| {name.replace('st_', 'sentence-transformers ')} | {' | '.join(cells)} | {shown} | {setting} |")
    profile = [row for row in rows if row["what"] == "profile"]
    lines += ["", "| where the time goes | titles | histories |", "|---|---|---|"]
    for part in dict.fromkeys(row["part"] for row in profile):
        shares = {row["kind"]: row["share"] for row in profile if row["part"] == part}
        lines.append(f"| {part} | {shares.get('titles', 0):.1%} | {shares.get('histories', 0):.1%} |")
    lines += ["", f"Measured on {system(results['machine'])}."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
