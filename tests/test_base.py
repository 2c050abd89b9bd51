from __future__ import annotations

import uuid
import zipfile
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from llmfeat._base import wheels
from llmfeat._base.files import atomic_write, file_sha256, source_sha256
from llmfeat._base.frames import id_array, id_column, label_column, read_times, time_column, to_frame, to_us
from llmfeat._base.ids import IdIndex
from llmfeat._base.optional import import_optional, missing_dependency
from llmfeat.errors import (
    DownloadError,
    InputError,
    LLMFeatWarning,
    MissingColumnError,
    MissingDependencyError,
    TimestampError,
)

NAIVE = datetime(2020, 1, 2, 3, 4, 5, 678)
US = int(NAIVE.replace(tzinfo=UTC).timestamp()) * 10**6 + 678


@pytest.mark.parametrize(
    "values", [[7, 8], ["7", "8"], [7.0, 8.0], pd.Series([7, 8]), pl.Series(["7", "8"]), pa.array([7, 8])]
)
def test_ids_of_every_type_are_the_same_strings(values):
    assert id_array(values).to_pylist() == ["7", "8"]


def test_uuids_and_categories_are_ids():
    key = uuid.UUID(int=5)
    assert id_array([key]).to_pylist() == [str(key)]
    assert id_array(pd.Series(["x", "y", "x"], dtype="category")).to_pylist() == ["x", "y", "x"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array(["x", None]), "1 null ids of 2"),
        (pd.Series([1.0, np.nan]), "1 null ids of 2"),
        ([1.5], "fractions"),
        ([True], "type bool"),
        ("abc", "is one str, but a sequence"),
        ([b"\xff"], "type binary"),
        (["x", float("nan")], "1 null ids of 2"),
        (np.array(["x", np.nan], dtype=object), "1 null ids of 2"),
        ([uuid.UUID(int=1), pd.NA, 7], "1 null ids of 3"),
    ],
)
def test_bad_ids_are_refused(values, said):
    with pytest.raises(InputError, match=said):
        id_array(values)


@pytest.mark.parametrize(("factor", "unit"), [(1, "s"), (1000, "ms"), (10**6, "us"), (10**9, "ns")])
def test_epochs_of_any_unit(factor, unit):
    seconds = np.array([10**9, 1.6 * 10**9]).astype(np.int64)
    times_us, form = read_times(seconds * factor)
    assert times_us.tolist() == (seconds * 10**6).tolist() == to_us((seconds * factor).astype(float)).tolist()
    assert form == f"epochs in {unit}"
    assert to_us([1577836800123456789]).tolist() == [1577836800123456]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("2019-10-01T02:00:00+02:00", "datetimes with a time zone"),
        ("2019-10-01 00:00:00 UTC", "datetimes with a time zone"),
        ("2019-10-01 00:00:00", "datetimes without a time zone"),
        ("2019-10-01", "datetimes without a time zone"),
    ],
)
def test_texts_are_times_and_their_form_is_told(text, form):
    us, said = read_times([text])
    assert (us.tolist(), said) == ([1_569_888_000 * 10**6], form)


def test_datetimes_with_a_zone_and_dates():
    zoned = pd.Series([pd.Timestamp("2020-01-02 04:04:05.000678", tz="Europe/Berlin")])
    assert to_us(zoned).tolist() == [US]
    assert to_us(pl.Series([NAIVE]).dt.replace_time_zone("UTC")).tolist() == [US]
    assert to_us([date(1970, 1, 2)]).tolist() == [86_400 * 10**6]


def test_naive_datetimes_are_utc_and_said():
    with pytest.warns(LLMFeatWarning, match="no time zone: taken as UTC"):
        assert to_us(pd.Series([NAIVE])).tolist() == [US]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array([10**9, None]), "1 null times of 2"),
        (pa.array([1e9, np.nan]), "1 null times of 2"),
        ([-1577836800123456789], "no epoch in s, ms, us or ns"),
        ([5, 6], "no epoch in s, ms, us or ns"),
        ([10**9, 10**12], "no epoch in s, ms, us or ns"),
        (["the first of May"], "no ISO 8601 times"),
    ],
)
def test_bad_times_are_refused(values, said):
    with pytest.raises(TimestampError, match=said):
        to_us(values)


