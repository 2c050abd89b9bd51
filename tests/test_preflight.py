from __future__ import annotations

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from llmfeat.errors import EmptyInputError, InputError
from llmfeat.evaluate.inputs import InputSpec, preflight, read_inputs
from llmfeat.evaluate.inputs.leaks import auc, closer, spearman
from llmfeat.evaluate.inputs.view import View, moment_keys

T = 10**9
ITEMS = pa.table(
    {
        "item_id": ["a", "b", "c", "d", "e"],
        "title": ["Heat the film", "Heat the film", None, "Alien", "word " * 257],
        "plot": [None, None, "a war", None, None],
    }
)
# Two training seconds, one of test; u3 is new, as is item d.
LOG = pa.table(
    {
        "user_id": ["u1", "u1", "u2", "u1", "u1", "u2", "u3"],
        "item_id": ["a", "b", "a", "a", "c", "d", "b"],
        "timestamp": [T, T, T + 1, T + 2, T + 2, T + 2, T + 2],
        "label": [1, 0, 1, 1, 0, 0, 1],
    }
)
IS_TEST = np.array([False] * 3 + [True] * 4)


def check(items=ITEMS, log=LOG, is_test=IS_TEST, is_train=None, **options):
    if not {"label", "task"} & options.keys():
        options["label"] = "label"
    inputs = read_inputs(InputSpec(items, log, **{"text": ("title", "plot"), **options}))
    return {
        one.code: one for one in preflight(inputs, is_train=~is_test if is_train is None else is_train, is_test=is_test)
    }


def counts(found):
    return {code: (one.count, one.of) for code, one in found.items()}


class TestByHand:
    def test_click(self):
        found = check()
        assert counts(found) == {
            "few_test_users": (3, 3),
            "times": (7, 7),
            "test_positives": (2, 4),
            "training_positives": (2, 3),
            "small_groups": (2, 3),
            "items_without_text": (1, 5),
            "test_rows_without_text": (1, 4),
            "short_texts": (1, 4),
            "long_texts": (1, 4),
            "identical_texts": (2, 4),
            "unseen_items": (2, 4),
            "unseen_users": (1, 4),
            "ties": (4, 7),
            "empty_histories": (1, 4),
            "repeats": (1, 4),
        }
        assert "1 of them have some, but not the column" in found["items_without_text"].what
        assert "2 have one row, 0 one label only" in found["small_groups"].what
        assert found["few_test_users"].severity == "warning"
        assert found["empty_histories"].what.endswith("the median is 2 events, the most 2")

    def test_findings_can_be_written_as_json(self):
        for one in check().values():
            assert json.loads(json.dumps(dataclasses.asdict(one))).keys() == {
                *("code", "severity", "count", "of", "what", "handling")
            }

    def test_warnings_come_first(self):
        severities = [one.severity for one in check().values()]
        assert severities == sorted(severities, reverse=True)
        assert {"warning", "note"} == set(severities)

    def test_groups_take_the_place_of_users(self):
        log = LOG.append_column("slate", pa.array(["s", "s", "s", "x", "y", "y", "x"]))
        found = check(log=log, group_id="slate")
        assert found["small_groups"].what.startswith("2 of 2 (100.0 %) test groups with 4 rows")
        assert "0 have one row, 2 one label only" in found["small_groups"].what

    def test_next_item(self):
        found = check(task="next-item")
        assert not {"small_groups", "test_positives"} & found.keys()
        assert (
            check(task="next-item", label="label")["test_positives"].handling == "the others are events, but no targets"
        )

    def test_rare_labels(self):
        n_rows = 300
        log = pa.table(
            {
                "user_id": np.arange(n_rows) % 250,
                "item_id": ["a"] * n_rows,
                "timestamp": T + np.arange(n_rows),
                "label": [1, 0] + [0] * (n_rows - 2),
            }
        )
        found = check(log=log, is_test=np.arange(n_rows) >= 2)
        assert found["test_positives"].severity == "warning"
        assert found["test_positives"].handling == "there is nothing to rank: split elsewhere"
        assert found["training_positives"].severity == "note"
        assert "few_test_users" not in found

    def test_a_split_that_is_not_by_time(self):
        assert "split_not_by_time" not in check()
        found = check(is_test=~IS_TEST)
        assert counts(found)["split_not_by_time"] == (4, 4)
        assert found["split_not_by_time"].severity == "warning"

    @pytest.mark.parametrize("n_own", [0, 1, 2, 3])
    def test_histories_that_hold_their_target(self, n_own):
        log = pa.table(
            {
                "user_id": ["u", "v", "w", "x"],
                "item_id": ["a", "a", "b", "b"],
                "split": ["valid", "test", "test", "test"],
                "h": [["a"], *([["d", "a"], ["b"], ["b"]][:n_own] + [["d"], [], ["b", "d"]][n_own:])],
            }
        )
        is_test = np.array([False, True, True, True])
        found = check(log=log, is_test=is_test, task="next-item", split_column="split", history_column="h")
        assert ("target_in_history" in found) == (n_own >= 2)
        assert counts(found).get("repeated_targets") == {0: (1, 3), 1: (2, 3)}.get(n_own)
        assert counts(found)["empty_histories"] == (int(n_own < 2), 3)
        assert "ties" not in found

    def test_masks_are_checked(self):
        with pytest.raises(EmptyInputError, match="is_test marks 0 of 7 rows"):
            check(is_test=np.zeros(7, dtype=bool))
        with pytest.raises(EmptyInputError, match="is_train marks 0 of 7 rows"):
            check(is_train=np.zeros(7, dtype=bool))
        with pytest.raises(InputError, match=r"is_train has the shape \(3,\)"):
            check(is_train=np.array([0, 1, 2]))


