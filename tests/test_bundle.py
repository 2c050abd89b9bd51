"""`RankerBundle`: what one ranker is, on disk and in a repository that serves several."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from lightgbm import LGBMClassifier
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from llmfeat import (
    ActivityFeatures,
    FeastFeatures,
    HistoryFeatures,
    OnlineRanker,
    PastFittedFeatures,
    RankerBundle,
    RankingPipeline,
    SemanticIdFeatures,
    SemanticIds,
    TextEncoder,
    VectorTable,
    encode_table,
    materialize,
)
from llmfeat._base.files import text_sha256
from llmfeat.cli.main import cli
from llmfeat.encode.generations import held_generations, hold_generation, prune_table, release_generation
from llmfeat.errors import BundleError, InputError, TableFingerprintError
from llmfeat.features import LearnedSimilarity, SimilarityLearner
from llmfeat.features.learned import affinity_of_log
from llmfeat.features.reduce import Matryoshka, ReducedVectors, Whitening
from llmfeat.history import UserHistory
from llmfeat.rank.serving import bundle as bundle_module
from llmfeat.rank.serving import register_ranker, unregister_ranker
from llmfeat.store import init_repo, open_store, repo_objects, view_name
from llmfeat.store.dialects.redis import RedisDialect
from llmfeat.store.dialects.sqlite import SqliteDialect
from tests.conftest import write_artifact
from tests.shop import assert_ranked, requests_of, serve, small_ranker
from tests.stores import FEAST_WARNINGS, apply

pytestmark = FEAST_WARNINGS


def fitted(shop, features, ranker=None, **options):
    """A pipeline of some features, fitted on the shop's events."""
    pipeline = RankingPipeline([("features", features), ("ranker", ranker or small_ranker())], **options)
    return pipeline.fit(shop.events.to_pandas(), shop.events["label"].to_numpy())


def bundled(shop, features, **options):
    return RankerBundle.of_pipeline(fitted(shop, features), name="some", **options)


