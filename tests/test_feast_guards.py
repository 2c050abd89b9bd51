"""What Feast 0.67 does, and what we do about it: a class for each line of the table that the online store answers for.

Each shows what Feast does on its own, that ours does not suffer from it, and that without the guard it would.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeat import FeastVectors, InteractionLog, VectorTable
from llmfeat.encode.changes import now_us
from llmfeat.encode.parts import PART_SCHEMA
from llmfeat.errors import StoreConfigError, StoreWriteError
from llmfeat.store import (
    RepoSources,
    feature_views,
    init_repo,
    materialize,
    open_store,
    view_name,
    write_online,
    writing,
)
from llmfeat.store import histories as histories_module
from llmfeat.store import online as online_module
from llmfeat.store import repo as repo_module
from llmfeat.store import snapshots as snapshots_module
from llmfeat.store import views as views_module
from llmfeat.store import writing as writing_module
from llmfeat.store.dialects import redis, sqlite
from llmfeat.store.dialects.base import CHUNK_ROWS, Place, entity_keys
from llmfeat.store.dialects.feast import FeastDialect
from llmfeat.store.histories import histories_table
from tests.stores import (
    EPOCH,
    FEAST_WARNINGS,
    FINGERPRINT,
    apply,
    numbered,
    put_vectors,
    seen_by_feast,
    written_by_feast,
)

US = 10**6
T0 = 10**9
VIEW = view_name(FINGERPRINT)

pytestmark = FEAST_WARNINGS


def bytes_of(*numbers: float) -> bytes:
    return np.array(numbers, "<f4").tobytes()


@pytest.fixture
def repo(tmp_path, online):
    """Three items, applied."""
    path = init_repo(tmp_path / "repo", **online)
    put_vectors(path / "data" / "item_vectors", numbered(3), valid_from_us=T0 * US)
    apply(path)
    return path


def table_of(repo: Path) -> Path:
    return repo / "data" / "item_vectors"


def joined(store: Any, field: str, keys: dict[str, list[str]], times_us: list[int]) -> list[Any]:
    """What Feast's historical join gives, in the order of the rows."""
    entities = pd.DataFrame({**keys, "event_timestamp": pd.to_datetime(times_us, unit="us", utc=True)})
    rows = store.get_historical_features(entity_df=entities, features=[field]).to_df()
    name = field.partition(":")[2]
    found = {tuple(row[key] for key in (*keys, "event_timestamp")): row[name] for _, row in rows.iterrows()}
    order = [tuple(row) for row in entities.itertuples(index=False)]
    return [
        None if found[row] is None or found[row] is pd.NA or found[row] != found[row] else found[row] for row in order
    ]


class TestModelThatChangedUnderOneName:
    """A view whose source changed under the same name mixes old and new vectors | the fingerprint is in its name."""

    OLD, NEW = "a" * 64, "b" * 64

    def tables(self, tmp_path: Path) -> tuple[Path, Path]:
        old, new = tmp_path / "old", tmp_path / "new"
        put_vectors(old, {"i0": [1, 1], "i1": [1, 1]}, fingerprint=self.OLD)
        put_vectors(new, {"i0": [2, 2]}, fingerprint=self.NEW)
        return old, new

    def served(self, tmp_path: Path, online: dict[str, Any]) -> list[list[float]]:
        """What the new model is said to give of both items, after the old one was served and the new one written."""
        repo = init_repo(tmp_path / "repo", **online)
        for table in self.tables(tmp_path):
            open_store(repo).apply(feature_views(table))
            write_online(repo, table)
        return FeastVectors(repo, fingerprint=self.NEW).lookup(["i0", "i1"]).tolist()

    def test_the_two_are_two_views(self, tmp_path, online):
        assert view_name(self.OLD) != view_name(self.NEW)
        new, other = self.served(tmp_path, online)
        assert new == [2, 2]
        assert np.isnan(other).all()  # the new model has no vector of it
        old = FeastVectors(tmp_path / "repo", fingerprint=self.OLD)
        assert old.lookup(["i0", "i1"]).tolist() == [[1, 1], [1, 1]]

    def test_under_one_name_they_would_mix(self, tmp_path, online, monkeypatch):
        for module in (views_module, online_module):
            monkeypatch.setattr(module, "view_name", lambda *_: "item_vectors")
        monkeypatch.setattr(writing_module, "_strays", lambda *_: ())  # which would clear what the table does not name
        assert self.served(tmp_path, online) == [[2, 2], [1, 1]]

    def test_even_then_a_model_is_refused_that_is_not_the_views(self, tmp_path, online, monkeypatch):
        for module in (views_module, online_module):
            monkeypatch.setattr(module, "view_name", lambda *_: "item_vectors")
        self.served(tmp_path, online)
        with pytest.raises(StoreConfigError, match="encode with the model that the features were fitted with"):
            FeastVectors(tmp_path / "repo", fingerprint=self.OLD).lookup(["i0"])


