"""The whole road once, on MovieLens-100K: model, vectors, feature store, features, rankers, report."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmfeat._base.files import atomic_write
from llmfeat._base.frames import id_column, label_column
from llmfeat._base.progress import spinner
from llmfeat._version import __version__
from llmfeat.artifact import REFERENCE_NUMERICS, ModelArtifact
from llmfeat.encode import EncodeSummary, TextEncoder, VectorTable, encode_table
from llmfeat.evaluate.arms import SEARCH_SPACE
from llmfeat.evaluate.lift import LiftConfig, LiftData, LiftResult, measure_lift, number
from llmfeat.evaluate.metrics import Resamples, interval, measure
from llmfeat.evaluate.movielens import MovieLens, load_movielens
from llmfeat.evaluate.ranker import fit_ranker
from llmfeat.evaluate.report import render_report
from llmfeat.evaluate.serving import ServingCheck, compare_serving, sample_requests
from llmfeat.evaluate.verdict import judge
from llmfeat.export import cached_artifact
from llmfeat.history import InteractionLog
from llmfeat.store import FeastVectors, apply_repo, init_repo, open_store, view_name, write_online
from llmfeat.text import ItemTemplate

__all__ = ["TEMPLATE", "DemoResult", "run_demo"]

TEMPLATE = ItemTemplate("{title}[ ({year})][. Genres: {genres}]")
_LIKE_THRESHOLD = 4.0
_SAMPLE_TEXTS = 256

Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoResult:
    """What the demo wrote.

    Attributes
    ----------
    lift : dict
        The content of ``lift.json``.
    json_path, report_path : Path
        Where the two files are.
    """

    lift: dict[str, Any]
    json_path: Path
    report_path: Path


@dataclass(frozen=True)
class _Catalogue:
    vectors: VectorTable
    table: Path
    summary: EncodeSummary
    texts: list[str | None]
    texts_per_s: float


def run_demo(out: Path, *, feature_repo: Path, config: LiftConfig, say: Say, progress: bool = True) -> DemoResult:
    """Run the demo, saying each step, and return what it wrote into `out`."""
    started = time.perf_counter()
    with spinner("fetching MovieLens-100K", shown=progress):
        movies = load_movielens()
    say(f"data        MovieLens-100K: {len(movies.ratings):,} ratings of {len(movies.items):,} films")
    with spinner("exporting all-MiniLM-L6-v2 to ONNX", shown=progress):
        artifact = cached_artifact("bundled:minilm")
    spec = artifact.spec
    say(
        f"model       {spec.source}, {spec.dim} dimensions, fingerprint {spec.fingerprint[:12]}: cosine to "
        f"{spec.parity['reference']} >= {spec.parity['cosine_min']:.6f} on {spec.parity['n_texts']} texts"
    )
    init_repo(feature_repo)
    catalogue = _encode(movies, artifact, feature_repo, say=say, progress=progress)
    _store(feature_repo, catalogue, say=say, progress=progress)
    data = _lift_data(movies, catalogue)
    result = measure_lift(data, config, progress=progress)
    n_fits = sum(map(len, result.arms.values()))
    say(f"arms        {n_fits} fits over lags of {list(config.lags_s)} s, {result.n_fits_reused} of them reused")
    with spinner("fitting the lambdarank pipelines", shown=progress):
        pipelines = {
            name: fit_ranker(data.rows, data.labels, result.split, data.log, vectors, seed=config.seed)
            for name, vectors in {"no_text": None, "llm": {"llm": catalogue.vectors}}.items()
        }
    ranker = _ranker_json(data, result, pipelines, config)
    with spinner("serving requests from the online store", shown=progress):
        check = _check_serving(data, result, pipelines["llm"], feature_repo, seed=config.seed)
    say(
        f"serving     {check.n_rows} rows x {check.n_columns} columns in {check.n_requests} requests, vectors from the "
        f"online store: {'equal' if check.features_equal and check.scores_equal else 'NOT EQUAL'} to those from "
        "parquet, byte for byte"
    )
    lift = _lift_json(data, config, result, artifact, catalogue, ranker, check, total_s=time.perf_counter() - started)
    json_path, report_path = out / "lift.json", out / "report.html"
    atomic_write(json_path, (json.dumps(lift, indent=2, allow_nan=False) + "\n").encode())
    atomic_write(report_path, render_report(lift).encode())
    return DemoResult(lift, json_path, report_path)


def _encode(movies: MovieLens, artifact: ModelArtifact, repo: Path, *, say: Say, progress: bool) -> _Catalogue:
    # Not the fastest, but the same numbers on every machine.
    encoder = TextEncoder(artifact, backend=REFERENCE_NUMERICS)
    table = repo / "data" / "item_vectors"
    # MovieLens does not say when a film's title became known: the epoch that this declares is the honest answer.
    known = pa.array(np.zeros(len(movies.items), dtype=np.int64)).cast(pa.timestamp("us", "UTC"))
    items = movies.items.append_column("valid_from", known)
    summary = encode_table(
        items, template=TEMPLATE, encoder=encoder, out=table, valid_from="valid_from", progress=progress
    )
    say(
        f"encode      {summary.new} new, {summary.changed} changed, {summary.unchanged} unchanged, "
        f"{summary.missing} without text; {summary.tokens:,} tokens in {summary.seconds:.1f} s"
    )
    texts = TEMPLATE.render(items)
    sample = [text for text in texts if text is not None][:_SAMPLE_TEXTS]
    encoder.encode(sample[:8])  # the first call opens the session
    started = time.perf_counter()
    encoder.encode(sample)
    rate = len(sample) / (time.perf_counter() - started)
    return _Catalogue(VectorTable.open(table), table, summary, texts, rate)


def _store(repo: Path, catalogue: _Catalogue, *, say: Say, progress: bool) -> None:
    name = view_name(catalogue.vectors.fingerprint)
    with spinner("feast apply", shown=progress):
        if name not in {view.name for view in open_store(repo).list_feature_views()}:
            apply_repo(repo)
    written = write_online(repo, catalogue.table, progress=progress)
    say(
        f"store       view {name}: {written.written} vectors written online and read back, "
        f"{written.unchanged} unchanged, {written.cleared} cleared"
    )


def _lift_data(movies: MovieLens, catalogue: _Catalogue) -> LiftData:
    ratings = movies.ratings
    moments = ratings.column("timestamp").cast(pa.timestamp("us", "UTC"))
    columns = {name: id_column(ratings, name, what="the ratings") for name in ("user_id", "item_id")}
    return LiftData(
        rows=pa.table({**columns, "timestamp": moments}),
        labels=(label_column(ratings, "rating", what="the ratings") >= _LIKE_THRESHOLD).astype(np.int64),
        log=InteractionLog.from_frame(ratings, rating="rating", like_threshold=_LIKE_THRESHOLD),
        item_ids=id_column(movies.items, "item_id", what="the films"),
        texts=catalogue.texts,
        vectors=catalogue.vectors,
    )


def _ranker_json(data: LiftData, result: LiftResult, pipelines: dict[str, Any], config: LiftConfig) -> dict[str, Any]:
    """Return the lambdarank pipelines' metrics within users: their scores do not compare across users."""
    test = result.split.test
    rows = data.rows.take(pa.array(test))
    encoded = id_column(rows, "user_id", what="the rows").dictionary_encode()
    users = encoded.indices.cast(pa.int64()).to_numpy()
    resamples = Resamples.draw(len(encoded.dictionary), n_resamples=config.n_resamples, seed=config.seed)
    estimates = {
        name: measure(pipeline.predict(rows), data.labels[test], users, resamples)
        for name, pipeline in pipelines.items()
    }
    metrics = ("user_auc", "ndcg@10")
    gains = {name: estimates["llm"][name] - estimates["no_text"][name] for name in metrics}
    return {
        "model": "lightgbm.LGBMRanker, lambdarank, groups = users",
        "arms": {arm: {name: number(found[name].point) for name in metrics} for arm, found in estimates.items()},
        "llm_vs_no_text": {
            name: {"diff": number(gain.point), "ci95": list(map(number, interval(gain)))}
            for name, gain in gains.items()
        },
    }


