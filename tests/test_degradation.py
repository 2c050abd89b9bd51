"""A request with a deadline, or with a store that fails: what it does without, and that it says so."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.pipeline import FeatureUnion

from llmfeat import (
    ActivityFeatures,
    FeastFeatures,
    HistoryFeatures,
    OnlineRanker,
    RankerBundle,
    RankingPipeline,
    TextEncoder,
)
from llmfeat.errors import InputError, StoreError
from llmfeat.history import UserHistory
from llmfeat.rank.serving import DEGRADATION
from llmfeat.rank.serving.deadline import Deadline, Late, Pace
from llmfeat.rank.serving.sources import StoreReader
from llmfeat.store import open_store
from tests.shop import NO_TEXT, assert_ranked, requests_of, serve, small_ranker
from tests.stores import FEAST_WARNINGS

pytestmark = FEAST_WARNINGS

# Half of the time is kept for the features and the trees: plenty, so that a busy machine changes no answer.
DEADLINE_MS, COMPUTE_S = 600, 0.2


class Gate:
    """Something that answers at once, stalls until it is opened, or fails."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self._opened.set()
        self.error: Exception | None = None

    def close(self) -> None:
        self._opened.clear()

    def open(self) -> None:
        self._opened.set()

    def passed(self) -> None:
        self._opened.wait(30)
        if self.error is not None:
            raise self.error


class Vectors(Gate):
    """The shop's vectors, but for some items."""

    def __init__(self, table, lacks=()) -> None:
        super().__init__()
        self._table, self._lacks = table, set(lacks)
        self.fingerprint, self.dim = table.fingerprint, table.dim

    def lookup(self, ids):
        self.passed()
        vectors = self._table.lookup(ids)
        vectors[[str(key) in self._lacks for key in ids]] = np.nan
        return vectors


class Histories(Gate):
    """The histories of the shop's log."""

    def __init__(self, log) -> None:
        super().__init__()
        self._log = log

    def __call__(self, user):
        self.passed()
        return UserHistory.of_log(self._log, user)


@pytest.fixture
def made(shop):
    """Make rankers whose sources can be stopped; what still waits for them at the end goes on."""
    rankers = []

    def make(bundle=shop.bundle, **options):
        given = {"items": Vectors(shop.vectors), "history": Histories(shop.log), "log": shop.log, **options}
        ranker = OnlineRanker(bundle, **given)
        ranker._compute_pace = Pace(COMPUTE_S)
        rankers.append((ranker, [one for one in (given["items"], given["history"]) if isinstance(one, Gate)]))
        return ranker

    yield make
    for ranker, gates in rankers:
        for gate in gates:
            gate.open()
        ranker.close()


def ask(ranker, shop, request, **options):
    user, ids, prices = request
    return ranker.rank(user, ids, now=shop.now, base={"price": prices}, **options)


@pytest.fixture(scope="module")
def request_(shop):
    return next(requests_of(shop))


@pytest.fixture(scope="module")
def repo(tmp_path_factory, shop):
    return serve(tmp_path_factory.mktemp("repo"), shop)


@pytest.fixture(scope="module")
def stored(shop, repo):
    """A ranker's bundle with numbers of the store beside the history, and its pipeline."""
    views = {view.tags["llmfeat"]: view.name for view in open_store(repo).list_feature_views()}
    features = [
        ("store", FeastFeatures(repo, [views["item_scalars"]], max_missing_share=1)),
        ("history", HistoryFeatures(shop.log, {"llm": shop.vectors}, max_events=20)),
    ]
    pipeline = RankingPipeline([("features", FeatureUnion(features)), ("ranker", small_ranker())])
    pipeline.fit(shop.events.to_pandas(), shop.events["label"].to_numpy())
    return RankerBundle.of_pipeline(pipeline, name="stored"), pipeline


