"""`ItemCache`: the vectors of its source, whatever is asked, evicted, changed and read at once."""

from __future__ import annotations

import contextlib
import copy
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeat import FeastVectors, VectorTable, materialize
from llmfeat.errors import InputError, LLMFeatWarning, StoreError
from llmfeat.store import ItemCache, init_repo, write_online
from llmfeat.store.item_cache import Versions
from tests.stores import FEAST_WARNINGS, FINGERPRINT, apply, numbered, put_vectors

pytestmark = FEAST_WARNINGS


class Source:
    """Item 7 of version 2 is [7, 2]; it says what changed, and can be stopped in the middle of a read."""

    fingerprint = "f" * 64
    dim = 2

    def __init__(self, n_items: int) -> None:
        self.held = dict.fromkeys(map(str, range(n_items)), 0)
        self.reads: list[list[str]] = []
        self.during = lambda: None

    def change(self, key: str) -> None:
        self.held[key] = self.held.get(key, 0) + 1

    def read(self, ids: list[str]) -> np.ndarray:
        self.reads.append(list(ids))
        rows = [[int(key), self.held[key]] if key in self.held else [np.nan] * 2 for key in ids]
        self.during()
        return np.array(rows, dtype=np.float32).reshape(len(ids), 2)

    def lookup(self, ids):
        return self.read(list(ids))

    def revision(self) -> object:
        return dict(self.held)

    def versions(self, ids: list[str]) -> list[bytes]:
        return [str(self.held.get(key, "")).encode() for key in ids]


def cache_of(source: Source, kind=ItemCache, **options) -> ItemCache:
    return kind(source, versions=source, **options)


class TestLookup:
    def test_hits_misses_and_what_the_source_lacks(self):
        source = Source(3)
        cache = cache_of(source, capacity=10)
        np.testing.assert_array_equal(cache.lookup([2, "0", "who", "2"]), [[2, 0], [0, 0], [np.nan] * 2, [2, 0]])
        assert source.reads == [["2", "0", "who"]]  # each once
        np.testing.assert_array_equal(cache.lookup(["who", 0]), [[np.nan] * 2, [0, 0]])
        assert len(source.reads) == 1  # that it lacks an item is known, too
        info = cache.info()
        assert (info.n_items, info.capacity, info.hits, info.misses, info.evicted) == (3, 10, 2, 4, 0)
        assert cache.lookup([]).shape == (0, 2)
        assert (cache.fingerprint, cache.dim) == (source.fingerprint, 2)

    def test_what_is_asked_for_stays_and_what_is_not_makes_room(self):
        source = Source(5)
        cache = cache_of(source, capacity=3)
        cache.lookup(["0", "1", "2"])
        cache.lookup(["3"])  # all were asked for: the hand comes by once, and takes the first
        cache.lookup(["1"])
        cache.lookup(["4"])  # 2 is the one that was not
        source.reads.clear()
        cache.lookup(["1", "3", "4"])
        assert source.reads == []
        assert cache.info().evicted == 2
        cache.lookup(["2"])
        assert source.reads == [["2"]]

    def test_a_request_may_be_larger_than_the_cache(self):
        cache = cache_of(Source(50), capacity=4)
        ids = [str(at) for at in range(50)] * 2
        assert cache.lookup(ids)[:, 0].tolist() == [int(each) for each in ids]
        assert cache.info().n_items == 4

    def test_warmed(self):
        source = Source(5)
        cache = cache_of(source, capacity=3)
        assert cache.warm(range(5)) == 3
        source.reads.clear()
        cache.lookup(["0", "1", "2"])
        assert source.reads == []

    @given(
        st.integers(1, 6),
        st.lists(
            st.one_of(
                st.lists(st.integers(0, 9), min_size=1, max_size=12),  # asked for
                st.integers(0, 11).map(str),  # changed, or put there
                st.integers(0, 9).map(lambda at: -at - 1),  # deleted
            ),
            max_size=25,
        ),
    )
    @settings(max_examples=150, deadline=None)
    def test_it_says_what_its_source_says(self, capacity, steps):
        self.check(ItemCache, capacity, steps)

    def check(self, kind, capacity, steps):
        source = Source(8)
        cache = cache_of(source, kind, capacity=capacity)
        for step in steps:
            if isinstance(step, list):
                asked = [str(each) for each in step]
                assert cache.lookup(asked).tobytes() == source.lookup(asked).tobytes()
            elif isinstance(step, str):
                source.change(step)
                cache.refresh()
            else:
                source.held.pop(str(-step - 1), None)
                cache.refresh()
        assert cache.info().n_items <= capacity

    def test_doubles_fail_that_check(self):
        class KeepsTheOldName(ItemCache):
            def _evict(self):
                slot = self._hand
                self._hand = (slot + 1) % self.capacity
                return slot

        class DropsNothing(ItemCache):
            def _drop(self, key, slot):
                pass

        self.check(ItemCache, 2, [[0, 1], [2, 3], [0, 1], "0", [0]])
        for kind, steps in ((KeepsTheOldName, [[0, 1], [2, 3], [0, 1]]), (DropsNothing, [[0], "0", [0]])):
            with pytest.raises(AssertionError):
                self.check(kind, 2, steps)


