"""`verify` and `status`, and the commands over them: what the store holds, against what it is made of."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from llmfeat import EventPusher, InteractionLog, materialize
from llmfeat.cli.main import cli
from llmfeat.errors import InputError, StoreConfigError, StoreError, TableNotFoundError
from llmfeat.store import init_repo, open_store, status, verify, view_name
from llmfeat.store.dialects.redis import RedisDialect
from llmfeat.store.dialects.sqlite import SqliteDialect
from llmfeat.store.online import OnlineView
from llmfeat.store.values import pack_bytes, pack_numbers
from tests.stores import FEAST_WARNINGS, FINGERPRINT, apply, numbered, put_vectors

US = 10**6
T0 = 10**9
VECTORS = view_name(FINGERPRINT)

pytestmark = FEAST_WARNINGS


def log_of(*events) -> InteractionLog:
    users, items = zip(*events, strict=True)
    times = [T0 + at for at in range(len(events))]
    return InteractionLog.from_frame(pa.table({"user_id": users, "item_id": items, "timestamp": times}))


@pytest.fixture
def repo(tmp_path, online):
    """Six items, one of them deleted and one without a text; three users with a history, two with a vector."""
    log_of(("u", "i0"), ("v", "i1"), ("w", "i2"), ("u", "i3")).save(tmp_path / "log")
    put_vectors(tmp_path / "users", {"u": [1.0], "v": [2.0]}, fingerprint="e" * 64)
    repo = init_repo(tmp_path / "repo", log=tmp_path / "log", users=tmp_path / "users", **online)
    put_vectors(repo / "data" / "item_vectors", {**numbered(4), "none": None, "gone": [9, 9, 9, 9]})
    put_vectors(repo / "data" / "item_vectors", {}, deleted=["gone"])
    apply(repo)
    materialize(repo)
    return repo


def view_of(repo, kind):
    store = open_store(repo)
    return OnlineView(store, next(view for view in store.list_feature_views() if view.tags["llmfeat"] == kind))


def by_kind(checks):
    return {check.view.rpartition("_")[0]: check for check in checks}


class TestVerify:
    def test_what_was_materialized_does_not_differ(self, repo):
        checks = by_kind(verify(repo, sample=None))
        assert {kind: check.n_compared for kind, check in checks.items()} == {
            "item_vectors": 6,
            "item_scalars": 5,
            "user_histories": 3,
            "user_vectors": 2,
        }
        for check in checks.values():
            assert (check.differing, check.n_behind) == ((), 0)

    @pytest.mark.parametrize(
        ("kind", "key", "fields"),
        [
            ("item_vectors", "i2", {"vector": pack_bytes([np.float32([2, 0, 0, 1e-9]).tobytes()])}),
            ("item_vectors", "i3", {"vector": pack_bytes([b""])}),
            ("item_vectors", "gone", {"vector": pack_bytes([np.float32([9] * 4).tobytes()])}),
            ("item_vectors", "none", {"vector": pack_bytes([np.float32([9] * 4).tobytes()])}),
            ("item_scalars", "i1", {"popularity": pack_numbers([2], field="int64_val")}),
            ("user_histories", "u", {"labels": pack_bytes([np.float32([1, 0]).tobytes()])}),
            ("user_vectors", "v", {"vector": pack_bytes([np.float32([3]).tobytes()])}),
        ],
    )
    def test_what_something_else_wrote_is_named(self, repo, kind, key, fields):
        view = view_of(repo, kind)
        held = view.dialect.held([key], view.fields)
        view.dialect.write([key], {**held.values, **fields}, held.times_us[0] + 5 * US)
        checks = by_kind(verify(repo, sample=None))
        assert {name: check.differing for name, check in checks.items() if check.differing} == {kind: (key,)}
        assert materialize(repo).written == 0  # the records say that all is there
        materialize(repo, full=True)
        assert not any(check.differing for check in verify(repo, sample=None))

    def test_what_was_never_materialized_is_behind_and_differs(self, repo):
        put_vectors(repo / "data" / "item_vectors", {"i1": [7, 7, 7, 7], "new": [8, 8, 8, 8]})
        checks = by_kind(verify(repo, sample=None))
        assert checks["item_vectors"].n_behind == 1
        assert set(checks["item_vectors"].differing) == {"i1", "new"}
        materialize(repo)
        assert all(not check.differing and not check.n_behind for check in verify(repo, sample=None))

    def test_a_log_that_grew_differs_from_what_is_served(self, repo, tmp_path):
        log_of(("u", "i0"), ("v", "i1"), ("w", "i2"), ("u", "i3"), ("v", "i3")).save(tmp_path / "log")
        assert by_kind(verify(repo, sample=None))["user_histories"].differing == ("v",)

    def test_pushed_events_are_no_difference(self, repo):
        EventPusher(repo).push("u", "i2")
        assert not any(check.differing for check in verify(repo, sample=None))

    def test_a_sample(self, repo):
        for seed in range(3):
            assert [check.n_compared for check in verify(repo, sample=2, seed=seed)] == [2, 2, 2, 2]
        view = view_of(repo, "item_vectors")
        view.dialect.write(["i2"], {"vector": pack_bytes([b""])}, T0 * US)
        found = [verify(repo, sample=3, seed=seed)[0].differing for seed in range(8)]
        assert set(found) == {(), ("i2",)}
        assert found[:3] == [verify(repo, sample=3, seed=seed)[0].differing for seed in range(3)]
        with pytest.raises(InputError, match="sample=0, but at least 1 was expected; None for all"):
            verify(repo, sample=0)

    def test_what_is_not_there(self, tmp_path):
        repo = init_repo(tmp_path)
        with pytest.raises(TableNotFoundError):
            verify(repo)
        put_vectors(repo / "data" / "item_vectors", numbered(1))
        with pytest.raises(StoreConfigError, match="run `feast apply`"):
            verify(repo)


class TestStatus:
    def test_all_is_there(self, repo, online):
        found = status(repo)
        assert (found.repo, found.offline, found.rankers) == (repo, "duckdb", {})
        assert found.online == ("redis" if online["redis"] else "sqlite")
        assert [view.kind for view in found.views] == ["item_vectors", "item_scalars", "user_histories", "user_vectors"]
        for view in found.views:
            assert view.is_applied
            assert view.finished_us > T0 * US
            assert (view.n_behind, view.served_by, view.problem) == (0, (), "")

    def test_what_is_behind_not_applied_or_left_over(self, repo):
        put_vectors(repo / "data" / "item_vectors", {"i1": [7, 7, 7, 7]})
        put_vectors(repo / "data" / "item_vectors", numbered(2), fingerprint="d" * 64)
        config = repo / "llmfeat.toml"
        config.write_text(config.read_text().replace("max_events = 100", "max_events = 7"))
        found = {view.view: view for view in status(repo).views}
        assert found[VECTORS].n_behind == 1
        new = found[view_name("d" * 64)]
        assert (new.is_applied, new.n_behind, new.finished_us, new.needs_attention) == (False, 1, None, True)
        assert not found[VECTORS].needs_attention  # it is not current any more, and served by nobody
        left = [view for view in found.values() if "no table of this repository" in view.problem]
        assert [view.kind for view in left] == ["user_histories"]

    def test_a_store_that_does_not_answer(self, repo, monkeypatch):
        def away(self, *_):
            raise StoreError("the server is away")

        for dialect in (SqliteDialect, RedisDialect):
            monkeypatch.setattr(dialect, "read", away)
        assert {view.problem for view in status(repo).views} == {"the server is away"}


class TestCommands:
    @pytest.fixture
    def run(self, repo):
        return lambda *arguments: CliRunner().invoke(cli, [*arguments[:2], str(repo), *arguments[2:]])

    def test_verify(self, repo, run):
        result = run("store", "verify", "--all")
        assert result.exit_code == 0, result.output
        assert f"{VECTORS}    6 compared, 0 differ" in result.stdout
        view = view_of(repo, "item_vectors")
        view.dialect.write(["i2"], {"vector": pack_bytes([b""])}, T0 * US)
        result = run("store", "verify")
        assert result.exit_code == 1
        assert "6 compared, 1 differ\n  i2\n" in result.stdout
        result = run("store", "verify", "--json", "--sample", "6", "--seed", "1")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["views"][0] == {
            "view": VECTORS,
            "n_compared": 6,
            "differing": ["i2"],
            "n_behind": 0,
        }
        put_vectors(repo / "data" / "item_vectors", {f"n{at}": [0.0] * 4 for at in range(30)})
        assert "(1 parts were never materialized)" in (said := run("store", "verify", "--all").stdout)
        assert "and 21 more: --json has them all" in said

    def test_status(self, repo, run):
        result = run("store", "status")
        assert result.exit_code == 0, result.output
        assert result.stdout.count("  materialized 20") == 4
        put_vectors(repo / "data" / "item_vectors", {"i1": [7, 7, 7, 7]})
        result = run("store", "status")
        assert result.exit_code == 1
        assert ", 1 parts behind: llmfeat materialize" in result.stdout
        put_vectors(repo / "data" / "item_vectors", numbered(2), fingerprint="d" * 64)
        assert "not applied: llmfeat store apply" in run("store", "status").stdout
        body = json.loads(run("store", "status", "--json").stdout)
        assert body["repo"] == str(repo)
        assert {view["kind"] for view in body["views"]} >= {"item_vectors", "user_histories"}

    def test_materialize(self, repo):
        def run(*arguments):
            return CliRunner().invoke(cli, ["materialize", str(repo), *arguments])

        assert "0 rows written and read back in " in run().stdout
        put_vectors(repo / "data" / "item_vectors", {"i1": [7, 7, 7, 7]}, deleted=["i2"])
        assert json.loads(run("--json", "--only", "users").stdout)["views"][0]["written"] == 0
        result = run("--only", "items")
        assert result.exit_code == 0, result.output
        assert f"{VECTORS}  1 written, 1 cleared, " in result.stdout
        assert "2 rows written and read back in " in result.stdout
        body = json.loads(run("--full", "--json", "--fingerprint", FINGERPRINT, "--only", "items").stdout)
        assert [view["view"] for view in body["views"]] == [VECTORS]
        assert body["views"][0]["written"] == 3
        assert run("--only", "nonsense").exit_code == 2

    def test_forget(self, repo):
        EventPusher(repo).push("u", "i2")
        result = CliRunner().invoke(cli, ["store", "forget", "u", "nobody", "--repo", str(repo)])
        assert result.exit_code == 0, result.output
        assert "2 users forgotten online" in result.stdout
        differing = {kind: check.differing for kind, check in by_kind(verify(repo, sample=None)).items()}
        assert differing == {
            "item_vectors": (),
            "item_scalars": (),
            "user_histories": ("u",),
            "user_vectors": ("u",),
        }


def test_a_repository_is_made_applied_filled_and_shown(tmp_path, monkeypatch):
    """The commands in their order; what is there already stays."""
    monkeypatch.setattr("llmfeat.store.apply_repo", lambda repo: f"applied {apply(repo).project}")  # in this process
    log_of(("u", "i0")).save(tmp_path / "log")
    made = CliRunner().invoke(cli, ["store", "init", str(tmp_path / "repo"), "--log", str(tmp_path / "log")])
    assert made.exit_code == 0, made.output
    again = CliRunner().invoke(cli, ["store", "init", str(tmp_path / "repo")])
    assert again.stdout.count("(kept as it was)") == 3
    put_vectors(tmp_path / "repo" / "data" / "item_vectors", numbered(2))
    applied = CliRunner().invoke(cli, ["store", "apply", str(tmp_path / "repo")])
    assert applied.exit_code == 0, applied.output
    assert applied.stdout == "applied llmfeat\n"
    shown = CliRunner().invoke(cli, ["store", "status", str(tmp_path / "repo")])
    assert (shown.exit_code, shown.stdout.count("never materialized: llmfeat materialize")) == (1, 3)
    assert CliRunner().invoke(cli, ["materialize", str(tmp_path / "repo")]).exit_code == 0
    assert CliRunner().invoke(cli, ["store", "status", str(tmp_path / "repo")]).exit_code == 0
    shutil.rmtree(tmp_path / "log")
    assert isinstance(CliRunner().invoke(cli, ["store", "status", str(tmp_path / "repo")]).exception, InputError)
