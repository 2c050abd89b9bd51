"""`materialize`: what is online is what the tables say, whatever happened before, and nothing is written twice."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeat import InteractionLog, ItemTemplate, TextEncoder, VectorTable, encode_table
from llmfeat._base.files import claimed
from llmfeat.encode.changes import now_us
from llmfeat.encode.manifest import Manifest
from llmfeat.errors import (
    InputError,
    LLMFeatWarning,
    StoreConfigError,
    StoreError,
    StoreWriteError,
    TableFingerprintError,
)
from llmfeat.features.semantic import SemanticIds
from llmfeat.history import UserHistory
from llmfeat.store import (
    FeastHistories,
    init_repo,
    materialize,
    online,
    open_store,
    snapshots,
    view_name,
    write_online,
    writing,
)
from llmfeat.store.definitions import RepoTables
from llmfeat.store.dialects import redis, sqlite
from llmfeat.store.dialects.base import Place
from llmfeat.store.dialects.feast import FeastDialect
from llmfeat.store.histories import FIELDS, history_cells, history_of
from llmfeat.store.online import open_view
from llmfeat.store.state import STATE_ID, ViewState
from llmfeat.store.values import pack_bytes, unpack_bytes, unpack_numbers, unpack_vectors
from tests.stores import DIM, FEAST_WARNINGS, FINGERPRINT, apply, numbered, put_vectors, seen_by_feast, written_by_feast

US = 10**6
T0 = 10**9
VIEW = view_name(FINGERPRINT)
module = sys.modules["llmfeat.store.materialize"]  # the package has the function under its name

pytestmark = FEAST_WARNINGS


def events(*rows: tuple[str, str, int, int], **options: Any) -> InteractionLog:
    """A log of (user, item, seconds since T0, label)."""
    users, items, times, labels = zip(*rows, strict=True)
    table = pa.table(
        {"user_id": users, "item_id": items, "timestamp": [T0 + second for second in times], "label": labels}
    )
    return InteractionLog.from_frame(table, label="label", **options)


class Died(BaseException):
    """Stands for the end of a process."""


class Repo:
    """A repository with a vector table, and a log where one is given, applied."""

    def __init__(self, folder: Path, options: dict[str, Any], log: InteractionLog | None = None, **more: Any) -> None:
        self.log_folder = folder / "log"
        if log is not None:
            log.save(self.log_folder)
            more["log"] = self.log_folder
        self.path = init_repo(folder / "repo", **options, **more)
        self.table = self.path / "data" / "item_vectors"

    def apply(self) -> Repo:
        self.store = apply(self.path)
        return self

    def put(self, vectors: dict[str, Any], **options: Any) -> Repo:
        put_vectors(self.table, vectors, **options)
        return self

    def view(self, kind: str) -> online.OnlineView:
        """A view opened anew."""
        tables = RepoTables.of(self.path)
        if kind == "item_vectors":
            fingerprint = FINGERPRINT
        elif kind == "item_scalars":
            fingerprint = tables.scalars(tables.generations[FINGERPRINT]).fingerprint
        else:
            fingerprint = tables.histories().fingerprint
        return open_view(open_store(self.path), fingerprint, kind, where=self.path)

    def vectors(self, ids: list[str]) -> list[list[float] | None]:
        raws = self.view("item_vectors").read(ids, ["vector"])["vector"]
        read = unpack_vectors(raws, DIM, what="the test")
        return [None if np.isnan(row).any() else row.tolist() for row in read]

    def scalars(self, ids: list[str]) -> dict[str, list[Any]]:
        view = self.view("item_scalars")
        read = view.read(ids)
        return {
            name: [unpack_bytes(raw) for raw in raws] if name == "text_hash" else unpack_numbers(raws).tolist()
            for name, raws in read.items()
        }

    def history(self, user: str) -> list[tuple[str, int, float]]:
        """What the store holds of a user: (item, seconds since T0, label)."""
        read = self.view("user_histories").read([user], FIELDS)
        one = history_of(tuple(read[name][0] for name in FIELDS), what="the test")
        seconds = [(moment - T0 * US) // US for moment in one.times_us.tolist()]
        return list(zip(one.item_ids, seconds, one.labels.tolist(), strict=True))


@pytest.fixture
def repo(tmp_path, online):
    return Repo(tmp_path, online)


@pytest.fixture
def writes(monkeypatch):
    """The ids of every write that reaches a store, records left out."""
    seen: list[list[str]] = []
    for dialect in (sqlite.SqliteDialect, redis.RedisDialect):
        write = dialect.write

        def watched(self, ids, fields, moment_us, write=write):
            seen.append([key for key in ids if key != STATE_ID])
            write(self, ids, fields, moment_us)

        monkeypatch.setattr(dialect, "write", watched)
    return seen


def counts(summary, kind="item_vectors"):
    (view,) = [view for view in summary.views if view.view.startswith(kind)]
    return view.written, view.cleared, view.unchanged


def flat(lists):
    return [one for each in lists for one in each]


class TestWhatIsWritten:
    def test_everything_once_then_nothing(self, tmp_path, online, writes):
        log = events(("u", "i0", 0, 1), ("v", "i1", 1, 0))
        repo = Repo(tmp_path, online, log).put({**numbered(3), "none": None}).apply()
        first = materialize(repo.path)
        assert (first.written, first.cleared) == (3 + 4 + 2, 0)
        assert counts(first) == (3, 0, 1)
        writes.clear()
        again = materialize(repo.path)
        assert (again.written, again.cleared) == (0, 0)
        assert [counts(again, kind) for kind in ("item_vectors", "item_scalars", "user_histories")] == [
            *((0, 0, 4), (0, 0, 4), (0, 0, 2))
        ]
        assert writes == []  # not even a record

    def test_only_what_changed(self, repo, writes):
        repo.put(numbered(5)).apply()
        materialize(repo.path)
        writes.clear()
        repo.put({"i1": [9, 9, 9, 9], "new": [8, 8, 8, 8]})
        assert counts(materialize(repo.path, only=["items"])) == (2, 0, 4)
        assert sorted(flat(writes)) == ["i1", "new"]
        assert repo.vectors(["i0", "i1", "new"]) == [[0, 0, 0, 0], [9, 9, 9, 9], [8, 8, 8, 8]]

    def test_of_several_parts_the_last_row_of_an_id_counts(self, repo, writes):
        repo.put(numbered(3)).apply()
        materialize(repo.path)
        writes.clear()
        repo.put({"i1": [7, 0, 0, 0], "i2": [7, 0, 0, 0]}).put({"i1": [8, 0, 0, 0]}, deleted=["i2"])
        assert counts(materialize(repo.path, only=["items"])) == (1, 1, 1)
        assert sorted(flat(writes)) == ["i1", "i2"]
        assert repo.vectors(["i0", "i1", "i2"]) == [[0, 0, 0, 0], [8, 0, 0, 0], None]

    def test_what_is_deleted_is_emptied_and_may_come_back(self, tmp_path, online, writes):
        log = events(("u", "i0", 0, 1), ("v", "i1", 1, 0))
        repo = Repo(tmp_path, online, log).put(numbered(2)).apply()
        materialize(repo.path)
        repo.put({}, deleted=["i1"])
        events(("u", "i0", 0, 1)).save(repo.log_folder)
        summary = materialize(repo.path)
        assert counts(summary) == (0, 1, 1)
        assert counts(summary, "item_scalars")[1] == counts(summary, "user_histories")[1] == 1
        assert repo.vectors(["i0", "i1"]) == [[0, 0, 0, 0], None]
        assert np.isnan(repo.scalars(["i1"])["n_tokens"]).all()
        assert repo.history("v") == []
        assert repo.history("u") == [("i0", 0, 1)]
        writes.clear()
        assert materialize(repo.path).written == 0
        assert writes == []
        repo.put({"i1": [5, 0, 0, 0]})
        materialize(repo.path)
        assert repo.vectors(["i1"]) == [[5, 0, 0, 0]]
        assert repo.scalars(["i1"])["n_tokens"] == [3]

    def test_another_valid_from_alone_changes_no_value(self, repo):
        repo.put(numbered(2)).apply()
        materialize(repo.path)
        repo.put({"i1": [1, 0, 0, 0]}, valid_from_us=T0 * US)
        summary = materialize(repo.path)
        assert counts(summary)[0] <= 1
        assert counts(summary, "item_scalars") == (0, 0, 2)
        assert repo.vectors(["i0", "i1"]) == [[0, 0, 0, 0], [1, 0, 0, 0]]
        assert materialize(repo.path).written == 0

    def test_full_writes_every_row(self, repo, writes):
        repo.put({**numbered(3), "none": None}).apply()
        materialize(repo.path)
        repo.view("item_vectors").dialect.write(["i1"], {"vector": pack_bytes([b"x" * 16])}, now_us())
        assert counts(materialize(repo.path, only=["items"])) == (0, 0, 4)  # it trusts its record
        writes.clear()
        assert counts(materialize(repo.path, only=["items"], full=True)) == (3, 1, 0)
        assert sorted(flat(writes)) == ["i0", "i1", "i2", "none"]
        assert repo.vectors(["i1", "none"]) == [[1, 0, 0, 0], None]

    def test_without_its_record_a_store_is_compared(self, repo, writes):
        """What was restored from somewhere, or written by another version: only rows that differ are written."""
        repo.put(numbered(4)).apply()
        materialize(repo.path)
        view = repo.view("item_vectors")
        view.dialect.write([STATE_ID], {"vector": pack_bytes([b""])}, now_us())
        view.dialect.write(["i2"], {"vector": pack_bytes([b"x" * 16])}, now_us())
        writes.clear()
        assert counts(materialize(repo.path, only=["items"])) == (1, 0, 3)
        assert flat(writes) == ["i2"]
        assert repo.vectors(["i2"]) == [[2, 0, 0, 0]]

    def test_what_is_deleted_is_emptied_where_rows_are_compared(self, tmp_path, online):
        """Also a row that had no bytes, only numbers."""
        repo = Repo(tmp_path, online, events(("u", "none", 0, 1))).put({**numbered(2), "none": None}).apply()
        materialize(repo.path)
        assert repo.scalars(["none"])["popularity"] == [1]
        repo.put({}, deleted=["none", "i1"])
        view = repo.view("item_scalars")
        view.put_state(ViewState(), moment_us=now_us())
        assert counts(materialize(repo.path), "item_scalars") == (0, 2, 1)
        for name in ("popularity", "has_text", "n_tokens"):
            assert np.isnan(repo.scalars(["none", "i1"])[name]).all()
        assert repo.scalars(["i0"])["popularity"] == [0]

    def test_an_emptied_store_is_filled_again(self, repo, writes, online, redis_server):
        """The record goes with the rows that it speaks of."""
        repo.put(numbered(3)).apply()
        materialize(repo.path)
        if online["redis"]:
            import redis

            host, _, port = redis_server.partition(":")
            with redis.Redis(host=host, port=int(port)) as client:
                client.flushall()
        else:
            for path in repo.path.glob("data/online_store.db*"):
                path.unlink()
            repo.apply()
        writes.clear()
        assert counts(materialize(repo.path, only=["items"])) == (3, 0, 0)
        assert sorted(flat(writes)) == ["i0", "i1", "i2"]
        assert repo.vectors(["i2"]) == [[2, 0, 0, 0]]

    def test_a_table_that_was_made_anew_is_compared(self, repo, writes):
        repo.put(numbered(3)).apply()
        materialize(repo.path)
        for path in repo.table.rglob("*"):
            if path.is_file():
                path.unlink()
        repo.put({**numbered(2), "i2": [9, 0, 0, 0]}, valid_from_us=5)
        writes.clear()
        assert counts(materialize(repo.path, only=["items"])) == (1, 0, 2)
        assert flat(writes) == ["i2"]

    @pytest.mark.parametrize("ahead_s", [3600, 400 * 24 * 3600])
    @pytest.mark.parametrize("how", ["changed", "full", "compared"])
    def test_what_somebody_else_wrote_later_is_replaced(self, repo, ahead_s, how):
        """Also with a time in the future, which Feast's own writer in Redis would keep until then."""
        repo.put(numbered(2)).apply()
        materialize(repo.path)
        row = {"item_id": ["i1"], "vector": [b"x" * 16]}
        written_by_feast(repo.store, VIEW, row, at_us=now_us() + ahead_s * US)
        assert seen_by_feast(repo.store, VIEW, "vector", ["i1"]) == [b"x" * 16]
        if how == "changed":
            repo.put({"i1": [9, 0, 0, 0]})
        if how == "compared":
            repo.view("item_vectors").dialect.write([STATE_ID], {"vector": pack_bytes([b""])}, now_us())
        summary = materialize(repo.path, only=["items"], full=how == "full")
        assert summary.written == (2 if how == "full" else 1)
        expected = [9, 0, 0, 0] if how == "changed" else [1, 0, 0, 0]
        assert repo.vectors(["i0", "i1"]) == [[0, 0, 0, 0], expected]
        assert seen_by_feast(repo.store, VIEW, "vector", ["i1"]) == [np.array(expected, "<f4").tobytes()]

    def test_through_feasts_own_interface(self, tmp_path, online, monkeypatch):
        """Stores that we have no bytes of: the same rows, changes and deletions, and nothing twice."""
        monkeypatch.setattr("llmfeat.store.online.open_dialect", lambda store, view: FeastDialect(Place(store, view)))
        log = events(("u", "i0", 0, 1), ("v", "i1", 1, 0))
        repo = Repo(tmp_path, online, log).put({**numbered(3), "none": None}).apply()
        assert materialize(repo.path).written == 3 + 4 + 2
        assert materialize(repo.path).written == 0
        repo.put({"i1": [9, 0, 0, 0]}, deleted=["i2"])
        events(("u", "i0", 0, 1), ("u", "i0", 5, 0)).save(repo.log_folder)
        summary = materialize(repo.path)
        assert counts(summary) == (1, 1, 2)
        assert summary.cleared == 3
        assert repo.vectors(["i0", "i1", "i2"]) == [[0, 0, 0, 0], [9, 0, 0, 0], None]
        assert repo.history("u") == [("i0", 0, 1), ("i0", 5, 0)]
        assert repo.history("v") == []
        assert materialize(repo.path).written == 0
        assert materialize(repo.path, full=True).cleared == 4  # as empty, though they were


