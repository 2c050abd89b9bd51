from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from llmfeat import VectorTable
from llmfeat.errors import (
    ArtifactCorruptError,
    ArtifactNotFoundError,
    ArtifactSchemaError,
    InputError,
    NothingToLearnError,
    ParityError,
    TableFingerprintError,
)
from llmfeat.history import Sequences
from llmfeat.rank import generate_candidates
from llmfeat.rank.scorers import CrossFitted, FittableScorer, Popularity
from llmfeat.rank.two_tower import TwoTower
from llmfeat.rank.two_tower.data import TowerData, history_block
from llmfeat.rank.two_tower.parity import measure_parity
from llmfeat.rank.two_tower.runtime import TowerRuntime
from llmfeat.rank.two_tower.training import Training, _Run

N_GROUPS, N_PER_GROUP, DIM = 6, 8, 8
IDS = [f"g{group}i{item}" for group in range(N_GROUPS) for item in range(N_PER_GROUP)]
FAST = {"dim": 16, "epochs": 6, "batch_rows": 64, "learning_rate": 0.02, "max_events": 4}


def group_of(ids):
    return [int(each[1]) for each in ids]


@pytest.fixture(scope="module")
def table():
    """Texts that tell groups apart, and little more."""
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((N_GROUPS, DIM))
    vectors = centres.repeat(N_PER_GROUP, axis=0) + 0.1 * draw.standard_normal((len(IDS), DIM))
    return VectorTable.from_arrays(IDS, vectors)


@pytest.fixture(scope="module")
def past():
    """After a group comes the next one; the last item of each group is never met."""
    draw = np.random.default_rng(1)
    histories = [
        [f"g{(first + step) % N_GROUPS}i{draw.integers(N_PER_GROUP - 1)}" for step in range(5)]
        for first in draw.integers(N_GROUPS, size=300)
    ]
    users = [f"u{at % 100}" for at in range(len(histories))]
    return Sequences.from_lists(pa.table({"h": histories, "u": users}), "h", user_id="u", item_ids=IDS)


@pytest.fixture(scope="module")
def towers(table, past):
    return TwoTower(table, **FAST).fit(past)


def of_lists(histories, users=None):
    rows = pa.table({"h": pa.array(histories, pa.list_(pa.string())), "u": users or ["x"] * len(histories)})
    return Sequences.from_lists(rows, "h", user_id="u", item_ids=IDS)


def test_what_comes_next_is_learned(towers):
    found = towers.recommend(of_lists([["g0i1"], ["g3i2", "g4i0"]]), 5)
    assert found.column_names == ["query", "item_id", "score", "rank", "user_id"]
    assert found.column("query").to_pylist() == [0] * 5 + [1] * 5
    assert found.column("rank").to_pylist() == [1, 2, 3, 4, 5] * 2
    assert group_of(found.column("item_id").to_pylist()) == [1] * 5 + [5] * 5
    assert np.all(np.diff(found.column("score").to_numpy()[:5]) <= 0)


def test_texts_alone_would_say_the_same_group(table):
    """The double that learns nothing: what is near is of the same group, not of the next."""
    stays = TwoTower(table, **{**FAST, "learning_rate": 1e-6}, held_out=0).fit(of_lists([["g0i1", "g1i1"]] * 20))
    assert set(group_of(stays.recommend(of_lists([["g0i1"]]), 5).column("item_id").to_pylist())) == {0}


def test_an_item_that_nobody_met_is_recommended_by_its_text(towers):
    scores = towers.scores(of_lists([["g0i1"]]))[0]
    cold = IDS.index(f"g1i{N_PER_GROUP - 1}")
    assert not towers.towers_.is_met[cold]
    others = [score for name, score in zip(IDS, scores, strict=True) if not name.startswith("g1")]
    assert scores[cold] > max(others)


def test_the_graphs_give_what_torch_gives(towers):
    parity = towers.towers_.trained["parity"]
    assert max(parity["items"], parity["users"]) < 1e-6
    assert parity["n_items"] == len(IDS)


def test_graphs_that_give_something_else_are_refused(table, past, monkeypatch):
    from llmfeat.rank.two_tower import estimator

    def broken(trained):
        turn = trained.state["turn"].copy()
        turn[0, 1] += 0.1
        return estimator_graph(replace(trained, state={**trained.state, "turn": turn}))

    estimator_graph = estimator.user_graph
    monkeypatch.setattr(estimator, "user_graph", broken)
    with pytest.raises(ParityError, match="1 - cosine"):
        TwoTower(table, **FAST, held_out=0).fit(past)


