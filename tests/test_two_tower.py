from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from llmfeat import InteractionLog, PastFittedFeatures, VectorTable
from llmfeat.errors import (
    ArtifactCorruptError,
    ArtifactNotFoundError,
    ArtifactSchemaError,
    DuplicateIdError,
    InputError,
    MissingDependencyError,
    NothingToLearnError,
    ParityError,
    TableFingerprintError,
)
from llmfeat.history import Sequences
from llmfeat.rank import generate_candidates
from llmfeat.rank.scorers import CrossFitted, FittableScorer, Popularity
from llmfeat.rank.scorers.cosine import products, unit_rows
from llmfeat.rank.two_tower import TwoTower
from llmfeat.rank.two_tower.data import TowerData, history_block
from llmfeat.rank.two_tower.graphs import item_graph, user_graph
from llmfeat.rank.two_tower.parity import measure_parity
from llmfeat.rank.two_tower.ranking import ItemIndex, best_items, on_grid
from llmfeat.rank.two_tower.runtime import TowerRuntime
from llmfeat.rank.two_tower.training import Training, _held_out_sequences, _Run, train_towers

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
    assert repr(read) == repr(towers)
    named = TwoTower(table, **{**FAST, "epochs": 1, "dim": np.int64(16)}, held_out=0, name="mine").fit(past)
    named.save(tmp_path / "named")
    assert TwoTower.load(tmp_path / "named", table).name == "mine"
    json.loads((tmp_path / "named" / "towers.json").read_text(), parse_constant=lambda name: pytest.fail(name))
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
        ({"dim": 17}, ArtifactCorruptError),
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
    with pytest.raises(TableFingerprintError, match="fit again"):
        replace_vectors(towers, other).over(IDS)


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
    for use in (lambda: scorer.save("nowhere"), lambda: scorer.item_vectors(IDS), lambda: scorer.over(IDS)):
        with pytest.raises(InputError, match=r"call fit\(sequences\) first"):
            use()
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
    for context, match in (
        (None, "pass context="),
        ([[1.0, 2.0]] * 3, "a row each"),
        ([["a"]] * 3, "no numbers"),
        ([[np.inf]] * 3, "3 values that are infinite"),
    ):
        with pytest.raises(InputError, match=match):
            towers.user_vectors(asked, context=context)
    assert np.isfinite(towers.user_vectors(asked, context=[[1e300]] * 3)).all()
    with pytest.raises(InputError, match="no columns"):
        TwoTower(table, **FAST).fit(past, context=np.empty((600, 0)))
    plain = TwoTower(table, **{**FAST, "epochs": 1}, held_out=0).fit(past)
    with pytest.raises(InputError, match="learned from no context"):
        plain.scores(asked, context=[[1.0]] * 3)


def test_a_column_of_the_moment_that_never_changes_says_nothing(table, past):
    constant = np.full((len(past.item_codes), 1), 0.1)
    towers = TwoTower(table, **{**FAST, "epochs": 1}, held_out=0).fit(past, context=constant)
    asked = of_lists([["g0i1"]])
    near, far = (towers.user_vectors(asked, context=[[value]]) for value in (0.1, 0.11))
    assert float((near * far).sum()) > 0.99


def test_items_of_the_history_are_left_out_unless_asked_for(towers):
    asked = of_lists([["g0i1", "g1i0"], []])
    every = towers.recommend(asked, len(IDS), exclude_history=False)
    fewer = towers.recommend(asked, len(IDS))
    assert len(every) == 2 * len(IDS)
    left = fewer.filter(pa.compute.equal(fewer.column("query"), 0)).column("item_id").to_pylist()
    assert set(IDS) - set(left) == {"g0i1", "g1i0"}
    assert len(fewer) == 2 * len(IDS) - 2  # a query without history is served as well
    assert len(towers.recommend(past_of_nobody(), 5)) == 0


