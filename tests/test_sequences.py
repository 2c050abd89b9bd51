from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeat import InteractionLog
from llmfeat.errors import InputError, LLMFeatWarning, MissingColumnError
from llmfeat.history.sequences import Sequences
from tests.conftest import random_log

US = 10**6
LISTS = [["a", "b", "a"], None, [], ["c"]]


def at(*seconds: int) -> np.ndarray:
    return np.array([(10**9 + second) * US for second in seconds])


def from_lists(lists=LISTS, **parameters) -> Sequences:
    column = pa.array(lists, pa.list_(pa.string()))
    users = pa.array([f"u{row}" for row in range(len(lists))])
    return Sequences.from_lists(pa.table({"history": column, "user_id": users}), "history", **parameters)


class TestOfLog:
    def test_strictly_earlier_and_oldest_first(self, log):
        rows = Sequences.of_log(log, ["u1", "u1", "u2", "u2", "nobody"], at(400, 401, 300, 301, 999))
        assert rows.to_lists() == [["a", "b"], ["a", "b", "c"], ["a"], ["a", "c", "b"], []]
        assert rows.labels.tolist() == [1, 0, 1, 0, 1, 1, 1, 0, 1]
        assert rows.users.to_pylist() == ["u1", "u1", "u2", "u2", "nobody"]
        assert (rows.times_us < at(400, 401, 300, 301, 999)[rows.row_of_event]).all()

    def test_the_last_events_the_lag_and_another_catalogue(self, log):
        assert Sequences.of_log(log, ["u1"], at(401), max_events=2).to_lists() == [["b", "c"]]
        assert Sequences.of_log(log, ["u1"], at(401), lag_us=200 * US).to_lists() == [["a", "b"]]
        other = Sequences.of_log(log, ["u1", "u2"], at(999, 999), item_ids=["z", "c", "a"])
        assert other.to_lists() == [["a", "c"], ["a", "c"]]
        assert other.item_codes.tolist() == [2, 1, 2, 1]
        assert other.n_unknown == 2

    @staticmethod
    def check_no_future(log_of, frame: pa.Table, cut: int) -> None:
        """From the cut on everything else happens, and no row up to it may look different."""
        later = pa.array(frame.column("timestamp").to_numpy() >= cut)
        items = pa.array(frame.column("item_id").to_numpy())
        changed = frame.set_column(1, "item_id", pa.compute.if_else(later, pa.compute.subtract(29, items), items))
        rows = frame.filter(pa.array(frame.column("timestamp").to_numpy() <= cut))
        one, two = (
            Sequences.of_log(log_of(each), rows["user_id"], rows["timestamp"].to_numpy() * US).to_lists()
            for each in (frame, changed)
        )
        assert one == two

    @given(st.integers(0, 30))
    @settings(max_examples=10, deadline=None)
    def test_a_future_event_changes_nothing(self, seed):
        frame = random_log(seed)
        cut = int(np.median(frame.column("timestamp").to_numpy()))
        self.check_no_future(InteractionLog.from_frame, frame, cut)

    def test_a_double_with_the_own_moment_fails(self):
        class Leaky(InteractionLog):
            def windows(self, user_ids, times_us, **parameters):
                return super().windows(user_ids, times_us + 1, **parameters)

        frame = random_log(0)
        with pytest.raises(AssertionError):
            self.check_no_future(Leaky.from_frame, frame, int(np.median(frame.column("timestamp").to_numpy())))


class TestFromLists:
    @pytest.mark.parametrize("kind", ["arrow", "large", "fixed", "chunked", "pandas", "polars"])
    def test_every_frame(self, kind):
        lists = [["a", "b"], None, ["b", "c"]]
        frame = {
            "arrow": lambda: pa.table({"h": pa.array(lists)}),
            "large": lambda: pa.table({"h": pa.array(lists, pa.large_list(pa.large_string()))}),
            "fixed": lambda: pa.table({"h": pa.array(lists, pa.list_(pa.string(), 2))}),
            "chunked": lambda: pa.table({"h": pa.chunked_array([lists[:1], lists[1:]], pa.list_(pa.string()))}),
            "pandas": lambda: pd.DataFrame({"h": [np.array(["a", "b"]), None, ["b", "c"]]}),
            "polars": lambda: pl.DataFrame({"h": lists}),
        }[kind]()
        rows = Sequences.from_lists(frame, "h")
        assert rows.to_lists() == [["a", "b"], [], ["b", "c"]]
        assert rows.item_ids.to_pylist() == ["a", "b", "c"]

    def test_ids_are_texts_and_rows_know_their_users(self):
        frame = pa.table({"h": [[7, 8], [8]], "who": [1, 2]})
        rows = Sequences.from_lists(frame, "h", item_ids=[8, 7, 9], user_id="who")
        assert rows.item_codes.tolist() == [1, 0, 0]
        assert rows.users.to_pylist() == ["1", "2"]

    def test_unknown_items_are_dropped_and_counted(self):
        with pytest.warns(LLMFeatWarning, match="names 2 events of 4 whose item the catalogue lacks"):
            rows = from_lists(item_ids=["b", "c", "d"])
        assert rows.to_lists() == [["b"], [], [], ["c"]]
        assert rows.n_unknown == 2

    def test_nothing_at_all(self):
        rows = Sequences.from_lists(pa.table({"h": pa.nulls(2)}), "h", item_ids=["a"])
        assert rows.to_lists() == [[], []]
        assert len(Sequences.from_lists(pa.table({"h": pa.array([], pa.list_(pa.string()))}), "h")) == 0

    @pytest.mark.parametrize(
        ("frame", "name", "kind", "said"),
        [
            ({"h": ["a b", "c"]}, "h", InputError, "lists of item ids were expected"),
            ({"h": [["a", None]]}, "h", InputError, "1 null ids of 2"),
            ({"h": [["a"]]}, "g", MissingColumnError, r"\['g'\] is needed"),
        ],
    )
    def test_bad_columns_are_refused(self, frame, name, kind, said):
        with pytest.raises(kind, match=said):
            Sequences.from_lists(pa.table(frame), name)


