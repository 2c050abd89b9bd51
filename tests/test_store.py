"""Feast for real: DuckDB offline, SQLite and Redis online, a registry in a file."""

from __future__ import annotations

import importlib.resources
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from llmfeat import FeastVectors, HistoryFeatures, ItemTemplate, TextEncoder, VectorTable, encode_table
from llmfeat.errors import InputError, StoreConfigError, StoreError, StoreWriteError, TableNotFoundError
from llmfeat.store import (
    RepoSources,
    apply_repo,
    feature_views,
    init_repo,
    open_store,
    repo_objects,
    view_name,
    write_online,
)
from llmfeat.store.dialects import choose
from tests.conftest import write_artifact
from tests.stores import FEAST_WARNINGS, FINGERPRINT, apply, free_port, numbered, put_vectors, without_redis

TEMPLATE = ItemTemplate("{title}[ {year}]")
pytestmark = FEAST_WARNINGS


@pytest.fixture(scope="module")
def catalogue():
    return pa.table(
        {
            "item_id": ["1", "2", "3", "4"],
            "title": ["heat", "alien", "casino", None],
            "year": [1995, None, 1995, 1994],
            "valid_from": pa.array([0, 0, 0, 0], pa.timestamp("us", "UTC")),
        }
    )


def encode(items, artifact, repo):
    table = repo / "data" / "item_vectors"
    encode_table(items, template=TEMPLATE, encoder=TextEncoder(artifact), out=table, valid_from="valid_from")
    return table


@pytest.fixture
def applied(tmp_path, online, artifact, catalogue):
    """A repository on SQLite or Redis that nothing was written to, and its table."""
    repo = init_repo(tmp_path / "repo", **online)
    table = encode(catalogue, artifact, repo)
    apply(repo)
    return repo, table


class TestRepositories:
    def test_feature_repo_is_what_init_gives(self, tmp_path):
        shipped = importlib.resources.files("llmfeat.store") / "templates"
        repo = Path(__file__).parent.parent / "feature_repo"
        for name in ("feature_store.yaml", "definitions.py"):
            assert (repo / name).read_bytes() == (shipped / name).read_bytes()
        sources = RepoSources(repo, repo / "data" / "item_vectors")
        assert (repo / "llmfeat.toml").read_text() == sources.to_toml()
        made = init_repo(tmp_path)
        assert (made / "llmfeat.toml").read_bytes() == (repo / "llmfeat.toml").read_bytes()

    def test_init_overwrites_nothing(self, tmp_path):
        (tmp_path / "feature_store.yaml").write_text("mine")
        init_repo(tmp_path)
        assert (tmp_path / "feature_store.yaml").read_text() == "mine"
        assert (tmp_path / "definitions.py").exists()

    def test_redis_and_the_project_are_put_in(self, tmp_path):
        config = open_store(init_repo(tmp_path, redis="localhost:6379,db=3", project="films")).config
        assert (config.project, config.online_store.type) == ("films", "redis")
        # A server that is silent holds nobody for ever.
        assert config.online_store.connection_string == "localhost:6379,db=3,socket_timeout=5,socket_connect_timeout=2"

    @pytest.mark.parametrize("given", [{"redis": "localhost"}, {"redis": "a:1\nb: 2"}, {"project": "two words"}])
    def test_what_would_break_the_file_is_refused(self, tmp_path, given):
        with pytest.raises(InputError, match=f"{next(iter(given))}="):
            init_repo(tmp_path, **given)
        assert not list(tmp_path.iterdir())

    def test_a_refused_server_is_told_without_its_password(self, tmp_path):
        with pytest.raises(InputError) as raised:
            init_repo(tmp_path, redis="localhost,password=geheim")
        assert "geheim" not in str(raised.value)

    @pytest.mark.parametrize(
        ("old", "new", "said"),
        [
            ("serve_features_while_materializing: true", "cache_ttl_seconds: 60", "under `registry`"),
            ("online_write_batch_size: 5000", "pull_latest_features: false", "online_write_batch_size"),
        ],
    )
    def test_settings_that_lose_rows_are_refused(self, tmp_path, old, new, said):
        path = init_repo(tmp_path) / "feature_store.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(StoreConfigError, match=said):
            open_store(tmp_path)

    def test_no_repository(self, tmp_path):
        with pytest.raises(StoreConfigError, match=r"holds no feature_store\.yaml"):
            open_store(tmp_path)

    def test_without_a_table_there_are_no_views(self, tmp_path):
        for objects in (lambda: feature_views(tmp_path), lambda: repo_objects(init_repo(tmp_path))):
            with pytest.raises(TableNotFoundError, match=r"manifest\.json"):
                objects()

    @pytest.mark.slow
    def test_feast_apply(self, tmp_path):
        """Feast's own command; everywhere else tests do the same in this process."""
        repo = init_repo(tmp_path)
        generation = put_vectors(repo / "data" / "item_vectors", numbered(3))
        apply_repo(repo)
        names = [view.name for view in open_store(repo).list_feature_views()]
        assert view_name(generation.fingerprint) in names
        assert len(names) == 2  # and the scalars
        assert write_online(repo, repo / "data" / "item_vectors").written == 3

    def test_what_feast_apply_says_when_it_fails(self, tmp_path, monkeypatch):
        command = tmp_path / "python"
        command.write_text("#!/bin/sh\necho $@; echo no manifest.json >&2; exit 3\n")
        command.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(command))
        with pytest.raises(StoreError, match=r"(?s)ended with status 3\..* said: .*--chdir .* apply.*no manifest"):
            apply_repo(tmp_path)


