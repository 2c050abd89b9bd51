from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeat import InteractionLog
from llmfeat.errors import InputError, TimestampError
from llmfeat.history import LabelDelay, UserHistory
from llmfeat.history.user import known_labels
from tests.conftest import random_log

US = 10**6
T0 = 10**9
NAN = float("nan")


def history(*rows: tuple[str, int, float]) -> UserHistory:
    """Events of (item, time in microseconds, label), in their order."""
    items, times, labels = zip(*rows, strict=True) if rows else ([], [], [])
    return UserHistory([*items], np.array(labels, np.float32), np.array(times, np.int64))


def rows_of(one: UserHistory) -> list[tuple[str, int, float | None]]:
    labels = [None if np.isnan(label) else label for label in one.labels.tolist()]
    return list(zip(one.item_ids, one.times_us.tolist(), labels, strict=True))


# Few items and moments, so that many events meet.
EVENT = st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.sampled_from([0.0, 1.0, NAN]))


@st.composite
def histories(draw, *, min_size: int = 0):
    """A history without doubles: an item once in a moment."""
    events = draw(st.lists(EVENT, min_size=min_size, max_size=10, unique_by=lambda event: event[:2]))
    return history(*sorted(events, key=lambda event: event[1]))


class TestOf:
    def test_events_are_put_in_order(self):
        one = UserHistory.of(["a", "b", "c"], [T0 + 60, T0, T0 + 60], labels=[1, None, 0])
        assert rows_of(one) == [("b", T0 * US, None), ("a", (T0 + 60) * US, 1), ("c", (T0 + 60) * US, 0)]
        assert (one.labels.dtype, one.times_us.dtype) == (np.float32, np.int64)

    def test_every_event_is_a_positive_without_labels(self):
        assert UserHistory.of([7, 8], [T0, T0 + 1]).labels.tolist() == [1, 1]
        assert UserHistory.of([7, 8], [T0, T0 + 1]).item_ids == ["7", "8"]

    def test_nothing(self):
        assert len(UserHistory.empty()) == len(UserHistory.of([], [])) == 0
        assert UserHistory.empty().seen_before(2**62) == 0

    @pytest.mark.parametrize(
        ("given", "kind", "said"),
        [
            ((["a"], [T0, T0], [1]), InputError, "1 items, 2 times and 1 labels came"),
            ((["a"], [T0], [1, 0]), InputError, "1 items, 1 times and 2 labels came"),
            ((["a", None], [T0, T0], None), InputError, "null ids"),
            ((["a"], [None], None), TimestampError, "null times"),
            ((["a"], [T0], [2]), InputError, "other than 0, 1 and None: turn ratings into those first"),
            ((["a"], [T0], ["liked"]), InputError, "no numbers"),
        ],
    )
    def test_what_is_no_history(self, given, kind, said):
        items, times, labels = given
        with pytest.raises(kind, match=said):
            UserHistory.of(items, times, labels=labels)


