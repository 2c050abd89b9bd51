from __future__ import annotations

import copy
import datetime
import decimal
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from llmfeat import ItemTemplate, TextEncoder, VectorTable, encode_table
from llmfeat.encode import VectorCache
from llmfeat.errors import ArtifactNotFoundError, EmptyInputError, InputError, MissingColumnError, TableFingerprintError
from llmfeat.features._columns import arrow_table, as_two_dimensional, column_names
from llmfeat.features.reduce import Matryoshka, Whitening
from llmfeat.features.text_embedder import TextEmbedder
from tests import conftest
from tests.conftest import DIM, write_artifact
from tests.test_reduce import FURTHER_CHECKS

TITLES = ["heat", "alien", None, "casino", "heat", "the war", "speed"]
YEARS = [1995, 1979, 1994, None, 1995, 2000, 1994]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """A folder with an artifact that knows numbers, since scikit-learn's checks know nothing else."""
    folder = tmp_path_factory.mktemp("checks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMFEAT_CACHE_DIR", str(folder / "cache"))
        patch.setattr(conftest, "WORDS", conftest.WORDS + [str(number) for number in range(60)])
        write_artifact(folder / "numbers")
    return folder


@pytest.fixture
def movies():
    return pa.table({"title": TITLES, "year": YEARS})


@pytest.fixture(scope="module")
def encoder(artifact):
    return TextEncoder(artifact, backend="onnxruntime-cpu")


@pytest.fixture
def computed(monkeypatch):
    """How many texts each call of the model computed."""
    counts: list[int] = []
    compute = TextEncoder._compute

    def counting(self, texts, *arguments):
        counts.append(len(texts))
        return compute(self, texts, *arguments)

    monkeypatch.setattr(TextEncoder, "_compute", counting)
    return counts


@parametrize_with_checks(
    [
        TextEmbedder("numbers"),
        TextEmbedder("numbers", per_column=True, reduce=1),
    ]
)
def test_scikit_learn_estimator(estimator, check, numbers, monkeypatch):
    monkeypatch.chdir(numbers)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # threads cost more than a few numbers do
    check(estimator)


# These fit on a frame and transform an array.
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names:UserWarning")
@pytest.mark.parametrize("name", FURTHER_CHECKS)
def test_scikit_learn_checks_of_its_own_estimators(name, numbers, monkeypatch):
    monkeypatch.chdir(numbers)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    getattr(estimator_checks, name)("TextEmbedder", TextEmbedder("numbers", reduce=1))


