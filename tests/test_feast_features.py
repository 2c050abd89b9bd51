"""`FeastFeatures`: the columns of training and of serving are the same, row for row, and no row is lost."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from llmfeat import FeastFeatures
from llmfeat._base.frames import id_array
from llmfeat.encode.changes import now_us
from llmfeat.errors import (
    InputError,
    LLMFeatError,
    MissingColumnError,
    StoreConfigError,
    StoreError,
    StoreMissingError,
    TableFingerprintError,
)
from llmfeat.store import historical, init_repo, materialize, open_store, view_name
from llmfeat.store.historical import AsOfFiles, join_through_feast
from tests.shop import NO_TEXT
from tests.stores import FEAST_WARNINGS, FINGERPRINT, apply, numbered, put_vectors, seen_by_feast

US = 10**6
T0 = 10**9
VECTORS = view_name(FINGERPRINT)

pytestmark = FEAST_WARNINGS


def stamped(times_us) -> pa.Array:
    return pa.array(times_us, pa.timestamp("us", "UTC"))


def rows_of(ids, times_us=None) -> pa.Table:
    moments = [now_us()] * len(ids) if times_us is None else times_us
    return pa.table({"item_id": ids, "timestamp": stamped(moments)})


def views_of(repo) -> dict[str, str]:
    """The names of a repository's views, by kind."""
    return {view.tags["llmfeat"]: view.name for view in open_store(repo).list_feature_views() if view.tags}


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    """Items i0 to i5; i1 has another vector since T0, i2 is deleted then, and `none` has no text."""
    repo = init_repo(tmp_path_factory.mktemp("repo"))
    table = repo / "data" / "item_vectors"
    put_vectors(table, {**numbered(6), "none": None})
    put_vectors(table, {"i1": [1, 9, 9, 9]}, deleted=["i2"], valid_from_us=T0 * US)
    apply(repo)
    materialize(repo)
    return repo


class OwnView:
    """A view of a user's own: numbers of things, over files of theirs."""

    def __init__(self, folder: Path, options=None, *, ttl_s: int = 0, key="String", fields=None) -> None:
        self.repo = init_repo(folder / "repo", **(options or {}))
        self.files = folder / "files"
        self.files.mkdir()
        self.apply(ttl_s, key, fields)

    def apply(self, ttl_s=0, key="String", fields=None, keys=("thing_id",), tags=None):
        import feast
        from feast import types
        from feast.data_format import ParquetFormat

        kinds = (
            {"price": "Float64", "stock": "Int64", "is_new": "Bool", "title": "String"} if fields is None else fields
        )
        value = {"String": feast.ValueType.STRING, "Int64": feast.ValueType.INT64}[key]
        entities = [feast.Entity(name=name, join_keys=[name], value_type=value) for name in keys]
        view = feast.FeatureView(
            name="things",
            entities=entities,
            ttl=timedelta(seconds=ttl_s),
            schema=[
                *(feast.Field(name=name, dtype=getattr(types, key)) for name in keys),
                *(feast.Field(name=name, dtype=getattr(types, kind)) for name, kind in kinds.items()),
            ],
            source=feast.FileSource(
                name="things_source",
                path=str(self.files),
                file_format=ParquetFormat(),
                timestamp_field="happened_at",
                created_timestamp_column="put_at",
            ),
            online=True,
            tags=tags or {},
        )
        self.store = open_store(self.repo)
        self.store.apply([*entities, view])
        return self

    def put(self, ids, times_us, created_us=None, name="a", **columns):
        """Append a file."""
        n_rows = len(ids)
        given = {
            "price": pa.array([float(at) for at in range(n_rows)]),
            "stock": pa.array(range(n_rows), pa.int64()),
            "is_new": pa.array([at % 2 == 0 for at in range(n_rows)]),
            "title": pa.array([f"t{at}" for at in range(n_rows)]),
            **columns,
        }
        moments = {"happened_at": stamped(times_us), "put_at": stamped(times_us if created_us is None else created_us)}
        pq.write_table(pa.table({"thing_id": ids, **given, **moments}), self.files / f"{name}.parquet")
        return self

    def features(self, **options):
        return FeastFeatures(self.repo, ["things"], **{"max_missing_share": 1, **options})


