"""`replay`: served requests computed anew from the log; and the log of requests that it reads."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from llmfeat import (
    FeastFeatures,
    HistoryFeatures,
    InteractionLog,
    OnlineRanker,
    RankerBundle,
    RankingPipeline,
    TextEncoder,
    VectorTable,
    encode_table,
)
from llmfeat.cli.main import cli
from llmfeat.errors import BundleError, EmptyInputError, InputError, LLMFeatWarning
from llmfeat.history import UserHistory
from llmfeat.rank.serving import RequestLog, replay
from llmfeat.rank.serving.request_log import ServedRequest, read_requests
from llmfeat.store import open_store
from tests.shop import COLD, DELAY_S, LAG_S, US, requests_of, serve, small_ranker
from tests.stores import FEAST_WARNINGS

pytestmark = FEAST_WARNINGS


@pytest.fixture(scope="module")
def repo(tmp_path_factory, shop):
    return serve(tmp_path_factory.mktemp("repo"), shop)


def serve_requests(folder, shop, repo, *, now=None, **options):
    """Answer some requests, and return where they were written down."""
    requests = RequestLog(folder)
    with shop.ranker(repo, requests=requests, **options) as ranker:
        for user, ids, prices in requests_of(shop):
            ranker.rank(user, ids, now=now, base={"price": prices})
    return folder


@pytest.fixture(scope="module")
def served_now(tmp_path_factory, shop, repo):
    """Requests of this very moment, after the catalogue was encoded."""
    return serve_requests(tmp_path_factory.mktemp("now"), shop, repo)


@pytest.fixture(scope="module")
def served_then(tmp_path_factory, shop, repo):
    """Requests of the end of the log, of which lag and delay hide something."""
    return serve_requests(tmp_path_factory.mktemp("then"), shop, repo, now=shop.now)


def again(shop, requests, **options):
    """Replay over vectors that are taken for unchanged."""
    return replay(
        requests, shop.bundle, **{"log": shop.log, "items": {shop.vectors.fingerprint: shop.vectors}, **options}
    )


class TestHonestRequests:
    def test_are_equal_bit_for_bit(self, tmp_path, shop, served):
        folder = serve_requests(tmp_path, shop, served)
        found = replay(folder, shop.bundle, log=shop.log, table=shop.table)
        assert found.is_equal
        assert (found.n_requests, found.n_rows, found.n_columns) == (6, 72, len(shop.bundle.columns))
        assert (found.n_degraded, found.n_encoded, found.n_other, found.n_changed_rows, found.n_scores) == (0,) * 5

    def test_of_a_moment_that_a_lag_hides_things_of(self, shop, served_then):
        assert again(shop, served_then).is_equal

    def test_with_a_base_column_that_is_missing(self, tmp_path, shop, repo):
        with shop.ranker(repo, requests=RequestLog(tmp_path)) as ranker:
            ranker.rank("u1", ["i1", "i2"], base={"price": [np.nan, 0.1]})
        found = replay(tmp_path, shop.bundle, log=shop.log, table=shop.table)
        assert found.is_equal

    def test_numbers_of_the_store_as_they_were(self, tmp_path, shop, repo):
        views = {view.tags["llmfeat"]: view.name for view in open_store(repo).list_feature_views()}
        store = FeastFeatures(repo, [views["item_scalars"], views["user_vectors"]], max_missing_share=1)
        pipeline = RankingPipeline([("features", store), ("ranker", small_ranker())])
        pipeline.fit(shop.events.to_pandas(), shop.events["label"].to_numpy())
        bundle = RankerBundle.of_pipeline(pipeline, name="store")
        with OnlineRanker(bundle, repo=repo, requests=RequestLog(tmp_path)) as ranker:
            for user, ids, _ in requests_of(shop):
                ranker.rank(user, ids)
        assert replay(tmp_path, bundle, log=shop.log, repo=repo).is_equal
        with pytest.raises(BundleError, match="the ranker has FeastFeatures, but no repo= came"):
            replay(tmp_path, bundle, log=shop.log)


class TestWhatIsTold:
    @pytest.mark.parametrize("value", [123.0, np.nan])
    def test_a_value_that_was_another(self, shop, served_then, value):
        requests = list(read_requests(served_then))
        column = shop.bundle.columns.index("history__llm_max")
        matrix = requests[2].matrix.copy()
        was = float(matrix[4, column])
        matrix[4, column] = value
        requests[2] = dataclasses.replace(requests[2], matrix=matrix)
        found = again(shop, requests)
        assert not found.is_equal
        (told,) = found.differences
        assert (told.column, told.n_rows, told.request_ids) == ("history__llm_max", 1, (requests[2].request_id,))
        assert told.largest == (pytest.approx(123 - was) if value == 123 else np.inf)
        assert found.n_scores == 0

    def test_another_bit_is_another_value(self, shop, served_then):
        requests = list(read_requests(served_then))
        column = shop.bundle.columns.index("history__learned_mean")
        matrix = requests[0].matrix.copy()
        matrix[:, column] = np.nextafter(matrix[:, column], np.float32(np.inf))
        found = again(shop, [dataclasses.replace(requests[0], matrix=matrix), *requests[1:]])
        assert [(each.column, each.n_rows) for each in found.differences] == [("history__learned_mean", 10)]

    def test_a_log_without_an_event(self, shop, served_then):
        """As that of a pipeline that lost some: all columns that look at events say so, and no others."""
        frame = shop.events.drop_columns("price").slice(0, 890)
        log = InteractionLog.from_frame(frame, label="label", available_after_s=DELAY_S)
        found = again(shop, served_then, log=log)
        assert {each.column.partition("__")[0] for each in found.differences} == {"activity", "history"}
        assert all(len(each.request_ids) <= 5 for each in found.differences)

    def test_another_score(self, shop, served_then):
        requests = list(read_requests(served_then))
        requests[1] = dataclasses.replace(requests[1], scores=requests[1].scores + 1e-9)
        found = again(shop, requests)
        assert (found.differences, found.n_scores, found.is_equal) == ((), 12, False)


class TestTextsThatChangedSince:
    def change(self, shop, table, key):
        titles = ["war war war" if row["item_id"] == key else row["title"] for row in shop.items.to_pylist()]
        items = shop.items.set_column(1, "title", pa.array(titles)).filter(
            pa.array([each != COLD for each in shop.items["item_id"].to_pylist()])
        )
        encoder = TextEncoder(shop.artifact)
        encode_table(items, template=shop.template, encoder=encoder, out=table, valid_from="valid_from")

    def test_they_are_left_out_and_counted(self, tmp_path, shop, served_now):
        table = shutil.copytree(shop.table, tmp_path / "table")
        requests = list(read_requests(served_now))
        seen = {
            one.request_id: {*one.item_ids, *UserHistory.of_log(shop.log, one.user_id, max_events=20).item_ids}
            for one in requests
        }
        # An item that some of the histories have, and some requests do without.
        key = next(f"i{at}" for at in range(30) if 0 < sum(f"i{at}" in ids for ids in seen.values()) < 5)
        self.change(shop, table, key)
        found = replay(served_now, shop.bundle, log=shop.log, table=table)
        assert found.is_equal
        in_history = {
            one.request_id
            for one in requests
            if key in UserHistory.of_log(shop.log, one.user_id, max_events=20).item_ids
        }
        n_changed = sum(12 if one.request_id in in_history else one.item_ids.count(key) for one in requests)
        assert found.n_changed_rows == n_changed > 0
        assert found.n_rows == 72 - n_changed
        # Whoever does not say when texts changed is told of differences.
        new = VectorTable.open(table)
        assert not again(shop, served_now, items={new.fingerprint: new}).is_equal

    def test_the_events_that_a_lag_leaves_are_looked_at(self, tmp_path, shop):
        """Of 25 events five are within the lag, and the oldest of the 20 before them has another text now."""
        table = shutil.copytree(shop.table, tmp_path / "table")
        now = time.time()
        ids = ["i9", *(["i1", "i2", "i3", "i4"] * 6)]
        times = [now - LAG_S - 100 + at for at in range(20)] + [now - 100 + at for at in range(5)]
        frame = {
            "user_id": ["u"] * 25,
            "item_id": ids,
            "timestamp": [round(at * US) for at in times],
            "label": [1] * 25,
        }
        log = InteractionLog.from_frame(pa.table(frame), label="label", available_after_s=DELAY_S)
        features = HistoryFeatures(shop.log, {"llm": VectorTable.open(table)}, max_events=20, history_lag_s=LAG_S)
        pipeline = RankingPipeline([("features", features), ("ranker", small_ranker())])
        bundle = RankerBundle.of_pipeline(
            pipeline.fit(shop.events.to_pandas(), shop.events["label"].to_numpy()), name="lagged"
        )
        given = {"items": VectorTable.open(table), "history": lambda user: UserHistory.of_log(log, user)}
        with OnlineRanker(bundle, **given, requests=RequestLog(tmp_path / "requests")) as ranker:
            ranker.rank("u", ["i5", "i6"])
        assert replay(tmp_path / "requests", bundle, log=log, table=table).n_rows == 2
        self.change(shop, table, "i9")
        found = replay(tmp_path / "requests", bundle, log=log, table=table)
        assert (found.n_changed_rows, found.n_rows, found.differences) == (2, 0, ())


class TestWhatIsNotCompared:
    def test_degraded_and_encoded_requests_and_those_of_others(self, tmp_path, shop, repo):
        requests = RequestLog(tmp_path)
        options = {"encoder": TextEncoder(shop.artifact), "template": shop.template, "requests": requests}
        with shop.ranker(repo, **options) as ranker:
            ranker.rank("u1", ["i1", "i2"], base={"price": 0.5})
            ranker.rank("u1", ["i1", COLD], base={"price": 0.5}, texts={COLD: {"title": "war alien"}})
            begin = ranker.vectors.begin
            ranker.vectors.begin = lambda *asked: late(begin(*asked))
            ranker.rank("u1", ["i1", "i2"], base={"price": 0.5})
        other = dataclasses.replace(shop.bundle, model=shop.bundle.model + "\n")
        with OnlineRanker(other, repo=repo, log=shop.log, requests=requests) as ranker:
            ranker.rank("u1", ["i1", "i2"], base={"price": 0.5})
        found = replay(tmp_path, shop.bundle, log=shop.log, table=shop.table)
        assert found.is_equal
        assert (found.n_requests, found.n_degraded, found.n_encoded, found.n_other) == (1, 1, 1, 1)
        every = list(read_requests(tmp_path))
        assert [one.degraded for one in every].count(("vectors",)) == 1
        with pytest.raises(
            EmptyInputError, match=r"of 2 requests 1 are of the ranker .* none of these was served whole"
        ):
            again(shop, [one for one in every if one.degraded or one.bundle != shop.bundle.fingerprint])

    def test_vectors_that_are_nowhere(self, shop, served_then):
        with pytest.raises(BundleError, match=r"are in neither table= nor items=: pass them"):
            replay(served_then, shop.bundle, log=shop.log)


def late(fetch):
    """The same fetch, as if it had come too late."""
    fetch.result = lambda reserve_s, tolerates, degraded, result=fetch.result: (
        degraded.add("vectors"),
        result(reserve_s, tolerates, degraded),
    )[1]
    return fetch


class TestRequestLog:
    def test_what_is_written_is_read_and_holds_no_text(self, tmp_path, shop, repo):
        texts = {COLD: {"title": "casino alien drama"}}
        options = {"encoder": TextEncoder(shop.artifact), "template": shop.template, "requests": RequestLog(tmp_path)}
        with shop.ranker(repo, **options) as ranker:
            ranking = ranker.rank(7, ["i1", COLD], now=shop.now, base={"price": [0.25, np.nan]}, texts=texts)
        (file,) = tmp_path.iterdir()
        assert "casino" not in file.read_text()
        (read,) = read_requests(file)
        assert (read.user_id, read.item_ids, read.now_us, read.n_encoded) == ("7", ["i1", COLD], shop.now * US, 1)
        assert read.base["price"][0] == 0.25
        assert np.isnan(read.base["price"][1])
        assert sorted(read.scores, reverse=True) == ranking.scores.tolist()
        assert read.matrix.dtype == np.float32
        assert read.matrix.shape == (2, len(shop.bundle.columns))
        assert ServedRequest.of_json(read.to_json()).to_json() == read.to_json()

    def test_a_last_line_that_was_cut_off_is_left_out(self, tmp_path, shop, served_now):
        (file,) = served_now.iterdir()
        text = file.read_text()
        (tmp_path / "cut.jsonl").write_text(text + text[:100])
        assert len(list(read_requests(tmp_path))) == 6
        assert len(list(read_requests(tmp_path / "cut.jsonl"))) == 6
        assert replay(tmp_path, shop.bundle, log=shop.log, table=shop.table).is_equal

    @pytest.mark.parametrize(
        ("broken", "said"),
        [
            (lambda line: line[:50], "cannot be read .*: remove it, or restore the file"),
            (lambda line: re.sub('"matrix":"[^"]*"', '"matrix":"AAAA"', line), "cannot be read"),
            (lambda line: line.replace('"schema":1', '"schema":2'), "written with schema 2, this version reads 1"),
            (lambda line: line.replace('"now_us"', '"then_us"'), "cannot be read"),
        ],
    )
    def test_another_line_that_is_broken_is_an_error(self, tmp_path, served_now, broken, said):
        (file,) = served_now.iterdir()
        lines = file.read_text().splitlines()
        (tmp_path / "broken.jsonl").write_text("\n".join([broken(lines[0]), *lines[1:]]) + "\n")
        with pytest.raises(InputError, match=said):
            list(read_requests(tmp_path))

    def test_where_there_is_none(self, tmp_path):
        for path in (tmp_path, tmp_path / "nowhere", tmp_path / "nowhere.jsonl"):
            with pytest.raises(InputError, match=r"holds no requests, .*: pass requests= to OnlineRanker"):
                list(read_requests(path))

    def test_a_sample(self, tmp_path, served_now):
        one = next(read_requests(served_now))
        kept = []
        for name in ("a", "b"):
            requests = RequestLog(tmp_path / name, sample=0.3, seed=5)
            for at in range(200):
                requests.add(dataclasses.replace(one, request_id=str(at)))
            requests.close()
            kept.append([each.request_id for each in read_requests(tmp_path / name)])
        assert kept[0] == kept[1]
        assert 30 < len(kept[0]) < 90
        for sample in (0, 1.5, -1):
            with pytest.raises(InputError, match=f"sample={sample}"):
                RequestLog(tmp_path, sample=sample)

    def test_a_full_disk_costs_no_answer(self, tmp_path, shop, repo):
        (tmp_path / "file").touch()
        requests = RequestLog(tmp_path / "file")  # no folder, nor can it be made one
        with shop.ranker(repo, requests=requests) as ranker:
            with pytest.warns(LLMFeatWarning, match="requests are answered and not kept, n_lost counts them"):
                ranker.rank("u1", ["i1"], base={"price": 0.5})
            assert ranker.rank("u1", ["i1"], base={"price": 0.5}).degraded == ()  # and it is told once
        assert requests.n_lost == 2

    def test_threads_share_it_and_it_can_be_closed_meanwhile(self, tmp_path, served_now):
        one = next(read_requests(served_now))
        requests = RequestLog(tmp_path)

        def add(at):
            requests.add(dataclasses.replace(one, request_id=str(at)))
            if at % 40 == 0:
                requests.close()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(add, range(200)))
        requests.close()
        assert sorted(int(each.request_id) for each in read_requests(tmp_path)) == list(range(200))
        assert len(list(tmp_path.iterdir())) > 1


class TestTheCommand:
    @pytest.fixture
    def bundle(self, tmp_path, shop):
        shop.bundle.save(tmp_path / "bundle")
        return tmp_path / "bundle"

    def run(self, requests, bundle, repo, *more):
        command = ["store", "replay", str(requests), "--bundle", str(bundle), "--repo", str(repo), *map(str, more)]
        return CliRunner().invoke(cli, command)

    def test_status_0_where_all_is_equal(self, bundle, repo, shop, served_now):
        result = self.run(served_now, bundle, repo)
        assert result.exit_code == 0, result.output
        assert f"6 requests, 72 rows x {len(shop.bundle.columns)} columns compared" in result.stdout
        assert "equal, bit for bit" in result.stdout
        body = json.loads(self.run(served_now, bundle, repo, "--json").stdout)
        assert (body["is_equal"], body["n_rows"], body["differences"]) == (True, 72, [])

    def test_status_1_and_the_columns_where_it_is_not(self, tmp_path, bundle, repo, shop, served_now):
        frame = shop.events.drop_columns("price").slice(0, 890)
        InteractionLog.from_frame(frame, label="label", available_after_s=DELAY_S).save(tmp_path / "log")
        result = self.run(served_now, bundle, repo, "--log", tmp_path / "log")
        assert result.exit_code == 1
        assert re.search(r"history__\w+: \d+ rows differ, by [\d.]+ at most, as in [0-9a-f]{32}", result.stdout)
        assert "NOT EQUAL" in result.stdout
        assert json.loads(self.run(served_now, bundle, repo, "--log", tmp_path / "log", "--json").stdout)["differences"]

    def test_status_1_where_nothing_could_be_compared(self, tmp_path, bundle, repo, served_then):
        (tmp_path / "one.jsonl").write_text(next(read_requests(served_then)).to_json() + "\n")
        result = self.run(tmp_path / "one.jsonl", bundle, repo)  # the catalogue was encoded long after it
        assert result.exit_code == 1
        assert "12 rows whose text changed since, not compared" in result.stdout
        assert "nothing was compared" in result.stdout

    def test_without_a_log(self, tmp_path, bundle, repo, served_now):
        config = (repo / "llmfeat.toml").read_text()
        copy = shutil.copytree(repo, tmp_path / "copy")
        (copy / "llmfeat.toml").write_text(re.sub(r"(?m)^log = ", "# log = ", config))
        result = self.run(served_now, bundle, copy)
        assert isinstance(result.exception, InputError)
        assert "pass --log, or set histories.log" in str(result.exception)
