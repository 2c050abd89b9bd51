from __future__ import annotations

import pickle
from copy import deepcopy

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeat import InteractionLog
from llmfeat.errors import EmptyInputError, InputError, MissingColumnError, TimestampError
from llmfeat.history import AsOfIndex
from tests.conftest import random_log

US = 10**6


def at(second: int) -> int:
    return (10**9 + second) * US


def seen(log, user, time_us):
    return [(log.item_ids[int(log.item_codes[p])].as_py(), int(log.labels[p])) for p in log.as_of(user, time_us)]


def test_as_of_is_strictly_earlier(log):
    assert seen(log, "u1", at(100)) == []
    assert seen(log, "u1", at(101)) == [("a", 1)]
    assert seen(log, "u1", at(400)) == [("a", 1), ("b", 0)]
    assert seen(log, "u1", at(401)) == [("a", 1), ("b", 0), ("c", 1)]
    assert seen(log, "nobody", at(401)) == []


def test_rows_of_one_moment_never_see_each_other(log):
    assert seen(log, "u2", at(300)) == [("a", 1)]
    assert seen(log, "u2", at(300) + 1) == [("a", 1), ("c", 0), ("b", 1)]


def test_windows_are_cut_to_the_last_events_and_by_the_lag(log):
    times = np.array([at(401)])
    start, stop = log.windows(["u1"], times, max_events=2)
    assert log.item_ids.take(pa.array(log.item_codes[start[0] : stop[0]])).to_pylist() == ["b", "c"]
    start, stop = log.windows(["u1"], times, lag_us=200 * US)
    assert (stop - start).tolist() == [2]  # strictly before 201 s
    assert (lambda s, e: e - s)(*log.windows(["u1"], times, lag_us=201 * US)).tolist() == [1]


@given(st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_windows_are_those_of_the_plain_definition(seed):
    frame = random_log(seed, n_events=60)
    log = InteractionLog.from_frame(frame, label="label")
    columns = {name: frame.column(name).to_numpy() for name in frame.column_names}
    times = columns["timestamp"] * US
    start, stop = log.windows(frame.column("user_id"), times)
    for row in range(len(frame)):
        earlier = (columns["user_id"] == columns["user_id"][row]) & (columns["timestamp"] < columns["timestamp"][row])
        order = np.argsort(columns["timestamp"][earlier], kind="stable")
        expected = [str(item) for item in columns["item_id"][earlier][order]]
        assert log.item_ids.take(pa.array(log.item_codes[start[row] : stop[row]])).to_pylist() == expected


def test_the_order_of_the_input_does_not_matter(events):
    shuffled = events.take(pa.array([5, 0, 3, 2, 1, 4]))
    one, two = (InteractionLog.from_frame(frame, label="label") for frame in (events, shuffled))
    assert seen(one, "u1", at(500)) == seen(two, "u1", at(500))
    assert sorted(seen(one, "u2", at(500))) == sorted(seen(two, "u2", at(500)))


def test_ratings_become_labels(events):
    rated = events.append_column("stars", pa.array([5, 3, 4, 4, 1, 5]))
    log = InteractionLog.from_frame(rated, rating="stars", like_threshold=4)
    assert [label for _, label in seen(log, "u1", at(500))] == [1, 0, 1]
    assert InteractionLog.from_frame(rated).labels.tolist() == [1] * 6


def test_until_cuts_the_future(log):
    past = log.until(at(300))
    assert past.n_events == 3
    assert past.item_ids.to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda e: e.drop_columns(["user_id"]), MissingColumnError, r"\['user_id'\] is needed"),
        (lambda e: e.slice(0, 0), EmptyInputError, "has 0 rows"),
        (lambda e: e.set_column(2, "timestamp", pa.array([None] + [10**9] * 5)), TimestampError, "1 null times of 6"),
        (lambda e: e.set_column(3, "label", pa.array([0, 1, 2, 3, 4, 5])), InputError, "labels are 0 or 1"),
        (lambda e: e.set_column(0, "user_id", pa.array(["u", None] * 3)), InputError, "3 null ids of 6"),
    ],
)
def test_bad_logs_are_refused(events, change, kind, said):
    with pytest.raises(kind, match=said):
        InteractionLog.from_frame(change(events), label="label")


def test_label_and_rating_together_are_refused(events):
    with pytest.raises(InputError, match="one of them was expected"):
        InteractionLog.from_frame(events, label="label", rating="label")


def test_a_log_is_immutable_shared_by_copies_and_pickles(log):
    assert deepcopy(log) is log
    with pytest.raises(ValueError, match="read-only"):
        log.labels[0] = 9
    again = pickle.loads(pickle.dumps(log))
    assert seen(again, "u1", at(401)) == seen(log, "u1", at(401))


def test_a_broken_double_that_sees_its_own_moment_would_fail(log):
    """The check above can fail: an index with <= gives another answer."""

    class Leaky(AsOfIndex):
        def before(self, codes, times_us):
            return super().before(codes, times_us + 1)

    leaky = Leaky(log.user_codes, log.times_us, len(log.user_ids))
    code, time = log.user_code(["u2"]), np.array([at(300)])
    assert leaky.before(code, time) - leaky.first(code) == 3
    assert log.by_user.before(code, time) - log.by_user.first(code) == 1
