"""Vectors that somebody else computed, as a table: what readers and Feast see is what was given."""

from __future__ import annotations

import hashlib
import warnings
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from llmfeat import VectorTable
from llmfeat.encode import WriteSummary, given, write_table, writer
from llmfeat.encode.manifest import Manifest
from llmfeat.encode.parts import read_part
from llmfeat.errors import InputError, LLMFeatWarning, TableWriteError, TimestampError
from llmfeat.store import FeastVectors, init_repo, materialize
from tests.stores import FEAST_WARNINGS, apply

NAMED = hashlib.sha256(b"images v1").hexdigest()
T0 = datetime(2026, 1, 1, tzinfo=UTC)
T0_US = int(T0.timestamp() * 1e6)


def vectors_of(rows, *, fingerprint=NAMED):
    matrix = [[np.nan] * 3 if row is None else row for row in rows.values()]
    return VectorTable.from_arrays(list(rows), matrix, fingerprint=fingerprint)


FIRST = {"a": [1.0, 2.0, 3.0], "b": [0.1, 0.2, 0.3], "none": None}


def same(left, right):
    order = right.ids.to_pylist()
    return sorted(left.ids.to_pylist()) == sorted(order) and left.lookup(order).tobytes() == right.vectors.tobytes()


def test_what_is_read_is_what_was_written(tmp_path):
    given_vectors = vectors_of(FIRST)
    assert write_table(given_vectors, tmp_path, valid_from=T0) == WriteSummary(3, 0, 0, 0, 1, True)
    read = VectorTable.open(tmp_path)
    assert read.fingerprint == NAMED
    assert same(read, given_vectors)


def test_only_what_changed_is_written(tmp_path):
    write_table(vectors_of(FIRST), tmp_path, valid_from=T0)
    n_parts = len(Manifest.read(tmp_path).generation(where=tmp_path).parts)
    assert write_table(vectors_of(FIRST), tmp_path, valid_from=T0) == WriteSummary(0, 0, 3, 0, 1, True)
    assert len(Manifest.read(tmp_path).generation(where=tmp_path).parts) == n_parts
    then = {"a": [1.0, 2.0, 4.0], "none": None, "new": [7.0, 8.0, 9.0]}
    assert write_table(vectors_of(then), tmp_path, valid_from=T0) == WriteSummary(1, 1, 1, 1, 1, True)
    assert same(VectorTable.open(tmp_path), vectors_of(then))
    few = {"b": [5.0, 5.0, 5.0]}
    assert write_table(vectors_of(few), tmp_path, valid_from=T0, delete=False) == WriteSummary(1, 0, 0, 0, 0, True)
    assert same(VectorTable.open(tmp_path), vectors_of({**then, **few}))


def test_times_are_of_all_or_of_each(tmp_path):
    index = lambda: given.TableIndex.read(tmp_path, Manifest.read(tmp_path).generation(where=tmp_path))  # noqa: E731
    write_table(vectors_of(FIRST), tmp_path, valid_from=T0_US)
    assert index().valid_from_us.tolist() == [T0_US] * 3
    each = pa.array([T0_US, T0_US + 5, T0_US + 7], pa.timestamp("us", "UTC"))
    assert write_table(vectors_of(FIRST), tmp_path, valid_from=each).changed == 2
    assert index().valid_from_us.tolist() == [T0_US, T0_US + 5, T0_US + 7]
    with pytest.raises(InputError, match="2 times for 3 ids"):
        write_table(vectors_of(FIRST), tmp_path, valid_from=[T0, T0])
    with pytest.raises(TimestampError):
        write_table(vectors_of(FIRST), tmp_path, valid_from="yesterday")


