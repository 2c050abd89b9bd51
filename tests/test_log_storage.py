from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib.externals.loky import get_reusable_executor

from llmfeat import ActivityFeatures, HistoryFeatures, InteractionLog, VectorTable
from llmfeat.errors import EmptyInputError, InputError, MissingColumnError, TimestampError
from llmfeat.history import events as events_module
from llmfeat.history import storage
from tests.conftest import random_log

ARRAYS = ("user_codes", "item_codes", "times_us", "labels")
FAR = np.array([10**16])


def assert_same(one: InteractionLog, two: InteractionLog) -> None:
    for name in ARRAYS:
        got, expected = getattr(one, name), getattr(two, name)
        assert got.dtype == expected.dtype
        assert got.tobytes() == expected.tobytes()
    assert one.by_user.offsets.tolist() == two.by_user.offsets.tolist()
    assert one.user_ids.to_pylist() == two.user_ids.to_pylist()
    assert one.item_ids.to_pylist() == two.item_ids.to_pylist()
    assert one.label_delay == two.label_delay


def features(log: InteractionLog, rows: pa.Table) -> bytes:
    vectors = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    table = VectorTable.from_arrays([str(item) for item in range(30)], vectors)
    both = (ActivityFeatures(log), HistoryFeatures(log, {"text": table}))
    return b"".join(each.fit(rows).transform(rows).tobytes() for each in both)


@pytest.fixture
def saved(log, tmp_path):
    log.save(tmp_path / "log")
    return tmp_path / "log"


class TestFolder:
    @given(st.integers(0, 30), st.sampled_from([0, 5000]))
    @settings(max_examples=5, deadline=None)
    def test_what_is_opened_gives_the_bits_of_what_was_saved(self, seed, delay_s):
        frame = random_log(seed, n_events=120)
        log = InteractionLog.from_frame(frame, label="label", available_after_s=delay_s)
        with tempfile.TemporaryDirectory() as folder:
            log.save(Path(folder) / "log")
            for in_memory in (False, True):
                opened = InteractionLog.open(Path(folder) / "log", in_memory=in_memory)
                assert_same(opened, log)
                assert features(opened, frame) == features(log, frame)

    def test_arrays_are_mapped_and_cannot_be_written(self, saved):
        opened, held = InteractionLog.open(saved), InteractionLog.open(saved, in_memory=True)
        for name in ARRAYS:
            assert isinstance(getattr(opened, name).base, np.memmap)
            assert not isinstance(getattr(held, name).base, np.memmap)
            for log in (opened, held):
                with pytest.raises(ValueError, match="read-only"):
                    getattr(log, name)[0] = 1
        assert type(opened.labels) is np.ndarray

    def test_a_cut_log_and_an_empty_one(self, events, tmp_path):
        cut = InteractionLog.from_frame(events, available_after_s=60).until((10**9 + 300) * 10**6)
        empty = InteractionLog.from_histories(pa.table({"history_item_ids": [None]}))
        for log in (cut, empty):
            log.save(tmp_path / "log")
            assert_same(InteractionLog.open(tmp_path / "log"), log)

    def test_no_pickle_lies_in_it(self, saved):
        names = {path.name for path in saved.iterdir()}
        assert names == {"log.json", *(f"{name}.npy" for name in (*ARRAYS, "user_offsets"))} | {
            "user_ids.arrow",
            "item_ids.arrow",
        }
        assert json.loads((saved / "log.json").read_text())["schema"] == 1

    def test_files_are_hashed_once(self, saved, monkeypatch):
        monkeypatch.setattr("llmfeat._base.verified.file_sha256", None)  # saving remembered the digests
        assert InteractionLog.open(saved).n_events == 6

    def test_a_new_one_replaces_the_old_and_who_has_it_open_keeps_it(self, saved, log, events):
        opened = InteractionLog.open(saved)
        InteractionLog.from_frame(events.slice(0, 2)).save(saved)
        assert_same(opened, log)
        assert InteractionLog.open(saved).n_events == 2

    def test_a_save_that_fails_leaves_the_old_one(self, saved, log, monkeypatch):
        def full(*args, **kwargs):
            raise OSError("no space left")

        monkeypatch.setattr(storage, "_write_ids", full)
        with pytest.raises(OSError, match="no space"):
            log.until(int(log.times_us.max())).save(saved)
        assert_same(InteractionLog.open(saved), log)
        assert [path.name for path in saved.parent.iterdir()] == ["log"]

    def test_other_folders_are_not_replaced(self, log, tmp_path):
        (tmp_path / "mine").mkdir()
        log.save(tmp_path / "mine")  # empty: nothing is lost
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs" / "thesis.txt").write_text("years")
        for path in (tmp_path / "theirs", tmp_path / "theirs" / "thesis.txt"):
            with pytest.raises(InputError, match="is no log to replace"):
                log.save(path)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def rewrite(folder: Path, **changes: object) -> None:
    body = json.loads((folder / "log.json").read_text())
    (folder / "log.json").write_text(json.dumps({**body, **changes}))