class TestRefresh:
    def test_only_what_changed_is_dropped(self):
        source = Source(4)
        cache = cache_of(source, capacity=10)
        cache.lookup(["0", "1", "2", "9"])
        assert cache.refresh() == 1  # 9, which may be there now
        source.change("1")
        source.change("3")  # not held
        assert cache.refresh() == 1
        source.reads.clear()
        assert cache.lookup(["0", "1", "2"]).tolist() == [[0, 0], [1, 1], [2, 0]]
        assert source.reads == [["1"]]
        assert (cache.refresh(), cache.info().invalidated) == (0, 2)

    def test_nothing_is_asked_where_nothing_was_materialized(self, monkeypatch):
        source = Source(4)
        cache = cache_of(source)
        cache.lookup(["0", "1"])
        cache.refresh()
        monkeypatch.setattr(source, "versions", lambda ids: pytest.fail("it was asked"))
        assert cache.refresh() == 0

    def test_a_source_without_versions_never_changes(self):
        source = Source(2)
        cache = ItemCache(source, capacity=2, refresh_s=1e-6)
        cache.lookup(["0"])
        source.change("0")
        assert cache.refresh() == 0
        assert cache.lookup(["0"]).tolist() == [[0, 0]]
        assert cache.info().refreshed_s is None

    def stale(self, kind):
        """Read an item while it changes and the change is noticed; return what is said of it afterwards."""
        source = Source(2)
        cache = cache_of(source, kind, capacity=4)
        cache.lookup(["1"])

        def meanwhile():
            source.during = lambda: None
            source.change("0")
            cache.refresh()

        source.during = meanwhile
        assert cache.lookup(["0"]).tolist() == [[0, 0]]  # as it was when it was asked for
        cache.refresh()
        return cache.lookup(["0"]).tolist()

    def test_what_was_under_way_is_not_kept(self):
        assert self.stale(ItemCache) == [[0, 1]]

    def test_a_double_that_keeps_it_fails_that_check(self):
        class Keeps(ItemCache):
            _epoch = property(lambda self: 0, lambda self, value: None)

        assert self.stale(Keeps) == [[0, 0]]

    def test_an_item_that_changes_between_its_version_and_its_vector_is_read_again(self):
        source = Source(1)
        cache = cache_of(source)
        cache.refresh()
        versions = source.versions
        source.versions = lambda ids: [versions(ids), source.change("0")][0]
        assert cache.lookup(["0"]).tolist() == [[0, 1]]
        source.versions = versions
        assert cache.refresh() == 1  # once too often, rather than never

    def test_it_is_refreshed_beside_the_requests(self):
        source = Source(1)
        cache = cache_of(source, refresh_s=0.01)
        cache.lookup(["0"])
        source.change("0")
        until = time.monotonic() + 10
        while cache.lookup(["0"]).tolist() != [[0, 1]]:
            assert time.monotonic() < until
            time.sleep(0.001)
        assert cache.info().refreshed_s >= 0

    def test_a_failing_refresh_is_told_and_vectors_stay(self, monkeypatch):
        source = Source(1)
        cache = cache_of(source, refresh_s=7)
        cache.lookup(["0"])

        def failing():
            raise StoreError("the server is away")

        monkeypatch.setattr(source, "revision", failing)
        with pytest.warns(LLMFeatWarning, match=r"\(the server is away\): vectors stay .* the next try is in 7 s"):
            cache._refresh_or_say()
        assert cache.lookup(["0"]).tolist() == [[0, 0]]
        monkeypatch.undo()
        source.change("0")
        cache._refresh_or_say()
        assert cache.lookup(["0"]).tolist() == [[0, 1]]


