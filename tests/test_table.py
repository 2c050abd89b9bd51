from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeat import VectorTable
from llmfeat.errors import DuplicateIdError, InputError


class TestOthersVectors:
    @pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2)])
    def test_lists_of_any_kind(self, tmp_path, kind):
        cells = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.float32(), 2)).cast(kind)
        pq.write_table(pa.table({"sku": [1, 2, 3], "emb": cells}), tmp_path / "v.parquet")
        table = VectorTable.from_parquet(tmp_path / "v.parquet", item_id="sku", vector="emb")
        np.testing.assert_array_equal(table.lookup([3, 2, 1, 9]), [[3, 4], [np.nan] * 2, [1, 2], [np.nan] * 2])
        assert VectorTable.from_parquet(tmp_path, item_id="sku", vector="emb").fingerprint == table.fingerprint

    @pytest.mark.parametrize(
        ("ids", "cells", "kind", "said"),
        [
            (["a", "a"], [[1.0], [2.0]], DuplicateIdError, "1 of 2 ids come more than once"),
            (["a", "b"], [[1.0], [2.0, 3.0]], InputError, r"of the lengths \[1, 2\]"),
            (["a", "b"], ["x", "y"], InputError, "lists of numbers"),
        ],
    )
    def test_bad_ones_are_refused(self, tmp_path, ids, cells, kind, said):
        pq.write_table(pa.table({"item_id": ids, "vector": cells}), tmp_path / "v.parquet")
        with pytest.raises(kind, match=said):
            VectorTable.from_parquet(tmp_path / "v.parquet")

    def test_the_fingerprint_is_of_ids_and_vectors(self):
        ids = pa.array(["a", "b", "c", "d"])
        prints = [VectorTable.from_arrays(part, np.eye(2)).fingerprint for part in (ids[:2], ids[2:], ["a", "b"])]
        assert prints[0] == prints[2] != prints[1]

    @pytest.mark.parametrize("vectors", [[[1.0], [1.0, 2.0]], np.empty((2, 0)), [["x"], ["y"]]])
    def test_what_is_no_matrix_is_refused(self, vectors):
        with pytest.raises(InputError, match="vectors"):
            VectorTable.from_arrays(["a", "b"], vectors)

    def test_arrays_of_another_shape(self):
        with pytest.raises(InputError, match=r"\(1, dim\) was expected"):
            VectorTable.from_arrays(["a"], [1.0, 2.0])
