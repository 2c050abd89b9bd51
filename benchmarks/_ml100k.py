"""MovieLens-100K with plots: every family of columns in and out, before the test begins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score

from llmfeat import (
    ActivityFeatures,
    HistoryFeatures,
    InteractionLog,
    ItemTemplate,
    LearnedSimilarity,
    PastFittedFeatures,
    TextEncoder,
    VectorTable,
)
from llmfeat._base.frames import id_column
from llmfeat.evaluate import LiftData, split_by_time
from llmfeat.evaluate.controls import CollabVectors, tfidf_vectors
from llmfeat.features import SimilarityLearner
from llmfeat.features._summaries import SIDES, STATISTICS

TEMPLATE = ItemTemplate("{title}[ ({year})][. Genres: {genres}][. {plot}]")
N_TREES = 100
_SIDED = ("count", "top", "mean", "decay", "profile")  # the others have no sides
PARAMETERS = {
    "objective": "binary",
    "learning_rate": 0.06,
    "num_leaves": 31,
    "min_child_samples": 50,
    "subsample": 0.8,
    "subsample_freq": 1,
    "colsample_bytree": 0.5,
    "reg_lambda": 5.0,
    "verbose": -1,
}


def load_ml100k(folder: Path, encoder: TextEncoder) -> LiftData:
    """Return ratings and films; a film of 4 stars or more is liked."""
    items = pq.read_table(folder / "items.parquet")
    events = pq.read_table(folder / "interactions.parquet")
    moments = events.column("timestamp").cast(pa.timestamp("s", "UTC")).cast(pa.timestamp("us", "UTC"))
    ids = id_column(items, "item_id", what="the films")
    texts = TEMPLATE.render(items)
    there = [at for at, text in enumerate(texts) if text is not None]
    vectors = np.full((len(texts), encoder.dim), np.nan, dtype=np.float32)
    vectors[there] = encoder.encode([texts[at] for at in there])
    columns = {name: id_column(events, name, what="the ratings") for name in ("user_id", "item_id")}
    return LiftData(
        rows=pa.table({**columns, "timestamp": moments}),
        labels=events.column("label").to_numpy().astype(np.int64),
        log=InteractionLog.from_frame(events, label="label"),
        item_ids=ids,
        texts=texts,
        vectors=VectorTable.from_arrays(ids, vectors),
    )


def ablation(data: LiftData, *, seeds: Iterable[int]) -> list[dict[str, Any]]:
    """Return what each family is worth, fitted on the first nine tenths of the training time, measured on the last.

    Families are statistics (of all sources), sides, and sources (with all statistics); nothing of the test is read.
    """
    split = split_by_time(data.times_us)
    train = data.rows.take(pa.array(split.train))
    families = _families(data, train.take(pa.array(np.searchsorted(split.train, split.fit))), train)
    fit = np.searchsorted(split.train, split.fit)
    valid = np.searchsorted(split.train, split.valid)
    labels = data.labels[split.train]
    whole = [name for name in families if name[0] != "activity"]
    activity = [name for name in families if name[0] == "activity"]
    groups = {
        **{f"statistic {each}": 1 for each in STATISTICS},
        **{f"side {each}": 2 for each in SIDES},
        **{f"source {each}": 0 for each in dict.fromkeys(name[0] for name in whole)},
    }
    wanted = {"base": activity, "whole": activity + whole}
    for group, part in groups.items():
        inside = [name for name in whole if name[part] == group.split()[1]]
        wanted[f"+{group}"] = activity + inside
        wanted[f"-{group}"] = activity + [name for name in whole if name not in inside]
    seeds = list(seeds)
    runs = {
        name: [_auc(families, columns, labels, fit, valid, seed) for seed in seeds] for name, columns in wanted.items()
    }
    rows = []
    for name, found in runs.items():
        gains = np.array(found) - np.array(runs["base" if name[0] == "+" or name == "base" else "whole"])
        rows.append(
            {
                "family": name.lstrip("+-"),
                "change": {"+": "added to no text", "-": "left out of everything"}.get(name[0], name),
                "auc": {
                    "mean": float(np.mean(found)),
                    "diff": float(gains.mean()),
                    "sd": float(gains.std(ddof=1)) if len(gains) > 1 else 0.0,
                },
            }
        )
    return rows


def _families(data: LiftData, fit: pa.Table, rows: pa.Table) -> Mapping[tuple[str, str, str], np.ndarray[Any, Any]]:
    """Return the columns by (source, statistic, side)."""
    tfidf = tfidf_vectors(data.item_ids, data.texts, seed=0)
    dense = tfidf_vectors(data.item_ids, data.texts, seed=0, dim=512)
    statistics = tuple(STATISTICS)
    fixed = HistoryFeatures(data.log, {"tfidf": tfidf, "llm": data.vectors}, statistics=statistics)
    learners = {
        "collab": CollabVectors(),
        "learned_tfidf": SimilarityLearner(dense, LearnedSimilarity()),
        "learned_llm": SimilarityLearner(data.vectors, LearnedSimilarity()),
    }
    past = PastFittedFeatures(data.log, learners, statistics=statistics)
    families: dict[tuple[str, str, str], list[np.ndarray[Any, Any]]] = {}
    for features in (fixed, past):
        matrix = features.fit(fit).transform(rows)
        spec = fixed.spec()
        places = [(statistic, name) for statistic in spec.ordered for name in STATISTICS[statistic].names(spec)]
        sources = list(fixed.vectors if features is fixed else learners)
        for at, (source, (statistic, name)) in enumerate((s, p) for s in sources for p in places):
            side = next((side for side in SIDES if name.startswith(f"{side}_")), "all" if statistic in _SIDED else "")
            families.setdefault((source, statistic, side), []).append(matrix[:, at])
    columns = {key: np.stack(found, axis=1) for key, found in families.items()}
    return {("activity", "", ""): ActivityFeatures(data.log).fit(fit).transform(rows), **columns}


def _auc(
    families: Mapping[tuple[str, str, str], np.ndarray[Any, Any]],
    columns: list[tuple[str, str, str]],
    labels: np.ndarray[Any, Any],
    fit: np.ndarray[Any, Any],
    valid: np.ndarray[Any, Any],
    seed: int,
) -> float:
    matrix = np.concatenate([families[name] for name in columns], axis=1)
    booster = lightgbm.train({**PARAMETERS, "seed": seed}, lightgbm.Dataset(matrix[fit], labels[fit]), N_TREES)
    return float(roc_auc_score(labels[valid], booster.predict(matrix[valid])))
