"""Writing to the online store: how fast, while others read, and killed at any moment."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _online_data import DIM, ITEMS, add_rows, is_whole, make_repo, vectors_of

from llmfeat.store import FeastVectors, write_online

_FEAST_YAML = """project: plain_{name}
provider: local
registry: data/registry.db
online_store:
{online}
entity_key_serialization_version: 3
"""


def measure_materialize(store: str, folder: Path, redis_at: str, *, n_rows: int, n_rounds: int) -> dict[str, Any]:
    """Return the seconds of Feast's own `materialize` and of ours, in turn, each time with all rows changed."""
    repo, table = _repo(store, folder / "ours", redis_at, n_rows)
    write_online(repo, table)
    plain = _PlainFeast(store, folder / "feast", redis_at)
    plain.write(n_rows, 1)
    plain.materialize()
    seconds: dict[str, list[float]] = {"feast": [], "ours": []}
    for version in range(2, 2 + n_rounds):
        plain.write(n_rows, version)
        seconds["feast"].append(_timed(plain.materialize))
        add_rows(table, ITEMS, "i", np.arange(n_rows), version)
        began = time.perf_counter()
        done = write_online(repo, table)
        seconds["ours"].append(time.perf_counter() - began)
        assert done.written == n_rows
    again = _timed(lambda: write_online(repo, table))
    return {
        "part": "materialize",
        "store": store,
        "n_rows": n_rows,
        "feast_s": seconds["feast"],
        "ours_s": seconds["ours"],
        "nothing_changed_s": again,
        "materialize_speedup": float(np.median(seconds["feast"]) / np.median(seconds["ours"])),
    }


def measure_readers(
    store: str, folder: Path, redis_at: str, *, n_rows: int, n_readers: int, seconds: float
) -> dict[str, Any]:
    """Return how many reads failed, or gave a vector that is not whole, while a process wrote again and again."""
    repo, table = _repo(store, folder, redis_at, n_rows)
    write_online(repo, table)
    context = _processes()
    ready, stop, answers = context.Barrier(n_readers + 1), context.Event(), context.Queue()
    readers = [
        context.Process(target=_read_on, args=(str(repo), n_rows, number, ready, stop, answers))
        for number in range(n_readers)
    ]
    for reader in readers:
        reader.start()
    ready.wait()
    began, version = time.perf_counter(), 1
    while time.perf_counter() - began < seconds:
        version += 1
        add_rows(table, ITEMS, "i", np.arange(n_rows), version)
        write_online(repo, table)
    stop.set()
    found = [answers.get() for _ in readers]
    for reader in readers:
        reader.join()
    return {
        "part": "readers",
        "store": store,
        "n_rows": n_rows,
        "n_readers": n_readers,
        "seconds": time.perf_counter() - began,
        "n_materialized": version - 1,
        "n_reads": sum(each["reads"] for each in found),
        "reader_failures": sum(each["failures"] for each in found),
        "said": [each["said"] for each in found if each["said"]][:3],
    }


def _read_on(repo: str, n_rows: int, number: int, ready: Any, stop: Any, answers: Any) -> None:
    warnings.simplefilter("ignore")
    draw = np.random.default_rng(number)
    vectors = FeastVectors(repo, fingerprint=ITEMS)
    vectors.lookup(["i0"])
    n_reads = n_failures = 0
    said = ""
    ready.wait()
    while not stop.is_set():
        numbers = draw.choice(n_rows, 100, replace=False)
        n_reads += 1
        try:
            found = vectors.lookup([f"i{one}" for one in numbers.tolist()])
            if not is_whole(found, numbers).all():
                n_failures += 1
                said = "a vector is missing or is not whole"
        except Exception as error:  # whatever it is, a reader failed: counted, and the words kept
            n_failures += 1
            said = repr(error)
    answers.put({"reads": n_reads, "failures": n_failures, "said": said})


