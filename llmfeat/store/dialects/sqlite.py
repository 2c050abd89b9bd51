"""SQLite as Feast lays it out, read and written without a Python object for each cell."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmfeat._base.optional import import_optional
from llmfeat.errors import StoreConfigError, StoreError
from llmfeat.store.dialects.base import CHUNK_ROWS, Change, Held, Place, id_of_key, key_bytes
from llmfeat.store.values import Raw

__all__ = ["SqliteDialect"]

_US_PER_S = 1_000_000
_BUSY_S = 60.0  # how long a reader, or the writer, waits for another process


class SqliteDialect:
    """`Dialect` over the file of ``feast.infra.online_stores.sqlite``, with as many connections as read at once.

    The file is put into write-ahead logging, in which readers never wait for the writer. Feast's reader orders rows,
    and turns every time into a datetime; its writer makes a call for each cell.
    """

    def __init__(self, place: Place) -> None:
        module = import_optional("feast.infra.online_stores.sqlite", purpose="the feature store")
        self._place = place
        self._path = Path(module.SqliteOnlineStore._get_db_path(place.config)).absolute()
        self._table = module._quote_id(module._table_id(place.config.project, place.view, False))
        self._upsert = (
            f"INSERT INTO {self._table} (entity_key, feature_name, value, value_text, event_ts, created_ts) "
            "VALUES (?, ?, ?, NULL, ?, ?) ON CONFLICT(entity_key, feature_name) DO UPDATE SET value = excluded.value, "
            "value_text = NULL, event_ts = excluded.event_ts, created_ts = excluded.created_ts"
        )
        # Not one for each thread: a server has threads by the thousand, one after another.
        self._free: deque[sqlite3.Connection] = deque()

    def read(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, list[Raw]]:
        """Return the fields of `ids`; see `Dialect`."""
        values: dict[str, list[Raw]] = {field: [] for field in fields}
        for begin in range(0, len(ids), CHUNK_ROWS):
            keys = key_bytes(self._place, ids[begin : begin + CHUNK_ROWS])
            if len(fields) == 1:  # by far the most
                (field,) = fields
                found = dict(self._select("entity_key, value", keys, fields))
                values[field] += map(found.get, keys)
                continue
            cells = {
                (key, name): value for key, name, value in self._select("entity_key, feature_name, value", keys, fields)
            }
            for field in fields:
                values[field] += [cells.get((key, field)) for key in keys]
        return values

    def held(self, ids: Sequence[str], fields: Sequence[str]) -> Held:
        """Return the fields of `ids`, and when they were written; see `Dialect`."""
        times_us: list[int] = []
        for begin in range(0, len(ids), CHUNK_ROWS):
            keys = key_bytes(self._place, ids[begin : begin + CHUNK_ROWS])
            found = dict(self._select("entity_key, event_ts", keys, fields))
            times_us += [_us_of(found[key]) if key in found else 0 for key in keys]
        return Held(self.read(ids, fields), times_us)

    def write(self, ids: Sequence[str], fields: Mapping[str, Sequence[bytes]], moment_us: int) -> None:
        """Write every field of `ids`, a transaction for each chunk; see `Dialect`."""
        keys = key_bytes(self._place, ids)
        # In the order of the key, so that neighbours land on one page.
        order = sorted(range(len(keys)), key=keys.__getitem__)
        stamp = _stamp_of(moment_us)
        for begin in range(0, len(order), CHUNK_ROWS):
            chunk = order[begin : begin + CHUNK_ROWS]
            rows = [(keys[at], name, raws[at], stamp, stamp) for at in chunk for name, raws in fields.items()]
            with self._said(), self._connection() as connection, connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(self._upsert, rows)

    def modify(self, key: str, fields: Sequence[str], change: Change) -> bool:
        """Read, change and write one id in one transaction; see `Dialect`."""
        (name,) = key_bytes(self._place, [key])
        marks = ", ".join("?" * len(fields))
        columns = "feature_name, value, event_ts"
        statement = f"SELECT {columns} FROM {self._table} WHERE entity_key = ? AND feature_name IN ({marks})"
        with self._said(), self._connection() as connection, connection:
            connection.execute("BEGIN IMMEDIATE")  # no other writer until it ends
            rows = connection.execute(statement, [name, *fields]).fetchall()
            found = {field: value for field, value, _ in rows}
            times_us = [max((_us_of(stamp) for *_, stamp in rows), default=0)]
            made = change(Held({field: [found.get(field)] for field in fields}, times_us))
            if made is None:
                return False
            cells, moment_us = made
            stamp = _stamp_of(moment_us)
            connection.executemany(self._upsert, [(name, field, raw, stamp, stamp) for field, raw in cells.items()])
        return True

    def ids(self) -> Iterator[list[str]]:
        """Yield all ids; see `Dialect`."""
        last = b""
        while True:
            statement = (
                f"SELECT DISTINCT entity_key FROM {self._table} WHERE entity_key > ? ORDER BY entity_key LIMIT ?"
            )
            with self._said(), self._connection() as connection:
                keys = [key for (key,) in connection.execute(statement, [last, CHUNK_ROWS]).fetchall()]
            if not keys:
                return
            last = keys[-1]
            yield [id_of_key(self._place, key) for key in keys]

    def close(self) -> None:
        """Close the connections."""
        while self._free:
            self._free.pop().close()

    def _select(self, columns: str, keys: Sequence[bytes], fields: Sequence[str]) -> Iterator[Any]:
        statement = (
            f"SELECT {columns} FROM {self._table} WHERE entity_key IN ({', '.join('?' * len(keys))}) "
            f"AND feature_name IN ({', '.join('?' * len(fields))})"
        )
        with self._said(), self._connection() as connection:
            return iter(connection.execute(statement, [*keys, *fields]).fetchall())

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._free.pop()
        except IndexError:
            connection = self._open()
        try:
            yield connection
        finally:
            self._free.append(connection)

    def _open(self) -> sqlite3.Connection:
        if not self._path.is_file():
            raise StoreConfigError(f"there is no {self._path}, where the online store was expected: {_APPLY}")
        # Without Feast's converters; in autocommit, so that a transaction is where the code says so.
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=32
        )
        connection.execute("PRAGMA journal_mode = WAL").fetchone()
        # A commit survives the death of the process; after one of the machine the last ones may be gone, in their
        # order, and the record that a run leaves at its end with them.
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                name = self._place.view.name
                raise StoreConfigError(f"{self._path} has no table of the view {name!r}: {_APPLY}") from error
            raise StoreError(
                f"SQLite at {self._path} said {str(error)!r}: see whether it can be written, and run again"
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"SQLite at {self._path} said {str(error)!r}: restore the file, or apply and write anew"
            ) from error


_APPLY = "run `feast apply` in the repository, or `llmfeat store apply`"


def _stamp_of(moment_us: int) -> int:
    """Return a time as Feast keeps it: whole seconds of a naive datetime in UTC, read as if it were local time."""
    naive = datetime.fromtimestamp(-(-moment_us // _US_PER_S), tz=UTC).replace(tzinfo=None)
    return int(naive.timestamp())


def _us_of(stamp: Any) -> int:
    naive = datetime.fromtimestamp(int(stamp))  # the way back
    return int(naive.replace(tzinfo=UTC).timestamp()) * _US_PER_S