class TestRefusals:
    def test_an_id_that_we_keep_for_ourselves(self, repo):
        repo.put({"a": [1, 0, 0, 0], STATE_ID: [1, 0, 0, 0]}).apply()
        with pytest.raises(InputError, match="'__llmfeat_state__', which llmfeat keeps for itself: rename it"):
            materialize(repo.path)

    @pytest.mark.parametrize("online", ["sqlite"], indirect=True)
    def test_a_user_of_that_id(self, tmp_path, online):
        repo = Repo(tmp_path, online, events((STATE_ID, "a", 0, 1))).put(numbered(1)).apply()
        with pytest.raises(InputError, match="rename it"):
            materialize(repo.path, only=["histories"])

    def test_something_else_under_that_id(self, repo):
        repo.put(numbered(1)).apply()
        written_by_feast(repo.store, VIEW, {"item_id": [STATE_ID], "vector": [b"mine"]}, at_us=now_us())
        with pytest.raises(StoreError, match="holds no record of llmfeat under '__llmfeat_state__'"):
            materialize(repo.path)

    def test_a_record_of_a_newer_version(self, repo):
        repo.put(numbered(1)).apply()
        newer = ViewState().to_bytes().replace(b'"schema":1', b'"schema":2')
        written_by_feast(repo.store, VIEW, {"item_id": [STATE_ID], "vector": [newer]}, at_us=now_us())
        with pytest.raises(StoreError, match=r"by another version \(schema 2, not 1\): upgrade llmfeat"):
            materialize(repo.path)

    def test_rows_that_a_store_takes_and_does_not_keep(self, repo, monkeypatch):
        repo.put(numbered(3)).apply()
        for dialect in (sqlite.SqliteDialect, redis.RedisDialect):
            write = dialect.write

            def losing(self, ids, fields, moment_us, write=write):
                kept = [at for at, key in enumerate(ids) if key != "i1"]
                part = {name: [raws[at] for at in kept] for name, raws in fields.items()}
                write(self, [ids[at] for at in kept], part, moment_us)

            monkeypatch.setattr(dialect, "write", losing)
        with pytest.raises(StoreWriteError, match=r"1 of 3 rows read back .* such as those of \['i1'\]: run again"):
            materialize(repo.path)
        monkeypatch.undo()
        assert counts(materialize(repo.path, only=["items"]))[0] == 1  # the others are there
        assert repo.vectors(["i1"]) == [[1, 0, 0, 0]]

    @pytest.mark.parametrize("run", [materialize, lambda path: write_online(path, path / "data" / "item_vectors")])
    def test_two_runs_at_once(self, repo, monkeypatch, run):
        repo.put(numbered(1)).apply()
        second = []

        def meanwhile(*args, write=module.write_view, **options):
            if not second:
                second.append("began")
                with pytest.raises(StoreWriteError, match=r"another process materializes .*: wait for it to end"):
                    run(repo.path)
            return write(*args, **options)

        monkeypatch.setattr(module, "write_view", meanwhile)
        assert materialize(repo.path).written == 2
        assert second
        run(repo.path)

    def test_two_runs_of_other_processes(self, repo):
        repo.put(numbered(1)).apply()
        materialize(repo.path)
        with claimed(repo.path), pytest.raises(StoreWriteError, match="another process materializes"):
            write_online(repo.path, repo.table)

    @pytest.mark.parametrize("online", ["sqlite"], indirect=True)
    @pytest.mark.parametrize("only", [[], ["vectors"], ["items", "users", "item"]])
    def test_what_to_look_at(self, repo, only):
        with pytest.raises(InputError, match=r"only=\[.*some of \['items', 'scalars', 'histories', 'users'\] were exp"):
            materialize(repo.path, only=only)

    @pytest.mark.parametrize("online", ["sqlite"], indirect=True)
    def test_a_generation_that_the_table_lacks(self, repo):
        repo.put(numbered(1)).apply()
        with pytest.raises(TableFingerprintError, match=r"\['eeeeeeeeeeee'\] were asked for: encode with those models"):
            materialize(repo.path, fingerprints=["e" * 64])

    @pytest.mark.parametrize("online", ["sqlite"], indirect=True)
    def test_a_repository_that_was_not_applied(self, repo):
        repo.put(numbered(1))
        with pytest.raises(StoreConfigError, match=f"'{VIEW}' was expected: .*run `feast apply`"):
            materialize(repo.path)