class TestOfLog:
    def test_by_hand(self, log):
        assert rows_of(UserHistory.of_log(log, "u1")) == [
            *(("a", (T0 + 100) * US, 1), ("b", (T0 + 200) * US, 0), ("c", (T0 + 400) * US, 1))
        ]
        assert UserHistory.of_log(log, "u2", max_events=2).item_ids == ["c", "b"]
        assert rows_of(UserHistory.of_log(log, "nobody")) == []

    @given(st.integers(0, 1000), st.integers(1, 40))
    @settings(max_examples=25, deadline=None)
    def test_it_is_the_windows_of_the_log(self, seed, max_events):
        log = InteractionLog.from_frame(random_log(seed), label="label")
        moments = np.arange(T0, T0 + 90 * 700, 3001) * US
        for user in log.user_ids.to_pylist():
            whole = UserHistory.of_log(log, user)
            start, stop = log.windows([user] * len(moments), moments)
            assert [whole.seen_before(int(moment)) for moment in moments] == (stop - start).tolist()
            rows = log.as_of(user, 2**62)
            assert whole.item_ids == log.item_ids.take(pa.array(log.item_codes[rows])).to_pylist()
            assert whole.labels.tobytes() == log.labels[rows].tobytes()
            assert whole.times_us.tobytes() == log.times_us[rows].tobytes()
            assert rows_of(UserHistory.of_log(log, user, max_events=max_events)) == rows_of(whole)[-max_events:]
            assert rows_of(whole.latest(max_events)) == rows_of(whole)[-max_events:]

    @given(st.integers(0, 1000), st.integers(0, 90), st.sampled_from([0, 700, 5000]))
    @settings(max_examples=25, deadline=None)
    def test_labels_are_known_as_the_log_says(self, seed, at, delay_s):
        log = InteractionLog.from_frame(random_log(seed), label="label", available_after_s=delay_s)
        moment = (T0 + at * 700) * US
        for user in log.user_ids.to_pylist():
            start, labelled, _ = log.labelled_windows([user], np.array([moment]))
            assert UserHistory.of_log(log, user).known_until(moment, log.label_delay) == int((labelled - start)[0])

    def test_labels_that_a_cut_log_does_not_know(self, events):
        log = InteractionLog.from_frame(events, label="label", available_after_s=150)
        cut = log.until((T0 + 401) * US)  # labels of events before 251 s had arrived
        assert rows_of(UserHistory.of_log(cut, "u1")) == [
            *(("a", (T0 + 100) * US, 1), ("b", (T0 + 200) * US, 0), ("c", (T0 + 400) * US, None))
        ]
        assert np.isnan(known_labels(cut)).sum() == 3
        assert known_labels(log).tolist() == log.labels.tolist()


class TestSeen:
    def test_strictly_earlier(self):
        one = history(("a", 10, 1), ("b", 20, 1), ("c", 20, 1), ("d", 30, 1))
        assert [one.seen_before(moment) for moment in (10, 11, 20, 21, 30, 31)] == [0, 1, 1, 3, 3, 4]

    def test_an_index_that_sees_its_own_moment_would_be_found(self):
        """The broken double of the test above and of the windows of the log."""
        one = history(("a", 10, 1), ("b", 20, 1))
        assert int(np.searchsorted(one.times_us, 20, side="right")) != one.seen_before(20)

    def test_labels_come_later_than_their_events(self):
        one = history(("a", 10, 1), ("b", 20, 1), ("c", 30, 1))
        assert one.known_until(31, LabelDelay()) == 3
        assert one.known_until(31, LabelDelay(10)) == 2
        assert one.known_until(30, LabelDelay(10)) == 1
        assert one.known_until(1000, LabelDelay(10, cut_us=31)) == 2


class TestWithEvent:
    def test_in_its_place(self):
        one = history(("a", 10, 1), ("b", 20, 0))
        assert rows_of(one.with_event("c", 15, 1)) == [("a", 10, 1), ("c", 15, 1), ("b", 20, 0)]
        assert rows_of(one.with_event("c", 20, 1)) == [("a", 10, 1), ("b", 20, 0), ("c", 20, 1)]
        assert rows_of(one.with_event("c", 5, NAN))[0] == ("c", 5, None)
        assert rows_of(one) == [("a", 10, 1), ("b", 20, 0)]  # as it was

    def test_the_same_event_changes_nothing_and_brings_its_label(self):
        one = UserHistory.empty().with_event("a", 10, NAN)
        assert one.with_event("a", 10, NAN) is one
        known = one.with_event("a", 10, 0)
        assert rows_of(known) == [("a", 10, 0)]
        assert known.with_event("a", 10, NAN) is known
        assert rows_of(known.with_event("a", 10, 1)) == [("a", 10, 1)]  # corrected
        assert rows_of(one) == [("a", 10, None)]

    @given(histories(), EVENT)
    def test_twice_is_once(self, one, event):
        once = one.with_event(*event)
        assert once.with_event(*event) is once
        assert (np.diff(once.times_us) >= 0).all()
        assert len(once) == len({row[:2] for row in rows_of(one)} | {event[:2]})

    @given(histories(), st.lists(EVENT, max_size=6))
    def test_the_order_of_delivery_does_not_matter_for_what_is_there(self, one, events):
        """Of events that name one item in one moment the last label counts, so each is delivered once."""
        distinct = [*{event[:2]: event for event in events}.values()]
        forth, back = one, one
        for event in distinct:
            forth = forth.with_event(*event)
        for event in reversed(distinct):
            back = back.with_event(*event)
        assert Counter(rows_of(forth)) == Counter(rows_of(back))


