from __future__ import annotations

import gzip
import html
import uuid
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from llmfeat.errors import DuplicateIdError, EmptyInputError, InputError, MissingColumnError, TimestampError
from llmfeat.evaluate.inputs import BaseFeatures, InputSpec, read_inputs
from llmfeat.evaluate.inputs.cells import whole_ids
from llmfeat.evaluate.inputs.finding import said_share
from llmfeat.evaluate.inputs.histories import read_histories
from llmfeat.evaluate.inputs.html import plain_text, plain_texts
from llmfeat.evaluate.inputs.names import closest_name
from llmfeat.text import ItemTemplate

T = 10**9
ITEMS = pa.table({"item_id": ["a", "b", "c"], "title": ["Heat", "Alien", None], "plot": ["war", None, "casino"]})
LOG = pa.table(
    {
        "user_id": ["u1", "u1", "u2", "u2"],
        "item_id": ["a", "b", "a", "c"],
        "timestamp": [T + 3, T + 1, T + 2, T + 4],
        "label": [1, 0, 0, 1],
        "rating": [5.0, 2.0, 3.0, 4.5],
        "score": [0.9, 0.1, None, 0.4],
        "slate": ["s", "s", None, "t"],
    }
)


def spec(items=ITEMS, log=LOG, **options):
    if not {"label", "rating", "task"} & options.keys():
        options["label"] = "label"
    if "template" not in options:
        options.setdefault("text", ("title",))
    return InputSpec(items, log, **options)


def read(*args, **options):
    return read_inputs(spec(*args, **options))


def with_column(table, name, values):
    """The table, with other values in one column."""
    column = values if isinstance(values, pa.Array) else pa.array(values)
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)


def finding(inputs, code):
    return next(one for one in inputs.findings if one.code == code)


def codes(inputs):
    return {one.code for one in inputs.findings}


class TestSpec:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"label": None}, "neither --label nor --rating .* pass --task next-item"),
            ({"rating": "rating"}, "both --label label and --rating rating .* drop --rating"),
            ({"text": ()}, "neither --text nor --template"),
            ({"template": ItemTemplate("{title}")}, "both --text and --template"),
            ({"text": "title"}, "one string"),
            ({"task": "rank"}, "--task 'rank' came, but click or next-item"),
            ({"like_threshold": float("nan")}, "--like-threshold nan"),
            ({"history_column": "h", "split_column": "s"}, "--history-column h came with --task click"),
            ({"task": "next-item", "history_column": "h"}, "--history-column h came without --split-column"),
            ({"task": "next-item", "baseline_score": "s"}, "--baseline-score s came with .* --base-features"),
            ({"task": "next-item", "group_id": "g"}, "--group-id g came with --task next-item"),
            ({"user_id": "item_id"}, "--user-id and --item-id both name the column 'item_id'"),
            ({"baseline_score": "label"}, "--label and --baseline-score both name"),
            ({"group_id": "label"}, "--group-id label names the column of items or labels"),
        ],
    )
    def test_contradictions_name_the_options(self, options, said):
        with pytest.raises(InputError, match=said):
            InputSpec(ITEMS, LOG, **{"text": ("title",), "label": "label", **options})

    def test_what_is_no_contradiction(self):
        assert InputSpec(ITEMS, LOG, text=["title"], task="next-item").text == ("title",)
        assert InputSpec(ITEMS, LOG, text=["title"], task="next-item", rating="rating").like_threshold == 4
        assert InputSpec(ITEMS, LOG, text=["title"], label="label", group_id="user_id").group_id == "user_id"
        assert spec(text=("title", "plot")).item_template.fields == ("title", "plot")


