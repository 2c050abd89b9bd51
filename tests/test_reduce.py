from __future__ import annotations

import pickle

import numpy as np
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from llmfeat import HistoryFeatures, VectorTable
from llmfeat.errors import EmptyInputError, InputError, LLMFeatWarning, TableFingerprintError
from llmfeat.features._reducers import reduced
from llmfeat.features._rowwise import cosines, grid_bits, on_grid, product, row_sums
from llmfeat.features.reduce import Matryoshka, Whitening, fitted_reducer, reduce_table

REDUCERS = [Matryoshka(), Whitening()]
# scikit-learn runs these on its own estimators only.
FURTHER_CHECKS = [
    "check_dataframe_column_names_consistency",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_n_features_in_after_fitting",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
]


def embeddings(n_rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Unit vectors with a common mean and few directions of much variance, as those of texts."""
    draw = np.random.default_rng(seed)
    vectors = draw.standard_normal((n_rows, dim)) * np.geomspace(1, 0.01, dim) + draw.standard_normal(dim)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def missing_at(vectors: np.ndarray, *rows: int) -> np.ndarray:
    vectors = vectors.copy()
    vectors[list(rows)] = np.nan
    return vectors


class PlainWhitening(Whitening):
    """A double whose product has no fixed order."""

    def _reduce(self, vectors):
        along = (vectors - self.mean_).astype(np.float32) @ self.components_.T.astype(np.float32)
        return along / np.sqrt(self.explained_variance_)


@parametrize_with_checks(REDUCERS)
def test_scikit_learn_estimator(estimator, check):
    check(estimator)


# These fit on a frame and transform an array.
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names:UserWarning")
@pytest.mark.parametrize("name", FURTHER_CHECKS)
@pytest.mark.parametrize("reducer", REDUCERS, ids=str)
def test_scikit_learn_checks_of_its_own_estimators(reducer, name):
    getattr(estimator_checks, name)(type(reducer).__name__, reducer)


class TestRowwise:
    @given(st.integers(1, 200), st.integers(0, 20))
    @settings(max_examples=20, deadline=None)
    def test_products_are_exact_in_any_order(self, dim, seed):
        draw = np.random.default_rng(seed)
        rows = draw.standard_normal((9, dim)) * 10.0 ** draw.integers(-6, 6, (9, 1))
        axes, _ = np.linalg.qr(draw.standard_normal((dim, dim)))
        axes = on_grid(axes, grid_bits(dim))
        shuffled = draw.permutation(dim)
        got = product(rows, axes)
        assert np.array_equal(got, product(rows[:, shuffled], axes[shuffled]))
        assert np.array_equal(got, np.concatenate([product(rows[[at]], axes) for at in range(9)]))
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        assert np.abs(got - rows @ axes).max() <= (1e-6 * lengths).max()

    def test_the_largest_and_the_smallest_numbers(self):
        axes = on_grid(np.eye(2), grid_bits(2))
        for size in (1e300, 1e-300, 0.0):
            assert np.allclose(product(np.array([[size, -size]]), axes), [[size, -size]], rtol=1e-7, atol=0)

    @pytest.mark.parametrize("width", [1, 2, 3, 7, 8])
    def test_row_sums(self, width):
        values = np.arange(3.0 * width).reshape(3, width)
        assert row_sums(values).tolist() == values.sum(axis=1).tolist()
        assert values[1, 0] == width  # the input is left as it is

    def test_cosines(self):
        left = np.array([[3, 0], [1, 1], [0, 0], [np.nan, 1]], dtype=np.float32)
        right = np.array([[4, 0], [-2, -2], [1, 0], [1, 1]], dtype=np.float32)
        assert cosines(left, right).tolist() == pytest.approx([1, -1, np.nan, np.nan], nan_ok=True)
        assert np.isnan(cosines(left[2:3], right[3:4])).all()


class TestSameBits:
    @pytest.fixture(params=[Matryoshka(100), Whitening(), Whitening(20)], ids=str)
    def reducer(self, request):
        return request.param

    def alone_and_together(self, reducer):
        vectors = missing_at(embeddings(400, 128), 3)
        together = clone(reducer).fit(vectors[:300]).transform(vectors)
        fitted = clone(reducer).fit(vectors[:300])
        for rows in ([0], [3], [7, 399], list(range(50, 81))):
            assert fitted.transform(vectors[rows]).tobytes() == together[rows].tobytes()

    def test_a_row_alone_has_the_bits_that_it_has_in_the_batch(self, reducer):
        self.alone_and_together(reducer)

    def test_a_double_with_a_plain_product_fails_that_check(self):
        with pytest.raises(AssertionError):
            self.alone_and_together(PlainWhitening())

    def test_blocks_change_nothing(self, reducer, monkeypatch):
        vectors = missing_at(embeddings(100, 16), 50)
        fitted = clone(reducer).set_params(n_components=9).fit(vectors)
        whole = fitted.transform(vectors)
        monkeypatch.setattr("llmfeat.features.reduce.BLOCK_ROWS", 7)
        assert fitted.transform(vectors).tobytes() == whole.tobytes()
        again = clone(fitted).fit(vectors).transform(vectors)
        np.testing.assert_allclose(again, whole, rtol=1e-4, atol=1e-4)


class TestMatryoshka:
    def test_by_hand(self):
        vectors = np.array([[3, 4, 99], [0, 0, 1], [np.nan] * 3, [1, 2, np.nan]], dtype=np.float32)
        out = Matryoshka(2).fit_transform(vectors)
        assert out.dtype == np.float32
        np.testing.assert_allclose(out, [[0.6, 0.8], [0, 0], [np.nan] * 2, [np.nan] * 2], rtol=1e-6)

    def test_no_rows(self):
        fitted = Matryoshka(2).fit(embeddings(3, 4))
        assert fitted.transform(np.empty((0, 4))).shape == (0, 2)

    @pytest.mark.parametrize("n_components", [0, 5, 1.5, "2", True])
    def test_bad_parameters(self, n_components):
        for kind in (Matryoshka, Whitening):
            with pytest.raises(InputError, match="an integer from 1 to the 4 dimensions"):
                kind(n_components).fit(embeddings(9, 4))


class TestWhitening:
    def test_is_the_whitening_of_scikit_learn(self):
        vectors = embeddings(500, 24)
        ours, theirs = Whitening(10).fit(vectors), PCA(10, whiten=True).fit(vectors.astype(np.float64))
        np.testing.assert_allclose(ours.explained_variance_, theirs.explained_variance_, rtol=1e-6)
        signs = np.sign((ours.components_ * theirs.components_).sum(axis=1))
        np.testing.assert_allclose(
            ours.transform(vectors), theirs.transform(vectors.astype(np.float64)) * signs, atol=1e-4
        )

    def test_components_are_uncorrelated_with_unit_variance(self):
        white = Whitening().fit_transform(embeddings(900, 12))
        assert white.dtype == np.float32
        np.testing.assert_allclose(np.cov(white.T), np.eye(12), atol=1e-3)
        np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-4)

    def test_missing_rows_teach_nothing(self):
        vectors = embeddings(60, 6)
        with_gaps = np.insert(vectors, [5, 5, 40], np.nan, axis=0)
        fitted = Whitening().fit(with_gaps)
        np.testing.assert_array_equal(fitted.mean_, Whitening().fit(vectors).mean_)
        assert np.isnan(fitted.transform(with_gaps)).all(axis=1).sum() == 3
        zeros = Whitening().fit(np.nan_to_num(with_gaps))  # a double that takes them for vectors of zeros
        assert not np.allclose(zeros.mean_, fitted.mean_)

    @given(st.integers(0, 50))
    @settings(max_examples=10, deadline=None)
    def test_signs_do_not_depend_on_the_order_of_the_rows(self, seed):
        vectors = embeddings(200, 8)
        order = np.random.default_rng(seed).permutation(200)
        fitted, again = Whitening(4).fit(vectors), Whitening(4).fit(vectors[order])
        np.testing.assert_allclose(again.components_, fitted.components_, atol=1e-6)
        assert (fitted.components_[np.arange(4), np.abs(fitted.components_).argmax(axis=1)] > 0).all()

    def test_there_are_no_more_components_than_directions(self):
        vectors = np.repeat(embeddings(4, 10), 30, axis=0)
        assert Whitening().fit(vectors).n_components_ == 3
        with pytest.warns(LLMFeatWarning, match="n_components=5 is more than the 3 directions of the 120 fitted"):
            white = Whitening(5).fit_transform(vectors)
        assert white.shape == (120, 3)
        np.testing.assert_allclose(white.std(axis=0, ddof=1), 1, atol=1e-3)

    def test_what_cannot_be_whitened(self):
        with pytest.raises(InputError, match="1 of 3 rows have a vector"):
            Whitening().fit(missing_at(embeddings(3, 4), 0, 1))
        with pytest.raises(InputError, match="the 5 vectors are all the same"):
            Whitening().fit(np.ones((5, 4)))

    def test_names(self):
        assert Whitening(2).fit(embeddings(9, 4)).get_feature_names_out().tolist() == ["whitening0", "whitening1"]

    def test_pickle_and_skops(self):
        vectors = embeddings(50, 6)
        fitted = Whitening(3).fit(vectors)
        white = fitted.transform(vectors)
        assert pickle.loads(pickle.dumps(fitted)).transform(vectors).tobytes() == white.tobytes()
        trusted = ["llmfeat.features.reduce.Whitening"]
        assert skops.io.loads(skops.io.dumps(fitted), trusted=trusted).transform(vectors).tobytes() == white.tobytes()


class TestReduceTable:
    @pytest.fixture
    def table(self):
        return VectorTable.from_arrays([f"i{at}" for at in range(40)], missing_at(embeddings(40, 6), 7))

    def test_gives_reduced_vectors_by_id(self, table):
        small = reduce_table(Matryoshka(2), table)
        assert (small.dim, small.ids) == (2, table.ids)
        assert np.isnan(small.lookup(["i7", "unknown"])).all()
        np.testing.assert_array_equal(small.lookup(["i3"]), Matryoshka(2).fit_transform(table.lookup(["i3"])))

    def test_the_fingerprint_follows_from_the_table_and_what_was_learned(self, table):
        other = VectorTable(table.ids, table.vectors.copy(), fingerprint="other")
        first = [f"i{at}" for at in range(20)]
        tables = [
            table,
            reduce_table(Whitening(2), table),
            reduce_table(Whitening(3), table),
            reduce_table(Whitening(2), other),
            reduce_table(Whitening(2), table, fit_ids=first),
            reduce_table(Matryoshka(2), table),
            reduce_table(PCA(2), table),
            reduce_table(PCA(2, whiten=True), table),
        ]
        assert len({each.fingerprint for each in tables}) == len(tables)
        assert reduce_table(Whitening(2), table).fingerprint == tables[1].fingerprint
        shown = Whitening(2).set_output(transform="pandas")
        assert reduce_table(shown, table).fingerprint == tables[1].fingerprint

    def test_a_fitted_reducer_is_used_as_it_is_for_items_that_come_later(self, table):
        reducer = Whitening(2)
        old = reduce_table(reducer, table, fit_ids=["i0", "i1", "i2"])
        mean = reducer.mean_
        later = VectorTable.from_arrays(["new"], embeddings(1, 6, seed=5))
        np.testing.assert_array_equal(reduce_table(reducer, later).vectors, reducer.transform(later.vectors))
        assert reducer.mean_ is mean
        assert reduce_table(reducer, table).fingerprint == old.fingerprint

    def test_without_a_vector_to_fit_on(self, table):
        with pytest.raises(EmptyInputError, match="none of the 2 ids to fit on has a vector"):
            reduce_table(Whitening(), table, fit_ids=["i7", "unknown"])

    def test_history_features_refuse_another_reducer(self, table, log, events):
        tables = [reduce_table(Whitening(size), table) for size in (2, 3)]
        features = HistoryFeatures(log, {"white": tables[0]}).fit(events)
        features.transform(events)
        with pytest.raises(TableFingerprintError):
            features.set_params(vectors={"white": tables[1]}).transform(events)


class TestFittedReducer:
    def test_an_integer_is_whitening(self):
        vectors = missing_at(embeddings(30, 5), 0)
        reducer = fitted_reducer(np.int64(2), vectors)
        assert isinstance(reducer, Whitening)
        assert reducer.n_components_ == 2

    def test_a_transformer_of_somebody_else_never_sees_a_missing_row(self):
        vectors = missing_at(embeddings(30, 5), 0, 29)
        theirs = TruncatedSVD(2, random_state=0)
        out = reduced(fitted_reducer(theirs, vectors), vectors)
        assert out.dtype == np.float32
        assert np.isnan(out[[0, 29]]).all()
        assert np.isfinite(out[1:29]).all()
        with pytest.raises(NotFittedError):
            theirs.transform(vectors[1:])
        assert reduced(fitted_reducer(theirs, vectors), vectors[:0]).shape == (0, 2)

    def test_a_target_goes_to_those_who_need_one(self):
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        vectors = missing_at(embeddings(30, 5), 0)
        reducer = fitted_reducer(LinearDiscriminantAnalysis(), vectors, ["a", "b", "c"] * 10)
        assert reduced(reducer, vectors).shape == (30, 2)

    @pytest.mark.parametrize("reduce", [True, 2.0, "pca", PCA])
    def test_what_is_no_reducer(self, reduce):
        with pytest.raises(InputError, match="an integer or a transformer was expected"):
            fitted_reducer(reduce, embeddings(5, 3))

    def test_nothing_to_fit_on(self):
        with pytest.raises(EmptyInputError, match="none of 2 rows has a text"):
            fitted_reducer(2, np.full((2, 3), np.nan, dtype=np.float32))