class TestColumns:
    def test_online_and_historical_are_the_same_bytes(self, served, shop):
        views = views_of(served)
        wanted = [views["item_vectors"], views["item_scalars"], f"{views['user_vectors']}:vector"]
        ids = ["i3", "i0", NO_TEXT, "unheard of", "i3", 7]
        rows = pa.table(
            {
                "user_id": ["u1", "u2", "u3", "u1", "u1", "u2"],
                "item_id": [str(each) for each in ids],
                "timestamp": stamped([now_us()] * len(ids)),
            }
        )
        features = FeastFeatures(served, wanted, mode="historical", max_missing_share=1).fit(rows)
        matrix = features.transform(rows)
        for changes in ({"mode": "online"}, {"mode": "historical", "through_feast": True}):
            assert features.set_params(**changes).transform(rows).tobytes() == matrix.tobytes()
        columns = dict(zip(features.get_feature_names_out(), matrix.T, strict=True))
        assert columns["has_item_vectors"].tolist() == [1, 1, 0, 0, 1, 0]
        vectors = np.stack([columns[f"item_vectors_{at}"] for at in range(8)], axis=1)
        assert vectors.tobytes() == shop.vectors.lookup(ids).tobytes()
        assert columns["item_scalars_has_text"][:3].tolist() == [1, 1, 0]
        popularity = pc.sum(pc.equal(shop.events["item_id"], "i3")).as_py()
        assert columns["item_scalars_popularity"][0] == columns["item_scalars_popularity"][4] == popularity
        assert columns["has_item_scalars"].tolist() == [1, 1, 1, 0, 1, 0]
        np.testing.assert_array_equal(columns["user_vectors_0"], [1, 0, np.nan, 1, 1, 0])
        assert "item_scalars_text_hash" not in columns  # bytes of no vector make no column

    def test_names_and_fields(self, repo):
        scalars = views_of(repo)["item_scalars"]
        features = FeastFeatures(repo, [f"{scalars}:n_tokens", VECTORS, f"{scalars}:has_text"]).fit(rows_of(["i0"]))
        assert features.get_feature_names_out().tolist() == [
            *("has_item_scalars", "item_scalars_has_text", "item_scalars_n_tokens", "has_item_vectors"),
            *(f"item_vectors_{at}" for at in range(4)),
        ]
        assert features.transform(rows_of(["i3"])).tolist() == [[1, 1, 3, 1, 3, 0, 0, 0]]

    def test_numbers_of_any_type(self, tmp_path):
        own = OwnView(tmp_path).put(["a", "b"], [T0 * US] * 2)
        rows = pa.table({"thing_id": ["b", "a", "c"], "timestamp": stamped([now_us()] * 3)})
        features = own.features(mode="historical").fit(rows)
        assert features.get_feature_names_out().tolist() == [
            "has_things",
            "things_price",
            "things_stock",
            "things_is_new",
        ]
        expected = np.array([[1, 1, 1, 0], [1, 0, 0, 1], [0, np.nan, np.nan, np.nan]], np.float32)
        np.testing.assert_array_equal(features.transform(rows), expected)

    def test_a_feature_service_by_name(self, served, shop):
        import feast

        store, views = open_store(served), views_of(served)
        by_kind = {kind: store.get_feature_view(name) for kind, name in views.items()}
        chosen = [by_kind["item_scalars"][["n_tokens", "text_hash"]], by_kind["user_histories"], by_kind["user_events"]]
        store.apply([feast.FeatureService(name="mine", features=chosen)])
        features = FeastFeatures(served, "mine").fit(rows_of(["i1"]))
        assert features.get_feature_names_out().tolist() == ["has_item_scalars", "item_scalars_n_tokens"]
        assert features.transform(rows_of(["i1"])).tolist() == [[1, 5]]
        with pytest.raises(StoreConfigError, match=r"the feature services \['mine'\], but 'yours' was expected"):
            FeastFeatures(served, "yours").fit(rows_of(["i1"]))


