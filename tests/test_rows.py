from __future__ import annotations

import gzip
import itertools
import json
import os
import re
import uuid

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from llmfeat._base.frames import id_array, to_us
from llmfeat._base.rows import delimited, open_rows
from llmfeat.errors import EmptyInputError, InputError, MissingColumnError
from llmfeat.text import ItemTemplate

COLUMNS = ["item_id", "title", "added"]
ROWS = [
    ("007", "Heat", 1_000_000_001),
    ("7", None, 1_000_000_002),
    ("8", "NA", 1_000_000_003),
    ("9", 'Crouching "Tiger",\nHidden\tDragon', 1_000_000_004),
    ("10", "Amélie 😀", 1_000_000_005),
]
FRAMES = ["pandas", "polars", "arrow"]
FILES = ["parquet", "folder", "csv", "csv.gz", "tsv", "jsonl", "jsonl.gz", "ndjson", "ndjson.gz", "json"]


def arrow(rows=ROWS):
    cells = zip(*rows, strict=True) if rows else [[]] * 3
    types = [pa.string(), pa.string(), pa.int64()]
    return pa.table({name: pa.array(c, t) for name, c, t in zip(COLUMNS, cells, types, strict=True)})


def make(kind, folder, rows=ROWS):
    """Return the rows as a frame, or write them and return the path."""
    table, path = arrow(rows), folder / f"items.{kind}"
    if kind in FRAMES:
        return {"pandas": table.to_pandas, "polars": lambda: pl.from_arrow(table), "arrow": lambda: table}[kind]()
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=2)
    elif kind == "folder":
        (path / "deep").mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(0, 3), path / "deep" / "part-1.parquet")
        pq.write_table(table.slice(3), path / "part-2.parquet")
    elif "json" in kind:
        lines = [json.dumps({k: v for k, v in row.items() if v is not None}) + "\n\n" for row in table.to_pylist()]
        write(path, "".join(lines))
    else:
        target = pa.BufferOutputStream()
        pa_csv.write_csv(table, target, pa_csv.WriteOptions(delimiter="\t" if kind == "tsv" else ","))
        write(path, target.getvalue().to_pybytes())
    return path


def write(path, content):
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(data, columns=COLUMNS, *, batch_rows=100, strings=("item_id", "title")):
    batches = list(open_rows(data, strings=strings).batches(columns, batch_rows=batch_rows))
    cells = ([batch.table.column(name).to_pylist() for name in columns] for batch in batches)
    rows = [row for lists in cells for row in zip(*lists, strict=True)]
    return rows, [flag for batch in batches for flag in batch.unreadable.tolist()]


@pytest.mark.parametrize("kind", FRAMES + FILES)
class TestEveryFormat:
    @pytest.mark.parametrize("batch_rows", [1, 2, 100])
    def test_gives_the_same_rows(self, kind, tmp_path, batch_rows):
        assert read(make(kind, tmp_path), batch_rows=batch_rows) == (ROWS, [False] * 5)

    def test_gives_the_columns_that_are_asked_for_in_that_order(self, kind, tmp_path):
        source = open_rows(make(kind, tmp_path))
        assert set(source.columns) == set(COLUMNS)
        (batch,) = source.batches(["added", "item_id", "added"])
        assert batch.table.column_names == ["added", "item_id"]

    def test_fills_all_batches_but_the_last_and_can_be_read_again(self, kind, tmp_path):
        source = open_rows(make(kind, tmp_path))
        for _ in range(2):
            sizes = [(b.table.num_rows, b.unreadable.shape) for b in source.batches(COLUMNS, batch_rows=2)]
            assert sizes == [(2, (2,)), (2, (2,)), (1, (1,))]
        assert source.n_rows in ({5} if kind in [*FRAMES, "parquet", "folder"] else {None})

    def test_two_passes_at_a_time_do_not_meet(self, kind, tmp_path):
        source = open_rows(make(kind, tmp_path))
        pairs = list(zip(source.batches(COLUMNS, batch_rows=1), source.batches(COLUMNS, batch_rows=1), strict=True))
        assert len(pairs) == 5
        assert all(one.table.equals(two.table) for one, two in pairs)

    def test_names_a_missing_column_at_once(self, kind, tmp_path):
        source = open_rows(make(kind, tmp_path))
        with pytest.raises(MissingColumnError, match=r"item catalogue.* has the columns .*'title'.* but \['year'\] is"):
            source.batches(["item_id", "year"])

    def test_gives_nothing_where_there_are_no_rows(self, kind, tmp_path):
        assert list(open_rows(make(kind, tmp_path, rows=[])).batches(COLUMNS)) == []