class TestNames:
    @pytest.mark.parametrize(
        ("option", "wanted", "column"),
        [
            ("--user-id", "user_id", "userId"),
            ("--user-id", "user_id", "UserID"),
            ("--user-id", "user_id", "visitorid"),
            ("--item-id", "item_id", "movieId"),
            ("--item-id", "item_id", "parent_asin"),
            ("--timestamp", "timestamp", "ts"),
            ("--timestamp", "timestamp", "unixReviewTime"),
            ("--rating", "rating", "overall"),
            ("--text", "titel", "title"),
            ("--text", "title", "product_name"),
        ],
    )
    def test_the_closest_name(self, option, wanted, column):
        assert closest_name(wanted, ["other", column, "zzz"], option=option) == column

    def test_unlike_names_are_not_proposed(self):
        assert closest_name("user_id", ["item_id", "x"], option="--user-id") is None

    def test_all_missing_columns_at_once_with_the_options_that_mend_it(self):
        log = LOG.select(["user_id", "item_id", "timestamp", "label"]).rename_columns(["userId", "movieId", "ts", "y"])
        with pytest.raises(MissingColumnError) as error:
            read_inputs(spec(with_column(ITEMS, "movieId", ["a", "b", "c"]), log, label="label", item_id="movie"))
        assert "pass --item-id movieId" in str(error.value)
        with pytest.raises(MissingColumnError) as error:
            read(ITEMS.rename_columns(["movieId", "title", "plot"]), log, item_id="movieId")
        assert "['userId', 'movieId', 'ts', 'y']" in str(error.value)
        assert str(error.value).endswith("pass --user-id userId --timestamp ts --label y")

    def test_the_ids_have_one_name_in_both_files(self):
        with pytest.raises(MissingColumnError, match="as in the interaction log: rename 'asin' to it"):
            read(ITEMS.rename_columns(["asin", "title", "plot"]))
        with pytest.raises(MissingColumnError, match=r"'movieId' is needed, as in the .* rename 'item_id' to it"):
            read(log=LOG.append_column("movieId", LOG["item_id"]).drop_columns("item_id"), item_id="movieId")

    def test_a_text_column_that_is_not_there(self):
        with pytest.raises(MissingColumnError, match=r"'titles' is needed: pass --text title$"):
            read(text=("titles",))
        with pytest.raises(MissingColumnError, match=r"write \{title\} instead of \{titles\} in the template$"):
            read(template=ItemTemplate("{titles}"))
        with pytest.raises(MissingColumnError, match=r"name the column that holds it with --split-column, or add it"):
            read(split_column="fold_number_x")


class TestHtml:
    @pytest.mark.parametrize(
        ("text", "plain"),
        [
            ("AT&amp;T", "AT&T"),
            ("AT&amp;amp;T", "AT&T"),
            ("caf&eacute;&nbsp;&#8364;5 &#x41;", "café €5 A"),
            ("one<br>two<br/>three", "one two three"),
            ("<p class='x'>Very <b>good</b>ness</p><ul><li>a</li><li>b</li></ul>", "Very goodness a b"),
            ("&lt;p&gt;twice&lt;/p&gt;", "twice"),
            ('<a href="x>y" title=z>link</a>', "link"),
            ("a <!-- b --> c<script>var x = 1 < 2;</script>", "a c"),
            ("<STYLE>p {}</STYLE><P>x</P>", "x"),
        ],
    )
    def test_html_becomes_text(self, text, plain):
        assert plain_text(text) == plain

    @pytest.mark.parametrize(
        "text",
        ["a < b", "I <3 it", "a<b and c>d", "x <y and z> w", "AT&T", "R&D; more", "&notable", "<unk> id", "a  b\n c",
         "if a <b and c> d", "&nosuch;", "5 > 3 < 4", "<", "&", "<p title=\"open"],
    )  # fmt: skip
    def test_what_is_no_html_stays(self, text):
        assert plain_text(text) == text

    @settings(max_examples=50, deadline=None)
    @given(st.text("ab &<>;p/3\"'#\n", max_size=20), st.integers(1, 3))
    def test_what_was_escaped_reads_as_if_it_never_was(self, text, times):
        escaped = text
        for _ in range(times):
            escaped = html.escape(escaped)
        plain = plain_text(plain_text(text))
        if plain_text(text) == text and html.unescape(text) == text:
            assert plain_text(escaped).split() == plain.split()

    def test_in_columns_and_counted(self):
        texts = pa.array(["a &amp; b", None, "<br>", "x"], pa.large_string())
        plain, changed = plain_texts(texts)
        assert plain.to_pylist() == ["a & b", None, None, "x"]
        assert changed.tolist() == [True, False, True, False]
        inputs = read(with_column(ITEMS, "title", ["Heat &amp; dust", "Alien", None]))
        assert inputs.items.column("title").to_pylist() == ["Heat & dust", "Alien", None]
        assert (finding(inputs, "html").count, finding(inputs, "html").of) == (1, 3)