class TestTexts:
    def test_columns_are_joined(self, encoder, movies):
        embedder = TextEmbedder(encoder).fit(movies)
        assert embedder.template_ == "{title}[. {year}]"
        assert embedder.get_feature_names_out().tolist() == [f"text_{at}" for at in range(DIM)]
        out = embedder.transform(movies)
        assert (out.dtype, out.shape) == (np.float32, (7, DIM))
        np.testing.assert_array_equal(out[[0, 3]], encoder.encode(["heat. 1995", "casino"]))
        assert np.isnan(out[2]).all()
        assert np.isfinite(np.delete(out, 2, axis=0)).all()

    def test_are_those_of_encode_table(self, encoder, movies, tmp_path):
        ids = [str(at) for at in range(7)]
        template = ItemTemplate.of_columns(["title", "year"])
        since = pa.array([0] * 7, pa.timestamp("us", "UTC"))
        items = movies.append_column("item_id", pa.array(ids)).append_column("since", since)
        encode_table(items, encoder=encoder, template=template, out=tmp_path, valid_from="since")
        stored = VectorTable.open(tmp_path).lookup(ids)
        assert TextEmbedder(encoder, ["title", "year"]).fit_transform(movies).tobytes() == stored.tobytes()

    def test_each_column_for_itself(self, encoder, movies):
        embedder = TextEmbedder(encoder, per_column=True).fit(movies)
        names = embedder.get_feature_names_out().tolist()
        assert names == [f"{column}_{at}" for column in ("title", "year") for at in range(DIM)]
        out = embedder.transform(movies)
        np.testing.assert_array_equal(out[0], encoder.encode(["heat", "1995"]).ravel())
        assert np.isnan(out[2, :DIM]).all()
        np.testing.assert_array_equal(out[2, DIM:], encoder.encode(["1994"])[0])
        assert np.isnan(out[3, DIM:]).all()

    def test_a_single_column_has_its_name_whatever_that_is(self, encoder):
        frame = pd.DataFrame({"{odd} [name:3]": ["heat"]})
        embedder = TextEmbedder(encoder).fit(frame)
        assert embedder.get_feature_names_out()[0] == "{odd} [name:3]_0"
        np.testing.assert_array_equal(embedder.transform(frame), encoder.encode(["heat"]))

    @pytest.mark.parametrize("template", ["the {title:1}[ {year}]", ItemTemplate("the {title:1}[ {year}]")])
    def test_a_template(self, encoder, template):
        frame = pl.DataFrame({"other": [1.5], "year": [1995], "title": ["heat war"]})
        out = TextEmbedder(encoder, template=template).fit_transform(frame)
        np.testing.assert_array_equal(out, encoder.encode(["the heat 1995"]))

    def test_the_role(self, tmp_path):
        prompted = TextEncoder(write_artifact(tmp_path, query_prompt="the ", document_prompt="war "))
        out = TextEmbedder(prompted, role="query").fit_transform([["heat"]])
        np.testing.assert_array_equal(out, prompted.encode(["heat"], role="query"))
        assert not np.array_equal(out, TextEmbedder(prompted).fit_transform([["heat"]]))

    @pytest.mark.parametrize("missing", ["nan", "zero"])
    def test_a_row_without_text_teaches_a_reducer_nothing(self, encoder, movies, missing):
        there = movies.filter(pa.array([title is not None for title in TITLES]))
        embedder = TextEmbedder(encoder, ["title"], reduce=2, missing=missing).fit(movies)
        np.testing.assert_array_equal(
            embedder.reducers_["title"].mean_,
            TextEmbedder(encoder, ["title"], reduce=2).fit(there).reducers_["title"].mean_,
        )
        out = embedder.transform(movies)
        assert (np.isnan(out[2]) if missing == "nan" else out[2] == 0).all()
        assert np.isfinite(np.delete(out, 2, axis=0)).all()
        assert embedder.get_feature_names_out().tolist() == ["title_0", "title_1"]

    def test_a_reducer_is_cloned_for_each_text(self, encoder, movies):
        theirs = TruncatedSVD(2, random_state=0)
        embedder = TextEmbedder(encoder, per_column=True, reduce=theirs).fit(movies)
        assert not hasattr(theirs, "components_")
        assert embedder.n_dims_ == {"title": 2, "year": 2}
        assert embedder.reducers_["title"] is not embedder.reducers_["year"]
        np.testing.assert_array_equal(embedder.fit_transform(movies), clone(embedder).fit(movies).transform(movies))

    def test_equal_texts_are_encoded_once(self, encoder, computed):
        TextEmbedder(encoder).fit(np.array([["heat"], ["war"]] * 50, dtype=object)).transform(
            [["heat"], ["heat"], [None]]
        )
        assert computed == [1]  # fit has nothing to encode


