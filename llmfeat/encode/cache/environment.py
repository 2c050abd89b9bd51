"""What is open in this process: one LMDB environment per folder, shared by threads, left behind by a fork."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from llmfeat.encode.cache.chunks import (
    KEY_BYTES,
    NOWHERE,
    PLACE,
    PlaceArray,
    UInt8Array,
    UInt64Array,
    by_chunk,
    join_keys,
    pack,
    parse,
    place_bytes,
    row_checksums,
    split_bytes,
)
from llmfeat.encode.cache.file import (
    DATA,
    file_id,
    fill_up,
    hold,
    is_short,
    lmdb_module,
    map_bytes,
    move_aside,
    open_file,
    remove_files,
)
from llmfeat.types import BoolArray, Float32Array

__all__ = ["ClosedError", "Environment", "Rows"]

_FRESH_S = 3600  # a use that is younger is not written down again: reads do not write
_EVICTED_CHUNKS = 256  # in one transaction, where each of their rows may touch a page of the index
_LISTED = 8192  # entries at a time, when all are read


class ClosedError(Exception):
    """Another thread closed the environment after it was looked up; it is opened again on the next call."""


class Rows(NamedTuple):
    """What is stored beside vectors that were copied, and the chunks that they came from."""

    checksums: UInt64Array
    copied: BoolArray
    chunks: list[bytes]


class _Gate:
    """Lets many in, or one alone: the map must not move, nor go, under a transaction of another thread.

    Who wants to be alone goes first, else threads that keep coming would keep it waiting. Nobody enters twice.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_inside = 0
        self._n_waiting = 0

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._n_waiting)
            self._n_inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_inside -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._n_waiting += 1
            try:
                self._changed.wait_for(lambda: not self._n_inside)
                yield
            finally:
                self._n_waiting -= 1
                self._changed.notify_all()


_Transaction: TypeAlias = SimpleNamespace


@contextlib.contextmanager
def _transaction(env: Any, kind: dict[str, bool]) -> Iterator[_Transaction]:
    """Yield the methods of a transaction, which are gone when it is.

    A thread that does not live on in a forked child still holds there what its variables name; were that a transaction,
    so would be its environment, beside which LMDB opens no other.
    """
    methods = _Transaction()
    with env.begin(**kind) as txn:
        for name in ("id", "get", "put", "delete", "stat", "cursor"):
            setattr(methods, name, getattr(txn, name))
        try:
            yield methods
        finally:
            vars(methods).clear()
            del txn


