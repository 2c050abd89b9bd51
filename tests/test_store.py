"""Feast for real: DuckDB offline, SQLite online, a registry in a file."""

from __future__ import annotations

import importlib.resources
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from llmfeat import FeastVectors, HistoryFeatures, ItemTemplate, TextEncoder, VectorTable, encode_table
from llmfeat.errors import StoreConfigError, StoreError, StoreWriteError, TableNotFoundError
from llmfeat.store import apply_repo, feature_views, init_repo, online, open_store, view_name, write_online
from tests.conftest import write_artifact

TEMPLATE = ItemTemplate("{title}[ {year}]")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


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


@pytest.fixture(scope="module")
def applied(tmp_path_factory, artifact, catalogue):
    repo = init_repo(tmp_path_factory.mktemp("repo"))
    table = encode(catalogue, artifact, repo)
    apply_repo(repo)
    return repo, table


def test_feature_repo_is_the_shipped_template():
    shipped = importlib.resources.files("llmfeat.store") / "templates"
    repo = Path(__file__).parent.parent / "feature_repo"
    for name in ("feature_store.yaml", "definitions.py"):
        assert (repo / name).read_bytes() == (shipped / name).read_bytes()


def test_init_overwrites_nothing(tmp_path):
    (tmp_path / "feature_store.yaml").write_text("mine")
    init_repo(tmp_path)
    assert (tmp_path / "feature_store.yaml").read_text() == "mine"
    assert (tmp_path / "definitions.py").exists()


def test_written_online_read_back_and_written_once(applied):
    repo, path = applied
    table = VectorTable.open(path)
    first = write_online(repo, path)
    assert first.written + first.unchanged == 4
    second = write_online(repo, path)
    assert (second.written, second.cleared, second.unchanged) == (0, 0, 4)
    serving = FeastVectors(repo, fingerprint=table.fingerprint)
    ids = ["3", "1", "4", "unknown", "1", 2]
    assert serving.dim == table.dim
    assert serving.lookup(ids).tobytes() == table.lookup(ids).tobytes()
    assert np.isnan(serving.lookup(["4", "unknown"])).all()
    assert pickle.loads(pickle.dumps(serving)).lookup(ids).tobytes() == table.lookup(ids).tobytes()


def test_changed_and_deletedcatalogue_reach_the_store(tmp_path, artifact, catalogue):
    repo = init_repo(tmp_path)
    table = encode(catalogue, artifact, repo)
    apply_repo(repo)
    write_online(repo, table)
    changed = catalogue.set_column(1, "title", pa.array(["heat", "speed", None, None])).slice(1)
    encode(changed, artifact, repo)
    summary = write_online(repo, table)
    assert (summary.written, summary.cleared) == (1, 2)  # 2 has another text, 3 none any more, 1 is deleted
    serving = FeastVectors(repo, fingerprint=VectorTable.open(table).fingerprint)
    assert np.isnan(serving.lookup(["1", "3"])).all()
    assert serving.lookup(["2"]).tobytes() == TextEncoder(artifact).encode(["speed"]).tobytes()


def test_features_online_have_the_bytes_of_offline(applied, log):
    repo, path = applied
    write_online(repo, path)
    table = VectorTable.open(path)
    rows = pa.table({"user_id": ["u1"] * 3, "item_id": ["1", "4", "9"], "timestamp": [10**9 + 500] * 3})
    features = HistoryFeatures(log, {"llm": table}).fit(rows)
    offline = features.transform(rows)
    features.set_params(vectors={"llm": FeastVectors(repo, fingerprint=table.fingerprint)})
    assert features.transform(rows).tobytes() == offline.tobytes()


def test_historical_join_gives_the_vector_known_then(applied):
    import pandas as pd

    repo, path = applied
    table = VectorTable.open(path)
    view = view_name(table.fingerprint)
    entities = pd.DataFrame(
        {"item_id": ["1", "2", "1", "4"], "event_timestamp": pd.to_datetime(["2020-01-01"] * 4, utc=True)}
    )
    joined = open_store(repo).get_historical_features(entity_df=entities, features=[f"{view}:vector"]).to_df()
    assert len(joined) == 4
    got = {row.item_id: row.vector for row in joined.itertuples()}
    assert bytes(got["2"]) == table.lookup(["2"]).tobytes()
    assert got["4"] is None or got["4"] != got["4"]


def test_another_model_is_another_view_and_the_old_one_stays(tmp_path, artifact, catalogue):
    repo = init_repo(tmp_path / "repo")
    table = encode(catalogue, artifact, repo)
    old = VectorTable.open(table).fingerprint
    encode(catalogue, write_artifact(tmp_path / "other", seed=1), repo)
    new = VectorTable.open(table).fingerprint
    found = {each.name: each for each in feature_views(table)}
    assert set(found) == {"item", view_name(old), view_name(new)}
    tags = found[view_name(new)].tags
    assert (tags["fingerprint"], tags["dim"], tags["dtype"]) == (new, "8", "float32")


def test_a_generation_without_a_view_is_refused(applied):
    repo, _ = applied
    with pytest.raises(StoreConfigError, match="run `feast apply`"):
        FeastVectors(repo, fingerprint="f" * 64).lookup(["1"])


def test_what_is_read_back_differently_is_an_error(applied, artifact, catalogue, monkeypatch):
    repo, path = applied
    write_online(repo, path)
    read = online._read
    monkeypatch.setattr(online, "_read", lambda *args: ([b"\0" * len(cell) for cell in read(*args)[0]], read(*args)[1]))
    with pytest.raises(StoreWriteError, match="are not what was written"):
        write_online(repo, path)


def test_vectors_of_another_dimension_are_an_error(applied, monkeypatch):
    repo, path = applied
    serving = FeastVectors(repo, fingerprint=VectorTable.open(path).fingerprint)
    monkeypatch.setattr(online, "_read", lambda *_: ([b"1234"], np.zeros(1)))
    with pytest.raises(StoreError, match=r"vectors of \[4\] bytes, 32 were expected"):
        serving.lookup(["1"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("type: duckdb", "type: dask", "drops training rows"),
        ("serve_features_while_materializing: true", "cache_ttl_seconds: 60", "under `registry`"),
        ("online_write_batch_size: 5000", "pull_latest_features: false", "online_write_batch_size"),
    ],
)
def test_settings_that_lose_rows_are_refused(tmp_path, old, new, said):
    path = init_repo(tmp_path) / "feature_store.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(StoreConfigError, match=said):
        open_store(tmp_path)


def test_no_repository(tmp_path):
    with pytest.raises(StoreConfigError, match=r"holds no feature_store\.yaml"):
        open_store(tmp_path)


def test_apply_without_a_table_says_what_is_missing(tmp_path):
    with pytest.raises(StoreError, match=r"manifest\.json"):
        apply_repo(init_repo(tmp_path))
    with pytest.raises(TableNotFoundError):
        feature_views(tmp_path)