@pytest.mark.parametrize("kind", FILES)
class TestEveryFile:
    def test_that_changes_between_two_passes_is_refused(self, kind, tmp_path):
        source = open_rows(make(kind, tmp_path))
        assert len(list(source.batches(COLUMNS, batch_rows=1))) == 5
        make(kind, tmp_path, rows=ROWS[:4])
        with pytest.raises(InputError, match=r"changed while it was read.*: run again"):
            next(source.batches(["item_id"]))

    def test_that_changes_under_a_pass_is_refused_at_its_end(self, kind, tmp_path):
        path = make(kind, tmp_path)
        batches = open_rows(path).batches(COLUMNS, batch_rows=1)
        next(batches)
        touched = path / "part-2.parquet" if path.is_dir() else path
        os.utime(touched, ns=(1, 1))
        with pytest.raises(InputError, match="changed while it was read"):
            list(batches)

    def test_that_changes_within_one_tick_of_the_clock_is_told_by_its_size(self, kind, tmp_path):
        path = make(kind, tmp_path)
        file = path / "part-2.parquet" if path.is_dir() else path
        source, changed_ns = open_rows(path), file.stat().st_mtime_ns
        file.write_bytes(file.read_bytes() + b"\n")
        os.utime(file, ns=(changed_ns, changed_ns))
        with pytest.raises(InputError, match="changed while it was read"):
            next(source.batches(["item_id"]))

    def test_that_vanishes_is_refused(self, kind, tmp_path):
        path = make(kind, tmp_path)
        source = open_rows(str(path))
        path.rename(tmp_path / "elsewhere")
        with pytest.raises(InputError, match="changed while it was read"):
            list(source.batches(COLUMNS))

    def test_of_a_template_gives_the_same_texts_at_every_batch_size(self, kind, tmp_path):
        path, template = make(kind, tmp_path), ItemTemplate("{title}[ ({added})]")
        assert texts(path, template, 1) == texts(path, template, 100) == template.render(arrow())


def texts(data, template, batch_rows):
    batches = open_rows(data, strings=template.fields).batches(template.fields, batch_rows=batch_rows)
    return [text for batch in batches for text in template.render(batch.table)]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("nowhere.csv", "'nowhere.csv', but there is no such file or folder: check the path"),
        ([1], "is a list, but a data frame was expected"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "several columns of one name"),
    ],
)
def test_what_is_no_catalogue_is_refused(data, said):
    with pytest.raises(InputError, match=said):
        open_rows(data)


@pytest.mark.parametrize("name", ["items.txt", "items", "items.parquet.gz", "items.gz"])
def test_an_unknown_suffix_names_the_known_ones(tmp_path, name):
    with pytest.raises(InputError, match=r"items.*a name was expected that ends in \.parquet, \.csv, \.tsv, \.jsonl"):
        open_rows(write(tmp_path / name, "item_id\n"))


@pytest.mark.parametrize(("columns", "batch_rows"), [([], 1), (["item_id"], 0)])
def test_a_batch_of_nothing_is_refused(columns, batch_rows):
    with pytest.raises(InputError, match="at least one of each is needed"):
        open_rows(arrow()).batches(columns, batch_rows=batch_rows)


@pytest.mark.parametrize(("name", "put"), [("x.parquet", pq.write_table), ("x.csv", pa_csv.write_csv)])
def test_a_name_that_two_columns_have_is_refused_when_it_is_asked_for(tmp_path, name, put):
    twice = pa.table([pa.array(["1"]), pa.array(["a"]), pa.array(["b"])], names=["item_id", "title", "title"])
    put(twice, tmp_path / name)
    assert read(tmp_path / name, ["item_id"])[0] == [("1",)]
    with pytest.raises(InputError, match=r"several columns named \['title'\]"):
        read(tmp_path / name, ["title"])


