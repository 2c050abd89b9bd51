from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from sklearn.preprocessing import LabelEncoder

from llmfeat import VectorTable
from llmfeat.errors import DuplicateIdError, InputError, LLMFeatWarning
from llmfeat.rank.adapters import to_embedding_matrix

TABLE = VectorTable.from_arrays(["a", "b", "7", "none"], [[1.0, 0.0], [0.0, 3.0], [2.0, 2.0], [np.nan, np.nan]])


def test_rows_are_those_of_the_map():
    matrix = to_embedding_matrix(TABLE, [None, "b", 7, "a"], n_rows=6)
    assert matrix.values.tolist() == [[0, 0], [0, 3], [2, 2], [1, 0], [0, 0], [0, 0]]
    assert matrix.values.dtype == np.float32
    assert matrix.values.flags.c_contiguous
    assert matrix.is_known.tolist() == [False, True, True, True, False, False]
    assert matrix.is_reserved.tolist() == [True, False, False, False, True, True]
    assert (matrix.n_unknown, matrix.dim, len(matrix), matrix.fingerprint) == (0, 2, 6, TABLE.fingerprint)


def test_a_mapping_says_the_row_of_each_id():
    by_row = to_embedding_matrix(TABLE, {"a": 3, "b": 1, 7: 2})
    assert by_row.values.tolist() == to_embedding_matrix(TABLE, [None, "b", 7, "a"]).values.tolist()


def test_whatever_is_null_stands_for_no_item():
    wanted = to_embedding_matrix(TABLE, [None, "a"]).values.tolist()
    for ids in ([np.nan, "a"], [pd.NA, "a"], pa.array([None, "a"]), {None: 0, "a": 1}, pd.Series([None, "a"])):
        assert to_embedding_matrix(TABLE, ids).values.tolist() == wanted
    floats = to_embedding_matrix(TABLE, pd.Series([None, 7]), reserved=[None])
    assert floats.values.tolist() == [[0, 0], [2, 2]]
    assert to_embedding_matrix(TABLE, ["-", "-", "a"], reserved=["-"]).values.tolist() == [[0, 0], [0, 0], [1, 0]]


def test_what_is_no_source_is_refused():
    with pytest.raises(InputError, match=r"VectorTable\.from_arrays"):
        to_embedding_matrix(np.eye(2), ["a", "b"])


def test_maps_of_libraries():
    encoder = LabelEncoder().fit(["b", "a", "7"])
    matrix = to_embedding_matrix(TABLE, encoder.classes_)
    assert np.array_equal(matrix.values[encoder.transform(["a"])], [[1, 0]])
    recbole = np.array(["[PAD]", "b", "a"])  # dataset.field2id_token["item_id"]
    padded = to_embedding_matrix(TABLE, recbole, reserved=["[PAD]"])
    assert padded.values.tolist() == [[0, 0], [0, 3], [1, 0]]
    layer = torch.nn.Embedding.from_pretrained(torch.from_numpy(padded.values), padding_idx=0)
    assert layer(torch.tensor([1])).tolist() == [[0, 3]]


@pytest.mark.parametrize(
    ("fill", "said"), [("mean", "the mean of the others"), ("zeros", "zeros"), ("normal", "random")]
)
def test_ids_without_a_vector_are_counted_and_filled(fill, said):
    ids = ["a", "stranger", "none", "b"]
    with pytest.warns(LLMFeatWarning, match=rf"2 of 4 ids, such as \['stranger', 'none'\], have no vector: {said}"):
        matrix = to_embedding_matrix(TABLE, ids, fill=fill)
    assert matrix.n_unknown == 2
    assert matrix.values[[0, 3]].tolist() == [[1, 0], [0, 3]]
    if fill == "mean":
        assert matrix.values[1:3].tolist() == [[0.5, 1.5]] * 2
    elif fill == "zeros":
        assert not matrix.values[1:3].any()
    else:
        assert not np.array_equal(matrix.values[1], matrix.values[2])
        with pytest.warns(LLMFeatWarning):
            assert np.array_equal(to_embedding_matrix(TABLE, ids, fill=fill).values, matrix.values)
        with pytest.warns(LLMFeatWarning):
            assert not np.array_equal(to_embedding_matrix(TABLE, ids, fill=fill, seed=1).values, matrix.values)


def test_draws_are_like_the_others():
    table = VectorTable.from_arrays(range(500), np.random.default_rng(0).normal([3.0, -1.0], [0.1, 2.0], (500, 2)))
    with pytest.warns(LLMFeatWarning):
        matrix = to_embedding_matrix(table, range(4000), fill="normal")
    drawn = matrix.values[500:]
    assert np.allclose(drawn.mean(axis=0), [3.0, -1.0], atol=0.15)
    assert np.allclose(drawn.std(axis=0), [0.1, 2.0], rtol=0.1)


@pytest.mark.parametrize(
    ("ids", "options", "kind", "match"),
    [
        ([1, 2, 3], {}, InputError, r"none of the 3 ids, such as \['1', '2', '3'\], has a vector.*row numbers"),
        (["a", "a"], {}, DuplicateIdError, "more than once"),
        ({"a": 0, "b": 0}, {}, DuplicateIdError, "1 rows"),
        ({"7": 0, 7: 1}, {}, DuplicateIdError, "more than once"),
        ({"a": 0.5}, {}, InputError, "negative or fractions"),
        ({"a": -1}, {}, InputError, "negative or fractions"),
        ({"a": "first"}, {}, InputError, "no whole numbers"),
        (["a", "b"], {"n_rows": 1}, InputError, "the id map has 2 rows"),
        (["a"], {"fill": "ones"}, InputError, "fill='ones'"),
        ([None, None], {}, InputError, "none of the 0 ids"),
        ("ab", {}, InputError, "put it in a list"),
        (["a"], {"reserved": "[PAD]"}, InputError, r"pass \['\[PAD\]'\]"),
        (["a"], {"n_rows": 2.0}, InputError, "n_rows=2.0"),
        ({"a": 2.0**70}, {}, InputError, "or over"),
        ({"a": float("inf")}, {}, InputError, "no whole numbers"),
    ],
)
def test_maps_that_make_no_sense(ids, options, kind, match):
    with pytest.raises(kind, match=match):
        to_embedding_matrix(TABLE, ids, **options)