class TestDamage:
    @pytest.mark.parametrize(
        ("damage", "said"),
        [
            (lambda folder: flip(folder / "labels.npy"), r"labels\.npy is missing or is not the file"),
            (lambda folder: flip(folder / "item_ids.arrow"), r"item_ids\.arrow is missing or is not the file"),
            (lambda folder: (folder / "times_us.npy").unlink(), r"times_us\.npy is missing"),
            (lambda folder: (folder / "user_codes.npy").write_bytes(b""), r"user_codes\.npy is missing or is not"),
            (lambda folder: (folder / "log.json").unlink(), r"holds no log\.json"),
            (lambda folder: (folder / "log.json").write_text("{"), r"does not describe a log"),
            (lambda folder: (folder / "log.json").write_text("[]"), r"does not describe a log"),
            (lambda folder: (folder / "log.json").write_bytes(b"\xff"), r"does not describe a log"),
            (lambda folder: rewrite(folder, files={}), r"does not describe a log"),
            (lambda folder: rewrite(folder, available_after_us="soon"), r"does not describe a log"),
            (lambda folder: rewrite(folder, schema=9), r"has schema 9, but this version reads 1"),
            (shutil.rmtree, r"a saved log was expected"),
        ],
    )
    def test_it_is_found(self, saved, damage, said):
        damage(saved)
        for in_memory in (False, True):
            with pytest.raises(InputError, match=said):
                InteractionLog.open(saved, in_memory=in_memory)

    def test_a_double_that_hashes_nothing_would_open_it(self, saved, log, monkeypatch):
        """The check above can fail: without it, a flipped bit is another label."""
        flip(saved / "labels.npy")
        files = json.loads((saved / "log.json").read_text())["files"]
        monkeypatch.setattr(storage, "verified_sha256", lambda path: files[path.name]["sha256"])
        assert InteractionLog.open(saved).labels.tobytes() != log.labels.tobytes()


class TestPickle:
    def test_an_opened_log_is_pickled_as_its_path(self, saved, log, monkeypatch):
        data = pickle.dumps(InteractionLog.open(saved))
        assert len(data) < 500
        assert b"u1" not in data
        monkeypatch.chdir(saved.parent.parent)
        assert_same(pickle.loads(data), log)

    def test_relative_paths_are_resolved(self, saved, log, monkeypatch, tmp_path):
        monkeypatch.chdir(saved.parent)
        data = pickle.dumps(InteractionLog.open("log"))
        monkeypatch.chdir("/")
        assert_same(pickle.loads(data), log)

    def test_a_log_in_memory_is_pickled_whole(self, saved, log):
        held = InteractionLog.open(saved, in_memory=True)
        shutil.rmtree(saved)
        for each in (held, log):
            again = pickle.loads(pickle.dumps(each))
            assert_same(again, log)
            with pytest.raises(ValueError, match="read-only"):
                again.labels[0] = 1

    def test_what_is_derived_stays_out_of_pickles(self, log):
        size = len(pickle.dumps(log))
        assert log.by_item.n_events == log.by_time.n_events == 6
        assert log.user_code(["u1"]).tolist() == [0]
        assert len(pickle.dumps(log)) == size

    def test_a_folder_that_is_gone_or_holds_another_log_is_an_error(self, saved, events):
        data = pickle.dumps(InteractionLog.open(saved))
        InteractionLog.from_frame(events.slice(0, 2)).save(saved)
        with pytest.raises(InputError, match="holds another log than the one that was pickled"):
            pickle.loads(data)
        shutil.rmtree(saved)
        with pytest.raises(InputError, match="a saved log was expected"):
            pickle.loads(data)

    def test_joblib_workers_open_it_again(self, saved, log):
        opened = InteractionLog.open(saved)
        try:
            jobs = [joblib.delayed(InteractionLog.windows)(each, ["u1"], FAR) for each in (opened, log)]
            for start, stop in joblib.Parallel(n_jobs=2, backend="loky")(jobs):
                assert stop - start == 3
        finally:
            get_reusable_executor().shutdown(wait=True)