class TestCells:
    """Frames of objects and JSON lines: no types that hold for a whole column."""

    @pytest.fixture(params=["pandas", "jsonl"])
    def put(self, request, tmp_path):
        def put(cells):
            if request.param == "pandas":
                return pd.DataFrame({"x": pd.Series(cells, dtype=object)})
            return write(tmp_path / "items.jsonl", "".join(json.dumps({"x": cell}) + "\n" for cell in cells))

        return put

    @pytest.mark.parametrize("batch_rows", [1, 2, 10])
    def test_a_lone_surrogate_is_null_and_marked(self, put, batch_rows):
        rows, unreadable = read(put(["a", "\ud800", None, "b\udfffc", "😀"]), ["x"], batch_rows=batch_rows)
        assert rows == [("a",), (None,), (None,), (None,), ("😀",)]
        assert unreadable == [False, True, False, True, False]

    def test_a_surrogate_leaves_the_type_of_the_others(self, put):
        rows, unreadable = read(put([["a", "b"], ["\ud800"], ["c"]]), ["x"])
        assert rows == [(["a", "b"],), (None,), (["c"],)]
        assert unreadable == [False, True, False]

    def test_a_surrogate_is_found_among_mixed_types(self, put):
        rows, unreadable = read(put([1, "\ud800", "a", [1, "\ud800"], [1, "b"]]), ["x"])
        assert rows == [("1",), (None,), ("a",), (None,), ("1, b",)]
        assert unreadable == [False, True, False, True, False]

    def test_mixed_types_are_texts(self, put):
        cells = [1, "a", None, True, 2.5, float("nan"), 2**70, {"k": 1}]
        expected = ["1", "a", None, "True", "2.5", None, str(2**70), "{'k': 1}"]
        assert [cell for (cell,) in read(put(cells), ["x"])[0]] == expected

    def test_one_type_is_kept(self, put):
        assert read(put([{"k": 1}, None, {"k": 2}]), ["x"])[0] == [({"k": 1},), (None,), ({"k": 2},)]

    def test_a_cell_reads_alike_whatever_its_batch_holds(self, put):
        data, template = put([7.0, "seven", ["a", "b"], 8, [1.0, 2.0], 0.5, None, True]), ItemTemplate("{x}")
        expected = ["7", "seven", "a, b", "8", "1, 2", "0.5", None, "True"]
        assert [texts(data, template, n) for n in (1, 2, 3, 8)] == [expected] * 4

    def test_ids_of_mixed_types_are_one_form(self, put):
        batches = open_rows(put([7.0, 7, "7", "x"])).batches(["x"], batch_rows=3)
        ids = [cell for batch in batches for cell in id_array(batch.table["x"].combine_chunks()).to_pylist()]
        assert ids == ["7", "7", "7", "x"]


@pytest.mark.parametrize("dtype", ["category", "string"])
def test_surrogates_in_other_columns_of_pandas(dtype):
    rows, unreadable = read(pd.DataFrame({"x": pd.Series(["a", "\ud800"], dtype=dtype)}), ["x"])
    assert (rows, unreadable) == ([("a",), (None,)], [False, True])


def test_objects_of_polars_and_uuids_are_read_by_their_texts():
    key = uuid.UUID(int=1 << 100)
    frame = pl.DataFrame({"x": pl.Series([1, key, None], dtype=pl.Object)})
    assert read(frame, ["x"])[0] == [("1",), (str(key),), (None,)]


def test_a_row_is_unreadable_when_one_of_its_cells_is():
    frame = pd.DataFrame({"x": ["a", "\ud800", "c"], "y": ["\ud800", "b", "c"], "z": ["a", "b", "\ud800"]})
    assert read(frame, ["x", "y"]) == ([("a", None), (None, "b"), ("c", "c")], [True, True, False])


