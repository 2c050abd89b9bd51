from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeat import ItemTemplate, TextEncoder, VectorTable, encode_table
from llmfeat.encode import incremental
from llmfeat.encode.engine import bucket_lengths
from llmfeat.encode.manifest import Manifest
from llmfeat.encode.table import live_rows
from llmfeat.errors import (
    ArtifactCorruptError,
    DuplicateIdError,
    EmptyInputError,
    InputError,
    LLMFeatWarning,
    TableCorruptError,
    TableFingerprintError,
    TableNotFoundError,
)
from tests.conftest import DIM, MAX_TOKENS, WORDS, write_artifact

TEMPLATE = ItemTemplate("{title}[ {year}]")
texts = st.lists(st.sampled_from(WORDS[4:]), max_size=30).map(" ".join)


@pytest.fixture(scope="module")
def encoder(artifact):
    return TextEncoder(artifact, batch_tokens=64)


class TestEncoder:
    @given(st.lists(texts, min_size=1, max_size=20), st.randoms())
    @settings(max_examples=30, deadline=None)
    def test_a_text_has_the_same_bits_whatever_is_beside_it(self, encoder, batch, random):
        together = encoder.encode(batch)
        order = random.sample(range(len(batch)), len(batch))
        assert encoder.encode([batch[at] for at in order]).tobytes() == together[order].tobytes()
        for at, text in enumerate(batch):
            assert encoder.encode([text]).tobytes() == together[at].tobytes()

    def test_the_role_chooses_the_prompt(self, tmp_path):
        encoder = TextEncoder(write_artifact(tmp_path, query_prompt="the ", document_prompt="war "))
        plain = TextEncoder(write_artifact(tmp_path / "plain"))
        expected = plain.encode(["war heat", "the heat"])
        assert encoder.encode(["heat"]).tobytes() == expected[0].tobytes()
        assert encoder.encode(["heat"], role="query").tobytes() == expected[1].tobytes()
        assert encoder.count_tokens(["heat"], role="query").tolist() == [4]
        with pytest.raises(InputError, match="role='item', but one of"):
            encoder.encode(["heat"], role="item")

    def test_a_prompt_can_be_left_out_of_the_pooling(self, tmp_path):
        """The mean of the tokens behind the prompt is what remains of the mean of all when the rest is taken away."""
        prompts = {"query_prompt": "the war ", "document_prompt": ""}
        with_prompt = TextEncoder(write_artifact(tmp_path / "with", normalize=False, **prompts))
        without = TextEncoder(write_artifact(tmp_path / "without", include_prompt=False, **prompts))
        assert without.encode(["heat"]).tobytes() == with_prompt.encode(["heat"]).tobytes()
        assert not np.allclose(without.encode(["heat"], role="query"), with_prompt.encode(["heat"], role="query"))

    @pytest.mark.parametrize("role", ["document", "query"])
    def test_an_empty_text_without_any_token_is_one_padding_token(self, tmp_path, role):
        encoder = TextEncoder(write_artifact(tmp_path, around="$A"))
        assert encoder.count_tokens(["", "heat"]).tolist() == [1, 1]
        vectors = encoder.encode(["", "[PAD]", "heat"], role=role)
        assert np.isfinite(vectors).all()
        assert not np.array_equal(vectors[0], vectors[2])

    def test_a_folder_that_was_replaced_is_not_read_under_the_old_name(self, tmp_path):
        encoder = TextEncoder(write_artifact(tmp_path))
        before = pickle.dumps(encoder)
        write_artifact(tmp_path, seed=1)
        with pytest.raises(ArtifactCorruptError, match="make a new TextEncoder"):
            encoder.encode(["heat"])
        with pytest.raises(ArtifactCorruptError, match="make a new TextEncoder"):
            pickle.loads(before).encode(["heat"])

    def test_the_left_end_is_cut_where_the_model_cuts_there(self, tmp_path):
        encoder = TextEncoder(write_artifact(tmp_path, truncation_side="left"))
        long = "heat " * 40 + "alien war"
        kept = " ".join(long.split()[-(MAX_TOKENS - 2) :])
        assert encoder.encode([long]).tobytes() == encoder.encode([kept]).tobytes()

    def test_a_scorer_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="is a scorer, but an encoder was expected"):
            TextEncoder(write_artifact(tmp_path, kind="scorer"))

    def test_shape_dtype_and_unit_length(self, encoder):
        vectors = encoder.encode(["heat", "alien war", ""])
        assert vectors.shape == (3, DIM)
        assert vectors.dtype == np.float32
        assert vectors.flags.c_contiguous
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)

    def test_no_texts(self, encoder):
        assert encoder.encode([]).shape == (0, DIM)

    def test_long_texts_are_cut(self, encoder):
        words = ["heat"] * 100
        assert encoder.count_tokens([" ".join(words)]).tolist() == [MAX_TOKENS]
        assert np.array_equal(*encoder.encode([" ".join(words), " ".join(words[:50])]))

    def test_equal_texts_are_encoded_once(self, encoder, monkeypatch):
        rows = []
        run = encoder._backend.run
        monkeypatch.setattr(encoder._backend, "run", lambda ids, *rest: rows.append(len(ids)) or run(ids, *rest))
        encoder.encode(["heat"] * 50 + ["alien"])
        assert sum(rows) == 2

    @pytest.mark.parametrize(
        ("bad", "said"), [(None, "text 1 is of type NoneType"), (3, "type int"), ("\ud800x", "lone surrogate")]
    )
    def test_bad_texts_are_refused_without_quoting_them(self, encoder, bad, said):
        with pytest.raises(InputError, match=said):
            encoder.encode(["heat", bad])

    def test_pickles_hold_no_session(self, encoder):
        encoder.encode(["heat"])
        again = pickle.loads(pickle.dumps(encoder))
        assert "_backend" not in again.__dict__
        assert again.encode(["heat"]).tobytes() == encoder.encode(["heat"]).tobytes()

    def test_fingerprints_tell_model_and_template_apart(self, encoder, tmp_path):
        other = TextEncoder(write_artifact(tmp_path, seed=1))
        prints = {
            encoder.table_fingerprint(TEMPLATE),
            encoder.table_fingerprint(ItemTemplate("{title}")),
            other.table_fingerprint(TEMPLATE),
        }
        assert len(prints) == 3

    @given(st.lists(st.integers(1, 600), min_size=1))
    def test_a_bucket_is_of_its_own_length_alone(self, lengths):
        together = bucket_lengths(np.array(lengths), max_tokens=600)
        alone = [int(bucket_lengths(np.array([length]), max_tokens=600)[0]) for length in lengths]
        assert together.tolist() == alone
        assert (together >= lengths).all()