class TestWhatIsLate:
    def test_with_time_everything_is_there(self, made, shop, request_):
        user, ids, prices = request_
        ranking = ask(made(), shop, request_, deadline_ms=60_000, because=True)
        assert ranking.degraded == ()
        assert_ranked(ranking, shop.pipeline, shop.rows(user, ids, prices))

    def test_a_history(self, made, shop, request_):
        ranker = made()
        ranker.history.close()
        ranking = ask(ranker, shop, request_, deadline_ms=DEADLINE_MS, because=True)
        expected = ask(made(history=lambda user: UserHistory.empty()), shop, request_)
        assert ranking.degraded == ("history",)
        assert ranking.item_ids == expected.item_ids
        assert ranking.scores.tobytes() == expected.scores.tobytes()
        assert ranking.n_events == 0
        assert set(ranking.because_item_ids) == {None}
        assert ranking.elapsed_ms < DEADLINE_MS
        ranker.history.open()
        assert ask(ranker, shop, request_, deadline_ms=60_000).degraded == ()

    def test_vectors_that_are_not_in_this_process(self, made, shop, request_):
        _, ids, _ = request_
        known = [*ids[:6], "i1", "i2", "i3"]
        ranker = made()
        ranker.warm(known)
        source = ranker.vectors.caches[shop.vectors.fingerprint].source
        source.close()
        ranking = ask(ranker, shop, request_, deadline_ms=DEADLINE_MS)
        others = [f"i{at}" for at in range(40) if f"i{at}" not in known]
        expected = ask(made(items=Vectors(shop.vectors, others)), shop, request_)
        assert ranking.degraded == ("vectors",)
        assert ranking.item_ids == expected.item_ids
        assert ranking.scores.tobytes() == expected.scores.tobytes()
        assert ranking.n_missing == expected.n_missing > 2
        picky = made(items=source, max_missing_share=0.1)  # but what is late is not missing
        assert ask(picky, shop, request_, deadline_ms=DEADLINE_MS).degraded == ("vectors",)
        # What came too late is kept, and the next request needs nobody.
        source.open()
        until = time.monotonic() + 30
        while any(len(cache.cached(ids)[1]) for cache in ranker.vectors.caches.values()):
            assert time.monotonic() < until
            time.sleep(0.001)
        ask(ranker, shop, request_)
        source.close()
        user, ids, prices = request_
        assert_ranked(ask(ranker, shop, request_, deadline_ms=DEADLINE_MS), shop.pipeline, shop.rows(user, ids, prices))

    def test_numbers_of_the_store(self, made, shop, repo, stored, request_, monkeypatch):
        bundle, pipeline = stored
        user, ids, prices = request_
        ranker, gate, read = made(bundle, repo=repo), Gate(), StoreReader.read
        assert_ranked(ask(ranker, shop, request_), pipeline, shop.rows(user, ids, prices))
        monkeypatch.setattr(StoreReader, "read", lambda self, *args: [gate.passed(), read(self, *args)][1])
        gate.close()
        ranking = ask(ranker, shop, request_, deadline_ms=DEADLINE_MS)
        gate.open()
        assert ranking.degraded == ("store",)
        matrix = pipeline[:-1].transform(shop.rows(user, ids, prices))
        n_columns = len(bundle.blocks[0].names)
        matrix[:, 0], matrix[:, 1:n_columns] = 0, np.nan
        scores = bundle.predict(matrix)
        assert ranking.scores.tobytes() == scores[np.argsort(-scores, kind="stable")].tobytes()

    def test_all_of_it_in_the_order_that_is_said(self, made, shop, repo, stored, monkeypatch):
        ranker, gate = made(stored[0], repo=repo, encoder=TextEncoder(shop.artifact), template=shop.template), Gate()
        monkeypatch.setattr(StoreReader, "read", lambda self, *args: gate.passed())
        ranker._cold._pace = Pace(60)
        ranker.vectors.caches[shop.vectors.fingerprint].source.close()
        for one in (gate, ranker.history):
            one.close()
        ranking = ranker.rank("u1", ["i1", "new"], texts={"new": "heat"}, deadline_ms=DEADLINE_MS)
        gate.open()
        assert ranking.degraded == ("texts", "vectors", "store", "history")
        assert np.isfinite(ranking.scores).all()
        assert (*ranking.degraded, "ranker") == DEGRADATION

    def test_texts_as_many_as_there_is_time_for(self, made, shop, request_):
        ranker = made(encoder=TextEncoder(shop.artifact), template=shop.template)
        texts = {"unheard of": "heat", NO_TEXT: "war", "not asked for": "alien"}
        whole = ask(ranker, shop, request_, texts=texts, deadline_ms=60_000)
        assert (whole.n_encoded, whole.degraded) == (2, ())
        ranker._cold._pace = Pace(60)
        ranking = ask(ranker, shop, request_, texts=texts, deadline_ms=DEADLINE_MS)
        assert (ranking.n_encoded, ranking.degraded, ranking.n_missing) == (0, ("texts",), 2)
        assert ask(ranker, shop, request_, texts=texts).n_encoded == 2  # without a deadline all are waited for

    def test_texts_that_take_longer_than_they_should(self, made, shop, request_, monkeypatch):
        ranker, gate = made(encoder=TextEncoder(shop.artifact), template=shop.template), Gate()
        encode = ranker._cold._encoder.encode
        monkeypatch.setattr(ranker._cold._encoder, "encode", lambda texts: [gate.passed(), encode(texts)][1])
        gate.close()
        ranking = ask(ranker, shop, request_, texts={"unheard of": "heat"}, deadline_ms=DEADLINE_MS)
        gate.open()
        expected = ask(made(), shop, request_)
        assert (ranking.n_encoded, ranking.degraded, ranking.n_missing) == (0, ("texts",), 2)
        assert ranking.scores.tobytes() == expected.scores.tobytes()


