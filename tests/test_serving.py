"""`OnlineRanker`: what the pipeline says of the same rows, bit for bit, from a store."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from types import MappingProxyType

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion

from llmfeat import (
    ActivityFeatures,
    EventPusher,
    FeastFeatures,
    HistoryFeatures,
    InteractionLog,
    ItemTemplate,
    OnlineRanker,
    RankerBundle,
    RankingPipeline,
    TextEncoder,
    VectorTable,
    encode_table,
    materialize,
)
from llmfeat.errors import (
    BundleError,
    InputError,
    StoreConfigError,
    StoreMissingError,
    TableFingerprintError,
    TimestampError,
)
from llmfeat.features._summaries import STATISTICS
from llmfeat.features.reduce import ReducedVectors
from llmfeat.features.request import RequestWindow, request_because, request_features
from llmfeat.history import LabelDelay, UserHistory
from llmfeat.rank.serving.blocks import HistoryBlock
from llmfeat.store import init_repo, open_store
from tests.conftest import random_log, write_artifact
from tests.shop import (
    COLD,
    DELAY_S,
    LAG_S,
    NO_TEXT,
    US,
    WORDS,
    assert_ranked,
    by_pipeline,
    requests_of,
    serve,
    small_ranker,
)
from tests.stores import FEAST_WARNINGS, apply, numbered, put_vectors

pytestmark = FEAST_WARNINGS


@pytest.fixture(scope="module")
def ranker(served, shop):
    with shop.ranker(served) as ranker:
        yield ranker


def ask(ranker, shop, user, item_ids, prices, **options):
    return ranker.rank(user, item_ids, now=shop.now, base={"price": prices}, **options)


class TestTheScoresOfThePipeline:
    def test_bit_for_bit(self, ranker, shop):
        """Of users with a long history and of none; items without a vector, unknown ones, and some of them twice."""
        for user, ids, prices in requests_of(shop, 10):
            ranking = ask(ranker, shop, user, ids, prices)
            assert_ranked(ranking, shop.pipeline, shop.rows(user, ids, prices))
            assert (ranking.degraded, ranking.n_missing, ranking.n_encoded) == ((), 2, 0)
            assert ranking.n_events == (40 if user != "nobody" else 0)
            assert not ranking.is_history_cut
            assert ranking.elapsed_ms > 0

    @pytest.mark.parametrize("ids", [["i3"], ["i3", "i3", "i3"], ["unheard of"], [NO_TEXT, "i1", NO_TEXT]])
    def test_few_candidates(self, ranker, shop, ids):
        prices = [0.5] * len(ids)
        assert_ranked(ask(ranker, shop, "u1", ids, prices), shop.pipeline, shop.rows("u1", ids, prices))
        assert ask(ranker, shop, "u1", ids, 0.5).item_ids == ask(ranker, shop, "u1", ids, prices).item_ids

    def test_at_other_moments(self, ranker, shop):
        """An hour before the end of the log, and long after it."""
        ids, prices = shop.candidates(3)
        for now in (shop.now - 3600, shop.now + 10**6):
            ranking = ranker.rank("u2", ids, now=datetime.fromtimestamp(now, UTC), base={"price": prices})
            rows = shop.rows("u2", ids, prices, now=now)
            assert_ranked(ranking, shop.pipeline, rows)

    def test_why(self, ranker, shop):
        ids, prices = shop.candidates(4)
        rows = shop.rows("u3", ids, prices)
        features = shop.pipeline.named_steps["features"].named_transformers["history"]
        for name in ("llm", "learned"):
            expected = dict(zip(ids, features.because(rows, source=name)["because_item_id"].to_pylist(), strict=True))
            ranking = ask(ranker, shop, "u3", ids, prices, because=name)
            assert ranking.because_item_ids == [expected[key] for key in ranking.item_ids]
            assert len(set(ranking.because_item_ids)) > 2
        first = ask(ranker, shop, "u3", ids, prices, because=True)
        assert first.because_item_ids == ask(ranker, shop, "u3", ids, prices, because="llm").because_item_ids
        assert ask(ranker, shop, "nobody", ids, prices, because=True).because_item_ids == [None] * len(ids)
        assert ask(ranker, shop, "u3", ids, prices).because_item_ids is None

    @pytest.mark.parametrize("changes", [{"history_lag_s": 0.0}, {"max_events": 19}, {"available_after_us": 0}])
    def test_a_double_that_sees_other_events_fails_that_check(self, shop, changes):
        """One without the lag, one that looks less far back, one that knows labels at once."""
        fields = {name: value for name, value in changes.items() if name == "available_after_us"}
        params = {name: value for name, value in changes.items() if name != "available_after_us"}
        blocks = [
            dataclasses.replace(block, params={**block.params, **params}, **fields)
            if isinstance(block, HistoryBlock)
            else block
            for block in shop.bundle.blocks
        ]
        double = dataclasses.replace(shop.bundle, blocks=tuple(blocks))
        log = shop.log
        same = {"items": shop.vectors, "log": log, "history": lambda user: UserHistory.of_log(log, user)}
        honest, broken = OnlineRanker(shop.bundle, **same), OnlineRanker(double, **same)
        for user, ids, prices in requests_of(shop):
            assert_ranked(ask(honest, shop, user, ids, prices), shop.pipeline, shop.rows(user, ids, prices))
        assert any(
            ask(broken, shop, *request).scores.tobytes() != ask(honest, shop, *request).scores.tobytes()
            for request in requests_of(shop)
        )

    def test_numbers_of_the_store(self, served, shop):
        """Columns of `FeastFeatures`, of the item and of the user."""
        views = {view.tags["llmfeat"]: view.name for view in open_store(served).list_feature_views()}
        wanted = [views["item_scalars"], views["user_vectors"], views["item_vectors"]]
        store = FeastFeatures(served, wanted, max_missing_share=1)
        pipeline = RankingPipeline([("features", store), ("ranker", small_ranker())])
        pipeline.fit(shop.events.to_pandas(), shop.events["label"].to_numpy())
        ranker = OnlineRanker(RankerBundle.of_pipeline(pipeline, name="store"), repo=served)
        for user, ids, prices in requests_of(shop, 4):
            assert_ranked(ranker.rank(user, ids), pipeline, shop.rows(user, ids, prices))

    def test_base_columns_to_the_last_bit(self, shop):
        """Milliseconds since the epoch: float32 knows them to two minutes."""
        events = shop.events.to_pandas()
        events["published_ms"] = 1_700_000_000_000 + np.random.default_rng(0).integers(0, 1000, len(events))
        own = ColumnTransformer([("own", "passthrough", ["published_ms", "price"])])
        pipeline = RankingPipeline([("features", own), ("ranker", small_ranker())])
        pipeline.fit(events, (events.published_ms % 1000 > 500).astype(int))
        ranker = OnlineRanker(RankerBundle.of_pipeline(pipeline, name="base"))
        rows = events.head(20).reset_index(drop=True)
        ranking = ranker.rank(
            "u1", rows.item_id.tolist(), base={"published_ms": rows.published_ms, "price": rows.price}
        )
        assert_ranked(ranking, pipeline, rows)
        assert len(set(ranking.scores.tolist())) > 1

    def test_sixteen_threads_say_what_one_says(self, ranker, shop):
        requests = [(f"u{number % 15}", *shop.candidates(number)) for number in range(48)]
        alone = [ask(ranker, shop, *request) for request in requests]
        for options in ({}, {"deadline_ms": 60_000}):
            with ThreadPoolExecutor(16) as pool:
                together = list(pool.map(lambda request: ask(ranker, shop, *request, **options), requests))  # noqa: B023
            for one, other in zip(alone, together, strict=True):
                assert (one.item_ids, one.degraded) == (other.item_ids, other.degraded)
                assert one.scores.tobytes() == other.scores.tobytes()


EVERY = {"statistics": tuple(STATISTICS), "half_lives_s": (3600.0,), "half_lives": (3, 0.5), "top_k": 3}


class TestOneRequestIsARowOfTraining:
    """`request_features` and `HistoryFeatures.transform`: one kernel, over what a store holds and over the log."""

    def vectors(self, seed):
        vectors = np.random.default_rng(seed).standard_normal((30, 12)).astype(np.float32)
        vectors[3] = np.nan
        return VectorTable.from_arrays([str(item) for item in range(30)], vectors)

    @given(
        st.integers(0, 10**6), st.sampled_from([0, 700, 5000]), st.sampled_from([0, 2100]), st.booleans(), st.booleans()
    )
    @settings(max_examples=40, deadline=None)
    def test_the_bits_are_the_same(self, seed, lag_s, delay_s, is_cut, is_short):
        draw = np.random.default_rng(seed)
        frame = random_log(seed, n_events=200, n_users=4)
        log = InteractionLog.from_frame(frame, label="label", available_after_s=delay_s)
        if is_cut:
            log = log.until(int(np.quantile(log.times_us, 0.7)))
        table = self.vectors(seed)
        spec = {**EVERY, "max_events": int(draw.integers(1, 25)), "history_lag_s": lag_s}
        features = HistoryFeatures(log, {"x": table}, **spec).fit(frame)
        for user in ("0", "3", "nobody"):
            now = int(draw.choice(frame.column("timestamp").to_numpy())) + int(draw.integers(0, 2))
            ids = [str(item) for item in draw.integers(0, 32, 6)]
            rows = pa.table({"user_id": [user] * 6, "item_id": ids, "timestamp": [now] * 6})
            # A store keeps no more than it must, if nothing is hidden by a lag.
            kept = spec["max_events"] if is_short and not lag_s and now * US > int(log.times_us.max()) else None
            history = UserHistory.of_log(log, user, max_events=kept)
            window = RequestWindow.of(
                history,
                as_of_us=(now - lag_s) * US,
                max_events=spec["max_events"],
                delay=LabelDelay(log.label_delay.available_after_us),  # a store says nothing of a cut
            )
            given = table.lookup(ids), table.lookup(window.item_ids), window
            assert request_features(*given, features.spec()).tobytes() == features.transform(rows).tobytes()
            because = features.because(rows)["because_item_id"].to_pylist()
            assert request_because(*given, max_events=spec["max_events"]) == because

    @pytest.mark.parametrize("broken", ["seen_before", "known_until"])
    def test_doubles_that_see_what_happens_at_the_moment_fail_that_check(self, monkeypatch, broken):
        kept = getattr(UserHistory, broken)
        monkeypatch.setattr(UserHistory, broken, lambda self, time_us, *more: kept(self, time_us + 1, *more))
        assert any(self.fails(seed) for seed in range(20))

    def fails(self, seed):
        try:
            self.test_the_bits_are_the_same.hypothesis.inner_test(self, seed, 0, 2100, False, False)
        except AssertionError:
            return True
        return False


class TestFreshness:
    def test_what_was_pushed_is_seen_by_the_next_request(self, tmp_path, shop, online):
        repo = serve(tmp_path, shop, redis=online["redis"])
        ids, prices = shop.candidates(7)
        with shop.ranker(repo) as ranker:
            moment, now = shop.now + 5, shop.now + LAG_S + 6
            before = ranker.rank("u4", ids, now=now, base={"price": prices})
            EventPusher(repo).push("u4", ids[0], timestamp=moment, label=1)
            event = {"user_id": ["u4"], "item_id": [ids[0]], "timestamp": [moment], "label": [1]}
            frame = pa.concat_tables([shop.events.drop_columns("price"), pa.table(event)])
            log = InteractionLog.from_frame(frame, label="label", available_after_s=DELAY_S)
            log.save(tmp_path / "newer")
            ranker.log = InteractionLog.open(tmp_path / "newer")
            ranking = ranker.rank("u4", ids, now=now, base={"price": prices})
            assert ranking.scores.tobytes() != before.scores.tobytes()
            assert_ranked(ranking, with_log(shop.pipeline, ranker.log), shop.rows("u4", ids, prices, now=now))
            assert before.n_events == ranking.n_events == 40  # the oldest made room

    def test_a_changed_text_reaches_learned_vectors_too(self, tmp_path, shop):
        """Projected vectors are kept beside those that they are made of, and neither may outlive a text."""
        table = shutil.copytree(shop.table, tmp_path / "table")
        repo = serve(tmp_path, shop, table=table)
        user, ids, prices = next(requests_of(shop))
        with shop.ranker(repo) as ranker:
            ask(ranker, shop, user, ids, prices)
            encode(with_title(shop.items, ids[0], "war war war"), shop, table)
            materialize(repo)
            # The learned ones first: what they are read of must not be what another cache still holds.
            for cache in reversed(ranker.vectors.caches.values()):
                cache.refresh()
                ask(ranker, shop, user, ids, prices)
            ranking = ask(ranker, shop, user, ids, prices)
        pipeline = with_vectors(shop.pipeline, VectorTable.open(table), shop.book)
        assert_ranked(ranking, pipeline, shop.rows(user, ids, prices))

    def test_a_history_that_is_cut_is_told(self, tmp_path, shop):
        """Of 20 events that the store keeps, the lag hides some of a user with a recent one, and 20 are looked at."""
        repo = serve(tmp_path, shop, max_events=20)
        ids, prices = shop.candidates(1)
        log = shop.log
        with shop.ranker(repo) as ranker:
            for number in range(15):
                history = UserHistory.of_log(log, f"u{number}", max_events=20)
                is_hidden = history.times_us[-1] >= (shop.now - LAG_S) * US
                assert ask(ranker, shop, f"u{number}", ids, prices).is_history_cut == is_hidden
            assert not ask(ranker, shop, "nobody", ids, prices).is_history_cut


def with_title(items, key, title):
    titles = [title if row["item_id"] == key else row["title"] for row in items.to_pylist()]
    return items.set_column(1, "title", pa.array(titles))


def encode(items, shop, table):
    encoder = TextEncoder(shop.artifact)
    encode_table(items, template=shop.template, encoder=encoder, out=table, valid_from="valid_from")


def with_log(pipeline, log):
    """The pipeline over another log."""
    changed = copy.deepcopy(pipeline)
    for name in ("activity", "history"):
        changed.named_steps["features"].named_transformers[name].set_params(log=log)
    return changed


def with_vectors(pipeline, table, book):
    """The pipeline over another state of the table."""
    changed = copy.deepcopy(pipeline)
    parts = changed.named_steps["features"].named_transformers
    learned = ReducedVectors(table, parts["history"].vectors["learned"].reducer)
    parts["history"].set_params(vectors={"llm": table, "learned": learned})
    parts["semantic"].set_params(items=book.item_codes(table))
    return changed


class TestColdItems:
    """Items whose text comes with the request, as they are not in the store yet."""

    IDS = (COLD, "i1", NO_TEXT, "brand new", "i2")
    TEXTS = MappingProxyType(
        {COLD: {"title": "war casino"}, "brand new": "alien the heat", "i1": "not looked at", NO_TEXT: None}
    )

    @pytest.fixture
    def later(self, tmp_path_factory, shop):
        """The repository when the new items were encoded and materialized."""
        folder = tmp_path_factory.mktemp("later")
        table = shutil.copytree(shop.table, folder / "table")
        more = {"item_id": ["brand new"], "title": ["alien the heat"], "valid_from": shop.items["valid_from"][:1]}
        encode(pa.concat_tables([with_title(shop.items, COLD, "war casino"), pa.table(more)]), shop, table)
        return serve(folder, shop, table=table)

    def options(self, shop):
        # No item of this history is new.
        history = UserHistory.of(
            ["i1", "i5", "i7"], [shop.now - LAG_S - at for at in (300, 200, 100)], labels=[1, 0, 1]
        )
        encoder = TextEncoder(shop.artifact)
        return {"encoder": encoder, "template": shop.template, "history": lambda user: history}

    def test_they_have_the_bits_that_they_will_have_in_the_store(self, shop, served, later):
        prices = [0.5] * len(self.IDS)
        with shop.ranker(served, **self.options(shop)) as ranker, shop.ranker(later, **self.options(shop)) as stored:
            ranking = ask(ranker, shop, "u1", self.IDS, prices, texts=self.TEXTS, because=True)
            expected = ask(stored, shop, "u1", self.IDS, prices, because=True)
            assert (ranking.n_encoded, ranking.n_missing, ranking.degraded) == (2, 1, ())
            assert ranking.item_ids == expected.item_ids
            assert ranking.scores.tobytes() == expected.scores.tobytes()
            assert ranking.because_item_ids == expected.because_item_ids
            plain = ask(ranker, shop, "u1", self.IDS, prices)
            assert (plain.n_missing, plain.n_encoded) == (3, 0)
            assert plain.scores.tobytes() != expected.scores.tobytes()

    def test_no_more_than_the_budget(self, shop, served):
        texts = {f"new{number}": {"title": WORDS[number]} for number in range(5)}
        with shop.ranker(served, max_texts=2, **self.options(shop)) as ranker:
            ranking = ask(ranker, shop, "u1", [*texts, "i1"], 0.5, texts=texts)
            assert (ranking.n_encoded, ranking.n_missing, ranking.degraded) == (2, 3, ("texts",))
            assert ask(ranker, shop, "u1", ["new0", "new0", "i1"], 0.5, texts=texts).n_encoded == 1  # each text once

    def test_what_would_encode_otherwise_is_refused(self, tmp_path, shop, served):
        options = self.options(shop)
        for changes in (
            {"template": ItemTemplate("{title}[ {year}]")},
            {"encoder": TextEncoder(write_artifact(tmp_path / "other", seed=1))},
        ):
            with pytest.raises(TableFingerprintError, match="pass those that the catalogue was encoded with"):
                shop.ranker(served, **{**options, **changes})
        with pytest.raises(BundleError, match="encoder= came without template="):
            shop.ranker(served, **{**options, "template": None})
        with pytest.raises(InputError, match="max_texts=0"):
            shop.ranker(served, max_texts=0, **options)

    def test_texts_need_an_encoder_and_are_texts(self, shop, served, ranker):
        with pytest.raises(InputError, match="texts came with the request, but no encoder"):
            ask(ranker, shop, "u1", [COLD], 0.5, texts=self.TEXTS)
        with shop.ranker(served, **self.options(shop)) as encoding:
            with pytest.raises(InputError, match="a text of the request is a int, but a text or a row"):
                ask(encoding, shop, "u1", [COLD], 0.5, texts={COLD: 3})
            with pytest.raises(InputError, match=r"has the fields \['name'\], but the template needs \['title'\]"):
                ask(encoding, shop, "u1", [COLD], 0.5, texts={COLD: {"name": "heat"}})


class TestHistoriesOfOnesOwn:
    def test_a_callable(self, shop, served):
        log = shop.log
        asked = []

        def history(user):
            asked.append(user)
            return UserHistory.of_log(log, user)

        with shop.ranker(served, history=history) as ranker:
            user, ids, prices = next(requests_of(shop))
            assert_ranked(ask(ranker, shop, user, ids, prices), shop.pipeline, shop.rows(user, ids, prices))
        assert asked == [user]

    def test_what_is_no_history_is_an_error(self, shop, served):
        with (
            shop.ranker(served, history=lambda user: ["i1"]) as ranker,
            pytest.raises(
                InputError, match=r"history returned a list, but a UserHistory was expected: UserHistory\.of"
            ),
        ):
            ask(ranker, shop, "u1", ["i1"], 0.5)


class TestRequests:
    @pytest.mark.parametrize(
        ("request_", "kind", "said"),
        [
            ({"item_ids": []}, InputError, "the request has 0 candidates"),
            ({"item_ids": ["i1", None]}, InputError, "the ids of the request"),
            ({"user_id": None}, InputError, "the ids of the request"),
            ({"now": float("nan")}, TimestampError, "the moment of the request"),
            ({"base": None}, InputError, r"base has the columns \[\], but \['price'\] is needed"),
            ({"base": {"price": [1.0] * 3}}, InputError, r"base\['price'\] is no number for each of 2 candidates"),
            ({"base": {"price": "cheap"}}, InputError, r"base\['price'\] is no number"),
            (
                {"item_ids": "i1"},
                InputError,
                "item_ids is one str, but a sequence of ids was expected: put it in a list",
            ),
            ({"because": "words"}, InputError, r"because='words', but the vectors are \['llm', 'learned'\]"),
        ],
    )
    def test_what_is_wrong_is_said(self, ranker, request_, kind, said):
        given = {"user_id": "u1", "item_ids": ["i1", "i2"], "base": {"price": 0.5}, **request_}
        with pytest.raises(kind, match=said):
            ranker.rank(given.pop("user_id"), given.pop("item_ids"), **given)

    def test_too_many_without_a_vector(self, shop, served):
        with shop.ranker(served, max_missing_share=0.5) as ranker:
            assert ask(ranker, shop, "u1", ["i1", "who"], 0.5).n_missing == 1
            with pytest.raises(StoreMissingError, match=r"2 of 3 candidates have no vector, at most 50% were expected"):
                ask(ranker, shop, "u1", ["i1", "who", NO_TEXT], 0.5)

    def test_ids_that_are_no_texts(self, shop):
        """Integers of users and of items, as a log of integers knows them."""
        frame = random_log(5)
        log = InteractionLog.from_frame(frame, label="label")
        pipeline = RankingPipeline([("features", ActivityFeatures(log)), ("ranker", small_ranker())])
        pipeline.fit(frame.to_pandas(), frame["label"].to_numpy())
        ranker = OnlineRanker(RankerBundle.of_pipeline(pipeline, name="ints"), log=log)
        now = int(frame["timestamp"].to_numpy().max()) + 1
        rows = pd.DataFrame({"user_id": 3, "item_id": [1, 7, 29, 99], "timestamp": now})
        item_ids, scores = by_pipeline(pipeline, rows)
        for user, ids in ((3, rows.item_id), ("3", rows.item_id.tolist()), (3, rows.item_id.astype(str))):
            ranking = ranker.rank(user, ids, now=now)
            assert ranking.item_ids == [str(each) for each in item_ids]
            assert ranking.scores.tobytes() == scores.tobytes()

    def test_reasons_need_a_history(self, shop):
        pipeline = RankingPipeline([("features", ActivityFeatures(shop.log)), ("ranker", small_ranker())])
        pipeline.fit(shop.events.to_pandas(), shop.events["label"].to_numpy())
        ranker = OnlineRanker(RankerBundle.of_pipeline(pipeline, name="plain"), log=shop.log)
        with pytest.raises(InputError, match="this ranker does not look at histories"):
            ranker.rank("u1", ["i1"], because=True)
        with pytest.raises(BundleError, match="the ranker has ActivityFeatures"):
            ranker.log = None


class TestWhatTheRankerNeeds:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"log": None}, "the ranker has ActivityFeatures, .*: pass log="),
            ({"repo": None}, "neither items= nor repo= came: pass one"),
            ({"on_store_error": "ignore"}, "on_store_error='ignore', but 'raise' or 'degrade'"),
        ],
    )
    def test_is_asked_for(self, shop, served, options, said):
        with pytest.raises((BundleError, InputError), match=said):
            shop.ranker(**{"repo": served, **options})

    def test_histories(self, shop):
        with pytest.raises(BundleError, match="neither history= nor repo= came"):
            OnlineRanker(shop.bundle, items=shop.vectors, log=shop.log)

    def test_other_vectors_are_refused(self, tmp_path, shop):
        other = VectorTable.from_arrays(["i1"], [[1.0] * 8])
        with pytest.raises(TableFingerprintError, match="serve the generation that it was trained on"):
            shop.ranker(None, items=other)
        named = {shop.vectors.fingerprint: other}
        with pytest.raises(TableFingerprintError, match="serve the generation that it was trained on"):
            shop.ranker(None, items=named)
        repo = init_repo(tmp_path)
        put_vectors(repo / "data" / "item_vectors", numbered(2, dim=8))
        apply(repo)
        with pytest.raises(StoreConfigError, match="run `feast apply`"):
            shop.ranker(repo)

    def test_short_histories_are_refused(self, tmp_path, shop):
        repo = serve(tmp_path, shop, max_events=19)
        with pytest.raises(StoreConfigError, match="keeps 19 events of a user, but the ranker looks at 20: raise"):
            shop.ranker(repo)

    def test_labels_of_another_delay_are_refused(self, tmp_path, shop):
        events = shop.events.drop_columns("price")
        InteractionLog.from_frame(events, label="label", available_after_s=60).save(tmp_path / "log")
        repo = serve(tmp_path, shop, log=tmp_path / "log")
        with pytest.raises(StoreConfigError, match=r"labels that arrive after 60000000 us, but .* \[3600000000\]"):
            shop.ranker(repo)

    def test_numbers_of_another_store_are_refused(self, tmp_path, shop, served):
        views = {view.tags["llmfeat"]: view.name for view in open_store(served).list_feature_views()}
        store = FeastFeatures(served, [views["user_vectors"]], max_missing_share=1)
        pipeline = RankingPipeline([("features", FeatureUnion([("store", store)])), ("ranker", small_ranker())])
        pipeline.fit(shop.events.to_pandas(), shop.events["label"].to_numpy())
        bundle = RankerBundle.of_pipeline(pipeline, name="store")
        with pytest.raises(BundleError, match="the ranker has FeastFeatures, but no repo= came"):
            OnlineRanker(bundle)
        put_vectors(tmp_path / "users", {"u1": [1.0, 2.0]}, fingerprint="b" * 64)
        repo = serve(tmp_path, shop, users=tmp_path / "users")
        with pytest.raises(
            StoreConfigError, match=f"but the ranker was trained on '{views['user_vectors']}': apply it"
        ):
            OnlineRanker(bundle, repo=repo)
        narrow = dataclasses.replace(bundle.blocks[0].views[0], vectors={"vector": 3})
        block = dataclasses.replace(bundle.blocks[0], views=(narrow,))
        with pytest.raises(TableFingerprintError, match="serve the views that it was trained on"):
            OnlineRanker(dataclasses.replace(bundle, blocks=(block,)), repo=served)

    def test_it_takes_a_folder_and_warms_itself(self, tmp_path, shop, served, monkeypatch):
        shop.bundle.save(tmp_path / "bundle")
        with OnlineRanker(str(tmp_path / "bundle"), repo=served, log=shop.log) as ranker:
            user, ids, prices = next(requests_of(shop))
            ranker.warm([*(f"i{at}" for at in range(32)), "unheard of"])
            for cache in ranker.vectors.caches.values():
                monkeypatch.setattr(cache, "fetch", lambda ids: pytest.fail("it was read"))
            assert_ranked(ask(ranker, shop, user, ids, prices), shop.pipeline, shop.rows(user, ids, prices))
