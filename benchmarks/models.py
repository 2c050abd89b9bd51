"""The same features in seven models, each without and with them, and two towers as generator and as feature.

``DIR/amazon_office`` and ``DIR/ml100k_plots`` are the data. One seed, three with ``--full``. ``--parts`` runs some of
the parts alone, and keeps what the file holds of the others. Each model has the same settings everywhere; numbers of
trees and epochs are chosen before the test begins.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _models_data import FAMILIES, WITH_TOWERS, Data, Ml100k, Office, mean_metrics, tower_of
from _models_rankers import RANKERS
from _models_sequences import sasrec, sasrec_settings, two_tower
from _report import ROOT, commit, parser, save, system, write
from check import render_results
from peers import mean_estimate
from scipy.stats import t as t_distribution

from llmfeat import TextEncoder
from llmfeat.evaluate.fitting import BAG, fit_arm
from llmfeat.evaluate.metrics import Resamples, interval
from llmfeat.evaluate.next_item import measure_next_item, scorer_ranks
from llmfeat.evaluate.next_item.candidates import TOWERS, FittedStage
from llmfeat.export import cached_artifact
from llmfeat.rank import Candidates, PreRanker, generate_candidates
from llmfeat.rank.scorers import FittableScorer

FIGURES = ("two_tower_recall200", "union_recall300", "office_hr10_two_tower", "onnx_parity")
_FOLDERS = {"office": "amazon_office", "ml100k": "ml100k_plots"}
_PARTS = ("retrieval", "ranker", "office", "ml100k")
_NAMES = {
    "lightgbm": "LightGBM",
    "xgboost": "XGBoost",
    "catboost": "CatBoost",
    "dcn_v2": "DCN-v2 (torch-rechub)",
    "deepfm": "DeepFM (torch-rechub)",
    "two_tower": "two towers",
    "sasrec": "SASRec (Cornac)",
}
_TITLES = {
    "office": "Amazon Office Products, next item, its test rows: the same candidates for every model",
    "ml100k": "MovieLens-100K with plots, clicks (a rating of 4 stars or more), the last fifth by time",
}
_CUTS = (50, 200, 300)
_POOL, _KEPT = 200, 300
_N_RESAMPLES = 1000


def main() -> None:
    """Run the benchmark."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    arguments = parser(__doc__.partition("\n")[0])
    arguments.add_argument("--parts", nargs="+", choices=_PARTS, help="run these alone")
    arguments.add_argument("--models", nargs="+", choices=list(_NAMES), help="run these alone, in the parts by model")
    arguments.add_argument("--artifact", type=Path, help="an exported encoder; bundled:minilm by default")
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    folder = options.data or ROOT.parent / "shared" / "data"
    missing = [str(folder / name) for name in _FOLDERS.values() if not (folder / name).is_dir()]
    if missing:
        print(
            f"there is no {' and no '.join(missing)}: pass --data DIR with the folders of its README", file=sys.stderr
        )
        sys.exit(2)
    parts, models = options.parts or list(_PARTS), options.models or list(_NAMES)
    if "sasrec" in models and importlib.util.find_spec("cornac") is None:
        print("SASRec is Cornac's: pip install 'llmfeat[bench]', or name other --models", file=sys.stderr)
        sys.exit(2)
    rows = _kept(options.json, parts, models, quick=options.quick) if options.parts or options.models else []
    encoder = TextEncoder(
        options.artifact or cached_artifact("bundled:minilm"), backend="onnxruntime-cpu", cache=not options.quick
    )
    seeds = range(3 if options.full else 1)
    for row in _measured(folder, encoder, parts, models, seeds, quick=options.quick):
        rows.append({**row, "commit": commit(), "quick": options.quick})
        print({key: value for key, value in row.items() if not isinstance(value, dict)}, flush=True)
        save(options.json, figures_of(rows), rows)  # what was measured stays, whatever comes
    rows.sort(key=lambda row: (_PARTS.index(row["part"]), list(_NAMES).index(row["model"]) if "model" in row else 0))
    write(options.json, figures_of(rows), rows)
    if not options.quick and not options.parts and not options.models:
        render_results(options.json)


def _kept(path: Path, parts: list[str], models: list[str], *, quick: bool) -> list[dict[str, Any]]:
    """Return the rows of a file that are not measured anew."""
    known = json.loads(path.read_text())["rows"] if path.is_file() else []
    if any(row["quick"] != quick for row in known):
        print(f"{path} is of {'a full' if quick else 'a smoke'} run: name another file", file=sys.stderr)
        sys.exit(2)
    return [row for row in known if row["part"] not in parts or ("model" in row and row["model"] not in models)]