class TestSecondWriteAtTheSameTime:
    """A second write at one time is ignored by Redis, an older one wins on SQLite | ours is later than all there is."""

    def test_feasts_writer(self, repo, online):
        store, now = open_store(repo), now_us()
        for vector, at_us in ((b"1" * 16, now), (b"2" * 16, now), (b"0" * 16, now - 60 * US)):
            written_by_feast(store, VIEW, {"item_id": ["i0"], "vector": [vector]}, at_us=at_us)
        expected = b"1" * 16 if online["redis"] else b"0" * 16
        assert seen_by_feast(store, VIEW, "vector", ["i0"]) == [expected]

    @pytest.fixture
    def stopped(self, monkeypatch):
        """A clock that stands still, and stores that are spoken to through Feast's own writer."""
        monkeypatch.setattr(online_module, "open_dialect", lambda store, view: FeastDialect(Place(store, view)))
        moment = now_us()
        monkeypatch.setattr(writing, "now_us", lambda: moment)

    @pytest.mark.usefixtures("stopped")
    def test_each_run_writes_later_than_the_one_before(self, repo):
        for version in range(3):
            put_vectors(table_of(repo), numbered(3, version=version))
            assert materialize(repo, only=["items"]).written == 3
        assert seen_by_feast(open_store(repo), VIEW, "vector", ["i2"]) == [bytes_of(2, 2, 0, 0)]

    @pytest.mark.usefixtures("stopped")
    @pytest.mark.parametrize("online", ["redis"], indirect=True)
    def test_at_the_same_time_it_would_be_ignored(self, repo, monkeypatch):
        materialize(repo, only=["items"])
        put_vectors(table_of(repo), numbered(3, version=1))
        monkeypatch.setattr(writing, "_US_PER_S", 0)
        with pytest.raises(StoreWriteError, match="are not what was written"):
            materialize(repo, only=["items"])

    def test_what_an_older_write_left_is_found_and_replaced(self, repo):
        """Feast's own materialize writes at `valid_from`, long ago: over ours on SQLite."""
        materialize(repo, only=["items"])
        store = open_store(repo)
        written_by_feast(store, VIEW, {"item_id": ["i0"], "vector": [b"0" * 16]}, at_us=T0 * US)
        materialize(repo, only=["items"], full=True)
        assert seen_by_feast(store, VIEW, "vector", ["i0"]) == [bytes_of(0, 0, 0, 0)]

    @pytest.mark.parametrize("online", ["sqlite"], indirect=True)
    @pytest.mark.parametrize(("first", "second", "wins"), [(1, 2, "second"), (2, 1, "first")])
    def test_offline_the_row_counts_that_was_written_later(self, tmp_path, online, monkeypatch, first, second, wins):
        """Of two rows of one `valid_from`; the second case is the broken double, a clock that went back."""
        log = tmp_path / "log"
        repo = init_repo(tmp_path / "repo", log=log, **online)
        put_vectors(table_of(repo), numbered(1))
        for moment, label in ((first, 0), (second, 1)):
            rows = pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp": [T0], "label": [label]})
            InteractionLog.from_frame(rows, label="label").save(log)
            monkeypatch.setattr(snapshots_module, "now_us", lambda moment=moment: moment * US)
            store = apply(repo)
            materialize(repo, only=["histories"])
        name = histories_view(repo)
        (labels,) = joined(store, f"{name}:labels", {"user_id": ["u"]}, [2 * T0 * US])
        assert labels == bytes_of(1 if wins == "second" else 0)

    def test_feasts_own_materialize_into_an_empty_store(self, repo):
        """It may fill one; what it wrote is found to be the same, and the next change goes over it."""
        store = open_store(repo)
        store.materialize(EPOCH, datetime(2030, 1, 1, tzinfo=UTC), feature_views=[VIEW])
        done = materialize(repo, only=["items"])
        assert (done.written, done.views[0].unchanged) == (0, 3)
        put_vectors(table_of(repo), {"i1": [9, 9, 9, 9]})
        assert materialize(repo, only=["items"]).written == 1
        ids = [*numbered(3)]
        expected = VectorTable.open(table_of(repo)).lookup(ids)
        assert seen_by_feast(store, VIEW, "vector", ids) == [row.tobytes() for row in expected]