class TestRows:
    """Slates (several items of a moment), ties (several users of one item and moment), doubled rows, in no order."""

    IDS = ("i0", "i3", "i4", "i3", "i3", "none", "i5", "i0", "who")
    SECONDS = (0, 0, 0, 0, 7, 7, 9, 0, 9)

    def rows(self):
        rows = rows_of(self.IDS, [(T0 + 1 + second) * US for second in self.SECONDS])
        return rows.append_column("user_id", pa.array([f"u{at}" for at in range(len(rows))]))

    @pytest.mark.parametrize(
        "changes", [{}, {"through_feast": True}, {"mode": "online"}], ids=["files", "feast", "now"]
    )
    def test_every_row_in_its_place(self, repo, changes):
        rows = self.rows()
        features = FeastFeatures(repo, [VECTORS], **{"mode": "historical", **changes}).fit(rows)
        expected = [[int(each[1:]) if each in numbered(6) else np.nan] for each in self.IDS]
        matrix = features.transform(rows)
        np.testing.assert_array_equal(matrix[:, 1:2], expected)
        for order in (np.arange(len(rows))[::-1], np.array([3, 3, 0, 8, 3, 1, 1]), np.array([5])):
            shuffled = features.set_params(max_missing_share=1).transform(rows.take(pa.array(order)))
            assert shuffled.tobytes() == matrix[order].tobytes()
        assert features.transform(rows.slice(0, 0)).shape == (0, 5)

    @pytest.mark.parametrize(
        "broken",
        [lambda answer: answer.slice(1), lambda answer: pa.concat_tables([answer, answer.slice(0, 1)])],
        ids=["lost", "doubled"],
    )
    def test_a_store_that_loses_or_doubles_a_row_is_an_error(self, repo, broken):
        store = open_store(repo)
        view = store.get_feature_view(VECTORS)
        keys, times_us = id_array(self.IDS), np.full(len(self.IDS), (T0 + 1) * US)
        honest = join_through_feast(store, view, keys, times_us, ["vector"])
        assert len(honest) == len(self.IDS)

        def answered(**request):
            answer = store.get_historical_features(**request).to_arrow()
            return SimpleNamespace(to_arrow=lambda: broken(answer))

        double = SimpleNamespace(get_historical_features=answered)
        with pytest.raises(StoreError, match=r"gave \d rows for 6: the offline store loses or doubles rows"):
            join_through_feast(double, view, keys, times_us, ["vector"])

    def test_the_order_of_the_answer_says_nothing(self, repo):
        store = open_store(repo)
        view, keys, times_us = store.get_feature_view(VECTORS), id_array(self.IDS), np.full(len(self.IDS), T0 * US)
        turned = SimpleNamespace(
            get_historical_features=lambda **request: SimpleNamespace(
                to_arrow=lambda: (lambda answer: answer.take(pa.array(range(len(answer))[::-1])))(
                    store.get_historical_features(**request).to_arrow()
                )
            )
        )
        asked = view, keys, times_us, ["vector"]
        assert join_through_feast(turned, *asked).equals(join_through_feast(store, *asked))


