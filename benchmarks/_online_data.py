"""What the benchmark of the store works on: Redis, vectors whose every number can be checked, repositories."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import redis

from llmfeat.encode.manifest import Generation, Manifest
from llmfeat.encode.parts import PART_SCHEMA, vector_cells, write_part
from llmfeat.store import init_repo, repo_objects
from llmfeat.store.repo import open_store

DIM = 384
STORES = ("sqlite", "redis")
ITEMS, USERS = "1" * 64, "2" * 64
_PART_ROWS = 20_000
_MODULUS = 1009  # all numbers are whole and small, so that float32 holds them


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run a Redis server on a spare port, and yield its address; ends with status 2 where none is installed."""
    binary = shutil.which("redis-server")
    if binary is None:
        print("there is no redis-server: apt-get install redis-server, then run again", file=sys.stderr)
        sys.exit(2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen([*command, "--dir", str(folder)], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(redis.ConnectionError):
                redis.Redis(port=port).ping()
                break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def redis_version() -> str:
    """Return the version of the server that is installed."""
    said = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    return said.split("v=")[1].split()[0]


def vectors_of(numbers: np.ndarray[Any, Any], version: int) -> np.ndarray[Any, Any]:
    """Return the vectors of items by number: the first two numbers of each say which, the others follow from them."""
    vectors = np.empty((len(numbers), DIM), dtype=np.float32)
    vectors[:, 0], vectors[:, 1] = numbers, version
    vectors[:, 2:] = (numbers[:, None] * 31 + np.arange(2, DIM) * 7 + version * 13) % _MODULUS
    return vectors


def is_whole(vectors: np.ndarray[Any, Any], numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return which rows are what `vectors_of` gives of those numbers, in one version or another."""
    expected = (numbers[:, None] * 31 + np.arange(2, DIM) * 7 + vectors[:, 1:2] * 13) % _MODULUS
    return (vectors[:, 0] == numbers) & (vectors[:, 2:] == expected).all(axis=1)


def add_rows(folder: Path, fingerprint: str, prefix: str, numbers: np.ndarray[Any, Any], version: int) -> None:
    """Append the vectors of a version to a table, as `encode_table` would."""
    path = folder / "manifest.json"
    manifest = Manifest.read(folder) if path.exists() else Manifest()
    generation = manifest.generations.get(fingerprint) or Generation(fingerprint, "none", "none", "none", DIM)
    parts = list(generation.parts)
    moment = pa.scalar(1_700_000_000_000_000 + version * 1_000_000, pa.timestamp("us", "UTC"))
    for begin in range(0, len(numbers), _PART_ROWS):
        some = numbers[begin : begin + _PART_ROWS]
        n_rows = len(some)
        hashes = pa.array([f"{number} {version}".encode().ljust(32) for number in some.tolist()], pa.binary(32))
        times = pa.array([moment.as_py()] * n_rows, moment.type)
        columns = [
            pa.array([f"{prefix}{number}" for number in some.tolist()]),
            vector_cells(vectors_of(some, version), np.ones(n_rows, dtype=bool)),
            pa.array(np.ones(n_rows, dtype=np.int32)),
            hashes,
            pa.array(np.zeros(n_rows, dtype=bool)),
            times,
            times,
        ]
        parts.append(write_part(folder, fingerprint, "none", pa.table(columns, schema=PART_SCHEMA)))
    whole = dataclasses.replace(generation, parts=tuple(parts))
    manifest.with_generation(whole, complete=True).write(folder)


def make_repo(folder: Path, *, redis_at: str | None, **sources: Any) -> Path:
    """Return an applied repository over the tables that are in its folder of data."""
    repo = init_repo(folder, redis=redis_at, project=f"bench_{os.getpid()}_{folder.name}", **sources)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        open_store(repo).apply(repo_objects(repo))
    return repo