def _measured(
    folder: Path, encoder: TextEncoder, parts: list[str], models: list[str], seeds: range, *, quick: bool
) -> Iterator[dict[str, Any]]:
    if set(parts) != {"ml100k"}:
        office = Office(folder / _FOLDERS["office"], encoder, quick=quick)
        if "retrieval" in parts:
            yield from measure_retrieval(office, seeds)
        if "ranker" in parts:
            yield from measure_ranker(office, seeds)
        if "office" in parts:
            yield from measure_models(office, models, seeds)
    if "ml100k" in parts:
        yield from measure_models(Ml100k(folder / _FOLDERS["ml100k"], encoder, quick=quick), models, seeds)


def measure_models(data: Data, models: list[str], seeds: range) -> Iterator[dict[str, Any]]:
    """Yield what each model gets without and with our features, of each seed."""
    for model in models:
        for arm in FAMILIES:
            make: Callable[[int], FittableScorer] | None = None
            if model == "two_tower":
                make = _bound(two_tower, data, arm)
            elif model == "sasrec":
                settings = sasrec_settings(data, arm)
                make = _bound(sasrec, data, arm, settings=settings)
            for seed in seeds:
                started = time.perf_counter()
                if make is None:
                    scores, more = RANKERS[model](data, arm, seed), {}
                else:
                    scorer = make(seed).fit(data.past)
                    scores, more = data.scores_of(scorer), _of_catalogue(data, scorer)
                seconds = time.perf_counter() - started
                found = data.measured(scores)
                yield {"part": data.name, "model": model, "arm": arm, "seed": seed, **found, **more, "seconds": seconds}


def _bound(make: Any, data: Data, arm: str, **more: Any) -> Callable[[int], FittableScorer]:
    return lambda seed: make(data, arm, seed, **more)


def _of_catalogue(data: Data, scorer: FittableScorer) -> dict[str, float]:
    """Return what a scorer gets where it ranks the whole catalogue, not the candidates of others."""
    if not isinstance(data, Office):
        return {}
    queries = data.ranked.queries
    ranks = scorer_ranks(scorer, queries.contexts.take(queries.context), queries.targets)
    return {f"catalogue_{name}": value for name, value in mean_metrics(ranks, data.metrics).items()}


def measure_retrieval(office: Office, seeds: range) -> Iterator[dict[str, Any]]:
    """Yield what two towers find alone, and what is found by all generators, with them and without, cut to one size."""
    stages = [_Generators(office, name) for name in ("taught", "tested")]
    for seed in seeds:
        taught, tested = (each.with_towers(seed) for each in stages)
        towers = tested.scorers[-1]
        alone = {f"recall@{k}": generate_candidates([towers], tested.contexts, k).recall(tested.targets) for k in _CUTS}
        yield {
            "part": "retrieval",
            "what": "two_tower",
            "seed": seed,
            **alone,
            "parity": max(towers.towers_.trained["parity"][tower] for tower in ("items", "users")),
            "n_epochs": towers.towers_.trained["n_epochs"],
            "seconds": tested.fit_s,
        }
        for what, n_scorers in (("union", len(tested.scorers)), ("union_without", len(tested.scorers) - 1)):
            learned, pool = (each.pool(n_scorers) for each in (taught, tested))
            started = time.perf_counter()
            preranker = PreRanker(random_state=seed).fit(learned, learned.is_target(taught.targets))
            scores = preranker.scores(pool)
            yield {
                "part": "retrieval",
                "what": what,
                "seed": seed,
                "pool_per_query": len(pool) / pool.n_queries,
                "pool_recall": pool.recall(tested.targets),
                "seconds": time.perf_counter() - started,
                **{f"recall@{k}": pool.best(scores, k).recall(tested.targets) for k in _CUTS},
            }
    for scorer in stages[1].scorers:
        found = {f"recall@{k}": generate_candidates([scorer], tested.contexts, k).recall(tested.targets) for k in _CUTS}
        yield {"part": "retrieval", "what": scorer.name, "seed": 0, **found}