class TestPointInTime:
    @pytest.mark.parametrize("through_feast", [False, True])
    def test_at_the_very_moment_and_before_anything_was_known(self, repo, through_feast):
        moments = [-1, 0, T0 * US - 1, T0 * US, T0 * US + 1]
        for item, versions in {"i1": [None, 0, 0, 9, 9], "i2": [None, 0, 0, None, None]}.items():
            rows = rows_of([item] * 5, moments)
            features = FeastFeatures(
                repo, [VECTORS], mode="historical", through_feast=through_feast, max_missing_share=1
            )
            matrix = features.fit(rows).transform(rows)
            expected = [np.nan if version is None else version for version in versions]
            np.testing.assert_array_equal(matrix[:, 2], expected)  # the second dimension is the version
            np.testing.assert_array_equal(matrix[:, 0], ~np.isnan(expected))

    def test_the_files_are_joined_as_feast_joins_them(self, tmp_path):
        """Ties in both times, several files, nulls, a time to live; each by Feast's own retrieval through DuckDB."""
        draw = np.random.default_rng(0)
        own = OwnView(tmp_path, ttl_s=30)
        for name in "abc":
            times_us = (T0 + draw.integers(0, 60, 80)) * US
            created_us = times_us + draw.permutation(80) + 100 * ord(name)  # of one moment no two are created at once
            own.put(
                [f"t{at}" for at in draw.integers(0, 6, 80)],
                times_us.tolist(),
                created_us.tolist(),
                name,
                price=pa.array([None if at % 5 == 0 else at / 3 for at in range(80)], pa.float64()),
                stock=pa.array(draw.integers(0, 1000, 80)),
            )
        n_rows = 400
        times_us = (T0 + draw.integers(-5, 100, n_rows)) * US + draw.integers(-1, 2, n_rows)
        rows = pa.table({"thing_id": [f"t{at}" for at in draw.integers(0, 8, n_rows)], "timestamp": stamped(times_us)})
        features = own.features(mode="historical").fit(rows)
        matrix = features.transform(rows)
        assert 0 < matrix[:, 0].mean() < 1
        assert features.set_params(through_feast=True).transform(rows).tobytes() == matrix.tobytes()

    @given(st.integers(0, 10**6), st.sampled_from([0, 3]))
    @settings(max_examples=40, deadline=None)
    def test_the_files_are_joined_as_the_plain_definition_says(self, seed, ttl_s):
        draw = np.random.default_rng(seed)
        n_rows = int(draw.integers(1, 30))
        table = {
            "key": [f"k{at}" for at in draw.integers(0, 3, n_rows)],
            "at": draw.integers(0, 6, n_rows) * US,
            "put": draw.permutation(n_rows),
        }
        asked = [f"k{at}" for at in draw.integers(0, 4, 25)]
        times_us = draw.integers(-1, 12, 25) * US
        join = AsOfFiles((), "key", "at", "put", {}, ttl_s * US)
        part = pa.table({**table, "at": stamped(table["at"]), "put": stamped(table["put"])})
        cut = int(draw.integers(0, n_rows + 1))
        found = join._rows([part.slice(0, cut), part.slice(cut)], id_array(asked), times_us)
        for key, time_us, row in zip(asked, times_us.tolist(), found.tolist(), strict=True):
            known = [at for at in range(n_rows) if table["key"][at] == key and table["at"][at] <= time_us]
            latest = max(known, key=lambda at: (table["at"][at], table["put"][at]), default=-1)
            is_late = latest >= 0 and ttl_s and table["at"][latest] < time_us - ttl_s * US
            assert row == (-1 if is_late else latest)

    def test_a_double_that_joins_strictly_before_fails_that_check(self, monkeypatch):
        before = historical.AsOfIndex.before
        monkeypatch.setattr(historical.AsOfIndex, "before", lambda self, codes, times: before(self, codes, times - 1))
        with pytest.raises(AssertionError):
            self.test_the_files_are_joined_as_the_plain_definition_says.hypothesis.inner_test(self, 1, 0)

    def test_a_source_that_is_no_parquet_here_is_left_to_feast(self, repo, monkeypatch):
        import feast
        from feast.data_format import DeltaFormat

        assert AsOfFiles.of(open_store(repo).get_feature_view(VECTORS), repo=repo) is not None
        for source in (
            feast.FileSource(path="s3://bucket/vectors", timestamp_field="valid_from"),
            feast.FileSource(path="vectors", file_format=DeltaFormat(), timestamp_field="valid_from"),
            SimpleNamespace(path="vectors"),
        ):
            assert AsOfFiles.of(SimpleNamespace(batch_source=source), repo=repo) is None
        rows, asked = rows_of(["i1"]), []
        features = FeastFeatures(repo, [VECTORS], mode="historical").fit(rows)

        def watched(*args):
            asked.append(args)
            return join_through_feast(*args)

        monkeypatch.setattr("llmfeat.store.feast_features.join_through_feast", watched)
        monkeypatch.setattr(AsOfFiles, "of", classmethod(lambda cls, view, repo: None))
        assert features.transform(rows).tolist() == [[1, 1, 9, 9, 9]]
        assert len(asked) == 1


class TestTheOfflineStore:
    def test_one_that_loses_rows_is_refused_for_training_and_serves(self, tmp_path):
        repo = init_repo(tmp_path)
        config = repo / "feature_store.yaml"
        config.write_text(config.read_text().replace("type: duckdb", "type: file"))
        put_vectors(repo / "data" / "item_vectors", numbered(6))
        apply(repo)
        materialize(repo)
        rows = rows_of(["i1", "i5"])
        with pytest.raises(StoreConfigError, match=r"'file', which loses training rows \(ties: 1 of 20 rows .*duckdb}"):
            FeastFeatures(repo, [VECTORS], mode="historical").fit(rows)
        assert FeastFeatures(repo, [VECTORS]).fit(rows).transform(rows)[:, 1].tolist() == [1, 5]