def test_blocks_of_any_size_recommend_the_same(towers, past, monkeypatch):
    from llmfeat.rank.two_tower import estimator

    some = past.take(np.arange(20))
    whole = towers.recommend(some, 7)
    monkeypatch.setattr(estimator, "_BLOCK_CELLS", 3 * len(IDS))
    assert towers.recommend(some, 7).equals(whole)
    scores = towers.scores(some)
    scores[some.row_of_event, some.item_codes] = -np.inf
    wanted = np.argsort(-scores, axis=1, kind="stable")[:, :7]
    assert whole.column("item_id").to_pylist() == [IDS[item] for item in wanted.ravel()]


def test_a_searched_catalogue_recommends_what_all_products_do(towers, past):
    """So small a graph is searched whole."""
    some = past.take(np.arange(40))
    searched = towers.over(IDS)
    for options in ({}, {"exclude_history": False}, {"n": len(IDS)}, {"n": 1}):
        assert searched.recommend(some, **options, exact_limit=3).equals(towers.recommend(some, **options))
    assert len(searched.recommend(past_of_nobody(), 5, exact_limit=3)) == 0
    assert searched._index is not None
    assert pickle.loads(pickle.dumps(searched))._index is None
    searched.recommend(some, exact_limit=len(IDS))
    assert towers._index is None  # as many as the limit are no search
    assert searched.over(IDS)._index is None
    with pytest.raises(InputError, match="exact_limit=-1"):
        towers.recommend(some, exact_limit=-1)


def test_a_search_finds_nearly_all_of_the_nearest():
    draw = np.random.default_rng(0)
    unit = unit_rows(draw.standard_normal((20_000, 32)))
    users = on_grid(unit_rows(draw.standard_normal((50, 32))))
    there = np.arange(len(unit)) % 100 > 0
    nobody = Sequences(np.zeros(0, np.int32), np.zeros(51, np.int64), pa.array(map(str, range(len(unit)))))
    exact = best_items(products(users, unit), there, nobody, slice(0, 50), 20, True)
    index = ItemIndex(unit, there)
    found = index.best_items(users, nobody, slice(0, 50), 20, True)
    assert np.bincount(found[0]).tolist() == [20] * 50
    wanted, got = (set(zip(each[0].tolist(), each[1].tolist(), strict=True)) for each in (exact, found))
    assert len(wanted & got) > 0.95 * len(wanted)
    scores = dict(zip(zip(exact[0].tolist(), exact[1].tolist(), strict=True), exact[2].tolist(), strict=True))
    same = [
        scores[query, item] == score
        for query, item, score in zip(*(each.tolist() for each in found[:3]), strict=True)
        if (query, item) in scores
    ]
    assert all(same)
    one = index.best_items(users[7:8], nobody, slice(7, 8), 20, True)
    assert one[1].tolist() == found[1][found[0] == 7].tolist()
    # One who saw much asks for more, and the others find what they found.
    lengths = np.zeros(50, np.int64)
    lengths[7] = 3000
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    much = Sequences(draw.integers(len(unit), size=3000).astype(np.int32), offsets, nobody.item_ids)
    among = index.best_items(users, much, slice(0, 50), 20, True)
    for query in (0, 6, 8, 49):
        assert among[1][among[0] == query].tolist() == found[1][found[0] == query].tolist()
    assert len(among[1][among[0] == 7]) == 20
    assert not set(among[1][among[0] == 7].tolist()) & set(much.item_codes.tolist())