def histories_view(repo: Path) -> str:
    return view_name(histories_table(RepoSources.read(repo), available_after_us=0).fingerprint, "user_histories")


class TestReadsWhileMaterializing:
    """Reads fail while a view is MATERIALIZING, or for ever after a kill | `serve_features_while_materializing`."""

    @pytest.fixture
    def stuck(self, repo):
        """The registry as a killed `feast materialize` leaves it."""
        from feast.feature_view import FeatureViewState

        materialize(repo)
        store = open_store(repo)
        view = store.get_feature_view(VIEW)
        view.state = FeatureViewState.MATERIALIZING
        store.registry.apply_feature_view(view, store.project, commit=True)
        return repo

    def test_with_the_setting_they_go_on(self, stuck):
        assert seen_by_feast(open_store(stuck), VIEW, "vector", ["i1"]) == [bytes_of(1, 0, 0, 0)]
        assert FeastVectors(stuck, fingerprint=FINGERPRINT).lookup(["i1"]).tolist() == [[1, 0, 0, 0]]
        put_vectors(table_of(stuck), {"i1": [5, 0, 0, 0]})
        assert materialize(stuck, only=["items"]).written == 1  # and a run needs nobody to mend the registry
        assert seen_by_feast(open_store(stuck), VIEW, "vector", ["i1"]) == [bytes_of(5, 0, 0, 0)]

    @pytest.mark.parametrize("elsewhere", ["", "serve_features_while_materializing: true\n"])
    def test_without_it_under_registry_they_fail_and_it_is_refused(self, stuck, monkeypatch, elsewhere):
        """At top level Feast ignores it silently."""
        config = stuck / "feature_store.yaml"
        line = "  serve_features_while_materializing: true\n"
        assert line in config.read_text()
        config.write_text(elsewhere + config.read_text().replace(line, ""))
        with pytest.raises(StoreConfigError, match="under `registry`"):
            open_store(stuck)
        monkeypatch.setattr(repo_module, "_check_config", lambda *_: None)
        with pytest.raises(ValueError, match="is in state 'MATERIALIZING' and cannot serve"):
            seen_by_feast(open_store(stuck), VIEW, "vector", ["i1"])


class TestVectorsAreBytes:
    """Arrays of floats are slow to decode | vectors are Bytes, decoded with one `frombuffer`."""

    @pytest.mark.parametrize("online", ["sqlite"], indirect=True)
    def test_every_view_of_vectors(self, repo, tmp_path):
        put_vectors(tmp_path / "users", {"u": [1.0]}, fingerprint="e" * 64)
        for entity, table in (("item", table_of(repo)), ("user", tmp_path / "users")):
            _, view = feature_views(table, entity=entity)
            assert [(field.name, str(field.dtype)) for field in view.features] == [("vector", "Bytes")]

    def test_the_bytes_are_little_endian_float32(self, repo):
        materialize(repo)
        (cell,) = seen_by_feast(open_store(repo), VIEW, "vector", ["i2"])
        assert np.frombuffer(cell, "<f4").tolist() == [2, 0, 0, 0]


class TestRowsPastTheFirstBatch:
    """Rows past the first Arrow batch are silently dropped | chunks of at most 5,000 rows, read back; the setting."""

    @pytest.mark.parametrize("online", ["sqlite"], indirect=True)
    def test_what_feast_does(self, repo):
        from feast import ValueType
        from feast.utils import _convert_arrow_to_proto

        moment = pa.array([T0 * US], pa.timestamp("us", "UTC"))
        parts = [
            pa.table({"item_id": [key], "vector": [b"x"], "valid_from": moment, "written_at": moment}) for key in "abc"
        ]
        view = open_store(repo).get_feature_view(VIEW)
        rows = _convert_arrow_to_proto(pa.concat_tables(parts), view, {"item_id": ValueType.STRING})
        assert len(rows) == 1

    @pytest.mark.parametrize("online", ["sqlite"], indirect=True)
    def test_a_repository_without_batches_is_refused(self, repo):
        config = repo / "feature_store.yaml"
        config.write_text(
            config.read_text().replace("  online_write_batch_size: 5000\n", "  pull_latest_features: no\n")
        )
        with pytest.raises(StoreConfigError, match="Feast drops rows past its first batch: set it to 5000"):
            open_store(repo)

    def test_ours_come_in_chunks_and_all_of_them_arrive(self, tmp_path, online, monkeypatch):
        repo = init_repo(tmp_path / "repo", **online)
        n_ids = 2 * CHUNK_ROWS + 3
        put_vectors(table_of(repo), numbered(n_ids, dim=2))
        apply(repo)
        sizes = []
        for dialect in (sqlite.SqliteDialect, redis.RedisDialect):
            write = dialect.write

            def watched(self, ids, fields, moment_us, write=write):
                sizes.append(len(ids))
                write(self, ids, fields, moment_us)

            monkeypatch.setattr(dialect, "write", watched)
        assert materialize(repo, only=["items"]).written == n_ids
        assert sorted(sizes) == [1, 1, 3, CHUNK_ROWS, CHUNK_ROWS]  # two are the record
        ids = [f"i{at}" for at in range(n_ids)]
        read = FeastVectors(repo, fingerprint=FINGERPRINT).lookup(ids)
        np.testing.assert_array_equal(read, np.column_stack([np.arange(n_ids), np.zeros(n_ids)]).astype("f4"))

    def test_a_writer_that_drops_them_is_caught(self, repo, monkeypatch):
        """The broken double: only a first batch of two rows arrives."""
        for dialect in (sqlite.SqliteDialect, redis.RedisDialect):
            write = dialect.write

            def first(self, ids, fields, moment_us, write=write):
                write(self, ids[:2], {name: raws[:2] for name, raws in fields.items()}, moment_us)

            monkeypatch.setattr(dialect, "write", first)
        with pytest.raises(StoreWriteError, match="1 of 3 rows read back"):
            materialize(repo, only=["items"])