class TestRows:
    def test_by_hand(self):
        rows = from_lists(user_id="user_id")
        assert len(rows) == 4
        assert rows.n_items == 3
        assert rows.lengths.tolist() == [3, 0, 0, 1]
        assert rows.row_of_event.tolist() == [0, 0, 0, 3]
        assert rows.age_rank.tolist() == [2, 1, 0, 0]
        assert rows.last(2).to_lists() == [["b", "a"], [], [], ["c"]]
        assert rows.take(np.array([3, 0, 0])).to_lists() == [["c"], ["a", "b", "a"], ["a", "b", "a"]]
        assert rows.take(np.array([3, 0, 0])).users.to_pylist() == ["u3", "u0", "u0"]
        assert rows.take(slice(1, 9)).to_lists() == [[], [], ["c"]]
        assert rows.keep(rows.item_codes == 0).to_lists() == [["a", "a"], [], [], []]
        assert rows.keep(rows.item_codes == 0).users is rows.users
        assert rows.item_code(["c", "x"]).tolist() == [2, -1]

    def test_append(self, log):
        rows = from_lists().append([1, 2, -1, 0])
        assert rows.to_lists() == [["a", "b", "a", "b"], ["c"], [], ["c", "a"]]
        timed = Sequences.of_log(log, ["u1", "nobody"], at(300, 300)).append([2, 2], times_us=at(500, 501))
        assert timed.to_lists() == [["a", "b", "c"], ["c"]]
        assert timed.times_us.tolist() == at(100, 200, 500, 501).tolist()
        assert timed.labels.tolist() == [1, 0, 1, 1]
        assert timed.positives().to_lists() == [["a", "c"], ["c"]]

    @given(st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=6), st.integers(0, 7))
    @settings(max_examples=30, deadline=None)
    def test_they_are_the_lists_that_they_were_made_of(self, lists, n_events):
        table = pa.table({"h": pa.array(lists, pa.list_(pa.int64()))})
        rows = Sequences.from_lists(table, "h", item_ids=list(range(6)))
        assert rows.to_lists() == [[str(item) for item in each] for each in lists]
        assert rows.last(n_events).to_lists() == [
            [str(item) for item in each[max(0, len(each) - n_events) :]] for each in lists
        ]
        turned = np.arange(len(lists))[::-1]
        assert rows.take(turned).take(turned).to_lists() == rows.to_lists()

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"offsets": np.array([0, 1])}, "do not go from 0 to the 2 events"),
            ({"offsets": np.array([0, 2, 1, 2])}, "offsets fall"),
            ({"item_codes": np.array([0, 3], dtype=np.int32)}, "go from 0 to 3, but the catalogue has 2 items"),
            ({"labels": np.ones(3, dtype=np.float32)}, "labels has 3 entries for 2 events"),
            ({"users": pa.array(["u"] * 2)}, "users has 2 entries for 1 rows"),
        ],
    )
    def test_arrays_that_do_not_fit_are_refused(self, change, said):
        good = {
            "item_codes": np.array([0, 1], dtype=np.int32),
            "offsets": np.array([0, 2]),
            "item_ids": pa.array(["a", "b"]),
        }
        with pytest.raises(InputError, match=said):
            Sequences(**{**good, **change})

    def test_appending_of_another_number_or_without_times_is_refused(self, log):
        with pytest.raises(InputError, match="for 4 rows"):
            from_lists().append([1])
        with pytest.raises(InputError, match="all events have a time or none"):
            Sequences.of_log(log, ["u1"], at(300)).append([1])
