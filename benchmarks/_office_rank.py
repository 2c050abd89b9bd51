"""Every family of columns in and out, on the valid events of Office Products."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import lightgbm
import numpy as np

from llmfeat.evaluate.metrics import Resamples
from llmfeat.evaluate.next_item import measure_next_item
from llmfeat.evaluate.next_item.candidates import CandidateRows
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
# Which family a column is of, the first that matches; those without text come first.
_FAMILIES: Mapping[str, str] = {
    "popularity": r"popularity_",
    "recent": r"recent\d",
    "repeats": r"repeats_",
    "cooccurrence": r"(together|after|after_last|next_after_last)_(score|rank)",
    "ease": r"ease_",
    "sequences": r"sequences_",
    "length": r"history_length",
    "collab": r"collab_",
    **{f"{kind}_smoothed": rf"{kind}_smoothed_" for kind in ("tfidf", "llm")},
    **{f"{kind}_alike_users": rf"{kind}_alike_users_" for kind in ("tfidf", "llm")},
    **{f"{kind}_learned": rf"{kind}(_title)?_learned_" for kind in ("tfidf", "llm")},
    **{f"{kind}_similarity": rf"{kind}_" for kind in ("tfidf", "llm")},
}
_N_NO_TEXT = 8


def ablation(rows: CandidateRows, *, seeds: Iterable[int]) -> list[dict[str, Any]]:
    """Return what each family is worth on the valid events: alone over no text, and missing from everything.

    For each seed users are halved anew; rankers fitted on one half are measured on the other.
    """
    columns = _columns(rows)
    whole = list(columns)
    base = whole[:_N_NO_TEXT]
    wanted = {"base": base, "whole": whole}
    wanted |= {f"+{family}": [*base, family] for family in whole if family not in base}
    wanted |= {f"-{family}": [each for each in whole if each != family] for family in whole}
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in wanted}
    for seed in seeds:
        half = user_folds(rows.queries.users, n_folds=2, seed=seed)
        for name, families in wanted.items():
            matrix = np.concatenate([columns[family] for family in families], axis=1)
            runs[name].append(_hr_and_ndcg(rows, matrix, half, seed))
    return [
        {
            "family": name.lstrip("+-"),
            "change": {"+": "added to no text", "-": "left out of everything"}.get(name[0], name),
            **_against(runs[name], runs["base" if name[0] == "+" or name == "base" else "whole"]),
        }
        for name in wanted
    ]


def _columns(rows: CandidateRows) -> dict[str, Any]:
    """Return the columns of each family, those of the placebo left out."""
    found: dict[str, list[Any]] = {family: [] for family in _FAMILIES}
    for block in ("no_text", "collab", "tfidf", "tfidf_learned", "llm", "llm_learned"):
        for at, name in enumerate(rows.columns.names[block]):
            family = next(each for each, pattern in _FAMILIES.items() if re.match(pattern, name))
            found[family].append(rows.columns.families[block][:, at])
    return {family: np.stack(columns, axis=1) for family, columns in found.items() if columns}


def _hr_and_ndcg(rows: CandidateRows, matrix: Any, half: Any, seed: int) -> tuple[float, float]:
    """Return HR@10 and NDCG@10 of the second half of the users by a ranker of the first.

    Queries whose target is no candidate teach a ranker nothing, and are left out of the training.
    """
    query = rows.candidates.query
    is_taught = np.isin(query, query[rows.is_target]) & (half[query] == 0)
    sizes = np.unique(query[is_taught], return_counts=True)[1]
    data = lightgbm.Dataset(matrix[is_taught], rows.is_target[is_taught].astype(int), group=sizes)
    booster = lightgbm.train({**PARAMETERS, "seed": seed}, data, N_TREES)
    is_scored = half[query] == 1
    scores = np.zeros(len(query))
    scores[is_scored] = booster.predict(matrix[is_scored])
    ranks = rows.ranks(scores).take(half[rows.queries.context] == 1)
    found = measure_next_item(ranks, np.zeros(len(ranks), np.int64), Resamples(np.ones((1, 1))))
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