class TestFeaturesThatNobodyAskedFor:
    """SQLite ignores the requested features and reads them all | vectors and scalars are separate views."""

    def test_what_feast_reads(self, repo, online):
        materialize(repo)
        store = open_store(repo)
        (view,) = [view for view in store.list_feature_views() if view.tags["llmfeat"] == "item_scalars"]
        place = Place(store, view)
        ((_, read),) = place.online.online_read(store.config, view, entity_keys(place, ["i1"]), ["n_tokens"])
        others = set() if online["redis"] else {"has_text", "text_hash"}
        assert set(read) == {"n_tokens"} | others

    def test_a_scalar_reads_no_vector(self, repo):
        fields = {view.name: {field.name for field in view.features} for view in open_store(repo).list_feature_views()}
        assert fields.pop(VIEW) == {"vector"}
        (scalars,) = fields.values()
        assert scalars == {"has_text", "n_tokens", "text_hash"}

    def test_ours_reads_only_what_is_asked_for(self, repo):
        materialize(repo)
        store = open_store(repo)
        (view,) = [view for view in store.list_feature_views() if view.tags["llmfeat"] == "item_scalars"]
        assert set(online_module.OnlineView(store, view).read(["i1"], ["n_tokens"])) == {"n_tokens"}


class TestMissingEntities:
    """Missing is NOT_FOUND on SQLite, PRESENT on Redis; ids of other types find nothing | ids are cast to str."""

    def test_what_feast_says_of_a_missing_entity(self, repo, online):
        from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

        materialize(repo)
        rows = [{"item_id": "nobody"}]
        response = open_store(repo).get_online_features(features=[f"{VIEW}:vector"], entity_rows=rows)
        (status,) = response.proto.results[1].statuses
        assert status == (FieldStatus.PRESENT if online["redis"] else FieldStatus.NOT_FOUND)
        assert response.to_dict()["vector"] == [None]
        assert np.isnan(FeastVectors(repo, fingerprint=FINGERPRINT).lookup(["nobody"])).all()

    def test_an_item_without_text_is_as_missing_as_an_unknown_one(self, tmp_path, online):
        repo = init_repo(tmp_path, **online)
        put_vectors(table_of(repo), {"a": [1, 1], "none": None})
        apply(repo)
        materialize(repo, full=True)  # a row, with nothing in it
        assert np.isnan(FeastVectors(repo, fingerprint=FINGERPRINT).lookup(["none", "unknown"])).all()

    def test_ids_that_are_numbers(self, tmp_path, online):
        repo = init_repo(tmp_path, **online)
        put_vectors(table_of(repo), {"7": [7, 0], "8": [8, 0]})
        store = apply(repo)
        materialize(repo)
        assert seen_by_feast(store, VIEW, "vector", ["7"]) == [bytes_of(7, 0)]
        assert seen_by_feast(store, VIEW, "vector", [7.0]) == [None]  # a column of pandas that has a null somewhere
        entities = pd.DataFrame({"item_id": [7], "event_timestamp": pd.to_datetime(["2020-01-01"], utc=True)})
        with pytest.raises(Exception, match="item_id:string and item_id:int64 are not comparable"):
            store.get_historical_features(entity_df=entities, features=[f"{VIEW}:vector"]).to_df()
        serving = FeastVectors(repo, fingerprint=FINGERPRINT)
        for ids in ([7, 8], [7.0, 8.0], np.array([7, 8]), pd.Series(["7", "8"]), pa.array([7, 8])):
            assert serving.lookup(ids).tolist() == [[7, 0], [8, 0]]