class _Generators:
    """A stage's scorers, two towers last once they are fitted, and what they propose."""

    def __init__(self, office: Office, name: str) -> None:
        self._office, self._stage = office, office.stages[name]
        queries = self._stage.queries
        self.contexts, self.targets = queries.contexts.take(queries.context), queries.targets
        self.scorers: list[Any] = [scorer for _, scorer in FittedStage(self._stage, office.by_family).generators]
        self.fit_s = 0.0

    def with_towers(self, seed: int) -> _Generators:
        """Return the same with two towers of a seed."""
        more = copy.copy(self)
        started = time.perf_counter()
        more.scorers = [*self.scorers, tower_of(self._office, seed)().fit(self._stage.past)]
        more.fit_s = time.perf_counter() - started
        return more

    def pool(self, n_scorers: int) -> Candidates:
        """Return what the first of them propose together."""
        return generate_candidates(self.scorers[:n_scorers], self.contexts, _POOL)


def measure_ranker(office: Office, seeds: range) -> Iterator[dict[str, Any]]:
    """Yield the ranker of ``llmfeat lift`` without and with two towers as one more generator and as columns."""
    without = office.taught.taught, office.ranked
    with_towers = office.with_towers(tower_of(office, 0))
    arms = {
        "no_text": (without, FAMILIES["without"]),
        "no_text_towers": (with_towers, (*FAMILIES["without"], TOWERS)),
        "hybrid": (without, FAMILIES["with"]),
        "hybrid_towers": (with_towers, WITH_TOWERS),
    }
    users = office.ranked.queries.users.dictionary_encode()
    codes = users.indices.to_numpy().astype(np.int64)[office.ranked.queries.context]
    resamples = Resamples.draw(len(users.dictionary), n_resamples=_N_RESAMPLES, seed=0)
    runs: dict[str, list[Mapping[str, Any]]] = {arm: [] for arm in arms}
    for arm, ((taught, tested), families) in arms.items():
        for seed in seeds:
            started = time.perf_counter()
            fitted = fit_arm(taught, families, office.learner, seed=seed, bag=BAG)
            ranks = tested.ranks(fitted.scores(tested.columns.matrix(families)).mean(axis=0))
            runs[arm].append(measure_next_item(ranks, codes, resamples))
            points = {name: runs[arm][-1][name].point for name in office.metrics}
            yield {
                "part": "ranker",
                "arm": arm,
                "seed": seed,
                **points,
                "candidate_recall": float(ranks.found.mean()),
                "candidates_per_query": len(tested.candidates) / tested.candidates.n_queries,
                "seconds": time.perf_counter() - started,
            }
    for ours, theirs in (("hybrid_towers", "hybrid"), ("no_text_towers", "no_text")):
        for metric in office.metrics:
            gain = mean_estimate([run[metric] for run in runs[ours]]) - mean_estimate(
                [run[metric] for run in runs[theirs]]
            )
            low, high = interval(gain)
            yield {
                "part": "ranker",
                "difference": f"{ours}_vs_{theirs}",
                "metric": metric,
                "diff": gain.point,
                "low": low,
                "high": high,
            }