@pytest.mark.parametrize("online", ["sqlite"], indirect=True)
class TestGenerations:
    def test_the_current_one_and_those_that_are_served(self, repo):
        old, served = "a" * 64, "b" * 64
        for fingerprint in (old, served, FINGERPRINT):
            repo.put(numbered(1), fingerprint=fingerprint)
        (repo.path / "rankers").mkdir()
        body = '{"vectors": ["%s"], "tags": {}, "description": ""}'
        (repo.path / "rankers" / "r.json").write_text(body % served)
        repo.apply()
        done = materialize(repo.path, only=["items"])
        assert [view.view for view in done.views] == [VIEW, view_name(served)]
        done = materialize(repo.path, only=["items"], fingerprints=[old])
        assert [view.view for view in done.views] == [view_name(old)]

    def test_vectors_of_users(self, tmp_path, online):
        put_vectors(tmp_path / "users", {"u1": [1, 2], "u2": None}, fingerprint="e" * 64)
        repo = Repo(tmp_path, online, users=tmp_path / "users").put(numbered(1)).apply()
        summary = materialize(repo.path, only=["users"])
        assert counts(summary, "user_vectors") == (1, 0, 1)
        view = view_name("e" * 64, "user_vectors")
        assert seen_by_feast(repo.store, view, "vector", ["u1", "u2"], key="user_id") == [
            *(np.array([1, 2], "<f4").tobytes(), None)
        ]


