"""Rankers over the rows of Office Products: the arms on the test events, every family in and out on the valid ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
from _office import ARMS, Office, Queries, Rows, Vectors, rows_of

from llmfeat.evaluate.metrics import Estimate, Resamples, interval
from llmfeat.evaluate.next_item import NEXT_ITEM_METRICS, TargetRanks, measure_next_item, target_ranks
from llmfeat.history import Sequences
from llmfeat.rank.scorers.crossfit import user_folds

PARAMETERS = {
    "objective": "lambdarank",
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_child_samples": 100,
    "subsample": 0.8,
    "subsample_freq": 1,
    "colsample_bytree": 0.4,
    "reg_lambda": 5.0,
    "lambdarank_truncation_level": 20,
    "verbose": -1,
}
N_TREES = 120
# A ranker is the mean of so many, of one seed each; every arm has as many.
N_BAGS = 3
_N_RESAMPLES = 1000
_N_FOLDS = 5


def measure_arms(train: list[Rows], scored: Rows, users: Any) -> dict[str, Any]:
    """Return, for each arm, every metric with its interval, and what it is over `no_text` and over `tfidf`."""
    encoded = users.dictionary_encode()
    resamples = Resamples.draw(len(encoded.dictionary), n_resamples=_N_RESAMPLES, seed=0)
    codes = encoded.indices.to_numpy().astype(np.int64)
    found: dict[str, Mapping[str, Estimate]] = {}
    for arm, families in ARMS.items():
        scores = fit_scores(train, scored, families, seeds=range(N_BAGS)).mean(axis=1)
        found[arm] = measure_next_item(ranks_of(scored, scores), codes, resamples)
    return {
        arm: {
            **{name: _shown(estimates[name]) for name in NEXT_ITEM_METRICS},
            "over": {
                other: {name: _shown(estimates[name] - found[other][name]) for name in NEXT_ITEM_METRICS}
                for other in ("no_text", "tfidf")
                if other != arm
            },
        }
        for arm, estimates in found.items()
    }


def ablation(rows: Rows, users: Any, *, seeds: Iterable[int]) -> list[dict[str, Any]]:
    """Return what each family is worth on the valid events: alone over no text, and missing from everything.

    For each seed users are halved anew; rankers fitted on one half are measured on the other.
    """
    whole = list(ARMS["hybrid"])
    base = list(ARMS["no_text"])
    wanted = {"base": base, "whole": whole}
    wanted |= {f"+{family}": [*base, family] for family in whole if family not in base}
    wanted |= {f"-{family}": [each for each in whole if each != family] for family in whole}
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in wanted}
    for seed in seeds:
        half = user_folds(users, n_folds=2, seed=seed)
        here, there = (rows.of_queries(np.flatnonzero(half == side)) for side in (0, 1))
        for name, families in wanted.items():
            runs[name].append(_hr_and_ndcg(there, fit_scores([here], there, families, seeds=[seed])[:, 0]))
    return [
        {
            "family": name.lstrip("+-"),
            "change": {"+": "added to no text", "-": "left out of everything"}.get(name[0], name),
            **_against(runs[name], runs["base" if name[0] == "+" or name == "base" else "whole"]),
        }
        for name in wanted
    ]


def inner_rows(office: Office, vectors: Vectors) -> list[Rows]:
    """Return training rows that use nothing but the histories inside the valid rows.

    Each event of a user's shortest history, but the first, is to be found from those before it. What is known comes
    from other users alone: users are parted into folds, and a fold's rows see statistics without that fold.
    """
    past = office.inside_valid
    folds = user_folds(past.users, n_folds=_N_FOLDS)
    parts = []
    for fold in range(_N_FOLDS):
        others, own = past.take(np.flatnonzero(folds != fold)), past.take(np.flatnonzero(folds == fold))
        parts.append(rows_of(_prefixes(own), others, vectors))
    return parts


def _prefixes(past: Sequences) -> Queries:
    """Return a query for each event but the first of each sequence."""
    rank = np.arange(len(past.item_codes)) - past.offsets[:-1][past.row_of_event]
    events = np.flatnonzero(rank > 0)
    rows = past.row_of_event[events]
    sizes = rank[events]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    positions = np.arange(offsets[-1]) + np.repeat(past.offsets[:-1][rows] - offsets[:-1], sizes)
    users = past.users.take(pa.array(rows))
    return Queries(Sequences(past.item_codes[positions], offsets, past.item_ids, users=users), past.item_codes[events])


def fit_scores(train: list[Rows], scored: Rows, families: Iterable[str], *, seeds: Iterable[int]) -> Any:
    """Return the scores of rows by rankers fitted on others, float64 of shape ``(n_rows, n_seeds)``.

    Queries whose target is no candidate teach a ranker nothing, and are left out of the training.
    """
    families = list(families)
    blocks = [_taught(rows, families) for rows in train]
    matrix, labels, sizes = (np.concatenate(each) for each in zip(*blocks, strict=True))
    wanted = scored.matrix(families)
    scores = []
    for seed in seeds:
        data = lightgbm.Dataset(matrix, labels, group=sizes)
        booster = lightgbm.train({**PARAMETERS, "seed": seed}, data, N_TREES)
        scores.append(booster.predict(wanted))
    return np.stack(scores, axis=1)


def _taught(rows: Rows, families: list[str]) -> tuple[Any, Any, Any]:
    candidates = rows.candidates
    taught = candidates.found(rows.targets)[candidates.query]
    sizes = np.unique(candidates.query[taught], return_counts=True)[1]
    return rows.matrix(families)[taught], candidates.is_target(rows.targets)[taught], sizes


def ranks_of(rows: Rows, scores: Any) -> TargetRanks:
    """Return where the targets stand."""
    return target_ranks(rows.candidates.query, rows.candidates.item, scores, rows.targets)


def _hr_and_ndcg(rows: Rows, scores: Any) -> tuple[float, float]:
    n_queries = rows.candidates.n_queries
    found = measure_next_item(ranks_of(rows, scores), np.zeros(n_queries, np.int64), Resamples(np.ones((1, 1))))
    return found["hr@10"].point, found["ndcg@10"].point


def _against(runs: list[tuple[float, float]], reference: list[tuple[float, float]]) -> dict[str, Any]:
    differences = np.array(runs) - np.array(reference)
    spread = differences.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(2)
    return {
        name: {
            "mean": float(np.mean([run[at] for run in runs])),
            "diff": float(differences[:, at].mean()),
            "sd": float(spread[at]),
        }
        for at, name in enumerate(("hr@10", "ndcg@10"))
    }


def _shown(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.point, "ci95": list(interval(estimate))}
