"""`ItemCache`: the vectors of items that are asked for again and again, in this process, as fresh as the store says."""

from __future__ import annotations

import itertools
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np

from llmfeat._base.frames import id_array
from llmfeat.errors import InputError, LLMFeatError, LLMFeatWarning
from llmfeat.store.online import FeastVectors, OnlineView, open_view
from llmfeat.store.scalars import TEXT_HASH
from llmfeat.store.values import unpack_bytes
from llmfeat.store.views import VECTOR
from llmfeat.types import Float32Array, Int64Array, VectorSource

__all__ = ["CacheInfo", "FeastVersions", "ItemCache", "Versions"]


@runtime_checkable
class Versions(Protocol):
    """Tells one text of an item from the next."""

    def revision(self) -> object:
        """Return what differs once any version may have changed; asked often, so it is quick."""
        ...

    def versions(self, ids: Sequence[str]) -> list[bytes]:
        """Return the version of each item, empty where it has none."""
        ...


class FeastVersions:
    """Hashes of the items' texts, in the view of scalars that is materialized after the vectors of a `FeastVectors`.

    A hash in the store is of a vector that is there already. Where vectors alone were written since, hashes say nothing
    of them, and every item has another version. Without scalars the vector itself is the version.
    """

    def __init__(self, source: FeastVectors) -> None:
        self.source = source
        self._seen: tuple[object, object] | None = None
        self._n_vectors_alone = 0

    def revision(self) -> object:
        """Return which runs have ended of the views that are read."""
        vectors = self.source.view.state()
        if self._scalars is None:
            return vectors
        now = vectors, self._scalars.state()
        if self._seen is not None and now[0] != self._seen[0] and now[1] == self._seen[1]:
            self._n_vectors_alone += 1
        self._seen = now
        return now

    def versions(self, ids: Sequence[str]) -> list[bytes]:
        """Return what tells each text from the next."""
        if self._scalars is None:
            return [unpack_bytes(raw) for raw in self.source.view.read(ids, (VECTOR,))[VECTOR]]
        if self._seen is None:
            self.revision()
        alone = str(self._n_vectors_alone).encode()
        return [alone + unpack_bytes(raw) for raw in self._scalars.read(ids, (TEXT_HASH,))[TEXT_HASH]]

    @cached_property
    def _scalars(self) -> OnlineView | None:
        return _scalars_of(self.source)

    def __reduce__(self) -> Any:
        """Leave the connection out: it is opened again on use."""
        return FeastVersions, (self.source,)


@dataclass(frozen=True)
class CacheInfo:
    """What a cache did since it was made.

    Attributes
    ----------
    n_items, capacity : int
        Items that it holds, and may hold; those that the store lacks are among them.
    hits, misses : int
        Items that were asked for.
    evicted, invalidated : int
        Items that made room, and items whose text changed.
    refreshed_s : float or None
        Seconds since it last asked what changed.
    """

    n_items: int
    capacity: int
    hits: int
    misses: int
    evicted: int
    invalidated: int
    refreshed_s: float | None