@pytest.mark.parametrize("options", [{}, {"hidden": 12}, {"user_embeddings": True}])
def test_a_row_has_its_bits_alone_and_in_a_batch(table, past, options):
    towers = TwoTower(table, **{**FAST, "epochs": 1}, held_out=0, **options).fit(past)
    some = past.take(np.arange(70))
    users, scores = towers.user_vectors(some), towers.scores(some)
    for row in (0, 1, 33, 69):
        alone = past.take([row])
        assert np.array_equal(towers.user_vectors(alone)[0], users[row])
        assert np.array_equal(towers.scores(alone)[0], scores[row])
    items = towers.item_vectors(IDS).vectors
    assert np.array_equal(towers.item_vectors(IDS[5:6]).vectors[0], items[5])
    assert np.allclose(np.linalg.norm(items, axis=1), 1, atol=1e-6)


def test_the_same_seed_gives_the_same_towers(table, past, towers):
    assert TwoTower(table, **FAST).fit(past).fingerprint_ == towers.fingerprint_
    assert TwoTower(table, **FAST, random_state=1).fit(past).fingerprint_ != towers.fingerprint_


def test_torch_s_own_random_numbers_are_left_alone(table, past):
    import torch

    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    TwoTower(table, **{**FAST, "epochs": 1}, held_out=0).fit(past)
    assert torch.equal(torch.rand(3), wanted)


def test_it_is_saved_and_read_and_pickled(towers, table, past, tmp_path):
    towers.save(tmp_path / "towers")
    read = TwoTower.load(tmp_path / "towers", table)
    pickled = pickle.loads(pickle.dumps(towers))
    some = past.take(np.arange(9))
    for other in (read, pickled):
        assert other.fingerprint_ == towers.fingerprint_
        assert other.item_vectors_.fingerprint == towers.fingerprint_
        assert np.array_equal(other.scores(some), towers.scores(some))
    towers.save(tmp_path / "towers")  # in place of what is there


