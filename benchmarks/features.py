"""What the features add and cost: next-item ranking on Office Products, clicks on MovieLens-100K, speed.

``DIR/amazon_office`` and ``DIR/ml100k_plots`` are the data. A run looks at the test events, and adds itself to the
looks that the committed results keep. ``--validation`` measures something else: what each family is worth on
the validation windows, which decides the defaults and never looks at the test.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
from pathlib import Path
from typing import Any

import _features_speed
import _ml100k
import _office
import _office_rank
import numpy as np
from _report import ROOT, commit, machine, parser, render, system, write

from llmfeat import TextEncoder, VectorTable
from llmfeat._version import __version__
from llmfeat.evaluate.controls import random_vectors, tfidf_vectors
from llmfeat.export import cached_artifact

START, END = "<!-- features: rendered from benchmarks/results/features.json -->", "<!-- /features -->"
ABLATION_START = "<!-- ablation: rendered from benchmarks/results/features-validation.json -->"
ABLATION_END = "<!-- /ablation -->"
LAGS_S = (0, 3600, 86400)
_N_SEEDS = 5
RESULTS = ROOT / "benchmarks" / "results" / "features.json"
_EARLIER_LOOKS = (
    {
        "date": "2026-11-23",
        "version": "0.1.0",
        "commit": "c5f459f",
        "at": "four single scorers, while they were written",
    },
)
_TFIDF_DIM = 512
_ADDED, _LEFT_OUT = "added to no text", "left out of everything"


def main() -> None:
    """Run the benchmark."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    options = _arguments()
    folders = {name: options.data / name for name in ("amazon_office", "ml100k_plots")}
    missing = [str(folder) for folder in folders.values() if not folder.is_dir()]
    if missing:
        print(
            f"there is no {' and no '.join(missing)}: pass --data DIR with the folders of its README", file=sys.stderr
        )
        sys.exit(2)
    artifact = options.artifact or cached_artifact("bundled:minilm")
    encoder = TextEncoder(artifact, backend="onnxruntime-cpu", cache=True)
    figures: dict[str, float] = {}
    rows: list[dict[str, Any]] = []
    if not options.validation:
        figures, rows = _features_speed.measure_speed(quick=options.quick)
        print("speed", {name: round(value, 3) for name, value in figures.items()}, flush=True)
    for measure in (_measure_ml100k, _measure_office):
        found, more = measure(folders, encoder, options)
        figures |= found
        rows += more
        print(*(f"{name} {value:.4f}" for name, value in found.items()), flush=True)
    rows.append({"part": "looks", "looks": _looks(options)})
    write(options.json, figures, rows)
    page = ROOT / "docs" / "features.md"
    if options.validation and not options.quick:
        render(page, ABLATION_START, ablation_table(rows), ABLATION_END)
    elif not options.quick:
        render(page, START, table(rows, machine()), END)


def _arguments() -> Any:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--artifact", type=Path, help="an exported encoder; bundled:minilm by default")
    options.add_argument("--validation", action="store_true", help="what each family is worth; no look at the test")
    chosen = options.parse_args()
    if chosen.data is None:
        chosen.data = ROOT.parent / "shared" / "data"
    return chosen