class TestMissing:
    def test_they_are_counted_and_too_many_are_an_error(self, repo):
        rows = rows_of(["i0", "none", "who", "i3"])
        scalars = f"{views_of(repo)['item_scalars']}:n_tokens"
        features = FeastFeatures(repo, [VECTORS, scalars]).fit(rows)
        features.transform(rows)
        features.transform(rows.slice(0, 3).take(pa.array([0, 0, 1])))
        assert (features.tally_.rows, features.tally_.missing) == (7, {VECTORS: 3, scalars.partition(":")[0]: 1})
        with pytest.raises(
            StoreMissingError, match=rf"{VECTORS} has nothing for 2 of 3 rows, at most 50% were expected"
        ):
            features.transform(rows.slice(0, 3))
        assert features.tally_.missing[VECTORS] == 5  # what failed counts, too
        features.set_params(max_missing_share=1).transform(rows.slice(1, 2))
        with pytest.raises(StoreMissingError):
            features.set_params(max_missing_share=0).transform(rows)
        assert features.fit(rows).tally_.rows == 0

    def test_an_emptied_store_is_an_error_not_a_ranking(self, tmp_path):
        repo = init_repo(tmp_path)
        put_vectors(repo / "data" / "item_vectors", numbered(3))
        apply(repo)  # and never materialized
        with pytest.raises(StoreMissingError, match="materialize it, see `llmfeat store status`"):
            FeastFeatures(repo, [VECTORS]).fit(rows_of(["i0"])).transform(rows_of(["i0"]))

    def test_threads_count_together(self, repo):
        rows = rows_of(["i0", "who"])
        features = FeastFeatures(repo, [VECTORS]).fit(rows)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: features.transform(rows), range(200)))
        assert (features.tally_.rows, features.tally_.missing) == (400, {VECTORS: 200})


class TestAnotherView:
    """The name is the same, and what is behind it is not."""

    @pytest.mark.parametrize(
        ("fields", "tags"),
        [
            ({"vector": "Bytes"}, {"dim": "4", "fingerprint": "two"}),
            ({"vector": "Bytes"}, {"dim": "8", "fingerprint": "one"}),
            ({"vector": "Int64"}, {"dim": "4", "fingerprint": "one"}),
            ({"vector": "String"}, {"dim": "4", "fingerprint": "one"}),
            ({"other": "Bytes"}, {"dim": "4", "fingerprint": "one"}),
            (None, None),
        ],
        ids=["fingerprint", "dimension", "type", "no number", "field", "the same"],
    )
    def test_it_is_refused(self, tmp_path, fields, tags):
        own = OwnView(tmp_path)
        own.apply(fields={"vector": "Bytes"}, tags={"dim": "4", "fingerprint": "one"})
        rows = pa.table({"thing_id": ["a"], "timestamp": stamped([T0 * US])})
        features = own.features().fit(rows)
        assert np.isnan(features.transform(rows)[:, 1:]).all()
        if fields is None:
            assert pickle.loads(pickle.dumps(features)).transform(rows).shape == (1, 5)
            return
        own.store.delete_feature_view("things")
        own.apply(fields=fields, tags=tags)
        with pytest.raises((TableFingerprintError, InputError), match="things"):
            pickle.loads(pickle.dumps(features)).transform(rows)

    def test_a_view_that_is_gone_is_told(self, repo, tmp_path):
        rows = rows_of(["i0"])
        features = FeastFeatures(repo, [VECTORS]).fit(rows)
        empty = init_repo(tmp_path)
        put_vectors(empty / "data" / "item_vectors", numbered(1), fingerprint="d" * 64)
        apply(empty)
        with pytest.raises(StoreConfigError, match=rf"but '{VECTORS}' was expected: apply it first"):
            features.set_params(repo=empty).transform(rows)


