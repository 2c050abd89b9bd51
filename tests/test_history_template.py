from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from llmfeat.errors import InputError, TemplateError
from llmfeat.text import HistoryTemplate

WATCHED = ["Heat", None, "Alien", "  ", "Speed"]


def first_words(texts, n_tokens):
    """A tokenizer's truncate, of words."""
    return [" ".join(text.split()[:n_tokens]) for text in texts]


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({}, "Heat; Alien; Speed"),
        ({"separator": " > "}, "Heat > Alien > Speed"),
        ({"separator": "\n"}, "Heat\nAlien\nSpeed"),
        ({"newest_first": True}, "Speed; Alien; Heat"),
        ({"max_items": 2}, "Alien; Speed"),
        ({"max_items": 2, "newest_first": True}, "Speed; Alien"),
        ({"template": "Watched: {items}."}, "Watched: Heat; Alien; Speed."),
        ({"template": "{{a}} [b] {items}{{"}, "{a} [b] Heat; Alien; Speed{"),
        ({"template": "{{items}} { items }"}, "{items} Heat; Alien; Speed"),
    ],
)
def test_renders(parameters, text):
    assert HistoryTemplate(**parameters).render([WATCHED]) == [text]


@pytest.mark.parametrize("history", [[], [None], ["", " \n"]])
def test_a_history_of_which_nothing_is_left_has_no_text(history):
    assert HistoryTemplate("Watched: {items}").render([history, ["Heat"]]) == [None, "Watched: Heat"]


def test_no_histories():
    assert HistoryTemplate().render([]) == []


@pytest.mark.parametrize("text", ["{items}", "{0}", "{x.__class__}", "%s", r"\1"])
def test_an_item_is_text_whatever_it_holds(text):
    assert HistoryTemplate("<{items}>").render([[text]]) == [f"<{text}>"]


class TestItemTokens:
    def test_each_item_is_cut(self):
        template = HistoryTemplate(item_tokens=2)
        assert template.render([["one two three", "four"], ["x y z"]], truncate=first_words) == ["one two; four", "x y"]

    def test_truncate_is_called_once_on_distinct_kept_texts_that_may_be_longer(self):
        calls = []

        def truncate(texts, n_tokens):
            calls.append((texts, n_tokens))
            return first_words(texts, n_tokens)

        histories = [["gone and forgotten", "one two three four", "ab"], ["x y z w", "one two three four"]]
        assert HistoryTemplate(item_tokens=3, max_items=2).render(histories, truncate=truncate) == [
            "one two three; ab",
            "x y z; one two three",
        ]
        assert calls == [(["one two three four", "x y z w"], 3)]

    def test_an_item_of_which_nothing_is_left_is_left_out(self):
        template = HistoryTemplate(item_tokens=2)
        assert template.render([["long", "a"], ["long"]], truncate=lambda texts, _: [" " for _ in texts]) == ["a", None]

    def test_without_truncate_is_refused(self):
        with pytest.raises(TemplateError, match="item_tokens=5 limits items in tokens, but no truncate= was passed"):
            HistoryTemplate(item_tokens=5).render([])


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"template": 5}, "template=5, but a str"),
        ({"template": "Watched"}, r"has \{items\} 0 times, but once"),
        ({"template": "{{items}}"}, r"has \{items\} 0 times, but once"),
        ({"template": "{items} {items}"}, r"has \{items\} 2 times, but once"),
        ({"template": "{items} {user}"}, r"the field 'user', but only \{items\}"),
        ({"template": "{items:5}"}, r"the field 'items:5', but only \{items\}"),
        ({"template": "{items} }"}, "a lone '}'"),
        ({"separator": None}, "separator=None, but a str"),
        ({"max_items": 0}, "max_items=0, but a whole number from 1 on"),
        ({"max_items": True}, "max_items=True"),
        ({"max_items": 2.0}, "max_items=2.0"),
        ({"max_items": None}, "max_items=None"),
        ({"item_tokens": 0}, "item_tokens=0"),
        ({"item_tokens": "5"}, "item_tokens='5'"),
        ({"newest_first": 1}, "newest_first=1, but a bool"),
    ],
)
def test_bad_parameters_say_what_is_wrong(parameters, said):
    with pytest.raises(TemplateError, match=said):
        HistoryTemplate(**parameters)


@pytest.mark.parametrize(
    ("history", "said"),
    [("secret", "history 1 is one str"), (["secret", np.nan], "history 1 has an item of type float")],
)
def test_a_history_that_is_no_sequence_of_texts_is_named_and_not_quoted(history, said):
    with pytest.raises(InputError, match=said) as caught:
        HistoryTemplate().render([["Heat"], history])
    assert "secret" not in str(caught.value)


CHANGED = [
    {"template": "Watched: {items}"},
    {"separator": ", "},
    {"max_items": 5},
    {"item_tokens": 5},
    {"newest_first": True},
]


class TestFingerprint:
    def test_equal_templates_have_one(self):
        assert HistoryTemplate(max_items=5).fingerprint == HistoryTemplate(max_items=5).fingerprint

    @pytest.mark.parametrize("changed", CHANGED)
    def test_knows_every_parameter(self, changed):
        assert HistoryTemplate(**changed).fingerprint != HistoryTemplate().fingerprint

    def test_that_list_is_of_all_parameters(self):
        names = [field.name for field in dataclasses.fields(HistoryTemplate)]
        assert [name for change in CHANGED for name in change] == names


class TestFromFile:
    @pytest.mark.parametrize(
        ("content", "template"),
        [
            ("[history]", HistoryTemplate()),
            (
                "[history]\ntemplate = 'a {items}'\nseparator = '\\'\nmax_items = 2\nitem_tokens = 3\n"
                "newest_first = true\n[item]\ntemplate = '{t}'",
                HistoryTemplate("a {items}", separator="\\", max_items=2, item_tokens=3, newest_first=True),
            ),
        ],
    )
    def test_reads_its_table(self, tmp_path, content, template):
        (tmp_path / "t.toml").write_text(content)
        assert HistoryTemplate.from_file(tmp_path / "t.toml") == template

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("[item]\ntemplate = '{t}'", r"no table \[history\]"),
            ("[history]\nmax = 5", r"the keys \['max'\], but only \['template', 'separator'"),
            ("[history]\nmax_items = '5'", "max_items='5', but a whole number"),
            ("[history]\nseparator = 5", "separator=5, but a str"),
        ],
    )
    def test_a_bad_file_is_named_with_what_is_wrong(self, tmp_path, content, said):
        (tmp_path / "t.toml").write_text(content)
        with pytest.raises(TemplateError, match=f"t.toml.*{said}"):
            HistoryTemplate.from_file(tmp_path / "t.toml")