class TestCells:
    def texts(self, X):
        rows = as_two_dimensional(X)
        table = arrow_table(rows, column_names(rows))
        template = ItemTemplate("{cell}")
        return [template.render(pa.table({"cell": column})) for column in table.columns]

    def test_any_scalar_is_its_text(self):
        cells = [
            True,
            3,
            3.0,
            2.5,
            "heat",
            " ",
            None,
            float("nan"),
            pd.NA,
            pd.NaT,
            np.float32(2),
            decimal.Decimal("1.50"),
        ]
        cells += [datetime.date(2020, 1, 2), ["war", None, 1.0], (), {"b", "a"}, {"k": 1}]
        expected = ["True", "3", "3", "2.5", "heat", None, None, None, None, None, "2", "1.50"]
        expected += ["2020-01-02", "war, 1", None, "a, b", "{'k': 1}"]
        column = np.empty((len(cells), 1), dtype=object)
        column[:, 0] = cells
        assert self.texts(column) == [expected]
        assert self.texts(pd.DataFrame(column)) == [expected]
        # The text of a cell is that which it has alone.
        assert [self.texts(column[[at]])[0][0] for at in range(len(cells))] == expected

    @pytest.mark.parametrize(
        "kind", [pd.DataFrame, pl.DataFrame, pa.table, lambda data: pd.DataFrame(data).convert_dtypes()]
    )
    def test_frames_alike(self, kind, movies, encoder):
        frame = kind(movies.to_pydict())
        expected = TextEmbedder(encoder, per_column=True).fit(movies).transform(movies)
        embedder = TextEmbedder(encoder, per_column=True).fit(frame)
        assert embedder.transform(frame).tobytes() == expected.tobytes()
        assert embedder.feature_names_in_.tolist() == ["title", "year"]

    def test_arrays_and_lists_alike(self, movies, encoder):
        rows = [list(row) for row in zip(TITLES, YEARS, strict=True)]
        expected = TextEmbedder(encoder).fit(movies).transform(movies)
        assert TextEmbedder(encoder).fit_transform(rows).tobytes() == expected.tobytes()
        assert TextEmbedder(encoder).fit_transform(np.array(rows, dtype=object)).tobytes() == expected.tobytes()
        assert TextEmbedder(encoder, ["x0", "x1"]).fit_transform(rows).tobytes() == expected.tobytes()
        words = np.array([["heat"], ["alien"]])
        assert TextEmbedder(encoder).fit_transform(words).tobytes() == encoder.encode(["heat", "alien"]).tobytes()

    def test_categories_and_columns_whose_first_rows_are_text(self, encoder):
        category = pd.DataFrame({"title": pd.Categorical(["heat", None, "heat"])})
        assert self.texts(category) == [["heat", None, "heat"]]
        late = pd.DataFrame({"title": ["heat"] * 200 + [7]})
        assert self.texts(late)[0][-2:] == ["heat", "7"]

    @pytest.mark.parametrize(
        ("X", "said"),
        [
            (["heat"], r"X is a list of 1 dimensions.*frame\[\['title'\]\]"),
            (pd.Series(["heat"]), "X is a Series of 1 dimensions"),
            ("heat", "X is a str of 0 dimensions"),
            (sparse.eye(2, format="csr"), "X is sparse"),
            (np.ones((1, 1), dtype=complex), "Complex data not supported"),
            (np.array([[b"heat", 1]], dtype=object), "a cell of X is of type bytes"),
            (np.array([[b"heat"]]), "of type binary"),
            (pa.table({"title": [{"en": "heat"}]}), "of type struct"),
            (pd.DataFrame([["heat", "war"]], columns=["title", "title"]), "columns of the same name"),
            (np.empty((3, 0)), r"0 feature\(s\)"),
        ],
    )
    def test_what_has_no_text(self, X, said, encoder):
        with pytest.raises(InputError, match=said):
            TextEmbedder(encoder).fit_transform(X)

    def test_no_rows(self, encoder):
        with pytest.raises(EmptyInputError, match="X has 0 rows"):
            TextEmbedder(encoder).fit(pd.DataFrame({"title": []}))
        for reduce in (None, 1):
            embedder = TextEmbedder(encoder, reduce=reduce).fit([["heat"], ["war"]])
            n_columns = len(embedder.get_feature_names_out())
            assert embedder.transform(np.empty((0, 1), dtype=object)).shape == (0, n_columns)


