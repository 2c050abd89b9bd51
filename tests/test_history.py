from __future__ import annotations

import pickle
from copy import deepcopy

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeat import ActivityFeatures, HistoryFeatures, InteractionLog, VectorTable
from llmfeat.errors import DuplicateIdError, EmptyInputError, InputError, MissingColumnError, TimestampError
from llmfeat.features._activity import ACTIVITY_NAMES
from llmfeat.history import HISTORY_AS_OF_US, AsOfIndex, LabelDelay, index
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


class TestAsOfIndex:
    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=40), st.booleans())
    @settings(max_examples=60, deadline=None)
    def test_it_is_the_plain_definition(self, pairs, is_sorted):
        pairs = sorted(pairs) if is_sorted else pairs
        codes, times = (
            np.array(values, dtype=np.int64) for values in (zip(*pairs, strict=True) if pairs else ([], []))
        )
        got = AsOfIndex(codes, times, 5)
        assert got.order.tolist() == sorted(range(len(pairs)), key=lambda at: pairs[at])
        assert got.sort(times).tolist() == times[got.order].tolist()
        assert got.times_at(np.arange(len(pairs))).tolist() == times[got.order].tolist()
        asked = [(code, time) for code in range(-1, 5) for time in range(-1, 11)]
        wanted, moments = (np.array(values) for values in zip(*asked, strict=True))
        counts = [sum(code == c and earlier < time for c, earlier in pairs) for code, time in asked]
        assert (got.before(wanted, moments) - got.first(wanted)).tolist() == counts
        assert got.before(wanted, moments)[wanted < 0].tolist() == [0] * 12

    def test_blocks_of_rows_do_not_matter(self, monkeypatch):
        draw = np.random.default_rng(0)
        codes, times = draw.integers(0, 9, 500), draw.integers(0, 50, 500)
        got = AsOfIndex(codes, times, 9)
        whole = got.before(codes, times)
        monkeypatch.setattr(index, "_BLOCK_ROWS", 7)
        assert got.before(codes, times).tobytes() == whole.tobytes()

    def test_what_it_holds(self):
        """The figures in the docstrings."""
        log = InteractionLog.from_frame(random_log(0), label="label")
        arrays = (log.user_codes, log.item_codes, log.times_us, log.labels)
        assert sum(array.itemsize for array in arrays) == 20
        assert log.by_user.order.tolist() == list(range(log.n_events))
        assert log.by_user.sort(log.labels) is log.labels  # no order is held, and nothing is copied
        for each in (log.by_item, log.by_time, log.by_pair[1]):
            assert each.order.dtype == np.int32


def test_a_log_does_not_change_with_what_it_was_made_of():
    users, times, labels = pa.array(["u", "u"]), np.array([at(1), at(2)]), np.array([1, 0], dtype=np.float32)
    frame = pd.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"], "label": labels})
    frame["timestamp"] = pd.to_datetime(times, unit="us", utc=True).astype("datetime64[us, UTC]")
    logs = [InteractionLog.from_arrays(users, users, times, labels), InteractionLog.from_frame(frame, label="label")]
    times += 5
    labels += 5
    frame.label += 5
    frame["timestamp"].array._ndarray[:] += np.timedelta64(5, "us")
    for log in logs:
        assert log.times_us.tolist() == [at(1), at(2)]
        assert log.labels.tolist() == [1, 0]


