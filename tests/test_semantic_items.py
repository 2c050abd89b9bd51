from __future__ import annotations

import pickle
import warnings

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from llmfeat import VectorTable
from llmfeat.errors import InputError, LLMFeatWarning, MissingColumnError, TableFingerprintError
from llmfeat.features.semantic import SemanticIdFeatures, SemanticIds
from tests.test_semantic_residual import clustered


def table_of(vectors: np.ndarray) -> VectorTable:
    return VectorTable.from_arrays([f"i{number}" for number in range(len(vectors))], vectors)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered()


@pytest.fixture(scope="module")
def ids(vectors) -> SemanticIds:
    return SemanticIds(levels=(8, 6, 4)).fit(vectors)


class TestItemCodes:
    @pytest.fixture
    def table(self) -> VectorTable:
        return VectorTable.from_arrays(["d", "b", "c", "a", "none"], [[0], [0], [11], [0], [np.nan]])

    @pytest.fixture
    def items(self, table):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LLMFeatWarning)
            return SemanticIds(levels=(2, 2), normalize=False).fit_table(table).item_codes(table)

    def test_by_hand(self, items):
        assert len(items) == 5
        assert items.codes.tolist() == [[0, 0], [0, 0], [1, 0], [0, 0], [-1, -1]]
        assert items.lookup(["c", "none", "unheard of", "a"]).tolist() == [[1, 0], [-1, -1], [-1, -1], [0, 0]]
        assert items.items([0]).to_pylist() == ["a", "b", "d"]
        assert items.items([1, 0]).to_pylist() == ["c"]
        assert items.items([]).to_pylist() == ["a", "b", "d", "c"]
        assert items.items([1, 1]).to_pylist() == []
        assert items.trie.children().tolist() == [0, 1]
        assert items.disambiguated().tolist() == [[0, 0, 2], [0, 0, 1], [1, 0, 0], [0, 0, 0], [-1, -1, -1]]
        with pytest.raises(InputError, match="a whole code has 2"):
            items.items([0, 0, 0])

    @given(st.integers(0, 100))
    @settings(max_examples=10, deadline=None)
    def test_disambiguated_codes_are_distinct_whatever_the_order_of_the_rows(self, seed):
        vectors = clustered(seed, n_items=80)
        table, draw = table_of(vectors), np.random.default_rng(seed)
        ids = SemanticIds(levels=(4, 2), max_iter=3).fit_table(table)
        codes = ids.item_codes(table).disambiguated()
        known = codes[:, 0] >= 0
        assert len(np.unique(codes[known], axis=0)) == known.sum() == 79
        order = draw.permutation(80)
        turned = VectorTable.from_arrays(table.ids.take(pa.array(order)), vectors[order], fingerprint=table.fingerprint)
        np.testing.assert_array_equal(ids.item_codes(turned).disambiguated(), codes[order])

    def test_codes_are_those_of_transform(self, vectors, ids):
        items = ids.item_codes(table_of(vectors))
        np.testing.assert_array_equal(items.codes, ids.transform(vectors)[:, :3])
        assert items.fingerprint == ids.fingerprint_

    def test_other_tables_are_refused(self, table, vectors, ids):
        fitted = SemanticIds(levels=(2,), normalize=False).fit_table(table)
        other = VectorTable.from_arrays(["a"], [[1.0]])
        with pytest.raises(TableFingerprintError, match="code the generation that it was fitted to"):
            fitted.item_codes(other)
        with pytest.raises(InputError, match="1 dimensions, but the book was fitted to 12"):
            ids.item_codes(other)

    def test_features_of_rows(self, vectors, ids):
        items = ids.item_codes(table_of(vectors))
        rows = pa.table({"user_id": ["u", "u", "v"], "item_id": ["i7", "unheard of", "i5"]})
        features = SemanticIdFeatures(items).fit(rows)
        expected = ids.transform(vectors)
        assert features.transform(rows).tolist() == [expected[7].tolist(), [-1] * 5, [-1] * 5]
        assert features.transform(rows).dtype == np.int32
        assert list(features.get_feature_names_out()) == list(ids.get_feature_names_out())
        assert clone(features).items is items
        again = pickle.loads(pickle.dumps(features))
        assert again.transform(rows.to_pandas()).tobytes() == features.transform(rows).tobytes()
        shown = clone(features).set_output(transform="polars").fit(rows).transform(pl.from_arrow(rows))
        assert shown.columns == list(ids.get_feature_names_out())

    def test_features_refuse_another_book_and_take_more_items_of_this_one(self, vectors, ids):
        rows = pa.table({"item_id": ["i7", "new"]})
        features = SemanticIdFeatures(ids.item_codes(table_of(vectors))).fit(rows)
        more = VectorTable.from_arrays(["i7", "new"], vectors[[7, 8]])
        features.set_params(items=ids.item_codes(more))
        np.testing.assert_array_equal(features.transform(rows), ids.transform(vectors[[7, 8]]))
        other = clone(ids).set_params(levels=(4,)).fit(vectors)
        features.set_params(items=other.item_codes(more))
        with pytest.raises(TableFingerprintError, match="code the items with that book"):
            features.transform(rows)

    def test_bad_features(self, vectors, ids):
        with pytest.raises(InputError, match="but ItemCodes were expected"):
            SemanticIdFeatures().fit(pa.table({"item_id": ["a"]}))
        with pytest.raises(MissingColumnError, match="'item_id'"):
            SemanticIdFeatures(ids.item_codes(table_of(vectors))).fit(pa.table({"item": ["a"]}))
