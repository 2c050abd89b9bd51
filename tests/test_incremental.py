from __future__ import annotations

import dataclasses
import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeat import ItemTemplate, TextEncoder, VectorTable, encode_table
from llmfeat._base.files import claimed
from llmfeat.encode import changes, generations, incremental, plan_table, prune_table, writer
from llmfeat.encode.generations import agreement
from llmfeat.encode.index import TableIndex
from llmfeat.encode.manifest import Manifest
from llmfeat.encode.parts import read_part
from llmfeat.errors import (
    DuplicateIdError,
    EmptyInputError,
    InputError,
    LLMFeatWarning,
    MissingColumnError,
    TableCorruptError,
    TableFingerprintError,
    TableNotFoundError,
    TableWriteError,
)
from tests.conftest import DIM, write_artifact

TEMPLATE = ItemTemplate("{title}[ {year}]")
KINDS = ("new", "changed", "unchanged", "deleted", "missing")


@pytest.fixture(scope="module")
def encoder(artifact):
    return TextEncoder(artifact, backend="onnxruntime-cpu", batch_tokens=64)


def encode(items, encoder, out, **parameters):
    return encode_table(
        items, **{"template": TEMPLATE, "encoder": encoder, "out": out, "valid_from": "valid_from", **parameters}
    )


def counts(summary):
    return tuple(getattr(summary, kind) for kind in KINDS)


def many(n_items: int, **columns) -> pa.Table:
    words = ["heat", "alien", "casino", "speed", "drama", "war"]
    return pa.table(
        {
            "item_id": [f"i{at}" for at in range(n_items)],
            "title": [f"{words[at % 6]} {words[at // 6 % 6]} {words[at // 36 % 6]}" for at in range(n_items)],
            "year": [1995 if at % 2 else None for at in range(n_items)],
            "valid_from": pa.array(np.zeros(n_items, dtype=np.int64), pa.timestamp("us", "UTC")),
            **columns,
        }
    )


