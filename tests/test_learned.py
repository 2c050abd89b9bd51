from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp

from llmfeat import InteractionLog, VectorTable
from llmfeat.errors import InputError
from llmfeat.features.learned import LearnedSimilarity, SimilarityLearner, affinity_of_log
from llmfeat.history.pairs import sum_pairs


def log_of(baskets, labels=None):
    rows = [(f"u{at}", item, 10**9 + second) for at, basket in enumerate(baskets) for second, item in enumerate(basket)]
    users, items, times = zip(*rows, strict=True)
    frame = {"user_id": users, "item_id": items, "timestamp": times}
    if labels is not None:
        frame["label"] = np.concatenate(labels)
    return InteractionLog.from_frame(pa.table(frame), label=None if labels is None else "label")


def planted(seed=0, n_items=60, dim=8):
    """Vectors whose last component says who wants an item, under seven louder ones that say nothing."""
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(n_items, dim)) * np.array([3] * (dim - 1) + [1])
    taste = vectors[:, -1] > 0
    ids = np.array([str(item) for item in range(n_items)])
    baskets = [draw.choice(ids[taste == (user % 2 == 0)], 6, replace=False) for user in range(120)]
    return VectorTable.from_arrays(ids, vectors), log_of(baskets), taste


def gap(table, taste):
    unit = table.vectors / np.linalg.norm(table.vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    same = taste[:, None] == taste[None]
    others = ~np.eye(len(taste), dtype=bool)
    return cosines[same & others].mean() - cosines[~same].mean()


def test_near_comes_to_mean_met_by_the_same_people():
    table, log, taste = planted()
    learned = SimilarityLearner(table, LearnedSimilarity(2)).learn(log)
    assert gap(learned, taste) > 3 * gap(table, taste)


def test_it_holds_for_items_that_no_event_was_of():
    table, log, taste = planted()
    known = np.arange(60) < 40
    seen = np.isin(log.item_ids.to_numpy(zero_copy_only=False)[log.item_codes], np.arange(40).astype(str))
    part = log.from_arrays(
        log.user_ids.take(pa.array(log.user_codes[seen])),
        log.item_ids.take(pa.array(log.item_codes[seen])),
        log.times_us[seen],
        log.labels[seen],
    )
    learned = SimilarityLearner(table, LearnedSimilarity(2)).learn(part)
    new = VectorTable.from_arrays(table.ids.filter(pa.array(~known)), learned.vectors[~known])
    old = VectorTable.from_arrays(table.ids.filter(pa.array(~known)), table.vectors[~known])
    assert gap(new, taste[~known]) > 2 * gap(old, taste[~known])


def test_shuffled_tastes_teach_nothing():
    """The first test can fail: where the vectors say nothing of the taste, there is little of it to learn."""
    table, log, taste = planted()
    learned = SimilarityLearner(table, LearnedSimilarity(2)).learn(log)
    mixed = VectorTable.from_arrays(table.ids, table.vectors[np.random.default_rng(0).permutation(60)])
    from_nothing = SimilarityLearner(mixed, LearnedSimilarity(2)).learn(log)
    assert gap(from_nothing, taste) < 0.1 * gap(learned, taste)


def test_the_affinity_of_a_log_by_hand():
    table = VectorTable.from_arrays(["a", "b", "c"], np.eye(3))
    log = log_of([["a", "b", "c"], ["b", "a"]], [[1, 1, 0], [0, 0]])
    found = affinity_of_log(log, table, window=2, distance_decay=0.5).toarray()
    # a and b agree twice, b and c disagree once, a and c disagree at distance 2.
    assert found.tolist() == [[0, 2, -0.5], [2, 0, -1], [-0.5, -1, 0]]


def test_the_affinity_leaves_out_what_the_table_lacks_and_repeats():
    table = VectorTable.from_arrays(["a", "b"], np.eye(2))
    found = affinity_of_log(log_of([["a", "zz", "b", "b"]]), table, window=1, distance_decay=1)
    assert found.toarray().tolist() == [[0, 1], [1, 0]]


def test_pairs_are_those_of_the_plain_definition():
    draw = np.random.default_rng(0)
    items, groups = draw.integers(0, 5, 40), np.sort(draw.integers(0, 6, 40))
    signs = draw.choice([-1.0, 1.0], 40)
    expected = np.zeros((5, 5))
    for first in range(40):
        for second in range(first + 1, 40):
            if groups[first] == groups[second] and second - first <= 3:
                expected[items[first], items[second]] += 0.5 ** (second - first - 1) * signs[first] * signs[second]
    found = sum_pairs(items, groups, n_items=5, window=3, distance_decay=0.5, forward=True, signs=signs)
    np.testing.assert_allclose(found.toarray(), expected)
    both = sum_pairs(items, groups, n_items=5, window=3, distance_decay=0.5, signs=signs)
    np.testing.assert_allclose(both.toarray(), expected + expected.T)


def test_a_row_alone_has_the_bits_that_it_has_in_a_batch():
    table, log, _ = planted()
    similarity = LearnedSimilarity(4).fit(table.vectors, affinity_of_log(log, table))
    matrix = similarity.transform(table.vectors)
    assert matrix.dtype == np.float32
    for row in (0, 7, 59):
        assert similarity.transform(table.vectors[row : row + 1]).tobytes() == matrix[row].tobytes()


def test_missing_vectors_stay_missing_and_change_nothing():
    table, log, _ = planted()
    vectors = table.vectors.copy()
    vectors[3] = np.nan
    holes = VectorTable.from_arrays(table.ids, vectors)
    learned = SimilarityLearner(holes, LearnedSimilarity(4)).learn(log)
    assert np.isnan(learned.vectors[3]).all()
    assert np.isfinite(np.delete(learned.vectors, 3, axis=0)).all()


def test_the_fingerprint_is_of_table_and_lesson():
    table, log, _ = planted()
    one, two = (SimilarityLearner(table, LearnedSimilarity(4)).learn(log) for _ in range(2))
    other = SimilarityLearner(table, LearnedSimilarity(4), window=3).learn(log)
    assert one.fingerprint == two.fingerprint
    assert len({one.fingerprint, other.fingerprint, table.fingerprint}) == 3


def test_where_nothing_can_be_learned_there_are_no_vectors():
    table = VectorTable.from_arrays(["a", "b", "c"], np.eye(3))
    alone = SimilarityLearner(table).learn(log_of([["a"], ["b"], ["c"]]))
    assert np.isnan(alone.vectors).all()
    same = VectorTable.from_arrays(["a", "b", "c"], np.ones((3, 2)))
    assert np.isnan(SimilarityLearner(same).learn(log_of([["a", "b"], ["b", "c"]])).vectors).all()


@pytest.mark.parametrize(
    ("parameters", "affinity", "said"),
    [
        ({"shrinkage": 0}, sp.eye_array(4), "shrinkage=0"),
        ({"pair_shrinkage": -1}, sp.eye_array(4), "pair_shrinkage=-1"),
        ({"n_components": 9}, sp.eye_array(4), "n_components=9"),
        ({}, np.eye(4), "a sparse array"),
        ({}, sp.eye_array(3), r"shape \(4, 4\) was expected"),
        ({}, sp.csr_array((4, 4)), "of 4 items with a vector no two"),
    ],
)
def test_bad_input(parameters, affinity, said):
    vectors = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    with pytest.raises(InputError, match=said):
        LearnedSimilarity(**parameters).fit(vectors, affinity)