def hammered(kind) -> ItemCache:
    """Look up, refresh and evict from many threads.

    Each vector is that of its item, and not older than what was refreshed before it was asked for.
    """
    source = Source(40)
    cache = cache_of(source, kind, capacity=9)
    floor = dict.fromkeys(source.held, 0)
    ends = threading.Event()

    def reads(seed):
        draw = np.random.default_rng(seed)
        for _ in range(400):
            ids = [str(at) for at in draw.integers(0, 40, draw.integers(1, 14))]
            least = [floor[key] for key in ids]
            vectors = cache.lookup(ids)
            assert vectors[:, 0].tolist() == [int(key) for key in ids]
            assert (vectors[:, 1] >= least).all()

    def changes():
        draw = np.random.default_rng(99)
        while not ends.is_set():
            key = str(draw.integers(0, 40))
            source.change(key)
            cache.refresh()
            floor[key] = source.held[key]

    with ThreadPoolExecutor(7) as pool:
        writer = pool.submit(changes)
        try:
            list(pool.map(reads, range(6)))
        finally:
            ends.set()
        writer.result()
    return cache


class TestThreads:
    def test_none_sees_a_wrong_vector(self):
        info = hammered(ItemCache).info()
        assert info.evicted > 100
        assert info.invalidated > 0

    def test_doubles_without_a_lock_and_without_epochs_fail_that_check(self):
        class NoLock(ItemCache):
            _lock = property(lambda self: contextlib.nullcontext(), lambda self, value: None)

        class NoEpochs(ItemCache):
            _epoch = property(lambda self: 0, lambda self, value: None)

        for kind in (NoLock, NoEpochs):
            assert any(self.fails(kind) for _ in range(9))  # the first time, nearly always

    def fails(self, kind):
        try:
            hammered(kind)
        except (AssertionError, LookupError):
            return True
        return False