def test_serving_needs_no_torch(towers, tmp_path):
    towers.save(tmp_path / "towers")
    vectors = towers.vectors
    np.savez(tmp_path / "table.npz", ids=np.array(vectors.ids.to_pylist()), vectors=vectors.vectors)
    code = f"""
import sys
import numpy as np, pyarrow as pa
from llmfeat import VectorTable
from llmfeat.history import Sequences
from llmfeat.rank.two_tower import TwoTower
held = np.load({str(tmp_path / "table.npz")!r})
towers = TwoTower.load({str(tmp_path / "towers")!r}, VectorTable.from_arrays(held["ids"].tolist(), held["vectors"]))
rows = Sequences.from_lists(pa.table({{"h": [["g0i1"]]}}), "h", item_ids=towers.item_ids_)
print(towers.recommend(rows, 1).column("item_id")[0], "torch" in sys.modules, "onnx" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    item, *loaded = done.stdout.split()
    assert item.startswith("g1")
    assert loaded == ["False", "False"]


def test_a_folder_that_is_not_as_it_was_written_is_refused(towers, table, tmp_path):
    folder = tmp_path / "towers"
    with pytest.raises(ArtifactNotFoundError, match=r"TwoTower\.save"):
        TwoTower.load(folder, table)
    towers.save(folder)
    about = json.loads((folder / "towers.json").read_text())
    for change, error in (
        ({"schema": 99}, ArtifactSchemaError),
        ({"max_events": 5}, ArtifactCorruptError),
        ({"sources": None}, ArtifactCorruptError),
    ):
        (folder / "towers.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(error):
            TwoTower.load(folder, table)
    (folder / "towers.json").write_text(json.dumps(about))
    graph = folder / "item_tower.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactCorruptError, match="fit again"):
        TwoTower.load(folder, table)


def test_other_vectors_are_refused(towers, tmp_path):
    towers.save(tmp_path / "towers")
    other = VectorTable.from_arrays(IDS, np.ones((len(IDS), DIM)))
    with pytest.raises(TableFingerprintError, match="fit again"):
        TwoTower.load(tmp_path / "towers", other)
    with pytest.raises(TableFingerprintError, match="fit again"):
        replace_vectors(towers, other).item_vectors(IDS)


def replace_vectors(towers, vectors):
    changed = pickle.loads(pickle.dumps(towers))
    changed.vectors = vectors
    return changed


def test_a_catalogue_that_has_grown(towers, table, past):
    near = table.vectors[IDS.index("g1i0")]
    grown = VectorTable.from_arrays([*IDS, "new", "textless"], [*table.vectors, near, np.full(DIM, np.nan)],
                                    fingerprint=table.fingerprint)  # fmt: skip
    wider = replace_vectors(towers, grown).over([*IDS, "new", "textless"])
    rows = Sequences.from_lists(pa.table({"h": [["g0i1"]]}), "h", item_ids=wider.item_ids_)
    scores = wider.scores(rows)[0]
    assert np.array_equal(scores[: len(IDS)], towers.scores(of_lists([["g0i1"]]))[0])
    assert scores[-2] > np.delete(scores[: len(IDS)], [IDS.index(name) for name in IDS if name[1] == "1"]).max()
    assert np.isnan(scores[-1])
    assert "textless" not in wider.recommend(rows, 100).column("item_id").to_pylist()
    with pytest.raises(InputError, match="another order"):
        towers.scores(rows)


def test_it_is_a_scorer_like_the_others(table, past):
    scorer = TwoTower(table, **{**FAST, "epochs": 2}, held_out=0)
    assert isinstance(scorer, FittableScorer)
    with pytest.raises(InputError, match=r"call fit\(sequences\) first"):
        scorer.scores(past)
    with pytest.raises(InputError, match=r"call fit\(sequences\) first"):
        scorer.save("nowhere")
    candidates = generate_candidates([scorer.fit(past), Popularity().fit(past)], past.take([0]), 3)
    assert candidates.names == ("two_tower", "popularity")
    assert candidates.proposed[:, 0].sum() == 3
    folds = CrossFitted(lambda: TwoTower(table, **{**FAST, "epochs": 1}, held_out=0), n_folds=2).fit(past)
    own, every = folds.scores(past.take([0])), folds.scorers_[-1].scores(past.take([0]))
    assert not np.array_equal(own, every)


def test_users_have_embeddings_where_they_are_asked_for(table):
    """Two users of one history differ by who they are; a user who was not fitted on has none."""
    histories = [["g0i0", "g1i0"], ["g0i0", "g2i0"]] * 150
    past = of_lists(histories, ["a", "b"] * 150)
    towers = TwoTower(table, **{**FAST, "dropout": 0.0}, user_embeddings=True, held_out=0).fit(past)
    asked = of_lists([["g0i0"]] * 3, ["a", "b", "stranger"])
    best = towers.recommend(asked, 1).column("item_id").to_pylist()
    assert best[:2] == ["g1i0", "g2i0"]
    anybody = towers.user_vectors(asked)
    assert not np.allclose(anybody[2], anybody[0], atol=0.01)
    with pytest.raises(InputError, match="whose they are"):
        towers.scores(replace(asked, users=None))
    alike = TwoTower(table, **FAST, held_out=0).fit(past).user_vectors(asked)
    assert np.array_equal(alike[0], alike[1])


def test_the_moment_counts_where_it_is_given(table):
    """In the morning g1 comes after g0, in the evening g2."""
    histories = [["g0i0", "g1i0"], ["g0i0", "g2i0"]] * 150
    hours = np.array([[8.0], [8.0], [20.0], [20.0]] * 150)
    past = of_lists(histories)
    towers = TwoTower(table, **{**FAST, "dropout": 0.0}, held_out=0).fit(past, context=hours)
    asked = of_lists([["g0i0"]] * 3)
    best = towers.recommend(asked, 1, context=[[8.0], [20.0], [np.nan]]).column("item_id").to_pylist()
    assert best[:2] == ["g1i0", "g2i0"]
    mean = towers.user_vectors(asked, context=[[14.0]] * 3)
    assert np.array_equal(towers.user_vectors(asked, context=[[np.nan]] * 3), mean)
    for context, match in ((None, "pass context="), ([[1.0, 2.0]] * 3, "a row each"), ([["a"]] * 3, "no numbers")):
        with pytest.raises(InputError, match=match):
            towers.user_vectors(asked, context=context)


def test_items_of_the_history_are_left_out_unless_asked_for(towers):
    asked = of_lists([["g0i1", "g1i0"], []])
    every = towers.recommend(asked, len(IDS), exclude_history=False)
    fewer = towers.recommend(asked, len(IDS))
    assert len(every) == 2 * len(IDS)
    left = fewer.filter(pa.compute.equal(fewer.column("query"), 0)).column("item_id").to_pylist()
    assert set(IDS) - set(left) == {"g0i1", "g1i0"}
    assert len(fewer) == 2 * len(IDS) - 2  # a query without history is served as well
    assert len(towers.recommend(past_of_nobody(), 5)) == 0


def past_of_nobody():
    return of_lists([["g0i1"]]).take(slice(0, 0))


def test_a_history_ends_before_its_event():
    codes = np.array([5, 6, 7, 8, 9], dtype=np.int32)
    data = TowerData(np.zeros((10, 1), np.float32), codes, np.array([0, 3, 5]), None, None, max_events=2)
    items, there = data.histories(np.arange(5))
    assert there.tolist() == [[False, False], [True, False], [True, True], [False, False], [True, False]]
    assert items.tolist() == [[0, 0], [5, 0], [6, 5], [0, 0], [8, 0]]
    nothing, there = history_block(codes[:0], np.array([0]), np.array([0]), max_events=2)
    assert nothing.tolist() == [[0, 0]]
    assert not there.any()


def test_items_come_as_often_as_the_correction_says():
    """The share by which a batch's choices are corrected is how often each item is among them."""
    import torch

    draw = np.random.default_rng(0)
    codes = np.concatenate([np.zeros(50), np.ones(30), np.arange(2, 20)]).astype(np.int32)
    data = TowerData(np.zeros((24, 2), np.float32), codes, np.array([0, len(codes)]), None, None, max_events=2)
    how = training(n_sampled=5, dim=2)
    run = _Run(torch, data, how, seed=0)
    seen, said = np.zeros(24), np.full(24, np.nan)
    for _ in range(4000):
        choices, log_share = run._choices(codes[draw.integers(len(codes), size=8)].astype(np.int64))
        seen[choices] += 1
        said[choices] = np.exp(log_share)
    assert np.abs(seen / 4000 - said).max() < 0.03
    whole, log_share = _Run(torch, data, training(n_sampled=24, dim=2), seed=0)._choices(np.array([3]))
    assert len(whole) == 24
    assert not log_share.any()