def test_towers_learn_item_vectors_from_the_likes_of_a_log(table, past):
    users = [f"u{row}" for row in past.row_of_event]
    moments = np.arange(len(users)) * 1_000_000
    labels = np.ones(len(users), np.float32)
    items = past.item_ids.take(pa.array(past.item_codes))
    log = InteractionLog.from_arrays(pa.array(users), items, moments, labels)
    plain = TwoTower(table, **FAST, held_out=0)
    learned = plain.learn(log)
    assert plain.item_ids_ is None  # these towers stay as they are
    assert set(learned.ids.to_pylist()) == set(IDS)  # those that nobody met have a vector by their text
    vectors = learned.lookup(IDS)
    assert np.isfinite(vectors).all()
    # Disliked items teach nothing.
    both = InteractionLog.from_arrays(
        pa.concat_arrays([pa.array(users), pa.array(["zz", "zz"])]),
        pa.concat_arrays([items, pa.array(["g0i0", "g3i0"])]),
        np.concatenate([moments, [1, 2]]),
        np.concatenate([labels, [0.0, 0.0]]).astype(np.float32),
    )
    np.testing.assert_allclose(plain.learn(both).lookup(IDS), vectors, atol=1e-5)
    nothing = plain.learn(
        InteractionLog.from_arrays(pa.array(["u"]), pa.array(["g0i0"]), np.array([0]), np.ones(1, np.float32))
    )
    assert np.isnan(nothing.lookup(IDS)).all()


def test_a_row_is_compared_by_towers_of_its_past_alone(table, past):
    """`PastFittedFeatures` over towers: what happens later changes no feature of a row."""
    rows = past.row_of_event
    frame = pd.DataFrame(
        {
            "user_id": [f"u{row}" for row in rows],
            "item_id": past.item_ids.take(pa.array(past.item_codes)).to_pylist(),
            "timestamp": 1_700_000_000 + 60 * np.arange(len(rows)),
            "label": 1.0,
        }
    )
    towers = TwoTower(table, **{**FAST, "epochs": 2}, held_out=0)

    def features(events):
        log = InteractionLog.from_frame(events, label="label")
        made = PastFittedFeatures(log, {"towers": towers}, n_blocks=2, min_events=50)
        return made.fit(frame).transform(frame[:900])

    changed = frame.copy()
    changed.loc[900:, "item_id"] = changed.loc[900:, "item_id"].to_numpy()[::-1]
    np.testing.assert_array_equal(features(frame), features(changed))
    assert np.isfinite(features(frame)).any()


def test_of_equal_scores_the_first_in_the_catalogue_comes_first():
    scores = np.array([[1.0, 3.0, 3.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0, -1.0]], dtype=np.float32)
    nothing = Sequences.from_lists(pa.table({"h": [[], []]}), "h", item_ids=list("abcde"))
    query, item, value, rank = best_items(scores, np.ones(5, dtype=bool), nothing, slice(0, 2), 2, True)
    assert query.tolist() == [0, 0, 1, 1]
    assert item.tolist() == [1, 2, 0, 1]
    assert value.tolist() == [3, 3, 0, 0]
    assert rank.tolist() == [1, 2, 1, 2]


def past_of_nobody():
    return of_lists([["g0i1"]]).take(slice(0, 0))


def test_a_history_ends_before_its_event():
    codes = np.array([5, 6, 7, 8, 9], dtype=np.int32)
    data = tower_data(np.zeros((10, 1), np.float32), codes, np.array([0, 3, 5]), max_events=2)
    items, there = data.histories(np.arange(5))
    assert there.tolist() == [[False, False], [True, False], [True, True], [False, False], [True, False]]
    assert items.tolist() == [[0, 0], [5, 0], [6, 5], [0, 0], [8, 0]]
    nothing, there = history_block(codes[:0], np.array([0]), np.array([0]), max_events=2)
    assert nothing.tolist() == [[0, 0]]
    assert not there.any()


def tower_data(features, codes, offsets, *, owners=None, has_users=False, context=None, max_events=2):
    owners = np.arange(len(offsets) - 1) if owners is None else np.asarray(owners)
    return TowerData(features, codes, np.asarray(offsets), owners, has_users, context, max_events)


def uneven(n_sampled, **changed):
    """A training over a catalogue of which a few items come often, and some never."""
    codes = np.concatenate([np.zeros(50), np.ones(30), np.arange(2, 20)]).astype(np.int32)
    codes = np.random.default_rng(3).permutation(codes)
    data = tower_data(np.random.default_rng(4).standard_normal((24, 4)).astype(np.float32), codes, [0, 40, len(codes)])
    how = training(n_sampled=n_sampled, dim=4, **changed)
    return data, _Run(torch, data, how, 0, np.arange(len(codes)))


