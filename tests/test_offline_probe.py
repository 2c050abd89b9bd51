"""`probe_offline`: which offline stores lose rows, found out by asking them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from llmfeat.cli.main import cli
from llmfeat.errors import LLMFeatError, StoreConfigError, TableNotFoundError
from llmfeat.store import OfflineProbe, init_repo, probe_offline
from tests.stores import FEAST_WARNINGS, FINGERPRINT, apply, numbered, put_vectors

pytestmark = FEAST_WARNINGS


def repo_of(folder, kind="duckdb", vectors=None):
    repo = init_repo(folder)
    config = repo / "feature_store.yaml"
    config.write_text(config.read_text().replace("type: duckdb", f"type: {kind}"))
    put_vectors(repo / "data" / "item_vectors", numbered(7) if vectors is None else vectors)
    apply(repo)
    return repo


def test_duckdb_loses_nothing(tmp_path):
    found = probe_offline(repo_of(tmp_path))
    assert found.cases == dict.fromkeys(["slates", "ties", "doubled rows"], (20, 20, 0))
    assert (found.store, found.loses, found.reason) == ("duckdb", [], "every row came back")


def test_file_loses_ties_and_doubled_rows(tmp_path):
    found = probe_offline(repo_of(tmp_path, "file"))
    assert found.cases == {"slates": (20, 20, 0), "ties": (20, 1, 0), "doubled rows": (20, 5, 0)}
    assert found.loses == ["ties", "doubled rows"]
    assert found.reason == "ties: 1 of 20 rows came back; doubled rows: 5 of 20 rows came back"


def test_few_items_will_do(tmp_path):
    found = probe_offline(repo_of(tmp_path, vectors={"only": [1.0, 2.0], "none": None}))
    assert set(found.cases.values()) == {(4, 4, 0)}


def test_the_latest_of_several_parts_is_expected(tmp_path):
    repo = repo_of(tmp_path)
    put_vectors(repo / "data" / "item_vectors", numbered(7, version=1), valid_from_us=5)
    assert not probe_offline(repo).loses


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda answer: answer.slice(1), "slates: 19 of 20 rows came back; ties: 19 of 20"),
        (
            lambda answer: answer.drop("vector").append_column("vector", answer["vector"].take([0] * 20)),
            "16 with another",
        ),
    ],
    ids=["a row less", "the vector of another"],
)
def test_a_store_that_breaks_its_answers_is_told(tmp_path, monkeypatch, broken, said):
    from feast.infra.offline_stores.offline_store import RetrievalJob

    to_arrow = RetrievalJob.to_arrow
    monkeypatch.setattr(RetrievalJob, "to_arrow", lambda self: broken(to_arrow(self)))
    found = probe_offline(repo_of(tmp_path))
    assert found.loses
    assert said in found.reason


def test_what_cannot_be_asked_is_an_error(tmp_path):
    with pytest.raises(TableNotFoundError):
        probe_offline(init_repo(tmp_path / "empty"))
    repo = repo_of(tmp_path / "other")
    put_vectors(repo / "data" / "item_vectors", numbered(1), fingerprint="d" * 64)  # and not applied
    with pytest.raises(StoreConfigError, match=r"has no view 'item_vectors_dddddddddddd': run `feast apply`"):
        probe_offline(repo)
    assert not probe_offline(repo, fingerprint=FINGERPRINT).loses
    with pytest.raises(StoreConfigError, match=r"none of the first items of .* has a vector"):
        probe_offline(repo_of(tmp_path / "none", vectors={"none": None}))


@pytest.mark.parametrize(("kind", "status"), [("duckdb", 0), ("file", 1)])
def test_the_command_ends_with_a_status(tmp_path, kind, status):
    repo = repo_of(tmp_path, kind)
    result = CliRunner().invoke(cli, ["store", "probe", str(repo)])
    assert result.exit_code == status, result.output
    assert ("file: LOSES ROWS" if status else "duckdb: every row came back") in result.stdout
    result = CliRunner().invoke(cli, ["store", "probe", str(repo), "--json"])
    assert result.exit_code == status
    body = json.loads(result.stdout)
    assert body["loses"] == (["ties", "doubled rows"] if status else [])
    assert body["cases"]["slates"] == [20, 20, 0]


def test_an_error_of_ours_is_no_answer(tmp_path):
    result = CliRunner().invoke(cli, ["store", "probe", str(init_repo(tmp_path))])
    assert isinstance(result.exception, LLMFeatError)


def test_what_is_lost_is_all_that_counts():
    honest = OfflineProbe("mine", {"slates": (4, 4, 0)})
    for cases in ({"slates": (4, 3, 0)}, {"slates": (4, 5, 0)}, {"slates": (4, 4, 1)}):
        assert not honest.loses
        assert replace(honest, cases=cases).loses == ["slates"]