class TestParquet:
    def large(self, folder, row_group_rows):
        n_rows = 300_000
        titles = [f"the title of the item with the number {n}" * 4 for n in range(n_rows)]
        table = pa.table({"item_id": np.arange(n_rows), "title": titles, "other": np.arange(n_rows)})
        pq.write_table(table, folder / "items.parquet", row_group_size=row_group_rows, compression="none")
        return folder / "items.parquet", table.nbytes

    @pytest.mark.parametrize("row_group_rows", [300_000, 20_000])
    def test_a_few_batches_of_a_large_file_take_little_memory(self, tmp_path, row_group_rows):
        path, size = self.large(tmp_path, row_group_rows)
        before = pa.total_allocated_bytes()
        batches = open_rows(path).batches(["item_id", "title"], batch_rows=1000)
        held = list(itertools.islice(batches, 3))
        assert [batch.table["item_id"][0].as_py() for batch in held] == [0, 1000, 2000]
        assert pa.total_allocated_bytes() - before < size / 3

    @pytest.mark.parametrize("row_group_rows", [300_000, 20_000])
    def test_memory_does_not_grow_with_the_batches(self, tmp_path, row_group_rows):
        path, _ = self.large(tmp_path, row_group_rows)
        sizes = [pa.total_allocated_bytes() for _ in open_rows(path).batches(["item_id", "title"], batch_rows=1000)]
        assert len(sizes) == 300
        assert max(sizes[20:]) - sizes[10] < 1 << 20

    def test_what_comes_after_the_batches_is_not_read(self, tmp_path):
        path = tmp_path / "items.parquet"
        pq.write_table(pa.table({"x": np.random.default_rng(0).random(20_000)}), path, row_group_size=10_000)
        data = bytearray(path.read_bytes())
        at = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
        data[at : at + 100] = b"\xff" * 100
        path.write_bytes(data)
        batches = open_rows(path).batches(["x"], batch_rows=1000)
        assert sum(next(batches).table.num_rows for _ in range(9)) == 9000
        with pytest.raises(InputError, match=r"items\.parquet cannot be read"):
            list(batches)

    @pytest.mark.parametrize("keep", [0, 3, 200, -1])
    def test_a_torn_file_is_named(self, tmp_path, keep):
        make("folder", tmp_path)
        path = tmp_path / "items.folder" / "part-2.parquet"
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(InputError, match=r"part-2\.parquet cannot be read .* whole parquet file .*: write it anew"):
            open_rows(tmp_path / "items.folder")

    def test_texts_that_are_no_utf8_are_null_and_marked(self, tmp_path):
        offsets, data = pa.py_buffer(np.array([0, 1, 2, 3], np.int32)), pa.py_buffer(b"a\xffc")
        texts = pa.StringArray.from_buffers(3, offsets, data)
        lists = pa.ListArray.from_arrays([0, 1, 2, 3], texts)
        path = tmp_path / "items.parquet"
        pq.write_table(pa.table({"x": texts, "y": lists, "z": texts.dictionary_encode()}), path)
        rows, unreadable = read(path, ["x", "y", "z"])
        assert rows == [("a", ["a"], "a"), (None, None, None), ("c", ["c"], "c")]
        assert unreadable == [False, True, False]

    def test_categories_of_several_parts_are_texts(self, tmp_path):
        for part, cells in enumerate((["a", "b"], ["c", "a"])):
            pq.write_table(pa.table({"x": pa.array(cells).dictionary_encode()}), tmp_path / f"{part}.parquet")
        pq.write_table(pa.table({"x": ["d"]}), tmp_path / "2.parquet")
        (batch,) = open_rows(tmp_path).batches(["x"])
        assert batch.table["x"].type == pa.string()
        assert batch.table["x"].to_pylist() == ["a", "b", "c", "a", "d"]