class TestNoTime:
    @pytest.fixture
    def plain(self, shop):
        """A ranker that waits for nothing."""
        pipeline = RankingPipeline([("features", ActivityFeatures(shop.log)), ("ranker", small_ranker())])
        pipeline.fit(shop.events.to_pandas(), shop.events["label"].to_numpy())
        bundle = RankerBundle.of_pipeline(pipeline, name="plain")
        return lambda **options: OnlineRanker(bundle, log=shop.log, **options)

    def test_the_candidates_come_back_as_they_came(self, plain):
        ranking = plain().rank("u1", ["i3", "i1", "i2"], deadline_ms=0)
        assert (ranking.item_ids, ranking.degraded) == (["i3", "i1", "i2"], ("ranker",))
        assert np.isnan(ranking.scores).all()
        assert ranking.scores.shape == (3,)
        assert ranking.because_item_ids is None

    def test_or_in_the_order_of_the_fallback(self, plain):
        ranking = plain(fallback=sorted).rank("u1", ["i3", "i1", "i2", "i1"], deadline_ms=0)
        assert ranking.item_ids == ["i1", "i1", "i2", "i3"]
        asked = plain(fallback=sorted).rank("u1", ["i3", "i1"], deadline_ms=60_000)
        assert asked.degraded == ()  # and only then

    @pytest.mark.parametrize("broken", [lambda ids: ids[1:], lambda ids: [*ids, "ad"], lambda ids: [ids[0]] * 2])
    def test_a_fallback_that_returns_others_is_an_error(self, plain, broken):
        with pytest.raises(InputError, match="fallback returned other items than the candidates"):
            plain(fallback=broken).rank("u1", ["i3", "i1"], deadline_ms=0)

    def test_all_that_was_late_is_told(self, made, shop, request_):
        ranker = made()
        ranker.history.close()
        ranker.vectors.caches[shop.vectors.fingerprint].source.close()
        assert ask(ranker, shop, request_, deadline_ms=0).degraded == ("vectors", "history", "ranker")


class TestAStoreThatFails:
    @pytest.mark.parametrize("deadline_ms", [None, 60_000])
    def test_it_fails_the_request_or_is_done_without(self, made, shop, request_, deadline_ms):
        def failing(name, **options):
            ranker = made(**options)
            source = ranker.history if name == "history" else ranker.vectors.caches[shop.vectors.fingerprint].source
            source.error = StoreError("the server is away")
            return ranker

        options = {"deadline_ms": deadline_ms}
        for name, without in (
            ("history", {"history": lambda user: UserHistory.empty()}),
            ("vectors", {"items": Vectors(shop.vectors, [f"i{at}" for at in range(40)])}),
        ):
            with pytest.raises(StoreError, match="the server is away"):
                ask(failing(name), shop, request_, **options)
            ranking = ask(failing(name, on_store_error="degrade"), shop, request_, **options)
            assert ranking.degraded == (name,)
            assert ranking.scores.tobytes() == ask(made(**without), shop, request_).scores.tobytes()

    def test_numbers_of_the_store(self, made, shop, repo, stored, request_, monkeypatch):
        def away(self, *_):
            raise StoreError("the server is away")

        monkeypatch.setattr(StoreReader, "read", away)
        with pytest.raises(StoreError, match="the server is away"):
            ask(made(stored[0], repo=repo), shop, request_)
        assert ask(made(stored[0], repo=repo, on_store_error="degrade"), shop, request_).degraded == ("store",)

    @pytest.mark.parametrize("deadline_ms", [None, 60_000])
    def test_what_is_no_failure_of_a_store_is_never_hidden(self, made, shop, request_, deadline_ms):
        for error in (ValueError("a bug"), InputError("a bug")):
            of_histories, of_vectors = made(on_store_error="degrade"), made(on_store_error="degrade")
            of_histories.history.error = error
            of_vectors.vectors.caches[shop.vectors.fingerprint].source.error = error
            for ranker in (of_histories, of_vectors):
                with pytest.raises(type(error), match="a bug"):
                    ask(ranker, shop, request_, deadline_ms=deadline_ms)

    @pytest.mark.parametrize("deadline_ms", [None, 60_000])
    @pytest.mark.parametrize("error", [TimeoutError("of a socket"), ConnectionResetError("by peer")])
    def test_a_service_of_ones_own_that_is_away_is_a_store_that_fails(self, made, shop, request_, error, deadline_ms):
        strict, lenient = made(), made(on_store_error="degrade")
        for ranker in (strict, lenient):
            ranker.history.error = error
        with pytest.raises(StoreError, match=f"history= raised {type(error).__name__}"):
            ask(strict, shop, request_, deadline_ms=deadline_ms)
        assert ask(lenient, shop, request_, deadline_ms=deadline_ms).degraded == ("history",)