class LateView(View):
    """A broken double: events of the very moment count as earlier ones."""

    @property
    def test_history_lengths(self):
        keys, span = self._moments
        begins = np.searchsorted(self._sorted_moments, np.arange(len(self.inputs.user_ids)) * span)
        return np.searchsorted(self._sorted_moments, keys[self.test_rows], side="right") - begins[self.test_users]


@pytest.mark.parametrize("kind", [View, pytest.param(LateView, marks=pytest.mark.xfail(strict=True))])
def test_ties_and_histories_against_a_loop(kind):
    @settings(max_examples=40, deadline=None, database=None, phases=[Phase.explicit, Phase.generate])
    @example([(0, 3), (0, 3)], 1)  # chance may miss the double
    @given(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=2, max_size=25),
        st.sampled_from([1, 7, 86_400, 10**7]),
    )
    def compare(rows, step):
        users, moments = (np.array(column) for column in zip(*rows, strict=True))
        times = T + step * moments
        log = pa.table({"user_id": users, "item_id": np.arange(len(rows)), "timestamp": times})
        items = pa.table({"item_id": np.arange(len(rows)), "title": ["x"] * len(rows)})
        inputs = read_inputs(InputSpec(items, log, text=("title",), task="next-item"))
        is_test = np.arange(len(rows)) % 2 == 1
        view = kind(inputs, ~is_test, is_test)
        earlier = [sum(u == user and t < time for u, t in zip(users, times, strict=True))
                   for user, time in zip(users, times, strict=True)]  # fmt: skip
        assert view.test_history_lengths.tolist() == [earlier[row] for row in np.flatnonzero(is_test)]
        tied = sum(rows.count(row) > 1 for row in rows)
        assert view.n_tied == tied

    compare()


def test_keys_of_moments_fit_whatever_the_times_are():
    users = np.array([0, 1, 1, 2**21])
    times = np.array([0, 2**62, 5, 7])
    keys, span = moment_keys(users, times, 2**21 + 1)
    assert keys.tolist() == [0, span + 3, span + 1, 2**21 * span + 2]
    assert moment_keys(np.array([0, 1]), np.array([10, 10]), 2)[0].tolist() == [0, 1]


class TestLeaks:
    N = 400

    def log(self, seed=0):
        draw = np.random.default_rng(seed)
        labels = draw.integers(0, 2, self.N)
        return pa.table(
            {
                "user_id": draw.integers(0, 20, self.N),
                "item_id": draw.integers(0, 60, self.N),
                "timestamp": T + np.arange(self.N),
                "label": labels,
                "honest": labels + 2 * draw.standard_normal(self.N),
                "leak": -labels + 0.1 * draw.standard_normal(self.N),
            }
        )

    def check(self, **options):
        items = pa.table({"item_id": np.arange(60), "title": [f"title {n}" for n in range(60)]})
        return check(items, self.log(), is_test=np.arange(self.N) >= 200, text=("title",), **options)

    def test_a_score_that_knows_the_label(self):
        assert "baseline_leak" not in self.check(baseline_score="honest")
        found = self.check(baseline_score="leak")["baseline_leak"]
        assert found.what == "the baseline score alone has an AUC of 0.000 on 200 test rows: it seems to know the label"

    def test_base_features_that_know_the_label(self):
        table = self.log().select(["honest", "leak"]).append_column("row_id", pa.array(np.arange(self.N)))
        assert "'leak'" in self.check(base_features=table)["base_leak"].what

    @pytest.mark.parametrize(
        ("rows", "leaks"), [(slice(0, 200), False), (slice(200, 400), True), (slice(0, 400), True)]
    )
    def test_counts_of_the_future(self, rows, leaks):
        counted = np.bincount(self.log()["item_id"].to_numpy()[rows], minlength=60)
        draw = np.random.default_rng(1).random(60)
        table = pa.table({"item_id": np.arange(60), "n_events": counted, "price": draw})
        found = self.check(base_features=table)
        assert ("base_future" in found) == leaks
        if leaks:
            assert "'n_events'" in found["base_future"].what
        if leaks:  # with the time since when they are known nothing of the kind is said
            timed = table.append_column("timestamp", pa.array([T] * 60))
            assert not {"base_future", "base_without_time"} & self.check(base_features=timed).keys()

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), min_size=2, max_size=30))
    def test_statistics_against_the_libraries(self, pairs):
        scores, labels = (np.array(column) for column in zip(*pairs, strict=True))
        if 0 < labels.sum() < len(labels):
            assert auc(scores.astype(float), labels) == pytest.approx(roc_auc_score(labels, scores))
        else:
            assert np.isnan(auc(scores.astype(float), labels))
        constant = len(set(scores.tolist())) == 1 or len(set(labels.tolist())) == 1
        expected = 0 if constant else spearmanr(scores, labels).statistic
        assert spearman(scores.astype(float), labels.astype(float)) == pytest.approx(expected)

    def test_how_much_closer_one_correlation_is_than_another(self):
        # The example of the paper: r = .63 and -.03, .19 between them, n = 15 gives z = 1.68.
        assert closer(0.63, -0.03, -0.19, 15) == pytest.approx(1.68, abs=0.01)
        assert closer(0.5, 0.5, 0.1, 50) == 0

    def test_a_missing_score_is_the_least(self):
        assert auc(np.array([np.nan, 1.0, np.nan, 2.0]), np.array([0, 1, 0, 1])) == 1.0