class TestCatalogue:
    def test_the_first_of_an_id_is_kept_in_file_order(self):
        items = pa.table({"item_id": ["c", "a", "c", None, "b"], "title": ["1", "2", "3", "4", "5"]})
        inputs = read(items)
        assert inputs.item_ids.to_pylist() == ["c", "a", "b"]
        assert inputs.items.column("title").to_pylist() == ["1", "2", "5"]
        assert (finding(inputs, "duplicate_items").count, finding(inputs, "items_without_id").count) == (1, 1)

    def test_items_that_only_the_log_has_are_kept_without_text(self):
        inputs = read(ITEMS.slice(1, 1))
        assert inputs.item_ids.to_pylist() == ["b", "a", "c"]
        assert inputs.template.render(inputs.items) == ["Alien", None, None]
        assert (finding(inputs, "items_not_in_catalogue").count, finding(inputs, "items_not_in_catalogue").of) == (2, 3)
        assert inputs.item_codes.tolist() == [1, 0, 1, 2]

    def test_no_item_in_common_is_an_error(self):
        with pytest.raises(InputError, match="none of the 3 items of the interaction log, such as 'a'"):
            read(with_column(ITEMS, "item_id", ["007", "008", "009"]))

    def test_texts_of_other_types(self):
        items = with_column(ITEMS, "title", pa.array([["x", "y"], ["<b>z</b>"], None]))
        inputs = read(with_column(items, "year", [1995.0, None, 2001.0]), text=("title", "year"))
        assert inputs.template.render(inputs.items) == ["x, y. 1995", "z", None]

    def test_no_text_at_all_is_an_error_some_is_fine(self):
        with pytest.raises(InputError, match=r"no text in \['title'\] of 3 rows"):
            read(with_column(ITEMS, "title", pa.nulls(3)))
        with pytest.raises(InputError, match="no text in"):
            read(with_column(ITEMS, "title", ["<br>", " ", None]))
        assert read(with_column(ITEMS, "title", pa.nulls(3)), text=("title", "plot")).item_ids.to_pylist()

    def test_mostly_null_ids_and_no_rows(self):
        with pytest.raises(InputError, match="null in 2 of 3"):
            read(with_column(ITEMS, "item_id", ["a", None, None]))
        with pytest.raises(EmptyInputError, match="the item catalogue has 0 rows"):
            read(ITEMS.slice(0, 0))
        with pytest.raises(EmptyInputError, match="the interaction log has 0 rows"):
            read(log=LOG.slice(0, 0))


def write_csv(table, path):
    pa_csv.write_csv(table, path)


def write_tsv_gz(table, path):
    table.to_pandas().to_csv(path, sep="\t", index=False)


def write_jsonl(table, path):
    table.to_pandas().to_json(path, orient="records", lines=True)


def write_folder(table, path):
    path.mkdir()
    pq.write_table(table.slice(0, 2), path / "part-0.parquet")
    pq.write_table(table.slice(2), path / "part-1.parquet")


