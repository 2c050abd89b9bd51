from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeat import VectorTable
from llmfeat.errors import InputError
from llmfeat.history.pairs import count_pairs
from llmfeat.history.sequences import Sequences
from llmfeat.rank.scorers import (
    EASE,
    CollaborativeVectors,
    Cooccurrence,
    CrossFitted,
    FittableScorer,
    ItemScorer,
    Popularity,
    Repeats,
    SequenceNeighbours,
    TextNeighbours,
    TextSmoothing,
)
from llmfeat.rank.scorers.cosine import mean_cosines, unit_rows
from llmfeat.rank.scorers.crossfit import user_folds
from llmfeat.rank.scorers.smoothing import nearest_items

N_ITEMS = 30
IDS = [str(item) for item in range(N_ITEMS)]


def sequences_of(lists, *, item_ids=None, users=None) -> Sequences:
    table = pa.table({"h": pa.array(lists, pa.list_(pa.string()))})
    made = Sequences.from_lists(table, "h", item_ids=item_ids)
    return made if users is None else made.with_users(users)


def random_sequences(seed: int, n_rows: int = 60) -> Sequences:
    draw = np.random.default_rng(seed)
    lists = [[str(item) for item in draw.integers(0, N_ITEMS - 4, draw.integers(0, 8))] for _ in range(n_rows)]
    return sequences_of(lists, item_ids=IDS, users=[f"u{row % 20}" for row in range(n_rows)])


def text_vectors(seed: int = 0) -> VectorTable:
    vectors = np.random.default_rng(seed).standard_normal((N_ITEMS, 12)).astype(np.float32)
    vectors[3] = np.nan
    vectors[4] = 0
    return VectorTable.from_arrays(IDS, vectors)


TEXTS = text_vectors()
MAKERS = {
    "popularity": Popularity,
    "cosine": Cooccurrence,
    "forward": lambda: Cooccurrence(forward=True, normalize="conditional", once_per_user=True),
    "smoothed": lambda: Cooccurrence(smoothing=TextSmoothing(TEXTS, n_neighbours=5)),
    "repeats": Repeats,
    "sequences": lambda: SequenceNeighbours(n_neighbours=7),
    "sequences_text": lambda: SequenceNeighbours(TEXTS, n_neighbours=7),
    "text": lambda: TextNeighbours(TEXTS),
    "text_max": lambda: TextNeighbours(TEXTS, aggregate="max"),
    "text_last": lambda: TextNeighbours(TEXTS, aggregate="last"),
    "ppmi": lambda: CollaborativeVectors(dim=6),
    "collab_cosine": lambda: CollaborativeVectors(dim=6, weighting="cosine"),
    "ease": lambda: EASE(l2=5, once_per_user=True),
    "crossfit": lambda: CrossFitted(Cooccurrence, n_folds=3),
}
every_scorer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