class TestFolder:
    def parts(self, folder, **tables):
        for name, columns in tables.items():
            pq.write_table(pa.table(columns), folder / f"{name}.parquet")
        return folder

    def test_hidden_files_and_folders_are_left_out(self, tmp_path):
        for name in ("b", "a", "_temporary/x", ".old/x", "sub/_x", "sub/.x", "sub/c"):
            path = tmp_path / f"{name}.parquet"
            path.parent.mkdir(exist_ok=True)
            pq.write_table(pa.table({"x": [name]}), path)
        write(tmp_path / "_SUCCESS", "")
        write(tmp_path / "README.txt", "no rows")
        assert read(tmp_path, ["x"])[0] == [("a",), ("b",), ("sub/c",)]

    def test_a_folder_may_itself_be_hidden(self, tmp_path):
        (tmp_path / "_x").mkdir()
        assert read(self.parts(tmp_path / "_x", a={"x": [1]}), ["x"])[0] == [(1,)]

    def test_without_parquet_files_is_refused(self, tmp_path):
        write(tmp_path / "items.csv", "x\n1\n")
        with pytest.raises(InputError, match="is a folder without a parquet file, but one was expected"):
            open_rows(tmp_path)

    def test_a_column_that_a_file_lacks_is_null_there(self, tmp_path):
        folder = self.parts(tmp_path, a={"x": [1]}, b={"y": ["b"]}, c={"z": [0]})
        assert open_rows(folder).columns == ("x", "y", "z")
        assert read(folder, ["x", "y"])[0] == [(1, None), (None, "b"), (None, None)]

    def test_types_are_promoted_to_the_one_that_holds_all(self, tmp_path):
        folder = self.parts(tmp_path, a={"x": pa.array([None])}, b={"x": [1]}, c={"x": [1.5]})
        batches = list(open_rows(folder).batches(["x"], batch_rows=1))
        assert [batch.table["x"].type for batch in batches] == [pa.float64()] * 3
        assert [batch.table["x"][0].as_py() for batch in batches] == [None, 1.0, 1.5]

    def test_types_that_exclude_each_other_name_the_file(self, tmp_path):
        folder = self.parts(tmp_path, a={"x": [1], "y": [1]}, b={"x": ["1"], "y": [2]})
        with pytest.raises(InputError, match=r"'x' is of type string in .*b\.parquet, but int64 in a file before"):
            read(folder, ["x"])
        assert read(folder, ["y"])[0] == [(1,), (2,)]

    def test_a_new_file_is_a_change(self, tmp_path):
        source = open_rows(self.parts(tmp_path, a={"x": [1]}))
        self.parts(tmp_path, b={"x": [2]})
        with pytest.raises(InputError, match="changed while it was read"):
            list(source.batches(["x"]))