class TestOverFeast:
    @pytest.fixture
    def repo(self, tmp_path, online):
        repo = init_repo(tmp_path, **online)
        put_vectors(repo / "data" / "item_vectors", numbered(4))
        apply(repo)
        materialize(repo)
        return repo

    def put(self, repo, *args, **options):
        put_vectors(repo / "data" / "item_vectors", *args, **options)

    def test_a_changed_text_is_dropped_and_an_unchanged_one_is_not(self, repo):
        source = FeastVectors(repo, fingerprint=FINGERPRINT)
        cache = ItemCache(source)
        ids = ["i0", "i1", "i2", "new"]
        assert np.isnan(cache.lookup(ids)[3]).all()
        assert cache.refresh() == 1  # the missing one
        assert cache.refresh() == 0
        cache.lookup(ids)
        self.put(repo, {"i1": [1, 5, 0, 0], "i2": numbered(4)["i2"], "new": [8, 8, 8, 8]})
        assert materialize(repo).written > 0
        assert cache.refresh() == 2
        misses = cache.info().misses
        assert cache.lookup(ids).tolist() == [[0, 0, 0, 0], [1, 5, 0, 0], [2, 0, 0, 0], [8, 8, 8, 8]]
        assert cache.info().misses - misses == 2
        self.put(repo, {}, deleted=["i0"])
        materialize(repo)
        assert cache.refresh() == 1
        assert np.isnan(cache.lookup(["i0"])).all()

    def test_without_scalars_the_vectors_tell(self, tmp_path, online):
        repo = init_repo(tmp_path, **online)
        self.put(repo, numbered(2))
        apply(repo)
        materialize(repo, only=["items"])
        cache = ItemCache(FeastVectors(repo, fingerprint=FINGERPRINT))
        cache.lookup(["i0", "i1"])
        cache.refresh()
        self.put(repo, {"i1": [1, 5, 0, 0]})
        materialize(repo, only=["items"])
        assert cache.refresh() == 1
        assert cache.lookup(["i0", "i1"])[:, 1].tolist() == [0, 5]

    def test_vectors_that_were_written_alone_are_seen(self, repo):
        cache = ItemCache(FeastVectors(repo, fingerprint=FINGERPRINT))
        cache.lookup(["i0", "i1"])
        cache.refresh()
        self.put(repo, {"i1": [1, 5, 0, 0]})
        materialize(repo, only=["items"])  # the hashes of texts are as before
        cache.refresh()
        assert cache.lookup(["i0", "i1"])[:, 1].tolist() == [0, 5]
        materialize(repo)
        cache.refresh()
        assert cache.lookup(["i0", "i1"])[:, 1].tolist() == [0, 5]

    def test_pickled_it_is_empty_and_opens_what_it_needs(self, repo):
        cache = ItemCache(FeastVectors(repo, fingerprint=FINGERPRINT), capacity=5, refresh_s=3)
        vectors = cache.lookup(["i3", "i1"])
        again = pickle.loads(pickle.dumps(cache))
        assert (again.capacity, again.refresh_s, again.info().n_items) == (5, 3, 0)
        assert again.lookup(["i3", "i1"]).tobytes() == vectors.tobytes()
        self.put(repo, {"i1": [1, 5, 0, 0]})
        materialize(repo)
        again.refresh()
        assert again.lookup(["i1"])[0, 1] == 5

    def test_vectors_that_were_written_alone_are_all_read_anew(self, repo):
        cache = ItemCache(FeastVectors(repo, fingerprint=FINGERPRINT), refresh_s=100)
        cache.lookup(["i1", "i2"])
        self.put(repo, {"i1": [7, 7, 7, 7]})
        write_online(repo, repo / "data" / "item_vectors")
        assert cache.refresh() == 2
        assert cache.lookup(["i1"]).tolist() == [[7, 7, 7, 7]]
        materialize(repo)
        cache.refresh()
        assert cache.lookup(["i1"]).tolist() == [[7, 7, 7, 7]]

    def test_a_hash_is_never_there_before_its_vector(self, repo):
        self.put(repo, {"i1": [8, 8, 8, 8]})
        materialize(repo, only=["scalars"])
        assert FeastVectors(repo, fingerprint=FINGERPRINT).lookup(["i1"]).tolist() == [[8, 8, 8, 8]]


def test_clones_share_it_and_versions_of_ones_own_are_pickled():
    cache = ItemCache(VectorTable.from_arrays(["a"], [[1.0, 2.0]]), capacity=1)
    assert copy.deepcopy(cache) is cache
    assert isinstance(Source(0), Versions)
    own = pickle.loads(pickle.dumps(ItemCache(VectorTable.from_arrays(["a"], [[1.0, 2.0]]), versions=Never())))
    assert isinstance(own._given, Never)


class Never:
    """Versions that are always the same."""

    def revision(self):
        return None

    def versions(self, ids):
        return [b""] * len(ids)


@pytest.mark.parametrize("options", [{"capacity": 0}, {"capacity": 2.5}, {"refresh_s": 0}, {"refresh_s": -1}])
def test_bad_parameters(options):
    with pytest.raises(InputError, match=next(iter(options))):
        ItemCache(Source(1), **options)


def test_two_that_come_first_at_once_share_one_matrix():
    """The second is still asking the source how long a vector is when the first has kept what it read."""
    table = VectorTable.from_arrays(["a", "b"], [[1.0, 2.0], [3.0, 4.0]])
    asked, kept = threading.Event(), threading.Event()

    class Slow:
        fingerprint = table.fingerprint
        first = True

        @property
        def dim(self):
            is_first, Slow.first = Slow.first, False
            if is_first:
                asked.set()
                kept.wait(10)
            return table.dim

        def lookup(self, ids):
            return table.lookup(ids)

    cache = ItemCache(Slow(), capacity=5)
    late = threading.Thread(target=cache.lookup, args=(["b"],))
    late.start()
    asked.wait(10)
    cache.lookup(["a"])
    kept.set()
    late.join()
    assert cache.lookup(["a", "b"]).tolist() == [[1, 2], [3, 4]]
    assert cache.info().hits == 2