class TestEveryScorer:
    @every_scorer
    def test_its_shape_its_protocol_and_its_determinism(self, make):
        past, queries = random_sequences(0), random_sequences(1)
        scorer = make().fit(past)
        assert isinstance(scorer, ItemScorer)
        assert isinstance(scorer, FittableScorer)
        scores = scorer.scores(queries)
        assert scores.shape == (len(queries), N_ITEMS)
        assert scores.dtype == np.float32
        assert scores.flags.c_contiguous
        assert not np.isinf(scores).any()
        assert make().fit(past).scores(queries).tobytes() == scores.tobytes()

    @every_scorer
    def test_a_row_alone_has_the_bits_that_it_has_in_a_batch(self, make):
        scorer, queries = make().fit(random_sequences(0)), random_sequences(1)
        together = scorer.scores(queries)
        for rows in ([0], [5, 2], list(range(17, 40)), []):
            assert scorer.scores(queries.take(np.array(rows, dtype=int))).tobytes() == together[rows].tobytes()

    @every_scorer
    def test_another_catalogue_or_no_fit_is_refused(self, make):
        past = random_sequences(0)
        with pytest.raises(InputError, match="learned from no sequences yet"):
            make().scores(past)
        other = sequences_of([["1"]], item_ids=IDS[::-1], users=["u1"])
        with pytest.raises(InputError, match="the same in another order"):
            make().fit(past).scores(other)

    @pytest.mark.parametrize(
        "scorer",
        [Cooccurrence(smoothing=TextSmoothing(TEXTS)), CollaborativeVectors(), CrossFitted(Popularity, n_folds=2)],
        ids=["cooccurrence", "collab", "crossfit"],
    )
    def test_pickles(self, scorer):
        past = random_sequences(0)
        scores = scorer.fit(past).scores(past)
        assert pickle.loads(pickle.dumps(scorer)).scores(past).tobytes() == scores.tobytes()

    @pytest.mark.parametrize(
        ("scorer", "said"),
        [
            (Cooccurrence(decay=0), "decay=0, but a number over 0"),
            (Cooccurrence(window=0), "window=0, but a number of at least 1"),
            (Cooccurrence(normalize="cosin"), "normalize='cosin', but one of"),
            (TextNeighbours(TEXTS, aggregate="sum"), "aggregate='sum', but one of"),
            (TextNeighbours(np.ones((3, 3))), "is a ndarray, but a vector source"),
            (Cooccurrence(smoothing=TextSmoothing([1])), "is a list, but a vector source"),
            (CollaborativeVectors(dim=None), "dim=None, but a number"),
            (EASE(l2=0), "l2=0, but a number"),
            (EASE(most_items=10), r"30 items, but EASE takes up to most_items=10"),
            (CrossFitted(Popularity, n_folds=1), "n_folds=1, but a number of at least 2"),
            (Cooccurrence(smoothing=TextSmoothing(TEXTS, temperature=0)), "temperature=0"),
            (Popularity(half_life_s=60), "the sequences have none"),
        ],
    )
    def test_bad_parameters_are_refused(self, scorer, said):
        with pytest.raises(InputError, match=said):
            scorer.fit(random_sequences(0))

    @pytest.mark.parametrize("make", [Popularity, Cooccurrence, EASE], ids=["popularity", "cooccurrence", "ease"])
    def test_once_per_user_needs_users(self, make):
        with pytest.raises(InputError, match="do not say whose they are"):
            make(once_per_user=True).fit(sequences_of([["a", "b"]]))


class TestPopularity:
    def test_by_hand(self):
        past = sequences_of([["a", "b"], ["a"], ["a", "c"]], item_ids=["a", "b", "c", "d"], users=["u", "u", "v"])
        assert Popularity().fit(past).shares_ == pytest.approx([0.6, 0.2, 0.2, 0])
        assert Popularity(once_per_user=True).fit(past).shares_ == pytest.approx([0.5, 0.25, 0.25, 0])

    def test_old_events_fade(self, log):
        past = Sequences.of_log(log, ["u1", "u2"], np.array([10**16] * 2))  # a 100, b 200, c 400; a 200, c 300, b 300
        weights = {"a": 0.5**3 + 0.5**2, "b": 0.5**2 + 0.5, "c": 1 + 0.5}
        expected = [weights[item] / sum(weights.values()) for item in past.item_ids.to_pylist()]
        assert Popularity(half_life_s=100).fit(past).shares_ == pytest.approx(expected)

    def test_of_a_users_events_the_latest_counts(self):
        past = Sequences(
            np.array([0, 0, 1], dtype=np.int32),
            np.array([0, 3]),
            pa.array(["a", "b"]),
            times_us=np.array([0, 10**6, 2 * 10**6]),
            users=pa.array(["u"]),
        )
        assert Popularity(half_life_s=1, once_per_user=True).fit(past).shares_ == pytest.approx([1 / 3, 2 / 3])