class TestWhatChanged:
    def test_only_new_and_changed_texts_are_encoded(self, items, encoder, tmp_path):
        assert counts(encode(items, encoder, tmp_path)) == (4, 0, 0, 0, 1)
        assert counts(encode(items, encoder, tmp_path)) == (0, 0, 4, 0, 1)
        changed = items.set_column(1, "title", pa.array(["heat", "speed", None, "war"])).slice(1)
        summary = encode(changed, encoder, tmp_path)
        assert counts(summary) == (0, 3, 0, 1, 1)
        assert summary.tokens == 3 + 4  # [CLS] speed [SEP], [CLS] war 1994 [SEP]
        table = VectorTable.open(tmp_path)
        assert sorted(table.ids.to_pylist()) == ["b", "c", "d"]
        assert table.lookup(["b", "d"]).tobytes() == encoder.encode(["speed", "war 1994"]).tobytes()
        assert np.isnan(table.lookup(["a", "c"])).all()

    def test_what_was_deleted_is_new_when_it_comes_back(self, items, encoder, tmp_path):
        encode(items, encoder, tmp_path)
        assert counts(encode(items.slice(1), encoder, tmp_path)) == (0, 0, 3, 1, 1)
        assert counts(encode(items, encoder, tmp_path)) == (1, 0, 3, 0, 1)
        assert not np.isnan(VectorTable.open(tmp_path).lookup(["a"])).any()

    def test_a_corrected_valid_from_is_stored_without_encoding(self, items, encoder, tmp_path):
        encode(items, encoder, tmp_path)
        vectors = VectorTable.open(tmp_path).lookup(["a", "b", "c", "d"])
        corrected = items.set_column(3, "valid_from", pa.array([0, 7, 0, 9], pa.timestamp("us", "UTC")))
        summary = encode(corrected, encoder, tmp_path)
        assert (*counts(summary), summary.tokens) == (0, 2, 2, 0, 1, 0)
        index = TableIndex.read(tmp_path, Manifest.read(tmp_path).generation(where=tmp_path))
        dates = zip(index.ids.to_pylist(), index.valid_from_us.tolist(), strict=True)
        assert dict(dates) == {"a": 0, "b": 7, "c": 0, "d": 9}
        assert VectorTable.open(tmp_path).lookup(["a", "b", "c", "d"]).tobytes() == vectors.tobytes()
        assert encode(corrected, encoder, tmp_path).unchanged == 4

    def test_nothing_changed_writes_nothing(self, items, encoder, tmp_path):
        encode(items, encoder, tmp_path)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        encode(items, encoder, tmp_path)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before

    def test_an_item_without_text_is_missing_not_zero(self, items, encoder, tmp_path):
        encode(items, encoder, tmp_path)
        table = VectorTable.open(tmp_path)
        assert dict(zip(table.ids.to_pylist(), table.missing.tolist(), strict=True))["d"] is True
        assert np.isnan(table.lookup(["d", "unknown"])).all()

    def test_a_few_items_are_added_without_deleting_the_rest(self, items, encoder, tmp_path):
        encode(items.slice(0, 3), encoder, tmp_path)
        assert counts(encode(items.slice(3), encoder, tmp_path, delete=False)) == (1, 0, 0, 0, 1)
        assert sorted(VectorTable.open(tmp_path).ids.to_pylist()) == ["a", "b", "c", "d"]

    def test_windows_of_any_size_give_the_same_table(self, encoder, tmp_path, monkeypatch):
        items = many(500)
        encode(items, encoder, tmp_path / "whole")
        monkeypatch.setattr(incremental, "_FIRST_ROWS", 7)
        monkeypatch.setattr(incremental, "_LEAST_ROWS", 7)
        monkeypatch.setattr(writer, "_MOST_ROWS", 33)
        encode(items, encoder, tmp_path / "cut")
        whole, cut = (VectorTable.open(tmp_path / name) for name in ("whole", "cut"))
        assert len(list((tmp_path / "cut").rglob("*.parquet"))) > 500 / 33
        assert cut.ids.equals(whole.ids)
        assert cut.vectors.tobytes() == whole.vectors.tobytes()

    def test_what_changes_or_comes_back_is_what_later_joins_find(self, items, encoder, tmp_path):
        """Whatever time the catalogue gives: a join takes the row that is known last, of these the one written last."""
        encode(items, encoder, tmp_path)
        encode(items.slice(1), encoder, tmp_path)  # "a" is deleted
        older = pa.array(np.zeros(4, dtype=np.int64), pa.timestamp("us", "UTC"))
        changed = items.set_column(items.column_names.index("valid_from"), "valid_from", older)
        changed = changed.set_column(1, "title", pa.array(["heat", "speed", "war", "war"]))
        encode(changed, encoder, tmp_path)
        generation = Manifest.read(tmp_path).generation(where=tmp_path)
        rows = pa.concat_tables([read_part(tmp_path, part) for part in generation.parts]).to_pylist()
        latest = {row["item_id"]: row["vector"] for row in sorted(rows, key=lambda row: row["valid_from"])}
        table = VectorTable.open(tmp_path)
        assert latest == {name: table.lookup([name])[0].tobytes() for name in ("a", "b", "c", "d")}
        encode(changed, encoder, tmp_path)  # the times that were given are set right
        assert counts(encode(changed, encoder, tmp_path)) == (0, 0, 4, 0, 0)

    def test_without_valid_from_the_epoch_is_said(self, items, encoder, tmp_path):
        with pytest.warns(LLMFeatWarning, match="4 new items come without valid_from: .* since 1970"):
            encode(items, encoder, tmp_path, valid_from=None)

    def test_limits_of_a_template_are_those_of_the_model_s_tokens(self, encoder, tmp_path):
        items = pa.table({"item_id": ["a"], "title": ["heat alien casino"], "year": [1995]})
        template = ItemTemplate("{title:2}[ {year}]")
        with pytest.warns(LLMFeatWarning, match="valid_from"):
            encode(items, encoder, tmp_path, template=template, valid_from=None)
        assert VectorTable.open(tmp_path).vectors.tobytes() == encoder.encode(["heat alien 1995"]).tobytes()


