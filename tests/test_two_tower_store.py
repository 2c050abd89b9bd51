"""Vectors of two towers go where vectors of texts go: a table, a feature store, and back."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from llmfeat import FeastFeatures, TwoTower, VectorTable, materialize, write_table
from llmfeat.history import Sequences
from llmfeat.store import init_repo, view_name
from tests.stores import FEAST_WARNINGS, apply

pytestmark = FEAST_WARNINGS

IDS = [f"i{at}" for at in range(12)]
LAST_EVENT = "2026-11-01T00:00:00Z"
# What a log up to then taught is known a moment later, not before.
BEFORE, AFTER = (pd.Timestamp(LAST_EVENT) + pd.Timedelta(days=days) for days in (-1, 1))


def fitted(seed: int) -> TwoTower:
    table = VectorTable.from_arrays(IDS, np.random.default_rng(0).standard_normal((len(IDS), 4)))
    paths = pa.table({"h": [[IDS[(user + step) % 12] for step in range(4)] for user in range(40)]})
    past = Sequences.from_lists(paths, "h", item_ids=IDS)
    return TwoTower(table, dim=6, epochs=1, held_out=0, batch_rows=32, random_state=seed).fit(past)


def test_towers_in_a_feature_store(tmp_path):
    towers = fitted(0)
    write_table(towers.item_vectors_, tmp_path / "towers", valid_from=LAST_EVENT)
    repo = init_repo(tmp_path / "repo", table=tmp_path / "towers")
    apply(repo)
    materialize(repo)
    view = view_name(towers.fingerprint_)
    wanted = towers.item_vectors_.lookup(["i3", "i0"])
    rows = pd.DataFrame({"item_id": ["i3", "i0", "i3"], "timestamp": [AFTER, AFTER, BEFORE]})
    online = FeastFeatures(repo, [f"{view}:vector"], max_missing_share=1).fit(rows[:2])
    found = online.transform(rows[:2])  # whether there is a vector, then the vector
    np.testing.assert_array_equal(found[:, 1:], wanted)
    historical = FeastFeatures(repo, [f"{view}:vector"], mode="historical", max_missing_share=1).fit(rows)
    found = historical.transform(rows)
    np.testing.assert_array_equal(found[:2, 1:], wanted)
    assert np.isnan(found[2, 1:]).all()  # before the towers' last event they told the future


def test_other_towers_have_a_view_of_their_own(tmp_path):
    first, second = fitted(0), fitted(1)
    assert first.fingerprint_ != second.fingerprint_
    for towers in (first, second):
        write_table(towers.item_vectors_, tmp_path / "towers", valid_from=LAST_EVENT)
    repo = init_repo(tmp_path / "repo", table=tmp_path / "towers")
    apply(repo)
    materialize(repo)
    names = {each.name for each in apply(repo).list_batch_feature_views()}
    assert {view_name(towers.fingerprint_) for towers in (first, second)} <= names