class TestCooccurrence:
    def test_pairs_by_hand(self):
        past = sequences_of([["a", "b", "c"], ["a", "b"], ["b", "b"]])
        forward = count_pairs(past, window=2, distance_decay=0.5, forward=True).toarray()
        assert forward.tolist() == [[0, 2, 0.5], [0, 1, 1], [0, 0, 0]]
        both = count_pairs(past, window=2, distance_decay=0.5, forward=False).toarray()
        assert both.tolist() == (forward + forward.T).tolist()
        assert count_pairs(past, window=1, distance_decay=0.5, forward=True).toarray()[0].tolist() == [0, 2, 0]

    def test_overlapping_rows_of_a_user_count_once(self):
        rows = [["a", "b"], ["a", "b", "c"], ["a", "b"]]
        once = count_pairs(
            sequences_of(rows, users=["u", "u", "v"]), window=1, distance_decay=1, forward=True, once_per_user=True
        )
        assert once.toarray().tolist() == [[0, 2, 0], [0, 0, 1], [0, 0, 0]]

    @given(st.integers(0, 30), st.integers(1, 9), st.booleans())
    @settings(max_examples=10, deadline=None)
    def test_pairs_are_those_of_the_plain_definition(self, seed, window, forward):
        past = random_sequences(seed, n_rows=12)
        expected = np.zeros((N_ITEMS, N_ITEMS))
        for row in past.to_lists():
            for i, earlier in enumerate(row):
                for distance in range(1, window + 1):
                    if i + distance < len(row):
                        expected[int(earlier), int(row[i + distance])] += 0.5 ** (distance - 1)
        expected = expected if forward else expected + expected.T
        got = count_pairs(past, window=window, distance_decay=0.5, forward=forward).toarray()
        np.testing.assert_allclose(got, expected, rtol=1e-12)

    def test_scores_by_hand(self):
        past = sequences_of([["a", "b"], ["a", "b"], ["a", "c"], ["d", "c"]])
        query = sequences_of([["a", "d"]], item_ids=past.item_ids)
        conditional = Cooccurrence(forward=True, normalize="conditional", shrinkage=1, decay=0.5).fit(past)
        # After a: b 2, c 1 of 3; after d: c 1 of 1; each with one more that never came.
        assert conditional.scores(query)[0] == pytest.approx([0, 0.5 * 2 / 4, 0.5 / 4 + 1 / 2, 0])
        cosine = Cooccurrence(shrinkage=0, decay=1, max_events=1).fit(past)
        assert cosine.scores(query)[0] == pytest.approx([0, 0, 1 / np.sqrt(1 * 2), 0])

    @pytest.mark.parametrize("scorer", [Cooccurrence(), CollaborativeVectors()])
    def test_counts_of_another_catalogue_are_refused(self, scorer):
        past = sequences_of([["a", "b"]])
        with pytest.raises(InputError, match=r"shape \(3, 3\), but a sparse array of shape \(2, 2\)"):
            scorer.fit(past, counts=sp.csr_array((3, 3)))
        with pytest.raises(InputError, match="ndarray of shape"):
            scorer.fit(past, counts=np.zeros((2, 2)))

    def test_an_empty_history_says_nothing(self):
        past = random_sequences(0)
        assert not Cooccurrence().fit(past).scores(sequences_of([[]], item_ids=IDS)).any()
        nothing = Cooccurrence().fit(sequences_of([[], ["1"]], item_ids=IDS))
        assert not nothing.scores(past).any()


