from __future__ import annotations

import datetime
import math
import re

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmfeat.errors import InputError, MissingColumnError, TemplateError
from llmfeat.text import ItemTemplate, _join

COLUMNS = {"title": ["Heat", None, "  ", "A\n B"], "year": [1995, 1990, None, 2001]}


def first_words(texts, n_tokens):
    """A tokenizer's truncate, of words."""
    return [" ".join(text.split()[:n_tokens]) for text in texts]


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, pa.table])
def test_renders_any_frame_alike(frame):
    template = ItemTemplate("{title}[ ({year})]")
    assert template.render(frame(COLUMNS)) == ["Heat (1995)", None, None, "A B (2001)"]


def test_lists_and_doubled_brackets():
    table = pa.table({"t": ["x"], "g": [["drama", None, "war"]]})
    assert ItemTemplate("{{{t}}} [[{g}]]").render(table) == ["{x} [drama, war]"]


def test_an_item_of_which_nothing_is_left_has_no_text():
    assert ItemTemplate("[{title}]").render(
        pa.table({"title": [None, ""]}).cast(pa.schema([("title", pa.string())]))
    ) == [None, None]


def test_sections_without_a_field_stay():
    assert ItemTemplate("[a][]{t}[ b]").render(pa.table({"t": ["x"]})) == ["ax b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (5, "template=5, but a str"),
        ("plain", "names no field"),
        ("{title} [x", "'\\[' without its '\\]'"),
        ("{title} x]", "'\\]' without its '\\['"),
        ("{title} [a [b]]", "section within a section|without its"),
        ("{}", "without a name"),
        ("{ :5}", "without a name"),
        ("{title} }", "a lone"),
        ("{title:0}", "'title' to 0 tokens, but 1 to 999999999"),
        (f"{{title:{'9' * 5000}}}", "to 9999999999 tokens"),
        ("{title:5} {title:6}", "'title' to 5 tokens and to 6 tokens"),
        ("{title} {title:6}", "'title' to no tokens and to 6 tokens"),
    ],
)
def test_bad_templates_say_what_is_wrong(text, said):
    with pytest.raises(TemplateError, match=said):
        ItemTemplate(text)


def test_a_missing_column_is_named():
    with pytest.raises(MissingColumnError, match=r"\['genres'\] is needed"):
        ItemTemplate("{title} {genres}").render(pa.table(COLUMNS))


@pytest.mark.parametrize(
    "kind",
    [
        pa.binary(),
        pa.large_binary(),
        pa.binary(1),
        pa.struct([("a", pa.string())]),
        pa.map_(pa.string(), pa.string()),
        pa.list_(pa.binary()),
        pa.list_(pa.struct([("a", pa.string())])),
        pa.dictionary(pa.int32(), pa.binary()),
    ],
    ids=str,
)
def test_columns_that_are_no_text_are_refused_by_name(kind):
    with pytest.raises(InputError, match=f"'x' of the item catalogue is of type {re.escape(str(kind))}"):
        ItemTemplate("{x}").render(pa.table({"x": pa.nulls(1, kind)}))


class TestFingerprint:
    def test_is_of_the_template(self):
        assert ItemTemplate("{a}").fingerprint == ItemTemplate("{a}").fingerprint != ItemTemplate("{b}").fingerprint

    def test_knows_limits(self):
        assert len({ItemTemplate(text).fingerprint for text in ("{a}", "{a:5}", "{a:6}")}) == 3

    def test_is_the_one_of_tables_that_were_written_before(self):
        assert (
            ItemTemplate("{title}[ ({year})]").fingerprint
            == "1cad0faa109950e0e960bdf07f38692cccff835754fe703939bb6ad8362ee60b"
        )