class TestDeadline:
    def test_a_call_is_waited_for_as_long_as_there_is_time(self):
        gate = Gate()
        gate.close()
        with ThreadPoolExecutor(2) as pool:
            clock = Deadline(2.0, lambda: pool)
            assert clock.start(lambda: 7)(0.0) == 7
            late = clock.start(gate.passed)
            began = time.perf_counter()
            with pytest.raises(Late):
                late(1.9)
            assert time.perf_counter() - began < 1
            assert 0 < clock.left_s() <= 1.9
            assert clock.left_s(2.0) < 0
            gate.open()
            assert clock.start(lambda: time.sleep(0.001))(0.0) is None

    def test_without_one_the_call_is_made_when_it_is_waited_for(self):
        made = []
        wait = Deadline(None, lambda: pytest.fail("no thread is needed")).start(lambda: made.append(1))
        assert made == []
        wait(0.0)
        assert made == [1]

    def test_what_takes_longer_lately_is_expected_to(self):
        pace = Pace(0.1)
        assert pace.expected_s == pytest.approx(0.15)
        pace.add(60.0)  # once, as the first call may
        assert pace.expected_s < 0.25
        for _ in range(100):
            pace.add(1.0)
        assert pace.expected_s == pytest.approx(1.5, rel=0.01)
        pace.relax()
        assert pace.expected_s == pytest.approx(1.35, rel=0.01)


class TestTexts:
    @pytest.fixture
    def ranker(self, shop, served):
        options = {"encoder": TextEncoder(shop.artifact), "template": shop.template}
        with shop.ranker(served, **options) as ranker:
            yield ranker

    def test_a_slow_model_is_not_waited_for_and_tried_again(self, shop, ranker, monkeypatch):
        encoder, slow = ranker._cold._encoder, threading.Event()
        encode = encoder.encode

        def encoded(texts):
            if slow.is_set():
                time.sleep(1)
            return encode(texts)

        monkeypatch.setattr(encoder, "encode", encoded)
        asked = {"texts": {"new": {"title": "heat"}}, "deadline_ms": DEADLINE_MS}
        ask(ranker, shop, ("u1", ["i1", "new"], [0.5, 0.5]))  # all but the text is in this process
        slow.set()
        late = ask(ranker, shop, ("u1", ["i1", "new"], [0.5, 0.5]), **asked)
        assert ("texts" in late.degraded, late.n_encoded) == (True, 0)
        assert late.elapsed_ms < 2 * DEADLINE_MS
        slow.clear()
        found = [ask(ranker, shop, ("u1", ["i1", "new"], [0.5, 0.5]), **asked).n_encoded for _ in range(40)]
        assert found[-1] == 1

    def test_a_row_of_other_fields_is_told(self, shop, ranker):
        with pytest.raises(InputError, match=r"has the fields \['titel'\]"):
            ask(ranker, shop, ("u1", ["new"], [0.5]), texts={"new": {"titel": "heat"}})


def test_a_call_that_ends_as_its_time_does_gives_its_value():
    """Between the end of the wait and the look at it."""

    class Future:
        def __init__(self):
            self.asked = 0

        def result(self, timeout=None):
            self.asked += 1
            if self.asked == 1:
                raise TimeoutError
            return 7

        def done(self):
            return True

    class Pool:
        def submit(self, call):
            return Future()

    assert Deadline(1.0, Pool).start(lambda: None)(0.0) == 7


def test_a_pace_is_not_set_by_one_slow_call():
    pace = Pace(0.01)
    pace.add(10.0)
    assert pace.expected_s < 0.03
    for _ in range(30):
        pace.relax()
    assert pace.expected_s < 0.001