class TestSmoothing:
    ITEMS = ("heat", "heat2", "alien", "alien2", "speed")
    VECTORS = VectorTable.from_arrays(ITEMS, [[1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, -1]])
    PAST = sequences_of([["heat", "alien"]] * 20, item_ids=ITEMS)  # heat2 and alien2 have no event

    def scores(self, history, **parameters):
        scorer = Cooccurrence(
            forward=True, normalize="conditional", shrinkage=0, smoothing=TextSmoothing(self.VECTORS, **parameters)
        )
        scores = scorer.fit(self.PAST).scores(sequences_of([history], item_ids=self.ITEMS))[0]
        return dict(zip(self.ITEMS, scores.tolist(), strict=True))

    def test_cold_items_get_the_scores_of_their_neighbours(self):
        plain = Cooccurrence(forward=True).fit(self.PAST).scores(sequences_of([["heat"]], item_ids=self.ITEMS))[0]
        assert plain[3] == 0
        warm = self.scores(["heat"], n_neighbours=1, prior_events=0)
        assert warm == pytest.approx({"heat": 0, "heat2": 0, "alien": 1, "alien2": 1, "speed": 0})
        cold = self.scores(["heat2"], n_neighbours=1, prior_events=0)
        assert cold == pytest.approx(warm)

    def test_the_blend_by_hand(self):
        got = self.scores(["heat"], n_neighbours=1, prior_events=5)
        # Of heat's own share .8 and heat2's .2, which has none; alien2 stands for alien in full.
        assert got == pytest.approx({"heat": 0, "heat2": 0, "alien": 0.64, "alien2": 0.8, "speed": 0})

    def test_rows_of_the_blend_add_up_and_items_without_texts_stand_alone(self):
        n_events = np.arange(N_ITEMS)
        blend = TextSmoothing(TEXTS, n_neighbours=7).blend(pa.array(IDS), n_events).toarray()
        np.testing.assert_allclose(blend.sum(axis=1), 1)
        assert blend[3, 3] == blend[4, 4] == 1
        assert blend[:, 3].sum() == 1
        assert blend[0, 0] == 0
        assert blend[20, 20] == pytest.approx(0.8)

    def test_the_neighbours_are_searched_once_for_all_folds(self, monkeypatch):
        found = []

        def search(*arguments, **parameters):
            found.append(1)
            return nearest_items(*arguments, **parameters)

        monkeypatch.setattr("llmfeat.rank.scorers.smoothing.nearest_items", search)
        vectors, past = text_vectors(1), random_sequences(0)
        CrossFitted(lambda: Cooccurrence(smoothing=TextSmoothing(vectors)), n_folds=3).fit(past)
        assert len(found) == 1
        Cooccurrence(smoothing=TextSmoothing(vectors, n_neighbours=2)).fit(past)
        Cooccurrence(smoothing=TextSmoothing(text_vectors(2), n_neighbours=2)).fit(past)
        assert len(found) == 3

    def test_neighbours_are_those_of_the_plain_definition(self):
        unit = unit_rows(TEXTS.vectors)
        neighbours, cosines = nearest_items(unit, 40, exact_limit=10**6)
        every = unit.astype(float) @ unit.T.astype(float)
        for item in range(N_ITEMS):
            others = [other for other in range(N_ITEMS) if other not in (item, 3, 4)] if item not in (3, 4) else []
            expected = sorted(others, key=lambda other, row=every[item]: -row[other])
            assert neighbours[item].tolist() == expected + [-1] * (40 - len(expected))
            np.testing.assert_allclose(cosines[item, : len(expected)], every[item][expected], rtol=1e-6)

    def test_a_graph_finds_nearly_the_same(self):
        pytest.importorskip("usearch")
        unit = unit_rows(np.random.default_rng(0).standard_normal((400, 16)).astype(np.float32))
        unit[7] = 0
        exact, exact_cosines = nearest_items(unit, 5, exact_limit=400)
        graph, cosines = nearest_items(unit, 5, exact_limit=100)
        assert (exact == graph).mean() > 0.95
        np.testing.assert_allclose(cosines[exact == graph], exact_cosines[exact == graph], atol=1e-7)
        assert (np.diff(np.delete(cosines, 7, axis=0), axis=1) <= 0).all()
        assert np.array_equal(graph, nearest_items(unit, 5, exact_limit=100)[0])
        assert (graph[7] == -1).all()
        assert not (graph == np.arange(400)[:, None]).any()


class TestTextNeighbours:
    IDS = ("a", "b", "c", "none")
    TABLE = VectorTable.from_arrays(IDS[:3], [[1, 0], [0.6, 0.8], [0, 2]])

    def scores(self, history, **parameters):
        histories = sequences_of([history], item_ids=self.IDS)
        return TextNeighbours(self.TABLE, **parameters).fit(histories).scores(histories)[0]

    def test_by_hand(self):
        nan = np.nan
        shares = np.array([0.5, 1]) / 1.5
        assert self.scores(["a", "c"], decay=0.5) == pytest.approx(
            [shares[0], shares @ [0.6, 0.8], shares[1], nan], nan_ok=True
        )
        assert self.scores(["a", "c"], decay=0.5, aggregate="max") == pytest.approx([0.5, 0.8, 1, nan], nan_ok=True)
        assert self.scores(["a", "c"], aggregate="last") == pytest.approx([0, 0.8, 1, nan], nan_ok=True)
        assert self.scores(["a", "c"], max_events=1) == pytest.approx([0, 0.8, 1, nan], nan_ok=True)

    @pytest.mark.parametrize("aggregate", ["mean", "max", "last"])
    def test_events_without_a_vector_do_not_count(self, aggregate):
        left_out, never_there = (
            self.scores(history, aggregate=aggregate) for history in (["a", "c", "none"], ["a", "c"])
        )
        assert left_out.tobytes() == never_there.tobytes()
        assert np.isnan(self.scores(["none"], aggregate=aggregate)).all()
        assert np.isnan(self.scores([], aggregate=aggregate)).all()

    def test_the_best_of_only_bad_ones_is_bad(self):
        table = VectorTable.from_arrays(["a", "b"], [[1, 0], [-1, 0]])
        histories = sequences_of([["a"]], item_ids=["a", "b"])
        assert TextNeighbours(table, aggregate="max").fit(histories).scores(histories).tolist() == [[1, -1]]

    def test_a_double_without_the_grid_is_not_exact(self):
        """The equality of bits above can fail: plain unit vectors do not have it."""
        draw = np.random.default_rng(0)
        vectors = draw.standard_normal((64, 384)).astype(np.float32)
        plain = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        weights = draw.random((9, 64)).astype(np.float32)
        shuffled = draw.permutation(384)
        assert not np.array_equal((weights @ plain) @ plain.T, (weights @ plain)[:, shuffled] @ plain[:, shuffled].T)
        unit = unit_rows(vectors)
        histories = sequences_of([[str(item) for item in range(64)]] * 2, item_ids=[str(item) for item in range(64)])
        means = mean_cosines(unit, histories, decay=0.9)
        assert np.array_equal(means, mean_cosines(np.ascontiguousarray(unit[:, shuffled]), histories, decay=0.9))


