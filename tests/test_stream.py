"""Histories that are pushed an event at a time, read together with those that were materialized."""

from __future__ import annotations

import itertools
import json
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeat import EventPusher, FeastHistories, InteractionLog, materialize
from llmfeat.errors import InputError, StoreConfigError, StoreError, TimestampError
from llmfeat.history import UserHistory
from llmfeat.store import init_repo, open_store, stream
from llmfeat.store.dialects.feast import FeastDialect
from llmfeat.store.dialects.redis import RedisDialect
from llmfeat.store.dialects.sqlite import SqliteDialect
from llmfeat.store.state import STATE_ID
from llmfeat.store.values import pack_bytes
from tests.stores import FEAST_WARNINGS, apply, numbered, put_vectors, seen_by_feast

US = 10**6
T0 = 10**9
module = __import__("llmfeat.store.materialize", fromlist=["drop_pushed"])

pytestmark = FEAST_WARNINGS


def events(*rows, **options) -> InteractionLog:
    """A log of (user, item, seconds since T0, label)."""
    users, items, times, labels = zip(*rows, strict=True)
    frame = {"user_id": users, "item_id": items, "timestamp": [T0 + second for second in times], "label": labels}
    return InteractionLog.from_frame(pa.table(frame), label="label", **options)


LOG = (("u", "a", 100, 1), ("u", "b", 200, 0), ("v", "a", 250, 1))


class Store:
    """A repository whose log ends 250 s after T0, materialized."""

    def __init__(self, folder, options, *rows, max_events=5):
        self.folder = folder / "log"
        events(*(rows or LOG)).save(self.folder)
        self.repo = init_repo(folder / "repo", log=self.folder, max_events=max_events, **options)
        put_vectors(self.repo / "data" / "item_vectors", numbered(2))
        apply(self.repo)
        materialize(self.repo)
        (first,) = {
            view.tags["fingerprint"]
            for view in open_store(self.repo).list_feature_views()
            if view.tags["llmfeat"] == "user_histories"
        }
        self.pusher = EventPusher(self.repo, fingerprint=first)
        self.histories = FeastHistories(self.repo, fingerprint=first)

    def night(self, *rows):
        """Materialize another log."""
        events(*rows).save(self.folder)
        materialize(self.repo)

    def push(self, user, item, second, label=1):
        self.pusher.push(user, item, timestamp=T0 + second, label=label)

    def __call__(self, user):
        return seen(self.histories(user))