ODD_SPACES = [chr(code) for code in range(0x10000) if chr(code).isspace()]
TEXTS = st.text(st.sampled_from([*ODD_SPACES, *"   aé{}[]1,😀"]), max_size=6)
DAYS = st.dates(datetime.date(1900, 1, 1), datetime.date(2100, 1, 1))
COLUMN_KINDS = [
    (TEXTS, pa.string()),
    (TEXTS, pa.large_string()),
    (TEXTS, pa.dictionary(pa.int32(), pa.string())),
    (st.integers(-(2**63), 2**63 - 1), pa.int64()),
    (st.integers(0, 2**64 - 1), pa.uint64()),
    (st.floats() | st.integers(-9, 9).map(float), pa.float64()),
    (st.booleans(), pa.bool_()),
    (DAYS, pa.date32()),
    (st.decimals(-9, 9, places=2), pa.decimal128(5, 2)),
    (st.lists(st.none() | TEXTS, max_size=3), pa.list_(pa.string())),
    (st.lists(st.none() | st.floats(), max_size=3), pa.list_(pa.float64())),
    (st.none(), pa.null()),
]
PIECES = st.tuples(st.just(True), st.sampled_from("ab")) | st.tuples(
    st.just(False), st.text(" \n\u2003é{}(", max_size=3)
)
SECTIONS = st.lists(st.tuples(st.booleans(), st.lists(PIECES, max_size=3)), min_size=1, max_size=4)


@st.composite
def tables(draw):
    n_rows = draw(st.integers(0, 6))
    columns = {}
    for name in "ab":
        values, kind = draw(st.sampled_from(COLUMN_KINDS))
        columns[name] = pa.array(draw(st.lists(st.none() | values, min_size=n_rows, max_size=n_rows)), kind)
    return pa.table(columns)


def template_of(sections):
    text = ""
    for optional, pieces in sections:
        inner = "".join(
            f"{{{piece}}}" if is_field else piece.replace("{", "{{").replace("}", "}}") for is_field, piece in pieces
        )
        text += f"[{inner}]" if optional else inner
    return text


def expected_cell(value):
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, list):
        return ", ".join(part for part in map(expected_cell, value) if part is not None) or None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip() or None


def expected_text(sections, row):
    text = ""
    for optional, pieces in sections:
        filled = [expected_cell(row[piece]) if is_field else piece for is_field, piece in pieces]
        if None not in filled:
            text += "".join(filled)
        elif not optional:
            return None
    return re.sub(r"\s+", " ", text).strip() or None


class TestColumnByColumn:
    @given(tables(), SECTIONS)
    @settings(max_examples=300, deadline=None)
    def test_is_what_row_by_row_gives(self, table, sections):
        assume(any(is_field for _, pieces in sections for is_field, _ in pieces))
        expected = [expected_text(sections, row) for row in table.to_pylist()]
        assert ItemTemplate(template_of(sections)).render(table) == expected

    def test_white_space_is_what_python_takes_for_it(self):
        signs = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
        table = pa.table({"x": [f"{sign}a{sign}{sign}b{sign}c" for sign in signs]})
        expected = [re.sub(r"\s+", " ", text).strip() for text in table.column("x").to_pylist()]
        assert ItemTemplate("{x}").render(table) == expected

    @pytest.mark.parametrize(("name", "pattern"), [("_RUN", r"\s+"), ("_UNEVEN", r"\s\s")])
    def test_a_double_with_the_white_space_of_ascii_fails_that_check(self, name, pattern, monkeypatch):
        monkeypatch.setattr(_join, name, pattern)
        with pytest.raises(AssertionError):
            self.test_white_space_is_what_python_takes_for_it()

    def test_a_slice_of_a_dictionary_column_has_its_own_rows(self):
        table = pa.table({"x": pa.array(["a", None, " b "]).dictionary_encode()}).slice(1)
        assert ItemTemplate("{x}").render(table) == [None, "b"]

    def test_views_of_strings_are_strings(self):
        assert ItemTemplate("{x}").render(pa.table({"x": pa.array([" a", None], pa.string_view())})) == ["a", None]

    def test_is_an_arrow_array_of_strings(self):
        texts = ItemTemplate("{title}").render_arrow(pa.table(COLUMNS))
        assert texts.equals(pa.array(["Heat", None, None, "A B"], pa.string()))

    def test_is_a_large_one_where_32_bit_offsets_do_not_reach(self, monkeypatch):
        monkeypatch.setattr(_join, "_MAX_STRING_BYTES", 10)
        texts = ItemTemplate("{title}").render_arrow(pa.table(COLUMNS))
        assert texts.equals(pa.array(["Heat", None, None, "A B"], pa.large_string()))