class TestInput:
    @pytest.mark.parametrize("name", ["items.parquet", "items.csv", "items.jsonl", "folder"])
    def test_every_format_gives_the_same_vectors(self, items, encoder, tmp_path, name):
        path = tmp_path / name
        frame = items.to_pandas().drop(columns="valid_from").astype({"year": "Int64"})
        if name == "folder":
            path.mkdir()
            pq.write_table(items.slice(0, 2), path / "1.parquet")
            pq.write_table(items.slice(2), path / "2.parquet")
        elif name.endswith("parquet"):
            pq.write_table(items, path)
        elif name.endswith("csv"):
            frame.to_csv(path, index=False)
        else:
            path.write_text(frame.to_json(orient="records", lines=True))
        with pytest.warns(LLMFeatWarning, match="valid_from"):
            assert encode(path, encoder, tmp_path / "t", valid_from=None).missing == 1
        expected = encoder.encode(["heat 1995", "alien", "casino 1995"])
        assert VectorTable.open(tmp_path / "t").lookup(["a", "b", "c"]).tobytes() == expected.tobytes()

    def test_duplicate_ids_are_refused_before_anything_is_written(self, items, encoder, tmp_path):
        with pytest.raises(DuplicateIdError, match=r"1 ids of the item catalogue come more than once, such as \['a'\]"):
            encode(pa.concat_tables([items, items.slice(0, 1)]), encoder, tmp_path / "t")
        assert not (tmp_path / "t").exists()

    def test_an_empty_catalogue_is_refused(self, items, encoder, tmp_path):
        with pytest.raises(EmptyInputError, match="has 0 rows"):
            encode(items.slice(0, 0), encoder, tmp_path)

    def test_one_row(self, items, encoder, tmp_path):
        assert counts(encode(items.slice(0, 1), encoder, tmp_path)) == (1, 0, 0, 0, 0)

    def test_ids_of_mixed_types_are_strings(self, encoder, tmp_path):
        path = tmp_path / "items.jsonl"
        path.write_text('{"item_id": 1, "title": "heat"}\n{"item_id": "a", "title": "war"}\n')
        with pytest.warns(LLMFeatWarning, match="valid_from"):
            encode(path, encoder, tmp_path / "t", template=ItemTemplate("{title}"), valid_from=None)
        assert sorted(VectorTable.open(tmp_path / "t").ids.to_pylist()) == ["1", "a"]

    def test_a_missing_id_and_a_missing_column_are_refused(self, items, encoder, tmp_path):
        with pytest.raises(InputError, match="1 null ids of 2"):
            encode(pa.table({"item_id": ["a", None], "title": ["x", "y"], "year": [1, 2]}), encoder, tmp_path)
        with pytest.raises(MissingColumnError, match="'title'"):
            encode(items.drop_columns(["title"]), encoder, tmp_path)

    def test_a_text_of_10_mb_is_cut_like_any_other(self, encoder, tmp_path):
        items = pa.table({"item_id": ["a"], "title": ["heat " * 2_000_000]})
        with pytest.warns(LLMFeatWarning, match="valid_from"):
            encode(items, encoder, tmp_path, template=ItemTemplate("{title}"), valid_from=None)
        assert VectorTable.open(tmp_path).vectors.tobytes() == encoder.encode(["heat " * 100]).tobytes()

    def test_no_unicode_fails_alone_and_keeps_what_was_there(self, encoder, tmp_path):
        path = tmp_path / "items.jsonl"
        path.write_text('{"item_id": 1, "title": "heat"}\n{"item_id": 2, "title": "war"}\n')
        plain = {"template": ItemTemplate("{title}"), "valid_from": None}
        with pytest.warns(LLMFeatWarning, match="valid_from"):
            encode(path, encoder, tmp_path / "t", **plain)
        before = VectorTable.open(tmp_path / "t").lookup(["1"])
        path.write_text('{"item_id": 1, "title": "\\ud800"}\n{"item_id": 2, "title": "speed"}\n')
        with pytest.warns(LLMFeatWarning, match=r"1 items were not encoded, such as \['1'\]"):
            summary = encode(path, encoder, tmp_path / "t", **plain)
        assert (summary.failed, summary.changed, summary.deleted, summary.missing) == (1, 1, 0, 0)
        assert VectorTable.open(tmp_path / "t").lookup(["1"]).tobytes() == before.tobytes()

    def test_a_vector_that_is_not_finite_fails_alone(self, items, encoder, tmp_path, monkeypatch):
        run = encoder._backend.run

        def broken(ids, *rest):
            vectors = run(ids, *rest)
            vectors[(ids == 5).any(axis=1)] = np.inf  # alien
            return vectors

        with monkeypatch.context() as patch:
            patch.setattr(encoder._backend, "run", broken)
            with pytest.warns(LLMFeatWarning, match=r"such as \['b'\]: .* not finite"):
                summary = encode(items, encoder, tmp_path)
        assert (summary.new, summary.failed) == (3, 1)
        assert "b" not in VectorTable.open(tmp_path).ids.to_pylist()
        assert counts(encode(items, encoder, tmp_path)) == (1, 0, 3, 0, 1)


