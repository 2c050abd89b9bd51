from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeat.errors import InputError
from llmfeat.history.sequences import Sequences
from llmfeat.rank.candidates import Candidates, generate_candidates, iter_candidates
from llmfeat.rank.scorers import Cooccurrence, Popularity

NAN = np.nan


class Given:
    """A scorer of given scores: the query is told by the first item of its history."""

    def __init__(self, matrix, name="given"):
        self.matrix = np.array(matrix, dtype=np.float32)
        self.name = name

    def scores(self, histories):
        return self.matrix[histories.item_codes[histories.offsets[:-1]]]


def queries(n_queries: int, n_items: int | None = None) -> Sequences:
    n_items = n_queries if n_items is None else n_items
    ids = pa.array([str(item) for item in range(max(n_items, n_queries))])
    return Sequences(np.arange(n_queries, dtype=np.int32), np.arange(n_queries + 1), ids)


def pairs(candidates: Candidates) -> list[tuple[int, int]]:
    return list(zip(candidates.query.tolist(), candidates.item.tolist(), strict=True))


def plain_top(row, k, excluded=()):
    """What a scorer proposes, and all ranks, as its docstring says."""
    items = [item for item in range(len(row)) if item not in excluded]
    level = [-np.inf if np.isnan(value) else value for value in row]
    defined = lambda item: not np.isnan(row[item])  # noqa: E731
    order = sorted(items, key=lambda item: (not defined(item), -level[item], item))
    above = lambda one, two: (defined(one), level[one]) > (defined(two), level[two])  # noqa: E731
    top = order[:k] if k >= len(row) else [item for item in order[:k] if above(item, order[-1])]
    return top, {item: 1 + sum(above(other, item) for other in items) for item in items}


class TestByHand:
    ONE = Given([[0.9, 0.1, 0.5, 0.5], [0, 0, 0, 2], [0, 0, 0, 0], [NAN, -3, NAN, -2]], "one")
    TWO = Given([[1, 2, 3, 4], [4, 3, 2, 1], [0, 0, 0, 0], [5, NAN, NAN, NAN]], "two")

    def test_the_union_of_the_best(self):
        candidates = generate_candidates([self.ONE, self.TWO], queries(4), 2)
        assert pairs(candidates) == [(0, 0), (0, 2), (0, 3), (1, 0), (1, 1), (1, 3), (3, 0), (3, 1), (3, 3)]
        expected = [[0.9, 1], [0.5, 3], [0.5, 4], [0, 4], [0, 3], [2, 1], [NAN, 5], [-3, NAN], [-2, NAN]]
        np.testing.assert_array_equal(candidates.scores, np.array(expected, dtype=np.float32))
        assert candidates.ranks.tolist() == [[1, 4], [2, 2], [2, 1], [2, 1], [2, 2], [1, 4], [3, 1], [2, 2], [1, 2]]
        assert candidates.counts.tolist() == [3, 3, 0, 3]
        assert candidates.query.dtype == np.int64
        assert candidates.item.dtype == candidates.ranks.dtype == np.int32
        assert candidates.names == ("one", "two")
        assert candidates.feature_names == ("one_score", "two_score", "one_rank", "two_rank")
        assert candidates.features().dtype == np.float32
        assert candidates.features()[0].tolist() == pytest.approx([0.9, 1, 1, 4])

    def test_targets(self):
        candidates = generate_candidates([self.ONE, self.TWO], queries(4), 2)
        targets = np.array([3, 2, 0, -1])
        assert candidates.found(targets).tolist() == [True, False, False, False]
        assert candidates.recall(targets) == 0.25
        assert np.flatnonzero(candidates.is_target(targets)).tolist() == [2]
        with pytest.raises(InputError, match="one item for each of 4 queries"):
            candidates.recall(targets[:2])

    def test_the_whole_catalogue_is_the_whole_catalogue(self):
        for k in (4, 5, 1000):
            candidates = generate_candidates([self.ONE], queries(4), k)
            assert pairs(candidates) == [(query, item) for query in range(4) for item in range(4)]
        assert candidates.recall(np.array([0, 1, 2, 3])) == 1
        assert candidates.ranks[:, 0].reshape(4, 4).tolist() == [[1, 4, 2, 2], [2, 2, 2, 1], [1] * 4, [3, 2, 3, 1]]

    def test_excluded_items_are_no_candidates_and_take_no_places(self):
        candidates = generate_candidates([self.ONE, self.TWO], queries(4), 1, exclude_history=True)
        assert pairs(candidates) == [(0, 2), (0, 3), (1, 0), (1, 3), (3, 0), (3, 1)]
        assert candidates.ranks.tolist() == [[1, 2], [1, 1], [2, 1], [1, 3], [2, 1], [1, 2]]
        whole = generate_candidates([self.ONE], queries(4), 4, exclude_history=True)
        assert whole.counts.tolist() == [3] * 4

    def test_minus_zero_is_zero(self):
        candidates = generate_candidates([Given([[-0.0, 0.0, -1.0]])], queries(1, 3), 1)
        assert pairs(candidates) == [(0, 0)]
        assert candidates.ranks.tolist() == [[1]]

    def test_no_queries(self):
        scorer = Popularity().fit(queries(3))
        candidates = generate_candidates([scorer], queries(3).take(np.arange(0)), 2)
        assert len(candidates) == candidates.n_queries == 0
        assert np.isnan(candidates.recall(np.empty(0, dtype=int)))