@pytest.mark.parametrize("batch_rows", [8, 33, 98])
def test_a_batch_stands_for_the_whole_catalogue(batch_rows):
    """What a pair's loss is taken over is, on average, the sum over all items but its own: neither more nor less."""
    data, run = uneven(5, batch_rows=batch_rows)
    weights = np.random.default_rng(5).uniform(0.5, 2, 24)  # exp(logit) of each item, for any user
    found: dict[int, list[float]] = {}
    for _ in range(3000 if batch_rows < 98 else 300):
        rows = next(run._batches())
        targets = data.item_codes[rows].astype(np.int64)
        choices, log_share = run.choices(targets)
        corrected = weights[choices] / np.exp(log_share)
        for target in targets.tolist():  # each of its pairs
            found.setdefault(target, []).append(corrected[choices != target].sum())
    for target, sums in found.items():
        wanted = weights.sum() - weights[target]
        assert abs(np.mean(sums) - wanted) < max(4 * np.std(sums) / np.sqrt(len(sums)), 1e-4 * wanted), target


def test_with_the_whole_catalogue_it_is_the_full_softmax():
    data, run = uneven(24)
    choices, log_share = run.choices(np.array([3]))
    assert choices.tolist() == list(range(24))
    assert not log_share.any()
    rows = np.arange(5, 25)
    state = run.net.state()
    history, there = data.histories(rows)
    # A copy in numpy, for towers as they begin: no turn, no lean, an item's own embedding where it came.
    made = data.features @ state["project"] + state["shift"] + state["items"][1:] * run.has_item_row[:, None]
    items = made / np.linalg.norm(made, axis=1, keepdims=True)
    weights = np.exp(state["places"]) * there
    pooled = np.einsum("ij,ijk->ik", weights / weights.sum(axis=1, keepdims=True), items[history])
    users = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    logits = np.exp(state["scale"]) * users @ items.T
    targets = data.item_codes[rows]
    logits -= logits.max(axis=1, keepdims=True)
    wanted = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(20), targets])
    assert float(run.loss(rows).detach()) == pytest.approx(wanted, rel=1e-5)


def test_what_came_is_not_corrected():
    """A batch of one that aims at the commonest item, with one more of the catalogue: its own logit stays as it is."""
    data, run = uneven(1, batch_rows=1)
    row = np.flatnonzero(data.item_codes == 0)[:1]
    losses = [float(run.loss(row).detach()) for _ in range(400)]
    alone = [loss for loss in losses if loss == 0.0]
    # Where the sample hits the target itself, nothing else is there; else one item stands for the 23 others.
    assert 0 < len(alone) < 60
    assert min(loss for loss in losses if loss) > 0.01


def test_own_embeddings_are_dropped():
    _, run = uneven(24, id_dropout=0.5)
    run.loss(np.arange(5, 25)).backward()
    touched = run.net.parameters["items"].grad.coalesce()
    norms = touched.values().norm(dim=1)
    met = torch.from_numpy(np.flatnonzero(run.has_item_row) + 1)
    is_met = torch.isin(touched.indices()[0], met)
    assert 0.2 < float((norms[is_met] == 0).float().mean()) < 0.8
    assert 0 not in touched.indices()[0][norms > 0]


def test_what_did_not_come_has_no_row():
    features = np.random.default_rng(4).standard_normal((24, 4)).astype(np.float32)
    codes = np.arange(20, dtype=np.int32)
    data = tower_data(features, codes, [0, 10, 20, 20], owners=[0, 1, 2], has_users=True)
    first = _Run(torch, data, training(dim=4), 0, np.arange(10))  # as where the second user is held out
    assert first.has_item_row.tolist() == [True] * 10 + [False] * 14
    assert first.has_user_row.tolist() == [True, False, False]
    state = train_towers(data, training(dim=4), seed=0).state
    assert not state["items"][21:].any()
    assert not state["users"][3].any()  # who has no event
    assert np.linalg.norm(state["users"][1:3], axis=1).min() > 0


