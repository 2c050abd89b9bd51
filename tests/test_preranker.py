from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from llmfeat.errors import InputError, NothingToLearnError
from llmfeat.history import Sequences
from llmfeat.rank import Candidates, PreRanker, generate_candidates

N_ITEMS = 40
SMALL = HistGradientBoostingClassifier(max_iter=30, min_samples_leaf=5, random_state=0)


class Noisy:
    """A scorer that puts a query's target first with some chance, and is drawn otherwise."""

    def __init__(self, name, share, targets, seed):
        draw = np.random.default_rng(seed)
        self.name = name
        self.matrix = draw.random((len(targets), N_ITEMS)).astype(np.float32)
        right = np.flatnonzero(draw.random(len(targets)) < share)
        self.matrix[right, targets[right]] = 2

    def scores(self, histories):
        return self.matrix[histories.users.to_numpy(zero_copy_only=False).astype(np.int64)]


@pytest.fixture(scope="module")
def targets():
    return np.random.default_rng(0).integers(N_ITEMS, size=400)


@pytest.fixture(scope="module")
def pool(targets):
    """One scorer that knows, and three that do not."""
    scorers = [Noisy("good", 0.8, targets, 1), *(Noisy(f"bad{seed}", 0.0, targets, seed) for seed in (2, 3, 4))]
    return generate_candidates(scorers, asked(len(targets)), 10)


def asked(n_queries):
    rows = pa.table({"user_id": np.arange(n_queries).astype(str), "h": [[] for _ in range(n_queries)]})
    rows = rows.set_column(1, "h", pa.array([[]] * n_queries, pa.list_(pa.string())))
    return Sequences.from_lists(rows, "h", item_ids=range(N_ITEMS), user_id="user_id")


def halves(pool):
    return (pool.take(np.flatnonzero(pool.query % 2 == half)) for half in (0, 1))


def test_a_scorer_that_knows_gets_the_places(pool, targets):
    taught, other = halves(pool)
    preranker = PreRanker(SMALL, n_negatives=20).fit(taught, taught.is_target(targets))
    cut = preranker.cut(other, 2)
    found = other.is_target(targets).sum()
    assert cut.counts[1::2].tolist() == [2] * 200
    assert cut.is_target(targets).sum() > 0.8 * found
    # Equal shares of all four keep as few as chance does.
    equal = other.best(-other.ranks.min(axis=1), 2)
    assert equal.is_target(targets).sum() < 0.7 * found


def test_a_double_that_learns_from_other_labels_keeps_fewer(pool, targets):
    taught, other = halves(pool)
    drawn = np.random.default_rng(1).permutation(taught.is_target(targets))
    cut = PreRanker(SMALL, n_negatives=20).fit(taught, drawn).cut(other, 2)
    assert cut.is_target(targets).sum() < 0.6 * other.is_target(targets).sum()


def test_the_best_of_each_query_stay_in_their_order(pool):
    scores = np.random.default_rng(0).random(len(pool))
    scores[pool.query == 3] = np.nan
    kept = pool.best(scores, 4)
    assert kept.counts.max() == 4
    assert kept.n_queries == pool.n_queries
    assert kept.names == pool.names
    for query in (0, 7, 399):
        rows = np.flatnonzero(pool.query == query)
        wanted = np.sort(pool.item[rows[np.argsort(-scores[rows])[:4]]])
        assert kept.item[kept.query == query].tolist() == wanted.tolist()
    assert kept.item[kept.query == 3].tolist() == pool.item[pool.query == 3][:4].tolist()
    everything = pool.best(scores, N_ITEMS)
    assert everything.item.tolist() == pool.item.tolist()
    np.testing.assert_array_equal(everything.scores, pool.scores)
    np.testing.assert_array_equal(everything.proposed, pool.proposed)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 1.0, 2.0, np.nan])), max_size=30), st.integers(1, 5))
def test_the_best_are_those_of_a_sort(rows, n):
    rows = sorted(rows, key=lambda row: row[0])
    query = np.array([row[0] for row in rows], dtype=np.int64)
    item = np.arange(len(rows), dtype=np.int32)
    scores = np.array([row[1] for row in rows])
    columns = np.zeros((len(rows), 1), np.float32)
    candidates = Candidates(query, item, columns, columns.astype(np.int32), ("one",), 5)
    expected = []
    for each in range(5):
        mine = [at for at in item.tolist() if query[at] == each]
        mine.sort(key=lambda at: (np.isnan(scores[at]), -np.nan_to_num(scores[at]), at))
        expected += sorted(mine[:n])
    assert candidates.best(scores, n).item.tolist() == expected


def test_a_query_has_its_score_alone(pool, targets):
    preranker = PreRanker(SMALL).fit(pool, pool.is_target(targets))
    alone = pool.take(np.flatnonzero(pool.query == 5))
    np.testing.assert_array_equal(preranker.scores(alone), preranker.scores(pool)[pool.query == 5])
    assert len(preranker.scores(pool.take(np.zeros(0, np.int64)))) == 0


def test_any_classifier_takes_its_place(pool, targets):
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    classifier = make_pipeline(FunctionTransformer(lambda places: -np.log(places)), LogisticRegression())
    preranker = PreRanker(classifier, n_negatives=20).fit(pool, pool.is_target(targets))
    assert preranker.cut(pool, 2).is_target(targets).sum() > 0.8 * pool.is_target(targets).sum()
    assert not hasattr(classifier[-1], "coef_")  # it is cloned
    assert clone(preranker).get_params()["n_negatives"] == 20


def test_what_is_drawn_beside_targets(pool, targets):
    labels = pool.is_target(targets)
    rows = PreRanker(n_negatives=5)._drawn(pool.query, labels)
    assert labels[rows].sum() == labels.sum()
    others = np.bincount(pool.query[rows][~labels[rows]], minlength=pool.n_queries)
    assert set(others[np.unique(pool.query[labels])]) == {5}
    assert others[np.setdiff1d(np.arange(pool.n_queries), pool.query[labels])].sum() == 0  # they teach nothing
    again = PreRanker(n_negatives=5, random_state=1)._drawn(pool.query, labels)
    assert again.tolist() != rows.tolist()


@pytest.mark.parametrize(
    ("parameters", "said"), [({"n_negatives": 0}, "n_negatives=0"), ({"random_state": -1}, "random_state=-1")]
)
def test_parameters_are_checked(pool, targets, parameters, said):
    with pytest.raises(InputError, match=said):
        PreRanker(**parameters).fit(pool, pool.is_target(targets))


def test_labels_and_candidates_are_checked(pool, targets):
    with pytest.raises(InputError, match="is_target is int64 of shape"):
        PreRanker().fit(pool, targets)
    with pytest.raises(InputError, match="is_target is float64"):
        PreRanker().fit(pool, np.ones(len(pool)))
    with pytest.raises(NothingToLearnError, match="0 of"):
        PreRanker().fit(pool, np.zeros(len(pool), dtype=bool))
    fitted = PreRanker(SMALL).fit(pool, pool.is_target(targets))
    fewer = generate_candidates([Noisy("good", 0.5, targets, 1)], asked(len(targets)), 10)
    with pytest.raises(InputError, match=r"'good'.*but it was fitted on"):
        fitted.cut(fewer, 3)
    with pytest.raises(InputError, match="n=0"):
        fitted.cut(pool, 0)
    with pytest.raises(InputError, match="scores have the shape"):
        pool.best([1.0], 3)
