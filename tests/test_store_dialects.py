"""Our bytes are Feast's bytes: what one writes the other reads, on SQLite and on Redis."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeat.errors import StoreConfigError, StoreError
from llmfeat.store import init_repo, open_store
from llmfeat.store.dialects import base, choose, open_dialect, sqlite
from llmfeat.store.dialects.base import Place, entity_keys, key_bytes
from llmfeat.store.dialects.feast import FeastDialect
from llmfeat.store.values import pack_bytes, pack_numbers, unpack_bytes, unpack_numbers, unpack_vectors
from tests.stores import FEAST_WARNINGS, seen_by_feast, written_by_feast

US = 10**6
NOW_US = 1_700_000_000 * US + 123_456
IDS = ["a", "b", "ü/ñ", "日本 語", "x" * 300, "1", "", "'; DROP TABLE", "a\0b"]

pytestmark = FEAST_WARNINGS


@pytest.fixture
def opened(tmp_path, online):
    """A store with one view of all kinds of fields."""
    import feast
    from feast import types

    folder = tmp_path / "rows"
    folder.mkdir()
    moment = pa.array([0], pa.timestamp("us", "UTC"))
    columns = {"item_id": ["x"], "vector": [b"x"], "count": [1], "score": [0.5], "is_new": [True], "title": ["x"]}
    pq.write_table(pa.table({**columns, "valid_from": moment, "written_at": moment}), folder / "part.parquet")
    store = open_store(init_repo(tmp_path / "repo", **online))
    kinds = {"vector": types.Bytes, "count": types.Int64, "score": types.Float64}
    kinds |= {"is_new": types.Bool, "title": types.String}
    entity = feast.Entity(name="item", join_keys=["item_id"], value_type=feast.ValueType.STRING)
    view = feast.FeatureView(
        name="things",
        entities=[entity],
        ttl=timedelta(0),
        schema=[feast.Field(name="item_id", dtype=types.String)]
        + [feast.Field(name=name, dtype=kind) for name, kind in kinds.items()],
        source=feast.FileSource(path=str(folder), timestamp_field="valid_from", created_timestamp_column="written_at"),
    )
    store.apply([entity, view])
    return store


@pytest.fixture
def place(opened):
    return Place(opened, opened.get_feature_view("things"))


@pytest.fixture
def ours(place):
    return open_dialect(place.store, place.view)


@pytest.fixture
def feasts(place):
    return FeastDialect(place)


def cells(n_rows: int, version: int = 0) -> dict[str, list[bytes]]:
    """Values of every kind; those of version 0 have no count."""
    numbers = range(n_rows)
    return {
        "vector": pack_bytes([np.array([at, version], "<f4").tobytes() for at in numbers]),
        "count": pack_numbers([at - 1 if version else None for at in numbers], field="int64_val"),
        "score": pack_numbers([at / 3 for at in numbers], field="double_val"),
        "is_new": pack_numbers([at % 2 == 0 for at in numbers], field="bool_val"),
        "title": [_message(string_val=f"ü{at}") for at in numbers],
    }


def _message(**field) -> bytes:
    from feast.protos.feast.types.Value_pb2 import Value

    return Value(**field).SerializeToString()


class TestBothWays:
    def test_feast_reads_what_we_write(self, place, ours):
        ours.write(IDS, cells(len(IDS), 1), NOW_US)
        asked = ["b", "nobody", "a", *IDS]
        at = [1, None, 0, *range(len(IDS))]
        read = {name: seen_by_feast(place.store, "things", name, asked) for name in cells(0)}
        assert [None if cell is None else np.frombuffer(cell, "<f4").tolist() for cell in read["vector"]] == [
            None if row is None else [row, 1] for row in at
        ]
        assert read["count"] == [None if row is None else row - 1 for row in at]
        assert read["score"] == [None if row is None else row / 3 for row in at]
        assert read["is_new"] == [None if row is None else row % 2 == 0 for row in at]
        assert read["title"] == [None if row is None else f"ü{row}" for row in at]

    def test_we_read_what_feast_writes(self, place, ours):
        rows = {
            "item_id": IDS,
            "vector": [bytes([at]) * 8 for at in range(len(IDS))],
            "count": list(range(len(IDS))),
            "score": [at / 3 for at in range(len(IDS))],
            "is_new": [at == 2 for at in range(len(IDS))],
            "title": IDS[::-1],
        }
        written_by_feast(place.store, "things", rows, at_us=NOW_US)
        read = ours.read(["nobody", *IDS], list(cells(0)))
        assert [unpack_bytes(raw) for raw in read["vector"]] == [b"", *rows["vector"]]
        for name in ("count", "score", "is_new"):
            expected = np.array([np.nan, *rows[name]], np.float32)
            np.testing.assert_array_equal(unpack_numbers(read[name]), expected)
        assert read["title"] == [None, *(_message(string_val=title) for title in rows["title"])]

    @pytest.mark.parametrize("writer", ["ours", "feasts"])
    def test_the_two_read_alike(self, ours, feasts, request, writer):
        """Fields in any order, ids twice and ids that are not there; and when each was written."""
        request.getfixturevalue(writer).write(IDS[:3], cells(3, 1), NOW_US)
        request.getfixturevalue(writer).write(IDS[2:], cells(len(IDS) - 2, 2), NOW_US + 5 * US)
        asked = ["nobody", *IDS, "a", "none"]
        for fields in (["title", "vector"], ["count"], ["vector"], list(cells(0))):
            assert ours.read(asked, fields) == feasts.read(asked, fields)
            assert ours.held(asked, fields) == feasts.held(asked, fields)
        times = dict(zip(asked, ours.held(asked, ["vector"]).times_us, strict=True))
        assert times["nobody"] == times["none"] == 0
        for key, moment in {"a": NOW_US, "b": NOW_US, "1": NOW_US + 5 * US}.items():
            assert abs(times[key] - moment) <= US  # SQLite has whole seconds

    def test_a_number_that_is_none_is_read_as_nan(self, ours, feasts):
        ours.write(["a"], cells(1), NOW_US)
        for dialect in (ours, feasts):
            assert np.isnan(unpack_numbers(dialect.read(["a"], ["count"])["count"])).all()

    def test_what_we_write_is_never_older_than_said(self, ours):
        """It is to be later than all that is there, also where a store rounds."""
        ours.write(["a"], cells(1), NOW_US)
        (held_us,) = ours.held(["a"], ["vector"]).times_us
        assert NOW_US <= held_us < NOW_US + US

    def test_the_last_write_counts_whatever_its_time(self, ours):
        for version, moment_us in ((1, NOW_US), (2, NOW_US), (3, NOW_US - 60 * US)):
            ours.write(["a"], cells(1, version), moment_us)
            assert ours.read(["a"], ["vector"])["vector"] == cells(1, version)["vector"]

    def test_more_than_a_chunk(self, ours, feasts):
        n_rows = 2 * base.CHUNK_ROWS + 7
        ids = [f"i{at}" for at in range(n_rows)]
        written = cells(n_rows, 1)
        ours.write(ids, written, NOW_US)
        asked = [*reversed(ids), "nobody"]
        for fields in (["vector"], ["count", "title"]):
            read = ours.read(asked, fields)
            assert read == {name: [*reversed(written[name]), None] for name in fields}
        held = ours.held(asked, ["vector", "count"])
        assert held.times_us[-1] == 0
        assert len(set(held.times_us)) == 2
        assert feasts.held(asked, ["vector", "count"]) == held

    def test_nothing_asked_nothing_written(self, ours, feasts):
        for dialect in (ours, feasts):
            assert dialect.read([], ["vector", "count"]) == {"vector": [], "count": []}
            assert dialect.held([], ["vector"]).times_us == []
            dialect.write([], {name: [] for name in cells(0)}, NOW_US)

    def test_closed_and_used_again(self, ours):
        ours.write(["a"], cells(1, 1), NOW_US)
        ours.close()
        assert ours.read(["a"], ["vector"])["vector"] == cells(1, 1)["vector"]


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_keys_are_those_of_feast(key):
    from feast.infra.key_encoding_utils import serialize_entity_key

    place = Place(None, type("View", (), {"join_keys": ["item_id"]})())
    (message,) = entity_keys(place, [key])
    assert key_bytes(place, [key]) == [serialize_entity_key(message, entity_key_serialization_version=3)]


class TestTheCheck:
    """Should another Feast lay its store out in another way, nothing is read rather than something wrong."""

    @pytest.fixture
    def filled(self, place, feasts):
        feasts.write(["a", "b"], cells(2, 1), NOW_US)
        return place

    def broken(self, monkeypatch, changed):
        for name in ("SqliteDialect", "RedisDialect"):
            kept = getattr(choose, name)

            class Broken(kept):
                def read(self, ids, fields, kept=kept):
                    return changed(kept.read(self, ids, fields))

            monkeypatch.setattr(choose, name, Broken)

    def test_an_honest_dialect_passes_once(self, filled, monkeypatch):
        asked = []
        read = FeastDialect.read
        monkeypatch.setattr(FeastDialect, "read", lambda self, *args: asked.append(args) or read(self, *args))
        dialect = open_dialect(filled.store, filled.view)
        for _ in range(3):
            assert dialect.read(["nobody", "a"], ["vector"])["vector"] == [None, cells(1, 1)["vector"][0]]
        assert len(asked) == 1

    @pytest.mark.parametrize(
        "changed",
        [
            lambda read: {name: raws[::-1] for name, raws in read.items()},
            lambda read: {name: [raw and raw[:-1] for raw in raws] for name, raws in read.items()},
            lambda read: {name: [None] * len(raws) for name, raws in read.items()},
        ],
        ids=["other rows", "other bytes", "finds nothing"],
    )
    def test_one_that_reads_otherwise_is_refused(self, filled, monkeypatch, changed):
        self.broken(monkeypatch, changed)
        dialect = open_dialect(filled.store, filled.view)
        with pytest.raises(StoreError, match="things reads differently through Feast's own reader, such as '"):
            dialect.read(["a", "b"], ["vector", "count"])

    def test_an_empty_store_says_nothing_yet(self, place, monkeypatch):
        self.broken(monkeypatch, lambda read: {name: raws[::-1] for name, raws in read.items()})
        dialect = open_dialect(place.store, place.view)
        for _ in range(10):
            assert dialect.read(["a", "b"], ["vector"]) == {"vector": [None, None]}
        FeastDialect(place).write(["a", "b"], cells(2, 1), NOW_US)
        with pytest.raises(StoreError, match="reads differently"):
            dialect.held(["a", "b"], ["vector"])

    def test_an_empty_store_is_not_read_twice_for_ever(self, place, monkeypatch):
        asked = []
        read = FeastDialect.read
        monkeypatch.setattr(FeastDialect, "read", lambda self, *args: asked.append(args) or read(self, *args))
        dialect = open_dialect(place.store, place.view)
        for _ in range(10):
            dialect.read(["a", "b"], ["vector"])
        assert len(asked) == 3

    def test_another_serialization_of_keys_is_refused(self, place):
        place.config.entity_key_serialization_version = 2
        with pytest.raises(StoreConfigError, match="is 2, but 3 was expected"):
            open_dialect(place.store, place.view)

    def test_a_store_whose_layout_we_do_not_know_is_left_to_feast(self, place):
        place.config.registry.enable_online_feature_view_versioning = True
        assert isinstance(open_dialect(place.store, place.view), FeastDialect)


class TestTimeZones:
    @pytest.fixture(params=["America/New_York", "Asia/Kolkata", "Pacific/Auckland"])
    def zone(self, request, monkeypatch):
        monkeypatch.setenv("TZ", request.param)
        time.tzset()
        yield
        monkeypatch.undo()
        time.tzset()

    @pytest.mark.usefixtures("zone")
    def test_times_are_those_of_utc(self, place, ours, feasts):
        rows = {"item_id": ["feast"], "vector": [b"x"], "count": [1], "score": [0.0], "is_new": [True], "title": ["x"]}
        ours.write(["ours"], cells(1, 1), NOW_US)
        feasts.write(["generic"], cells(1, 1), NOW_US)
        written_by_feast(place.store, "things", rows, at_us=NOW_US)
        for dialect in (ours, feasts):
            for held_us in dialect.held(["ours", "generic", "feast"], ["vector"]).times_us:
                assert abs(held_us - NOW_US) < US

    @pytest.mark.usefixtures("zone")
    @pytest.mark.parametrize("online", ["sqlite"], indirect=True)
    def test_a_store_that_forgot_the_zone_would_be_seen(self, ours, monkeypatch):
        """The broken double of the test above."""
        ours.write(["a"], cells(1, 1), NOW_US)
        monkeypatch.setattr(sqlite, "_us_of", lambda stamp: int(stamp) * US)
        (held_us,) = ours.held(["a"], ["vector"]).times_us
        assert abs(held_us - NOW_US) > 3600 * US

    @pytest.mark.usefixtures("zone")
    @pytest.mark.parametrize("month", range(12))
    def test_no_hour_of_a_year_is_kept_as_an_earlier_one(self, month):
        """Hours that a clock skips or repeats come back as themselves or later, never earlier."""
        begin = NOW_US // US + month * 31 * 24 * 3600
        for moment_us in range(begin * US, (begin + 31 * 24 * 3600) * US, 600 * US):
            held_us = sqlite._us_of(sqlite._stamp_of(moment_us))
            assert moment_us <= held_us <= moment_us + 3600 * US


class TestThreads:
    def test_many_read_at_once_while_one_writes(self, ours):
        """Each sees every row whole, as it was or as it is."""
        ids = [f"i{at}" for at in range(200)]
        versions = {version: cells(200, version) for version in (1, 2, 3)}
        ours.write(ids, versions[1], NOW_US)
        rows = {version: list(zip(*fields.values(), strict=True)) for version, fields in versions.items()}
        done = threading.Event()

        def read(_: int) -> int:
            n_reads = 0
            while not done.is_set() or not n_reads:
                values = ours.read(ids, list(versions[1]))
                for at, row in enumerate(zip(*values.values(), strict=True)):
                    assert row in (rows[1][at], rows[2][at], rows[3][at])
                n_reads += 1
            return n_reads

        with ThreadPoolExecutor(8) as pool:
            reads = [pool.submit(read, number) for number in range(8)]
            for turn in range(1, 10):
                ours.write(ids, versions[turn % 3 + 1], NOW_US + turn * US)
            done.set()
            assert all(future.result() for future in reads)

    @pytest.mark.parametrize("online", ["sqlite"], indirect=True)
    @pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
    def test_threads_that_end_let_go_of_the_file(self, ours):
        """A server has a thread for each connection, by the thousand."""
        ours.write(["a"], cells(1, 1), NOW_US)
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for _ in range(30):
            thread = threading.Thread(target=ours.read, args=(["a"], ["vector"]))
            thread.start()
            thread.join()
        assert len(os.listdir("/proc/self/fd")) <= before + 3  # noqa: PTH208


@pytest.mark.parametrize("online", ["redis"], indirect=True)
class TestRedis:
    def test_connections_that_died_in_the_pool_are_replaced(self, ours, redis_server):
        import redis

        ours.write(["a"], cells(1, 1), NOW_US)
        host, _, port = redis_server.partition(":")
        with ThreadPoolExecutor(4) as pool:
            barrier = threading.Barrier(4)

            def read(_: int) -> object:
                barrier.wait()
                return ours.read(["a"], ["vector"])["vector"]

            for _ in range(3):
                assert list(pool.map(read, range(4))) == [cells(1, 1)["vector"]] * 4
                with redis.Redis(host=host, port=int(port)) as client:
                    assert client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") > 0
        ours.write(["a"], cells(1, 2), NOW_US + US)
        assert ours.read(["a"], ["vector"])["vector"] == cells(1, 2)["vector"]

    def test_an_error_leaves_no_reply_for_the_next(self, ours, place, redis_server):
        """A refused command in the middle: the connection's other replies are not taken for the next caller's."""
        import redis

        ids = ["a", "b", "c"]
        ours.write(ids, cells(3, 1), NOW_US)
        host, _, port = redis_server.partition(":")
        with redis.Redis(host=host, port=int(port)) as client:
            key = key_bytes(place, ["b"])[0] + place.config.project.encode()
            client.delete(key)
            client.set(key, "no hash")
        with pytest.raises(StoreError, match=r"Redis at 127\.0\.0\.1:\d+ said ResponseError: WRONGTYPE"):
            ours.read(ids, ["vector"])
        assert ours.read(["c"], ["vector"])["vector"] == [cells(3, 1)["vector"][2]]

    def test_a_time_to_live_is_kept(self, place, redis_server):
        import redis

        place.config.online_store.key_ttl_seconds = 1000
        open_dialect(place.store, place.view).write(["a"], cells(1, 1), NOW_US)
        host, _, port = redis_server.partition(":")
        with redis.Redis(host=host, port=int(port)) as client:
            assert 0 < client.ttl(key_bytes(place, ["a"])[0] + place.config.project.encode()) <= 1000


@pytest.mark.parametrize("online", ["sqlite"], indirect=True)
class TestSqlite:
    def path(self, place) -> Path:
        return Path(place.config.repo_path) / place.config.online_store.path

    def test_a_view_that_was_not_applied(self, ours, place):
        with sqlite3.connect(self.path(place)) as connection:
            connection.execute(f"DROP TABLE {place.config.project}_things")
        connection.close()
        for use in (ours.read, ours.held):
            with pytest.raises(StoreConfigError, match="has no table of the view 'things': run `feast apply`"):
                use(["a"], ["vector"])
        with pytest.raises(StoreConfigError, match="run `feast apply`"):
            ours.write(["a"], cells(1, 1), NOW_US)

    def test_no_file(self, ours, place):
        self.path(place).unlink()
        with pytest.raises(StoreConfigError, match="where the online store was expected: run `feast apply`"):
            ours.read(["a"], ["vector"])
        assert not self.path(place).exists()

    def test_another_file(self, ours, place):
        self.path(place).write_bytes(b"no database" * 1000)
        with pytest.raises(StoreError, match=r"file is not a database.*restore the file, or apply and write anew"):
            ours.read(["a"], ["vector"])

    def test_a_chunk_is_written_whole_or_not_at_all(self, ours, place):
        ours.write(["a", "b"], cells(2, 1), NOW_US)
        broken = cells(2, 2)
        broken["title"][1] = object()  # SQLite has no such value
        with pytest.raises(StoreError):
            ours.write(["a", "b"], broken, NOW_US + US)
        assert ours.read(["a", "b"], ["vector"])["vector"] == cells(2, 1)["vector"]


class TestValues:
    def test_bytes_and_numbers_by_hand(self):
        assert [unpack_bytes(raw) for raw in pack_bytes([b"ab", b"", None, b"x" * 500])] == [
            b"ab",
            b"",
            b"",
            b"x" * 500,
        ]
        assert unpack_bytes(None) == b""
        numbers = unpack_numbers([*pack_numbers([3, None, -1, 0], field="int64_val"), None])
        np.testing.assert_array_equal(numbers, np.array([3, np.nan, -1, 0, np.nan], np.float32))

    @pytest.mark.parametrize("dim", [1, 31, 32, 384, 4096])
    def test_vectors(self, dim):
        vectors = np.random.default_rng(0).standard_normal((5, dim)).astype(np.float32)
        raws = pack_bytes(row.tobytes() for row in vectors)
        assert unpack_vectors(raws, dim, what="v").tobytes() == vectors.tobytes()
        some = unpack_vectors([None, raws[3], pack_bytes([b""])[0], raws[0]], dim, what="v")
        assert np.isnan(some[[0, 2]]).all()
        assert some[[1, 3]].tobytes() == vectors[[3, 0]].tobytes()
        assert np.isnan(unpack_vectors([None, None], dim, what="v")).all()

    def test_what_something_else_wrote_is_an_error(self):
        with pytest.raises(StoreError, match=r"v has vectors of \[3, 12\] bytes, 8 were expected"):
            unpack_vectors(pack_bytes([b"x" * 12, b"x" * 8, b"abc"]), 2, what="v")
        with pytest.raises(StoreError, match="v holds values of another type than Bytes"):
            unpack_vectors([_message(string_val="x" * 8)], 2, what="v")

    def test_they_are_the_messages_of_feast(self):
        """The broken double is a header of another length."""
        for size in (0, 1, 127, 128, 20_000):
            assert pack_bytes([b"x" * size]) == [_message(bytes_val=b"x" * size)]
        assert pack_numbers([2**40], field="int64_val") == [_message(int64_val=2**40)]