def seen(history: UserHistory) -> list[tuple[str, int, float | None]]:
    labels = [None if np.isnan(label) else label for label in history.labels.tolist()]
    seconds = [time_us // US - T0 for time_us in history.times_us.tolist()]
    return list(zip(history.item_ids, seconds, labels, strict=True))


@pytest.fixture
def store(tmp_path, online):
    return Store(tmp_path, online)


@pytest.fixture
def writes(monkeypatch):
    """The ids of every write that reaches a store, records left out."""
    written = []
    for dialect in (SqliteDialect, RedisDialect):
        write, modify = dialect.write, dialect.modify

        def watched(self, ids, fields, moment_us, write=write):
            written.extend(key for key in ids if key != STATE_ID)
            write(self, ids, fields, moment_us)

        def modifying(self, key, fields, change, modify=modify):
            done = modify(self, key, fields, change)
            written.extend([key] if done else [])
            return done

        monkeypatch.setattr(dialect, "write", watched)
        monkeypatch.setattr(dialect, "modify", modifying)
    return written


@pytest.fixture
def unguarded(monkeypatch):
    """A double of the stores: between what they read and what they write another writer may come."""
    for dialect in (SqliteDialect, RedisDialect):
        monkeypatch.setattr(dialect, "modify", FeastDialect.modify)


class TestPush:
    def test_the_next_request_sees_it(self, store):
        assert store("u") == [("a", 100, 1), ("b", 200, 0)]
        store.push("u", "c", 300)
        assert store("u") == [("a", 100, 1), ("b", 200, 0), ("c", 300, 1)]
        store.push("new", "c", 300, label=0)
        store.push(7, 8, 310)
        assert (store("new"), store("7"), store("nobody")) == ([("c", 300, 0)], [("8", 310, 1)], [])
        assert [seen(each) for each in store.histories.read(["v", "u", "v"])] == [store("v"), store("u"), store("v")]

    def test_feasts_own_reader_sees_it(self, store):
        store.push("u", "c", 300)
        (cell,) = seen_by_feast(open_store(store.repo), store.histories.events.name, "item_ids", ["u"], key="user_id")
        assert json.loads(cell) == ["c"]

    def test_now_by_default_and_datetimes(self, store):
        began = datetime.now(UTC)
        store.pusher.push("u", "c")
        store.pusher.push("u", "d", timestamp=datetime(2001, 9, 9, 2, tzinfo=UTC))
        *_, (_, second, _), (_, now, _) = store("u")
        assert second == datetime(2001, 9, 9, 2, tzinfo=UTC).timestamp() - T0
        assert 0 <= T0 + now - began.timestamp() + 1 < 60

    def test_the_same_event_twice_is_once_and_writes_nothing(self, store, writes):
        store.push("u", "c", 300)
        assert writes == ["u"]
        store.push("u", "c", 300)
        store.push("u", "c", 300, label=None)
        assert writes == ["u"]
        store.push("u", "c", 301)
        assert store("u")[2:] == [("c", 300, 1), ("c", 301, 1)]

    def test_its_label_comes_later(self, store):
        store.push("u", "c", 300, label=None)
        assert store("u")[2:] == [("c", 300, None)]
        store.push("u", "c", 300, label=0)
        assert store("u")[2:] == [("c", 300, 0)]
        store.push("u", "c", 300, label=1)
        assert store("u")[2:] == [("c", 300, 1)]

    def test_out_of_order(self, store):
        for item, second in (("d", 400), ("c", 300), ("e", 350), ("f", 300)):
            store.push("u", item, second)
        assert [item for item, *_ in store("u")[1:]] == ["c", "f", "e", "d"]  # the last five; of 300 s as they came

    def test_a_frame_at_once(self, store, writes):
        frame = pa.table(
            {
                "who": ["u", "w", "u"],
                "item_id": ["d", "a", "c"],
                "timestamp": [T0 + 400, T0 + 400, T0 + 300],
                "liked": [1, 0, None],
            }
        )
        assert store.pusher.push_frame(frame.drop_columns("liked"), user_id="who") == 2
        assert sorted(writes) == ["u", "w"]  # each user once
        assert store("u")[2:] == [("c", 300, 1), ("d", 400, 1)]
        assert store.pusher.push_frame(frame.slice(1, 1), user_id="who", label="liked") == 1
        assert store("w") == [("a", 400, 0)]

    def test_the_last_events_are_kept(self, tmp_path, online):
        store = Store(tmp_path, online, max_events=3)
        assert store.histories.max_events == 3
        for second in range(300, 306):
            store.push("u", f"i{second}", second)
        assert [item for item, *_ in store("u")] == ["i303", "i304", "i305"]
        store.push("v", "b", 300)
        store.push("v", "c", 301)
        assert [item for item, *_ in store("v")] == ["a", "b", "c"]
        store.push("v", "d", 302)
        assert [item for item, *_ in store("v")] == ["b", "c", "d"]


class TestAtOnce:
    def lost(self, store, pushers, user):
        """Push from two threads for one user; return how many of the events are not there."""

        def push(first):
            for at in range(first, 60, 2):
                pushers[first].push(user, f"i{at}", timestamp=T0 + 300 + at)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(push, (0, 1)))
        return 60 - len(store(user))

    def test_two_threads_lose_nothing(self, tmp_path, online):
        store = Store(tmp_path, online, max_events=100)
        assert self.lost(store, [store.pusher] * 2, "w") == 0

    def test_two_that_know_nothing_of_each_other_lose_nothing(self, tmp_path, online):
        """As two processes do."""
        store = Store(tmp_path, online, max_events=100)
        assert self.lost(store, [EventPusher(store.repo), EventPusher(store.repo)], "w") == 0

    def test_a_double_without_transactions_fails_that_check(self, tmp_path, online, unguarded):
        store = Store(tmp_path, online, max_events=100)
        assert any(
            self.lost(store, [EventPusher(store.repo), EventPusher(store.repo)], f"w{attempt}") for attempt in range(9)
        )