class TestSources:
    def test_without_a_file(self, tmp_path):
        assert RepoSources.read(tmp_path) == RepoSources(tmp_path, tmp_path / "data" / "item_vectors")

    @pytest.mark.parametrize("name", ["log", 'a "log"', "back\\slash", "läg", "a # b"])
    def test_what_was_written_is_read(self, tmp_path, name):
        repo, elsewhere = tmp_path / "repo", tmp_path / "elsewhere"
        sources = RepoSources(repo, repo / "table", elsewhere / name, elsewhere, repo / "data" / name, 7)
        init_repo(
            repo,
            table=sources.items,
            log=sources.log,
            semantic_ids=sources.semantic_ids,
            users=sources.users,
            max_events=7,
        )
        assert RepoSources.read(repo) == sources
        assert str(tmp_path) not in (repo / "llmfeat.toml").read_text().replace(str(elsewhere), "")  # it can be moved

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("[items", "is no TOML .*: mend it"),
            ("\xff", "is no TOML .*: mend it"),
            ('[item]\ntable = "x"', r"has \['item'\], but only items.semantic_ids, items.table, .*: remove or correct"),
            ('[items]\ntables = "x"', r"has \['tables'\], but only .* are known"),
            ('items = "x"', "outside of a section: see `llmfeat store init --help`"),
            ("[items]\ntable = 3", "items.table = 3, but a path was expected: put it in quotes"),
            ('[users]\ntable = ""', "users.table = '', but a path was expected"),
            ("[histories]\nmax_events = 0", "an integer from 1 to 10000 was expected"),
            ("[histories]\nmax_events = true", "an integer from 1 to 10000 was expected"),
            ('[histories]\nmax_events = "5"', "an integer from 1 to 10000 was expected"),
        ],
    )
    def test_what_nobody_knows_is_refused(self, tmp_path, content, said):
        (tmp_path / "llmfeat.toml").write_bytes(content.encode("latin-1"))
        with pytest.raises(StoreConfigError, match=said):
            RepoSources.read(tmp_path)