class TestGenerations:
    def test_another_model_opens_a_generation_beside_the_old(self, items, encoder, tmp_path):
        encode(items, encoder, tmp_path / "t")
        old = VectorTable.open(tmp_path / "t")
        other = TextEncoder(write_artifact(tmp_path / "m", seed=1))
        assert encode(items, other, tmp_path / "t").new == 4
        new = VectorTable.open(tmp_path / "t")
        assert new.fingerprint != old.fingerprint
        again = VectorTable.open(tmp_path / "t", fingerprint=old.fingerprint)
        assert again.vectors.tobytes() == old.vectors.tobytes()
        with pytest.raises(TableFingerprintError, match="holds the generations"):
            VectorTable.open(tmp_path / "t", fingerprint="nope")

    def test_pruning_removes_all_but_the_current(self, items, encoder, tmp_path):
        encode(items, encoder, tmp_path / "t")
        old = VectorTable.open(tmp_path / "t")
        assert prune_table(tmp_path / "t").generations == 0
        other = TextEncoder(write_artifact(tmp_path / "m", seed=1))
        encode(items, other, tmp_path / "t")
        gone = prune_table(tmp_path / "t")
        assert (gone.generations, gone.parts) == (1, 1)
        assert gone.size_bytes > 0
        assert len(VectorTable.open(tmp_path / "t")) == 4
        assert len(list((tmp_path / "t").rglob("*.parquet"))) == 1
        with pytest.raises(TableFingerprintError):
            VectorTable.open(tmp_path / "t", fingerprint=old.fingerprint)

    def test_adding_a_few_items_with_another_model_changes_nothing_for_readers(self, items, encoder, tmp_path):
        encode(items, encoder, tmp_path / "t")
        other = TextEncoder(write_artifact(tmp_path / "m", seed=1))
        with pytest.warns(LLMFeatWarning, match="see what they saw before"):
            assert not encode(items.slice(0, 1), other, tmp_path / "t", delete=False).current
        assert len(VectorTable.open(tmp_path / "t")) == 4
        assert encode(items, other, tmp_path / "t").current

    def test_a_model_whose_vectors_are_not_finite_never_takes_over(self, items, encoder, tmp_path, monkeypatch):
        encode(items, encoder, tmp_path / "t")
        old = VectorTable.open(tmp_path / "t").fingerprint
        broken = TextEncoder(write_artifact(tmp_path / "m", seed=1))
        run = broken._backend.run
        monkeypatch.setattr(broken._backend, "run", lambda *args: run(*args) * np.float32(np.nan))
        with (
            pytest.warns(LLMFeatWarning, match="3 items were not encoded"),
            pytest.warns(LLMFeatWarning, match="nearly all vectors are finite"),
        ):
            summary = encode(items, broken, tmp_path / "t")
        assert (summary.failed, summary.new, summary.current) == (3, 1, False)
        assert VectorTable.open(tmp_path / "t").fingerprint == old

    def test_a_new_generation_keeps_the_times_that_were_recorded(self, items, encoder, tmp_path):
        dated = items.slice(0, 3).set_column(3, "valid_from", pa.array([5, 6, 7], pa.timestamp("us", "UTC")))
        encode(dated, encoder, tmp_path / "t")
        other = TextEncoder(write_artifact(tmp_path / "m", seed=1))
        with pytest.warns(LLMFeatWarning, match="1 new items come without valid_from"):
            encode(items, other, tmp_path / "t", valid_from=None, max_texts=2)
        with pytest.warns(LLMFeatWarning, match="1 new items come without valid_from"):
            encode(items, other, tmp_path / "t", valid_from=None)
        index = TableIndex.read(tmp_path / "t", Manifest.read(tmp_path / "t").generation(where=tmp_path))
        assert dict(zip(index.ids.to_pylist(), index.valid_from_us.tolist(), strict=True)) == {
            "a": 5,
            "b": 6,
            "c": 7,
            "d": 0,
        }

    def certified(self, artifact, **cosines):
        measured = {name.replace("_", "-"): {"cosine_min": cosine} for name, cosine in cosines.items()}
        parity = {**artifact.spec.parity, "numerics": measured}
        return dataclasses.replace(artifact, spec=dataclasses.replace(artifact.spec, parity=parity))

    @pytest.mark.parametrize(
        ("cosines", "said"), [({}, "are not compared"), ({"openvino_f32": 0.9998}, "have a cosine of 0.9998")]
    )
    def test_backends_share_only_what_the_certificate_allows(self, artifact, items, encoder, tmp_path, cosines, said):
        pytest.importorskip("openvino")
        encode(items.slice(0, 3), encoder, tmp_path)
        other = TextEncoder(self.certified(artifact, **cosines), backend="openvino-f32")
        with pytest.raises(TableFingerprintError, match=f"two {said}.*llmfeat certify"):
            encode(items, other, tmp_path, share=True)
        assert len(Manifest.read(tmp_path).generations) == 1

    def test_every_backend_that_wrote_must_agree(self, artifact, items, encoder, tmp_path):
        pytest.importorskip("openvino")
        both = self.certified(artifact, openvino_f32=0.99992, onnxruntime_cuda=0.99992)
        encode(items.slice(0, 2), encoder, tmp_path)
        other = TextEncoder(both, backend="openvino-f32")
        encode(items.slice(0, 3), other, tmp_path, share=True)
        third = TextEncoder(both)
        third.__dict__["_backend"] = type("Cuda", (), {"numerics": "onnxruntime-cuda"})()
        with pytest.raises(TableFingerprintError, match=r"vectors of openvino-f32, .* have a cosine of 0\.9996"):
            encode(items, third, tmp_path, share=True)

    @pytest.mark.filterwarnings("ignore")
    def test_a_cosine_that_is_no_number_is_no_agreement(self, artifact, items, encoder, tmp_path):
        pytest.importorskip("openvino")
        encode(items.slice(0, 2), encoder, tmp_path)
        other = TextEncoder(self.certified(artifact, openvino_f32=float("nan")), backend="openvino-f32")
        with pytest.raises(TableFingerprintError, match="cosine of nan"):
            encode(items, other, tmp_path, share=True)

    def test_backends_that_agree_share_a_generation(self, artifact, items, encoder, tmp_path):
        pytest.importorskip("openvino")
        encode(items.slice(0, 2), encoder, tmp_path)
        other = TextEncoder(self.certified(artifact, openvino_f32=0.99999), backend="openvino-f32")
        assert counts(encode(items, other, tmp_path, share=True)) == (2, 0, 2, 0, 1)
        (generation,) = Manifest.read(tmp_path).generations.values()
        assert [part.numerics for part in generation.parts] == ["onnxruntime-cpu", "openvino-f32"]
        assert VectorTable.open(tmp_path).lookup(["c"]).tobytes() == other.encode(["casino 1995"]).tobytes()
        assert counts(encode(items, encoder, tmp_path)) == (0, 0, 4, 0, 1)

    def test_another_backend_begins_a_generation_and_says_so(self, artifact, items, encoder, tmp_path):
        pytest.importorskip("openvino")
        encode(items, encoder, tmp_path)
        other = TextEncoder(artifact, backend="openvino-f32")
        with pytest.warns(LLMFeatWarning, match=r"holds these texts' vectors of onnxruntime-cpu; openvino-f32 begins"):
            assert encode(items, other, tmp_path).new == 4
        assert len(Manifest.read(tmp_path).generations) == 2

    def test_angles_add_up(self, artifact):
        spec = self.certified(artifact, openvino_bf16=0.99996, onnxruntime_cuda=0.99999).spec
        assert agreement(spec, "openvino-bf16", "onnxruntime-cpu") == pytest.approx(0.99996)
        assert agreement(spec, "openvino-bf16", "onnxruntime-cuda") == pytest.approx(0.99991, abs=1e-5)
        assert agreement(spec, "openvino-bf16", "openvino-bf16") == 1
        assert agreement(spec, "openvino-bf16", "onnxruntime-tensorrt") is None