class TestOnDisk:
    def test_what_is_loaded_is_what_was_saved(self, tmp_path, shop):
        shop.bundle.save(tmp_path / "bundle")
        again = RankerBundle.load(tmp_path / "bundle")
        for name in ("name", "model", "trained", "kernel", "created_at", "columns", "base_columns", "vectors"):
            assert getattr(again, name) == getattr(shop.bundle, name)
        assert again.fingerprint == shop.bundle.fingerprint
        assert again.columns == tuple(shop.pipeline[:-1].get_feature_names_out())
        assert again.base_columns == ("price",)
        assert again.vectors == (shop.vectors.fingerprint,)  # of the learned ones, what they are made of
        matrix = np.random.default_rng(0).standard_normal((9, len(again.columns)))
        assert again.predict(matrix).tobytes() == shop.bundle.predict(matrix, threads=1).tobytes()
        assert pickle.loads(pickle.dumps(again)).predict(matrix).tobytes() == again.predict(matrix).tobytes()
        again.save(tmp_path / "second")
        for file in (tmp_path / "bundle").iterdir():
            assert (tmp_path / "second" / file.name).read_bytes() == file.read_bytes()

    def test_it_serves_as_before(self, tmp_path, shop):
        shop.bundle.save(tmp_path / "bundle")
        log = shop.log
        given = {"items": shop.vectors, "log": log, "history": lambda user: UserHistory.of_log(log, user)}
        with OnlineRanker(tmp_path / "bundle", **given) as ranker:
            for user, ids, prices in requests_of(shop):
                ranking = ranker.rank(user, ids, now=shop.now, base={"price": prices})
                assert_ranked(ranking, shop.pipeline, shop.rows(user, ids, prices))

    def test_the_fingerprint_is_of_what_it_computes(self, shop):
        other = dataclasses.replace(shop.bundle, name="other", trained={"auc": 1}, created_at="yesterday")
        assert other.fingerprint == shop.bundle.fingerprint
        for changes in (
            {"model": shop.bundle.model + "\n"},
            {"kernel": 0},
            {"blocks": shop.bundle.blocks[:2]},
        ):
            assert dataclasses.replace(shop.bundle, **changes).fingerprint != shop.bundle.fingerprint

    def test_a_bundle_is_replaced_and_nothing_else_is(self, tmp_path, shop):
        (tmp_path / "empty").mkdir()
        shop.bundle.save(tmp_path / "empty")
        (tmp_path / "empty" / "left over").touch()
        shop.bundle.save(tmp_path / "empty")
        assert not (tmp_path / "empty" / "left over").exists()
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("years of work")
        with pytest.raises(BundleError, match=r"holds no bundle\.json, so it is no bundle to replace: name another"):
            shop.bundle.save(tmp_path / "mine")
        assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"

    @pytest.fixture
    def saved(self, tmp_path, shop):
        shop.bundle.save(tmp_path / "bundle")
        return tmp_path / "bundle"

    def test_every_file_is_checked(self, saved):
        names = sorted(file.name for file in saved.iterdir() if file.name != "bundle.json")
        assert [name.split("-")[0] for name in names] == ["model.txt", "reducer", "semantic"]
        for name in names:
            kept = (saved / name).read_bytes()
            (saved / name).write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
            with pytest.raises(BundleError, match=rf"{name} is missing or is not what was written: copy"):
                RankerBundle.load(saved)
            (saved / name).unlink()
            with pytest.raises(BundleError, match=f"{name} is missing"):
                RankerBundle.load(saved)
            (saved / name).write_bytes(kept)
        assert RankerBundle.load(saved).name == "first"

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda body: body["blocks"][1].update(lag_s=7), "is not the bundle that was written: copy it again"),
            (lambda body: body["blocks"][1].update(kind="magic"), "the kind 'magic', .*: upgrade llmfeat"),
            (lambda body: body.update(schema=2), "has schema 2, this version reads 1: upgrade"),
            (lambda body: body.pop("trained"), "does not describe a bundle"),
            (lambda body: body["files"].update({"../secret": "0"}), "is missing or is not what was written"),
        ],
    )
    def test_the_description_is_checked(self, saved, change, said):
        body = json.loads((saved / "bundle.json").read_text())
        change(body)
        (saved / "bundle.json").write_text(json.dumps(body))
        with pytest.raises(BundleError, match=said):
            RankerBundle.load(saved)

    def test_what_is_no_bundle(self, tmp_path, saved):
        with pytest.raises(BundleError, match="save one with bundle"):
            RankerBundle.load(tmp_path)
        (saved / "bundle.json").write_text("{")
        with pytest.raises(BundleError, match="does not describe a bundle"):
            RankerBundle.load(saved)

    def test_another_kernel_is_not_served(self, saved, monkeypatch):
        monkeypatch.setattr(bundle_module, "KERNEL_VERSION", 2)
        with pytest.raises(
            BundleError, match=r"version 1 of the feature kernel, this llmfeat has 2, .* or train again"
        ):
            RankerBundle.load(saved)

    @pytest.mark.parametrize(
        "reducer",
        [
            Matryoshka(np.int64(3)),
            Whitening(2),
            LearnedSimilarity(3, shrinkage=np.float64(0.1), pair_shrinkage=np.float32(2)),
            Whitening(2).set_output(transform="pandas"),
        ],
        ids=["matryoshka", "whitening", "learned", "pandas"],
    )
    def test_reducers_keep_their_bits_and_their_fingerprint(self, tmp_path, shop, reducer):
        table = shop.vectors
        vectors = pd.DataFrame(table.vectors, columns=[f"d{at}" for at in range(table.dim)])
        learned = affinity_of_log(shop.log, table) if isinstance(reducer, LearnedSimilarity) else None
        source = ReducedVectors(table, reducer.fit(vectors.to_numpy(), learned))
        bundle = bundled(shop, HistoryFeatures(shop.log, {"x": source}, max_events=np.int64(5), half_lives=(2,)))
        bundle.save(tmp_path / "bundle")
        ((part,),) = (block.parts for block in RankerBundle.load(tmp_path / "bundle").blocks)
        again = ReducedVectors(table, part.reducer)
        assert again.fingerprint == source.fingerprint == part.fingerprint
        assert again.lookup(table.ids).tobytes() == source.lookup(table.ids).tobytes()
        assert part.base == table.fingerprint