class TestColumns:
    def test_those_that_are_not_read_may_come_and_go(self, encoder, movies):
        embedder = TextEmbedder(encoder, ["title"]).fit(movies.append_column("picture", pa.array([b"x"] * 7)))
        assert embedder.transform(movies.select(["year", "title"])).shape == (7, DIM)
        with pytest.raises(MissingColumnError, match=r"\['title'\] is needed"):
            embedder.transform(movies.select(["year"]))

    def test_without_columns_they_are_those_that_were_fitted(self, encoder, movies):
        embedder = TextEmbedder(encoder).fit(movies)
        with pytest.raises(InputError, match=r"(?s)in the same order.*pass the columns that were fitted"):
            embedder.transform(movies.select(["year", "title"]))
        with pytest.warns(UserWarning, match="valid feature names"):
            out = embedder.transform(np.array([["heat", 1995]], dtype=object))
        assert out.tobytes() == embedder.transform(movies.slice(0, 1)).tobytes()
        with pytest.raises(InputError, match="X has 3 features"):
            TextEmbedder(encoder).fit([["heat", 1995]]).transform([["heat", 1995, 1]])

    @pytest.mark.parametrize(
        ("parameters", "error", "said"),
        [
            ({"artifact": None}, InputError, "artifact=None, but the folder .*llmfeat export bundled:minilm"),
            ({"artifact": "nowhere"}, ArtifactNotFoundError, "nowhere holds no artifact.json"),
            ({"columns": "title"}, InputError, r"columns='title'.*\['title', ...\]"),
            ({"columns": []}, InputError, r"columns=\[\]"),
            ({"columns": ["title", "title"], "per_column": True}, InputError, "a list of distinct names"),
            ({"columns": ["plot"]}, MissingColumnError, r"\['plot'\] is needed"),
            ({"template": "{plot}"}, MissingColumnError, r"\['plot'\] is needed"),
            ({"template": "{title}", "per_column": True}, InputError, "a template names its columns"),
            ({"template": "{title}", "columns": ["title"]}, InputError, "a template names its columns"),
            ({"missing": "mean"}, InputError, "missing='mean', but 'nan' or 'zero'"),
            ({"reduce": "pca"}, InputError, "reduce='pca'"),
            ({"reduce": 9}, InputError, "n_components=9"),
            ({"role": "item"}, InputError, "role='item'"),
            ({"cache": True}, InputError, r"artifact is a TextEncoder and \['cache'\]"),
            ({"backend": "openvino-f32", "threads": 1}, InputError, r"\['backend', 'threads'\]"),
        ],
    )
    def test_bad_parameters(self, encoder, movies, parameters, error, said):
        with pytest.raises(error, match=said):
            TextEmbedder(**{"artifact": encoder, **parameters}).fit_transform(movies)


class TestSameBits:
    @given(st.lists(st.tuples(st.sampled_from(TITLES), st.sampled_from(YEARS)), min_size=1, max_size=8))
    @settings(max_examples=6, deadline=None)
    def test_a_row_alone_has_the_bits_that_it_has_in_the_batch(self, encoder, rows):
        known = [[title, year] for title in TITLES for year in YEARS]
        fitted = TextEmbedder(encoder, reduce=Whitening(3)).fit(known)
        together = fitted.transform(rows)
        for at, row in enumerate(rows):
            assert fitted.transform([row]).tobytes() == together[at].tobytes()


class TestCacheAndClones:
    texts = np.array([[f"{word} {at}"] for at in range(10) for word in ("heat", "alien", "war")], dtype=object)
    target = np.tile([0, 1, 1], 10)

    def search(self, embedder):
        model = make_pipeline(embedder, LogisticRegression())
        return GridSearchCV(model, {"textembedder__reduce": [None, 2, Matryoshka(4)]}, cv=3, error_score="raise").fit(
            self.texts, self.target
        )

    def test_after_the_first_fold_of_a_grid_search_every_text_is_a_cache_hit(self, artifact, tmp_path, computed):
        self.search(TextEmbedder(artifact, cache=tmp_path))
        # The first fold's training and test rows: what is left of 3 candidates, 3 folds and the refit finds all.
        assert computed == [20, 10]
        del computed[:]
        self.search(TextEmbedder(artifact, cache=VectorCache(tmp_path)))
        assert computed == []

    def test_a_double_without_a_cache_encodes_every_fold(self, artifact, computed):
        self.search(TextEmbedder(artifact))
        assert sum(computed) > 200

    def test_an_encoder_that_is_passed_keeps_count(self, artifact, tmp_path):
        encoder = TextEncoder(artifact, cache=tmp_path)
        search = self.search(TextEmbedder(encoder))
        assert encoder.tally.texts - encoder.tally.cached == 30
        assert search.best_estimator_[0].artifact is encoder

    def test_clones_share_the_open_model(self, artifact, monkeypatch):
        from llmfeat.encode import engine

        opened = []
        open_backend = engine.open_backend
        monkeypatch.setattr(engine, "open_backend", lambda *a, **k: opened.append(1) or open_backend(*a, **k))
        self.search(TextEmbedder(str(artifact.path)))
        assert len(opened) == 1
        one = TextEmbedder(artifact)
        for each in (one, copy.deepcopy(one)):  # a double: a copy is no clone, and opens the model again
            each.fit_transform([["heat"]])
        assert len(opened) == 3

    def test_clones_with_other_parameters_do_not(self, artifact, tmp_path):
        one = TextEmbedder(artifact, batch_tokens=64)
        other = clone(one).set_params(artifact=write_artifact(tmp_path, seed=1))
        out = one.fit_transform([["heat"]])
        assert not np.array_equal(other.fit_transform([["heat"]]), out)
        assert one.transform([["heat"]]).tobytes() == out.tobytes()


