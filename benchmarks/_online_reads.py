"""A request's reads: one user and 100 candidates of 384 dimensions, as bytes, through Feast, and through llmfeat."""

from __future__ import annotations

import logging
import sqlite3
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import redis
from _online_data import DIM, ITEMS, USERS, add_rows, make_repo, vectors_of

from llmfeat.store import FeastFeatures, FeastVectors, ItemCache, materialize, open_store, view_name

N_CANDIDATES = 100


def measure_reads(store: str, folder: Path, redis_at: str, *, n_items: int, n_requests: int) -> dict[str, Any]:
    """Return p50 and p99 in ms of each way to read, and ratios of medians; the ways take turns at every request."""
    n_users = n_items // 10
    for fingerprint, prefix, count, table in ((ITEMS, "i", n_items, "item"), (USERS, "u", n_users, "user")):
        add_rows(folder / "data" / f"{table}_vectors", fingerprint, prefix, np.arange(count), 1)
    where = redis_at if store == "redis" else None
    repo = make_repo(folder, redis_at=where, users=folder / "data" / "user_vectors")
    materialize(repo, only=("items", "users"))
    arrays = _with_arrays(repo, n_items, n_users)
    bare = _bare(store, folder, redis_at, n_items, n_users)
    features = FeastFeatures(repo, [view_name(ITEMS), view_name(USERS, "user_vectors")])
    cache = ItemCache(FeastVectors(repo, fingerprint=ITEMS))
    cache.warm([f"i{number}" for number in range(n_items)])
    feast = open_store(repo)
    bytes_of = [f"{view_name(ITEMS)}:vector", f"{view_name(USERS, 'user_vectors')}:vector"]
    lists_of = ["item_arrays:item_list", "user_arrays:user_list"]

    def rows(user: str, items: list[str]) -> Any:
        return pa.table({"user_id": [user] * len(items), "item_id": items})

    features.fit(rows("u0", ["i0"]))
    ways: dict[str, Callable[[str, list[str]], Any]] = {
        "bare": bare,
        "feast_to_dict": lambda user, items: arrays.get_online_features(
            lists_of, {"user_id": [user] * len(items), "item_id": items}
        ).to_dict(),
        "get_online_features": lambda user, items: feast.get_online_features(
            bytes_of, {"user_id": [user] * len(items), "item_id": items}, full_feature_names=True
        ),
        "feast_features": lambda user, items: features.transform(rows(user, items)),
    }
    _check(ways, cache)
    draw = np.random.default_rng(0)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for at in range(n_requests + n_requests // 10):
        user = f"u{draw.integers(n_users)}"
        items = [f"i{number}" for number in draw.choice(n_items, N_CANDIDATES, replace=False).tolist()]
        for name, read in ways.items():
            began = time.perf_counter()
            read(user, items)
            if at >= n_requests // 10:
                taken[name].append(1e3 * (time.perf_counter() - began))
    # By itself, as in a server: what Feast leaves in the processor's caches is none of it.
    taken["warm_cache"] = []
    for _ in range(n_requests):
        items = [f"i{number}" for number in draw.choice(n_items, N_CANDIDATES, replace=False).tolist()]
        began = time.perf_counter()
        cache.read(items)
        taken["warm_cache"].append(1e3 * (time.perf_counter() - began))
    p50 = {name: float(np.median(each)) for name, each in taken.items()}
    p99 = {name: float(np.quantile(each, 0.99)) for name, each in taken.items()}
    return {
        "part": "reads",
        "store": store,
        "n_items": n_items,
        "n_requests": n_requests,
        "p50_ms": p50,
        "p99_ms": p99,
        "vs_feast_to_dict": p50["feast_to_dict"] / p50["feast_features"],
        "over_feast_share": p50["feast_features"] / p50["get_online_features"] - 1,
        "warm_cache_ms": p50["warm_cache"],
    }


def _check(ways: dict[str, Callable[[str, list[str]], Any]], cache: ItemCache) -> None:
    """Raise unless every way gives the vectors."""
    items = vectors_of(np.array([7, 3]), 1)
    user = vectors_of(np.array([2]), 1)[0]
    said = ways["feast_to_dict"]("u2", ["i7", "i3"])
    assert np.array_equal(np.array(said["item_list"], dtype=np.float32), items)
    matrix = ways["feast_features"]("u2", ["i7", "i3"])
    assert np.array_equal(matrix[:, 1 : DIM + 1], items)
    assert np.array_equal(matrix[1, DIM + 2 :], user)
    assert np.array_equal(cache.read(["i7", "i3"]), items)
    assert len(ways["bare"]("u2", ["i7", "i3"])) == 3
    assert ways["get_online_features"]("u2", ["i7"]).proto.results


def _with_arrays(repo: Path, n_items: int, n_users: int) -> Any:
    """Return a Feast store that holds the same vectors as Array(Float32), as Feast's documentation has them."""
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Array, Float32, String

    store = open_store(repo)
    logging.getLogger("feast").setLevel(logging.ERROR)
    for prefix, count in (("item", n_items), ("user", n_users)):
        path = repo / "data" / f"{prefix}_arrays.parquet"
        frame = pd.DataFrame(
            {
                f"{prefix}_id": [f"{prefix[0]}{number}" for number in range(count)],
                f"{prefix}_list": list(vectors_of(np.arange(count), 1)),
                "at": pd.Timestamp("2024-01-01", tz="UTC"),
            }
        )
        frame.to_parquet(path)
        entity = Entity(name=prefix, join_keys=[f"{prefix}_id"], value_type=ValueType.STRING)
        view = FeatureView(
            name=f"{prefix}_arrays",
            entities=[entity],
            schema=[
                Field(name=f"{prefix}_id", dtype=String),
                Field(name=f"{prefix}_list", dtype=Array(Float32)),
            ],
            source=FileSource(name=f"{prefix}_arrays_file", path=str(path), timestamp_field="at"),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store.apply([entity, view])
            for begin in range(0, count, 5000):
                store.write_to_online_store(f"{prefix}_arrays", frame.iloc[begin : begin + 5000])
    return store


def _bare(store: str, folder: Path, redis_at: str, n_items: int, n_users: int) -> Callable[[str, list[str]], Any]:
    """Return what reads the same bytes and does nothing else."""
    cells = [
        (f"{prefix}{number}", row.tobytes())
        for prefix, count in (("i", n_items), ("u", n_users))
        for number, row in enumerate(vectors_of(np.arange(count), 1))
    ]
    if store == "sqlite":
        connection = sqlite3.connect(folder / "bare.db")
        connection.execute("CREATE TABLE bare (key TEXT PRIMARY KEY, value BLOB)")
        connection.executemany("INSERT INTO bare VALUES (?, ?)", cells)
        connection.commit()
        marks = ", ".join("?" * (N_CANDIDATES + 1))
        statement = f"SELECT key, value FROM bare WHERE key IN ({marks})"

        def read(user: str, items: list[str]) -> Any:
            keys = [user, *items]
            asked = statement if len(keys) == N_CANDIDATES + 1 else statement.replace(marks, ", ".join("?" * len(keys)))
            return connection.execute(asked, keys).fetchall()

        return read
    host, _, port = redis_at.partition(":")
    client = redis.Redis(host=host, port=int(port), db=1)
    client.mset(dict(cells))
    return lambda user, items: client.mget([user, *items])