def figures_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the figures of what was run: means over seeds."""
    found: dict[str, float] = {}
    retrieval = [row for row in rows if row["part"] == "retrieval"]
    for figure, what, name in (
        ("two_tower_recall200", "two_tower", "recall@200"),
        ("two_tower_recall300", "two_tower", f"recall@{_KEPT}"),
        ("union_recall300", "union", f"recall@{_KEPT}"),
        ("union_recall300_without_towers", "union_without", f"recall@{_KEPT}"),
    ):
        values = [row[name] for row in retrieval if row["what"] == what]
        if values:
            found[figure] = float(np.mean(values))
    for row in rows:
        if row["part"] == "ranker" and row.get("difference") and row["metric"] == "hr@10":
            figure = {"hybrid_towers_vs_hybrid": "office_hr10_two_tower"}.get(row["difference"])
            found[figure or "office_hr10_two_tower_over_no_text"] = row["diff"]
    parities = [row["parity"] for row in retrieval if row["what"] == "two_tower"]
    if parities:
        found["onnx_parity"] = max(parities)
    for (part, model), (_, _, gains) in _by_model(rows).items():
        if len(gains):
            found[f"{part}_{model}_gain"] = float(gains.mean())
    return found


def _by_model(rows: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[Any, Any, Any]]:
    """Return, by data set and model, the first metric without and with our features, and the gain, by seed."""
    found = {}
    for part, metric in (("office", "hr@10"), ("ml100k", "auc")):
        for model in _NAMES:
            arms = [
                {row["seed"]: row[metric] for row in rows if (row["part"], row.get("model"), row.get("arm")) == each}
                for each in ((part, model, arm) for arm in FAMILIES)
            ]
            seeds = sorted(set(arms[0]) & set(arms[1]))
            if seeds:
                without, ours = (np.array([arm[seed] for seed in seeds]) for arm in arms)
                found[part, model] = without, ours, ours - without
    return found


def table(results: dict[str, Any]) -> str:
    """Return the tables of the models."""
    rows = results["rows"]
    found = _by_model(rows)
    lines: list[str] = []
    for part, metric in (("office", "HR@10"), ("ml100k", "AUC")):
        lines += [f"**{_TITLES[part]}, {metric}.**", ""]
        lines += ["| model | without | with | difference | | fitted and asked in |", "|---|---|---|---|---|---|"]
        for model, name in _NAMES.items():
            if (part, model) in found:
                without, ours, gains = found[part, model]
                seconds = [np.mean([row["seconds"] for row in rows if _is(row, part, model, arm)]) for arm in FAMILIES]
                cells = [
                    name,
                    _spread(without),
                    _spread(ours),
                    f"{gains.mean():+.4f} ± {_sd(gains):.4f}",
                    _verdict(gains),
                    f"{seconds[0]:.0f} s, {seconds[1]:.0f} s",
                ]
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    n_seeds = max(len(gains) for _, _, gains in found.values())
    lines += [
        f"Means and standard deviations over {n_seeds} seeds, and what a t test over them says at 5 %: the seeds of "
        f"training, not the draw of the test rows. {system(results['machine'])}."
    ]
    return "\n".join(lines)


def retrieval_table(results: dict[str, Any]) -> str:
    """Return the table of what generators find."""
    rows = [row for row in results["rows"] if row["part"] == "retrieval"]
    names = {
        "two_tower": "two towers",
        "union": f"all, the best {_KEPT} of their pool by `PreRanker`",
        "union_without": "the same without the towers",
    }
    by_what = {row["what"]: [each for each in rows if each["what"] == row["what"]] for row in rows}
    others = sorted((what for what in by_what if what not in names), key=lambda what: -by_what[what][0]["recall@200"])
    lines = [f"| recall of the test targets among | {' | '.join(map(str, _CUTS))} |", "|---" * (len(_CUTS) + 1) + "|"]
    for what in (*names, *others[:5]):
        values = [np.mean([row[f"recall@{k}"] for row in by_what[what]]) for k in _CUTS]
        lines.append(f"| {names.get(what, f'`{what}`')} | {' | '.join(f'{value:.3f}' for value in values)} |")
    return "\n".join(lines)


def ranker_table(results: dict[str, Any]) -> str:
    """Return the table of the ranker without and with two towers."""
    rows = [row for row in results["rows"] if row["part"] == "ranker"]
    lines = ["| LightGBM on | HR@10 | NDCG@10 | targets among the candidates |", "|---|---|---|---|"]
    for arm, name in (
        ("no_text", "`no_text`"),
        ("no_text_towers", "the same with two towers"),
        ("hybrid", "`hybrid`"),
        ("hybrid_towers", "the same with two towers"),
    ):
        runs = [row for row in rows if row.get("arm") == arm]
        values = [np.mean([row[metric] for row in runs]) for metric in ("hr@10", "ndcg@10")]
        recall = 100 * runs[0]["candidate_recall"]
        lines.append(f"| {name} | {values[0]:.4f} | {values[1]:.4f} | {recall:.1f} % |")
    for row in (each for each in rows if each.get("metric") == "hr@10"):
        theirs = row["difference"].split("_vs_")[1]
        lines += ["", f"`{theirs}`: {row['diff']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}] by the towers."]
    return "\n".join(lines)


def _is(row: dict[str, Any], part: str, model: str, arm: str) -> bool:
    return (row["part"], row.get("model"), row.get("arm")) == (part, model, arm)


def _spread(values: Any) -> str:
    return f"{values.mean():.4f} ± {_sd(values):.4f}"


def _sd(values: Any) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _verdict(gains: Any) -> str:
    """Return in a word whether a model gains, by a t test over seeds at 5 %; of one seed nothing is said."""
    if len(gains) < 2:
        return ""
    error = _sd(gains) / np.sqrt(len(gains)) * t_distribution.ppf(0.975, len(gains) - 1)
    if gains.mean() > error:
        return "gains"
    return "loses" if gains.mean() < -error else "no gain"


if __name__ == "__main__":
    main()