class TestScalars:
    def test_by_hand(self, tmp_path, online, artifact):
        items = pa.table(
            {"item_id": ["a", "b", "none"], "title": ["heat", "the alien war", None], "since": [T0, T0 + 500, T0]}
        )
        log = events(("u", "a", 0, 1), ("v", "a", 60, 0), ("v", "unknown", 100, 1))
        repo = Repo(tmp_path, online, log)
        encoder = TextEncoder(artifact)
        encode_table(items, template=ItemTemplate("{title}"), encoder=encoder, out=repo.table, valid_from="since")
        repo.apply()
        before = time.time() * US
        materialize(repo.path)
        (fingerprint,) = Manifest.read(repo.table).generations
        tables = RepoTables.of(repo.path)
        view = view_name(tables.scalars(tables.generations[fingerprint]).fingerprint, "item_scalars")
        ids = ["b", "none", "a", "nobody"]

        def seen(field):
            return seen_by_feast(repo.store, view, field, ids)

        def text_hash(text):
            return hashlib.sha256(f"{fingerprint}\0{text}".encode()).digest()[:8]

        assert seen("has_text") == [1, 0, 1, None]
        assert seen("n_tokens") == [5, 0, 3, None]  # with [CLS] and [SEP]
        assert [cell or None for cell in seen("text_hash")] == [
            text_hash("the alien war"),
            None,
            text_hash("heat"),
            None,
        ]
        assert seen("popularity") == [0, 0, 2, None]
        rows = self.parts(repo)
        seen_since = list(zip(rows["item_id"], rows["popularity"], rows["valid_from"], strict=True))
        # What a text says is known since its own time; what was counted, since it was counted, and not before.
        assert sorted(seen_since[:3]) == [("a", None, T0 * US), ("b", None, (T0 + 500) * US), ("none", None, T0 * US)]
        assert sorted(row[:2] for row in seen_since[3:]) == [("a", 2), ("b", 0), ("none", 0)]
        assert all(before <= since <= time.time() * US for *_, since in seen_since[3:])

    def parts(self, repo):
        paths = sorted(repo.path.glob("data/item_scalars/*/*.parquet"), key=lambda path: path.stat().st_mtime_ns)
        rows = pa.concat_tables([pq.read_table(path) for path in paths])
        return {**rows.to_pydict(), "valid_from": rows.column("valid_from").cast(pa.int64()).to_pylist()}

    def test_without_a_log_there_is_no_popularity(self, repo):
        repo.put({"a": [1, 0, 0, 0], "none": None}, valid_from_us=77).apply()
        materialize(repo.path)
        read = repo.scalars(["a", "none"])
        assert list(read) == ["has_text", "n_tokens", "text_hash"]
        assert (read["has_text"], read["n_tokens"]) == ([1, 0], [3, 0])
        assert read["text_hash"] == [hashlib.sha256(b"[1.0, 0.0, 0.0, 0.0]").digest()[:8], b""]
        assert self.parts(repo)["valid_from"] == [77, 77]

    def test_a_log_that_grew_changes_the_popularity_of_what_it_names(self, tmp_path, online, writes):
        repo = Repo(tmp_path, online, events(("u", "i0", 0, 1))).put(numbered(3)).apply()
        materialize(repo.path)
        events(("u", "i0", 0, 1), ("u", "i2", 9, 1)).save(repo.log_folder)
        writes.clear()
        assert counts(materialize(repo.path, only=["scalars"]), "item_scalars") == (1, 0, 2)
        assert flat(writes) == ["i2"]
        assert repo.scalars(["i0", "i1", "i2"])["popularity"] == [1, 0, 1]
        rows = self.parts(repo)
        *_, (_, _, first), (item, popularity, then) = zip(
            rows["item_id"], rows["popularity"], rows["valid_from"], strict=True
        )
        assert (item, popularity) == ("i2", 1)
        assert first < then <= time.time() * US

    def test_levels_of_a_code_book(self, tmp_path, online):
        """The codes are those of `tests/test_semantic_items.py`, by hand."""
        vectors = {"d": [0], "b": [0], "c": [11], "a": [0], "none": None}
        put_vectors(tmp_path / "repo" / "data" / "item_vectors", vectors)
        table = VectorTable.open(tmp_path / "repo" / "data" / "item_vectors")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LLMFeatWarning)
            SemanticIds(levels=(2, 2), normalize=False).fit_table(table).save(tmp_path / "book")
        repo = Repo(tmp_path, online, semantic_ids=tmp_path / "book").apply()
        materialize(repo.path)
        read = repo.scalars(["d", "c", "none"])
        assert list(read) == ["has_text", "n_tokens", "text_hash", "semantic_level1", "semantic_level2"]
        assert (read["semantic_level1"], read["semantic_level2"]) == ([0, 1, -1], [0, 0, -1])