class TestDefinitions:
    def test_another_model_is_another_view_and_the_old_one_stays(self, tmp_path, artifact, catalogue):
        repo = init_repo(tmp_path / "repo")
        table = encode(catalogue, artifact, repo)
        old = VectorTable.open(table).fingerprint
        encode(catalogue, write_artifact(tmp_path / "other", seed=1), repo)
        new = VectorTable.open(table).fingerprint
        found = {each.name: each for each in feature_views(table)}
        assert set(found) == {"item", view_name(old), view_name(new)}
        tags = found[view_name(new)].tags
        assert (tags["fingerprint"], tags["dim"], tags["dtype"]) == (new, "8", "float32")

    def test_what_the_repository_names_has_a_view(self, tmp_path, log):
        log.save(tmp_path / "log")
        put_vectors(tmp_path / "users", {"u1": [1.0, 2.0]}, fingerprint="e" * 64)
        repo = init_repo(tmp_path / "repo", log=tmp_path / "log", users=tmp_path / "users", max_events=7)
        put_vectors(repo / "data" / "item_vectors", numbered(2))
        kinds = {each.name: getattr(each, "tags", {}).get("llmfeat") for each in repo_objects(repo)}
        assert sorted(map(str, kinds.values())) == [
            *("None", "None", "item_scalars", "item_vectors", "user_events", "user_histories", "user_vectors")
        ]
        assert {"item", "user"} < set(kinds)
        store = apply(repo)
        views = {view.tags["llmfeat"]: view for view in store.list_feature_views()}
        assert views["user_vectors"].tags["dim"] == "2"
        assert views["user_histories"].tags["max_events"] == views["user_events"].tags["max_events"] == "7"
        assert [field.name for field in views["item_scalars"].features] == [
            *("has_text", "n_tokens", "text_hash", "popularity")
        ]

    def test_a_log_that_is_not_there_is_an_error(self, tmp_path):
        repo = init_repo(tmp_path, log=tmp_path / "nowhere")
        put_vectors(repo / "data" / "item_vectors", numbered(2))
        with pytest.raises(InputError, match="nowhere"):
            repo_objects(repo)


class TestVectors:
    def test_written_read_back_and_written_once(self, applied):
        repo, path = applied
        table = VectorTable.open(path)
        first = write_online(repo, path)
        assert (first.written, first.cleared, first.unchanged) == (3, 0, 1)  # 4 has no text
        second = write_online(repo, path)
        assert (second.written, second.cleared, second.unchanged) == (0, 0, 4)
        serving = FeastVectors(repo, fingerprint=table.fingerprint)
        ids = ["3", "1", "4", "unknown", "1", 2]
        assert serving.dim == table.dim
        assert serving.lookup(ids).tobytes() == table.lookup(ids).tobytes()
        assert np.isnan(serving.lookup(["4", "unknown"])).all()
        assert serving.lookup([]).shape == (0, table.dim)
        assert pickle.loads(pickle.dumps(serving)).lookup(ids).tobytes() == table.lookup(ids).tobytes()

    def test_what_changed_or_was_deleted_reaches_the_store(self, applied, artifact, catalogue):
        repo, table = applied
        write_online(repo, table)
        changed = catalogue.set_column(1, "title", pa.array(["heat", "speed", None, None])).slice(1)
        encode(changed, artifact, repo)
        summary = write_online(repo, table)
        assert (summary.written, summary.cleared) == (1, 2)  # 2 has another text, 3 none any more, 1 is deleted
        serving = FeastVectors(repo, fingerprint=VectorTable.open(table).fingerprint)
        assert np.isnan(serving.lookup(["1", "3"])).all()
        assert serving.lookup(["2"]).tobytes() == TextEncoder(artifact).encode(["speed"]).tobytes()

    def test_features_online_have_the_bytes_of_offline(self, applied, log):
        repo, path = applied
        write_online(repo, path)
        table = VectorTable.open(path)
        rows = pa.table({"user_id": ["u1"] * 3, "item_id": ["1", "4", "9"], "timestamp": [10**9 + 500] * 3})
        features = HistoryFeatures(log, {"llm": table}).fit(rows)
        offline = features.transform(rows)
        features.set_params(vectors={"llm": FeastVectors(repo, fingerprint=table.fingerprint)})
        assert features.transform(rows).tobytes() == offline.tobytes()

    def test_historical_join_gives_the_vector_known_then(self, tmp_path):
        import pandas as pd

        repo = init_repo(tmp_path)
        folder = repo / "data" / "item_vectors"
        put_vectors(folder, {"a": [1, 0], "none": None})
        put_vectors(folder, {"a": [2, 0]}, valid_from_us=10**15)  # 2001-09-09
        days = pd.to_datetime(["2001-01-01", "2020-01-01", "2020-01-01"], utc=True)
        entities = pd.DataFrame({"item_id": ["a", "a", "none"], "event_timestamp": days})
        name = view_name(FINGERPRINT)
        joined = apply(repo).get_historical_features(entity_df=entities, features=[f"{name}:vector"]).to_df()
        assert len(joined) == 3
        got = {(row.item_id, row.event_timestamp.year): row.vector for row in joined.itertuples()}
        assert np.frombuffer(got["a", 2001], "<f4").tolist() == [1, 0]
        assert np.frombuffer(got["a", 2020], "<f4").tolist() == [2, 0]
        assert pd.isna(got["none", 2020])

    def test_a_generation_without_a_view_is_refused(self, applied):
        repo, _ = applied
        with pytest.raises(StoreConfigError, match="run `feast apply`"):
            FeastVectors(repo, fingerprint="f" * 64).lookup(["1"])

    def test_what_is_read_back_differently_is_an_error(self, applied, monkeypatch):
        repo, path = applied
        for dialect in (choose.SqliteDialect, choose.RedisDialect):
            write = dialect.write

            def losing(self, ids, fields, moment_us, write=write):
                write(self, ids[:-1], {name: raws[:-1] for name, raws in fields.items()}, moment_us)

            monkeypatch.setattr(dialect, "write", losing)
        with pytest.raises(StoreWriteError, match="are not what was written"):
            write_online(repo, path)

    def test_vectors_of_another_dimension_are_an_error(self, applied, monkeypatch):
        repo, path = applied
        write_online(repo, path)
        serving = FeastVectors(repo, fingerprint=VectorTable.open(path).fingerprint)
        serving.view.tags["dim"] = "9"
        with pytest.raises(StoreError, match=r"vectors of \[32\] bytes, 36 were expected"):
            serving.lookup(["1"])

    def test_a_server_that_is_down_is_told_without_its_password(self, tmp_path, monkeypatch):
        from redis.backoff import ExponentialWithJitterBackoff

        monkeypatch.setattr(ExponentialWithJitterBackoff, "compute", lambda *_: 0)  # redis-py tries again for 9 s
        where = f"127.0.0.1:{free_port()}"
        repo = init_repo(tmp_path, redis=f"{where},password=geheim")
        put_vectors(repo / "data" / "item_vectors", numbered(1))
        apply(repo)
        with pytest.raises(
            StoreError, match=rf"Redis at {where} said ConnectionError.*: see whether it runs"
        ) as raised:
            FeastVectors(repo, fingerprint=FINGERPRINT).lookup(["i0"])
        assert "geheim" not in str(raised.value)
        config = repo / "feature_store.yaml"  # Feast takes the parts of a connection string in any order
        config.write_text(config.read_text().replace(f"{where},password=geheim", f"password=geheim,{where}"))
        with pytest.raises(StoreError, match=rf"Redis at {where} said") as raised:
            FeastVectors(repo, fingerprint=FINGERPRINT).lookup(["i0"])
        assert "geheim" not in str(raised.value)