def measure_kills(store: str, folder: Path, redis_at: str, *, n_rows: int, n_kills: int) -> dict[str, Any]:
    """Return how many rows were lost, stale or mixed after runs that were killed and repeated."""
    repo, table = _repo(store, folder, redis_at, n_rows)
    began = time.perf_counter()
    write_online(repo, table)
    whole_s = time.perf_counter() - began
    draw = random.Random(0)
    numbers, n_wrong, n_cut = np.arange(n_rows), 0, 0
    serving = FeastVectors(repo, fingerprint=ITEMS)
    ids = [f"i{number}" for number in numbers.tolist()]
    for version in range(2, 2 + n_kills):
        add_rows(table, ITEMS, "i", numbers, version)
        n_cut += _killed(repo, table, after_s=draw.uniform(0, whole_s))
        halfway = serving.lookup(ids)
        n_wrong += int(np.count_nonzero(~is_whole(halfway, numbers)))  # old or new, and nothing between
        write_online(repo, table)
        held = serving.lookup(ids)
        n_wrong += int(np.count_nonzero((held != vectors_of(numbers, version)).any(axis=1)))
    return {
        "part": "kills",
        "store": store,
        "n_rows": n_rows,
        "n_kills": n_kills,
        "n_cut_short": n_cut,
        "whole_s": whole_s,
        "kill_rows_wrong": n_wrong,
    }


def _killed(repo: Path, table: Path, *, after_s: float) -> bool:
    """Materialize in a process of its own, kill it some seconds after it began, and say whether it was still at it."""
    context = _processes()
    began, ended = context.Event(), context.Event()
    process = context.Process(target=_write_once, args=(str(repo), str(table), began, ended))
    process.start()
    began.wait()
    time.sleep(after_s)
    process.kill()  # SIGKILL
    process.join()
    return not ended.is_set()


def _write_once(repo: str, table: str, began: Any, ended: Any) -> None:
    warnings.simplefilter("ignore")
    began.set()
    write_online(repo, table)
    ended.set()


def _processes() -> Any:
    """Return what makes processes that have imported Feast already, which takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["feast", "llmfeat.store", "_online_writes"])
    return context


def _repo(store: str, folder: Path, redis_at: str, n_rows: int) -> tuple[Path, Path]:
    table = folder / "data" / "item_vectors"
    add_rows(table, ITEMS, "i", np.arange(n_rows), 1)
    return make_repo(folder, redis_at=redis_at if store == "redis" else None), table


class _PlainFeast:
    """A repository as Feast's documentation has it: its defaults, a parquet file, vectors as Array(Float32)."""

    def __init__(self, store: str, folder: Path, redis_at: str) -> None:
        from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
        from feast.types import Array, Float32, String

        (folder / "data").mkdir(parents=True)
        online = {
            "sqlite": "  type: sqlite\n  path: data/online.db",
            "redis": f"  type: redis\n  connection_string: {redis_at},db=2",
        }
        yaml = _FEAST_YAML.format(name=f"{os.getpid()}_{store}", online=online[store])
        (folder / "feature_store.yaml").write_text(yaml)
        self._path = folder / "data" / "vectors.parquet"
        self._store = FeatureStore(repo_path=str(folder))
        item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
        view = FeatureView(
            name="vectors",
            entities=[item],
            ttl=timedelta(0),
            schema=[Field(name="item_id", dtype=String), Field(name="vector", dtype=Array(Float32))],
            source=FileSource(name="vectors_file", path=str(self._path), timestamp_field="at"),
        )
        self.write(2, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._store.apply([item, view])

    def write(self, n_rows: int, version: int) -> None:
        """Put the vectors of a version into the file."""
        numbers = np.arange(n_rows)
        ids = [f"i{number}" for number in numbers.tolist()]
        moment = pd.Timestamp.now("UTC").floor("us")
        frame = pd.DataFrame({"item_id": ids, "vector": list(vectors_of(numbers, version)), "at": moment})
        assert frame["vector"].iloc[0].shape == (DIM,)
        frame.to_parquet(self._path)

    def materialize(self) -> None:
        """Run Feast's own."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._store.materialize(
                start_date=datetime(2020, 1, 1, tzinfo=UTC), end_date=datetime.now(UTC) + timedelta(hours=1)
            )


def _timed(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