class TestHistories:
    def test_cells_are_read_as_what_they_were_made_of(self):
        whole = UserHistory.of(["a", 'ü"\\1', "日本"], [T0, T0, T0 + 5], labels=[1, None, 0])
        raws = tuple(pack_bytes([cell])[0] for cell in history_cells(whole).values())
        again = history_of(raws, what="v")
        assert again.item_ids == whole.item_ids
        assert again.labels.tobytes() == whole.labels.tobytes()
        assert again.times_us.tobytes() == whole.times_us.tobytes()
        assert len(history_of((None, None, None), what="v")) == 0

    @pytest.mark.parametrize(
        ("cells", "said"),
        [
            ((b'["a"]', b"\0" * 4, b"\0" * 16), "v holds 1 items, 1 labels and 2 times, but one of each for an event"),
            ((b'["a"]', b"", b"\0" * 8), "v holds 1 items, 0 labels and 1 times"),
            ((b'["a', b"\0" * 4, b"\0" * 8), r"v holds no history \(JSONDecodeError\): something else writes"),
            ((b"\xff", b"\0" * 4, b"\0" * 8), r"v holds no history \(UnicodeDecodeError\)"),
            ((b'["a"]', b"\0" * 5, b"\0" * 8), r"v holds no history \(ValueError\)"),
            ((b"3", b"\0" * 4, b"\0" * 8), "v holds no history"),
            ((b'{"a": 1}', b"\0" * 4, b"\0" * 8), "v holds no history"),
        ],
    )
    def test_what_is_no_history(self, cells, said):
        with pytest.raises(StoreError, match=said):
            history_of(tuple(pack_bytes(cells)), what="v")

    def test_by_hand(self, tmp_path, online):
        log = events(
            *(("u", "c", 30, 0), ("u", "a", 10, 1), ("v", 'ü"1', 5, 1), ("u", "b", 20, 1)),
            *(("u", "d", 30, 1), ("u", "a", 40, 0)),
        )
        repo = Repo(tmp_path, online, log, max_events=4).put(numbered(1)).apply()
        assert counts(materialize(repo.path), "user_histories") == (2, 0, 0)
        # The last four; those of one moment in the order that they came in.
        assert repo.history("u") == [("b", 20, 1), ("c", 30, 0), ("d", 30, 1), ("a", 40, 0)]
        assert repo.history("v") == [('ü"1', 5, 1)]
        assert repo.history("nobody") == []

    def test_labels_that_had_not_arrived_when_the_log_was_cut(self, tmp_path, online):
        log = events(
            *(("u", "a", 0, 1), ("u", "b", 50, 0), ("u", "c", 200, 1), ("u", "d", 300, 1)), available_after_s=100
        )
        repo = Repo(tmp_path, online, log.until((T0 + 220) * US)).put(numbered(1)).apply()
        materialize(repo.path)
        *known, (item, second, label) = repo.history("u")
        assert known == [("a", 0, 1), ("b", 50, 0)]
        assert (item, second) == ("c", 200)
        assert np.isnan(label)

    def test_a_log_that_grew_changes_the_users_that_it_names(self, tmp_path, online, writes):
        repo = Repo(tmp_path, online, events(("u", "a", 0, 1), ("v", "a", 1, 1))).put(numbered(1)).apply()
        materialize(repo.path)
        events(("u", "a", 0, 1), ("v", "a", 1, 1), ("v", "b", 2, 0)).save(repo.log_folder)
        writes.clear()
        assert counts(materialize(repo.path, only=["histories"]), "user_histories") == (1, 0, 1)
        assert flat(writes) == ["v"]
        assert repo.history("v") == [("a", 1, 1), ("b", 2, 0)]

    @pytest.mark.parametrize("online", ["sqlite"], indirect=True)
    def test_offline_they_are_valid_from_just_after_the_last_event(self, tmp_path, online):
        repo = Repo(tmp_path, online, events(("u", "a", 0, 1))).put(numbered(1)).apply()
        materialize(repo.path)
        events(("u", "a", 0, 1), ("u", "b", 60, 0)).save(repo.log_folder)
        materialize(repo.path)
        paths = repo.path.glob("data/user_histories/*/*.parquet")
        rows = pa.concat_tables([pq.read_table(path) for path in paths]).sort_by("valid_from")
        assert rows.column("item_ids").to_pylist() == [b'["a"]', b'["a","b"]']
        assert rows.schema.field("valid_from").type == pa.timestamp("us", "UTC")
        assert rows.column("valid_from").cast(pa.int64()).to_pylist() == [T0 * US + 1, (T0 + 60) * US + 1]

    @pytest.mark.parametrize("online", ["sqlite"], indirect=True)
    def test_what_a_killed_run_left_offline_is_swept(self, tmp_path, online, monkeypatch):
        """Feast reads the whole folder: also a part that no manifest names yet."""
        repo = Repo(tmp_path, online, events(("u", "a", 0, 1))).put(numbered(1)).apply()
        materialize(repo.path)
        named = {*repo.path.glob("data/user_histories/*/*")}
        events(("u", "a", 0, 1), ("u", "b", 60, 0)).save(repo.log_folder)
        write = snapshots.atomic_write

        def no_manifest(path, data):
            if path.name == "manifest.json":
                raise Died
            write(path, data)

        monkeypatch.setattr(snapshots, "atomic_write", no_manifest)
        with pytest.raises(Died):
            materialize(repo.path)
        monkeypatch.undo()
        (left,) = {*repo.path.glob("data/user_histories/*/*")} - named
        half = left.with_name(f".{left.name}.x1y2")
        half.write_bytes(b"PAR1 and no more")
        events(("u", "a", 0, 1)).save(repo.log_folder)
        materialize(repo.path)
        assert {*repo.path.glob("data/user_histories/*/*")} == named
        assert repo.history("u") == [("a", 0, 1)]

    @pytest.mark.parametrize("online", ["sqlite"], indirect=True)
    def test_labels_of_another_delay_are_another_view(self, tmp_path, online):
        repo = Repo(tmp_path, online, events(("u", "a", 0, 1))).put(numbered(1)).apply()
        materialize(repo.path)
        old = repo.view("user_histories")
        events(("u", "a", 0, 1), ("u", "b", 1, 1), available_after_s=60).save(repo.log_folder)
        with pytest.raises(StoreConfigError, match="run `feast apply`"):
            materialize(repo.path)
        repo.apply()
        materialize(repo.path)
        assert repo.view("user_histories").name != old.name
        assert repo.view("user_histories").tags["available_after_us"] == str(60 * US)
        assert repo.history("u") == [("a", 0, 1), ("b", 1, 1)]
        raws = old.read(["u"], FIELDS)
        assert history_of(tuple(raws[name][0] for name in FIELDS), what="the test").item_ids == ["a"]


