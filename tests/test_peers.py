"""What is ours in the benchmark of peers; their libraries and the data are not needed."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from llmfeat.evaluate.metrics import Estimate
from llmfeat.history import Sequences

ROOT = Path(__file__).parent.parent
HISTORIES = Sequences.from_lists(
    pa.table({"seen": [["a", "b", "c"], [], ["c"]]}), "seen", item_ids=pa.array(["a", "b", "c", "d"])
)


@pytest.fixture
def office_peers(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("_office_peers")


class Fixed:
    """Says the same of every history."""

    def __init__(self, scores):
        self.name = "fixed"
        self.settings = {"scores": scores}

    def fit(self, sequences):
        assert sequences is HISTORIES
        return self

    def scores(self, histories):
        return np.tile(np.array(self.settings["scores"], dtype=np.float32), (len(histories), 1))


def test_histories_stand_at_the_right_and_lose_their_oldest(office_peers):
    assert office_peers.padded(HISTORIES, 2, pad=9).tolist() == [[1, 2], [9, 9], [9, 2]]
    assert office_peers.padded(HISTORIES, 4, pad=9).tolist() == [[9, 0, 1, 2], [9] * 4, [9, 9, 9, 2]]


def test_the_best_on_the_valid_events_is_chosen(office_peers):
    queries = office_peers.Queries(HISTORIES, np.array([3, 3, 0]))
    worse, best = Fixed([2, 0, 0, 1]), Fixed([1, 0, 0, 2])
    chosen, tried = office_peers.choose([worse, best, worse], HISTORIES, queries)
    assert chosen is best
    second = 1 / np.log2(3)
    assert [each["ndcg@10"] for each in tried] == pytest.approx(
        [(1 + 2 * second) / 3, (2 + second) / 3, tried[0]["ndcg@10"]]
    )
    assert [each["scores"] for each in tried] == [[2, 0, 0, 1], [1, 0, 0, 2], [2, 0, 0, 1]]


def test_the_mean_of_runs_is_taken_on_the_same_resamples(office_peers):
    peers = importlib.import_module("peers")
    mean = peers.mean_estimate([Estimate(1.0, np.array([1.0, 2.0])), Estimate(3.0, np.array([5.0, 4.0]))])
    assert mean.point == 2.0
    assert mean.resampled.tolist() == [3.0, 3.0]


def test_data_that_are_missing_are_named(tmp_path):
    script = [sys.executable, ROOT / "benchmarks" / "peers.py", "--json", tmp_path / "out.json"]
    done = subprocess.run([*script, "--data", tmp_path / "nowhere"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pass --data DIR" in done.stderr