@given(
    st.lists(
        st.lists(st.sampled_from([NAN, -np.inf, -1.5, 0, 1e-40, 0.5, 0.5, 2]), min_size=6, max_size=6),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 7),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_they_are_those_of_the_plain_definition(matrix, k, exclude_history):
    other = [row[::-1] for row in matrix]
    third = [row[2:] + row[:2] for row in matrix]
    scorers, also = [Given(matrix, "one"), Given(other, "two")], [Given(third, "three")]
    got = generate_candidates(scorers, queries(len(matrix), 6), k, also=also, exclude_history=exclude_history)
    expected, ranks = [], []
    for query, rows in enumerate(zip(np.float32(matrix), np.float32(other), np.float32(third), strict=True)):
        found = [plain_top(row, k, {query} if exclude_history else ()) for row in rows]
        items = sorted({item for top, _ in found[:2] for item in top})
        expected += [(query, item) for item in items]
        ranks += [[rank[item] for _, rank in found] for item in items]
    assert pairs(got) == expected
    assert got.ranks.tolist() == ranks
    assert got.names == ("one", "two", "three")
    assert got.proposed.shape == (len(expected), 2)
    assert got.proposed.any(axis=1).all()
    np.testing.assert_array_equal(got.scores[:, 2], np.float32(third)[got.query, got.item])


def test_the_size_of_the_blocks_does_not_matter():
    draw = np.random.default_rng(0)
    past = Sequences(
        draw.integers(0, 40, 400).astype(np.int32),
        np.arange(0, 401, 5),
        pa.array([str(item) for item in range(50)]),
    )
    scorers = [Popularity().fit(past), Cooccurrence().fit(past)]
    histories = past.last(3)
    whole = generate_candidates(scorers, histories, 7)
    for block_cells in (1, 170, 50 * 33):
        parts = generate_candidates(scorers, histories, 7, block_cells=block_cells)
        assert pairs(parts) == pairs(whole)
        assert parts.scores.tobytes() == whole.scores.tobytes()
        assert parts.ranks.tobytes() == whole.ranks.tobytes()
        assert parts.n_queries == len(histories)
    blocks = list(iter_candidates(scorers, histories, 7, block_cells=50 * 33))
    assert [block.n_queries for block in blocks] == [33, 33, 14]


def test_one_that_only_says_something_has_a_name_of_its_own():
    with pytest.raises(InputError, match="of distinct names"):
        generate_candidates([Given([[1]])], queries(1), 1, also=[Given([[1]])])


@pytest.mark.parametrize(
    ("scorers", "k", "said"),
    [
        ([], 1, r"named \[\]"),
        ([Given([[1]]), Given([[1]])], 1, "of distinct names"),
        ([Given([[1]])], 0, "k_per_scorer=0"),
        ([Given([[1, 2]])], 1, r"shape \(1, 2\), but float32 of shape \(1, 1\)"),
    ],
)
def test_bad_scorers_are_refused(scorers, k, said):
    with pytest.raises(InputError, match=said):
        generate_candidates(scorers, queries(1), k)
