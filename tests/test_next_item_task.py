"""Next-item comparisons: what was known before a query, candidates with their columns, and nothing of the future."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pyarrow as pa
import pytest

from llmfeat import InteractionLog, VectorTable
from llmfeat.errors import InputError
from llmfeat.evaluate.lift import measure_lift
from llmfeat.evaluate.next_item import generators
from llmfeat.evaluate.next_item.candidates import TOWERS, CandidateRows, FittedStage
from llmfeat.evaluate.next_item.queries import Queries, Stage, stages_of_histories, stages_of_log
from llmfeat.evaluate.next_item.task import NextItemTask
from llmfeat.evaluate.task import LiftConfig, LiftData
from llmfeat.history import Sequences
from llmfeat.rank.scorers import CollaborativeVectors, Cooccurrence
from llmfeat.rank.two_tower import TwoTower

US = 10**6
ITEMS = pa.array(["a", "b", "c", "d", "e"])


def log_of(events: list[tuple[str, str, int]]) -> InteractionLog:
    users, items, times = zip(*events, strict=True)
    return InteractionLog.from_arrays(
        pa.array(users), pa.array(items), np.array(times) * US, np.ones(len(users), np.float32)
    )


class TestStagesOfLog:
    log = log_of(
        [("u", "a", 1), ("u", "b", 2), ("u", "c", 5), ("u", "d", 5), ("v", "b", 3), ("v", "e", 6), ("v", "e", 6)]
    )

    def test_a_query_sees_what_is_strictly_earlier(self):
        (stage,) = stages_of_log(self.log, ITEMS, np.array([5, 7]) * US)
        queries = stage.queries
        assert queries.users.to_pylist() == ["u", "v"]
        assert queries.contexts.to_lists() == [["a", "b"], ["b"]]  # neither the basket of 5 nor the repeat of 6
        assert queries.context.tolist() == [0, 0, 1]  # both items of the basket; the repeat once
        assert [ITEMS[int(target)].as_py() for target in queries.targets] == ["c", "d", "e"]
        assert dict(zip(stage.past.users.to_pylist(), stage.past.to_lists(), strict=True)) == {
            "u": ["a", "b"],
            "v": ["b"],
        }

    def test_the_past_of_a_later_block_knows_more(self):
        first, second = stages_of_log(self.log, ITEMS, np.array([3, 6, 7]) * US)
        assert sum(first.past.lengths) == 2
        assert sum(second.past.lengths) == 5
        assert first.queries.users.to_pylist() == ["u", "v"]

    def test_events_come_late(self):
        (stage,) = stages_of_log(self.log, ITEMS, np.array([5, 7]) * US, lag_us=3 * US)
        assert stage.queries.contexts.to_lists() == [["a"], []]  # before 2, and before 3
        assert stage.past.to_lists() == [["a"]]

    def test_frozen_at_a_moment(self):
        (stage,) = stages_of_log(self.log, ITEMS, np.array([5, 7]) * US, freeze_us=3 * US)
        assert stage.queries.contexts.to_lists() == [["a", "b"], []]
        assert stage.queries.moments_us.tolist() == [5 * US, 6 * US]
        assert stage.queries.as_of_us.tolist() == [3 * US, 3 * US]
        # Statistics are frozen too, those of a later block as well.
        stages = stages_of_log(self.log, ITEMS, np.array([5, 6, 7]) * US, freeze_us=3 * US)
        assert [stage.past.to_lists() for stage in stages] == [[["a", "b"]]] * 2
        live = stages_of_log(self.log, ITEMS, np.array([5, 6, 7]) * US)
        assert live[1].past.to_lists() != live[0].past.to_lists()

    def test_only_what_is_asked_is_a_query_and_all_is_history(self):
        asked = log_of([("u", "d", 5), ("v", "e", 6)])
        (stage,) = stages_of_log(self.log, ITEMS, np.array([5, 7]) * US, asked=asked)
        assert [ITEMS[int(each)].as_py() for each in stage.queries.targets] == ["d", "e"]
        assert stage.queries.contexts.to_lists() == [["a", "b"], ["b"]]

    def test_before_the_first_event_nothing_is_ranked(self):
        stages = stages_of_log(self.log, ITEMS, np.array([1, 5, 7]) * US)
        assert len(stages) == 1
        assert stages_of_log(self.log, ITEMS, np.array([5, 7]) * US, lag_us=9 * US) == []

    def test_items_outside_the_catalogue_are_targets_that_none_can_find(self):
        (stage,) = stages_of_log(self.log, ITEMS.slice(0, 3), np.array([5, 7]) * US)
        assert stage.queries.targets.tolist() == [2, -1, -1]

    def test_samples_and_contexts_are_numbered_anew(self):
        (stage,) = stages_of_log(self.log, ITEMS, np.array([5, 7]) * US)
        some = stage.queries.take(np.array([2]))
        assert (some.users.to_pylist(), some.context.tolist(), some.targets.tolist()) == (["v"], [0], [4])
        assert len(stage.queries.of_contexts(np.array([0]))) == 2
        assert len(stage.queries.sample(2, seed=0)) == 2
        whole = {("u", 2), ("u", 3), ("v", 4)}
        for seed in range(5):
            drawn = stage.queries.sample_contexts(1, seed=seed)
            found = set(zip(drawn.users.take(pa.array(drawn.context)).to_pylist(), drawn.targets.tolist(), strict=True))
            assert found == {pair for pair in whole if pair[0] == drawn.users[0].as_py()}


def history_rows(rows: list[tuple[str, str, list[str], str]]) -> tuple[pa.Table, pa.StringArray]:
    users, splits, histories, items = zip(*rows, strict=True)
    table = pa.table(
        {"user_id": pa.array(users), "item_id": pa.array(items), "history": pa.array(histories, pa.list_(pa.string()))}
    )
    return table, pa.array(splits)


def past_of(stages: list[Stage]) -> list[dict[str, list[str]]]:
    return [dict(zip(stage.past.users.to_pylist(), stage.past.to_lists(), strict=True)) for stage in stages]


class TestStagesOfHistories:
    rows = (
        ("u", "valid", ["a", "b"], "c"),
        ("u", "valid", ["a", "b", "c"], "d"),
        ("u", "test", ["a", "b", "c", "d"], "e"),
        ("v", "test", ["b", "c"], "a"),
        ("v", "test", ["b", "c", "a"], "d"),  # holds the target of the row before it
        ("w", "test", ["e"], "b"),  # may be of any time
        ("x", "valid", ["d"], "a"),  # before the test, since a valid row follows
    )

    def test_what_can_only_be_earlier(self):
        train, test = stages_of_histories(*history_rows(list(self.rows)), ITEMS)
        assert past_of(train) == [{"u": ["a", "b"], "v": ["b", "c"]}]
        assert past_of(test) == [{"u": ["a", "b", "c", "d"], "v": ["b", "c"], "x": ["d", "a"]}]
        assert train[0].queries.contexts.to_lists() == [["a", "b"], ["a", "b", "c"], ["d"]]
        assert [ITEMS[int(each)].as_py() for each in test[0].queries.targets] == ["e", "a", "d", "b"]

    def test_a_double_that_reads_every_test_history_leaks(self):
        """The longest history of a test user, in place of the shortest, holds a test target."""
        table, split = history_rows(list(self.rows))
        targets = {("v", "a")}
        honest = past_of(stages_of_histories(table, split, ITEMS)[1])[0]
        assert not any(item in honest.get(user, []) for user, item in targets)
        backwards = table.take([0, 1, 2, 4, 5, 6])  # without the shortest row, its follower is read, and has the target
        leaking = past_of(stages_of_histories(backwards, split.take(pa.array([0, 1, 2, 4, 5, 6])), ITEMS)[1])[0]
        assert any(item in leaking.get(user, []) for user, item in targets)

    def test_train_rows_alone_are_ranked_by_what_others_did(self):
        rows = [(f"u{n}", "train", ["a", "b"], "c") for n in range(20)] + [("v", "test", ["a"], "c")]
        train, _ = stages_of_histories(*history_rows(rows), ITEMS)
        assert sum(len(stage.queries) for stage in train) == 20
        for stage, past in zip(train, past_of(train), strict=True):
            assert not set(stage.queries.users.to_pylist()) & set(past)
            assert all(events == ["a", "b", "c"] for events in past.values())

    def test_a_split_without_a_test_or_without_a_past(self):
        with pytest.raises(InputError, match="no row has the split 'test'"):
            stages_of_histories(*history_rows([("u", "train", ["a"], "b")]), ITEMS)
        with pytest.raises(InputError, match="all rows have the split 'test'"):
            stages_of_histories(*history_rows([("u", "test", ["a"], "b")]), ITEMS)


def timed_data(seed: int = 0, *, n_users: int = 30, n_items: int = 40, n_events: int = 900) -> LiftData:
    draw = np.random.default_rng(seed)
    times_us = np.sort(draw.integers(0, 4000, n_events)) * 600 * US + 10**15
    users = pa.array(draw.integers(0, n_users, n_events)).cast(pa.string())
    items = pa.array(draw.integers(0, n_items, n_events)).cast(pa.string())
    return data_of(users, items, times_us, n_items)


def data_of(users: pa.StringArray, items: pa.StringArray, times_us: np.ndarray, n_items: int) -> LiftData:
    item_ids = pa.array([str(item) for item in range(n_items)])
    vectors = np.random.default_rng(1).standard_normal((n_items, 6)).astype(np.float32)
    log = InteractionLog.from_arrays(users, items, times_us, np.ones(len(users), np.float32))
    rows = pa.table({"user_id": users, "item_id": items, "timestamp": pa.array(times_us, pa.timestamp("us", "UTC"))})
    texts = [f"word{item % 7} thing{item % 5}" if item % 9 else None for item in range(n_items)]
    return LiftData(
        rows, np.ones(len(users), np.int64), log, item_ids, texts, VectorTable.from_arrays(item_ids, vectors)
    )


CONFIG = LiftConfig(task="next-item", lags_s=(0,), n_resamples=20)


@pytest.fixture(scope="module")
def task():
    return NextItemTask(timed_data(), CONFIG)


@pytest.fixture(scope="module")
def material(task):
    return task.material(0, 0)


class TestTask:
    def test_rows_labels_and_groups_belong_together(self, material):
        taught = material.taught
        assert len(taught.columns) == len(taught.labels) == taught.sizes.sum()
        edges = np.cumsum([0, *taught.sizes])
        assert all(taught.labels[first:last].any() for first, last in itertools.pairwise(edges))
        assert set(taught.fold) == {0, 1, 2}
        assert all(len(set(taught.fold[first:last])) == 1 for first, last in itertools.pairwise(edges))

    def test_every_arm_over_vectors_has_the_same_columns(self, material):
        widths = {name: len(material.tested.names[name]) for name in ("random", "tfidf", "llm")}
        assert len(set(widths.values())) == 1

    def test_targets_are_found_where_they_are(self, task, material):
        rows: CandidateRows = material.context
        found = rows.target_rows
        there = np.flatnonzero(found >= 0)
        assert len(there) > 100
        assert (rows.candidates.item[found[there]] == rows.queries.targets[there]).all()
        assert (rows.candidates.query[found[there]] == rows.queries.context[there]).all()
        assert rows.is_target[found[there]].all()
        perfect = rows.ranks(rows.is_target.astype(float))
        assert (perfect.best[there] == 1).all()
        assert (perfect.best[found < 0] == -1).all()
        recall = task.candidates({"hybrid": task.predictions(material, rows.is_target[None].astype(float))}, {})
        assert recall["recall"] == pytest.approx(len(there) / len(found))
        assert recall["given_recall"]["hybrid"]["hr@10"] > 0.9

    def test_one_request_has_the_bits_of_the_batch(self, task):
        made = task.one_by_one(0)
        for family in made.together.families:
            assert made.together.families[family].tobytes() == made.one_by_one.families[family].tobytes(), family
        assert made.n_requests == 50

    def test_no_row_sees_its_own_moment_or_later(self, task, material):
        """Exchanging the items of the last fifth changes no column of what is taught, nor of the first test moment."""
        data = timed_data()
        times = data.times_us
        cut = task._cuts_us[0][0]
        items = np.array(data.rows.column("item_id").to_pylist())
        late = np.flatnonzero(times >= cut)
        items[late] = np.random.default_rng(5).permutation(items[late])
        users = data.rows.column("user_id").combine_chunks()
        changed = NextItemTask(data_of(users, pa.array(items), times, 40), CONFIG)
        other = changed.material(0, 0)
        for family, columns in material.taught.columns.families.items():
            assert columns.tobytes() == other.taught.columns.families[family].tobytes(), family
        first = np.flatnonzero(material.context.queries.moments_us == cut)
        assert len(first)
        rows = np.isin(material.context.candidates.query, first)
        others = np.isin(other.context.candidates.query, first)
        for family, columns in material.tested.families.items():
            assert columns[rows].tobytes() == other.tested.families[family][others].tobytes(), family
        # The double: later rows do see what was exchanged.
        assert any(
            columns.tobytes() != other.tested.families[family].tobytes()
            for family, columns in material.tested.families.items()
        )

    def test_own_histories_are_all_that_a_row_sees(self):
        """Other targets of the test, and longer histories of its other rows, change no column."""
        draw = np.random.default_rng(0)
        rows = []
        for user in range(40):
            events = [str(item) for item in draw.integers(0, 40, 6)]
            rows.append((f"u{user}", "valid", events[:3], events[3]))
            rows.append((f"u{user}", "test", events[:4], events[4]))
            rows.append((f"u{user}", "test", events[:5], events[5]))
        spoiled = [
            (user, split, history, str(draw.integers(0, 40)) if split == "test" else item)
            for user, split, history, item in rows
        ]
        made = [self._own_histories(each).material(0, 0) for each in (rows, spoiled)]
        for family, columns in made[0].tested.families.items():
            assert columns.tobytes() == made[1].tested.families[family].tobytes(), family
        for family, columns in made[0].taught.columns.families.items():
            assert columns.tobytes() == made[1].taught.columns.families[family].tobytes(), family

    @staticmethod
    def _own_histories(rows) -> NextItemTask:
        table, split = history_rows(rows)
        base = timed_data()
        data = LiftData(
            table, np.ones(len(table), np.int64), None, base.item_ids, base.texts, base.vectors, split=split
        )
        return NextItemTask(data, CONFIG)

    def test_what_was_not_liked_is_no_target(self):
        data = timed_data()
        labels = (np.arange(len(data.labels)) % 3 > 0).astype(np.int64)
        log = InteractionLog.from_frame(data.rows.append_column("label", pa.array(labels)), label="label")
        task = NextItemTask(dataclasses.replace(data, labels=labels, log=log), CONFIG)
        assert task._log.n_events == labels.sum()
        table, split = history_rows(
            [("u", "valid", ["1"], "2"), ("u", "test", ["1", "2"], "3"), ("v", "test", [], "4")]
        )
        bare = LiftData(table, np.array([1, 1, 0]), None, data.item_ids, data.texts, data.vectors, split=split)
        assert NextItemTask(bare, CONFIG)._stages(0)[1][0].queries.users.to_pylist() == ["u"]

    def test_rolling_origins_end_where_the_next_test_begins(self):
        task = NextItemTask(timed_data(), LiftConfig(task="next-item", lags_s=(0,), origins=3, n_resamples=5))
        cuts = task._cuts_us
        assert [end for _, end in cuts[1:]] == [cut for cut, _ in cuts[:-1]]
        assert all(len(task.slices(origin)["all"]) for origin in range(3))

    def test_own_columns_are_asked_at_the_moment_of_the_query(self):
        data = timed_data()

        class Clock:
            names = ("moment_us",)

            def columns(self, rows, users, items, times_us):
                assert rows is None
                assert len(users) == len(items) == len(times_us)
                return (times_us / 1e6).astype(np.float32)[:, None]

        with_own = LiftData(data.rows, data.labels, data.log, data.item_ids, data.texts, data.vectors, own=Clock())
        material = NextItemTask(with_own, CONFIG).material(0, 0)
        rows: CandidateRows = material.context
        moments = rows.queries.moments_us[rows.candidates.query] / 1e6
        np.testing.assert_allclose(material.tested.families["own"][:, 0], moments.astype(np.float32))

    def test_a_split_column_says_which_rows_are_tested(self):
        data = timed_data()
        late = np.flatnonzero(data.times_us >= np.quantile(data.times_us, 0.8))
        roles = np.full(len(data.labels), "train", dtype=object)
        roles[late[::2]] = "test"
        task = NextItemTask(dataclasses.replace(data, split=pa.array(roles)), CONFIG)
        targets = sum(len(stage.queries) for stage in task._stages(0)[1])
        marked = data.rows.take(pa.array(late[::2]))
        assert targets == len(marked.group_by(["user_id", "item_id", "timestamp"]).aggregate([]))
        roles[:] = np.where(np.random.default_rng(0).random(len(roles)) < 0.2, "test", "train")
        with pytest.raises(InputError, match="are earlier than the first test row"):
            NextItemTask(dataclasses.replace(data, split=pa.array(roles)), CONFIG)
        with pytest.raises(InputError, match="--origins 2"):
            NextItemTask(dataclasses.replace(data, split=pa.array(roles)), dataclasses.replace(CONFIG, origins=2))

    def test_it_says_what_it_is_doing(self):
        task = NextItemTask(timed_data(), CONFIG)
        said: list[str] = []
        task.material(0, 0, said.append)
        n_stages = sum(map(len, task._stages(0)[:2]))
        assert [what for what in said if "fitting together" in what] == [
            f"{at} of {n_stages} stages: fitting together" for at in range(1, n_stages + 1)
        ]
        n_last = len(task._stages(0)[1][-1].queries.contexts)
        assert f"{n_stages} of {n_stages} stages: candidates of {n_last:,} of {n_last:,} histories" in said

    def test_a_generator_finds_what_it_proposes(self):
        task = NextItemTask(timed_data(n_items=90), CONFIG)
        material = task.material(0, 0)
        said = task.describe(material)["by_generator"]
        candidates, found = material.context.candidates, material.context.target_rows
        there = found[found >= 0]
        assert len(said) == candidates.proposed.shape[1] < len(candidates.names)  # the placebo proposes nothing
        for at, name in enumerate(said):
            assert name == candidates.names[at]
            assert said[name] == candidates.proposed[there, at].sum() / len(found)
        # Of what it puts last a generator proposes nothing, though fewer than fifty items are above that.
        repeats = candidates.names.index("repeats")
        assert said["repeats"] < 0.8 * (candidates.ranks[there, repeats] <= 50).sum() / len(found)

    @pytest.mark.parametrize("texts", ["words", "same", "none"])
    def test_odd_catalogues_are_measured(self, texts, monkeypatch, tmp_path):
        monkeypatch.setenv("LLMFEAT_CACHE_DIR", str(tmp_path))
        monkeypatch.setattr("llmfeat.evaluate.fitting._MOST_TREES", 3)
        data = timed_data(n_users=2, n_items=12, n_events=60)
        odd = {"words": ["!!"] * 12, "same": ["heat"] * 12, "none": [None] * 12}[texts]
        result = measure_lift(dataclasses.replace(data, texts=odd), CONFIG)
        assert np.isfinite(result.level("hybrid", "all", "ndcg@10").point)
        assert result.task.one_by_one(0).n_requests > 0

    def test_nothing_is_known_so_late(self):
        data = timed_data()
        with pytest.raises(InputError, match="smaller --history-lag-s"):
            NextItemTask(data, dataclasses.replace(CONFIG, lags_s=(10**8,)))._stages(0)

    def test_neither_times_nor_histories(self):
        data = timed_data()
        bare = LiftData(data.rows, data.labels, None, data.item_ids, data.texts, data.vectors)
        with pytest.raises(InputError, match="needs times, --timestamp, or histories"):
            NextItemTask(bare, CONFIG)


def test_large_catalogues_and_many_sequences_are_cut_down(monkeypatch):
    past = Sequences.from_lists(
        pa.table({"user_id": list("uvw"), "h": [["a", "b"], ["b", "c"], ["c", "a"]]}), "h", user_id="user_id"
    )
    counted = generators.PastPairs.of(past)
    assert "ease" in {scorer.name for _, scorer in generators.fit_generators(past, counted)}
    monkeypatch.setattr(generators, "_MOST_ITEMS_OF_EASE", 2)
    monkeypatch.setattr(generators, "_MOST_SEQUENCES", 2)
    fitted = {scorer.name: scorer for _, scorer in generators.fit_generators(past, counted)}
    assert "ease" not in fitted
    assert fitted["sequences"].items_.shape[0] == 2


def test_generators_share_counts_that_are_those_of_each():
    """What is counted once for all is what each would have counted."""
    draw = np.random.default_rng(0)
    items = [f"i{item}" for item in range(12)]
    rows = [[items[at] for at in draw.integers(0, 12, 9)] for _ in range(30)]
    past = Sequences.from_lists(pa.table({"h": rows}), "h", item_ids=items)
    table = VectorTable.from_arrays(items, draw.normal(size=(12, 4)).astype(np.float32))
    counted = generators.PastPairs.of(past)
    made = [
        *generators.fit_generators(past, counted),
        *generators.fit_text_generators(past, counted, {"llm": table}),
    ]
    shared = [scorer for _, scorer in made if isinstance(scorer, Cooccurrence | CollaborativeVectors)]
    assert {scorer.name for scorer in shared} == {
        "together", "after", "after_last", "next_after_last", "collab", "llm_smoothed"
    }  # fmt: skip
    for scorer in shared:
        alone = dataclasses.replace(scorer).fit(past)
        assert scorer.scores(past).tobytes() == alone.scores(past).tobytes(), scorer.name


def test_a_stage_without_pairs_still_ranks():
    log = log_of([("u", "a", 1), ("v", "b", 2), ("u", "c", 3)])
    (stage,) = stages_of_log(log, ITEMS, np.array([3, 4]) * US)
    table = VectorTable.from_arrays(ITEMS, np.eye(5, dtype=np.float32))
    fitted = FittedStage(stage, {name: {"all": table} for name in ("random", "tfidf", "llm")}, log=log)
    rows = fitted.rows(stage.queries)
    assert isinstance(rows.queries, Queries)
    assert len(rows.candidates) > 0


def test_two_towers_propose_beside_the_others_and_are_columns():
    draw = np.random.default_rng(0)
    paths = [
        (f"u{user}", ITEMS[(user + step) % 5], 10 * step + user % 7 + 1) for user in range(60) for step in range(4)
    ]
    log = log_of(paths)
    (stage,) = stages_of_log(log, ITEMS, np.array([30, 50]) * US)
    tables = {name: {"all": VectorTable.from_arrays(ITEMS, draw.standard_normal((5, 4)))} for name in ("random", "llm")}
    plain = FittedStage(stage, tables, log=log, k=1)
    rows = FittedStage(
        stage, tables, log=log, k=1, towers=lambda: TwoTower(tables["llm"]["all"], dim=4, epochs=1, held_out=0)
    )
    family, scorer = rows.generators[-1]
    assert family == TOWERS
    assert isinstance(scorer, TwoTower)
    assert [name for _, each in plain.generators if (name := each.name)] == [
        each.name for _, each in rows.generators[:-1]
    ]
    found = rows.rows(stage.queries)
    names = found.columns.names[TOWERS]
    assert names[:2] == ("two_tower_score", "two_tower_rank")
    assert {name for name in names[2:] if not name.startswith("two_tower_")} == set()
    assert len(names) > 4  # the kernel over their vectors
    assert TOWERS not in plain.rows(stage.queries).columns.names
    place = found.candidates.names.index("two_tower")
    np.testing.assert_array_equal(found.columns.families[TOWERS][:, 0], found.candidates.scores[:, place])
    # They were fitted on what was known, and on nothing later.
    again = TwoTower(tables["llm"]["all"], dim=4, epochs=1, held_out=0).fit(stage.past)
    np.testing.assert_array_equal(again.item_vectors_.vectors, scorer.item_vectors_.vectors)