def plain_union(older: UserHistory, newer: UserHistory) -> set[tuple[str, int, float | None]]:
    """What is known after both: the older one, the newer one's events from its last moment on, each once."""
    if not len(older) or not len(newer):
        return {*rows_of(older), *rows_of(newer)}
    last = older.times_us[-1]
    labels = {row[:2]: row[2] for row in rows_of(older)}
    for item, moment, label in rows_of(newer):
        if (item, moment) in labels:
            labels[item, moment] = label if labels[item, moment] is None else labels[item, moment]
        elif moment >= last:
            labels[item, moment] = label
    return {(item, moment, label) for (item, moment), label in labels.items()}


class TestFollowedBy:
    def test_by_hand(self):
        batch = history(("a", 10, 1), ("b", 20, NAN), ("c", 20, 1))
        pushed = history(("x", 15, 1), ("b", 20, 0), ("d", 20, 1), ("e", 30, NAN))
        assert rows_of(batch.followed_by(pushed)) == [
            *(("a", 10, 1), ("b", 20, 0), ("c", 20, 1), ("d", 20, 1), ("e", 30, None))
        ]  # x is older than the batch, which would hold it
        assert rows_of(batch) == [("a", 10, 1), ("b", 20, None), ("c", 20, 1)]

    def test_with_nothing(self):
        one = history(("a", 10, 1))
        assert one.followed_by(UserHistory.empty()) is one
        assert UserHistory.empty().followed_by(one) is one

    def test_a_label_that_is_known_stays(self):
        assert rows_of(history(("a", 10, 1)).followed_by(history(("a", 10, 0)))) == [("a", 10, 1)]

    @given(histories(), histories())
    def test_it_is_the_union_without_doubles(self, older, newer):
        both = older.followed_by(newer)
        assert len(set(rows_of(both))) == len(both)
        assert set(rows_of(both)) == plain_union(older, newer)
        assert (np.diff(both.times_us) >= 0).all()
        assert (both.labels.dtype, both.times_us.dtype) == (np.float32, np.int64)

    @given(histories(), histories())
    def test_again_changes_nothing(self, older, newer):
        both = older.followed_by(newer)
        assert rows_of(both.followed_by(newer)) == rows_of(both)
        assert rows_of(both.followed_by(both)) == rows_of(both)

    @given(histories(min_size=1), st.integers(0, 10), st.integers(0, 10))
    def test_two_pieces_of_one_history_are_that_history(self, whole, until, since):
        """Whatever of it was materialized and pushed, as long as nothing between the two is missing."""
        until, since = min(until, len(whole)), min(since, until, len(whole))
        batch, pushed = whole.latest(len(whole)), whole.latest(len(whole) - since)
        batch = UserHistory(batch.item_ids[:until], batch.labels[:until], batch.times_us[:until])
        assert Counter(rows_of(batch.followed_by(pushed))) == Counter(rows_of(whole))

    @given(histories(min_size=1), histories(min_size=1))
    def test_the_check_finds_one_that_counts_twice(self, older, newer):
        """The broken double: the newer one at the end of the older."""
        both = UserHistory(
            older.item_ids + newer.item_ids,
            np.concatenate([older.labels, newer.labels]),
            np.concatenate([older.times_us, newer.times_us]),
        )
        shared = {row[:2] for row in rows_of(older)} & {row[:2] for row in rows_of(newer)}
        keys = [row[:2] for row in rows_of(both)]
        assert (len(set(keys)) == len(keys)) == (not shared)