class TestRepeats:
    def test_only_the_newest_event_of_an_item_counts(self):
        sequences = sequences_of([["a", "b", "a", "c"], []])
        scores = Repeats(decay=0.5, max_events=2).fit(sequences).scores(sequences)
        assert scores.tolist() == [[0.5, 0, 1], [0, 0, 0]]


class TestSequenceNeighbours:
    PAST = (["a", "b"], ["c", "d"], ["e"])
    ITEMS = ("a", "b", "c", "d", "e", "f")

    def scores(self, history, **parameters):
        past = sequences_of(self.PAST, item_ids=self.ITEMS)
        found = SequenceNeighbours(**parameters).fit(past).scores(sequences_of([history], item_ids=self.ITEMS))[0]
        return dict(zip(self.ITEMS, found.tolist(), strict=True))

    def test_by_hand(self):
        # The history's weights are .5 for a and 1 for c: over the roots of the sizes, 1/3 and 2/3 of the whole.
        got = self.scores(["a", "c"], decay=0.5)
        assert got == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 2 / 3, "d": 2 / 3, "e": 0, "f": 0}, abs=1e-6)

    def test_only_the_nearest_count(self):
        got = self.scores(["a", "c"], decay=0.5, n_neighbours=1)
        assert got == pytest.approx({"a": 0, "b": 0, "c": 1, "d": 1, "e": 0, "f": 0})

    def test_with_vectors_people_who_met_the_like_count(self):
        vectors = VectorTable.from_arrays(self.ITEMS, [[1, 0], [1, 0.1], [0, 1], [0, 1], [-1, 0], [1, 0.05]])
        got = self.scores(["f"], vectors=vectors, n_neighbours=2)
        assert got["a"] == got["b"] > 0.99
        assert 0 < got["c"] == got["d"] < 0.01
        assert self.scores(["f"])["a"] == 0  # f itself was never met

    def test_a_history_without_a_vector_has_no_neighbours(self):
        vectors = VectorTable.from_arrays(["a", "c"], [[1.0, 0.0], [0.0, 1.0]])
        assert set(self.scores(["f"], vectors=vectors).values()) == {0.0}


class TestCollaborativeVectors:
    @pytest.mark.parametrize("weighting", ["ppmi", "cosine"])
    def test_items_that_come_together_are_near(self, weighting):
        past = sequences_of([["a", "b", "c"]] * 4 + [["d", "e", "f"]] * 4, item_ids=["a", "b", "c", "d", "e", "f", "g"])
        scorer = CollaborativeVectors(dim=2, weighting=weighting).fit(past)
        scores = scorer.scores(sequences_of([["a"]], item_ids=past.item_ids))[0]
        assert scores[1:3].min() > 0.9
        assert np.abs(scores[3:6]).max() < 0.1
        assert np.isnan(scores[6])
        assert np.isnan(scorer.vectors_.lookup(["g"])).all()

    def test_information_by_hand(self):
        from llmfeat.rank.scorers.collaborative import shifted_ppmi

        counts = count_pairs(
            sequences_of([["a", "b"]] * 3 + [["a", "c"]]), window=1, distance_decay=1, forward=False
        )  # rows: a 4, b 3, c 1, of 8
        expected = np.zeros((3, 3))
        expected[0, 1] = expected[1, 0] = np.log(3 * 8 / (4 * 3))
        expected[0, 2] = expected[2, 0] = np.log(1 * 8 / (4 * 1))
        np.testing.assert_allclose(shifted_ppmi(counts, shift=1).toarray(), expected)
        np.testing.assert_allclose(shifted_ppmi(counts, shift=1.5).toarray(), np.maximum(expected - np.log(1.5), 0))
        assert shifted_ppmi(counts, shift=9).nnz == 0

    def test_nothing_came_together(self):
        past = sequences_of([["a"], ["b"]])
        assert np.isnan(CollaborativeVectors().fit(past).scores(past)).all()