class TestCsv:
    def rows(self, folder, content, columns=("item_id", "title"), **options):
        return read(write(folder / "items.csv", content), columns, **options)[0]

    def test_only_empty_cells_are_null(self, tmp_path):
        rows = self.rows(tmp_path, 'item_id,title\n1,\n2,""\n3,null\n4,NaN\n5, \n')
        assert rows == [("1", None), ("2", None), ("3", "null"), ("4", "NaN"), ("5", " ")]

    def test_columns_that_are_not_strings_are_inferred(self, tmp_path):
        content = "item_id,when\n007,2020-01-02T00:00:00Z\n"
        (batch,) = open_rows(write(tmp_path / "a.csv", content), strings=["item_id"]).batches(["item_id", "when"])
        assert batch.table["item_id"].to_pylist() == ["007"]
        assert to_us(batch.table["when"]).tolist() == [1577923200 * 10**6]

    @pytest.mark.parametrize(
        "content", ["\ufeffitem_id,title\r\n1,a\r\n", '\ufeff"item_id","title"\n1,a', "\n\nitem_id,title\n1,a"]
    )
    def test_byte_order_mark_line_ends_and_empty_lines_are_no_content(self, tmp_path, content):
        assert self.rows(tmp_path, content) == [("1", "a")]

    @pytest.mark.parametrize("content", ["item_id,title", "item_id,title\n", "item_id,title\r\n\r\n"])
    def test_a_header_alone_has_no_rows(self, tmp_path, content):
        assert self.rows(tmp_path, content) == []

    @pytest.mark.parametrize("content", ["", "\n\n", "\ufeff"])
    def test_without_a_header_it_is_empty(self, tmp_path, content):
        with pytest.raises(EmptyInputError, match="is empty, but a line of column names was expected"):
            self.rows(tmp_path, content)

    @pytest.mark.parametrize("row", ["secret", "3,a,secret"])
    def test_a_row_of_another_number_of_fields_is_named(self, tmp_path, row, monkeypatch):
        monkeypatch.setattr(delimited, "_BLOCK_BYTES", 64)
        content = "item_id,title\n" + '1,"a\nb"\n' * 50 + row + "\n4,c\n"
        with pytest.raises(InputError, match=r"items\.csv, row 52 .* has [13] fields, but 2 were expected") as caught:
            self.rows(tmp_path, content, ["item_id"])
        assert_silent(caught)

    @pytest.mark.parametrize("strings", [(), ("item_id", "title")])
    @pytest.mark.parametrize("n_before", [1, 200])
    def test_what_is_no_utf8_is_named_by_its_line(self, tmp_path, strings, n_before, monkeypatch):
        monkeypatch.setattr(delimited, "_BLOCK_BYTES", 256)
        content = b"item_id,title\n" + b"1,a\n" * n_before + b"2,\xffsecret\n"
        with pytest.raises(InputError, match=rf"items\.csv, line {n_before + 2} is no UTF-8.*: convert") as caught:
            self.rows(tmp_path, content, strings=strings)
        assert_silent(caught)

    @pytest.mark.parametrize("content", ["item_id,title\n1,a\n".encode("utf-16"), b"item_id,t\xe9\n1,a\n"])
    def test_another_encoding_is_refused_at_the_header(self, tmp_path, content):
        with pytest.raises(InputError, match=r"items\.csv, line 1 is no UTF-8"):
            open_rows(write(tmp_path / "items.csv", content))

    @pytest.mark.parametrize("first", ["5", ""])
    def test_an_inferred_column_that_changes_its_type_is_named(self, tmp_path, first, monkeypatch):
        monkeypatch.setattr(delimited, "_BLOCK_BYTES", 256)
        content = "item_id,other,added\n" + f"1,x,{first}\n" * 100 + "2,x,secret\n"
        with pytest.raises(InputError, match=r"the column 'added' of .* begins with cells of one type") as caught:
            self.rows(tmp_path, content, ["item_id", "added"])
        assert_silent(caught)

    @pytest.mark.parametrize("n_after", [0, 3, 200_000])
    @pytest.mark.parametrize("columns", [["item_id"], ["item_id", "title"]])
    def test_a_quote_that_is_left_open_does_not_swallow_rows(self, tmp_path, monkeypatch, n_after, columns):
        monkeypatch.setattr(delimited, "_BLOCK_BYTES", 1 << 18)
        content = 'item_id,title\n1,b\n2,"secret' + "\n3,a" * n_after
        with pytest.raises(InputError, match=r"has a quote that is left open, .*: close the quote") as caught:
            self.rows(tmp_path, content, columns)
        assert_silent(caught)

    @pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n", "\n,\n", '\n"",""'])
    def test_rows_at_the_end_are_read_however_it_ends(self, tmp_path, monkeypatch, end):
        for block in range(32, 48):
            monkeypatch.setattr(delimited, "_BLOCK_BYTES", block)
            rows = self.rows(tmp_path, "item_id,title\n1,a\n2,b\n3,\n4," + '"say ""x"""' + end)
            assert rows[:4] == [("1", "a"), ("2", "b"), ("3", None), ("4", 'say "x"')]
            assert rows[4:] == [(None, None)] * ('"' in end or "," in end)

    def test_one_column_is_enough(self, tmp_path):
        assert self.rows(tmp_path, 'item_id\n007\n""\n8', ["item_id"]) == [("007",), (None,), ("8",)]

    def test_a_row_of_ten_megabytes_is_read(self, tmp_path):
        title = "x" * 10_000_000
        assert self.rows(tmp_path, f"item_id,title\n1,a\n2,{title}\n") == [("1", "a"), ("2", title)]

    def test_it_is_read_by_blocks(self, tmp_path, monkeypatch):
        monkeypatch.setattr(delimited, "_BLOCK_BYTES", 1024)
        path = write(tmp_path / "items.csv", "item_id,title\n" + "1,a\n" * 100_000 + "2\n")
        batches = open_rows(path).batches(["item_id"], batch_rows=100)
        assert [next(batches).table.num_rows for _ in range(3)] == [100] * 3
        with pytest.raises(InputError, match="row 100002 "):
            list(batches)


def assert_silent(caught):
    """Neither the message nor what the traceback shows above it may quote a cell."""
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


