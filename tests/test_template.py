from __future__ import annotations

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from llmfeat import ItemTemplate
from llmfeat.errors import InputError, MissingColumnError, TemplateError

COLUMNS = {"title": ["Heat", None, "  ", "A\n B"], "year": [1995, 1990, None, 2001]}


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plain", "names no field"),
        ("{title} [x", "'\\[' without its '\\]'"),
        ("{title} x]", "'\\]' without its '\\['"),
        ("{title} [a [b]]", "section within a section|without its"),
        ("{}", "without a name"),
        ("{title} }", "a lone"),
    ],
)
def test_bad_templates_say_what_is_wrong(text, said):
    with pytest.raises(TemplateError, match=said):
        ItemTemplate(text)


def test_a_missing_column_is_named():
    with pytest.raises(MissingColumnError, match=r"\['genres'\] is needed"):
        ItemTemplate("{title} {genres}").render(pa.table(COLUMNS))


def test_fields_that_are_no_text_are_refused():
    with pytest.raises(InputError, match="type binary"):
        ItemTemplate("{x}").render(pa.table({"x": [b"1"]}))


def test_the_fingerprint_is_of_the_template():
    assert ItemTemplate("{a}").fingerprint == ItemTemplate("{a}").fingerprint != ItemTemplate("{b}").fingerprint
