"""``llmfeat lift`` from files as people have them to lift.json and report.html."""

from __future__ import annotations

import copy
import datetime
import io
import json
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from rich.console import Console

from llmfeat import VectorTable
from llmfeat.cli._lift_summary import print_lift
from llmfeat.cli.main import cli
from llmfeat.evaluate.arms import ARMS, COMPARISONS, SLICES
from tests.conftest import WORDS
from tests.lift_fixtures import click_lift, next_item_lift

N_USERS, N_ITEMS, N_EVENTS = 30, 50, 700
# The contract's, with what this project adds to it.
KEYS = [
    *("schema", "task", "primary_metric", "data", "preflight", "encoder", "candidates", "arms", "lift", "lags"),
    *("by_popularity", "importance", "examples", "verdict", "cost", "checks", "tuning", "method", "runs"),
    "environment",
]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """What is tested here shows with few trees and requests."""
    monkeypatch.setattr("llmfeat.evaluate.fitting._MOST_TREES", 5)
    for task in ("click", "next_item.task"):
        monkeypatch.setattr(f"llmfeat.evaluate.{task}._N_REQUESTS", 6)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Films with HTML in their titles and UUIDs for ids; ratings in a CSV with epochs in milliseconds."""
    draw = np.random.default_rng(0)
    ids = [str(uuid.UUID(int=int(each))) for each in range(N_ITEMS)]
    known = [word for word in WORDS if word.isalpha()]
    titles = [f"<b>{known[at % len(known)]}</b> &amp; {known[at % 3]}" for at in range(N_ITEMS)]
    titles[7] = None
    plots = [None if at % 4 else known[(at + 1) % len(known)] for at in range(N_ITEMS)]
    pq.write_table(pa.table({"film": ids, "title": titles, "plot": plots}), tmp_path / "films.parquet")
    items = draw.integers(0, N_ITEMS, N_EVENTS)
    users = draw.integers(0, N_USERS, N_EVENTS)
    liked = (items % 5 == users % 5) | (draw.random(N_EVENTS) < 0.3)
    seconds = np.sort(draw.integers(0, 10**6, N_EVENTS)) + 1_700_000_000
    log = {
        "viewer": users,
        "film": pa.array([ids[item] for item in items]),
        "when": seconds * 1000,
        "stars": np.where(liked, 5.0, 2.5),
        "score": liked + draw.standard_normal(N_EVENTS),
        "request": np.arange(N_EVENTS) // 8,
    }
    csv.write_csv(pa.table(log), tmp_path / "ratings.csv")
    moments = pa.array([datetime.datetime.fromtimestamp(int(each)) for each in seconds])
    pq.write_table(
        pa.table({name: log[name] for name in ("viewer", "film")}).append_column("when", moments),
        tmp_path / "purchases.parquet",
    )
    pq.write_table(pa.table({"film": ids, "price": draw.random(N_ITEMS)}), tmp_path / "prices.parquet")
    return tmp_path


def lift(folder: Path, artifact, log: str, *more: str, out: str = "out", text: tuple[str, ...] = ("title", "plot")):
    texts = [word for name in text for word in ("--text", name)]
    files = ["--items", str(folder / "films.parquet"), "--interactions", str(folder / log)]
    names = [
        "--item-id",
        "film",
        "--user-id",
        "viewer",
        *(["--timestamp", "when"] if "--timestamp" not in more else []),
    ]
    where = ["--artifact", str(artifact.path), "--out", str(folder / out)]
    return CliRunner().invoke(cli, ["lift", *files, *texts, *names, *where, *more])


def read(folder: Path, out: str = "out") -> dict:
    return json.loads((folder / out / "lift.json").read_text())


def without_times(body: dict) -> dict:
    kept = copy.deepcopy(body)
    del kept["cost"]
    return kept


def test_ratings_in_a_csv(shop, artifact):
    more = ("--rating", "stars", "--baseline-score", "score", "--group-id", "request", "--history-lag-s", "60")
    result = lift(shop, artifact, "ratings.csv", *more, "--base-features", str(shop / "prices.parquet"))
    assert result.exit_code == 0, result.output
    body = read(shop)
    assert list(body) == KEYS
    assert list(body["arms"]) == ["baseline", *ARMS]
    assert all(list(found) == list(SLICES) for found in body["arms"].values())
    assert list(body["lift"]) == [*COMPARISONS, "hybrid_vs_baseline", "no_text_vs_baseline"]
    assert list(body["lags"]) == ["60", "0", "3600", "86400"]
    assert body["lags"]["60"] == body["lift"]
    assert body["checks"]["online_equals_offline"]
    assert body["examples"] is None
    assert body["data"]["users"] == N_USERS
    assert body["data"]["items"] == N_ITEMS
    assert body["data"]["items_without_text"] == 1
    assert body["data"]["split"]["by"] == "time"
    assert {"html", "ties"} & {finding["code"] for finding in body["preflight"]}
    own = {column["name"] for column in body["importance"]["hybrid"]["columns"] if column["family"] == "own"}
    assert "baseline_score" in own
    assert body["arms"]["baseline"]["all"]["auc"] > 0.6
    assert body["verdict"]["adopt"] in ("yes", "no", "underpowered")
    assert body["verdict"]["adopt"] in result.output
    page = (shop / "out" / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    vectors = VectorTable.open(shop / "out" / "vectors").vectors
    assert np.flatnonzero(np.isnan(vectors).all(axis=1)).tolist() == [7]


def test_purchases_by_time_twice(shop, artifact):
    more = ("--task", "next-item", "--examples", "--seeds", "2")
    for out in ("out", "again"):
        result = lift(shop, artifact, "purchases.parquet", *more, out=out)
        assert result.exit_code == 0, result.output
    one, two = (without_times(read(shop, out)) for out in ("out", "again"))
    assert one["encoder"].pop("fingerprint") == two["encoder"].pop("fingerprint")
    assert one == two
    assert one["candidates"]["recall"] > 0.5
    assert one["lags"] == {}
    assert len(one["runs"]) == 2
    assert len(one["examples"]) == 5
    assert set(one["candidates"]["given_recall"]) == set(ARMS)
    naive = [finding for finding in one["preflight"] if "UTC" in finding["what"] + finding["handling"]]
    assert naive


def test_rows_that_bring_their_histories(shop, artifact):
    draw = np.random.default_rng(1)
    ids = pq.read_table(shop / "films.parquet").column("film").to_pylist()
    rows = []
    for user in range(40):
        events = [ids[at] for at in draw.integers(0, N_ITEMS, 6)]
        rows += [(user, events[at], part, events[:at]) for at, part in ((3, "valid"), (4, "valid"), (5, "test"))]
    users, items, parts, histories = zip(*rows, strict=True)
    table = {"viewer": users, "film": items, "part": parts, "seen": histories}
    pq.write_table(pa.table(table), shop / "events.parquet")
    more = ("--task", "next-item", "--split-column", "part", "--history-column", "seen", "--timestamp", "timestamp")
    result = lift(shop, artifact, "events.parquet", *more, text=("title",))
    assert result.exit_code == 0, result.output
    body = read(shop)
    assert body["data"]["split"]["by"] == "own histories"
    assert (body["data"]["train_rows"], body["data"]["test_rows"]) == (80, 40)


@pytest.mark.parametrize(
    ("more", "names"),
    [
        (("--rating", "star"), ("'star'", "stars", "--rating")),
        (("--label", "stars"), ("stars", "--rating")),
        ((), ("--label", "--rating", "--task next-item")),
        (("--rating", "stars", "--like-threshold", "9"), ("--like-threshold",)),
        (("--rating", "stars", "--timestamp", "score"), ("score",)),
        (("--rating", "stars", "--task", "next-item", "--origins", "50"), ("more moments",)),
    ],
)
def test_an_error_names_the_column_and_the_mend(shop, artifact, more, names):
    result = lift(shop, artifact, "ratings.csv", *more)
    assert result.exit_code != 0
    said = f"{result.output} {result.exception}"
    assert all(name in said for name in names), said
    assert not (shop / "out" / "lift.json").exists()


def test_what_was_fitted_before_an_interruption_is_used(shop, artifact, monkeypatch):
    from llmfeat.evaluate import lift as engine

    fitted: list[str] = []
    whole = engine.fit_arm

    def until_killed(rows, families, learner, *, seed):
        if len(fitted) == 3:
            raise KeyboardInterrupt
        fitted.append(families)
        return whole(rows, families, learner, seed=seed)

    monkeypatch.setattr(engine, "fit_arm", until_killed)
    assert lift(shop, artifact, "purchases.parquet", "--task", "next-item").exit_code != 0
    assert not (shop / "out" / "lift.json").exists()
    monkeypatch.setattr(engine, "fit_arm", whole)
    result = lift(shop, artifact, "purchases.parquet", "--task", "next-item")
    assert result.exit_code == 0, result.output
    assert "8 fits, 3 of them reused" in result.output
    assert "0 new, 0 changed" in result.output


def test_the_terminal_says_what_was_drawn():
    for body, said in (
        (next_item_lift(), "Arms: 10,000 test queries, drawn from 44,871, 796 of them of cold items"),
        (click_lift(), "Arms: 20,001 test rows, 349 of them of cold items"),
    ):
        console = Console(width=200, record=True, file=io.StringIO())
        print_lift(console, body)
        assert said in console.export_text()