class TestJsonLines:
    def rows(self, folder, content, columns=("item_id", "title"), **options):
        return read(write(folder / "items.jsonl", content), columns, **options)[0]

    def test_missing_keys_are_null(self, tmp_path):
        content = '{"item_id": 1}\n\n{"title": "a", "item_id": null}\n{}\r\n'
        assert self.rows(tmp_path, content) == [(1, None), (None, "a"), (None, None)]

    def test_a_key_that_comes_late_is_found(self, tmp_path):
        path = write(tmp_path / "items.jsonl", '{"item_id": 1}\n' * 2000 + '{"title": "a"}\n')
        source = open_rows(path)
        assert source.columns == ("item_id",)
        assert sum(batch.table["title"].null_count for batch in source.batches(["title"], batch_rows=64)) == 2000
        with pytest.raises(MissingColumnError, match=r"has the columns \['item_id', 'title'\] but \['year'\]"):
            source.batches(["year"])

    def test_objects_without_keys_lack_every_column(self, tmp_path):
        with pytest.raises(MissingColumnError, match=r"has the columns \[\] but \['item_id'"):
            self.rows(tmp_path, "{}\n{}\n")

    def test_a_byte_order_mark_is_no_content(self, tmp_path):
        assert self.rows(tmp_path, '\ufeff{"item_id": 1, "title": "a"}') == [(1, "a")]

    def test_a_line_of_ten_megabytes_is_read(self, tmp_path):
        title = "x" * 10_000_000
        assert self.rows(tmp_path, json.dumps({"item_id": 1, "title": title})) == [(1, title)]

    @pytest.mark.parametrize(
        "line", ['{"title": "secret"', '"secret"', "secret", "null", '{"a": 1} {"b": 2}', "[" * 99_999]
    )
    @pytest.mark.parametrize("n_before", [1, 2000])
    def test_a_line_that_is_no_object_is_named(self, tmp_path, line, n_before):
        content = '{"item_id": 1}\n\n' * n_before + line + "\n"
        said = rf"items\.jsonl, line {2 * n_before + 1} is (no JSON object|a JSON array), but one object a line"
        with pytest.raises(InputError, match=said) as caught:
            self.rows(tmp_path, content, ["item_id"])
        assert_silent(caught)

    @pytest.mark.parametrize("n_before", [0, 2000])
    def test_what_is_no_utf8_is_named_by_its_line(self, tmp_path, n_before):
        content = b'{"item_id": 1}\n' * n_before + b'{"item_id": "\xed\xa0\x80secret"}\n'
        with pytest.raises(InputError, match=rf"items\.jsonl, line {n_before + 1} is no UTF-8.*: convert") as caught:
            self.rows(tmp_path, content, ["item_id"])
        assert_silent(caught)

    @pytest.mark.parametrize("indent", [None, 2])
    def test_an_array_is_to_be_converted(self, tmp_path, indent):
        path = write(tmp_path / "items.json", json.dumps([{"item_id": 1}], indent=indent))
        with pytest.raises(InputError, match=r"line 1 is a JSON array, .*: convert it to \.jsonl"):
            open_rows(path)

    def test_it_is_read_line_by_line(self, tmp_path):
        path = write(tmp_path / "items.jsonl", '{"item_id": 1}\n' * 2000 + "torn")
        batches = open_rows(path).batches(["item_id"], batch_rows=100)
        assert sum(next(batches).table.num_rows for _ in range(20)) == 2000
        with pytest.raises(InputError, match="line 2001 is no JSON object"):
            next(batches)


@pytest.mark.parametrize("kind", ["csv.gz", "jsonl.gz"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"no gzip at all",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-4],
        lambda data: data[:-8] + bytes(8),
        lambda data: data + data[:10] + b"\xff" * 100,
    ],
    ids=["other", "half", "tail", "checksum", "second member"],
)
def test_a_damaged_gzip_file_is_named(tmp_path, kind, damage):
    path = make(kind, tmp_path, [(str(n), str(n * 7919), n) for n in range(20_000)])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=rf"items\.{re.escape(kind)} cannot be read .*: write it anew"):
        read(path)


def test_what_looks_damaged_since_it_changes_is_said_to_change(tmp_path):
    path = write(tmp_path / "items.jsonl", '{"item_id": 1}\n' * 10_000)
    batches = open_rows(path).batches(["item_id"], batch_rows=10)
    next(batches)
    path.write_text("torn" * 50_000)
    with pytest.raises(InputError, match="changed while it was read"):
        list(batches)


def test_a_suffix_may_be_in_capitals(tmp_path):
    assert read(make("csv.gz", tmp_path).rename(tmp_path / "ITEMS.CSV.GZ"))[0] == ROWS