class TestNights:
    def test_what_the_log_has_by_then_counts_once(self, store):
        store.push("u", "c", 300)
        store.push("u", "d", 400, label=None)
        store.push("u", "e", 500)
        store.night(*LOG, ("u", "c", 300, 1), ("u", "d", 400, 0))
        assert store("u") == [("a", 100, 1), ("b", 200, 0), ("c", 300, 1), ("d", 400, 0), ("e", 500, 1)]
        store.night(*LOG, ("u", "c", 300, 1), ("u", "d", 400, 0), ("u", "e", 500, 1))
        assert store("u") == seen(UserHistory.of_log(InteractionLog.open(store.folder), "u"))

    def test_a_label_that_the_log_had_too_early_gives_way_to_the_pushed_one(self, tmp_path, online):
        """Labels arrive after an hour: what the log says of a young event is that nothing happened yet."""
        store = Store(tmp_path, online)
        events(*LOG, available_after_s=3600).save(store.folder)
        apply(store.repo)
        materialize(store.repo)
        views = [view.tags for view in open_store(store.repo).list_feature_views()]
        (late,) = {tags["fingerprint"] for tags in views if tags.get("available_after_us") == "3600000000"}
        EventPusher(store.repo, fingerprint=late).push("u", "b", timestamp=T0 + 200, label=1)
        assert seen(FeastHistories(store.repo, fingerprint=late)("u")) == [("a", 100, 1), ("b", 200, 1)]
        store.push("u", "b", 200, label=1)  # where labels are there at once, the log knows
        assert seen(store.histories.read(["u"])[0]) == [("a", 100, 1), ("b", 200, 0)]

    def test_another_event_of_the_last_moment_is_no_double(self, store):
        store.push("u", "z", 200)
        store.push("u", "b", 200)
        assert store("u") == [("a", 100, 1), ("b", 200, 0), ("z", 200, 1)]

    def test_a_user_who_is_gone_keeps_only_what_came_after_the_log(self, store):
        store.push("u", "c", 230)
        store.push("u", "d", 260)
        store.push("v", "c", 230)
        store.night(("v", "a", 250, 1))
        assert store("u") == [("d", 260, 1)]  # the log ends at 250, and says that 230 is gone
        assert store("v") == [("a", 250, 1)]
        store.push("u", "e", 270)
        assert store("u") == [("d", 260, 1), ("e", 270, 1)]

    def test_a_double_that_drops_nothing_fails_that_check(self, store, monkeypatch):
        monkeypatch.setattr(module, "drop_pushed", lambda view, ids, until_us: None)
        with pytest.raises(AssertionError):
            self.test_a_user_who_is_gone_keeps_only_what_came_after_the_log(store)

    def test_a_night_writes_no_event_view(self, store, writes):
        store.push("u", "c", 300)
        writes.clear()
        store.night(*LOG, ("v", "c", 300, 1))
        assert writes.count("u") == 0
        assert store("u")[-1] == ("c", 300, 1)


class TestForget:
    def test_nothing_is_left_and_what_comes_is_seen(self, store):
        store.push("u", "c", 300)
        store.push("v", "c", 300)
        store.pusher.forget(["u", "nobody"])
        assert (store("u"), store("nobody")) == ([], [])
        assert store("v") == [("a", 250, 1), ("c", 300, 1)]
        for view in (store.histories.histories, store.histories.events):
            (cell,) = seen_by_feast(open_store(store.repo), view.name, "item_ids", ["u"], key="user_id")
            assert not cell
        assert materialize(store.repo).written == 0  # the log is the same
        assert store("u") == []
        store.push("u", "d", 310)
        assert store("u") == [("d", 310, 1)]

    def test_an_event_that_is_just_being_added_brings_nothing_back(self, store, monkeypatch):
        store.push("u", "c", 300)
        is_read, goes_on = threading.Event(), threading.Event()

        def slow(history, held, changed=stream._changed):
            if not is_read.is_set():
                is_read.set()
                goes_on.wait(10)
            return changed(history, held)

        monkeypatch.setattr(stream, "_changed", slow)
        with ThreadPoolExecutor(2) as pool:
            pushing = pool.submit(store.push, "u", "d", 310)
            assert is_read.wait(10)
            forgetting = pool.submit(EventPusher(store.repo).forget, ["u"])  # as another process does
            time.sleep(0.3)  # time enough to overtake, where a store lets it
            goes_on.set()
            pushing.result()
            forgetting.result()
        assert {item for item, *_ in store("u")} <= {"d"}

    def test_a_double_without_transactions_fails_that_check(self, store, unguarded, monkeypatch):
        with pytest.raises(AssertionError):
            self.test_an_event_that_is_just_being_added_brings_nothing_back(store, monkeypatch)

    def test_what_the_log_holds_comes_back_when_it_changed(self, store):
        store.pusher.forget(["u", "u2"])
        store.night(*LOG, ("u", "c", 300, 1))
        assert store("u") == [("a", 100, 1), ("b", 200, 0), ("c", 300, 1)]


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    """A store whose users' histories were never materialized."""
    return Store(tmp_path_factory.mktemp("steady"), {}, max_events=6)


