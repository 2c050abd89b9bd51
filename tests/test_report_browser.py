"""The report in a browser, as its readers see it: nothing fetched, nothing cut, on a phone, on a desk and on paper."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, NoReturn

import pytest

from llmfeat.evaluate.report import render_report
from tests.lift_fixtures import click_lift, next_item_lift

PHONE, DESK = 390, 1280
LIFTS = {"click": click_lift, "next-item": next_item_lift}
CHARTS = {
    "click": {
        *("chart-answer", "chart-arms-auc", "chart-slice-warm-item", "chart-slice-cold-item", "chart-slice-cold-user"),
        *("chart-adds", "chart-adds-slices", "chart-lags", "chart-popularity-hybrid-vs-full-minus-llm"),
        *("chart-popularity-hybrid-vs-no-text", "chart-families-hybrid", "chart-families-full-minus-llm"),
        *("chart-columns", "chart-runs"),
    }
}
CHARTS["next-item"] = {
    *(CHARTS["click"] - {"chart-arms-auc", "chart-lags"}),
    *("chart-arms-hr-10", "chart-arms-ndcg-10", "chart-recall", "chart-given-recall"),
}
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    # A request that should not be there fails at once, and never leaves the machine.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
# What a reader would miss: charts without a size, drawn parts outside of theirs, texts that stick out.
SEEN = """() => {
  const faults = [];
  const box = element => element.getBoundingClientRect();
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) faults.push(`the page is ${root.scrollWidth} wide in ${root.clientWidth}`);
  const charts = [...document.querySelectorAll("figure.chart")];
  for (const chart of charts) {
    const whole = box(chart);
    if (!chart.checkVisibility({visibilityProperty: true, opacityProperty: true}) || !whole.width || !whole.height)
      faults.push(`${chart.id} is not visible`);
    const drawn = [...chart.querySelectorAll(".track > .fill, .track > .span, .track > .point")];
    if (!drawn.length) faults.push(`${chart.id} draws nothing`);
    for (const part of drawn) {
      const [inner, track] = [box(part), box(part.parentElement)];
      if (!inner.width || !inner.height) faults.push(`${chart.id} has a ${part.className} without a size`);
      if (inner.left < track.left - 8 || inner.right > track.right + 8)
        faults.push(`${chart.id} has a ${part.className} outside of its track`);
    }
    for (const text of chart.querySelectorAll(".label, .value, .axis .track span, figcaption")) {
      const inner = box(text);
      if (!inner.width) continue;
      if (inner.left < whole.left - 1 || inner.right > whole.right + 1 || text.scrollWidth > text.clientWidth + 1)
        faults.push(`${chart.id}: "${text.textContent.trim()}" sticks out`);
    }
  }
  return {faults, charts: charts.map(chart => chart.id)};
}"""


def lacking(reason: str) -> NoReturn:
    """Skip, or fail where a browser has to be there."""
    if os.environ.get("LLMFEAT_REQUIRE_BROWSER"):
        pytest.fail(f"LLMFEAT_REQUIRE_BROWSER is set, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def reader():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        lacking("playwright is not installed: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        lacking("there is no chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        yield Reader(launched)
        launched.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("report")
    files = {task: folder / f"{task}.html" for task in LIFTS}
    for task, file in files.items():
        file.write_text(render_report(LIFTS[task]()))
    return files


class Reader:
    """One tab of a browser, which notes what goes wrong while it loads a page."""

    def __init__(self, browser: Any):
        self.tab = browser.new_page()
        self.faults: list[str] = []
        self.url = ""
        self.tab.on("console", lambda message: self.faults.append(f"console {message.type}: {message.text}"))
        self.tab.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        self.tab.on("request", self._request)

    def _request(self, request: Any) -> None:
        if request.url != self.url:
            self.faults.append(f"request of {request.url}")

    def look(self, file: Path, *, width: int = PHONE, scheme: str = "light", media: str = "screen") -> dict[str, Any]:
        """Return what is wrong with a page, the charts on it, and the colour of its paper."""
        self.faults.clear()
        self.url = file.as_uri()
        self.tab.set_viewport_size({"width": width, "height": 900})
        self.tab.emulate_media(media=media, color_scheme=scheme)
        self.tab.goto(self.url)
        seen = self.tab.evaluate(SEEN)
        paper = self.tab.evaluate("getComputedStyle(document.body).backgroundColor")
        return {"faults": [*self.faults, *seen["faults"]], "charts": set(seen["charts"]), "paper": paper}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("task", LIFTS)
def test_every_reader_sees_every_chart_and_nothing_else_is_fetched(reader, pages, task, width, scheme):
    seen = reader.look(pages[task], width=width, scheme=scheme)
    assert seen["faults"] == []
    assert seen["charts"] == CHARTS[task]
    assert seen["paper"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 19, 23)"}[scheme]


def test_on_paper_it_is_whole_and_light(reader, pages):
    # The width of an A4 page between its margins.
    seen = reader.look(pages["next-item"], width=680, scheme="dark", media="print")
    assert seen["faults"] == []
    assert seen["paper"] == "rgb(255, 255, 255)"


def test_texts_of_the_data_run_nothing(reader, tmp_path):
    lift = next_item_lift()
    lift["data"]["name"] = "</title><script>console.error('ran')</script>"
    for item in lift["examples"][0]["history"]:
        item["text"] = "<img src=x onerror=\"console.error('ran')\"><script>console.error('ran')</script>"
    file = tmp_path / "report.html"
    file.write_text(render_report(lift))
    assert reader.look(file)["faults"] == []


def test_long_names_do_not_widen_the_page(reader, tmp_path):
    lift = click_lift()
    lift["data"]["name"] = "interactions_of_the_year_" * 8
    lift["importance"]["hybrid"]["columns"][0]["name"] = "a_column_of_their_own_" * 6
    lift["environment"]["processor"] = "x" * 300
    lift["encoder"]["model"] = "organisation/" + "model" * 40
    file = tmp_path / "report.html"
    file.write_text(render_report(lift))
    assert reader.look(file)["faults"] == []


@pytest.mark.parametrize(
    ("guarded", "added", "found"),
    [
        (True, '<img src="https://example.org/a.png" alt="">', "Content Security Policy"),
        (False, '<img src="https://example.org/a.png" alt="">', "request of https://example.org/a.png"),
        (False, "<script>console.error('wrong')</script>", "console error: wrong"),
        (False, "<script>throw new Error('broken')</script>", "page error: broken"),
        (True, "<table><tr><td style='min-width:500px'>wide</td></tr></table>", "wide in 390"),
        (True, "<style>#chart-adds { display: none }</style>", "chart-adds is not visible"),
        (True, "<style>.fill { height: 0 }</style>", "chart-arms-auc has a fill without a size"),
        (True, "<style>.point { left: 120% !important }</style>", "chart-adds has a point outside of its track"),
        (True, "<style>.value { width: 30px }</style>", "sticks out"),
    ],
)
def test_a_broken_double_fails_these_checks(reader, tmp_path, guarded, added, found):
    few = {name: part for name, part in click_lift().items() if name in ("task", "data", "arms", "lift", "verdict")}
    page = render_report(few).replace("</main>", f"{added}</main>")
    if not guarded:
        page = page.replace("Content-Security-Policy", "x-none")
    file = tmp_path / "broken.html"
    file.write_text(page)
    assert any(found in fault for fault in reader.look(file)["faults"])


def test_where_a_browser_has_to_be_there_its_absence_fails(monkeypatch):
    monkeypatch.delenv("LLMFEAT_REQUIRE_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no chromium"):
        lacking("there is no chromium")
    monkeypatch.setenv("LLMFEAT_REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="no chromium"):
        lacking("there is no chromium")