class TestFiles:
    @pytest.mark.parametrize(
        ("name", "write"),
        [
            ("log.parquet", pq.write_table),
            ("log.csv", write_csv),
            ("log.tsv.gz", write_tsv_gz),
            ("log.jsonl", write_jsonl),
            ("log", write_folder),
        ],
    )
    def test_every_kind_of_file_is_read_alike(self, tmp_path, name, write):
        folder = tmp_path / "my_shop"
        folder.mkdir()
        write(LOG, folder / name)
        items = folder / f"items{''.join((folder / name).suffixes)}"
        write(ITEMS, items)
        expected = read(base_features=LOG.select(["user_id", "item_id", "score"]))
        got = read(items, folder / name, base_features=LOG.select(["user_id", "item_id", "score"]))
        assert got.name == "my_shop"
        assert got.items.equals(expected.items)
        assert got.users.equals(expected.users)
        assert got.row_items.equals(expected.row_items)
        assert got.times_us.tolist() == expected.times_us.tolist() == [(T + s) * 10**6 for s in (3, 1, 2, 4)]
        assert got.labels.tolist() == [1, 0, 0, 1]

    def test_names_of_the_data(self, tmp_path):
        pq.write_table(LOG, tmp_path / "movies.parquet")
        assert read(log=tmp_path / "movies.parquet").name == "movies"
        assert read().name == "data frame"

    @pytest.mark.parametrize("convert", [pa.Table.to_pandas, pl.from_arrow])
    def test_frames_are_read_alike(self, convert):
        got = read(convert(ITEMS), convert(LOG), baseline_score="score", group_id="slate")
        expected = read(baseline_score="score", group_id="slate")
        assert got.items.equals(expected.items)
        assert got.groups.equals(expected.groups)
        np.testing.assert_array_equal(got.baseline_score, expected.baseline_score)
        assert got.findings == expected.findings

    def test_ids_and_histories_of_a_csv_file_keep_their_zeros(self, tmp_path):
        (tmp_path / "items.csv").write_text("item_id,title\n007,Heat\n8,NA\n")
        (tmp_path / "log.csv").write_text("user_id,item_id,split,h\n01,007,train,8\n01,8,test,8 007\n")
        options = {"task": "next-item", "split_column": "split", "history_column": "h"}
        inputs = read(tmp_path / "items.csv", tmp_path / "log.csv", **options)
        assert inputs.users.to_pylist() == ["01", "01"]
        assert inputs.row_items.to_pylist() == inputs.item_ids.to_pylist() == ["007", "8"]
        assert inputs.histories.to_pylist() == [["8"], ["8", "007"]]
        assert inputs.items["title"].to_pylist() == ["Heat", "NA"]

    def test_a_damaged_file_is_not_half_read(self, tmp_path):
        with gzip.open(tmp_path / "log.csv.gz", "wb") as file:
            file.write(b"user_id,item_id,timestamp,label\nu,a,1000000000,1\nu,b\n")
        with pytest.raises(InputError, match=r"row 3 .* has 2 fields"):
            read(log=tmp_path / "log.csv.gz")


class TestIds:
    @pytest.mark.parametrize(
        "ids",
        [[7, 8, 9, 7], [7.0, 8.0, 9.0, 7.0], ["7", "8", "9", "7"], ["7.0", "8.0", "9.0", "7.0"]],
    )
    def test_numbers_and_texts_are_one(self, ids):
        inputs = read(with_column(ITEMS, "item_id", [7, 8, 9]), with_column(LOG, "item_id", ids))
        assert inputs.row_items.to_pylist() == ["7", "8", "9", "7"]
        assert inputs.item_codes.tolist() == [0, 1, 2, 0]

    def test_texts_that_are_not_all_whole_floats_stay(self):
        ids = pa.array(["7.0", "x", None])
        assert whole_ids(ids) == (ids, 0)

    def test_uuids(self):
        keys = [uuid.UUID(int=n) for n in (1, 1, 2, 2)]
        inputs = read(log=pd.DataFrame(LOG.to_pandas()).assign(user_id=keys))
        assert inputs.users.to_pylist() == [str(key) for key in keys]
        assert inputs.user_codes.tolist() == [0, 0, 1, 1]

    def test_fractions_and_bytes_are_no_ids(self):
        with pytest.raises(InputError, match="fractions"):
            read(log=with_column(LOG, "user_id", [1.5, 2, 3, 4]))
        with pytest.raises(InputError, match="type binary"):
            read(log=with_column(LOG, "user_id", [b"1"] * 4))


class TestTimes:
    SECONDS = np.array([3, 1, 2, 4]) + T

    @pytest.mark.parametrize("factor", [1, 10**3, 10**6, 10**9])
    @pytest.mark.parametrize("kind", [int, float, str])
    def test_epochs(self, factor, kind):
        values = [kind(second * factor) for second in self.SECONDS.tolist()]
        inputs = read(log=with_column(LOG, "timestamp", values))
        assert inputs.times_us.tolist() == (self.SECONDS * 10**6).tolist()
        unit = {1: "s", 10**3: "ms", 10**6: "us", 10**9: "ns"}[factor]
        assert f"epochs in {unit}, from 2001-09-09T01:46:41Z" in finding(inputs, "times").what

    def test_datetimes(self):
        naive = [datetime.fromtimestamp(second, UTC).replace(tzinfo=None) for second in self.SECONDS.tolist()]
        inputs = read(log=with_column(LOG, "timestamp", pa.array(naive)))
        assert inputs.times_us.tolist() == (self.SECONDS * 10**6).tolist()
        assert "without a time zone" in finding(inputs, "times").what
        assert finding(inputs, "times").handling == "taken as UTC"
        zoned = pa.array(naive).cast(pa.timestamp("ms", "Europe/Berlin"))
        assert read(log=with_column(LOG, "timestamp", zoned)).times_us.tolist() == inputs.times_us.tolist()
        texts = [f"{moment:%Y-%m-%d %H:%M:%S} UTC" for moment in naive]
        assert read(log=with_column(LOG, "timestamp", texts)).times_us.tolist() == inputs.times_us.tolist()

    def test_what_is_no_time(self):
        with pytest.raises(TimestampError, match="no epoch"):
            read(log=with_column(LOG, "timestamp", [1, 2, 3, 4]))
        with pytest.raises(InputError, match="null in all 4 rows"):
            read(log=with_column(LOG, "timestamp", pa.nulls(4)))


