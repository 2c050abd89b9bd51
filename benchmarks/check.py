"""What the pages say of measurements is what ``benchmarks/results`` says: tables between marks, and figures in prose.

A table stands between ``<!-- NAME: rendered from benchmarks/results/FILE.json -->`` and ``<!-- /NAME -->``; `TABLES`
says which function of which benchmark makes it. A figure in prose is followed by its format and where it comes from,
``0.2010<!-- .4f of features: figures/office_hr10 -->``: a path goes down by keys, and into a list by
``what=titles&name=fastembed``. Any other number that reads like a measurement is an error, unless `STATED` lists it.

``check.py`` prints what differs and ends with status 1; ``check.py --render`` writes tables and figures anew.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Table:
    """A part of a page that a benchmark renders.

    Attributes
    ----------
    name : str
        Of its marks.
    page : str
        The file, from the project's folder.
    results : str
        The file of ``benchmarks/results``, without its ending.
    benchmark, function : str
        What makes it: ``function(results: dict) -> str``, where `results` is the whole content of the file.
    """

    name: str
    page: str
    results: str
    benchmark: str
    function: str = "table"

    @property
    def start(self) -> str:
        """The mark before it."""
        return f"<!-- {self.name}: rendered from benchmarks/results/{self.results}.json -->"

    @property
    def end(self) -> str:
        """The mark after it."""
        return f"<!-- /{self.name} -->"


TABLES = (
    Table("movielens", "README.md", "movielens", "movielens"),
    Table("artifacts", "docs/artifacts.md", "artifacts", "artifacts"),
    Table("encode", "docs/performance.md", "encode-cpu", "encode"),
    Table("features", "docs/features.md", "features", "features"),
    Table("lift", "docs/lift.md", "lift", "lift"),
    Table("peers", "docs/lift.md", "lift", "lift", "beside_peers"),
    Table("verdict", "docs/lift.md", "verdict", "verdict"),
    Table("scale", "docs/your-data.md", "scale", "scale"),
    Table("online", "docs/serving.md", "online", "online"),
    Table("ablation", "docs/features.md", "features-validation", "features", "ablation_table"),
    Table("models", "docs/models.md", "models", "models"),
    Table("retrieval", "docs/models.md", "models", "models", "retrieval_table"),
    Table("towers_ranker", "docs/models.md", "models", "models", "ranker_table"),
    Table("scorer", "docs/scoring.md", "scorer", "scorer"),
    Table("scorer_speed", "docs/scoring.md", "scorer", "scorer", "speed_table"),
)
# Parts between marks that no benchmark of ours renders, and why.
OTHERS = {
    "floors": "the least that an export must reach: settings of llmfeat.export",
    "published": "what authors of other methods publish",
}
# Numbers that are no measurement, by page: settings of the code, levels of intervals, sizes that were chosen.
STATED: Mapping[str, tuple[str, ...]] = {
    "README.md": ("95 %\nintervals over users", "Python 3.11 or newer"),
    "docs/index.md": ("worth a model in production: 0.001",),
    "docs/your-data.md": ("Intervals are of 95 %",),
    "docs/artifacts.md": ("where they pass 2 GB", "cosine at least 0.99999 in every precision"),
    "docs/encoding.md": ("Parts hold some 20 seconds of work", "It holds 10 GiB at most"),
    "docs/performance.md": (
        "parts of some 20 seconds' work",
        # Measured in passing, as that section says of itself.
        "1 to 4 % faster",
        "a million short texts took 1.1 GB",
    ),
    "docs/scoring.md": (
        "80 % to train, 10 % to validate, 10 % to\ntest",
        "95 % intervals by a paired bootstrap",
        "where it fits into 4 GiB",
    ),
}

_FIGURE = re.compile(
    r"(?P<shown>[-+]?\d[\d,]*\.?\d*%?)<!-- (?P<format>\S+) of (?P<results>[\w-]+): (?P<path>.+?) -->",
)
_PART = re.compile(r"^<!-- (?P<name>\w+): .*? -->\n.*?\n<!-- /(?P=name) -->$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_ANY_MARK = re.compile(r"<!-- .*? of .*?: .*? -->")
# A decimal, or a number before a unit.
_MEASURED = re.compile(
    r"(?<![\w.^-])[-+]?(?:\d[\d,]*)?\.\d+(?![\w.])"
    r"|(?<![\w.])\d[\d,.]*(?:\s?%|\s(?:times|nats|ms|s|seconds|minutes|[kMG]i?B)(?!\w))"
)


def pages(root: Path) -> list[Path]:
    """Return the files that are held."""
    return [root / "README.md", root / "CHANGELOG.md", *sorted((root / "docs").glob("**/*.md"))]


def render(root: Path = ROOT, *, only: str | None = None) -> list[Path]:
    """Write tables and figures anew, of all results or of one file of them; return the pages that changed."""
    changed = []
    for page in pages(root):
        text = page.read_text(encoding="utf-8")
        rendered = _rendered(text, _name(page, root), root, only)
        if rendered != text:
            page.write_text(rendered, encoding="utf-8")
            changed.append(page)
    return changed


def render_results(path: Path) -> None:
    """Render what comes from a file that a benchmark wrote, where it is one that is kept in ``benchmarks/results``."""
    if path.resolve().parent == ROOT / "benchmarks" / "results":
        for page in render(only=path.stem):
            print(f"{_name(page, ROOT)} was rendered")


def problems(root: Path = ROOT) -> Iterator[str]:
    """Yield what is wrong with the pages, in sentences."""
    for page in pages(root):
        name, text = _name(page, root), page.read_text(encoding="utf-8")
        yield from _wrong_marks(name, text)
        if _rendered(text, name, root, None) != text:
            yield (
                f"{name} does not say what benchmarks/results says: run `python benchmarks/check.py --render`, "
                "and read what changed"
            )
        prose = _prose(text)
        stated = STATED.get(name, ())
        for phrase in stated:
            if phrase not in prose:
                yield f"{name} no longer says {phrase!r}: remove it from STATED in benchmarks/check.py"
            prose = prose.replace(phrase, "")
        for line in prose.splitlines():
            if found := _MEASURED.findall(line):
                yield (
                    f"{name} says {found} in {line.strip()!r}, which no results file holds: mark where it comes from, "
                    "or list it in STATED of benchmarks/check.py when it is no measurement"
                )


def _wrong_marks(name: str, text: str) -> Iterator[str]:
    expected = {table.name for table in TABLES if table.page == name}
    there = [found["name"] for found in _PART.finditer(text)]
    for missing in sorted(expected - set(there)):
        yield f"{name} lacks the marks of {missing!r}, or has others than the registry says"
    for part in there:
        if there.count(part) > 1 or part not in expected | set(OTHERS):
            yield f"{name} has marks of {part!r} that TABLES in benchmarks/check.py does not know, or has them twice"
    if len(_FIGURE.findall(text)) != len(_ANY_MARK.findall(text)):
        yield f"{name} has the mark of a figure that does not follow a number"


def _rendered(text: str, name: str, root: Path, only: str | None) -> str:
    for table in TABLES:
        if table.page == name and only in (None, table.results) and table.start in text and table.end in text:
            before, _, rest = text.partition(table.start)
            made = getattr(_benchmark(table.benchmark), table.function)(_results(root, table.results))
            text = f"{before}{table.start}\n{made}\n{table.end}{rest.partition(table.end)[2]}"
    return _FIGURE.sub(lambda found: _figure(found, root) if only in (None, found["results"]) else found[0], text)


def _figure(found: re.Match[str], root: Path) -> str:
    value = look_up(_results(root, found["results"]), found["path"])
    return f"{value:{found['format']}}{found[0].removeprefix(found['shown'])}"


def look_up(results: Any, path: str) -> float:
    """Return the number at a path of keys; ``key=value&other=value`` takes the one entry of a list that has them."""
    at = results
    for step in path.split("/"):
        if isinstance(at, list):
            wanted = dict(pair.split("=", 1) for pair in step.split("&"))
            (at,) = [entry for entry in at if all(str(entry.get(key)) == value for key, value in wanted.items())]
        else:
            at = at[step]
    return float(at)


def _prose(text: str) -> str:
    """Return a page without rendered parts, code and figures that have marks."""
    for pattern in (_PART, _CODE, _FIGURE):
        text = pattern.sub("", text)
    return text


def _results(root: Path, name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((root / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return body


@functools.cache
def _benchmark(name: str) -> Any:
    """Return a benchmark as a module, under a name of its own: the one that runs is ``__main__``."""
    here = str(ROOT / "benchmarks")
    if here not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(name)


def _name(page: Path, root: Path) -> str:
    return page.relative_to(root).as_posix()


def main() -> None:
    """Print what differs and end with status 1, or render."""
    if sys.argv[1:] == ["--render"]:
        for page in render():
            print(f"{_name(page, ROOT)} was rendered")
    elif sys.argv[1:]:
        sys.exit(f"{sys.argv[1:]!r} came, but nothing or --render was expected: see the head of {__file__}")
    found = list(problems())
    for problem in found:
        print(problem, file=sys.stderr)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