NAMES = itertools.count()


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.sampled_from([0.0, 1.0, None])), min_size=1, max_size=9
    )
)
@settings(max_examples=25, deadline=None)
def test_what_is_read_is_what_was_pushed(steady, pushed):
    """Each event once, in the order of time, its label where one came."""
    user = f"p{next(NAMES)}"
    expected = UserHistory.empty()
    for item, second, label in pushed:
        steady.push(user, item, second, label)
        expected = expected.with_event(item, (T0 + second) * US, np.nan if label is None else label).latest(6)
    assert steady(user) == seen(expected)
    if len({(item, second) for item, second, _ in pushed}) <= 6:
        assert {(item, second) for item, second, _ in steady(user)} == {(item, second) for item, second, _ in pushed}


class TestErrors:
    @pytest.mark.parametrize(
        ("event", "kind", "said"),
        [
            ((None, "a"), InputError, "the ids of the event"),
            (("u", None), InputError, "the ids of the event"),
            (("u", "a", float("nan")), TimestampError, "the time of the event"),
            (("u", "a", T0, 0.5), InputError, "label=0.5, but 0, 1 or None was expected"),
        ],
    )
    def test_events(self, steady, event, kind, said):
        user, item, *more = event
        options = dict(zip(("timestamp", "label"), more, strict=False))
        with pytest.raises(kind, match=said):
            steady.pusher.push(user, item, **options)

    def test_a_store_that_fails_says_so_and_takes_it_later(self, store, monkeypatch):
        def failing(self, key, fields, change):
            raise StoreError("it is full")

        with monkeypatch.context() as patch:
            for dialect in (SqliteDialect, RedisDialect):
                patch.setattr(dialect, "modify", failing)
            with pytest.raises(StoreError, match="it is full"):
                store.push("u", "c", 300)
        assert len(store("u")) == 2
        store.push("u", "c", 300)
        assert len(store("u")) == 3

    def test_a_repository_without_a_log(self, tmp_path):
        repo = init_repo(tmp_path)
        put_vectors(repo / "data" / "item_vectors", numbered(1))
        apply(repo)
        with pytest.raises(StoreConfigError, match=r"has 0 views of histories .* set histories.log in llmfeat.toml"):
            EventPusher(repo).push("u", "a")

    def test_several_histories_are_told_apart_by_their_fingerprint(self, tmp_path):
        store = Store(tmp_path, {}, max_events=3)
        config = store.repo / "llmfeat.toml"
        config.write_text(config.read_text().replace("max_events = 3", "max_events = 1"))
        apply(store.repo)
        materialize(store.repo)
        with pytest.raises(StoreConfigError, match=r"has 2 views of histories .* pass fingerprint="):
            FeastHistories(store.repo)("u")
        views = [view.tags for view in open_store(store.repo).list_feature_views()]
        of_length = {tags["max_events"]: tags["fingerprint"] for tags in views if tags["llmfeat"] == "user_histories"}
        assert seen(FeastHistories(store.repo, fingerprint=of_length["1"])("u")) == [("b", 200, 0)]
        EventPusher(store.repo, fingerprint=of_length["3"]).push("u", "c", timestamp=T0 + 300)
        assert len(FeastHistories(store.repo, fingerprint=of_length["3"])("u")) == 3

    @pytest.mark.parametrize(
        ("cells", "said"),
        [
            ((b"[", b"", b""), "holds no history"),
            ((b'["a"]', b"123", b"12345678"), "holds no history"),
            ((b'["a", "b"]', b"1234", b"12345678"), "holds 2 items, 1 labels and 1 times"),
        ],
    )
    def test_what_is_no_history_is_told(self, steady, cells, said):
        view = steady.histories.histories
        fields = dict(zip(("item_ids", "labels", "times_us"), (pack_bytes([cell]) for cell in cells), strict=True))
        view.dialect.write(["broken"], fields, T0 * US)
        with pytest.raises(StoreError, match=rf"{view.name} {said}.*something else writes to this view"):
            steady("broken")


def test_pickled_it_opens_the_store_again(steady):
    steady.push("pickled", "a", 1)
    again = pickle.loads(pickle.dumps(steady.histories))
    assert seen(again("pickled")) == [("a", 1, 1)]
    assert again.label_delay.available_after_us == 0