class TestWhatCannotBeBundled:
    def test_shapes_of_pipelines(self, shop):
        activity = ActivityFeatures(shop.log)
        events, labels = shop.events.to_pandas(), shop.events["label"].to_numpy()
        three = Pipeline(
            [("a", activity), ("b", FunctionTransformer()), ("c", LGBMClassifier(n_estimators=2, verbose=-1))]
        )
        with pytest.raises(
            BundleError, match=r"the steps \['a', 'b', 'c'\], .* put all features into one FeatureUnion"
        ):
            RankerBundle.of_pipeline(three.fit(events, labels), name="x")
        linear = make_pipeline(
            FeatureUnion([("s", SemanticIdFeatures(shop.book.item_codes(shop.vectors)))]), LogisticRegression()
        )
        with pytest.raises(BundleError, match=r"a LogisticRegression, but a model of LightGBM was expected: serve"):
            RankerBundle.of_pipeline(linear.fit(events, labels), name="x")
        classes = Pipeline([("a", activity), ("c", LGBMClassifier(n_estimators=2, verbose=-1))])
        classes.fit(events, np.arange(len(labels)) % 3)
        with pytest.raises(BundleError, match="a score for each of several classes, but one to rank by was expected"):
            RankerBundle.of_pipeline(classes, name="x")
        with pytest.raises(NotFittedError):
            RankerBundle.of_pipeline(Pipeline([("a", activity), ("c", small_ranker())]), name="x")
        with pytest.raises(BundleError, match="name='my ranker', but letters, digits and _"):
            RankerBundle.of_pipeline(shop.pipeline, name="my ranker")

    def test_a_classifier_in_a_plain_pipeline_can(self, shop):
        pipeline = Pipeline([("a", ActivityFeatures(shop.log)), ("c", LGBMClassifier(n_estimators=2, verbose=-1))])
        pipeline.fit(shop.events.to_pandas(), shop.events["label"].to_numpy())
        assert RankerBundle.of_pipeline(pipeline, name="x").columns == tuple(pipeline[:-1].get_feature_names_out())

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (
                lambda shop: ColumnTransformer([("own", StandardScaler(), ["price"])]),
                r"'own' is a StandardScaler, but 'passthrough' of named columns .*: compute the column before",
            ),
            (
                lambda shop: ColumnTransformer([("own", FunctionTransformer(np.log1p), ["price"])]),
                "'own' is a FunctionTransformer",
            ),
            (
                lambda shop: ColumnTransformer([("own", "passthrough", [4])]),
                "'own' takes columns by position, but names were expected",
            ),
            (
                lambda shop: ColumnTransformer([("own", "drop", ["user_id", "item_id"])], remainder="passthrough"),
                "ColumnTransformer's '(own|remainder)'",
            ),
            (
                lambda shop: FeatureUnion([("a", ActivityFeatures(shop.log))], transformer_weights={"a": 2}),
                "transformer_weights, but trees need none: leave them out",
            ),
            (
                lambda shop: PastFittedFeatures(shop.log, {"x": SimilarityLearner(shop.vectors)}, n_blocks=2),
                r"a PastFittedFeatures is among the features, but a bundle holds \['HistoryFeatures', .*: serve",
            ),
            (
                lambda shop: SemanticIdFeatures(shop.book.item_codes(shop.vectors)),
                r"but none came: pass semantic_ids=",
            ),
        ],
        ids=["scaler", "function", "position", "remainder", "weights", "past", "book"],
    )
    def test_features(self, shop, make, said):
        with pytest.raises(BundleError, match=said):
            bundled(shop, make(shop))

    def test_another_book(self, shop):
        features = SemanticIdFeatures(shop.book.item_codes(shop.vectors))
        with pytest.raises(BundleError, match=rf"but '?{'.' * 12}'? came: pass semantic_ids="):
            bundled(shop, features, semantic_ids=SemanticIds(levels=(3, 2)).fit_table(shop.vectors))
        loose = SemanticIds(levels=(4, 3)).fit(shop.vectors.vectors)
        codes = SemanticIdFeatures(loose.item_codes(shop.vectors))
        with pytest.raises(BundleError, match=r"the book does not know its vectors, .*: use fit_table"):
            bundled(shop, codes, semantic_ids=loose)

    def test_reducers_of_another_kind(self, tmp_path, shop):
        table = shop.vectors
        there = ~np.isnan(table.vectors[:, 0])
        source = ReducedVectors(table, PCA(2).fit(table.vectors[there]))
        bundle = bundled(shop, HistoryFeatures(shop.log, {"x": source}))
        with pytest.raises(BundleError, match=r"reduced by a PCA, but a bundle keeps .*: take one of these, or"):
            bundle.save(tmp_path / "bundle")
        assert not (tmp_path / "bundle").exists()

    def test_columns_that_the_booster_was_not_trained_on(self, shop):
        pipeline = fitted(shop, ActivityFeatures(shop.log))
        other = fitted(shop, FeatureUnion([("a", ActivityFeatures(shop.log)), ("b", ActivityFeatures(shop.log))]))
        mixed = Pipeline([("features", other[0]), ("ranker", pipeline[-1])])
        with pytest.raises(BundleError, match="fit the pipeline as a whole, then bundle it"):
            RankerBundle.of_pipeline(mixed, name="x")
        with pytest.raises(BundleError, match="the booster has"):
            dataclasses.replace(shop.bundle, blocks=shop.bundle.blocks[1:]).booster  # noqa: B018