class TestLimits:
    @pytest.mark.parametrize(
        ("text", "fields", "limits"),
        [
            ("{a}", ("a",), {}),
            ("{ a:5 }[ {b:60}]", ("a", "b"), {"a": 5, "b": 60}),
            ("{a:5} {a:5}", ("a",), {"a": 5}),
            ("{16:9 cut}", ("16:9 cut",), {}),
            ("{cut 16:9:64}", ("cut 16:9",), {"cut 16:9": 64}),
            ("{a:٣}", ("a:٣",), {}),
            ("{a:-1}", ("a:-1",), {}),
        ],
    )
    def test_are_digits_after_the_last_colon(self, text, fields, limits):
        template = ItemTemplate(text)
        assert template.fields == fields
        assert template.limits == limits

    def test_a_long_description_never_pushes_the_title_out(self):
        table = pa.table({"title": ["Heat"], "description": ["cops and robbers " * 50]})
        texts = ItemTemplate("{description:5}. {title}").render(table, truncate=first_words)
        assert first_words(texts, 8) == ["cops and robbers cops and. Heat"]

    def test_each_field_has_its_own(self):
        table = pa.table({"a": ["one two three"], "b": ["one two three"], "c": ["one two three"]})
        texts = ItemTemplate("{a:1}/{b:2}/{c}").render(table, truncate=first_words)
        assert texts == ["one/one two/one two three"]

    @pytest.mark.parametrize("kind", [pa.string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
    def test_truncate_is_called_once_on_distinct_texts_that_may_be_longer(self, kind):
        calls = []

        def truncate(texts, n_tokens):
            calls.append((texts, n_tokens))
            return first_words(texts, n_tokens)

        column = pa.array(["one two three four", None, "ab", " one two three four", "", "x y z w"], kind)
        texts = ItemTemplate("{a:3}").render(pa.table({"a": column}), truncate=truncate)
        assert calls == [(["one two three four", "x y z w"], 3)]
        assert texts == ["one two three", None, "ab", "one two three", None, "x y z"]

    def test_truncate_is_not_called_when_nothing_may_be_longer(self):
        table = pa.table({"a": ["one two", None]})
        assert ItemTemplate("{a:99}").render(table, truncate=lambda *_: pytest.fail("called")) == ["one two", None]

    # A byte of an emoji can be a token, and so can what some tokenizers put before a text.
    @pytest.mark.parametrize("text", ["😀", "abc"])
    def test_a_text_may_have_more_tokens_than_characters(self, text):
        table = pa.table({"a": [text]})
        assert ItemTemplate("{a:3}").render(table, truncate=lambda texts, _: ["cut" for _ in texts]) == ["cut"]

    def test_white_space_that_is_not_rendered_is_no_token(self):
        table = pa.table({"a": ["one \n\n two three"]})

        def words_and_spaces(texts, n_tokens):
            return ["".join(re.findall(r"\S+|\s", text)[:n_tokens]) for text in texts]

        assert ItemTemplate("{a:3}").render(table, truncate=words_and_spaces) == ["one two"]

    def test_a_field_of_which_nothing_is_left_is_missing(self):
        table = pa.table({"t": ["Heat"], "a": ["long enough"]})
        assert ItemTemplate("{t}[: {a:2}]").render(table, truncate=lambda texts, _: [" " for _ in texts]) == ["Heat"]

    @pytest.mark.parametrize("title", ["short", "a title of very many words"])
    def test_without_truncate_are_refused_whatever_the_data(self, title):
        with pytest.raises(TemplateError, match=r"limits \['title'\] in tokens, but no truncate= was passed"):
            ItemTemplate("{title:9}").render(pa.table({"title": [title]}))

    @pytest.mark.parametrize(("returned", "said"), [([], "0 values, 0 of them texts"), ([None], "1 values, 0 of them")])
    def test_a_truncate_that_loses_texts_is_refused(self, returned, said):
        with pytest.raises(TemplateError, match=f"{said}.* for 1 texts"):
            ItemTemplate("{a:1}").render(pa.table({"a": ["one two"]}), truncate=lambda *_: returned)


class TestOfColumns:
    @pytest.mark.parametrize(
        ("columns", "text"),
        [(["title"], "{title}"), (("title", "a b", "x.y"), "{title}[. {a b}][. {x.y}]")],
    )
    def test_the_first_is_required_and_the_others_are_optional(self, columns, text):
        assert ItemTemplate.of_columns(columns) == ItemTemplate(text)

    @pytest.mark.parametrize("columns", [[], "title", ["a", "a"]])
    def test_takes_a_list_of_distinct_columns(self, columns):
        with pytest.raises(TemplateError, match="a list of one or more distinct columns"):
            ItemTemplate.of_columns(columns)

    @pytest.mark.parametrize("name", ["{a}", "a}", "[a", "a]", "a:5", " a", "", 5])
    def test_a_name_that_means_something_in_templates_is_refused(self, name):
        with pytest.raises(TemplateError, match="write the template"):
            ItemTemplate.of_columns(["title", name])


class TestFromFile:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "templates.toml"

    def test_reads_its_table(self, path):
        path.write_text('[item]\ntemplate = "{title}[ ({year})]"\n[history]\nmax_items = 5\n')
        assert ItemTemplate.from_file(path) == ItemTemplate("{title}[ ({year})]")

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("", r"no table \[item\]"),
            ("[history]", r"no table \[item\]"),
            ("item = 5", r"no table \[item\]"),
            ("[item]", r"lacks \['template'\]"),
            ("[item]\ntemplate = 5", "template=5, but a str"),
            ("[item]\ntemplate = 'plain'", "names no field"),
            ("[item]\ntemplate = '{a}'\nlimit = 5", r"the keys \['limit'\], but only \['template'\]"),
            (
                "[item]\ntemplate = '{a}'\n[items]",
                r"has \['items'\], but the tables \[item\], \[history\] and \[prompt\]",
            ),
            ("template = '{a}'", r"has \['template'\], but the tables"),
            ("[item", "is no TOML"),
            ("[item]\nx = " + "[" * 10_000, "is no TOML"),
            (b"[item]\ntemplate = '\xff'", "is no TOML"),
        ],
    )
    def test_a_bad_file_is_named_with_what_is_wrong(self, path, content, said):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(TemplateError, match=f"templates.toml.*{said}"):
            ItemTemplate.from_file(path)

    def test_a_missing_file_is_named(self, path):
        with pytest.raises(TemplateError, match=r"templates\.toml cannot be read \(No such file"):
            ItemTemplate.from_file(path)


HARMLESS = ["x.__class__", "0", "x!r", "x:>10", "().__class__.__bases__", "7*7", "x|upper", "%s", "$HOME"]


@pytest.mark.parametrize("name", HARMLESS)
def test_whatever_stands_in_braces_is_the_name_of_a_column(name, tmp_path):
    (tmp_path / "t.toml").write_text(f'[item]\ntemplate = "{{{name}}}"')
    template = ItemTemplate.from_file(tmp_path / "t.toml")
    assert template.render(pa.table({name: ["cell"], "x": ["other"]})) == ["cell"]


@pytest.mark.parametrize("cell", ["{x.__class__}", "{0}", "[{x}]", "{{x}}", r"\1 \0", "%s"])
def test_what_stands_in_a_cell_is_text(cell):
    assert ItemTemplate("{x}  !").render(pa.table({"x": [cell]})) == [f"{cell} !"]
