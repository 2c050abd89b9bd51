"""Feature stores for tests: a Redis server, repositories applied in this process, vectors that no model made.

`online` and `redis_server` are fixtures of every test (`conftest.py` names this file as a plugin). A test that asks for
`online` runs once on SQLite and once on Redis.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pytest

from llmfeat.encode.generations import read_manifest
from llmfeat.encode.manifest import Generation
from llmfeat.encode.parts import PART_SCHEMA, vector_cells, write_part

DIM = 4
FINGERPRINT = hashlib.sha256(b"vectors of tests").hexdigest()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Feast's DuckDB store goes through ibis, which calls what DuckDB deprecates; anything else is an error.
FEAST_WARNINGS = pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where an empty Redis server is, one for each process of tests; skipped where none is installed."""
    binary = shutil.which("redis-server")
    if binary is None:
        without_redis("redis-server is not installed")
    with running_redis(binary, tmp_path_factory.mktemp("redis")) as where:
        yield where


@pytest.fixture(params=["sqlite", "redis"])
def online(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What `init_repo` is told of an online store; the project is a new one, as all tests share one Redis server."""
    where = request.getfixturevalue("redis_server") if request.param == "redis" else None
    return {"redis": where, "project": f"t{uuid.uuid4().hex[:12]}"}


def without_redis(reason: str) -> NoReturn:
    """Skip the test, or let it fail where `LLMFEAT_REQUIRE_REDIS` is set."""
    if os.environ.get("LLMFEAT_REQUIRE_REDIS"):
        pytest.fail(f"LLMFEAT_REQUIRE_REDIS is set, but {reason}")
    pytest.skip(reason)


@contextlib.contextmanager
def running_redis(binary: str, folder: Path) -> Iterator[str]:
    """Run a server that keeps nothing, on a port that is free, and stop it at the end."""
    for _ in range(10):  # between its choice and its use another process may take the port
        port = free_port()
        command = [binary, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
        with open(folder / "redis.log", "ab") as log:
            server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            if _answers(server, port):
                yield f"127.0.0.1:{port}"
                return
        finally:
            server.terminate()
            server.wait()
    pytest.fail(f"redis-server does not start: {(folder / 'redis.log').read_text()[-1000:]}")


def _answers(server: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + 10
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            client.sendall(b"PING\r\n")
            if client.recv(16).startswith(b"+PONG"):
                return True
        time.sleep(0.01)
    return False


def free_port() -> int:
    """Return a loopback port that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def apply(repo: Path) -> Any:
    """Do what `feast apply` does, in this process, and return the opened store: 40 ms in place of ten seconds."""
    from llmfeat.store import open_store, repo_objects

    store = open_store(repo)
    store.apply(repo_objects(repo))
    return store


def put_vectors(
    folder: Path,
    vectors: Mapping[str, Any],
    *,
    deleted: Iterable[str] = (),
    valid_from_us: int = 0,
    fingerprint: str = FINGERPRINT,
) -> Generation:
    """Append a part to a vector table as an encoder would, and return its generation; None is an item without text."""
    gone = list(deleted)
    ids = [*vectors, *gone]
    rows = [vector if vector is None else [*map(float, vector)] for vector in vectors.values()]
    dim = next((len(row) for row in rows if row is not None), DIM)
    block = np.array([row for row in rows if row is not None], dtype=np.float32).reshape(-1, dim)
    there = np.array([row is not None for row in rows] + [False] * len(gone), dtype=bool)
    texts = [None if row is None else hashlib.sha256(repr(row).encode()).digest() for row in rows]
    moment = pa.array([valid_from_us] * len(ids), pa.timestamp("us", "UTC"))
    columns = {
        "item_id": ids,
        "vector": vector_cells(block, there),
        "n_tokens": [3 if is_there else None for is_there in there.tolist()],
        "text_sha256": [*texts, *([None] * len(gone))],
        "deleted": [False] * len(vectors) + [True] * len(gone),
        "valid_from": moment,
        "written_at": moment,
    }
    table = pa.table([pa.array(columns[field.name], field.type) for field in PART_SCHEMA], schema=PART_SCHEMA)
    manifest = read_manifest(folder)
    held = manifest.generations.get(fingerprint) or Generation(fingerprint, "artifact", "numerics", "template", dim)
    part = write_part(folder, fingerprint, "numerics", table)
    generation = Generation(**{**vars(held), "parts": (*held.parts, part)})
    manifest.with_generation(generation, complete=True).write(folder)
    return generation


def numbered(n_ids: int, *, version: int = 0, dim: int = DIM) -> dict[str, list[float]]:
    """Return vectors known by hand: item ``i7`` of version 2 holds 7, 2, 0, 0."""
    return {f"i{at}": [float(at), float(version), *[0.0] * (dim - 2)] for at in range(n_ids)}


def seen_by_feast(store: Any, view: str, field: str, ids: Iterable[str], *, key: str = "item_id") -> list[Any]:
    """Return what Feast's own reader gives of one field."""
    rows = [{key: one} for one in ids]
    values: list[Any] = store.get_online_features(features=[f"{view}:{field}"], entity_rows=rows).to_dict()[field]
    return values


def written_by_feast(store: Any, view: str, rows: Mapping[str, Any], *, at_us: int) -> None:
    """Have Feast's own writer put rows into a view of a folder of parts."""
    import pandas as pd

    frame = pd.DataFrame(dict(rows))
    moment = pd.Timestamp(at_us, unit="us", tz="UTC").as_unit("us")
    store.write_to_online_store(view, frame.assign(valid_from=moment, written_at=moment))