class TestEASE:
    def test_it_is_the_published_formula(self):
        past = random_sequences(0)
        matrix = np.zeros((len(past), N_ITEMS))
        matrix[past.row_of_event, past.item_codes] = 1
        inverse = np.linalg.inv(matrix.T @ matrix + 5 * np.eye(N_ITEMS))
        expected = -inverse / np.diag(inverse)
        np.fill_diagonal(expected, 0)
        scorer = EASE(l2=5).fit(past)
        np.testing.assert_allclose(scorer.weights_, expected, atol=1e-6)
        rows = past.last(50)
        counts = np.zeros((len(past), N_ITEMS))
        np.add.at(counts, (rows.row_of_event, rows.item_codes), 1)
        np.testing.assert_allclose(scorer.scores(past), counts @ expected, atol=1e-5)

    def test_overlapping_rows_of_a_user_are_one_row(self):
        overlapping = sequences_of([["a", "b"], ["a", "b", "c"], ["b", "c"]], users=["u", "u", "v"])
        merged = sequences_of([["a", "b", "c"], ["b", "c"]])
        one, two = EASE(once_per_user=True).fit(overlapping), EASE().fit(merged)
        assert np.array_equal(one.weights_, two.weights_)


class TestCrossFitted:
    @staticmethod
    def check_out_of_fold(make) -> None:
        """What a user did adds nothing to that user's scores."""
        past, queries = random_sequences(0), random_sequences(1)
        planted = past.append(np.where(np.array(past.users.to_pylist()) == "u5", N_ITEMS - 1, -1))
        mine = np.flatnonzero(np.array(queries.users.to_pylist()) == "u5")
        one, two = (make().fit(each).scores(queries) for each in (past, planted))
        assert one[mine].tobytes() == two[mine].tobytes()
        assert one.tobytes() != two.tobytes()  # others do see it

    @pytest.mark.parametrize("kind", ["popularity", "cosine", "smoothed", "ppmi", "ease"])
    def test_really_out_of_fold(self, kind):
        self.check_out_of_fold(lambda: CrossFitted(MAKERS[kind], n_folds=4))

    @pytest.mark.parametrize("kind", ["popularity", "cosine", "smoothed", "ppmi", "ease"])
    def test_a_double_fitted_on_everything_fails(self, kind):
        with pytest.raises(AssertionError):
            self.check_out_of_fold(MAKERS[kind])

    def test_users_who_were_not_fitted_on_get_the_fit_on_all(self):
        past, queries = random_sequences(0), random_sequences(1)
        crossfit = CrossFitted(Cooccurrence, n_folds=4).fit(past)
        strangers = crossfit.scores(queries, users=["stranger"] * len(queries))
        assert strangers.tobytes() == Cooccurrence().fit(past).scores(queries).tobytes()
        assert strangers.tobytes() != crossfit.scores(queries).tobytes()

    def test_folds_depend_on_the_id_alone(self):
        users = pa.array([f"u{row}" for row in range(1000)])
        folds = user_folds(users, n_folds=10)
        assert folds[:8].tolist() == user_folds(users[:8], n_folds=10).tolist()
        assert folds[:8].tolist() == [3, 6, 4, 8, 9, 5, 6, 3]  # on every machine, in every run
        assert np.bincount(folds, minlength=10).min() > 60
        assert folds.tolist() != user_folds(users, n_folds=10, seed=1).tolist()

    def test_users_can_be_passed_or_must_come_along(self):
        past = sequences_of([["a", "b"], ["b", "c"]])
        users = ["u", "v"]
        crossfit = CrossFitted(Popularity, n_folds=2)
        expected = CrossFitted(Popularity, n_folds=2).fit(past.with_users(users)).scores(past.with_users(users))
        assert crossfit.fit(past, users).scores(past, users).tobytes() == expected.tobytes()
        assert crossfit.name == "popularity"
        with pytest.raises(InputError, match="folds are of users"):
            crossfit.scores(past)