class Two:
    """A repository with two generations of the catalogue, and a ranker trained on each."""

    def __init__(self, folder, shop, redis=None):
        self.shop, self.table = shop, folder / "table"
        shutil.copytree(shop.table, self.table)
        self.old = shop.vectors.fingerprint
        encoder = TextEncoder(write_artifact(folder / "artifact", seed=1))
        encode_table(shop.items, template=shop.template, encoder=encoder, out=self.table, valid_from="valid_from")
        self.new = VectorTable.open(self.table).fingerprint
        assert self.new != self.old
        self.pipelines = {
            "first": fitted(shop, HistoryFeatures(shop.log, {"llm": shop.vectors}, max_events=20)),
            "second": fitted(shop, HistoryFeatures(shop.log, {"llm": VectorTable.open(self.table)}, max_events=20)),
        }
        self.bundles = {
            name: RankerBundle.of_pipeline(pipeline, name=name, trained={"ndcg": 0.7, "data": "all"})
            for name, pipeline in self.pipelines.items()
        }
        self.repo = serve(folder, shop, redis=redis, table=self.table)

    def register(self, *names):
        for name in names:
            register_ranker(self.bundles[name], self.repo)
        apply(self.repo)
        return materialize(self.repo)

    def holder(self, name):
        return f"ranker_{name}_{text_sha256(str(self.repo.resolve()))[:8]}"

    def generations(self):
        return set(json.loads((self.table / "manifest.json").read_text())["generations"])


@pytest.fixture
def two(tmp_path, shop, online):
    return Two(tmp_path, shop, redis=online["redis"])


@pytest.fixture
def here(tmp_path, shop):
    """The same on SQLite alone, where the store says nothing."""
    return Two(tmp_path, shop)