class TestTimeToLive:
    @pytest.mark.parametrize("ttl_s", [3600, 0])
    def test_it_holds_online_though_feast_serves_what_is_older(self, tmp_path, online, ttl_s):
        own = OwnView(tmp_path, online, ttl_s=ttl_s)
        now = pd.Timestamp.now(tz="UTC").floor("s")
        times = [now - pd.Timedelta("10s"), now - pd.Timedelta("2h")]
        frame = pd.DataFrame({"thing_id": ["new", "old"], "price": [1.0, 2.0], "stock": [1, 2], "is_new": [True, True]})
        frame = frame.assign(title="t", happened_at=times, put_at=times)
        own.store.write_to_online_store("things", frame)
        assert seen_by_feast(own.store, "things", "stock", ["new", "old"], key="thing_id") == [1, 2]
        rows = pa.table({"thing_id": ["old", "new", "who"]})
        matrix = own.features().fit(rows).transform(rows)
        assert matrix[1].tolist() == [1, 1, 1, 1]
        assert np.isnan(matrix[2, 1:]).all()
        if ttl_s:
            assert matrix[0, 0] == 0
            assert np.isnan(matrix[0, 1:]).all()
        else:
            assert matrix[0].tolist() == [1, 2, 2, 1]


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"key": "Int64"}, "the key 'thing_id' of type Int64, but String was expected: ids are compared as texts"),
            ({"keys": ("thing_id", "shop_id")}, "but views of one key are read"),
        ],
    )
    def test_keys(self, tmp_path, changes, said):
        own = OwnView(tmp_path).apply(**changes)
        with pytest.raises(StoreConfigError, match=said):
            own.features().fit(pa.table({"thing_id": ["1"], "shop_id": ["2"]}))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"repo": None}, "repo=None"),
            ({"mode": "offline"}, r"mode='offline', but one of \['online', 'historical'\]"),
            ({"max_missing_share": 1.5}, "max_missing_share=1.5"),
            ({"max_missing_share": "all"}, "max_missing_share='all'"),
            ({"features": None}, "features=None"),
            ({"features": []}, r"features=\[\]"),
            ({"features": 3}, "features=3"),
            ({"features": ["nonsense"]}, "but 'nonsense' was expected: apply it first"),
            ({"features": [f"{VECTORS}:size"]}, r"has the fields \['vector'\], but \['size'\] were asked for"),
        ],
    )
    def test_parameters(self, repo, changes, said):
        with pytest.raises(LLMFeatError, match=said):
            FeastFeatures(repo, [VECTORS]).set_params(**changes).fit(rows_of(["i0"]))

    def test_fields_that_make_no_column(self, repo):
        scalars = views_of(repo)["item_scalars"]
        with pytest.raises(InputError, match=r"\{'text_hash': 'Bytes'\}, of which no columns can be made"):
            FeastFeatures(repo, [f"{scalars}:text_hash"]).fit(rows_of(["i0"]))

    def test_columns_of_the_rows(self, repo):
        features = FeastFeatures(repo, [VECTORS])
        with pytest.raises(MissingColumnError, match="'item_id'"):
            features.fit(pa.table({"sku": ["i0"]}))
        features.fit(rows_of(["i0"]).select(["item_id"]))  # times are for the past alone
        with pytest.raises(MissingColumnError, match="'timestamp'"):
            features.set_params(mode="historical").fit(rows_of(["i0"]).select(["item_id"]))
        renamed = FeastFeatures(repo, [VECTORS], item_id="sku").fit(pa.table({"sku": ["i3"]}))
        assert renamed.transform(pa.table({"sku": ["i3"]}))[0, 1] == 3

    def test_not_fitted(self, repo):
        for call in (lambda one: one.transform(rows_of(["i0"])), lambda one: one.get_feature_names_out()):
            with pytest.raises(NotFittedError):
                call(FeastFeatures(repo, [VECTORS]))


def test_clones_and_pickles_open_connections_of_their_own(repo):
    rows = rows_of(["i0", "i3"])
    features = FeastFeatures(repo, [VECTORS]).fit(rows)
    matrix = features.transform(rows)
    dumped = pickle.dumps(features)
    assert len(dumped) < 2000
    assert pickle.loads(dumped).transform(rows).tobytes() == matrix.tobytes()
    assert pickle.loads(dumped).tally_ == features.tally_
    assert clone(features).fit(rows).transform(rows).tobytes() == matrix.tobytes()
    frame = features.set_output(transform="pandas").transform(rows.to_pandas())
    assert list(frame.columns) == features.get_feature_names_out().tolist()