def test_times_of_any_kind(tmp_path):
    for at, one in enumerate((T0, "2026-01-01T00:00:00Z", T0_US // 1_000_000, np.datetime64("2026-01-01"), T0.date())):
        many = pd.Series([T0] * 3) if at == 0 else pd.DatetimeIndex([T0] * 3) if at == 1 else None
        for time in (one, many) if many is not None else (one,):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LLMFeatWarning)  # of numpy's, which have no zone
                write_table(vectors_of(FIRST), tmp_path / f"{at}", valid_from=time)
            read = Manifest.read(tmp_path / f"{at}").generation(where=tmp_path)
            assert set(given.TableIndex.read(tmp_path / f"{at}", read).valid_from_us.tolist()) == {T0_US}


def joined(folder, times):
    """Return what a join as of each time finds: of the rows known by then the latest, of these the one written last."""
    generation = Manifest.read(folder).generation(where=folder)
    rows = pa.concat_tables([read_part(folder, part) for part in generation.parts]).to_pylist()
    found = []
    for time in times:
        known = {}
        for at, row in enumerate(rows):
            stamp = (int(row["valid_from"].timestamp() * 1e6), at)
            if stamp[0] <= time and stamp >= known.get(row["item_id"], (stamp, None))[0]:
                known[row["item_id"]] = stamp, row["vector"]
        found.append({name: vector for name, (_, vector) in known.items() if vector is not None})
    return found


FAR_US = T0_US + 10 * 365 * 86_400 * 10**6


@pytest.mark.parametrize("seed", range(6))
def test_later_joins_find_what_the_table_says(tmp_path, seed):
    """Whatever is changed, deleted, given again and dated back or ahead."""
    draw = np.random.default_rng(seed)
    for _ in range(8):
        some = {name: draw.integers(0, 3, 3).astype(float) for name in "abcd" if draw.random() < 0.7} or {
            "a": [1.0] * 3
        }
        times = pa.array(T0_US + draw.integers(-3, 3, len(some)) * 10**12, pa.timestamp("us", "UTC"))
        write_table(vectors_of(some), tmp_path, valid_from=times)
        table = VectorTable.open(tmp_path)
        assert same(table, vectors_of(some))
        (later,) = joined(tmp_path, [FAR_US])
        assert later == {
            name: vector.tobytes() for name, vector in zip(table.ids.to_pylist(), table.vectors, strict=True)
        }


def test_what_comes_back_is_known_since_then(tmp_path):
    write_table(vectors_of(FIRST), tmp_path, valid_from=T0)
    write_table(vectors_of({"a": FIRST["a"]}), tmp_path, valid_from=T0)
    write_table(vectors_of(FIRST), tmp_path, valid_from=T0)
    before, later = joined(tmp_path, [T0_US, FAR_US])
    assert before["b"] == later["b"] == vectors_of(FIRST).lookup(["b"])[0].tobytes()
    assert write_table(vectors_of(FIRST), tmp_path, valid_from=T0).deleted == 0


def test_a_few_of_another_fingerprint_take_nobody_s_place(tmp_path):
    write_table(vectors_of(FIRST), tmp_path, valid_from=T0)
    few = VectorTable.from_arrays(["c"], [[1.0, 1.0, 1.0]])
    with pytest.warns(LLMFeatWarning, match="see what they saw before"):
        done = write_table(few, tmp_path, valid_from=T0, delete=False)
    assert not done.current
    assert same(VectorTable.open(tmp_path), vectors_of(FIRST))


@pytest.mark.parametrize(
    ("vectors", "match"),
    [
        ({"a": [1.0]}, "a VectorTable was expected"),
        (VectorTable.from_arrays(["a", "b"], [[1.0, np.nan], [1.0, 2.0]]), r"1 of 2 vectors, such as those of \['a'\]"),
        (VectorTable.from_arrays(["a", "b"], [[1.0, np.inf], [1.0, 2.0]]), "not finite"),
        (VectorTable.from_arrays(["a", "b"], np.full((2, 2), np.nan)), "none of the 2 items"),
        (VectorTable.from_arrays(["a"], [[1.0]], fingerprint=NAMED.upper()), "in lower case"),
    ],
)
def test_vectors_that_are_none(tmp_path, vectors, match):
    with pytest.raises(InputError, match=match):
        write_table(vectors, tmp_path, valid_from=T0)


def test_other_vectors_are_another_generation(tmp_path):
    write_table(vectors_of(FIRST), tmp_path, valid_from=T0)
    other = vectors_of({"a": [9.0, 9.0, 9.0]}, fingerprint=None)
    write_table(other, tmp_path, valid_from=T0)
    assert same(VectorTable.open(tmp_path), other)
    assert same(VectorTable.open(tmp_path, fingerprint=NAMED), vectors_of(FIRST))


def test_a_name_is_no_fingerprint(tmp_path):
    with pytest.raises(InputError, match="64 hex digits"):
        write_table(vectors_of(FIRST, fingerprint="text-embedding-3-small v2"), tmp_path, valid_from=T0)
    write_table(vectors_of(FIRST), tmp_path, valid_from=T0)
    with pytest.raises(InputError, match="another fingerprint="):
        write_table(VectorTable.from_arrays(["a"], [[1.0]], fingerprint=NAMED), tmp_path, valid_from=T0)


def test_large_tables_are_written_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_MOST_ROWS", 7)
    many = VectorTable.from_arrays([f"i{at}" for at in range(50)], np.random.default_rng(0).random((50, 3)))
    write_table(many, tmp_path, valid_from=T0)
    assert len(Manifest.read(tmp_path).generation(where=tmp_path).parts) == 8
    assert same(VectorTable.open(tmp_path), many)


def test_readers_see_a_whole_generation_or_the_old_one(tmp_path, monkeypatch):
    write_table(vectors_of(FIRST), tmp_path, valid_from=T0)
    monkeypatch.setattr(writer, "_MOST_ROWS", 1)
    written = writer.write_part

    def dies(folder, fingerprint, numerics, rows):
        if "c" in rows.column("item_id").to_pylist():
            raise KeyboardInterrupt
        return written(folder, fingerprint, numerics, rows)

    after = vectors_of({"a": [9.0, 9.0, 9.0], "c": [1.0, 1.0, 1.0]}, fingerprint=None)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_part", dies)
        with pytest.raises(KeyboardInterrupt):
            write_table(after, tmp_path, valid_from=T0)
    assert same(VectorTable.open(tmp_path), vectors_of(FIRST))
    assert write_table(after, tmp_path, valid_from=T0) == WriteSummary(1, 0, 1, 0, 0, True)
    assert same(VectorTable.open(tmp_path), after)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TableWriteError):
        write_table(vectors_of(FIRST), tmp_path / "file" / "table", valid_from=T0)


@FEAST_WARNINGS
def test_feast_serves_them(tmp_path):
    table = tmp_path / "table"
    write_table(vectors_of(FIRST), table, valid_from=T0)
    repo = init_repo(tmp_path / "repo", table=table)
    apply(repo)
    materialize(repo)
    ids = ["b", "none", "a", "stranger"]
    online = FeastVectors(repo, fingerprint=NAMED).lookup(ids)
    assert online.tobytes() == vectors_of(FIRST).lookup(ids).tobytes()