class TestSideBySide:
    def test_each_says_what_its_pipeline_says_and_to_switch_writes_nothing(self, two, shop, monkeypatch):
        two.register("first", "second")
        writes = []
        for dialect in (SqliteDialect, RedisDialect):
            monkeypatch.setattr(dialect, "write", lambda self, *args: writes.append(args))
        for names in (("first", "second"), ("first",), ("second",), ("first",)):  # together, and to and fro
            rankers = {name: OnlineRanker(two.bundles[name], repo=two.repo) for name in names}
            for user, ids, prices in requests_of(shop, 3):
                for name, ranker in rankers.items():
                    rows = shop.rows(user, ids, prices)
                    assert_ranked(ranker.rank(user, ids, now=shop.now), two.pipelines[name], rows)
        assert writes == []

    def test_one_that_reads_a_view_holds_what_the_view_is_made_of(self, here, shop):
        views = [view_name(here.old)]
        features = FeastFeatures(here.repo, views, max_missing_share=1.0)
        rows = shop.events.to_pandas()
        apply(here.repo)
        pipeline = RankingPipeline([("features", features), ("ranker", small_ranker())])
        pipeline.fit(rows, shop.events["label"].to_numpy())
        bundle = RankerBundle.of_pipeline(pipeline, name="through_feast")
        assert (bundle.vectors, bundle.views) == ((), tuple(views))
        register_ranker(bundle, here.repo)
        assert held_generations(here.table) == {here.old: (here.holder("through_feast"),)}
        (service,) = (one for one in repo_objects(here.repo) if one.name == "ranker_through_feast")
        assert [projection.name for projection in service.feature_view_projections][:1] == views

    def test_repositories_that_share_a_table_hold_on_their_own(self, here, shop, tmp_path):
        other = init_repo(tmp_path / "other", table=here.table)
        register_ranker(here.bundles["first"], here.repo)
        register_ranker(here.bundles["first"], other)
        unregister_ranker("first", here.repo)
        assert list(held_generations(here.table)) == [here.old]
        unregister_ranker("first", other)
        assert held_generations(here.table) == {}

    @pytest.mark.parametrize("name", ["../evil", "a b", ""])
    def test_a_bundle_whose_name_is_a_path_is_refused(self, shop, tmp_path, name):
        shop.bundle.save(tmp_path / "bundle")
        path = tmp_path / "bundle" / "bundle.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "name": name}))
        with pytest.raises(BundleError, match="letters, digits and _"):
            RankerBundle.load(tmp_path / "bundle")

    def test_both_are_kept_fresh(self, here, shop):
        assert here.register("second").written == 0  # the generation is the current one
        assert here.register("first").written > 0
        assert materialize(here.repo).written == 0


