"""What the features cost, and, with ``--validation``, what each family of them is worth.

``DIR/amazon_office`` and ``DIR/ml100k_plots`` are the data of the latter: families in and out on the validation
windows, which decides the defaults and never looks at the test. What the features add there is for ``lift.py``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import _features_speed
import _ml100k
import _office
import _office_rank
import numpy as np
from _report import ROOT, parser, system, write
from check import render_results

from llmfeat import TextEncoder, VectorTable
from llmfeat.evaluate.controls import random_vectors, tfidf_vectors
from llmfeat.evaluate.next_item.candidates import FittedStage, ItemVectors
from llmfeat.export import cached_artifact

_N_SEEDS = 5
_TFIDF_DIM = 512
_ADDED, _LEFT_OUT = "added to no text", "left out of everything"


def main() -> None:
    """Run the benchmark."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    options = _arguments()
    folders = {name: options.data / name for name in ("amazon_office", "ml100k_plots")}
    missing = [str(folder) for folder in folders.values() if options.validation and not folder.is_dir()]
    if missing:
        print(
            f"there is no {' and no '.join(missing)}: pass --data DIR with the folders of its README", file=sys.stderr
        )
        sys.exit(2)
    figures: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    if options.quick:
        _ml100k.N_TREES = _office_rank.N_TREES = 5
    if options.validation:
        encoder = TextEncoder(
            options.artifact or cached_artifact("bundled:minilm"), backend="onnxruntime-cpu", cache=True
        )
        rows.append(_measure_ml100k(folders["ml100k_plots"], encoder, options))
        rows.append(_measure_office(folders["amazon_office"], encoder, options))
    else:
        figures, rows = _features_speed.measure_speed(quick=options.quick)
    write(options.json, figures, rows)
    if not options.quick:
        render_results(options.json)


def _arguments() -> Any:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--artifact", type=Path, help="an exported encoder; bundled:minilm by default")
    options.add_argument("--validation", action="store_true", help="what each family is worth; no look at the test")
    chosen = options.parse_args()
    if chosen.data is None:
        chosen.data = ROOT.parent / "shared" / "data"
    return chosen


def _measure_ml100k(folder: Path, encoder: TextEncoder, options: Any) -> dict[str, Any]:
    data = _ml100k.load_ml100k(folder, encoder)
    return {"part": "ml100k_ablation", "families": _ml100k.ablation(data, seeds=_seeds(options))}


def _measure_office(folder: Path, encoder: TextEncoder, options: Any) -> dict[str, Any]:
    office = _office.load_office(folder)
    rows = FittedStage(office.taught, _vectors(office, encoder)).rows(office.taught.queries)
    return {"part": "office_ablation", "families": _office_rank.ablation(rows, seeds=_seeds(options))}


def _seeds(options: Any) -> range:
    return range(1 if options.quick else _N_SEEDS)


def _vectors(office: _office.Office, encoder: TextEncoder) -> ItemVectors:
    ids = office.item_ids
    titles, descriptions = (
        [text or "" for text in office.items[name].to_pylist()] for name in ("title", "description")
    )
    texts = {"all": [f"{a}. {b}" for a, b in zip(titles, descriptions, strict=True)], "title": titles}
    return {
        "tfidf": {name: tfidf_vectors(ids, each, seed=0, dim=_TFIDF_DIM) for name, each in texts.items()},
        "llm": {name: VectorTable.from_arrays(ids, encoder.encode(each)) for name, each in texts.items()},
        "random": {name: random_vectors(ids, dim=encoder.dim, seed=at) for at, name in enumerate(texts)},
    }


def table(results: dict[str, Any]) -> str:
    """Return the tables of the docs."""
    rows = results["rows"]
    speed = {each["task"]: each for each in rows if each["part"] == "speed"}
    lines = ["Speed of the kernel, histories of 50 events, 384 dimensions, medians:", ""]
    lines += ["| what | measured |", "|---|---|"]
    medians = {task: float(np.median(each["seconds"])) for task, each in speed.items()}
    lines += [
        f"| rows a second, offline | {speed['offline']['n_rows'] / medians['offline']:,.0f} |",
        f"| a request of 200 candidates, given the vectors | {1000 * medians['one_request']:.2f} ms |",
        f"| the same through `HistoryFeatures.transform` | {1000 * medians['one_transform']:.2f} ms |",
        f"| times the bare product of the same sizes, float32 | {medians['offline'] / medians['bare_product']:.1f} |",
    ]
    lines += ["", f"{system(results['machine'])}."]
    return "\n".join(lines)


def ablation_table(results: dict[str, Any]) -> str:
    """Return the tables of what each family is worth."""
    rows = results["rows"]
    lines: list[str] = []
    for part, title, metrics in (
        ("ml100k_ablation", "MovieLens-100K, last tenth of the training time", ("auc",)),
        ("office_ablation", "Office Products, valid events, halves of the users", ("hr@10", "ndcg@10")),
    ):
        families = next(each["families"] for each in rows if each["part"] == part)
        for metric in metrics:
            found = {(each["family"], each["change"]): each[metric] for each in families}
            bare, whole = found["base", "base"]["mean"], found["whole", "whole"]["mean"]
            lines += [f"{title}, {metric.upper()}: {bare:.4f} without text, {whole:.4f} with everything.", ""]
            lines += ["| family | added to no text | left out of everything |", "|---|---|---|"]
            for family in dict.fromkeys(each["family"] for each in families):
                if family not in ("base", "whole"):
                    shown = [_spread(found.get((family, change))) for change in (_ADDED, _LEFT_OUT)]
                    lines.append(f"| {family} | {' | '.join(shown)} |")
            lines.append("")
    return "\n".join([*lines, f"Means and standard deviations over {_N_SEEDS} seeds."])


def _spread(difference: dict[str, float] | None) -> str:
    return "" if difference is None else f"{difference['diff']:+.4f} ± {difference['sd']:.4f}"


if __name__ == "__main__":
    main()
