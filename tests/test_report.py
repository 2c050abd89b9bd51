from __future__ import annotations

import copy
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeat.errors import InputError
from llmfeat.evaluate.report import ARM_LABELS, render_report
from llmfeat.evaluate.report import page as page_module
from llmfeat.evaluate.report.charts import Axis, Value, difference_chart, ends_of, level_chart, stands, value_of
from llmfeat.evaluate.report.formats import count, interval, level, megabytes, minutes, percent, plain, seconds, signed
from llmfeat.evaluate.report.labels import COMPARISON_LABELS, METRICS, lag_label, metric_of
from llmfeat.evaluate.report.results import adds_of, arms_of, candidates_of, importance_of, popularity_of
from llmfeat.evaluate.report.words import answer_of, rows_words, split_words
from tests.lift_fixtures import ARMS, COMPARISONS, click_lift, next_item_lift, no_lift, underpowered_lift

OPTIONAL = (
    *("by_popularity", "candidates", "checks", "cost", "encoder", "environment", "examples", "importance", "lags"),
    *("method", "preflight", "ranker", "runs", "tuning"),
)
LIFTS = {"click": click_lift, "next-item": next_item_lift, "no": no_lift, "underpowered": underpowered_lift}
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}&amp;"
VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """The elements of a page, its texts, and what is wrong with it."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.seen: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.faults: list[str] = []
        self.feed(page)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self.open]
        self.faults += [f"id {name} twice" for name, times in self.ids.items() if times > 1]
        named = {value for _, name, held in self.attributes if name == "aria-labelledby" for value in held.split()}
        links = {held[1:] for _, name, held in self.attributes if name == "href" and held.startswith("#")}
        self.faults += [f"nothing has the id {name}" for name in (named | links) - set(self.ids)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] += 1
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.faults.append("a script")
        for name, value in attrs:
            self.attributes.append((tag, name, value or ""))
            if name == "id":
                self.ids[value or ""] += 1
            if name.startswith("on"):
                self.faults.append(f"a handler {name}")
            elsewhere = name in ("src", "srcset", "action", "data") or (name == "href" and (value or "")[:1] != "#")
            if elsewhere and value != "data:,":
                self.faults.append(f"fetches {value}")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes something else")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.open and self.open[-1] == "style" and re.search(r"@import|url\(|https?:", data):
            self.faults.append("a style that fetches")

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def classes(self) -> Counter[str]:
        return Counter(word for _, name, held in self.attributes if name == "class" for word in held.split())


def every_text(held: Any) -> Iterator[tuple[Any, Any]]:
    """Every text that a mapping or list holds, as (container, key)."""
    for key, value in held.items() if isinstance(held, dict) else enumerate(held):
        if isinstance(value, str):
            yield held, key
        elif isinstance(value, dict | list):
            yield from every_text(value)


class TestFormats:
    @pytest.mark.parametrize(
        ("value", "text"),
        [(0.00116, "+0.0012"), (-0.00116, "−0.0012"), (0.00003, "+0.00003"), (0.0, "0.0000"), (None, "undefined")],
    )
    def test_a_difference_shows_its_side_of_zero(self, value, text):
        assert signed(value) == text

    def test_undefined_everywhere(self):
        for nothing in (None, float("nan"), float("inf")):
            assert {level(nothing), percent(nothing), signed(nothing), seconds(nothing), minutes(nothing)} == {
                "undefined"
            }
            assert interval([0.1, nothing], change=False) == ""
        assert {count(None), megabytes(None)} == {"undefined"}
        assert interval(None, change=True) == ""

    def test_by_hand(self):
        assert (count(20001), level(0.76814), percent(0.2009), level(0.2009, as_percent=True)) == (
            "20,001",
            "0.7681",
            "20.1 %",
            "20.1 %",
        )
        assert interval([0.7363, 0.77208], change=False) == "[0.7363, 0.7721]"
        assert interval([0.192, 0.216], change=False, as_percent=True) == "[19.2, 21.6 %]"
        assert interval([-0.001, 0.002], change=True) == "[−0.0010, +0.0020]"
        assert [seconds(value) for value in (0.042, 2.2, 59, 171, 7300)] == [
            "0.042 s",
            "2.2 s",
            "59 s",
            "3 min",
            "2.0 h",
        ]
        assert [minutes(value) for value in (30, 90, 2200, 90_000)] == ["0.5 min", "1.5 min", "37 min", "1,500 min"]
        assert [megabytes(value) for value in (512, 2048)] == ["512 MB", "2.0 GB"]
        assert plain({"a": {"b": 1, "c": [True, None]}, "d": 0.25, "e": []}) == "b 1 · c yes, none · d 0.25 · e none"
        assert [lag_label(lag) for lag in ("0", "60", "3600", "5400")] == [
            "at once",
            "60 s late",
            "1 h late",
            "1.5 h late",
        ]


class TestCharts:
    def test_bars_begin_at_their_base(self):
        chart = level_chart("c", "t", [Value("a", 0.75, 0.7, 0.8), Value("b", 0.4)], base=0.5, axis=Axis(0.25, 1.25))
        first, second = chart.bars
        assert (first.fill, first.span, first.text, first.interval) == (
            (25.0, 25.0),
            (45.0, 10.0),
            "0.7500",
            "[0.7000, 0.8000]",
        )
        assert (second.fill, second.span, second.stands) == ((15.0, 10.0), None, None)
        assert first.spoken == "a: 0.7500, interval [0.7000, 0.8000]"
        assert chart.zero is None

    def test_differences_stand_about_zero(self):
        values = [
            Value("a", 0.02, 0.01, 0.03),
            Value("b", 0.0, -0.01, 0.01),
            Value("c", -0.02, -0.03, -0.01, group="g"),
        ]
        chart = difference_chart(
            "c", "t", values, axis=Axis(-0.05, 0.05), marks=[("worth", 0.025, "w"), ("none", None, "")]
        )
        assert chart.zero == 50
        assert [(bar.point, bar.span, bar.stands) for bar in chart.bars] == [
            (70.0, (60.0, 20.0), "above"),
            (50.0, (40.0, 20.0), "open"),
            (30.0, (20.0, 20.0), "below"),
        ]
        assert chart.bars[0].spoken == "a: +0.0200, interval [+0.0100, +0.0300], above zero"
        assert chart.bars[2].spoken.startswith("g, c: −0.0200")
        assert [(mark.kind, mark.at) for mark in chart.marks] == [("worth", 75.0)]
        assert chart.ticks == ((10.0, "−0.04"), (30.0, "−0.02"), (50.0, "0.00"), (70.0, "+0.02"), (90.0, "+0.04"))

    @pytest.mark.parametrize(
        ("ends", "side"),
        [
            ((0.1, 0.2), "above"),
            ((-0.2, -0.1), "below"),
            ((0.0, 0.1), "open"),
            ((-0.1, 0.0), "open"),
            ((None, 0.1), None),
        ],
    )
    def test_an_interval_that_touches_zero_reaches_it(self, ends, side):
        assert stands(*ends) == side

    def test_what_is_undefined_keeps_its_row(self):
        values = [
            value_of("a", None, [None, None]),
            value_of("b", 0.5, None),
            Value("c", float("nan"), 0.1, float("nan")),
        ]
        for draw in (level_chart, difference_chart):
            bars = draw("c", "t", values).bars
            assert [(bar.label, bar.point is None, bar.span) for bar in bars] == [
                ("a", True, None),
                ("b", False, None),
                ("c", True, None),
            ]
            assert [bar.text for bar in bars][::2] == ["undefined", "undefined"]
        assert level_chart("c", "t", []).bars == ()

    @given(st.lists(st.floats(-1e6, 1e6), max_size=6), st.booleans())
    @settings(max_examples=30, deadline=None)
    def test_every_value_has_its_place_in_order(self, numbers, change):
        values = [Value(str(at), number, number - 1, number + 0.5) for at, number in enumerate(numbers)]
        chart = (difference_chart if change else level_chart)("c", "t", values)
        places = [(number, bar.point) for number, bar in zip(numbers, chart.bars, strict=True)]
        assert all(0 <= place <= 100 for _, place in places)
        assert all(one[1] <= other[1] for one, other in itertools.pairwise(sorted(places)))
        for bar in chart.bars:
            assert bar.span[0] - 0.02 <= bar.point <= sum(bar.span) + 0.02
            assert 0 <= bar.span[0] <= sum(bar.span) <= 100.001
        assert 2 <= len(chart.ticks) <= 7
        assert [at for at, _ in chart.ticks] == sorted({at for at, _ in chart.ticks})
        assert len({text for _, text in chart.ticks}) == len(chart.ticks)

    def test_an_axis_of_one_value_has_a_width(self):
        for value in (0.0, 0.5, -3.0, 1e-12, 1e9):
            axis = Axis.over([value])
            assert 0 < axis.place(value) < 100
        assert Axis.over([]).ticks() == [0.0, 0.5, 1.0]

    def test_charts_beside_each_other_have_one_axis(self):
        for charts in (
            arms_of(click_lift())["sliced"],
            popularity_of(click_lift())["charts"],
            importance_of(click_lift())["families"],
        ):
            assert len(charts) > 1
            assert len({chart.ticks for chart in charts}) == 1


class TestAnswer:
    def test_click(self):
        answer = answer_of(click_lift())
        assert answer.title == "Adopt the LLM features"
        assert answer.sentence == (
            "On MovieLens-100K, the right one of two test rows is ranked first in 77.04 of 100 pairs instead of 76.70 "
            "without the LLM features; AUC changes by +0.0034 (95 % interval +0.0016 to +0.0052)."
        )
        assert answer.reading.startswith("AUC: of one positive and one negative test row")
        assert [mark.kind for mark in answer.strip.marks] == ["worth", "found"]
        assert answer.facts[0] == ("20,001", "test rows", "of 301 users")
        assert answer.facts[-1] == ("37 min", "per million items", "to encode, on this machine")

    def test_next_item(self):
        answer = answer_of(next_item_lift())
        assert answer.sentence == (
            "On Office Products, the next item was among the ten best in 20.4 % of cases instead of 19.6 % "
            "without the LLM features; NDCG@10 changes by +0.0054 (95 % interval +0.0036 to +0.0072)."
        )
        assert answer.reading.startswith("NDCG@10 counts")

    def test_no(self):
        answer = answer_of(no_lift())
        assert answer.title == "Do not adopt the LLM features"
        assert "AUC changes by −0.0006 (95 % interval −0.0021 to +0.0008)" in answer.sentence

    def test_underpowered_shows_what_could_be_found_and_no_sign(self):
        lift = underpowered_lift()
        answer = answer_of(lift)
        assert answer.title == "These data cannot tell"
        assert (
            "301 test users are enough to find, four times in five, a gain in AUC of 0.0078 or more" in answer.sentence
        )
        assert "−0.0034 to +0.0077" in answer.sentence
        (bar,) = answer.strip.bars
        assert (bar.point, bar.text) == (None, "cannot tell")
        assert bar.span is not None
        said = " ".join([answer.title, answer.sentence, answer.reading, answer.rule, answer.next_step, bar.spoken])
        assert "0.0021" not in said
        header = re.search(r"<header.*?</header>", render_report(lift), re.S)[0]
        assert "0.0021" not in header
        # The double: the same verdict as a yes does show it.
        lift["verdict"]["adopt"] = "yes"
        assert "+0.0021" in answer_of(lift).sentence

    def test_a_gain_may_be_there_and_too_small(self):
        lift = underpowered_lift()
        assert "not told apart from nothing" in answer_of(lift).sentence
        lift["verdict"] |= {"diff": 0.0008, "ci95": [0.0002, 0.0014]}
        assert "not told apart from too little (95 % interval +0.0002 to +0.0014)" in answer_of(lift).sentence

    def test_the_rule_is_the_same_whatever_the_verdict(self):
        assert len({answer_of(lift()).rule for lift in LIFTS.values()}) == 1
        assert "the gain at least 0.001" in answer_of(click_lift()).rule

    def test_what_is_undefined_is_said(self):
        lift = click_lift()
        lift["verdict"] |= {"diff": None, "ci95": [None, None]}
        lift["arms"]["hybrid"]["all"]["auc"] = None
        assert answer_of(lift).sentence == "On MovieLens-100K, AUC changes by undefined (its interval is undefined)."
        lift["verdict"] |= {"adopt": "underpowered", "minimum_detectable_effect": None}
        assert "too few to find a gain in AUC of any size" in answer_of(lift).sentence

    def test_the_split_and_the_rows(self):
        click, following = click_lift(), next_item_lift()
        assert (
            split_words(click["data"], {})
            == "by time: the test is the last 20.0 % of the rows, from 1998-03-22 21:13:02 UTC on"
        )
        assert split_words({}, {"test_fraction": 0.1}) == "by time: the test is the last 10.0 % of the rows"
        assert split_words({"split": {"by": "column"}}, {}) == "by the column of the data that says so"
        assert "brings its own history" in split_words(following["data"], {})
        assert (
            rows_words(following["data"])
            == "Train: 1,000,000 rows, drawn from 3,482,111; test: 10,000 rows, drawn from 44,871"
        )
        assert rows_words(click["data"]) == "Train: 79,999 rows; test: 20,001 rows"


class TestViews:
    def test_every_arm_and_comparison_is_drawn(self):
        for lift in (click_lift(), next_item_lift()):
            for chart in (*arms_of(lift)["whole"], *arms_of(lift)["sliced"]):
                assert [bar.label for bar in chart.bars] == [ARM_LABELS[arm] for arm in ARMS]
                assert [bar.label for bar in chart.bars if bar.strong] == [ARM_LABELS["llm"], ARM_LABELS["hybrid"]]
            assert [bar.label for bar in adds_of(lift)["compared"].bars] == [
                COMPARISON_LABELS[name] for name in COMPARISONS
            ]
        assert [chart.title for chart in arms_of(next_item_lift())["whole"]] == ["HR@10", "NDCG@10"]
        assert arms_of(next_item_lift())["whole"][0].bars[-1].text == "20.4 %"

    def test_your_own_score_comes_first(self):
        lift = click_lift()
        lift["arms"]["baseline"] = copy.deepcopy(lift["arms"]["popularity"])
        lift["lift"]["hybrid_vs_baseline"] = copy.deepcopy(lift["lift"]["hybrid_vs_no_text"])
        assert arms_of(lift)["whole"][0].bars[0].label == "your own score"
        assert [bar.label for bar in adds_of(lift)["compared"].bars][:2] == [
            "LLM over everything else",
            "everything over your own score",
        ]

    def test_what_is_not_known_keeps_its_name(self):
        lift = click_lift()
        lift["arms"]["two_towers"] = copy.deepcopy(lift["arms"]["llm"])
        lift["lift"]["hybrid_vs_two_towers"] = copy.deepcopy(lift["lift"]["llm_vs_tfidf"])
        assert arms_of(lift)["whole"][0].bars[-1].label == "two_towers"
        assert adds_of(lift)["compared"].bars[-1].label == "hybrid_vs_two_towers"
        assert metric_of("gauc").label == "gauc"
        assert "two_towers" in render_report(lift)

    def test_green_is_above_zero(self):
        lift = click_lift()
        page = Page(render_report(lift))
        drawn = [
            answer_of(lift).strip,
            *(chart for chart in adds_of(lift).values()),
            *popularity_of(lift)["charts"],
        ]
        sides = Counter(bar.stands for chart in drawn for bar in chart.bars)
        assert sides["above"] > 10
        assert sides["open"] > 5
        assert (page.classes["above"], page.classes["below"]) == (sides["above"], sides["below"])
        compared = lift["lift"]
        expected = [compared[name]["all"]["auc"]["ci95"][0] > 0 for name in COMPARISONS]
        assert [bar.stands == "above" for bar in adds_of(lift)["compared"].bars] == expected

    def test_late_events(self):
        chart = adds_of(click_lift())["lags"]
        assert [bar.label for bar in chart.bars[:3]] == [
            "events seen at once",
            "events seen 1 h late",
            "events seen 24 h late",
        ]
        assert chart.bars[0].group == "LLM over everything else"
        assert adds_of(next_item_lift())["lags"] is None

    def test_popularity_begins_with_the_least_known(self):
        chart = popularity_of(click_lift())["charts"][0]
        assert [bar.label for bar in chart.bars][:3] == ["0 events", "1–20 events", "21–48 events"]
        assert popularity_of({**click_lift(), "by_popularity": []}) is None

    def test_families_by_share(self):
        view = importance_of(click_lift())
        assert [(bar.label, bar.text) for bar in view["families"][0].bars] == [
            ("no text", "52.0 %"),
            ("collaborative vectors", "19.0 %"),
            ("LLM", "18.0 %"),
            ("TF-IDF", "11.0 %"),
        ]
        assert len(view["columns"].bars) == 20

    def test_the_two_stages_apart(self):
        view = candidates_of(next_item_lift())
        assert view["recall_text"] == view["recall"].bars[0].text == "47.0 %"
        assert view["given"].bars[-1].text == "43.3 %"
        assert candidates_of(click_lift()) is None

    def test_less_log_loss_is_better(self):
        page = render_report(click_lift())
        (row,) = re.findall(r'<th scope="row">everything over no text</th>.*?</tr>', page, re.S)[:1]
        assert re.findall(r'<td class="(\w+)">([+−]0\.\d+)', row)[-1] == ("better", "−0.0145")
        assert METRICS["logloss"].lower_is_better

    def test_a_difference_of_serving_is_an_alarm(self):
        lift = click_lift()
        assert "Equal, byte for byte" in render_report(lift)
        lift["checks"]["online_equals_offline"] = False
        page = render_report(lift)
        assert "Equal, byte for byte" not in page
        assert "do not serve it" in page

    def test_examples_are_named_personal_data(self):
        lift = next_item_lift()
        page = Page(render_report(lift))
        assert "Personal data." in page.text
        assert "because of Post-it Super Sticky Notes" in page.text
        assert page.classes["hit"] == sum(
            item["is_target"]
            for user in lift["examples"]
            for side in ("without_text", "with_text")
            for item in user[side]
        )
        lift["examples"] = None
        assert "Personal data" not in render_report(lift)

    def test_the_ranker_of_the_demo(self):
        gain = {"user_auc": {"diff": 0.0099, "ci95": [0.0038, 0.0173]}}
        page = Page(render_report({**click_lift(), "ranker": {"model": "LGBMRanker", "llm_vs_no_text": gain}}))
        assert "LGBMRanker" in page.text
        assert page.ids["chart-ranker"] == 1
        assert page.faults == []


class TestPage:
    @pytest.mark.parametrize("name", LIFTS)
    def test_it_is_whole_and_needs_nothing_else(self, name):
        page = Page(render_report(LIFTS[name]()))
        assert page.faults == []
        assert page.seen["h1"] == 1
        assert page.seen["figure"] == page.classes["chart"] > 10
        assert not re.search(r"\b(None|nan|inf)\b", page.text)

    @pytest.mark.parametrize(
        ("broken", "fault"),
        [
            ('<img src="https://example.org/a.png">', "fetches https://example.org/a.png"),
            ('<a href="https://example.org">x</a>', "fetches https://example.org"),
            ("<style>@import 'a.css';</style>", "a style that fetches"),
            ("<script>1</script>", "a script"),
            ('<p onclick="x()">x</p>', "a handler onclick"),
            ('<p id="answer">x</p>', "id answer twice"),
            ('<a href="#nowhere">x</a>', "nothing has the id nowhere"),
            ("</p>", "</p> closes something else"),
        ],
    )
    def test_a_broken_double_fails_that_check(self, broken, fault):
        assert fault in Page(render_report(click_lift()).replace("</main>", f"{broken}</main>")).faults

    def test_texts_of_others_are_texts(self):
        for lift in (click_lift(), next_item_lift()):
            plain_page = Page(render_report(lift))
            kept = {"task", "primary_metric", "adopt", "comparison", "metric", "severity", "by", "test_from"}
            for container, key in list(every_text(lift)):
                if key not in kept:
                    container[key] = EVIL
            for about in lift["importance"].values():
                about["families"] = {f"{EVIL}{at}": share for at, share in enumerate(about["families"].values())}
            lift["environment"][EVIL] = lift["method"][EVIL] = EVIL
            if lift["candidates"]:
                lift["candidates"]["by_generator"] = {EVIL: 0.3}
            page = Page(render_report(lift))
            assert page.faults == []
            assert page.seen["img"] == 0
            assert page.seen["figure"] == plain_page.seen["figure"]
            assert EVIL in "".join(page.texts)
            assert EVIL in "".join(held for _, name, held in page.attributes if name == "aria-label")

    def test_a_double_that_does_not_escape_fails_that_check(self, monkeypatch):
        trusting = page_module._environment.__wrapped__()
        trusting.autoescape = False
        monkeypatch.setattr(page_module, "_environment", lambda: trusting)
        with pytest.raises(AssertionError):
            self.test_texts_of_others_are_texts()

    @pytest.mark.parametrize(("task", "empty"), [("click", None), ("next-item", "absent")])
    def test_what_is_absent_has_no_section(self, task, empty):
        whole = LIFTS[task]()
        for lacking in (*((name,) for name in OPTIONAL), OPTIONAL):
            lift = {name: part for name, part in whole.items() if name not in lacking}
            if empty is None:
                lift |= dict.fromkeys(lacking)
            page = Page(render_report(lift))
            assert page.faults == []
            for section in {"candidates", "cost", "examples", "importance", "preflight"} & set(lacking):
                assert page.ids[section] == 0
        assert {name for name in page.ids if not name.startswith("chart-") and not name.endswith("-title")} == {
            *("answer", "arms", "adds", "method", "metrics"),
        }

    def test_an_earlier_lift_without_the_later_keys(self):
        lift = click_lift()
        for name in ("primary_metric", "schema"):
            del lift[name]
        for name in ("diff", "ci95", "least_worth"):
            del lift["verdict"][name]
        for name in ("split", "sampled"):
            del lift["data"][name]
        page = Page(render_report(lift))
        assert page.faults == []
        assert "AUC changes by +0.0034" in page.text

    def test_nulls_are_said_to_be_undefined(self):
        lift = next_item_lift()
        for slices in (*lift["arms"].values(), *lift["lift"].values()):
            for found in slices.values():
                for metric, held in found.items():
                    if metric == "ci95":
                        found[metric] = {name: [None, None] for name in held}
                    else:
                        found[metric] = {"diff": None, "ci95": [None, None]} if isinstance(held, dict) else None
        lift["verdict"] |= {"diff": None, "ci95": [None, None], "minimum_detectable_effect": None, "least_worth": None}
        lift["cost"] = dict.fromkeys(lift["cost"])
        page = Page(render_report(lift))
        assert page.faults == []
        assert page.text.count("undefined") > 200
        assert "None" not in page.text

    def test_the_same_lift_gives_the_same_page(self):
        lift = next_item_lift()
        before = copy.deepcopy(lift)
        assert render_report(lift) == render_report(lift)
        assert lift == before

    def test_another_schema_is_refused(self):
        with pytest.raises(InputError, match=r"schema 2 but this version reads 1: render it with the version"):
            render_report({**click_lift(), "schema": 2})

    def test_half_a_lift_is_refused(self):
        with pytest.raises(InputError, match=r"\['arms', 'verdict'\] is needed: pass all"):
            render_report({name: part for name, part in click_lift().items() if name not in ("arms", "verdict")})


class TestColours:
    """Contrast as WCAG 2.2 has it, level AA: 4.5 for text."""

    SCHEMES = re.findall(
        r":root \{(.*?)\}", resources.files("llmfeat.evaluate.report").joinpath("templates/style.css").read_text(), re.S
    )

    @staticmethod
    def luminance(colour: str) -> float:
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(self, one: str, other: str) -> float:
        high, low = sorted((self.luminance(one), self.luminance(other)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    def test_black_on_white_by_hand(self):
        assert self.contrast("#000000", "#ffffff") == pytest.approx(21)
        assert self.contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)

    @pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
    def test_texts_can_be_read(self, scheme):
        assert len(self.SCHEMES) == 2
        colours = dict(re.findall(r"--(\w+): (#\w{6});", self.SCHEMES[scheme]))
        for ground in ("paper", "raised"):
            for text in ("ink", "dim", "accent", "above", "below", "warning"):
                assert self.contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def test_what_an_axis_holds():
    assert ends_of([Value("a", 1.0, 0.5, None), Value("b", None, float("nan"), 2.0)]) == [1.0, 0.5, 2.0]