class TestRegistered:
    def test_a_feature_service_says_what_was_trained(self, here):
        here.register("first", "second")
        services = {one.name: one for one in open_store(here.repo).list_feature_services()}
        assert sorted(services) == ["ranker_first", "ranker_second"]
        bundle, service = here.bundles["first"], services["ranker_first"]
        assert service.tags == {
            "llmfeat": "ranker",
            "bundle": bundle.fingerprint,
            "kernel": "1",
            "columns": str(len(bundle.columns)),
            "created_at": bundle.created_at,
            "trained_ndcg": "0.7",
            "trained_data": "all",
        }
        assert service.description == f"{len(bundle.columns)} columns (history), trained {bundle.created_at}"
        views = [one.name for one in service.feature_view_projections]
        assert views[0] == view_name(here.old)
        assert [name.rpartition("_")[0] for name in views[1:]] == ["user_histories", "user_events"]

    def test_its_vectors_are_not_pruned_until_it_is_gone(self, here):
        here.register("first", "second")
        kept = prune_table(here.table)
        assert (kept.generations, kept.held) == (0, {here.old: (here.holder("first"),)})
        assert here.generations() == {here.old, here.new}
        unregister_ranker("second", here.repo)
        assert prune_table(here.table).generations == 0
        unregister_ranker("first", here.repo)
        assert (prune_table(here.table).generations, here.generations()) == (1, {here.new})
        assert VectorTable.open(here.table).fingerprint == here.new

    def test_a_double_that_holds_nothing_fails_that_check(self, here, monkeypatch):
        monkeypatch.setattr("llmfeat.rank.serving.registry.hold_generation", lambda *args, **options: None)
        with pytest.raises(AssertionError):
            self.test_its_vectors_are_not_pruned_until_it_is_gone(here)

    def test_trained_anew_it_lets_go_of_what_it_read_before(self, here):
        here.register("first")
        register_ranker(dataclasses.replace(here.bundles["second"], name="first"), here.repo)
        assert held_generations(here.table) == {here.new: (here.holder("first"),)}
        assert prune_table(here.table).generations == 1

    def test_of_several_that_hold_one_the_last_lets_go(self, here):
        for name in ("one", "other"):
            register_ranker(dataclasses.replace(here.bundles["first"], name=name), here.repo)
        assert prune_table(here.table).held == {here.old: (here.holder("one"), here.holder("other"))}
        unregister_ranker("one", here.repo)
        assert prune_table(here.table).generations == 0
        unregister_ranker("other", here.repo)
        assert prune_table(here.table).generations == 1

    def test_what_is_not_there(self, here, shop, tmp_path):
        with pytest.raises(BundleError, match=r"serves the rankers \[\], but 'first' was named"):
            unregister_ranker("first", here.repo)
        prune_table(here.table)
        with pytest.raises(
            TableFingerprintError, match=rf"reads the vectors \['{here.old[:12]}'\], .* where its vectors"
        ):
            register_ranker(here.bundles["first"], here.repo)

    def test_the_commands(self, here, tmp_path):
        here.bundles["first"].save(tmp_path / "bundle")
        said = CliRunner().invoke(cli, ["store", "register", str(tmp_path / "bundle"), str(here.repo)])
        assert said.exit_code == 0, said.output
        assert "first.json: run llmfeat store apply" in said.output
        apply(here.repo)
        served = CliRunner().invoke(cli, ["store", "status", str(here.repo)]).stdout
        assert f"ranker first  bundle {here.bundles['first'].fingerprint[:12]}" in served
        assert "serves first" in served
        said = CliRunner().invoke(cli, ["store", "unregister", "first", str(here.repo)])
        assert said.exit_code == 0, said.output
        assert "first is served no more" in said.output
        assert held_generations(here.table) == {}


class TestHolds:
    def test_one_name_may_hold_several(self, here):
        for fingerprint in (here.old, here.new, here.old):
            hold_generation(here.table, fingerprint, by="me")
        assert held_generations(here.table) == {here.old: ("me",), here.new: ("me",)}
        release_generation(here.table, by="me")
        release_generation(here.table, by="me")
        assert held_generations(here.table) == {}

    def test_what_cannot_be_held(self, here):
        with pytest.raises(TableFingerprintError):
            hold_generation(here.table, "f" * 64, by="me")
        with pytest.raises(InputError, match=r"by='\.\./me', but letters, digits and _"):
            hold_generation(here.table, here.old, by="../me")


def test_views_of_other_keys_cannot_be_bundled(shop, tmp_path):
    repo = serve(tmp_path, shop)
    name = next(view.name for view in open_store(repo).list_feature_views() if view.tags["llmfeat"] == "item_vectors")
    store = FeastFeatures(repo, [name], max_missing_share=1)
    pipeline = fitted(shop, store)
    (columns,) = store.columns_
    pipeline[0].columns_ = (dataclasses.replace(columns, key="shop_id"),)
    with pytest.raises(BundleError, match=r"views of the keys \['shop_id'\], but only items and users are known"):
        RankerBundle.of_pipeline(pipeline, name="x")