class TestInterruptions:
    def test_a_run_that_dies_leaves_the_table_as_it_was(self, items, encoder, tmp_path, monkeypatch):
        encode(items.slice(0, 2), encoder, tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(writer, "write_part", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                encode(items, encoder, tmp_path)
        assert VectorTable.open(tmp_path).ids.to_pylist() == ["a", "b"]
        assert counts(encode(items, encoder, tmp_path)) == (2, 0, 2, 0, 1)

    def test_half_a_generation_never_takes_the_place_of_a_whole_one(self, items, encoder, tmp_path, monkeypatch):
        encode(items, encoder, tmp_path / "t")
        old = VectorTable.open(tmp_path / "t")
        other = TextEncoder(write_artifact(tmp_path / "m", seed=1))
        summary = encode(items, other, tmp_path / "t", max_texts=2)
        assert (summary.new, summary.remaining) == (2, 2)
        assert VectorTable.open(tmp_path / "t").fingerprint == old.fingerprint
        assert counts(encode(items, other, tmp_path / "t")) == (2, 0, 2, 0, 1)
        assert VectorTable.open(tmp_path / "t").fingerprint == other.table_fingerprint(TEMPLATE)

    def test_a_killed_process_loses_a_part_at_most(self, artifact, tmp_path):
        items, out = many(400), tmp_path / "t"
        pq.write_table(items, tmp_path / "items.parquet")
        context = multiprocessing.get_context("spawn")
        victim = context.Process(target=_encode_slowly, args=(artifact.path, tmp_path / "items.parquet", out))
        victim.start()
        deadline = time.monotonic() + 60
        while len(list(out.rglob("part-*.parquet"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        (generation,) = Manifest.read(out).generations.values()
        n_kept = sum(part.n_rows for part in generation.parts)
        assert 0 < n_kept < 400
        encoder = TextEncoder(artifact, backend="onnxruntime-cpu")
        assert counts(encode(tmp_path / "items.parquet", encoder, out)) == (400 - n_kept, 0, n_kept, 0, 0)
        expected = encoder.encode(TEMPLATE.render(items))
        assert VectorTable.open(out).lookup(items["item_id"]).tobytes() == expected.tobytes()
        named = {out / part.file for part in Manifest.read(out).generation(where=out).parts}
        assert set(out.rglob("*")) - named == {out / "manifest.json", *(path.parent for path in named)}

    def test_what_a_killed_run_left_is_swept(self, items, encoder, tmp_path):
        encode(items.slice(0, 2), encoder, tmp_path)
        (part,) = tmp_path.rglob("*.parquet")
        orphan, temporary = part.with_name("part-0123456789abcdef.parquet"), part.with_name(".part-x.parquet.abc")
        orphan.write_bytes(part.read_bytes())
        temporary.write_bytes(b"half")
        encode(items, encoder, tmp_path)
        assert not orphan.exists()
        assert not temporary.exists()
        assert part.exists()

    def test_two_writers_at_once(self, items, encoder, tmp_path):
        encode(items.slice(0, 2), encoder, tmp_path)
        with claimed(tmp_path), pytest.raises(TableWriteError, match="another process writes to"):
            encode(items, encoder, tmp_path)
        with claimed(tmp_path), pytest.raises(TableWriteError, match="another process writes to"):
            prune_table(tmp_path)
        assert counts(encode(items, encoder, tmp_path)) == (2, 0, 2, 0, 1)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
    def test_a_full_disk_or_a_read_only_folder_keeps_what_was_there(
        self, items, encoder, tmp_path, monkeypatch, number
    ):
        encode(items.slice(0, 2), encoder, tmp_path)

        def full(*_):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr("llmfeat._base.files.os.fsync", full)
            with pytest.raises(
                TableWriteError, match=f"cannot be written \\({os.strerror(number)}\\): free some space"
            ):
                encode(items, encoder, tmp_path)
        assert VectorTable.open(tmp_path).ids.to_pylist() == ["a", "b"]
        assert counts(encode(items, encoder, tmp_path)) == (2, 0, 2, 0, 1)

    def test_a_folder_that_cannot_be_made(self, items, encoder, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(TableWriteError, match="cannot be written"):
            encode(items, encoder, tmp_path / "file" / "t")

    def test_a_catalogue_that_changes_while_it_is_read(self, items, encoder, tmp_path, monkeypatch):
        ids = pa.array(["a", "b", "c", "x"])
        monkeypatch.setattr(changes, "read_ids", lambda *_: ids)
        with pytest.raises(InputError, match="gave other ids when it was read again"):
            encode(items, encoder, tmp_path)

    @pytest.mark.parametrize("bound", [1, 2, 3, 100])
    def test_a_bounded_run_goes_on_where_it_stopped(self, items, encoder, tmp_path, bound):
        n_runs = 0
        while encode(items, encoder, tmp_path, max_texts=bound).remaining:
            n_runs += 1
        assert n_runs == {1: 2, 2: 1, 3: 0, 100: 0}[bound]
        assert len(VectorTable.open(tmp_path)) == 4
        with pytest.raises(InputError, match="max_texts=0"):
            encode(items, encoder, tmp_path, max_texts=0)


class TestPlan:
    def test_a_plan_is_what_the_run_does(self, items, encoder, tmp_path):
        encode(items.slice(0, 2), encoder, tmp_path)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        changed = items.slice(1).set_column(1, "title", pa.array(["speed", "casino", None]))
        settings = {"template": TEMPLATE, "encoder": encoder, "out": tmp_path, "valid_from": "valid_from"}
        plan = plan_table(changed, **settings)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        assert (plan.texts, plan.tokens) == (2, 3 + 4)
        assert plan.minutes > 0
        summary = encode_table(changed, **settings)
        assert tuple(getattr(plan, kind) for kind in KINDS) == counts(summary) == (2, 1, 0, 1, 1)
        assert plan.tokens == summary.tokens

    def test_nothing_to_do_takes_no_time(self, items, encoder, tmp_path):
        encode(items, encoder, tmp_path)
        plan = plan_table(items, template=TEMPLATE, encoder=encoder, out=tmp_path, valid_from="valid_from")
        assert (plan.texts, plan.tokens, plan.minutes) == (0, 0, 0)


class TestTheFolder:
    def test_no_text_is_in_any_file(self, items, encoder, tmp_path):
        encode(items, encoder, tmp_path)
        for path in tmp_path.rglob("*"):
            if path.is_file():
                assert b"casino" not in path.read_bytes()

    def test_damage_is_found(self, items, encoder, tmp_path):
        encode(items, encoder, tmp_path)
        (part,) = tmp_path.rglob("*.parquet")
        data = part.read_bytes()
        for damaged in (data[: len(data) // 2], data[:-1] + bytes([data[-1] ^ 1])):
            part.write_bytes(damaged)
            with pytest.raises(TableCorruptError, match="is not the part that was written"):
                VectorTable.open(tmp_path)
            with pytest.raises(TableCorruptError, match="is not the part that was written"):
                encode(items, encoder, tmp_path)
        part.unlink()
        with pytest.raises(TableCorruptError, match="is missing or"):
            VectorTable.open(tmp_path)

    @pytest.mark.parametrize(
        ("text", "said"),
        [("{", "no manifest"), ('{"schema": 99}', "upgrade"), ('{"schema": 1}', "new folder"), ("[]", "no manifest")],
    )
    def test_a_manifest_that_cannot_be_read(self, tmp_path, text, said):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(TableCorruptError, match=said):
            VectorTable.open(tmp_path)

    def test_no_table(self, tmp_path):
        with pytest.raises(TableNotFoundError, match="encode_table"):
            VectorTable.open(tmp_path)

    def test_the_manifest_names_every_part(self, items, encoder, tmp_path):
        encode(items, encoder, tmp_path)
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        (generation,) = manifest["generations"].values()
        assert [tmp_path / part["file"] for part in generation["parts"]] == list(tmp_path.rglob("*.parquet"))
        assert generation["dim"] == DIM


def _encode_slowly(artifact: Path, items: Path, out: Path) -> None:
    """Encode in small parts, with a pause after each, to be killed meanwhile."""
    incremental._FIRST_ROWS = incremental._LEAST_ROWS = incremental._MOST_ROWS = 16
    write = generations.Manifest.write
    generations.Manifest.write = lambda self, table: (write(self, table), time.sleep(0.05))
    encode(items, TextEncoder(artifact, backend="onnxruntime-cpu"), out)