class TestLabelDelay:
    @given(st.integers(0, 50), st.sampled_from([0, 700, 701, 3500, 10**6]), st.sampled_from([0, 1400]))
    @settings(max_examples=20, deadline=None)
    def test_labels_are_known_after_the_delay_and_no_earlier(self, seed, delay_s, lag_s):
        frame = random_log(seed, n_events=80, n_users=4)
        log = InteractionLog.from_frame(frame, label="label", available_after_s=delay_s)
        users, times = (frame.column(name).to_pylist() for name in ("user_id", "timestamp"))
        as_of_us = np.array(times) * US
        start, labelled, stop = log.labelled_windows(users, as_of_us, max_events=9, lag_us=lag_s * US)
        for window, got in zip(
            (start, stop), log.windows(users, as_of_us, max_events=9, lag_us=lag_s * US), strict=True
        ):
            assert window.tolist() == got.tolist()
        for row, (user, time) in enumerate(zip(users, times, strict=True)):
            seen_at = sorted(t for u, t in zip(users, times, strict=True) if u == user and t < time - lag_s)[-9:]
            assert stop[row] - start[row] == len(seen_at)
            assert labelled[row] - start[row] == sum(t + delay_s < time - lag_s for t in seen_at)

    def test_a_double_without_the_delay_fails_that_check(self, monkeypatch):
        monkeypatch.setattr(LabelDelay, "known_before", lambda self, as_of_us: as_of_us)
        with pytest.raises(AssertionError):
            self.test_labels_are_known_after_the_delay_and_no_earlier.hypothesis.inner_test(self, 0, 3500, 0)

    @given(st.integers(0, 30), st.just(3500))
    @settings(max_examples=8, deadline=None)
    def test_a_label_that_is_not_known_changes_no_feature(self, seed, declared_s):
        frame = random_log(seed, n_events=150)
        times, labels = (frame.column(name).to_numpy() for name in ("timestamp", "label"))
        cut = int(np.median(times))
        other = np.where(times + 3500 >= cut, 1 - labels, labels)
        rows = frame.filter(pa.array(times <= cut))
        matrices = []
        for each in (labels, other):
            events = frame.set_column(3, "label", pa.array(each))
            log = InteractionLog.from_frame(events, label="label", available_after_s=declared_s)
            matrices.append(ActivityFeatures(log).fit(rows).transform(rows))
        np.testing.assert_array_equal(*matrices)

    def test_a_double_that_declares_no_delay_fails_that_check(self):
        with pytest.raises(AssertionError):
            self.test_a_label_that_is_not_known_changes_no_feature.hypothesis.inner_test(self, 0, 0)

    def test_activity_by_hand(self, events):
        """u1 at 401 s has seen a (liked, at 100 s), b (not, at 200 s) and c (liked, at 400 s), and knows two labels."""
        log = InteractionLog.from_frame(events, label="label", available_after_s=150)
        row = pa.table({"user_id": ["u1"], "item_id": ["b"], "timestamp": [10**9 + 401]})
        values = ActivityFeatures(log).fit(row).transform(row)[0].tolist()
        got = dict(zip(ACTIVITY_NAMES, values, strict=True))
        assert got["user_n_events"] == got["user_n_1h"] == got["user_session_n"] == 3
        assert got["user_since_last_s"] == 1
        assert got["rate"] == pytest.approx(2 / 3)  # u2 liked a at 200 s
        assert got["user_label_last1"] == 0
        assert got["user_label_last5"] == got["user_label_1h"] == got["user_session_label"] == 0.5
        assert got["user_rate"] == pytest.approx((1 + 10 * 2 / 3) / 12)
        # When a came nothing was known: .5 was expected of it; when b came, after 100 s, still nothing was.
        assert got["user_excess"] == pytest.approx((0.5 - 0.5) / 2)
        assert got["item_n_events"] == 2
        assert got["item_label_last5"] == 0  # u2's label of b, at 300 s, is not known

    def test_counts_are_those_without_a_delay(self):
        frame = random_log(2)
        now, late = (InteractionLog.from_frame(frame, label="label", available_after_s=each) for each in (0, 10**5))
        matrices = [ActivityFeatures(log).fit(frame).transform(frame) for log in (now, late)]
        counts = [at for at, name in enumerate(ACTIVITY_NAMES) if "_n" in name or "_s" in name[-2:]]
        assert len(counts) > 10
        np.testing.assert_array_equal(matrices[0][:, counts], matrices[1][:, counts])
        assert not np.array_equal(matrices[0], matrices[1], equal_nan=True)

    def test_a_log_that_was_cut_learns_no_label_afterwards(self, events):
        log = InteractionLog.from_frame(events, label="label", available_after_s=150)
        later = np.array([at(10**6)])
        start, labelled, stop = log.until(at(401)).labelled_windows(["u1"], later)
        assert (labelled - start, stop - start) == (2, 3)
        assert log.until(at(401)).until(at(900)).label_delay.cut_us == at(401)
        start, labelled, stop = log.labelled_windows(["u1"], later)
        assert (labelled - start, stop - start) == (3, 3)
        assert log.until(at(401), labelled=True).n_events == 3  # those before 251 s

    @pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), "1d", None])
    def test_bad_delays_are_refused(self, events, bad):
        with pytest.raises(InputError, match="available_after_s="):
            InteractionLog.from_frame(events, available_after_s=bad)


FRAMES = {"arrow": pa.table, "pandas": pd.DataFrame, "polars": pl.DataFrame}


def own(log, row):
    return log.item_ids.take(pa.array(log.item_codes[log.as_of(row, HISTORY_AS_OF_US)])).to_pylist()