def _check_serving(data: LiftData, result: LiftResult, pipeline: Any, repo: Path, *, seed: int) -> ServingCheck:
    test_users = data.rows.column("user_id").take(pa.array(result.split.test)).unique()
    online = FeastVectors(repo, fingerprint=data.vectors.fingerprint)
    requests = sample_requests(data.log, test_users, data.item_ids, seed=seed)
    return compare_serving(pipeline, requests, parameter="features__history__vectors", online={"llm": online})


def _lift_json(
    data: LiftData,
    config: LiftConfig,
    result: LiftResult,
    artifact: ModelArtifact,
    catalogue: _Catalogue,
    ranker: dict[str, Any],
    check: ServingCheck,
    *,
    total_s: float,
) -> dict[str, Any]:
    headline = config.lags_s[0]
    lifts = {lag_s: result.lift_json(lag_s) for lag_s in config.lags_s}
    fits = result.arms[headline]
    return {
        "schema": 1,
        "task": "click",
        "data": {
            "name": "MovieLens-100K",
            "items": len(data.item_ids),
            "users": len(data.log.user_ids),
            "train_rows": len(result.split.train),
            "test_rows": len(result.split.test),
            "test_users": len(data.rows.column("user_id").take(pa.array(result.split.test)).unique()),
            "test_rows_by_slice": {name: int(np.count_nonzero(rows)) for name, rows in result.slices.items()},
            "test_positive_share": float(data.labels[result.split.test].mean()),
            "items_without_text": sum(text is None for text in data.texts),
        },
        "encoder": {
            "model": artifact.spec.source,
            "fingerprint": artifact.fingerprint,
            "dim": artifact.spec.dim,
            "backend": REFERENCE_NUMERICS,
            "template": TEMPLATE.template,
            "table_fingerprint": data.vectors.fingerprint,
            "parity": dict(artifact.spec.parity),
        },
        "arms": result.arms_json(headline),
        "lift": lifts[headline],
        "lags": {str(lag_s): lift for lag_s, lift in lifts.items()},
        "ranker": ranker,
        "verdict": judge(result.estimates, lags_s=config.lags_s),
        "cost": {
            "texts": len(data.item_ids),
            "encode_s": catalogue.summary.seconds,
            "texts_per_s": catalogue.texts_per_s,
            "fit_s": sum(arm.fit_s for by_arm in result.arms.values() for arm in by_arm.values()),
            "peak_rss_mb": _peak_rss_mb(),
            "total_s": total_s,
        },
        "checks": {
            "online_equals_offline": check.features_equal and check.scores_equal,
            "rows_compared": check.n_rows,
            "columns_compared": check.n_columns,
            "requests": check.n_requests,
        },
        "tuning": {
            "space": [dict(space) for space in SEARCH_SPACE],
            "chosen_by": "log loss on the last tenth of the training time, early stopping",
            "arms": {
                name: {"columns": arm.n_columns, "chosen": dict(arm.chosen), "trials": [dict(t) for t in arm.trials]}
                for name, arm in fits.items()
            },
        },
        "method": {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in asdict(config).items()},
            "like_threshold": _LIKE_THRESHOLD,
            "intervals": "95 %, paired bootstrap over test users",
        },
        "environment": _environment(),
    }


def _environment() -> dict[str, Any]:
    names = ("feast", "lightgbm", "numpy", "onnxruntime", "scikit-learn")
    return {
        "llmfeat": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        **{name: importlib.metadata.version(name) for name in names},
    }


def _peak_rss_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