class TestFromParquet:
    @given(
        seed=st.integers(0, 30), batch_rows=st.integers(1, 60), n_files=st.integers(1, 3), waiting=st.integers(1, 40)
    )
    @settings(max_examples=12, deadline=None)
    def test_small_batches_give_the_log_of_the_whole_frame(self, seed, batch_rows, n_files, waiting):
        frame = random_log(seed, n_events=90)
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            patch.setattr(events_module, "_WAITING_IDS", waiting)
            for part, begin in enumerate(range(0, 90, 90 // n_files)):
                pq.write_table(frame.slice(begin, 90 // n_files), Path(folder) / f"{part}.parquet", row_group_size=17)
            got = InteractionLog.from_parquet(folder, label="label", available_after_s=9, batch_rows=batch_rows)
        assert_same(got, InteractionLog.from_frame(frame, label="label", available_after_s=9))

    def test_a_double_that_numbers_each_batch_anew_fails_that_check(self, monkeypatch):
        def forgetful(self):
            self._codes += [one.indices.to_numpy() for one in self._waiting]
            self._ids, self._waiting = self._waiting[-1].dictionary, []

        monkeypatch.setattr(events_module.IdCodes, "_unify", forgetful)
        with pytest.raises((AssertionError, IndexError, ValueError)):
            self.test_small_batches_give_the_log_of_the_whole_frame.hypothesis.inner_test(self, 0, 7, 1, 1)

    @pytest.mark.parametrize(
        "times",
        [
            pa.array([10**9 + 60 * at for at in range(6)]),
            pa.array([(10**9 + 60 * at) * 1000 for at in range(6)]),
            pa.array([1e9 + 60.5 * at for at in range(6)]),
            pa.array(pd.date_range("2024-01-01", periods=6, freq="h", tz="UTC").astype("datetime64[ns, UTC]")),
            pa.array([f"2024-01-0{at + 1}T00:00:00Z" for at in range(6)]),
            pa.array(pd.date_range("1960-01-01", periods=6).date),
        ],
        ids=["s", "ms", "float", "ns", "text", "date"],
    )
    @pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string()), pa.large_string()], ids=str)
    def test_times_and_ids_of_every_kind(self, events, times, kind, tmp_path):
        frame = events.set_column(2, "timestamp", times).set_column(0, "user_id", events.column("user_id").cast(kind))
        pq.write_table(frame, tmp_path / "log.parquet")
        got = InteractionLog.from_parquet(tmp_path / "log.parquet", batch_rows=2)
        assert_same(got, InteractionLog.from_frame(frame))

    def test_only_the_columns_that_are_needed_are_read(self, events, tmp_path, monkeypatch):
        read = []
        plain = pq.ParquetFile.iter_batches

        def spy(self, batch_size, columns):
            read.append(columns)
            return plain(self, batch_size, columns=columns)

        monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
        pq.write_table(events.append_column("stars", pa.array([5] * 6)), tmp_path / "log.parquet")
        log = InteractionLog.from_parquet(str(tmp_path / "log.parquet"), rating="stars")
        assert log.labels.tolist() == [1] * 6
        assert read == [["user_id", "item_id", "timestamp", "stars"]]

    @pytest.mark.parametrize(
        ("change", "kind", "said"),
        [
            # Seconds, then milliseconds: in batches of 3 each would pass for itself.
            (lambda e: e.set_column(2, "timestamp", pa.array([10**9] * 3 + [10**12] * 3)), TimestampError, "no epoch"),
            (
                lambda e: e.set_column(2, "timestamp", pa.array([10**9] * 5 + [None])),
                TimestampError,
                "1 null times of 6",
            ),
            (lambda e: e.set_column(3, "label", pa.array([0, 1, 1, 0, 0, 2])), InputError, "labels are 0 or 1"),
            (lambda e: e.set_column(1, "item_id", pa.array([1, 2, 3, 4, 5, None])), InputError, "1 null ids"),
            (lambda e: e.drop_columns(["item_id"]), MissingColumnError, r"\['item_id'\] is needed"),
            (lambda e: e.slice(0, 0), EmptyInputError, "has 0 rows"),
        ],
    )
    def test_bad_files_are_refused(self, events, tmp_path, change, kind, said):
        pq.write_table(change(events), tmp_path / "log.parquet")
        with pytest.raises(kind, match=said):
            InteractionLog.from_parquet(tmp_path / "log.parquet", label="label", batch_rows=3)

    def test_other_files_are_refused(self, tmp_path, events):
        (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,a,1000000000\n")
        with pytest.raises(InputError, match=r"InteractionLog\.from_frame"):
            InteractionLog.from_parquet(tmp_path / "log.csv")
        with pytest.raises(InputError, match="no such file"):
            InteractionLog.from_parquet(tmp_path / "none.parquet")