def _measure_ml100k(
    folders: dict[str, Path], encoder: TextEncoder, options: Any
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    data = _ml100k.load_ml100k(folders["ml100k_plots"], encoder)
    figures, rows = {}, []
    if not options.validation:
        lags = _ml100k.measure_arms(data, lags_s=LAGS_S[:1] if options.quick else LAGS_S)
        first = lags["0"]
        figures = {"ml100k_no_text_auc": first["arms"]["no_text"]["all"]["auc"]}
        for lag, found in lags.items():
            suffix = "" if lag == "0" else f"_lag_{int(lag) // 3600}h"
            figures[f"ml100k_auc_lift{suffix}"] = found["lift"]["hybrid_vs_no_text"]["all"]["auc"]["diff"]
        rows.append({"part": "ml100k", "lags": lags})
    else:
        rows.append({"part": "ml100k_ablation", "families": _ml100k.ablation(data, seeds=_seeds(options))})
    return figures, rows


def _measure_office(
    folders: dict[str, Path], encoder: TextEncoder, options: Any
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    office = _office.load_office(folders["amazon_office"])
    vectors = _vectors(office, encoder)
    train = _office.rows_of(office.valid, office.before_valid, vectors)
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    if options.validation:
        users, seeds = office.valid.histories.users, _seeds(options)
        rows.append({"part": "office_ablation", "families": _office_rank.ablation(train, users, seeds=seeds)})
    else:
        scored = _office.rows_of(office.test, office.before_test, vectors)
        users = office.test.histories.users
        arms = _office_rank.measure_arms([train], scored, users)
        best = arms["hybrid"]
        figures = {
            "office_hr10": best["hr@10"]["value"],
            "office_ndcg10": best["ndcg@10"]["value"],
            "office_candidate_recall": scored.candidates.recall(scored.targets),
        }
        rows.append({"part": "office", "fitted_on": "valid events", "arms": arms})
        if not options.quick:
            own_past = _office.rows_of(office.test, office.inside_valid, vectors)
            inner = _office_rank.measure_arms(_office_rank.inner_rows(office, vectors), own_past, users)
            rows.append({"part": "office", "fitted_on": "history lists inside the valid rows", "arms": inner})
    return figures, rows


def _seeds(options: Any) -> range:
    return range(1 if options.quick else _N_SEEDS)


def _vectors(office: _office.Office, encoder: TextEncoder) -> _office.Vectors:
    ids = office.item_ids
    titles, descriptions = (
        [text or "" for text in office.items[name].to_pylist()] for name in ("title", "description")
    )
    texts = {"title": titles, "all": [f"{a}. {b}" for a, b in zip(titles, descriptions, strict=True)]}
    return _office.Vectors(
        tfidf={name: tfidf_vectors(ids, each, seed=0, dim=_TFIDF_DIM) for name, each in texts.items()},
        llm={name: VectorTable.from_arrays(ids, encoder.encode(each)) for name, each in texts.items()},
        random={"all": random_vectors(ids, dim=encoder.dim, seed=0)},
    )


def _looks(options: Any) -> list[dict[str, str]]:
    """Return every look at the test events so far, this one included."""
    looks = list(_EARLIER_LOOKS)
    if RESULTS.is_file():
        parts = json.loads(RESULTS.read_text())["rows"]
        looks = next((part["looks"] for part in parts if part.get("part") == "looks"), looks)
    if options.validation:
        return looks
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return [*looks, {"date": today, "version": __version__, "commit": commit(), "at": "all arms"}]


def table(rows: list[dict[str, Any]], where: dict[str, Any]) -> str:
    """Return the tables of the docs."""
    lines: list[str] = []
    for part in (each for each in rows if each["part"] == "office"):
        lines += [f"Office Products, ranker fitted on the {part['fitted_on']}:", ""]
        lines += ["| arm | HR@10 | NDCG@10 | HR@10 over `no_text` | over `tfidf` |", "|---|---|---|---|---|"]
        for arm, found in part["arms"].items():
            over = [_signed(found["over"].get(other, {}).get("hr@10")) for other in ("no_text", "tfidf")]
            lines.append(
                f"| `{arm}` | {found['hr@10']['value']:.4f} | {found['ndcg@10']['value']:.4f} | {' | '.join(over)} |"
            )
        lines.append("")
    lines += ["MovieLens-100K with plots, AUC over `no_text`:", ""]
    lags = next(each["lags"] for each in rows if each["part"] == "ml100k")
    arms = [arm for arm in lags["0"]["arms"] if f"{arm}_vs_no_text" in lags["0"]["lift"]]
    heads = ["at once" if lag == "0" else f"{int(lag) // 3600} h late" for lag in lags]
    lines += [f"| arm | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    bare = [f"{found['arms']['no_text']['all']['auc']:.4f}" for found in lags.values()]
    lines.append(f"| `no_text` itself | {' | '.join(bare)} |")
    for arm in arms:
        gains = [found["lift"][f"{arm}_vs_no_text"]["all"]["auc"] for found in lags.values()]
        lines.append(f"| `{arm}` | {' | '.join(_signed({'value': gain['diff'], **gain}) for gain in gains)} |")
    speed = {each["task"]: each for each in rows if each["part"] == "speed"}
    lines += ["", "Speed of the kernel, histories of 50 events, 384 dimensions, medians:", ""]
    lines += ["| what | measured |", "|---|---|"]
    medians = {task: float(np.median(each["seconds"])) for task, each in speed.items()}
    lines += [
        f"| rows a second, offline | {speed['offline']['n_rows'] / medians['offline']:,.0f} |",
        f"| a request of 200 candidates, given the vectors | {1000 * medians['one_request']:.2f} ms |",
        f"| the same through `HistoryFeatures.transform` | {1000 * medians['one_transform']:.2f} ms |",
        f"| times the bare product of the same sizes, float32 | {medians['offline'] / medians['bare_product']:.1f} |",
    ]
    looks = next(each["looks"] for each in rows if each["part"] == "looks")
    lines += ["", f"Looks at the test events so far: {len(looks)}, the last on {looks[-1]['date']}."]
    lines += ["", f"all-MiniLM-L6-v2; {system(where)}."]
    return "\n".join(lines)


def ablation_table(rows: list[dict[str, Any]]) -> str:
    """Return the tables of what each family is worth."""
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


def _signed(gain: dict[str, Any] | None) -> str:
    if gain is None:
        return ""
    low, high = gain["ci95"]
    return f"{gain['value']:+.4f} [{low:+.4f}, {high:+.4f}]"


if __name__ == "__main__":
    main()
