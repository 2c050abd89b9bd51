from __future__ import annotations

import copy
import pickle

import lightgbm
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from llmfeat.errors import EmptyInputError, InputError, LLMFeatWarning
from llmfeat.features.semantic import SemanticIds
from tests.test_semantic_residual import LINE, clustered

LINE_CODES = [[0, 0], [0, 1], [1, 0], [1, 1]]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered()


@pytest.fixture(scope="module")
def ids(vectors) -> SemanticIds:
    return SemanticIds(levels=(8, 6, 4)).fit(vectors)


@pytest.mark.filterwarnings("ignore:the levels have:llmfeat.errors.LLMFeatWarning")
@parametrize_with_checks(
    [SemanticIds(), SemanticIds(levels=(3, 2)), SemanticIds(levels=(3,), normalize=False, rows_per_code=2)]
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


class TestSemanticIds:
    def test_by_hand(self):
        ids = SemanticIds(levels=(2, 2), normalize=False).fit(LINE)
        got = ids.transform(np.vstack([LINE, [[np.nan]]]))
        assert got.dtype == np.int32
        assert got.tolist() == [[*codes, number] for number, codes in enumerate(LINE_CODES)] + [[-1, -1, -1]]

    def test_a_prefix_of_no_fitted_item_is_missing_its_codes_are_not(self):
        fitted = np.array([[0], [1], [10.5]], dtype=np.float32)  # residuals -.5, .5 and 0: codes 0, 2 and 1
        ids = SemanticIds(levels=(2, 3), normalize=False).fit(fitted)
        assert ids.transform(fitted).tolist() == [[0, 0, 0], [0, 2, 1], [1, 1, 2]]
        assert ids.transform([[11.0]]).tolist() == [[1, 2, -1]]

    def test_alike_items_share_their_first_code(self, vectors, ids):
        assert ids.transform(vectors[:2])[0].tolist() == ids.transform(vectors[:2])[1].tolist()
        scaled = (vectors[:5] * np.float32(3)).astype(np.float32)
        assert ids.transform(scaled)[:, 0].tolist() == ids.transform(vectors[:5])[:, 0].tolist()

    def test_missing_rows(self, vectors, ids):
        got = ids.transform(np.stack([vectors[5], np.zeros(12, dtype=np.float32)]))
        assert (got == -1).all()
        torn = vectors[:2].copy()
        torn[0, 3] = np.nan
        assert (ids.transform(torn) == -1).all(axis=1).tolist() == [True, False]
        raw = SemanticIds(levels=(4,), normalize=False).fit(vectors)
        assert raw.transform(np.zeros((1, 12)))[0, 0] >= 0  # of zero length, which is a place like any other
        assert ids.report_.n_missing == 1

    def test_no_rows(self, ids):
        assert ids.transform(np.empty((0, 12), dtype=np.float32)).shape == (0, 5)

    def test_two_fits_give_one_book(self, vectors, ids):
        again = clone(ids).fit(vectors)
        assert again.fingerprint_ == ids.fingerprint_
        assert [level.tobytes() for level in again.book_.levels] == [level.tobytes() for level in ids.book_.levels]
        assert clone(ids).set_params(random_state=1).fit(vectors).fingerprint_ != ids.fingerprint_

    def test_a_sample_makes_the_book_and_all_items_the_prefixes(self, vectors):
        ids = SemanticIds(levels=(4, 3), rows_per_code=10).fit(vectors)
        assert ids.report_.n_items == 299
        whole = SemanticIds(levels=(4, 3), rows_per_code=None).fit(vectors)
        assert whole.fingerprint_ != ids.fingerprint_
        assert (ids.transform(vectors)[:, 2] >= 0).sum() == 299

    def test_a_level_with_fewer_vectors_than_codes_is_smaller_with_a_warning(self):
        with pytest.warns(LLMFeatWarning, match=r"have \(4, 1\) codes in place of \(9, 5\)"):
            ids = SemanticIds(levels=(9, 5), normalize=False).fit(LINE)
        assert ids.transform(LINE).tolist() == [[0, 0, 0], [1, 0, 1], [2, 0, 2], [3, 0, 3]]

    def test_pandas_polars_and_arrow_alike(self, vectors):
        names = [f"text_{number}" for number in range(12)]
        frame = pd.DataFrame(vectors, columns=names)
        ids = SemanticIds(levels=(8, 4)).fit(frame)
        got = ids.transform(frame)
        assert ids.transform(pl.from_pandas(frame)).tobytes() == got.tobytes()
        assert ids.transform(pa.Table.from_pandas(frame)).tobytes() == got.tobytes()
        with pytest.raises(ValueError, match="feature names"):
            ids.transform(frame[names[::-1]])

    def test_set_output_keeps_integers(self, vectors, ids):
        shown = copy.deepcopy(ids).set_output(transform="pandas").transform(vectors)
        assert list(shown.columns) == [
            "semantic_level1",
            "semantic_level2",
            "semantic_level3",
            "semantic_prefix2",
            "semantic_prefix3",
        ]
        assert set(shown.dtypes) == {np.dtype(np.int32)}
        assert set(copy.deepcopy(ids).set_output(transform="polars").transform(vectors).dtypes) == {pl.Int32}

    def test_in_a_pipeline_and_beside_other_columns(self, vectors):
        frame = pd.DataFrame(vectors, columns=[f"v{number}" for number in range(12)]).assign(price=0.5)
        ids = make_pipeline(FunctionTransformer(lambda cells: cells * 2), SemanticIds(levels=(4, 3)))
        union = make_column_transformer((ids, list(frame.columns[:12])), ("passthrough", ["price"]))
        got = union.fit_transform(frame)
        assert (
            got[:, :3].astype(np.int32).tolist() == ids.fit(frame.iloc[:, :12]).transform(frame.iloc[:, :12]).tolist()
        )
        assert got[0, 3] == 0.5

    def test_clone_and_pickle(self, vectors, ids):
        again = pickle.loads(pickle.dumps(ids))
        assert again.transform(vectors).tobytes() == ids.transform(vectors).tobytes()
        assert clone(ids).get_params() == ids.get_params()

    def test_skops(self, vectors, ids):
        skops = pytest.importorskip("skops.io")
        data = skops.dumps(ids)
        trusted = skops.get_untrusted_types(data=data)
        assert all(name.startswith("llmfeat.") for name in trusted)
        assert skops.loads(data, trusted=trusted).transform(vectors).tobytes() == ids.transform(vectors).tobytes()

    def test_a_tree_splits_on_the_categories(self, vectors):
        ids = SemanticIds(levels=(9, 4)).fit(vectors)
        columns = ids.set_output(transform="pandas").transform(vectors)
        labels = (columns.semantic_level1 % 2 == 1).astype(int)  # no threshold on the number tells these apart
        data = lightgbm.Dataset(columns, labels, categorical_feature=list(columns.columns), free_raw_data=False)
        parameters = {"objective": "binary", "num_leaves": 2, "min_data_per_group": 1, "cat_smooth": 1, "verbose": -1}
        model = lightgbm.train({**parameters, "max_cat_to_onehot": 1, "num_threads": 1}, data, 1)
        scores = model.predict(columns)
        assert scores[labels == 1].min() > scores[labels == 0].max()

    @pytest.mark.parametrize(
        ("parameters", "said"),
        [
            ({"levels": ()}, r"levels=\(\)"),
            ({"levels": 256}, "such as"),
            ({"levels": (4, 0)}, r"levels=\(4, 0\)"),
            ({"levels": (4, True)}, "a tuple of 1 to 16 integers"),
            ({"levels": (2,) * 17}, "a tuple of 1 to 16 integers"),
            ({"levels": (2**25,)}, "2[*][*]24"),
            ({"levels": (256,) * 8}, "more codes than int64"),
            ({"n_init": 0}, "n_init=0"),
            ({"max_iter": 1.5}, r"max_iter=1\.5"),
            ({"rows_per_code": -1}, "rows_per_code=-1"),
            ({"normalize": "l2"}, "normalize='l2'"),
        ],
    )
    def test_bad_parameters(self, vectors, parameters, said):
        with pytest.raises(InputError, match=said):
            SemanticIds(**parameters).fit(vectors)

    def test_bad_vectors(self, vectors, ids):
        with pytest.raises(EmptyInputError, match="none of the 2 rows is a vector"):
            SemanticIds().fit(np.full((2, 3), np.nan))
        with pytest.raises(ValueError, match="3 features, but SemanticIds is expecting 12"):
            ids.transform(vectors[:, :3])
