from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from llmfeat.errors import InputError
from llmfeat.evaluate import next_item
from llmfeat.evaluate.metrics import Resamples, interval
from llmfeat.evaluate.next_item import (
    NEXT_ITEM_METRICS,
    TargetRanks,
    measure_next_item,
    metrics_per_query,
    scorer_ranks,
    target_ranks,
)
from llmfeat.history.sequences import Sequences
from llmfeat.rank.candidates import generate_candidates


class Given:
    name = "given"

    def __init__(self, matrix):
        self.matrix = np.array(matrix, dtype=np.float32)

    def scores(self, histories):
        return self.matrix[histories.item_codes]


def queries(n_queries: int, n_items: int) -> Sequences:
    ids = pa.array([str(item) for item in range(n_items)])
    return Sequences(np.arange(n_queries, dtype=np.int32), np.arange(n_queries + 1), ids)


def means(ranks: TargetRanks) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in metrics_per_query(ranks).items()}


def test_metrics_by_hand():
    per_query = metrics_per_query(TargetRanks.of([1, 3, 4, 10, 11, -1, np.inf]))
    assert tuple(per_query) == NEXT_ITEM_METRICS
    assert per_query["hr@3"].tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert per_query["hr@5"].tolist() == [1, 1, 1, 0, 0, 0, 0]
    assert per_query["hr@10"].tolist() == [1, 1, 1, 1, 0, 0, 0]
    assert per_query["ndcg@3"] == pytest.approx([1, 0.5, 0, 0, 0, 0, 0])
    assert per_query["ndcg@10"] == pytest.approx([1, 0.5, 1 / np.log2(5), 1 / np.log2(11), 0, 0, 0])
    assert per_query["mrr"] == pytest.approx([1, 1 / 3, 1 / 4, 1 / 10, 1 / 11, 0, 0])


