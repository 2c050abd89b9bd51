from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeat.errors import ArtifactCorruptError, ArtifactError, ArtifactNotFoundError, ArtifactSchemaError
from llmfeat.features.semantic import SemanticIds
from tests.test_semantic_residual import clustered


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered()


@pytest.fixture(scope="module")
def ids(vectors) -> SemanticIds:
    return SemanticIds(levels=(8, 6, 4)).fit(vectors)


class TestSaving:
    def test_what_is_loaded_is_what_was_saved(self, tmp_path, vectors):
        ids = SemanticIds(levels=(8, 4), random_state=np.int64(3)).fit(pd.DataFrame(vectors).add_prefix("v"))
        ids.save(tmp_path / "book")
        again = SemanticIds.load(tmp_path / "book")
        frame = pd.DataFrame(vectors).add_prefix("v")
        assert again.transform(frame).tobytes() == ids.transform(frame).tobytes()
        assert again.get_params() == ids.get_params()
        assert again.report_ == ids.report_
        assert again.fingerprint_ == ids.fingerprint_
        assert list(again.feature_names_in_) == list(ids.feature_names_in_)
        assert again.trie_.children([1]).tolist() == ids.trie_.children([1]).tolist()
        again.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / "book").read_bytes()

    def test_a_random_state_that_is_no_number_is_left_out(self, tmp_path, vectors):
        ids = SemanticIds(levels=[4], random_state=np.random.RandomState(0)).fit(vectors)
        ids.save(tmp_path / "book")
        assert SemanticIds.load(tmp_path / "book").random_state is None

    @given(st.data())
    @settings(max_examples=40, deadline=None)
    def test_any_changed_byte_is_refused(self, ids, tmp_path_factory, data):
        path = tmp_path_factory.getbasetemp() / "book"
        ids.save(path)
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        with pytest.raises(ArtifactError):
            SemanticIds.load(path)

    @pytest.mark.parametrize("content", [b"", b"[1]\n", b"{}", b"\x80\x04K\x01.", b"PK\x03\x04 no header\n"])
    def test_another_file_is_refused(self, tmp_path, content):
        (tmp_path / "book").write_bytes(content)
        with pytest.raises(ArtifactCorruptError, match=r"pass the file that SemanticIds\.save wrote"):
            SemanticIds.load(tmp_path / "book")

    def test_half_a_file_no_file_and_a_newer_one(self, tmp_path, ids):
        path = tmp_path / "book"
        with pytest.raises(ArtifactNotFoundError, match="is no file"):
            SemanticIds.load(path)
        ids.save(path)
        content = path.read_bytes()
        path.write_bytes(content[:-4])
        with pytest.raises(ArtifactCorruptError, match="another sha256"):
            SemanticIds.load(path)
        text, _, body = content.partition(b"\n")
        path.write_bytes(text.replace(b",", b", ", 1) + b"\n" + body)  # the same JSON, other bytes
        with pytest.raises(ArtifactCorruptError, match="another sha256"):
            SemanticIds.load(path)
        path.write_bytes(json.dumps(json.loads(text) | {"schema": 2}).encode() + b"\n" + body)
        with pytest.raises(ArtifactSchemaError, match=r"schema 2, this version reads 1"):
            SemanticIds.load(path)