def test_rankers_keep_their_views(tmp_path):
    repo = init_repo(tmp_path)
    folder = repo / "data" / "item_vectors"
    put_vectors(folder, numbered(2))
    (repo / "rankers").mkdir()
    body = {"vectors": [FINGERPRINT], "tags": {"auc": 0.7}, "description": "the first"}
    (repo / "rankers" / "first.json").write_text(json.dumps(body))
    (service,) = apply(repo).list_feature_services()
    assert (service.name, service.description) == ("ranker_first", "the first")
    assert [view.name for view in service.feature_view_projections] == [view_name(FINGERPRINT)]
    assert service.tags == {"llmfeat": "ranker", "auc": "0.7"}
    (repo / "rankers" / "first.json").write_text(json.dumps({**body, "vectors": ["e" * 64]}))
    with pytest.raises(StoreConfigError, match="encode with its model again, or `llmfeat store unregister` it"):
        repo_objects(repo)


def test_a_redis_server_that_must_be_there(monkeypatch):
    monkeypatch.delenv("LLMFEAT_REQUIRE_REDIS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="none is here"):
        without_redis("none is here")
    monkeypatch.setenv("LLMFEAT_REQUIRE_REDIS", "1")
    with pytest.raises(pytest.fail.Exception, match="LLMFEAT_REQUIRE_REDIS is set, but none is here"):
        without_redis("none is here")