def training(**changed):
    how = {
        "dim": 8, "hidden": 0, "max_events": 2, "epochs": 1, "patience": 1, "learning_rate": 0.01, "weight_decay": 0.0,
        "batch_rows": 8, "n_sampled": 4, "temperature": 0.1, "dropout": 0.0, "id_dropout": 0.0, "history_dropout": 0.0,
        "held_out": 0.0,
    }  # fmt: skip
    return Training(**{**how, **changed})


def test_a_sample_of_the_catalogue_teaches_the_same(table, past):
    sampled = TwoTower(table, **FAST, n_sampled=12, held_out=0).fit(past)
    found = sampled.recommend(of_lists([["g0i1"], ["g3i2", "g4i0"]]), 5).column("item_id").to_pylist()
    assert group_of(found) == [1] * 5 + [5] * 5


def test_epochs_are_chosen_by_users_held_out(table, past):
    held = TwoTower(table, **{**FAST, "epochs": 30, "learning_rate": 0.1}, held_out=0.2, patience=1).fit(past)
    about = held.towers_.trained
    losses = [epoch["held_out_loss"] for epoch in about["epochs"]]
    assert about["n_epochs"] == 1 + int(np.argmin(losses)) < 30
    assert len(losses) == about["n_epochs"] + 1
    assert about["n_pairs"] == len(past.item_codes)
    free = TwoTower(table, **{**FAST, "epochs": 2}, held_out=0).fit(past).towers_.trained
    assert free["n_epochs"] == 2
    assert np.isnan(free["epochs"][0]["held_out_loss"])


def test_sources_stand_side_by_side(table, past):
    some = VectorTable.from_arrays(IDS[::2], np.eye(len(IDS[::2])))
    towers = TwoTower({"llm": table, "words": some}, **{**FAST, "epochs": 1}, held_out=0).fit(past)
    assert towers.towers_.dims == {"llm": DIM, "words": len(IDS[::2])}
    assert not np.isnan(towers.scores(past.take([0]))).any()
    with pytest.raises(TableFingerprintError):
        replace_vectors(towers, {"words": some, "llm": table}).item_vectors(IDS)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dim": 0}, "dim=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"held_out": -0.1}, "held_out=-0.1"),
        ({"vectors": {}}, "names no source"),
        ({"vectors": {"llm": np.eye(3)}}, "VectorTable.from_arrays"),
        ({"learning_rate": 1e30, "held_out": 0}, "lower learning_rate"),
    ],
)
def test_parameters_that_make_no_sense(table, past, options, match):
    with pytest.raises(InputError, match=match):
        TwoTower(**{"vectors": table, **FAST, **options}).fit(past)


def test_nothing_to_learn(table):
    with pytest.raises(NothingToLearnError, match="at least two items"):
        TwoTower(table, **FAST).fit(of_lists([["g0i0", "g0i0"], []]))


def test_the_parity_of_other_towers_is_refused(towers, table, past):
    """The measure itself: graphs of other parameters than those compared with."""
    other = TwoTower(table, **{**FAST, "epochs": 1}, held_out=0, random_state=3).fit(past)
    assert other.fingerprint_ != towers.fingerprint_
    runtime = TowerRuntime(other.towers_.item_graph, towers.towers_.user_graph)
    features = np.nan_to_num(table.vectors)
    data = TowerData(features, past.item_codes, past.offsets, None, None, max_events=4)
    from llmfeat.rank.two_tower.training import train_towers

    trained = train_towers(data, training(max_events=4, dim=16), seed=0)
    with pytest.raises(ParityError):
        measure_parity(trained, data, runtime)