def test_users_are_held_out_with_all_that_is_theirs():
    data = tower_data(np.zeros((3, 1), np.float32), np.zeros(60, np.int32), np.arange(61), owners=np.arange(60) % 10)
    held = _held_out_sequences(data, 0.3, 0)
    owners = data.owners
    assert len(set(owners[held])) == 3
    assert not set(owners[held]) & set(owners[~held])
    few = tower_data(np.zeros((3, 1), np.float32), np.zeros(4, np.int32), np.arange(5), owners=[0, 0, 1, 1])
    assert _held_out_sequences(few, 0.1, 0).sum() == 2  # one of two users
    alone = tower_data(np.zeros((3, 1), np.float32), np.zeros(4, np.int32), np.arange(5), owners=[0, 0, 0, 0])
    assert not _held_out_sequences(alone, 0.5, 0).any()
    assert not _held_out_sequences(data, 0.0, 0).any()


def test_sequences_say_whose_they_are_without_embeddings_too(table, past, monkeypatch):
    from llmfeat.rank.two_tower import estimator

    seen = {}

    def kept(data, *arguments, **options):
        seen["data"] = data
        return train_towers(data, *arguments, **options)

    monkeypatch.setattr(estimator, "train_towers", kept)
    TwoTower(table, **{**FAST, "epochs": 1}).fit(past)
    assert len(set(seen["data"].owners.tolist())) == 100
    assert seen["data"].n_users == 0
    TwoTower(table, **{**FAST, "epochs": 1}).fit(replace(past, users=None))
    assert len(set(seen["data"].owners.tolist())) == len(past)


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
    assert "held_out_loss" not in free["epochs"][0]


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
        ({"dim": 8.5}, "a whole number of at least 1"),
        ({"n_sampled": 0.5}, "a whole number of at least 0"),
        ({"held_out": None}, "held_out=None"),
        ({"threads": -1}, "threads=-1"),
    ],
)
def test_parameters_that_make_no_sense(table, past, options, match):
    with pytest.raises(InputError, match=match):
        TwoTower(**{"vectors": table, **FAST, **options}).fit(past)


def test_what_cannot_work_is_said_before_training(table, past, monkeypatch):
    from llmfeat.rank.two_tower import estimator, parameters

    twice = replace(past, item_ids=pa.array([*IDS[:-1], IDS[0]]))
    with pytest.raises(DuplicateIdError, match="1 of 48 items"):
        TwoTower(table, **FAST).fit(twice)
    monkeypatch.setattr(parameters, "_MOST_BYTES", 1000)
    with pytest.raises(InputError, match="lower dim"):
        TwoTower(table, **FAST).fit(past)
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr(estimator, "train_towers", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(MissingDependencyError, match="'onnx'"):
        TwoTower(table, **FAST).fit(past)


def test_nothing_to_learn(table):
    with pytest.raises(NothingToLearnError, match="at least two items"):
        TwoTower(table, **FAST).fit(of_lists([["g0i0", "g0i0"], []]))


def test_the_parity_of_other_towers_is_refused(towers, table, past):
    """The measure itself: graphs of other parameters than those compared with."""
    other = TwoTower(table, **{**FAST, "epochs": 1}, held_out=0, random_state=3).fit(past)
    assert other.fingerprint_ != towers.fingerprint_
    runtime = TowerRuntime(other.towers_.item_graph, towers.towers_.user_graph)
    features = np.nan_to_num(table.vectors)
    data = tower_data(features, past.item_codes, past.offsets, max_events=4)
    trained = train_towers(data, training(max_events=4, dim=16), seed=0)
    with pytest.raises(ParityError):
        measure_parity(trained, data, runtime)
    nothing = replace(trained, state={**trained.state, "turn": np.full((16, 16), np.nan, np.float32)})
    runtime = TowerRuntime(item_graph(nothing, features[0]), user_graph(nothing))
    with pytest.raises(ParityError, match="'users': inf"):
        measure_parity(nothing, data, runtime)