class TestPersistence:
    def test_another_artifact_is_refused(self, artifact, tmp_path):
        embedder = TextEmbedder(artifact).fit([["heat"]])
        embedder.set_params(artifact=write_artifact(tmp_path, seed=1))
        with pytest.raises(TableFingerprintError, match="pass the artifact that the ranker was trained on, or refit"):
            embedder.transform([["heat"]])
        embedder.fit([["heat"]]).transform([["heat"]])

    def test_a_moved_artifact_is_taken(self, artifact, tmp_path):
        embedder = TextEmbedder(artifact).fit([["heat"]])
        out = embedder.transform([["heat"]])
        embedder.set_params(artifact=write_artifact(tmp_path))
        assert embedder.transform([["heat"]]).tobytes() == out.tobytes()

    @pytest.mark.parametrize("kind", ["path", "artifact", "encoder"])
    def test_pickles_hold_no_weights(self, artifact, movies, kind):
        given = {"path": str(artifact.path), "artifact": artifact, "encoder": TextEncoder(artifact)}[kind]
        embedder = TextEmbedder(given, reduce=2).fit(movies)
        out = embedder.transform(movies)
        pickled = pickle.dumps(embedder)
        assert len(pickled) < 8_000 < artifact.spec.size_bytes + 8_000
        assert pickle.loads(pickled).transform(movies).tobytes() == out.tobytes()

    def test_skops(self, artifact, movies):
        embedder = TextEmbedder(str(artifact.path), ["title"], per_column=True, reduce=2).fit(movies)
        dumped = skops.io.dumps(embedder)
        assert len(dumped) < 20_000
        trusted = ["llmfeat.features.reduce.Whitening", "llmfeat.features.text_embedder.TextEmbedder"]
        assert skops.io.get_untrusted_types(data=dumped) == trusted
        loaded = skops.io.loads(dumped, trusted=trusted)
        assert loaded.transform(movies).tobytes() == embedder.transform(movies).tobytes()


class TestTogether:
    def test_in_a_column_transformer_and_a_union(self, encoder, movies):
        frame = movies.to_pandas()
        columns = ColumnTransformer(
            [("text", TextEmbedder(encoder, reduce=2, missing="zero"), ["title"]), ("year", "passthrough", ["year"])]
        ).set_output(transform="pandas")
        out = columns.fit_transform(frame)
        assert list(out.columns) == ["text__title_0", "text__title_1", "year__year"]
        assert columns.transform(frame.iloc[[3]]).to_numpy(dtype=np.float32, na_value=np.nan).tobytes() == (
            out.iloc[[3]].to_numpy(dtype=np.float32, na_value=np.nan).tobytes()
        )
        union = FeatureUnion([("a", TextEmbedder(encoder)), ("b", TextEmbedder(encoder, ["title"], reduce=1))])
        assert union.fit_transform(movies).shape == (7, DIM + 1)
        assert union.get_feature_names_out()[-1] == "b__title_0"

    @pytest.mark.parametrize(("kind", "frame"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)])
    def test_set_output(self, encoder, movies, kind, frame):
        shown = TextEmbedder(encoder, reduce=2).set_output(transform=kind).fit_transform(frame(movies.to_pydict()))
        assert isinstance(shown, frame)
        assert list(shown.columns) == ["text_0", "text_1"]