def dying(monkeypatch, *, at: int) -> None:
    """Let the write number `at` be the last, half done."""
    left = [at]
    for dialect in (sqlite.SqliteDialect, redis.RedisDialect):
        write = dialect.write

        def mortal(self, ids, fields, moment_us, write=write):
            left[0] -= 1
            n_rows = len(ids) if left[0] else len(ids) // 2
            write(self, ids[:n_rows], {name: raws[:n_rows] for name, raws in fields.items()}, moment_us)
            if not left[0]:
                raise Died

        monkeypatch.setattr(dialect, "write", mortal)


def dies(repo: Path, *, at: int) -> bool:
    """Materialize up to the write number `at`, and return whether there was one."""
    with pytest.MonkeyPatch.context() as patch:
        dying(patch, at=at)
        try:
            materialize(repo)
        except Died:
            return True
        return False


class Versions:
    """A repository whose table and log have versions, each row of which can be told from those of the others."""

    def __init__(self, folder: Path, options: dict[str, Any], *, n_ids: int) -> None:
        self.n_ids = n_ids
        self.users = [f"u{at}" for at in range(n_ids // 4)]
        self.repo = Repo(folder, options, self.log(0)).put(numbered(n_ids)).apply()

    def log(self, version: int) -> InteractionLog:
        rows = [(user, f"i{at}", at, 1) for at, user in enumerate(self.users)]
        for later in range(1, version + 1):
            rows += [(user, f"i{later}", 1000 * later + at, 0) for at, user in self.kept(later)]
        return events(*rows)

    def kept(self, version: int) -> list[tuple[int, str]]:
        """Users that something happened to in a version: some have the history of an older one."""
        return [(at, user) for at, user in enumerate(self.users) if (at + version) % 3]

    def put(self, version: int) -> None:
        """Change most items, delete some and bring others back, and let the log grow."""
        vectors = numbered(self.n_ids, version=version)
        deleted = [key for at, key in enumerate(vectors) if (at + version) % 7 == 0]
        same = [key for at, key in enumerate(vectors) if (at + version) % 5 == 0]
        self.repo.put({key: vectors[key] for key in vectors if key not in {*deleted, *same}}, deleted=deleted)
        self.log(version).save(self.repo.log_folder)

    def expected(self) -> dict[str, dict[str, tuple[bytes, ...]]]:
        """What each view is to hold, from the table and the log alone."""
        table, log = VectorTable.open(self.repo.table), InteractionLog.open(self.repo.log_folder)
        ids = [*numbered(self.n_ids)]
        is_there = ~np.isnan(table.lookup(ids)).any(axis=1)
        vectors = {
            key: (row.tobytes() if there else b"",)
            for key, row, there in zip(ids, table.lookup(ids), is_there.tolist(), strict=True)
        }
        histories = {}
        for user in self.users:
            rows = log.as_of(user, 2**62)[-100:]
            items = [log.item_ids[int(code)].as_py() for code in log.item_codes[rows]]
            histories[user] = (
                ("[" + ",".join(f'"{item}"' for item in items) + "]").encode(),
                log.labels[rows].astype("<f4").tobytes(),
                log.times_us[rows].astype("<i8").tobytes(),
            )
        counted = np.bincount(log.item_codes, minlength=len(log.item_ids)).tolist()
        popular = dict(zip(log.item_ids.to_pylist(), counted, strict=True))
        scalars = {
            key: (f"{popular.get(key, 0)}".encode(),) if there else (b"nan",)
            for key, there in zip(ids, is_there.tolist(), strict=True)
        }
        return {"item_vectors": vectors, "user_histories": histories, "item_scalars": scalars}

    def held(self) -> dict[str, dict[str, tuple[bytes, ...]]]:
        """What they hold."""
        found = {}
        for kind, ids, fields in (
            ("item_vectors", [*numbered(self.n_ids)], ["vector"]),
            ("user_histories", self.users, [*FIELDS]),
        ):
            raws = self.repo.view(kind).read(ids, fields)
            cells = zip(*([unpack_bytes(raw) for raw in raws[name]] for name in fields), strict=True)
            found[kind] = dict(zip(ids, cells, strict=True))
        ids = [*numbered(self.n_ids)]
        popular = unpack_numbers(self.repo.view("item_scalars").read(ids, ["popularity"])["popularity"])
        found["item_scalars"] = {key: (f"{one:.0f}".encode(),) for key, one in zip(ids, popular.tolist(), strict=True)}
        return found

    def check_whole(self, *versions: dict[str, dict[str, tuple[bytes, ...]]]) -> None:
        """Every row is one of those of some versions, not a mixture."""
        for kind, rows in self.held().items():
            for key, row in rows.items():
                assert row in [version[kind][key] for version in versions], (kind, key)

    def check_exact(self) -> None:
        """All rows are those of the tables, by Feast's own reader too."""
        expected = self.expected()
        assert self.held() == expected
        seen = seen_by_feast(self.repo.store, VIEW, "vector", expected["item_vectors"])
        assert [(cell or b"",) for cell in seen] == [*expected["item_vectors"].values()]

    def check_done(self) -> None:
        """And nothing is left to do."""
        self.check_exact()
        again = materialize(self.repo.path)
        assert (again.written, again.cleared) == (0, 0)


@pytest.fixture
def small_chunks(monkeypatch):
    set_chunks(monkeypatch.setattr, 4)


def set_chunks(put: Any, n_rows: int) -> None:
    for each in (writing, sqlite, redis):
        put(each, "CHUNK_ROWS", n_rows)


@pytest.mark.usefixtures("small_chunks")
class TestDeaths:
    def test_whichever_write_is_the_last(self, tmp_path, online):
        world = Versions(tmp_path, online, n_ids=12)
        materialize(world.repo.path)
        world.check_done()
        at, has_died = 0, True
        while has_died:
            at += 1
            old = world.expected()
            world.put(at)
            has_died = dies(world.repo.path, at=at)
            world.check_whole(old, world.expected())
            materialize(world.repo.path)
            world.check_exact()
        world.check_done()
        assert at > 10  # a record at the beginning and the end of three views, and their rows, four at a time

    def test_the_first_run_of_all(self, tmp_path, online):
        world = Versions(tmp_path, online, n_ids=12)
        assert all(dies(world.repo.path, at=at) for at in range(1, 6))
        materialize(world.repo.path)
        world.check_done()

    def test_death_and_another_version_before_the_next_run(self, tmp_path, online):
        world = Versions(tmp_path, online, n_ids=12)
        materialize(world.repo.path)
        for version in range(1, 5):
            world.put(version)
            assert dies(world.repo.path, at=2 * version)
        materialize(world.repo.path)
        world.check_done()

    def test_a_run_that_records_before_it_writes_would_be_seen(self, tmp_path, online, monkeypatch):
        """The broken double: with the record at the beginning, what a dead run left is never written."""
        world = Versions(tmp_path, online, n_ids=12)
        materialize(world.repo.path)
        world.put(1)

        def hasty(view, rows, *, write=module.write_view, **options):
            writing._Run(view, view.state()).finish(rows.parts)
            return write(view, rows, **{**options, "full": True})

        monkeypatch.setattr(module, "write_view", hasty)
        assert dies(world.repo.path, at=4)
        monkeypatch.undo()
        set_chunks(monkeypatch.setattr, 4)
        materialize(world.repo.path)
        with pytest.raises(AssertionError):
            world.check_exact()


def _materialize_told(repo: Path, telling: Any) -> None:
    """Materialize in small chunks, and tell of each write before it begins; run in a process to be killed."""
    set_chunks(setattr, 64)
    for dialect in (sqlite.SqliteDialect, redis.RedisDialect):
        write = dialect.write

        def told(self, ids, fields, moment_us, write=write):
            telling.send_bytes(b".")
            write(self, ids, fields, moment_us)

        dialect.write = told
    materialize(repo)
    telling.close()


@pytest.fixture(scope="module")
def processes():
    """Processes that have imported Feast already: some seconds each would be too slow."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["feast.infra.offline_stores.duckdb", "feast.infra.online_stores.redis", "llmfeat.store.materialize"]
    )
    return context


class TestKills:
    N_IDS, N_KILLS = 1500, 5

    def killed(self, processes, repo: Path, *, at: int, after_s: float) -> bool:
        """Run until the write number `at` has begun and some time is over; whether it was killed before its end."""
        told, telling = processes.Pipe(duplex=False)
        process = processes.Process(target=_materialize_told, args=(repo, telling))
        process.start()
        telling.close()
        with told, contextlib.suppress(EOFError):
            for _ in range(at):
                assert told.poll(60), "the run hangs"
                told.recv_bytes()
            time.sleep(after_s)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode != 0

    @pytest.mark.slow
    def test_no_moment_loses_a_row(self, tmp_path, online, processes):
        draw = random.Random(20)
        world = Versions(tmp_path, online, n_ids=self.N_IDS)
        n_killed = 0
        materialize(world.repo.path)
        for version in range(1, self.N_KILLS + 1):
            old = world.expected()
            world.put(version)
            at, after_s = draw.randrange(1, 44), draw.uniform(0, 0.004)
            if self.killed(processes, world.repo.path, at=at, after_s=after_s):
                n_killed += 1
                world.check_whole(old, world.expected())
            materialize(world.repo.path)
            world.check_exact()
        world.check_done()
        assert n_killed >= self.N_KILLS - 1


class TestStrays:
    """Ids that the store holds something of, and that a table which was made anew does not name."""

    def rebuilt(self, repo):
        shutil.rmtree(repo.table)
        put_vectors(repo.table, {"i0": [5, 5, 5, 5], "i2": numbered(3)["i2"]})
        repo.apply()

    def test_they_are_cleared(self, repo):
        repo.put(numbered(4)).apply()
        materialize(repo.path)
        self.rebuilt(repo)
        assert counts(materialize(repo.path, only=["items"]), "item_vectors") == (1, 2, 1)
        assert repo.vectors(["i0", "i1", "i2", "i3"]) == [[5, 5, 5, 5], None, numbered(3)["i2"], None]
        assert counts(materialize(repo.path, only=["items"]), "item_vectors") == (0, 0, 2)

    def test_of_another_view_of_the_same_items_nothing_is(self, repo):
        repo.put(numbered(4)).apply()
        materialize(repo.path)
        before = repo.scalars(["i1", "i3"])
        self.rebuilt(repo)
        write_online(repo.path, repo.table)
        assert repo.scalars(["i1", "i3"]) == before

    def test_users_whose_folder_of_histories_was_removed(self, tmp_path, online):
        repo = Repo(tmp_path, online, events(("gone", "i0", 0, 1), ("stays", "i0", 0, 1))).put(numbered(1)).apply()
        materialize(repo.path)
        shutil.rmtree(repo.path / "data" / "user_histories")
        events(("stays", "i0", 0, 1)).save(repo.log_folder)
        repo.apply()
        materialize(repo.path)
        histories = FeastHistories(repo.path)
        assert (len(histories("gone")), len(histories("stays"))) == (0, 1)

    def test_a_run_that_does_not_look_leaves_them(self, repo, monkeypatch):
        monkeypatch.setattr(writing, "_strays", lambda *_: ())
        repo.put(numbered(4)).apply()
        materialize(repo.path)
        self.rebuilt(repo)
        materialize(repo.path, only=["items"])
        assert repo.vectors(["i1"]) == [numbered(4)["i1"]]


def test_rows_that_would_expire_are_refused(tmp_path, redis_server):
    repo = Repo(tmp_path, {"redis": redis_server, "project": "expiring"}).put(numbered(1)).apply()
    yaml = repo.path / "feature_store.yaml"
    yaml.write_text(yaml.read_text().replace("  type: redis\n", "  type: redis\n  key_ttl_seconds: 60\n"))
    with pytest.raises(StoreConfigError, match="key_ttl_seconds: 60 under online_store"):
        materialize(repo.path)


def test_generations_by_their_first_digits(repo):
    repo.put(numbered(2)).apply()
    assert materialize(repo.path, only=["items"], fingerprints=[FINGERPRINT[:12]]).written > 0
    with pytest.raises(TableFingerprintError, match="were asked for"):
        materialize(repo.path, fingerprints=["0" * 12])
    with pytest.raises(StoreConfigError, match="names no vectors of users"):
        materialize(repo.path, only=["users"])
