"""Which dialect a view is spoken to in, and the check that it says what Feast's own reader says."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmfeat._base.optional import import_optional
from llmfeat.errors import StoreConfigError, StoreError
from llmfeat.store.dialects.base import Change, Dialect, Held, Place
from llmfeat.store.dialects.feast import FeastDialect
from llmfeat.store.dialects.redis import RedisDialect
from llmfeat.store.dialects.sqlite import SqliteDialect
from llmfeat.store.values import Raw

__all__ = ["open_dialect"]

_SAMPLE, _TRIES = 3, 3


def open_dialect(store: Any, view: Any) -> Dialect:
    """Return the fastest dialect of a view.

    The layouts of SQLite and Redis are those of the Feast that is installed: the first rows that are read are compared
    with what Feast's own reader gives for them.

    Raises
    ------
    StoreConfigError
        When the repository serializes keys in another way than the one that all stores share since Feast 0.40.
    """
    config = store.config
    if config.entity_key_serialization_version != 3:
        raise StoreConfigError(
            f"entity_key_serialization_version is {config.entity_key_serialization_version!r}, but 3 was expected: set "
            "it in feature_store.yaml"
        )
    place = Place(store, view)
    kind, versioned = type(config.online_store).__name__, config.registry.enable_online_feature_view_versioning
    if kind == "SqliteOnlineStoreConfig" and not versioned:
        return _Checked(SqliteDialect(place), FeastDialect(place), view.name)
    if kind == "RedisOnlineStoreConfig" and not versioned and _is_plain(config.online_store):
        import_optional("redis", purpose="the online store in Redis")
        return _Checked(RedisDialect(place), FeastDialect(place), view.name)
    return FeastDialect(place)


def _is_plain(config: Any) -> bool:
    """Return whether one server holds everything, behind redis-py; a cluster's client sends commands by their key."""
    return config.redis_type.value in ("redis", "redis_sentinel") and config.client.value == "redis"


class _Checked:
    """A dialect of ours beside Feast's own, with which its first answer is compared."""

    def __init__(self, ours: Dialect, feast: FeastDialect, name: str) -> None:
        self._ours = ours
        self._feast = feast
        self._name = name
        self._is_checked = False
        self._n_empty = 0  # reads that found nothing, and so say little
        self._lock = threading.Lock()

    def read(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, list[Raw]]:
        values = self._ours.read(ids, fields)
        if not self._is_checked:
            self._check(ids, fields, values)
        return values

    def held(self, ids: Sequence[str], fields: Sequence[str]) -> Held:
        held = self._ours.held(ids, fields)
        if not self._is_checked:
            self._check(ids, fields, held.values)
        return held

    def write(self, ids: Sequence[str], fields: Mapping[str, Sequence[bytes]], moment_us: int) -> None:
        self._ours.write(ids, fields, moment_us)

    def modify(self, key: str, fields: Sequence[str], change: Change) -> bool:
        return self._ours.modify(key, fields, change)

    def ids(self) -> Iterator[list[str]] | None:
        return self._ours.ids()

    def close(self) -> None:
        self._ours.close()

    def _check(self, ids: Sequence[str], fields: Sequence[str], values: Mapping[str, Sequence[Raw]]) -> None:
        there = [at for at in range(len(ids)) if all(values[field][at] for field in fields)][:_SAMPLE]
        # Where ours finds nothing, neither may Feast's.
        sample = [ids[at] for at in there] or list(ids[:_SAMPLE])
        self._n_empty += not there
        if not sample or (not there and self._n_empty > _SAMPLE):  # a view without rows is not read twice for ever
            return
        with self._lock:
            for _ in range(_TRIES):  # a writer may come between the two readers
                if _plain(self._ours.read(sample, fields)) == self._feast.read(sample, fields):
                    self._is_checked = bool(there)
                    return
        raise StoreError(
            f"{self._name} reads differently through Feast's own reader, such as {sample[0]!r}: this version of Feast "
            "lays its online store out in another way, install one that llmfeat's extra `feast` allows"
        )


def _plain(values: Mapping[str, Sequence[Raw]]) -> dict[str, list[Raw]]:
    """Return values as Feast gives them, who does not tell a value of nothing from none."""
    return {field: [raw or None for raw in raws] for field, raws in values.items()}