class ItemCache:
    """A `VectorSource` that holds another one's vectors in memory; any number of threads may share it.

    An item that is in it costs a dictionary's lookup. Every `refresh_s` seconds it asks, beside the requests, whether
    anything was materialized; if so, it drops the items whose text has another hash than when they were read, and the
    missing ones.

    Parameters
    ----------
    source : VectorSource
        Where vectors come from: `FeastVectors`, usually.
    capacity : int, default=100_000
        How many items it holds at most; the ones that were not asked for lately make room. 4 bytes a dimension and item
        are taken as they come.
    refresh_s : float, default=30
        How often it asks what changed.
    versions : Versions, optional
        Who is asked; `FeastVersions` for `FeastVectors`. A source without is taken to never change.

    Examples
    --------
    >>> from llmfeat import VectorTable
    >>> from llmfeat.store import ItemCache
    >>> cache = ItemCache(VectorTable.from_arrays(["a", "b"], [[1.0, 0.0], [0.0, 1.0]]), capacity=10)
    >>> cache.lookup(["b", "a", "b"]).tolist(), cache.info().misses, cache.lookup(["a"]).tolist(), cache.info().hits
    ([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], 3, [[1.0, 0.0]], 1)
    """

    def __init__(
        self,
        source: VectorSource,
        *,
        capacity: int = 100_000,
        refresh_s: float = 30.0,
        versions: Versions | None = None,
    ) -> None:
        if not (isinstance(capacity, int) and capacity >= 1):
            raise InputError(f"capacity={capacity!r}, but an integer of at least 1 was expected")
        if not refresh_s > 0:
            raise InputError(f"refresh_s={refresh_s!r}, but a number of seconds over 0 was expected")
        self.source = source
        self.capacity = capacity
        self.refresh_s = refresh_s
        self._given = versions
        self._lock = threading.Lock()
        self._refreshing = threading.Lock()
        self._slots: dict[str, int] = {}
        self._ids: list[str | None] = [None] * capacity
        self._versions: list[bytes] = [b""] * capacity
        self._recent = np.zeros(capacity, dtype=bool)
        self._free = list(range(capacity - 1, -1, -1))
        self._hand = 0
        self._matrix: Float32Array | None = None
        self._revision: object = None
        self._epoch = 0
        self._hits = self._misses = self._evicted = self._invalidated = 0
        self._refreshed_at: float | None = None
        self._due_at = float("inf")  # until the first vectors are read

    @property
    def fingerprint(self) -> str:
        """The source's."""
        return self.source.fingerprint

    @property
    def dim(self) -> int:
        """The number of dimensions of a vector."""
        return self.source.dim

    def lookup(self, ids: Any) -> Float32Array:
        """Return the vectors of `ids`, float32 of shape ``(len(ids), dim)``; NaN for those that the source lacks."""
        return self.read(id_array(ids).to_pylist())

    def read(self, ids: Sequence[str]) -> Float32Array:
        """Return what `lookup` does, of ids that are texts already."""
        vectors, absent = self.cached(ids)
        if len(absent):
            vectors[absent] = self.fetch([ids[at] for at in absent.tolist()])
        return vectors

    def cached(self, ids: Sequence[str]) -> tuple[Float32Array, Int64Array]:
        """Return the vectors of `ids`, and which of them are not in memory: what stands in their rows says nothing."""
        matrix = self._allocated()
        if time.monotonic() >= self._due_at:
            self._refresh_beside()
        with self._lock:
            slots = np.fromiter(map(self._slots.get, ids, itertools.repeat(-1)), np.int64, len(ids))
            vectors = matrix.take(slots, axis=0, mode="clip")  # several times as fast as the check that it leaves out
            absent = np.flatnonzero(slots < 0)
            self._recent[slots[slots >= 0] if len(absent) else slots] = True
            self._hits += len(ids) - len(absent)
            self._misses += len(absent)
        return vectors, absent

    def fetch(self, ids: Sequence[str]) -> Float32Array:
        """Read vectors from the source, keep them, and return them."""
        self._allocated()
        distinct = {key: at for at, key in enumerate(dict.fromkeys(ids))}
        wanted = list(distinct)
        epoch, versions = self._epoch, self._asked()
        # The version first: should the vector change between the two, it is taken for older than it is, not newer.
        marks = versions.versions(wanted) if versions else [b""] * len(wanted)
        vectors = _read(self.source, wanted)
        with self._lock:
            if epoch == self._epoch:  # else what was read may be of before the change that was just noticed
                self._keep(wanted, marks, vectors)
        return vectors if len(wanted) == len(ids) else vectors[[distinct[key] for key in ids]]

    def warm(self, ids: Any) -> int:
        """Read the vectors of `ids` ahead of the requests, as many as fit; return how many are in memory then."""
        wanted = id_array(ids).to_pylist()[: self.capacity]
        for begin in range(0, len(wanted), 5000):
            self.read(wanted[begin : begin + 5000])
        return len(self._slots)

    def refresh(self) -> int:
        """Drop the items whose text changed, and the missing ones, if anything was materialized; return how many."""
        versions = self._asked()
        if versions is None:
            return 0
        with self._refreshing:
            revision = versions.revision()
            changed = revision != self._revision
            if changed:
                with self._lock:
                    self._epoch += 1  # readers that are under way keep nothing
                    held = list(self._slots.items())
            n_dropped = 0
            for begin in range(0, len(held) if changed else 0, 5000):
                some = held[begin : begin + 5000]
                for (key, slot), mark in zip(some, versions.versions([key for key, _ in some]), strict=True):
                    with self._lock:
                        if self._slots.get(key) == slot and (self._versions[slot] != mark or self._is_missing(slot)):
                            self._drop(key, slot)
                            n_dropped += 1
            self._revision = revision
            self._invalidated += n_dropped
            self._refreshed_at = time.monotonic()
        return n_dropped

    def info(self) -> CacheInfo:
        """Return what it did."""
        since = None if self._refreshed_at is None else time.monotonic() - self._refreshed_at
        return CacheInfo(
            len(self._slots), self.capacity, self._hits, self._misses, self._evicted, self._invalidated, since
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> ItemCache:
        """Return itself: clones of an estimator share it."""
        return self

    def __reduce__(self) -> Any:
        """Pickle as an empty cache."""
        return _remade, (self.source, self.capacity, self.refresh_s, self._given)

    def _allocated(self) -> Float32Array:
        if self._matrix is None:
            shape = self.capacity, self.dim  # outside the lock: to ask the source may take seconds
            with self._lock:
                if self._matrix is None:
                    self._matrix = np.empty(shape, dtype=np.float32)  # pages are taken when they are written
                    self._due_at = time.monotonic() + self.refresh_s
        return self._matrix

    def _asked(self) -> Versions | None:
        if self._given is None and isinstance(self.source, FeastVectors):
            self._given = FeastVersions(self.source)
        return self._given

    def _refresh_beside(self) -> None:
        self._due_at = time.monotonic() + self.refresh_s
        if self._refreshing.locked():  # the store takes longer to answer than until the next question
            return
        if self._given is not None or isinstance(self.source, FeastVectors):
            threading.Thread(target=self._refresh_or_say, name="llmfeat-item-cache", daemon=True).start()

    def _refresh_or_say(self) -> None:
        try:
            self.refresh()
        except LLMFeatError as error:
            warnings.warn(
                f"what changed could not be asked ({error}): vectors stay as they are, the next try is in "
                f"{self.refresh_s:g} s",
                LLMFeatWarning,
                stacklevel=1,
            )

    def _keep(self, ids: Sequence[str], marks: Sequence[bytes], vectors: Float32Array) -> None:
        matrix = self._matrix
        assert matrix is not None, "vectors were asked for"
        for at, key in enumerate(ids[: self.capacity]):
            slot = self._slots.get(key)
            if slot is None:
                slot = self._slots[key] = self._free.pop() if self._free else self._evict()
                self._ids[slot] = key
            self._versions[slot] = marks[at]
            matrix[slot] = vectors[at]
            self._recent[slot] = True

    def _evict(self) -> int:
        """Return a slot that was not used since the hand last came by."""
        while self._recent[self._hand]:
            self._recent[self._hand] = False
            self._hand = (self._hand + 1) % self.capacity
        slot = self._hand
        self._hand = (slot + 1) % self.capacity
        del self._slots[self._ids[slot]]  # type: ignore[arg-type]  # none is free, so every slot has an id
        self._evicted += 1
        return slot

    def _drop(self, key: str, slot: int) -> None:
        del self._slots[key]
        self._ids[slot], self._versions[slot], self._recent[slot] = None, b"", False
        self._free.append(slot)

    def _is_missing(self, slot: int) -> bool:
        return self._matrix is not None and bool(np.isnan(self._matrix[slot, 0]))


def _read(source: VectorSource, ids: list[str]) -> Float32Array:
    read = getattr(source, "read", source.lookup)
    vectors: Float32Array = read(ids)
    return vectors


def _remade(source: VectorSource, capacity: int, refresh_s: float, versions: Versions | None) -> ItemCache:
    return ItemCache(source, capacity=capacity, refresh_s=refresh_s, versions=versions)


def _scalars_of(source: FeastVectors) -> OnlineView | None:
    """Return the view of scalars that goes with the vectors, None where the repository has none."""
    for view in source.store.list_feature_views():
        if view.tags.get("llmfeat") == "item_scalars" and view.tags.get("vectors") == source.fingerprint:
            opened = open_view(source.store, view.tags["fingerprint"], "item_scalars", where=source.repo)
            if opened.state() is not None:
                return opened
    return None