def test_ties_share_their_places():
    per_query = metrics_per_query(TargetRanks(np.array([2, 1]), np.array([5, 4])))
    assert per_query["hr@3"] == pytest.approx([2 / 4, 3 / 4])
    assert per_query["mrr"] == pytest.approx([(1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 4, (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4])
    assert per_query["ndcg@3"] == pytest.approx([(1 / np.log2(3) + 1 / 2) / 4, (1 + 1 / np.log2(3) + 1 / 2) / 4])


@given(st.integers(0, 40))
@settings(max_examples=20, deadline=None)
def test_ndcg_is_that_of_scikit_learn_ties_included(seed):
    draw = np.random.default_rng(seed)
    scores = draw.integers(0, 8, (6, 20)).astype(np.float32)
    targets = draw.integers(0, 20, 6)
    relevance = np.eye(20)[targets]
    ranks = scorer_ranks(Given(scores), queries(6, 20), targets)
    for cut in (3, 5, 10):
        assert means(ranks)[f"ndcg@{cut}"] == pytest.approx(ndcg_score(relevance, scores, k=cut), abs=1e-12)


class TestConstantScores:
    @staticmethod
    def check_guessing(ranks_of) -> None:
        """A scorer that says nothing gets what guessing gets."""
        got = means(ranks_of(np.zeros((4, 20), dtype=np.float32), np.array([0, 7, 19, 3])))
        assert got["hr@3"] == pytest.approx(3 / 20)
        assert got["hr@10"] == pytest.approx(10 / 20)
        assert got["mrr"] == pytest.approx(np.mean(1 / np.arange(1, 21)))

    def test_of_the_catalogue(self):
        self.check_guessing(lambda scores, targets: scorer_ranks(Given(scores), queries(4, 20), targets))

    def test_of_flat_rows(self):
        self.check_guessing(lambda scores, targets: target_ranks(*flat(scores), targets))

    @pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
    def test_whatever_the_constant(self, value):
        self.check_guessing(lambda scores, targets: target_ranks(*flat(scores + np.float32(value)), targets))
        self.check_guessing(lambda scores, targets: scorer_ranks(Given(scores + value), queries(4, 20), targets))

    def test_a_double_that_takes_the_best_place_fails(self):
        def optimistic(scores, targets):
            best = scorer_ranks(Given(scores), queries(4, 20), targets).best
            return TargetRanks(best, best)

        with pytest.raises(AssertionError):
            self.check_guessing(optimistic)


def flat(scores: np.ndarray, seed: int = 0):
    """Rows of query, item and score, shuffled."""
    query, item = np.indices(scores.shape).reshape(2, -1)
    order = np.random.default_rng(seed).permutation(scores.size)
    return query[order], item[order], scores.ravel()[order]


class TestTargetRanks:
    def test_by_hand(self):
        nan = np.nan
        ranks = target_ranks(
            [1, 0, 0, 1, 2, 2, 2, 3], [5, 5, 6, 7, 5, 6, 7, 5], [0.1, 0.5, 0.9, 0.1, nan, 1, nan, 1], [5, 7, 7, -1]
        )
        assert ranks.best.tolist() == [2, 1, 2, -1]
        assert ranks.worst.tolist() == [2, 2, 3, -1]
        assert len(ranks) == 4

    @given(st.integers(0, 40))
    @settings(max_examples=20, deadline=None)
    def test_flat_rows_blocks_and_the_plain_definition_agree(self, seed):
        draw = np.random.default_rng(seed)
        scores = draw.integers(0, 5, (7, 9)).astype(np.float32)
        scores[draw.random(scores.shape) < 0.2] = np.nan
        targets = draw.integers(-1, 9, 7)
        level = np.nan_to_num(scores, nan=-1)
        there = targets >= 0
        own = level[np.arange(7), targets][:, None]
        best = np.where(there, (level > own).sum(axis=1) + 1, -1)
        worst = np.where(there, (level >= own).sum(axis=1), -1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(next_item.metrics, "_CHUNK_ROWS", 11)
            for ranks in (
                target_ranks(*flat(scores, seed), targets),
                scorer_ranks(Given(scores), queries(7, 9), targets, block_cells=20),
                scorer_ranks(Given(scores), queries(7, 9), targets),
            ):
                assert ranks.best.tolist() == best.tolist()
                assert ranks.worst.tolist() == worst.tolist()

    def test_of_candidates(self):
        matrix = np.arange(30, dtype=np.float32).reshape(3, 10)
        candidates = generate_candidates([Given(matrix)], queries(3, 10), 4)
        ranks = target_ranks(candidates.query, candidates.item, candidates.scores[:, 0], np.array([9, 6, 5]))
        assert ranks.best.tolist() == ranks.worst.tolist() == [1, 4, -1]

    def test_the_order_of_the_rows_does_not_matter(self):
        scores = np.random.default_rng(0).integers(0, 4, (5, 12)).astype(np.float64)
        targets = np.array([0, 3, 11, 5, 5])
        one, two = (target_ranks(*flat(scores, seed), targets) for seed in (0, 1))
        assert one.best.tolist() == two.best.tolist()
        assert one.worst.tolist() == two.worst.tolist()

    def test_bad_rows_are_refused(self):
        with pytest.raises(InputError, match="2 queries, 1 items and 2 scores"):
            target_ranks([0, 0], [1], [0.5, 0.1], [1])
        with pytest.raises(InputError, match="1 queries have their target in several rows"):
            target_ranks([0, 0], [1, 1], [0.5, 0.1], [1])
        with pytest.raises(InputError, match="for 3 queries"):
            scorer_ranks(Given(np.ones((3, 3))), queries(3, 3), np.array([1]))

    @pytest.mark.parametrize("ranks", [[0], [1.5], [-2]])
    def test_what_is_no_rank_is_refused(self, ranks):
        with pytest.raises(InputError, match="whole numbers from 1 on"):
            TargetRanks.of(ranks)

    def test_blocks_come_together(self):
        both = TargetRanks.concatenate([TargetRanks.of([1, -1]), TargetRanks.of([4])])
        assert both.best.tolist() == both.worst.tolist() == [1, -1, 4]


class TestMeasure:
    def test_the_point_is_the_mean_over_queries(self):
        resamples = Resamples.draw(2, n_resamples=50, seed=0)
        found = measure_next_item(TargetRanks.of([1, 2, -1]), np.array([0, 0, 1]), resamples)
        assert found["hr@3"].point == pytest.approx(2 / 3)
        assert found["mrr"].point == pytest.approx(1.5 / 3)
        # Drawn twice, one user is all there is: 1 for the first, 0 for the second.
        assert set(np.round(found["hr@3"].resampled, 6)) == {0, round(2 / 3, 6), 1}

    def test_arms_are_compared_on_the_same_resamples(self):
        draw = np.random.default_rng(0)
        ranks = draw.integers(1, 30, 400)
        users = draw.integers(0, 80, 400)
        resamples = Resamples.draw(80, n_resamples=200, seed=1)
        ours = measure_next_item(TargetRanks.of(np.maximum(ranks - 1, 1)), users, resamples)
        theirs = measure_next_item(TargetRanks.of(ranks), users, resamples)
        low, high = interval(ours["mrr"] - theirs["mrr"])
        assert 0 < low < (ours["mrr"] - theirs["mrr"]).point < high
        apart = np.subtract(*interval(ours["mrr"])[::-1])
        assert high - low < apart  # paired is narrower than either

    def test_a_user_without_queries_does_not_matter(self):
        resamples = Resamples.draw(3, n_resamples=20, seed=0)
        found = measure_next_item(TargetRanks.of([1]), np.array([1]), resamples)
        assert found["hr@3"].point == 1
        assert set(found["hr@3"].resampled[np.isfinite(found["hr@3"].resampled)]) == {1}

    def test_users_of_another_number_are_refused(self):
        with pytest.raises(InputError, match="2 users came for 1 queries"):
            measure_next_item(TargetRanks.of([1]), np.array([0, 1]), Resamples.draw(2, n_resamples=2, seed=0))