class TestLabels:
    @pytest.mark.parametrize(
        "values",
        [
            [True, False, False, True],
            [1.0, 0.0, 0.0, 1.0],
            ["1", "0", "0", "1"],
            ["True", "false", " 0.0", "TRUE"],
        ],
    )
    def test_spellings(self, values):
        assert read(log=with_column(LOG, "label", values)).labels.tolist() == [1, 0, 0, 1]

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ([5, 2, 3, 4], r"goes from 2 to 5, .* --rating label --like-threshold 4$"),
            ([1, -1, -1, 1], "--rating label --like-threshold 1$"),
            ([1, 1, 1, 1], "is 1 in all 4 rows .* drop it and pass --task next-item$"),
            ([0, 0, 0, 0], "is 0 in all 4 rows .*name another column with --label$"),
            (["view", "buy", "view", "buy"], "texts that are no numbers"),
            ([[1], [0], [0], [1]], "is of type list"),
        ],
    )
    def test_other_values_are_refused_with_the_mend(self, values, said):
        with pytest.raises(InputError, match=said) as error:
            read(log=with_column(LOG, "label", values))
        assert "buy" not in str(error.value)

    def test_ratings(self):
        inputs = read(rating="rating")
        assert inputs.labels.tolist() == [1, 0, 0, 1]
        assert finding(inputs, "likes").what == "2 of 4 (50.0 %) ratings are 4 or more"
        with pytest.raises(InputError, match=r"all under --like-threshold 6.*3 \(75% positive\), 4.5 \(50% positive\)"):
            read(rating="rating", like_threshold=6)
        with pytest.raises(InputError, match="all at or over --like-threshold 1"):
            read(rating="rating", like_threshold=1)
        with pytest.raises(InputError, match="as all are equal, name another column"):
            read(log=with_column(LOG, "rating", [3, 3, 3, 3]), rating="rating")
        many = pa.concat_tables([LOG] * 100).drop_columns("rating")
        with pytest.raises(InputError, match=r"--like-threshold 41 \(90% positive\), .*360 \(10% positive\)"):
            read(log=many.append_column("rating", pa.array(range(1, 401))), rating="rating", like_threshold=999)

    def test_next_item_keeps_the_negatives(self):
        assert read(task="next-item").labels is None
        assert read(task="next-item", rating="rating").labels.tolist() == [1, 0, 0, 1]
        assert read(task="next-item", rating="rating", like_threshold=0).labels.tolist() == [1, 1, 1, 1]
        assert read(log=with_column(LOG, "label", [1] * 4), task="next-item", label="label").labels.tolist() == [1] * 4
        with pytest.raises(InputError, match="but positives were expected"):
            read(log=with_column(LOG, "label", [0] * 4), task="next-item", label="label")


