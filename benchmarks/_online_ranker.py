"""`OnlineRanker` end to end: histories from the store, vectors from this process, the kernel, 300 trees of LightGBM."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _online_data import ITEMS, add_rows, make_repo
from lightgbm import LGBMRanker

from llmfeat import HistoryFeatures, InteractionLog, OnlineRanker, RankerBundle, RankingPipeline, VectorTable
from llmfeat.store import materialize

N_CANDIDATES, N_TREES = 100, 300
CLIENTS = (1, 8, 32)
_EVENTS_PER_USER = 80
_NOW = 1_760_000_000


def measure_ranker(store: str, folder: Path, redis_at: str, *, n_items: int, n_requests: int) -> dict[str, Any]:
    """Return p50 and p99 in ms of requests of one user and 100 candidates."""
    draw = np.random.default_rng(0)
    n_users = max(20, n_items // 20)
    add_rows(folder / "data" / "item_vectors", ITEMS, "i", np.arange(n_items), 1)
    n_events = n_users * _EVENTS_PER_USER
    events = pa.table(
        {
            "user_id": [f"u{number}" for number in np.repeat(np.arange(n_users), _EVENTS_PER_USER).tolist()],
            "item_id": [f"i{number}" for number in draw.integers(0, n_items, n_events).tolist()],
            "timestamp": 1_700_000_000 + draw.integers(0, 50_000_000, n_events),
            "label": draw.integers(0, 2, n_events),
        }
    )
    InteractionLog.from_frame(events, label="label").save(folder / "data" / "log")
    log = InteractionLog.open(folder / "data" / "log")
    table = VectorTable.open(folder / "data" / "item_vectors")
    trained = events.slice(0, min(n_events, 20_000))
    features = HistoryFeatures(log, {"llm": table})
    ranker = LGBMRanker(n_estimators=N_TREES, verbose=-1)
    pipeline = RankingPipeline([("features", features), ("ranker", ranker)])
    pipeline.fit(trained, trained["label"].to_numpy())
    repo = make_repo(folder, redis_at=redis_at if store == "redis" else None, log=folder / "data" / "log")
    materialize(repo)
    bundle = RankerBundle.of_pipeline(pipeline, name="bench")
    requests = [
        (
            f"u{draw.integers(n_users)}",
            [f"i{number}" for number in draw.choice(n_items, N_CANDIDATES, replace=False).tolist()],
        )
        for _ in range(n_requests)
    ]
    found: dict[str, dict[str, float]] = {}
    with OnlineRanker(bundle, repo=repo, items=table, cache_items=2 * n_items) as online:
        online.warm([f"i{number}" for number in range(n_items)])
        _check(online, pipeline, requests[0])
        for clients in CLIENTS:
            found[f"clients_{clients}"] = _times(online, requests, clients=clients)
        _delay(online)
        found["store_1_ms_later"] = _times(online, requests[: max(20, n_requests // 4)], clients=1)
    with OnlineRanker(bundle, repo=repo, cache_items=1) as cold:
        # Not one vector stays in this process.
        found["cold"] = _times(cold, requests[: max(20, n_requests // 4)], clients=1)
    return {
        "part": "ranker",
        "store": store,
        "n_items": n_items,
        "n_users": n_users,
        "n_columns": len(bundle.columns),
        "requests": found,
        "online_p99_ms": found["clients_1"]["p99_ms"],
    }


def _check(online: OnlineRanker, pipeline: Any, request: tuple[str, list[str]]) -> None:
    """Raise unless a request has the scores that the pipeline gives offline, to the bit."""
    user, items = request
    rows = pa.table({"user_id": [user] * len(items), "item_id": items, "timestamp": [_NOW] * len(items)})
    scores = pipeline.predict(rows)
    ranking = online.rank(user, items, now=_NOW)
    assert np.array_equal(np.sort(scores)[::-1], ranking.scores)
    assert ranking.n_events == _EVENTS_PER_USER


def _times(online: OnlineRanker, requests: list[tuple[str, list[str]]], *, clients: int) -> dict[str, float]:
    def one(request: tuple[str, list[str]]) -> float:
        began = time.perf_counter()
        ranking = online.rank(*request, now=_NOW)
        assert not ranking.degraded
        return 1e3 * (time.perf_counter() - began)

    for request in requests[:20]:
        one(request)
    began = time.perf_counter()
    if clients == 1:
        taken = [one(request) for request in requests]
    else:
        with ThreadPoolExecutor(clients) as pool:
            taken = list(pool.map(one, requests))
    seconds = time.perf_counter() - began
    return {
        "p50_ms": float(np.median(taken)),
        "p99_ms": float(np.quantile(taken, 0.99)),
        "requests_per_s": len(requests) / seconds,
    }


def _delay(online: OnlineRanker) -> None:
    """Add a millisecond to every call of the store, as a network does."""
    for view in (online.history.histories, online.history.events):
        read = view.dialect.read

        def late(ids: Any, fields: Any, read: Any = read) -> Any:
            time.sleep(0.001)
            return read(ids, fields)

        view.dialect.read = late