def test_columns_are_named_in_errors(events):
    with pytest.raises(MissingColumnError, match=r"the log has the columns .*'label'.* but \['when'\] is needed"):
        time_column(events, "when", what="the log")
    with pytest.raises(InputError, match=r"is a list, but a data frame was expected"):
        to_frame([1], what="the log")
    with pytest.raises(InputError, match="1 null labels of 2"):
        label_column(pa.table({"y": [1.0, None]}), "y", what="the log")
    with pytest.raises(InputError, match="mixes types"):
        id_column(pd.DataFrame({"user_id": [1, "b"]}), "user_id", what="the log")
    with pytest.raises(InputError, match="labels are numbers"):
        label_column(pa.table({"y": ["good"]}), "y", what="the log")
    assert id_column(events.to_pandas(), "user_id", what="x").to_pylist()[:2] == ["u1", "u1"]


def test_id_index_is_the_same_for_one_and_for_many():
    index = IdIndex(pa.array([f"i{n}" for n in range(100)]))
    many = pa.array([f"i{n}" for n in range(50, 150)])
    expected = [n if n < 100 else -1 for n in range(50, 150)]
    assert index.positions(many).tolist() == expected
    assert [int(index.positions(many.slice(at, 1))[0]) for at in range(100)] == expected


def test_missing_extra_names_its_install_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lightgbm", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'llmfeat\[lightgbm\]'"):
        import_optional("lightgbm", purpose="the ranker")
    said = str(missing_dependency("torch_rechub", purpose="RechubData"))
    assert said == "RechubData needs 'torch_rechub', which is not installed: pip install torch-rechub"


def test_atomic_write_keeps_the_old_file_when_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "x"
    atomic_write(path, b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_source_digest_is_of_the_sources():
    import llmfeat.text

    assert source_sha256(llmfeat.text) == source_sha256(llmfeat.text) != source_sha256(__import__("llmfeat.rank").rank)


class TestPinnedWheel:
    @pytest.fixture
    def wheel(self, tmp_path, monkeypatch):
        path = tmp_path / "pkg-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("pkg/data/words.txt", "heat alien")
            archive.writestr("pkg/data/deep/more.txt", "casino")
            archive.writestr("pkg/__init__.py", "")
        calls = []

        def download(self, folder):
            calls.append(folder)
            (folder / path.name).write_bytes(path.read_bytes())

        monkeypatch.setattr(wheels.PinnedWheel, "_download", download)
        return wheels.PinnedWheel("pkg==1.0", file_sha256(path)), calls

    def test_fetched_once_and_read(self, wheel):
        pinned, calls = wheel
        assert pinned.read("pkg/data/words.txt") == b"heat alien"
        folder = pinned.extract("pkg/data/")
        assert (folder / "deep" / "more.txt").read_text() == "casino"
        assert len(calls) == 1

    def test_a_damaged_copy_is_fetched_again(self, wheel):
        pinned, calls = wheel
        path = pinned.fetch()
        path.write_bytes(b"torn")
        assert pinned.read("pkg/data/words.txt") == b"heat alien"
        assert len(calls) == 2

    def test_another_file_is_refused(self, wheel):
        assert wheel
        with pytest.raises(DownloadError, match="but 00 was expected"):
            wheels.PinnedWheel("pkg==1.0", "00").fetch()


def test_pip_that_fails_is_an_error_that_says_so(tmp_path):
    with pytest.raises(DownloadError, match="ended with status 1: check the network"):
        wheels.PinnedWheel("llmfeat-no-such-package==0", "00")._download(tmp_path / "--no-index")
