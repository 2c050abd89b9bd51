"""The whole road once, on MovieLens-100K: model, vectors, feature store, features, rankers, report."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmfeat._base.frames import id_column
from llmfeat._base.progress import spinner
from llmfeat.artifact import REFERENCE_NUMERICS
from llmfeat.encode import TextEncoder
from llmfeat.errors import LLMFeatWarning
from llmfeat.evaluate.arms import ARMS
from llmfeat.evaluate.click import ClickTask
from llmfeat.evaluate.inputs import InputSpec, read_inputs
from llmfeat.evaluate.lift import LiftResult, measure_lift
from llmfeat.evaluate.metrics import Resamples, measure
from llmfeat.evaluate.movielens import load_movielens
from llmfeat.evaluate.numbers import interval_json, number
from llmfeat.evaluate.ranker import fit_ranker
from llmfeat.evaluate.run import EncodedCatalogue, LiftFiles, encode_catalogue, lift_body, lift_data, look, write_lift
from llmfeat.evaluate.serving import ServingCheck, compare_serving, sample_requests
from llmfeat.evaluate.split import TimeSplit
from llmfeat.evaluate.task import LiftConfig, LiftData
from llmfeat.export import cached_artifact
from llmfeat.history import InteractionLog
from llmfeat.store import FeastVectors, apply_repo, init_repo, open_store, view_name, write_online
from llmfeat.text import ItemTemplate

__all__ = ["TEMPLATE", "run_demo"]

TEMPLATE = ItemTemplate("{title}[ ({year})][. Genres: {genres}]")

Say = Callable[[str], None]


def run_demo(out: Path, *, feature_repo: Path, config: LiftConfig, say: Say, progress: bool = True) -> LiftFiles:
    """Run the demo, saying each step, and return what it wrote into `out`.

    It is ``llmfeat lift`` on MovieLens-100K, with the feature store and the rankers of production added.
    """
    started = time.perf_counter()
    with spinner("fetching MovieLens-100K", shown=progress):
        movies = load_movielens()
    spec = InputSpec(items=movies.items, interactions=movies.ratings, template=TEMPLATE, rating="rating")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LLMFeatWarning)  # all that is handled is among the findings
        inputs = read_inputs(spec)
        findings = look(inputs, config)
    say(f"data        MovieLens-100K: {inputs.n_rows:,} ratings of {len(inputs.item_ids):,} films")
    with spinner("exporting all-MiniLM-L6-v2 to ONNX", shown=progress):
        artifact = cached_artifact("bundled:minilm")
    model = artifact.spec
    say(
        f"model       {model.source}, {model.dim} dimensions, fingerprint {model.fingerprint[:12]}: cosine to "
        f"{model.parity['reference']} >= {model.parity['cosine_min']:.6f} on {model.parity['n_texts']} texts"
    )
    init_repo(feature_repo)
    # Not the fastest, but the same numbers on every machine.
    encoder = TextEncoder(artifact, backend=REFERENCE_NUMERICS)
    table = feature_repo / "data" / "item_vectors"
    catalogue = encode_catalogue(inputs, encoder, out=table, say=say, progress=progress)
    _store(feature_repo, table, catalogue, say=say, progress=progress)
    data = lift_data(inputs, catalogue)
    result = measure_lift(data, config, progress=progress)
    say(
        f"arms        {sum(map(len, result.runs.values())) * len(ARMS)} fits over lags of {list(config.lags_s)} s, "
        f"{result.n_fits_reused} of them reused"
    )
    split, log = _split(result), data.log
    assert log is not None, "MovieLens has times"
    with spinner("fitting the lambdarank pipelines", shown=progress):
        pipelines = {
            name: fit_ranker(data.rows, data.labels, split, log, vectors, seed=config.seed)
            for name, vectors in {"no_text": None, "llm": {"llm": catalogue.vectors}}.items()
        }
    check = _check_serving(data, log, split, pipelines["llm"], feature_repo, seed=config.seed, progress=progress)
    is_equal = check.features_equal and check.scores_equal
    say(
        f"serving     {check.n_rows} rows x {check.n_columns} columns in {check.n_requests} requests, vectors from the "
        f"online store: {'equal' if is_equal else 'NOT EQUAL'} to those from parquet, byte for byte"
    )
    lift = lift_body(
        data,
        config,
        result,
        catalogue,
        findings=findings,
        n_examples=0,
        command="llmfeat demo",
        progress=progress,
    )
    lift["data"]["name"] = "MovieLens-100K"
    lift["ranker"] = _ranker_json(data, split, pipelines, config)
    lift["checks"] = {
        "online_equals_offline": is_equal and lift["checks"]["online_equals_offline"],
        "rows_compared": check.n_rows,
        "columns_compared": check.n_columns,
        "requests": check.n_requests,
        "lift": lift["checks"],
    }
    lift["cost"]["total_s"] = time.perf_counter() - started
    return write_lift(lift, out)


def _split(result: LiftResult) -> TimeSplit:
    assert isinstance(result.task, ClickTask), "the demo's task"
    return result.task.splits[0]


def _store(repo: Path, table: Path, catalogue: EncodedCatalogue, *, say: Say, progress: bool) -> None:
    name = view_name(catalogue.vectors.fingerprint)
    with spinner("feast apply", shown=progress):
        if name not in {view.name for view in open_store(repo).list_feature_views()}:
            apply_repo(repo)
    written = write_online(repo, table, progress=progress)
    say(
        f"store       view {name}: {written.written} vectors written online and read back, "
        f"{written.unchanged} unchanged, {written.cleared} cleared"
    )


def _ranker_json(data: LiftData, split: TimeSplit, pipelines: dict[str, Any], config: LiftConfig) -> dict[str, Any]:
    """Return the lambdarank pipelines' metrics within users: their scores do not compare across users."""
    rows = data.rows.take(pa.array(split.test))
    encoded = id_column(rows, "user_id", what="the rows").dictionary_encode()
    users = encoded.indices.cast(pa.int64()).to_numpy()
    resamples = Resamples.draw(len(encoded.dictionary), n_resamples=config.n_resamples, seed=config.seed)
    estimates = {
        name: measure(np.asarray(pipeline.predict(rows)), data.labels[split.test], users, resamples)
        for name, pipeline in pipelines.items()
    }
    metrics = ("user_auc", "ndcg@10")
    return {
        "model": "lightgbm.LGBMRanker, lambdarank, groups = users",
        "arms": {arm: {name: number(found[name].point) for name in metrics} for arm, found in estimates.items()},
        "llm_vs_no_text": {
            name: interval_json(estimates["llm"][name] - estimates["no_text"][name]) for name in metrics
        },
    }


def _check_serving(
    data: LiftData, log: InteractionLog, split: TimeSplit, pipeline: Any, repo: Path, *, seed: int, progress: bool
) -> ServingCheck:
    test_users = data.rows.column("user_id").take(pa.array(split.test)).unique()
    online = FeastVectors(repo, fingerprint=data.vectors.fingerprint)
    requests = sample_requests(log, test_users, data.item_ids, seed=seed)
    with spinner("serving requests from the online store", shown=progress):
        return compare_serving(pipeline, requests, parameter="features__history__vectors", online={"llm": online})