class TestTable:
    def encode(self, items, encoder, out, **parameters):
        return encode_table(
            items, template=TEMPLATE, encoder=encoder, out=out, **{"valid_from": "valid_from", **parameters}
        )

    def counts(self, summary):
        return (summary.new, summary.changed, summary.unchanged, summary.deleted, summary.missing)

    def test_only_new_and_changed_texts_are_encoded(self, items, encoder, tmp_path):
        assert self.counts(self.encode(items, encoder, tmp_path)) == (4, 0, 0, 0, 1)
        assert self.counts(self.encode(items, encoder, tmp_path)) == (0, 0, 4, 0, 1)
        changed = items.set_column(1, "title", pa.array(["heat", "speed", None, "war"])).slice(1)
        summary = self.encode(changed, encoder, tmp_path)
        assert self.counts(summary) == (0, 3, 0, 1, 1)
        table = VectorTable.open(tmp_path)
        assert sorted(table.ids.to_pylist()) == ["b", "c", "d"]
        assert table.lookup(["b", "d"]).tobytes() == encoder.encode(["speed", "war 1994"]).tobytes()
        assert np.isnan(table.lookup(["a", "c"])).all()

    def test_a_corrected_valid_from_is_stored_without_encoding(self, items, encoder, tmp_path):
        self.encode(items, encoder, tmp_path)
        vectors = VectorTable.open(tmp_path).lookup(["a", "b", "c", "d"])
        corrected = items.set_column(3, "valid_from", pa.array([0, 7, 0, 9], pa.timestamp("us", "UTC")))
        summary = self.encode(corrected, encoder, tmp_path)
        assert (*self.counts(summary), summary.tokens) == (0, 2, 2, 0, 1, 0)
        rows = live_rows(tmp_path, Manifest.read(tmp_path).generation(where=tmp_path))
        dates = zip(rows["item_id"].to_pylist(), rows["valid_from"].cast(pa.int64()).to_pylist(), strict=True)
        assert dict(dates) == {"a": 0, "b": 7, "c": 0, "d": 9}
        assert VectorTable.open(tmp_path).lookup(["a", "b", "c", "d"]).tobytes() == vectors.tobytes()
        assert self.encode(corrected, encoder, tmp_path).unchanged == 4

    def test_nothing_changed_writes_nothing(self, items, encoder, tmp_path):
        self.encode(items, encoder, tmp_path)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        self.encode(items, encoder, tmp_path)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before

    def test_an_item_without_text_is_missing_not_zero(self, items, encoder, tmp_path):
        self.encode(items, encoder, tmp_path)
        table = VectorTable.open(tmp_path)
        assert dict(zip(table.ids.to_pylist(), table.missing.tolist(), strict=True))["d"] is True
        assert np.isnan(table.lookup(["d", "unknown"])).all()

    def test_another_model_opens_a_generation_beside_the_old(self, items, encoder, tmp_path):
        self.encode(items, encoder, tmp_path / "t")
        old = VectorTable.open(tmp_path / "t")
        other = TextEncoder(write_artifact(tmp_path / "m", seed=1))
        assert self.encode(items, other, tmp_path / "t").new == 4
        new = VectorTable.open(tmp_path / "t")
        assert new.fingerprint != old.fingerprint
        again = VectorTable.open(tmp_path / "t", fingerprint=old.fingerprint)
        assert again.vectors.tobytes() == old.vectors.tobytes()
        with pytest.raises(TableFingerprintError, match="holds the generations"):
            VectorTable.open(tmp_path / "t", fingerprint="nope")

    def test_a_run_that_dies_leaves_the_table_as_it_was(self, items, encoder, tmp_path, monkeypatch):
        self.encode(items.slice(0, 2), encoder, tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(incremental, "_append", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                self.encode(items, encoder, tmp_path)
        assert VectorTable.open(tmp_path).ids.to_pylist() == ["a", "b"]
        assert self.counts(self.encode(items, encoder, tmp_path)) == (2, 0, 2, 0, 1)

    def test_half_a_generation_never_takes_the_place_of_a_whole_one(self, items, encoder, tmp_path, monkeypatch):
        self.encode(items, encoder, tmp_path / "t")
        old = VectorTable.open(tmp_path / "t")
        other = TextEncoder(write_artifact(tmp_path / "m", seed=1))
        with monkeypatch.context() as patch:
            patch.setattr(incremental, "_PART_ROWS", 2)
            rows = incremental._encode_rows
            calls = iter([rows])
            patch.setattr(incremental, "_encode_rows", lambda *args, **kw: next(calls)(*args, **kw))
            with pytest.raises(StopIteration):  # dies at the second part
                self.encode(items, other, tmp_path / "t")
        assert VectorTable.open(tmp_path / "t").fingerprint == old.fingerprint
        assert self.counts(self.encode(items, other, tmp_path / "t")) == (2, 0, 2, 0, 1)
        assert VectorTable.open(tmp_path / "t").fingerprint == other.table_fingerprint(TEMPLATE)

    def test_no_text_is_in_any_file(self, items, encoder, tmp_path):
        self.encode(items, encoder, tmp_path)
        for path in tmp_path.rglob("*"):
            if path.is_file():
                assert b"casino" not in path.read_bytes()

    def test_without_valid_from_the_epoch_is_said(self, items, encoder, tmp_path):
        with pytest.warns(LLMFeatWarning, match="4 new items come without valid_from: .* since 1970"):
            self.encode(items, encoder, tmp_path, valid_from=None)

    def test_duplicate_ids_are_refused(self, items, encoder, tmp_path):
        with pytest.raises(DuplicateIdError, match=r"1 ids of the item catalogue come more than once, such as \['a'\]"):
            self.encode(pa.concat_tables([items, items.slice(0, 1)]), encoder, tmp_path)

    def test_an_empty_catalogue_is_refused(self, items, encoder, tmp_path):
        with pytest.raises(EmptyInputError, match="has 0 rows"):
            self.encode(items.slice(0, 0), encoder, tmp_path)

    def test_damage_is_found(self, items, encoder, tmp_path):
        self.encode(items, encoder, tmp_path)
        (part,) = tmp_path.rglob("*.parquet")
        data = part.read_bytes()
        for damaged in (data[: len(data) // 2], data[:-1] + bytes([data[-1] ^ 1])):
            part.write_bytes(damaged)
            with pytest.raises(TableCorruptError, match="is not the part that was written"):
                VectorTable.open(tmp_path)
        part.unlink()
        with pytest.raises(TableCorruptError, match="is missing or"):
            VectorTable.open(tmp_path)

    @pytest.mark.parametrize("text", ["{", '{"schema": 99}', "[]"])
    def test_a_manifest_that_cannot_be_read(self, tmp_path, text):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(TableCorruptError, match="manifest"):
            VectorTable.open(tmp_path)

    def test_no_table(self, tmp_path):
        with pytest.raises(TableNotFoundError, match="encode_table"):
            VectorTable.open(tmp_path)

    def test_the_manifest_names_every_part(self, items, encoder, tmp_path):
        self.encode(items, encoder, tmp_path)
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        (generation,) = manifest["generations"].values()
        assert [tmp_path / part["file"] for part in generation["parts"]] == list(tmp_path.rglob("*.parquet"))
        assert generation["dim"] == DIM


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
