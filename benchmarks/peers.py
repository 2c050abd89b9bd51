"""Pop, ItemKNN, EASE and SASRec of other libraries, on the rows of Office Products that the features are measured on.

``DIR/amazon_office`` is the data. What each peer is set to is chosen on the valid events alone; a run looks at the test
events once for each peer (SASRec: each seed), after its settings are chosen.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time
from collections.abc import Mapping
from typing import Any

import joblib
import numpy as np
from _office import Office, load_office
from _office_peers import N_JOBS, SASRecScorer, choose, choose_sasrec, ease, item_knn, pop
from _report import ROOT, parser, write

from llmfeat.evaluate.metrics import Estimate, Resamples, interval
from llmfeat.evaluate.next_item import NEXT_ITEM_METRICS, measure_next_item, scorer_ranks
from llmfeat.rank.scorers import FittableScorer

PROTOCOL = (
    "Settings and epochs are the best NDCG@10 on the valid events, of models fitted on what was known before them; "
    "those settings are then fitted on what was known before the test events (the valid events included) and measured "
    "on the test events. Each test history ranks the whole catalogue, items of the history included; items of one "
    "score share their places. LensKit's three see a user's distinct items, Cornac's SASRec every event in order, as "
    "next item of the events before it, at most max_len of them; its loss is cross-entropy over the targets of the "
    "batch and n_sample drawn items. SASRec's metrics are means over its seeds. Intervals are of 95 %, over users."
)
_N_RESAMPLES = 1000
_ITEM_KNN = [{"feedback": "implicit", "max_nbrs": n} for n in (1, 2, 3, 5, 20)]
_EASE = [{"regularization": float(weight)} for weight in (1, 3, 10, 30, 100, 300)]
_SASREC = [
    {"max_len": 10, "batch_size": 128, "n_sample": 2048, "sample_alpha": 0.0, "embedding_dim": dim, "dropout": dropout}
    for dim, dropout in ((64, 0.2), (128, 0.2), (128, 0.4))
]
_MAX_EPOCHS = 18
_SEEDS = (0, 1, 2)
_QUICK_ROWS = 300


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__.partition("\n")[0]).parse_args()
    folder = (options.data or ROOT.parent / "shared" / "data") / "amazon_office"
    if not folder.is_dir():
        print(f"there is no {folder}: pass --data DIR with the folder of its README", file=sys.stderr)
        sys.exit(2)
    office = load_office(folder)
    rows = [{"part": "protocol", "words": PROTOCOL}]
    figures: dict[str, float] = {}
    for name, row in measure_peers(office, quick=options.quick).items():
        rows.append({"part": "peer", "peer": name, **row})
        figures |= {f"{name}_{metric.replace('@', '')}": row[metric]["value"] for metric in ("hr@10", "ndcg@10")}
    write(options.json, figures, rows)


def measure_peers(office: Office, *, quick: bool) -> dict[str, dict[str, Any]]:
    """Return what each peer gets on the test events, with its library, what was tried and what was chosen.

    A quick run measures on some of the valid events instead.
    """
    valid, past, scored = office.valid, office.before_test, office.test
    if quick:  # does not look at the test
        valid = valid.take(np.arange(min(_QUICK_ROWS, len(valid.targets))))
        past, scored = office.before_valid, valid
    users = scored.histories.users.dictionary_encode()
    resamples = Resamples.draw(len(users.dictionary), n_resamples=_N_RESAMPLES, seed=0)
    codes = users.indices.to_numpy().astype(np.int64)

    def measured(scorer: FittableScorer) -> Mapping[str, Estimate]:
        ranks = scorer_ranks(scorer.fit(past), scored.histories, scored.targets)
        return measure_next_item(ranks, codes, resamples)

    n_tried = 1 if quick else None
    found = {}
    grids = {pop: [{"score": "count"}], item_knn: _ITEM_KNN, ease: _EASE}
    for make, grid in grids.items():
        started = time.perf_counter()
        scorer, tried = choose([make(settings) for settings in grid[:n_tried]], office.before_valid, valid)
        estimates = measured(scorer)
        found[scorer.name] = {"settings": scorer.settings, **_row("lenskit", [estimates], tried, started)}
    started = time.perf_counter()
    max_epochs, seeds = (2, _SEEDS[:1]) if quick else (_MAX_EPOCHS, _SEEDS)
    settings, tried = choose_sasrec(_SASREC[:n_tried], office.before_valid, valid, max_epochs=max_epochs)
    jobs = (joblib.delayed(measured)(SASRecScorer(settings, seed=seed)) for seed in seeds)
    of_seed = dict(zip(seeds, joblib.Parallel(n_jobs=N_JOBS)(jobs), strict=True))
    row = _row("cornac", list(of_seed.values()), tried, started)
    by_seed = {seed: {name: each[name].point for name in ("hr@10", "ndcg@10")} for seed, each in of_seed.items()}
    found["sasrec"] = {"settings": settings, "by_seed": by_seed, **row}
    return found


def _row(
    library: str, runs: list[Mapping[str, Estimate]], tried: list[dict[str, Any]], started: float
) -> dict[str, Any]:
    """Return each metric's mean over runs with its interval, and what led to it."""
    metrics = {name: mean_estimate([run[name] for run in runs]) for name in NEXT_ITEM_METRICS}
    return {
        "library": f"{library} {importlib.metadata.version(library)}",
        "tried": tried,
        "seconds": time.perf_counter() - started,
        **{name: {"value": each.point, "ci95": list(interval(each))} for name, each in metrics.items()},
    }


def mean_estimate(estimates: list[Estimate]) -> Estimate:
    """Return the mean of what runs got on the same resamples."""
    return Estimate(
        float(np.mean([each.point for each in estimates])), np.mean([each.resampled for each in estimates], axis=0)
    )


if __name__ == "__main__":
    main()
