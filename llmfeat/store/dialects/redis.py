"""Redis as Feast lays it out: one hash an entity, read and written in one exchange for any number of them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmfeat._base.optional import import_optional
from llmfeat.errors import StoreError
from llmfeat.store.dialects.base import CHUNK_ROWS, Change, Held, Place, id_of_key, key_bytes, key_prefix
from llmfeat.store.values import Raw

__all__ = ["RedisDialect"]

_US_PER_S = 1_000_000


class RedisDialect:
    """`Dialect` over the hashes of ``feast.infra.online_stores.redis``, on the connections of Feast's own client.

    Feast's reader makes a call and a datetime for each entity; its writer ignores what is not later than what is
    there, which a run that is repeated after a crash would meet.
    """

    def __init__(self, place: Place) -> None:
        helpers = import_optional("feast.infra.online_stores.helpers", purpose="the feature store")
        self._client = place.online._get_client(place.config.online_store)
        self._place = place
        self._project = place.config.project.encode()
        self._ttl_s = place.config.online_store.key_ttl_seconds
        self._time = f"_ts:{place.view.name}".encode()
        self._names = {field.name: helpers._mmh3(f"{place.view.name}:{field.name}") for field in place.view.features}

    def read(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, list[Raw]]:
        """Return the fields of `ids`; see `Dialect`."""
        rows = self._rows(ids, [self._names[field] for field in fields])
        return {field: [row[at] for row in rows] for at, field in enumerate(fields)}

    def held(self, ids: Sequence[str], fields: Sequence[str]) -> Held:
        """Return the fields of `ids`, and when they were written; see `Dialect`."""
        rows = self._rows(ids, [*(self._names[field] for field in fields), self._time])
        values = {field: [row[at] for row in rows] for at, field in enumerate(fields)}
        return Held(values, [_us_of(row[-1]) if row[-1] else 0 for row in rows])

    def write(self, ids: Sequence[str], fields: Mapping[str, Sequence[bytes]], moment_us: int) -> None:
        """Write every field of `ids`; a hash is written in one step; see `Dialect`."""
        keys = self._keys(ids)
        stamp = _stamp_of(moment_us)
        names = [self._names[field] for field in fields]
        for begin in range(0, len(keys), CHUNK_ROWS):
            chunk = range(begin, min(begin + CHUNK_ROWS, len(keys)))
            commands: list[tuple[Any, ...]] = []
            for at in chunk:
                cells = [part for name, raws in zip(names, fields.values(), strict=True) for part in (name, raws[at])]
                commands.append((b"HSET", keys[at], *cells, self._time, stamp))
                if self._ttl_s:
                    commands.append((b"EXPIRE", keys[at], self._ttl_s))
            self._exchange(commands)

    def modify(self, key: str, fields: Sequence[str], change: Change) -> bool:
        """Read one id, and write it if nobody else has meanwhile; else once more; see `Dialect`."""
        errors = import_optional("redis.exceptions", purpose="the feature store")
        (name,) = self._keys([key])
        with self._said(), self._client.pipeline() as pipe:
            while True:
                try:
                    pipe.watch(name)
                    *row, stamp = pipe.hmget(name, [*(self._names[field] for field in fields), self._time])
                    values = {field: [raw] for field, raw in zip(fields, row, strict=True)}
                    made = change(Held(values, [_us_of(stamp) if stamp else 0]))
                    if made is None:
                        return False
                    cells, moment_us = made
                    pipe.multi()
                    named = {self._names[field]: raw for field, raw in cells.items()}
                    pipe.hset(name, mapping={**named, self._time: _stamp_of(moment_us)})
                    if self._ttl_s:
                        pipe.expire(name, self._ttl_s)
                    pipe.execute()
                    return True
                except errors.WatchError:
                    continue

    def ids(self) -> Iterator[list[str]]:
        """Yield all ids; see `Dialect`."""
        pattern = re.sub(rb"([*?\[\]\\^])", rb"\\\1", key_prefix(self._place)) + b"*" + self._project
        found: list[bytes] = []
        with self._said():
            for key in self._client.scan_iter(match=pattern, count=CHUNK_ROWS):
                found.append(key)
                if len(found) == CHUNK_ROWS:
                    yield self._of_view(found)
                    found = []
        yield self._of_view(found)

    def _of_view(self, keys: list[bytes]) -> list[str]:
        """Return the ids of those keys that hold anything of this view."""
        times = self._exchange([(b"HGET", key, self._time) for key in keys]) if keys else []
        return [id_of_key(self._place, key) for key, stamp in zip(keys, times, strict=True) if stamp]

    def close(self) -> None:
        """Do nothing: the connections are those of Feast's client."""

    def _keys(self, ids: Sequence[str]) -> list[bytes]:
        return [key + self._project for key in key_bytes(self._place, ids)]

    def _rows(self, ids: Sequence[str], names: Sequence[bytes]) -> list[list[Raw]]:
        rows: list[list[Raw]] = []
        keys = self._keys(ids)
        for begin in range(0, len(keys), CHUNK_ROWS):
            rows += self._exchange([(b"HMGET", key, *names) for key in keys[begin : begin + CHUNK_ROWS]])
        return rows

    def _exchange(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """Send all commands, then read all replies; once more where the connection had gone stale.

        Every command here may be repeated. redis-py's pipeline does the same with three calls for each command.
        """
        errors = import_optional("redis.exceptions", purpose="the feature store")
        pool = self._client.connection_pool
        with self._said():
            for is_last in (False, True):
                connection = pool.get_connection()
                try:
                    connection.send_packed_command(connection.pack_commands(commands))
                    return [connection.read_response() for _ in commands]
                except (errors.ConnectionError, errors.TimeoutError):
                    connection.disconnect()
                    if is_last:
                        raise
                except BaseException:
                    connection.disconnect()  # replies that nobody reads would be the next caller's
                    raise
                finally:
                    pool.release(connection)
        raise AssertionError("the second try returns or raises")

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        errors = import_optional("redis.exceptions", purpose="the feature store")
        try:
            yield
        except errors.RedisError as error:
            parts = self._place.config.online_store.connection_string.split(",")
            where = ",".join(part for part in parts if "=" not in part)  # the others may be a password
            raise StoreError(
                f"Redis at {where} said {type(error).__name__}: {error}: see whether it runs, and run again"
            ) from error


def _stamp_of(moment_us: int) -> bytes:
    seconds, micros = divmod(moment_us, _US_PER_S)
    message = import_optional("google.protobuf.timestamp_pb2", purpose="the feature store").Timestamp
    stamp: bytes = message(seconds=seconds, nanos=micros * 1000).SerializeToString()
    return stamp


def _us_of(stamp: bytes) -> int:
    message = import_optional("google.protobuf.timestamp_pb2", purpose="the feature store").Timestamp.FromString(stamp)
    return int(message.seconds) * _US_PER_S + int(message.nanos) // 1000
