"""What every dialect does for one view: read fields by id, write them, in the bytes of Feast's values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from llmfeat._base.optional import import_optional
from llmfeat.store.values import Raw

__all__ = ["CHUNK_ROWS", "Change", "Dialect", "Held", "Place", "entity_keys", "id_of_key", "key_bytes", "key_prefix"]

# Feast converts the first Arrow batch of a frame only; a chunk of this size is one batch, and one transaction.
CHUNK_ROWS = 5000


@dataclass(frozen=True)
class Held:
    """What a store holds of some ids, in their order.

    Attributes
    ----------
    values : dict of str to list
        By field; None where the store has nothing.
    times_us : list of int
        When each was written, by the store's clock and to its precision; 0 where the store has nothing.
    """

    values: dict[str, list[Raw]]
    times_us: list[int]


Change: TypeAlias = Callable[[Held], "tuple[Mapping[str, bytes], int] | None"]
"""Takes what is held of one id, and returns its new fields and their time; None to leave it as it is."""


@dataclass(frozen=True)
class Place:
    """A view of a feature store, as Feast's own objects.

    Attributes
    ----------
    store : feast.FeatureStore
        The opened repository.
    view : feast.FeatureView
        One of its views, with one entity of one key.
    """

    store: Any
    view: Any

    @functools.cached_property
    def key(self) -> str:
        """The join key."""
        (key,) = self.view.join_keys
        return str(key)

    @property
    def config(self) -> Any:
        """The repository's configuration."""
        return self.store.config

    @functools.cached_property
    def online(self) -> Any:
        """Feast's own online store."""
        return self.store.provider.online_store


class Dialect(Protocol):
    """One view of an online store. Any number of threads may read at once; one writes."""

    def read(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, list[Raw]]:
        """Return the fields of `ids`, each a list in their order."""
        ...

    def held(self, ids: Sequence[str], fields: Sequence[str]) -> Held:
        """Return the fields of `ids`, and when they were written."""
        ...

    def write(self, ids: Sequence[str], fields: Mapping[str, Sequence[bytes]], moment_us: int) -> None:
        """Write every field of `ids`, all or nothing where the store knows transactions.

        `moment_us` is their time in the store, and later than what it holds: see `materialize`.
        """
        ...

    def modify(self, key: str, fields: Sequence[str], change: Change) -> bool:
        """Replace the fields of one id by what `change` makes of them, and return whether it made anything.

        Nothing that another process writes in between is lost: `change` is called again with it. The generic dialect
        cannot promise that.
        """
        ...

    def ids(self) -> Iterator[list[str]] | None:
        """Yield all ids that the view holds anything of, some at a time; None where the store cannot be asked."""
        ...

    def close(self) -> None:
        """Let connections go."""
        ...


def entity_keys(place: Place, ids: Sequence[str]) -> list[Any]:
    """Return Feast's messages of entity keys."""
    message, value = _messages()
    names = [place.key]
    return [message(join_keys=names, entity_values=[value(string_val=key)]) for key in ids]


def key_bytes(place: Place, ids: Sequence[str]) -> list[bytes]:
    """Return entity keys as Feast's third serialization has them: everything before the id's length is the same."""
    before = key_prefix(place)
    encoded = [key.encode() for key in ids]
    return [before + len(key).to_bytes(4, "little") + key for key in encoded]


def key_prefix(place: Place) -> bytes:
    """Return what all keys of a view begin with."""
    return _before_id(place.key)


def id_of_key(place: Place, key: bytes) -> str:
    """Return the id of a key that `key_bytes` made, whatever follows it."""
    begin = len(key_prefix(place)) + 4
    size = int.from_bytes(key[begin - 4 : begin], "little")
    return key[begin : begin + size].decode()


@functools.lru_cache(maxsize=64)
def _before_id(key: str) -> bytes:
    serialize = import_optional("feast.infra.key_encoding_utils", purpose="the feature store").serialize_entity_key
    message, value = _messages()
    whole: bytes = serialize(message(join_keys=[key], entity_values=[value(string_val="")]), 3)
    return whole[:-4]  # the length of the empty id is its end


@functools.cache
def _messages() -> tuple[Any, Any]:
    keys = import_optional("feast.protos.feast.types.EntityKey_pb2", purpose="the feature store")
    values = import_optional("feast.protos.feast.types.Value_pb2", purpose="the feature store")
    return keys.EntityKey, values.Value
