"""Speed of the similarity features: rows per second offline, milliseconds per request, ratio to the bare product.

Synthetic histories of 50 events and vectors of 384 dimensions; medians of repeated, interleaved runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from llmfeat import HistoryFeatures, InteractionLog, VectorTable
from llmfeat.features._kernel import History, KernelSpec, similarity_features
from llmfeat.history import HISTORY_AS_OF_US

DIM = 384
N_ITEMS = 20_000
EVENTS_PER_USER = 150
ROWS_PER_USER = 100
N_CANDIDATES = 200


def measure_speed(*, quick: bool) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return the figures, and the seconds of every run."""
    n_users, n_repeats = (20, 2) if quick else (1000, 7)
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((N_ITEMS, DIM)).astype(np.float32)
    n_events = n_users * EVENTS_PER_USER
    history = History(draw.integers(0, N_ITEMS, n_events), draw.integers(0, 2, n_events).astype(np.float32))
    users = np.repeat(np.arange(n_users), ROWS_PER_USER)
    first = users * EVENTS_PER_USER
    stop = first + draw.integers(0, EVENTS_PER_USER + 1, len(users))
    candidates = draw.integers(0, N_ITEMS, len(users))
    spec = KernelSpec()
    window = vectors[: spec.max_events].T.copy()
    blocks = [vectors[candidates[at : at + ROWS_PER_USER]] for at in range(0, len(users), ROWS_PER_USER)]
    asked = slice(0, N_CANDIDATES)
    request = vectors[candidates[asked]], np.zeros(N_CANDIDATES, np.int64)
    events = History(draw.integers(0, N_CANDIDATES, spec.max_events), history.labels[: spec.max_events])
    full = np.full(N_CANDIDATES, spec.max_events)

    def offline() -> None:
        similarity_features(vectors, candidates, first, stop, history, spec)

    def bare_product() -> None:
        for block in blocks:
            block @ window

    def one_request() -> None:
        similarity_features(request[0], np.arange(N_CANDIDATES), request[1], full, events, spec)

    transformer, rows_of_request = _transformer(vectors, draw)

    def one_transform() -> None:
        transformer.transform(rows_of_request)

    tasks: dict[str, Callable[[], None]] = {
        "offline": offline,
        "bare_product": bare_product,
        "one_request": one_request,
        "one_transform": one_transform,
    }
    # What takes a millisecond is repeated, so that a run is more than the clock's noise.
    times = {"offline": 1, "bare_product": 1, "one_request": 50, "one_transform": 50}
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()
    for _ in range(n_repeats):
        for name, task in tasks.items():
            started = time.perf_counter()
            for _ in range(times[name]):
                task()
            seconds[name].append((time.perf_counter() - started) / times[name])
    median = {name: statistics.median(runs) for name, runs in seconds.items()}
    figures = {
        "rows_per_s": len(users) / median["offline"],
        "request_ms": 1000 * median["one_request"],
        "transform_request_ms": 1000 * median["one_transform"],
        "over_bare_product": median["offline"] / median["bare_product"],
    }
    n_rows = {"one_request": N_CANDIDATES, "one_transform": N_CANDIDATES}
    return figures, [
        {"part": "speed", "task": name, "seconds": runs, "n_rows": n_rows.get(name, len(users))}
        for name, runs in seconds.items()
    ]


def _transformer(vectors: np.ndarray[Any, Any], draw: np.random.Generator) -> tuple[HistoryFeatures, pa.Table]:
    """Return the transformer over a log of one user, as a server has it, and the rows of a request."""
    ids = pa.array([str(item) for item in range(len(vectors))])
    seen = draw.integers(0, N_ITEMS, EVENTS_PER_USER)
    log = InteractionLog.from_histories(pa.table({"history_item_ids": [[str(item) for item in seen]]}))
    features = HistoryFeatures(log, {"text": VectorTable(ids, vectors, fingerprint="synthetic")})
    rows = pa.table(
        {
            "user_id": ["0"] * N_CANDIDATES,
            "item_id": ids.take(pa.array(draw.choice(N_ITEMS, N_CANDIDATES, replace=False))),
            "timestamp": pa.array([HISTORY_AS_OF_US] * N_CANDIDATES, pa.timestamp("us", "UTC")),
        }
    )
    return features.fit(rows), rows