class TestDroppedRows:
    def test_rows_that_lack_something(self):
        log = pa.concat_tables([LOG, LOG]).combine_chunks()
        log = with_column(log, "user_id", [None, "u", "u", "v", "v", "v", "w", "w"])
        log = with_column(log, "label", [1.0, None, 0, 1, 1, 0, 0, 1])
        inputs = read(log=with_column(log, "timestamp", [T, T, T, *[None] * 1, *range(T + 1, T + 5)]))
        assert inputs.file_rows.tolist() == [2, 4, 5, 6, 7]
        dropped = finding(inputs, "null_rows")
        assert (dropped.count, dropped.of, dropped.severity) == (3, 8, "warning")
        assert "--user-id 1, --timestamp 1, --label 1" in dropped.what

    def test_most_rows_are_never_dropped(self):
        with pytest.raises(InputError, match=r"3 of 4 \(75.0 %\) rows .*--user-id 3"):
            read(log=with_column(LOG, "user_id", ["u", None, None, ""]))

    def test_exact_repeats(self):
        log = pa.concat_tables([LOG, LOG.slice(1, 2), LOG.slice(0, 1)])
        log = with_column(log.combine_chunks(), "label", [1, 0, 0, 1, 0, 1, 1])  # the sixth has another label
        inputs = read(log=log)
        assert inputs.file_rows.tolist() == [0, 1, 2, 3, 5]
        assert (finding(inputs, "duplicate_rows").count, finding(inputs, "duplicate_rows").of) == (2, 7)
        slates = with_column(log, "slate", list("abcdefa"))
        assert read(log=slates, group_id="slate").file_rows.tolist() == [0, 1, 2, 3, 4, 5]

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.tuples(*[st.integers(0, 2)] * 4), min_size=2, max_size=30), st.integers(0, 9))
    def test_repeats_against_a_set(self, rows, seed):
        rows = [*rows, (0, 0, 0, 0), (0, 0, 0, 1)]
        users, items, seconds, labels = (np.array(column) for column in zip(*rows, strict=True))
        log = pa.table({"user_id": users, "item_id": items, "timestamp": seconds + T, "label": labels % 2})
        catalogue = pa.table({"item_id": [0, 1, 2], "title": ["x", "y", "z"]})
        known, expected = set(), []
        for at, (user, item, second, label) in enumerate(rows):
            if (key := (user, item, second, label % 2)) not in known:
                known.add(key)
                expected.append(at)
        assert read(catalogue, log).file_rows.tolist() == expected

    def test_groups_and_scores_may_be_missing(self):
        inputs = read(baseline_score="score", group_id="slate")
        assert inputs.groups.to_pylist() == ["s", "s", "no group, row 2", "t"]
        assert np.isnan(inputs.baseline_score).tolist() == [False, False, True, False]
        assert {"null_groups", "null_scores"} <= codes(inputs)

    def test_shares_that_are_not_all_never_read_as_all(self):
        assert said_share(1, 10**6) == "1 of 1,000,000 (under 0.1 %)"
        assert said_share(10**6 - 1, 10**6) == "999,999 of 1,000,000 (over 99.9 %)"


class TestSplits:
    def test_spellings_are_mapped_and_said(self):
        inputs = read(log=with_column(LOG, "split", ["Train", "dev", "test", "train"]), split_column="split")
        assert inputs.split.to_pylist() == ["train", "valid", "test", "train"]
        assert finding(inputs, "split_names").what.endswith("'Train' as 'train', 'dev' as 'valid'")

    @pytest.mark.parametrize("values", [["train", "test", "fold3", "test"], ["train"] * 4, ["test"] * 4, [0, 1, 0, 1]])
    def test_anything_else_is_an_error_with_the_values(self, values):
        with pytest.raises(InputError, match=f"has the values .*{values[-2]}.*--split-column"):
            read(log=with_column(LOG, "split", values), split_column="split")

    def test_rows_without_a_split_are_dropped(self):
        inputs = read(log=with_column(LOG, "split", ["train", None, "test", "train"]), split_column="split")
        assert inputs.file_rows.tolist() == [0, 2, 3]
        assert "--split-column 1" in finding(inputs, "null_rows").what