@pytest.mark.parametrize("online", ["sqlite"], indirect=True)
class TestHistoriesStampedAtTheirEvent:
    """The historical join is `<=`: a history stamped at the event's own time leaks | stamped a microsecond later."""

    def joined_items(self, tmp_path: Path, online: dict[str, Any]) -> list[bytes | None]:
        """The history as of the last event, and a microsecond after it; the log grew by that event overnight."""
        log = tmp_path / "log"
        repo = init_repo(tmp_path / "repo", log=log, **online)
        put_vectors(table_of(repo), numbered(1))
        for n_events in (1, 2):
            rows = pa.table({"user_id": ["u", "u"], "item_id": ["old", "answer"], "timestamp": [T0, T0 + 60]})
            InteractionLog.from_frame(rows.slice(0, n_events)).save(log)
            store = apply(repo)
            materialize(repo, only=["histories"])
        moments = [T0 * US, (T0 + 60) * US, (T0 + 60) * US + 1]
        return joined(store, f"{histories_view(repo)}:item_ids", {"user_id": ["u"] * 3}, moments)

    def test_a_row_does_not_see_its_own_event(self, tmp_path, online):
        assert self.joined_items(tmp_path, online) == [None, b'["old"]', b'["old","answer"]']

    def test_stamped_at_the_event_it_would(self, tmp_path, online, monkeypatch):
        made = histories_module.history_rows

        def leaking(log, **options):
            rows = made(log, **options)
            stamps = pa.array(rows.column("valid_from").cast(pa.int64()).to_numpy() - 1, pa.timestamp("us", "UTC"))
            return rows.set_column(rows.schema.get_field_index("valid_from"), "valid_from", stamps)

        monkeypatch.setattr(sys.modules["llmfeat.store.materialize"], "history_rows", leaking)
        assert self.joined_items(tmp_path, online) == [b'["old"]', b'["old","answer"]', b'["old","answer"]']


class TestTimes:
    """Naive times shift with the zone, nanoseconds break DuckDB | UTC microseconds (zones: `test_store_dialects`)."""

    def test_of_every_part(self, tmp_path, online):
        rows = pa.table({"user_id": ["u"], "item_id": ["i0"], "timestamp": [T0]})
        InteractionLog.from_frame(rows).save(tmp_path / "log")
        repo = init_repo(tmp_path / "repo", log=tmp_path / "log", **online)
        put_vectors(table_of(repo), numbered(1))
        apply(repo)
        materialize(repo)
        parts = [*(repo / "data").rglob("part-*.parquet")]
        assert {path.parent.parent.name for path in parts} == {"item_vectors", "item_scalars", "user_histories"}
        for path in parts:
            schema = pq.read_schema(path)
            assert {str(schema.field(name).type) for name in ("valid_from", "written_at")} == {"timestamp[us, tz=UTC]"}
        assert str(PART_SCHEMA.field("valid_from").type) == "timestamp[us, tz=UTC]"

    @pytest.mark.parametrize("online", ["sqlite"], indirect=True)
    def test_in_nanoseconds_feast_could_not_materialize(self, repo):
        (part,) = table_of(repo).rglob("part-*.parquet")
        rows = pq.read_table(part)
        for name in ("valid_from", "written_at"):
            moments = rows.column(name).cast(pa.timestamp("ns", "UTC"))
            rows = rows.set_column(rows.schema.get_field_index(name), name, moments)
        pq.write_table(rows, part)
        with pytest.raises(Exception, match="TIMESTAMPTZ_NS"):
            open_store(repo).materialize(EPOCH, datetime(2030, 1, 1, tzinfo=UTC), feature_views=[VIEW])


class TestImportingFeast:
    """`import feast` takes seconds | it is imported on use."""

    @pytest.mark.parametrize(
        ("code", "said"),
        [
            ("import llmfeat.store.stream; llmfeat.store.FeastVectors('nowhere', fingerprint='f')", ""),
            ("from llmfeat.store import init_repo, open_store; open_store(init_repo('new'))", "imported"),  # the double
        ],
    )
    def test_what_imports_it(self, tmp_path, code, said):
        (tmp_path / "feast.py").write_text("print('imported'); raise SystemExit")
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, '.'); {code}"]
        run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert run.stdout.strip() == said