class TestFromHistories:
    @given(st.lists(st.none() | st.lists(st.sampled_from("abcd"), max_size=4), min_size=1, max_size=8))
    @settings(max_examples=30, deadline=None)
    def test_each_row_sees_its_own_history_and_nothing_else(self, lists):
        column = pa.array(lists, pa.list_(pa.string()))
        for history in (column, column.cast(pa.large_list(pa.string())), pa.chunked_array([column[:2], column[2:]])):
            log = InteractionLog.from_histories(pa.table({"history_item_ids": history}))
            assert [own(log, row) for row in range(len(lists))] == [each or [] for each in lists]
            assert (log.user_code(np.arange(len(lists))) >= 0).tolist() == [bool(each) for each in lists]

    @pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
    def test_frames_of_every_kind_give_the_same_log(self, make):
        frame = make({"row": ["x", "y", "z"], "items": [[7, 8], None, [8]], "liked": [[0, 1], None, [1]]})
        log = InteractionLog.from_histories(frame, row_id="row", history="items", labels="liked")
        assert [seen(log, row, HISTORY_AS_OF_US) for row in "xyz"] == [[("7", 0), ("8", 1)], [], [("8", 1)]]
        assert log.times_us.tolist() == [HISTORY_AS_OF_US - 2, HISTORY_AS_OF_US - 1, HISTORY_AS_OF_US - 1]

    @pytest.mark.parametrize("lists", [[None, None], [[], []]])
    @pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
    def test_histories_that_are_all_empty_are_an_empty_log(self, make, lists):
        log = InteractionLog.from_histories(make({"history_item_ids": lists}))
        assert log.n_events == 0
        rows = pa.table({"row_id": [0, 1], "item_id": ["a", "b"], "timestamp": [HISTORY_AS_OF_US] * 2})
        table = VectorTable.from_arrays(["a"], [[1.0, 0.0]])
        matrix = HistoryFeatures(log, {"text": table}, user_id="row_id").fit(rows).transform(rows)
        assert matrix[:, 0].tolist() == [1, 0]
        assert np.isnan(matrix[:, 2:]).all()
        assert ActivityFeatures(log, user_id="row_id").fit(rows).transform(rows)[:, 0].tolist() == [0, 0]

    def test_features_are_those_of_the_log_that_the_histories_came_from(self, log, events):
        """What a user has done, sent along with the request, gives the bits that the log gives."""
        table = VectorTable.from_arrays(["a", "b", "c"], [[1, 0], [0.6, 0.8], [0, 2]])
        rows = events.set_column(2, "timestamp", pa.array([10**9 + 500] * 6))
        told = [seen(log, user, at(500)) for user in rows.column("user_id").to_pylist()]
        carried = pa.table({"h": [[i for i, _ in each] for each in told], "l": [[k for _, k in each] for each in told]})
        request = rows.set_column(2, "timestamp", pa.array([HISTORY_AS_OF_US] * 6))
        request = request.append_column("row_id", pa.array(range(6)))
        theirs = InteractionLog.from_histories(carried, history="h", labels="l")
        one = HistoryFeatures(log, {"text": table}).fit(rows).transform(rows)
        two = HistoryFeatures(theirs, {"text": table}, user_id="row_id").fit(request).transform(request)
        assert one.tobytes() == two.tobytes()

    def test_times_decide_where_they_are_given(self):
        frame = pa.table({"history_item_ids": [["a", "b", "c"]], "times": [[10**9 + 5, 10**9 + 1, 10**9 + 5]]})
        log = InteractionLog.from_histories(frame, timestamps="times")
        assert [item for item, _ in seen(log, "0", at(6))] == ["b", "a", "c"]
        assert [item for item, _ in seen(log, "0", at(5))] == ["b"]

    @pytest.mark.parametrize(
        ("columns", "parameters", "kind", "said"),
        [
            ({"h": [["a"], ["b"]], "r": [1, 1]}, {"row_id": "r"}, DuplicateIdError, "1 distinct ids in 2 rows"),
            ({"h": ["a", "b"]}, {}, InputError, "is of type string, but a list"),
            ({"h": [["a", None]]}, {}, InputError, "1 null ids of 2"),
            ({"h": [["a", "b"], None], "l": [[1], None]}, {"labels": "l"}, InputError, "in 1 rows of 2"),
            ({"h": [["a"]], "l": [[3]]}, {"labels": "l"}, InputError, "labels are 0 or 1"),
            ({"h": [["a"]], "l": [[None]]}, {"labels": "l"}, InputError, "1 null labels of 1"),
            ({"h": [["a"]], "t": [[5]]}, {"timestamps": "t"}, TimestampError, "no epoch"),
            ({"x": [["a"]]}, {}, MissingColumnError, "'h'"),
        ],
    )
    def test_what_cannot_be_a_history_is_refused(self, columns, parameters, kind, said):
        with pytest.raises(kind, match=said):
            InteractionLog.from_histories(pa.table(columns), history="h", **parameters)