class TestHistories:
    @pytest.mark.parametrize(
        ("texts", "said"),
        [
            (["['a', 'b']", "['c']", "[]", None], "texts, in brackets, separated by ','"),
            (['["a", "b"]', '["c"]', "[]", ""], "texts, in brackets, separated by ','"),
            (["['a' 'b']", "['c']", "[]", None], "texts, in brackets, separated by white space"),
            (["(a, b)", "c", "()", None], "texts, in brackets, separated by ','"),
            (["a b", "c", "", None], "texts, separated by white space"),
            (["a,b", "c", "", None], "texts, separated by ','"),
            ([" a | b", "c", "", None], "texts, separated by '|'"),
        ],
    )
    def test_texts(self, texts, said):
        lists, form = read_histories(pa.array(texts), "h")
        assert lists.to_pylist() == [["a", "b"], ["c"], [], []]
        assert form == said

    @pytest.mark.parametrize("values", [[[7, 8], [9], [], None], [[7.0, 8.0], [9.0, None], [], None]])
    def test_lists_of_numbers(self, values):
        assert read_histories(pa.array(values), "h")[0].to_pylist() == [["7", "8"], ["9"], [], []]
        assert read_histories(pa.array(["[7, 8]", "[9]", "[]", None]), "h")[0].to_pylist() == [
            ["7", "8"],
            ["9"],
            [],
            [],
        ]

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.lists(st.text("ab'\", |[]", min_size=1, max_size=4).filter(str.strip), max_size=3), min_size=1))
    def test_what_python_printed_is_read_back(self, histories):
        lists, _ = read_histories(pa.array([repr(history) for history in histories]), "h")
        assert lists.to_pylist() == histories

    def test_what_is_no_list(self):
        with pytest.raises(InputError, match="begins or quotes like a list") as error:
            read_histories(pa.array(["['secret', it's]"]), "h")
        assert "secret" not in str(error.value)
        with pytest.raises(InputError, match="is of type int64"):
            read_histories(pa.array([1]), "h")

    def test_rows_with_histories_need_no_time(self):
        log = LOG.select(["user_id", "item_id"])
        log = with_column(log, "split", ["val", "val", "test", "test"])
        log = with_column(log, "history", pa.array([["a"], [], ["b", "zzz"], ["a"]]))
        options = {"task": "next-item", "split_column": "split", "history_column": "history"}
        inputs = read(log=log, **options)
        assert inputs.times_us is None
        assert inputs.histories.to_pylist() == [["a"], [], ["b", "zzz"], ["a"]]
        assert inputs.item_ids.to_pylist() == ["a", "b", "c", "zzz"]
        assert read(log=with_column(log, "timestamp", [T] * 4), **options).times_us.tolist() == [T * 10**6] * 4
        with pytest.raises(MissingColumnError, match="'when' is needed"):
            read(log=log, timestamp="when", **options)
        twice = pa.concat_tables([log, log]).combine_chunks()
        assert read(log=twice, **options).n_rows == 8  # one may buy a thing twice


class FutureFeatures(BaseFeatures):
    """A broken double: it gives a row what became known a moment after it."""

    def columns(self, rows, users, items, times_us):
        return super().columns(rows, users, items, times_us + 1)


def as_of_by_hand(base_rows, users, items, times_us):
    out = []
    for user, item, moment in zip(users, items, times_us, strict=True):
        known = [(us, value) for u, i, us, value in base_rows if (u, i) == (user, item) and us <= moment]
        out.append(max(known)[1] if known else None)
    return out