class Environment:
    """An open folder; LMDB's locks are the process's, and of a file opened twice they go when one is closed.

    Methods that take a transaction are to be called inside of `reading` or `writing`.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.readonly = not all(os.access(path, os.W_OK) for path in (folder, folder / DATA) if path.exists())
        self._gate = _Gate()
        self._env, self._dbs = open_file(folder, max_bytes, readonly=self.readonly)
        self._map_bytes: int = self._env.info()["map_size"]
        self._file_id = file_id(folder)

    @classmethod
    def of(cls, folder: Path, max_bytes: int) -> Environment:
        """Return the environment of a folder, opened if need be."""
        key = os.path.realpath(folder)
        with _OPENING:
            environment = _OPEN.get(key)
            if environment is None or not environment.is_current():
                if environment is not None:
                    environment.close()
                environment = _OPEN[key] = cls(folder, max_bytes)
        return environment

    def is_current(self) -> bool:
        """Return whether this is open, and its file the one in the folder; after a fork it is not."""
        return self._env is not None and file_id(self.folder) == self._file_id

    def make_room(self, max_bytes: int) -> None:
        """Enlarge the map to what `max_bytes` needs."""
        if map_bytes(max_bytes) > self._map_bytes:
            self._resize(map_bytes(max_bytes))

    @contextlib.contextmanager
    def reading(self) -> Iterator[tuple[Any, Any]]:
        """Yield two transactions on one state: one copies values, which is faster for small ones, one lends them."""
        with self._transactions({}, {"buffers": True}) as (values, views):
            yield values, views

    @contextlib.contextmanager
    def writing(self) -> Iterator[Any]:
        """Yield a transaction that is committed when the block ends well."""
        with self._transactions({"write": True}) as (txn,):
            yield txn
        # Pages at the end that a transaction took and gave back are never written, and the file is then shorter than
        # LMDB says, which is how a torn one is told: fill it up, while no other process writes.
        with self._gate.shared():
            whole = self._env is None or not is_short(self._env, self.folder)
        if not whole:
            with self._transactions({"write": True}):
                fill_up(self._env, self.folder, self._file_id)

    @contextlib.contextmanager
    def _transactions(self, *kinds: dict[str, bool]) -> Iterator[list[_Transaction]]:
        while True:
            with self._gate.shared(), contextlib.ExitStack() as stack:
                if self._env is None:
                    raise ClosedError("another thread closed it")
                try:
                    txns = [stack.enter_context(_transaction(self._env, kind)) for kind in kinds]
                except lmdb_module().MapResizedError:
                    txns = []
                if len({txn.id() for txn in txns}) == 1:
                    yield txns
                    return
            if not txns:
                self._resize(0)  # as the process has it that let the file grow

    def _resize(self, size_bytes: int) -> None:
        with self._gate.alone():
            if self._env is not None:
                self._env.set_mapsize(size_bytes)
                self._map_bytes = self._env.info()["map_size"]

    def n_entries(self, txn: Any) -> int:
        """Return the number of entries."""
        return int(txn.stat(self._dbs["index"])["entries"])

    def used_bytes(self, txn: Any) -> int:
        """Return the size of the pages in use."""
        stats = [txn.stat(db) for db in self._dbs.values()]
        return sum(
            stat["psize"] * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]) for stat in stats
        )

    def places(self, txn: Any, keys: Sequence[bytes]) -> PlaceArray:
        """Return where the vector of each key is; `NOWHERE` without one."""
        get, index = txn.get, self._dbs["index"]
        places = [get(key, NOWHERE, index) for key in keys]
        joined = b"".join(places)
        if len(joined) != len(keys) * PLACE.itemsize:  # an entry is damaged
            joined = b"".join([place if len(place) == PLACE.itemsize else NOWHERE for place in places])
        return np.frombuffer(joined, dtype=PLACE)

    def gather(self, txn: Any, places: PlaceArray, vectors: Float32Array) -> Rows:
        """Copy the vectors at `places` to `vectors`, chunk by chunk, and return what is stored beside them."""
        rows = Rows(np.zeros(len(places), dtype=np.uint64), np.zeros(len(places), dtype=bool), [])
        for chunk, at, row in by_chunk(places):
            held = parse(txn.get(chunk, db=self._dbs["chunks"]))
            if held is None or held.vectors.shape[1] != vectors.shape[1]:
                continue
            if row.max() >= len(held.checksums):  # the index is damaged
                at, row = at[row < len(held.checksums)], row[row < len(held.checksums)]
            vectors[at] = held.vectors[row]
            rows.checksums[at] = held.checksums[row]
            rows.copied[at] = True
            rows.chunks.append(chunk)
        return rows

    def has(self, txn: Any, keys: Sequence[bytes], dim: int) -> BoolArray:
        """Return for each key whether there is a vector of `dim` dimensions, with the right checksum."""
        has = np.zeros(len(keys), dtype=bool)
        places = self.places(txn, keys)
        at = np.flatnonzero(places["chunk"])
        if len(at):
            vectors = np.zeros((len(at), dim), dtype=np.float32)
            rows = self.gather(txn, places[at], vectors)
            has[at] = rows.copied & (row_checksums(join_keys(keys)[at], vectors) == rows.checksums)
        return has

    def append(self, txn: Any, keys: Sequence[bytes], vectors: Float32Array) -> None:
        """Write a chunk, and where its rows are."""
        with txn.cursor(self._dbs["chunks"]) as cursor:
            last = int.from_bytes(cursor.key(), "big") if cursor.last() else 0
            # By the clock, so that a number does not come again when the last chunk was thrown out.
            chunk = max(time.time_ns(), last + 1).to_bytes(8, "big")
            cursor.put(chunk, pack(keys, vectors), append=True)
        with txn.cursor(self._dbs["index"]) as cursor:
            cursor.putmulti(sorted(zip(keys, place_bytes(chunk, len(keys)), strict=True)))
        self._use(txn, chunk)

    def not_fresh(self, txn: Any, chunks: Iterable[bytes]) -> list[bytes]:
        """Return the chunks whose last use that was written down is long ago."""
        stamps, since = self._dbs["stamps"], _second(time.time() - _FRESH_S)
        return [chunk for chunk in chunks if txn.get(chunk, since, stamps) < since]

    def stamp(self, txn: Any, chunks: Iterable[bytes]) -> None:
        """Write down that chunks are used now."""
        for chunk in chunks:
            stamp = txn.get(chunk, db=self._dbs["stamps"])
            if stamp is not None:  # else it was thrown out meanwhile
                txn.delete(stamp + chunk, db=self._dbs["oldest"])
                self._use(txn, chunk)

    def _use(self, txn: Any, chunk: bytes) -> None:
        stamp = _second(time.time())
        txn.put(chunk, stamp, db=self._dbs["stamps"])
        txn.put(stamp + chunk, b"", db=self._dbs["oldest"])

    def evict(self, max_bytes: int) -> int:
        """Throw out the chunks that were not used for longest until `max_bytes` are used; return how many entries."""
        n_evicted, done = 0, False
        while not done:
            with self.writing() as txn:
                for _ in range(_EVICTED_CHUNKS):
                    with txn.cursor(self._dbs["oldest"]) as cursor:
                        done = self.used_bytes(txn) <= max_bytes or not cursor.first()
                        if done:
                            break
                        oldest = cursor.key()
                    n_evicted += self._drop(txn, oldest)
        return n_evicted

    def _drop(self, txn: Any, oldest: bytes) -> int:
        chunk, index, n_entries = oldest[8:], self._dbs["index"], 0
        held = parse(txn.get(chunk, db=self._dbs["chunks"]))
        if held is not None:
            for key, place in zip(split_bytes(held.keys), place_bytes(chunk, len(held.keys)), strict=True):
                if txn.get(key, db=index) == place:  # else it was written again, elsewhere
                    n_entries += txn.delete(key, db=index)
        txn.delete(chunk, db=self._dbs["chunks"])
        txn.delete(chunk, db=self._dbs["stamps"])
        txn.delete(oldest, db=self._dbs["oldest"])
        return n_entries

    def entries(self, txn: Any) -> tuple[UInt8Array, PlaceArray]:
        """Return every key, of shape ``(n, 16)``, and its place."""
        keys: list[bytes] = []
        places: list[bytes] = []
        with txn.cursor(self._dbs["index"]) as cursor:
            items = cursor.iternext()
            while block := list(itertools.islice(items, _LISTED)):
                keys.append(b"".join([key for key, _ in block]))
                places.append(b"".join([place for _, place in block]))
        joined = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, KEY_BYTES)
        return joined, np.frombuffer(b"".join(places), dtype=PLACE)

    def remove_wrong(self, keys: UInt8Array, places: PlaceArray) -> int:
        """Remove the entries that have no vector, or one with a wrong checksum; return how many there are."""
        wrong = np.ones(len(keys), dtype=bool)
        with self.reading() as (_, views):
            for chunk, at, row in by_chunk(places):
                held = parse(views.get(chunk, db=self._dbs["chunks"]))
                if held is not None:
                    at, row = at[row < len(held.checksums)], row[row < len(held.checksums)]
                    wrong[at] = row_checksums(keys[at], held.vectors[row]) != held.checksums[row]
        if self.readonly or not wrong.any():
            return int(wrong.sum())
        n_removed = 0
        with self.writing() as txn:
            index = self._dbs["index"]
            for key, place in zip(split_bytes(keys[wrong]), split_bytes(places[wrong]), strict=True):
                if txn.get(key, db=index) == place:  # else it was thrown out, or written again, meanwhile
                    n_removed += txn.delete(key, db=index)
        return n_removed

    def close(self) -> None:
        """Close, as soon as no thread is inside."""
        with self._gate.alone():
            if self._env is not None:
                self._env.close()
            self._env, self._dbs = None, {}

    def remove(self) -> None:
        """Close, and remove the cache's files; other processes notice on their next call."""
        with _OPENING, hold(self.folder):
            self.close()
            remove_files(self.folder)

    def set_aside(self, reason: str) -> None:
        """Close, and move the file aside, unless another process did."""
        with _OPENING, hold(self.folder):
            self.close()
            if file_id(self.folder) == self._file_id:
                move_aside(self.folder, reason)

    def leave(self) -> None:
        """Let go of what a child process took over: to close it would end the parent's transactions."""
        self._env, self._dbs = None, {}


def _second(time_s: float) -> bytes:
    return int(time_s).to_bytes(8, "big")


_OPEN: dict[str, Environment] = {}
_OPENING = threading.RLock()
_FORKING = threading.local()  # of each thread that forks: two may do it at once


def _before_fork() -> None:
    """Wait until no transaction is open: a child can neither end it, nor open the file beside it."""
    _FORKING.held = contextlib.ExitStack()
    _FORKING.held.enter_context(_OPENING)
    for environment in _OPEN.values():
        _FORKING.held.enter_context(environment._gate.alone())


def _after_fork_in_parent() -> None:
    _FORKING.held.close()


def _after_fork_in_child() -> None:
    for environment in _OPEN.values():
        environment.leave()
    _OPEN.clear()
    _FORKING.held.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