class TestBaseFeatures:
    @pytest.mark.parametrize("kind", [BaseFeatures, pytest.param(FutureFeatures, marks=pytest.mark.xfail(strict=True))])
    def test_as_of_against_a_loop(self, kind):
        @settings(max_examples=40, deadline=None, database=None, phases=[Phase.explicit, Phase.generate])
        @example([(0, 0, 5)], [(0, 0, 4)])  # chance may miss the double
        @given(
            st.lists(st.tuples(*[st.integers(0, 2)] * 2, st.integers(0, 9)), unique=True, min_size=1, max_size=25),
            st.lists(st.tuples(*[st.integers(0, 3)] * 2, st.integers(0, 9)), min_size=1, max_size=25),
        )
        def check(entries, asked):
            base_rows = [(str(u), str(i), us, float(at)) for at, (u, i, us) in enumerate(entries)]
            users, items, times, values = (list(column) for column in zip(*base_rows, strict=True))
            base = kind(
                ["x"],
                np.array(values, dtype=np.float32)[:, None],
                users=pa.array(users),
                items=pa.array(items),
                times_us=np.array(times),
            )
            users, items, times = (list(column) for column in zip(*asked, strict=True))
            users, items = [str(user) for user in users], [str(item) for item in items]
            got = base.columns(None, pa.array(users), pa.array(items), np.array(times))
            expected = as_of_by_hand(base_rows, users, items, times)
            assert [None if np.isnan(value) else value for value in got[:, 0].tolist()] == expected
            alone = [
                base.columns(None, pa.array([users[at]]), pa.array([items[at]]), np.array([times[at]]))
                for at in range(len(users))
            ]
            np.testing.assert_array_equal(np.concatenate(alone), got)

        check()

    def of_file(self, table, **options):
        inputs = read(base_features=table, **options)
        rows = np.arange(inputs.n_rows)
        return inputs, inputs.base.columns(rows, inputs.users, inputs.row_items, inputs.times_us)

    def test_by_row_counts_rows_of_the_file(self):
        log = with_column(LOG, "user_id", ["u1", None, "u2", "u2"])
        inputs, values = self.of_file(pa.table({"row_id": [3, 1, 0], "x": [30.0, 10.0, 0.0]}), log=log)
        assert inputs.base.key == ("row_id",)
        np.testing.assert_array_equal(values[:, 0], [0, np.nan, 30])
        assert finding(inputs, "base_missing").what.startswith("1 of 3 (33.3 %) rows")
        with pytest.raises(InputError, match=r"\['row_id'\] of the rows did not come"):
            inputs.base.columns(None, inputs.users, inputs.row_items, inputs.times_us)

    def test_by_item_without_a_time_is_a_warning(self):
        inputs, values = self.of_file(pa.table({"item_id": ["a", "b"], "price": [1, 2], "sold": [None, 5.0]}))
        np.testing.assert_array_equal(values, [[1, np.nan], [2, 5], [1, np.nan], [np.nan, np.nan]])
        assert inputs.base.names == ("price", "sold")
        assert finding(inputs, "base_without_time").severity == "warning"
        _, values = self.of_file(pa.table({"item_id": ["a", "a"], "timestamp": [T + 3, T], "x": [2, 1]}))
        np.testing.assert_array_equal(values[:, 0], [2, np.nan, 1, np.nan])

    def test_categories_are_codes_by_frequency(self):
        table = pa.table(
            {
                "user_id": ["u1", "u2", "u3", "u4"],
                "job": ["nurse", "cook", "cook", None],
                "zip": ["012", "9", "9", "7"],
                "age": ["24", None, "31.5", "7"],
                "is_new": [True, False, True, None],
                "since": pa.array([0] * 4, pa.timestamp("us")),
                "label": [1, 0, 1, 0],
            }
        )
        inputs, values = self.of_file(table)
        assert inputs.base.names == ("job", "zip", "age", "is_new")
        np.testing.assert_array_equal(values[[0, 2]], [[1, 1, 24, 1], [0, 0, np.nan, 0]])
        assert finding(inputs, "base_categories").count == 2
        assert "['since']" in finding(inputs, "base_left_out").what
        assert finding(inputs, "base_has_label").severity == "warning"

    @pytest.mark.parametrize(
        ("table", "error", "said"),
        [
            ({"item_id": ["a", "a"], "x": [1, 2]}, DuplicateIdError, r"in 1 of 2 .* or add the time since when"),
            ({"row_id": [0, 0], "x": [1, 2]}, DuplicateIdError, r"repeat the key \['row_id'\]"),
            ({"movieId": ["a"], "x": [1]}, MissingColumnError, "'row_id' .* rename 'movieId' to 'item_id'"),
            ({"zzz": ["a"]}, MissingColumnError, r"some of \['user_id', 'item_id', 'timestamp'\]: add one"),
            ({"row_id": [1, 4], "x": [1, 2]}, InputError, "goes from 1 to 4, .* 0 to 3: subtract 1"),
            ({"row_id": [-1], "x": [1]}, InputError, "goes from -1 to -1"),
            ({"row_id": ["x"], "x": [1]}, InputError, "whole numbers were expected"),
            ({"item_id": ["a"]}, InputError, "none of which is a feature"),
            ({"item_id": [None, None, "a"], "x": [1, 2, 3]}, InputError, "null keys in 2 of 3"),
            ({"item_id": pa.array([], pa.string()), "x": pa.array([], pa.int64())}, EmptyInputError, "0 rows"),
        ],
    )
    def test_files_that_cannot_be_joined(self, table, error, said):
        with pytest.raises(error, match=said):
            read(base_features=pa.table(table))

    def test_what_next_item_needs(self):
        with pytest.raises(InputError, match="ranks items for which the log has no row"):
            read(task="next-item", base_features=pa.table({"row_id": [0], "x": [1]}))
        log = with_column(LOG.select(["user_id", "item_id"]), "split", ["train", "train", "test", "test"])
        log = with_column(log, "h", pa.array([["a"]] * 4))
        with pytest.raises(InputError, match="the interaction log has none to compare them with"):
            read(
                log=log,
                task="next-item",
                split_column="split",
                history_column="h",
                base_features=pa.table({"item_id": ["a"], "timestamp": [T], "x": [1]}),
            )

    def test_no_key(self):
        with pytest.raises(InputError, match="have the key"):
            BaseFeatures(["x"], np.zeros((1, 1), dtype=np.float32))
