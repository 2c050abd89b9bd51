"""Every block of code in the README and the documentation runs, and prints what stands below it."""

from __future__ import annotations

import contextlib
import doctest
import importlib.metadata
import inspect
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt
from sybil import Document, Example, Region
from sybil.document import SybilFailure
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from llmfeat import ModelArtifact, export
from llmfeat.cli.main import cli
from llmfeat.encode import agreement
from llmfeat.evaluate import fitting
from llmfeat.export import exporter
from tests import conftest, stores

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]

# As in a user's session: what other libraries deprecate is no business of a page.
pytestmark = pytest.mark.filterwarnings("ignore")


class NotRun(NamedTuple):
    """What is on a page and does not run here: commands, or Python blocks, that hold `text`; how many; and why."""

    text: str
    count: int
    why: str


NOT_RUN = (
    NotRun("pip install", 2, "another environment; that the extras exist is checked"),
    NotRun("make demo", 1, "fetches MovieLens-100K and takes minutes; that the target exists is checked"),
    NotRun("make test", 1, "is what runs this; that the target exists is checked"),
)
# On pages that say so at their head, the artifact is there already.
GIVEN, GIVEN_SCORER = "artifacts/minilm", "artifacts/scorer"

_INFO = re.compile(r'(?P<language>\w*)(?: title="(?P<title>[\w./-]+)")?[ \t]*$\n', re.MULTILINE)
_EXPORT = inspect.signature(export.export_model)
# Scripts that take seconds to import what this process has imported already.
_SCRIPTS = ("feast", "llmfeat")
_SHELL = re.compile(r"[|<>;&$]")
_FETCHED = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=["']?((?:https?:)?//[^\s"'>]+)""")


class Page:
    """The blocks of a page, which run in order, in one folder and one namespace.

    `python` and `bash` run; `text` is what the block before it printed, with ``...`` for what differs from run to run;
    a block with a title is a file of that name, which a block after it must use.
    """

    def __init__(self, not_run: tuple[NotRun, ...] = NOT_RUN) -> None:
        self.not_run = not_run
        self.left_out: Counter[str] = Counter()
        self.printed: str | None = None
        self.is_printed_elsewhere = False
        self.unused: set[str] = set()

    def run(self, path: Path) -> None:
        """Evaluate the blocks in the current folder."""
        document = Document.parse(str(path), self.blocks)
        for example in document:
            self.unused -= {name for name in self.unused if name in example.parsed}
            example.evaluate()
        document.namespace.clear()  # what holds a connection is closed before the interpreter ends
        assert not self.unused, f"{path} has files that no block uses: {self.unused}"

    def blocks(self, document: Document) -> Iterator[Region]:
        """Yield the fenced blocks of a document: a parser of sybil."""
        languages = {"python": self._python, "bash": self._bash, "text": self._text}
        for region in RawFencedCodeBlockLexer(_INFO)(document):
            evaluator = self._file if region.lexemes["title"] else languages.get(region.lexemes["language"], _unknown)
            yield Region(region.start, region.end, region.lexemes["source"], evaluator, region.lexemes)

    def _python(self, example: Example) -> None:
        self.printed, self.is_printed_elsewhere = None, self._is_left_out(example.parsed)
        if self.is_printed_elsewhere:
            compile(example.parsed, example.path, "exec")
            return
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            PythonEvaluator()(example)
        self.printed = printed.getvalue()

    def _bash(self, example: Example) -> str | None:
        printed, self.is_printed_elsewhere = "", False
        for command in commands(example.parsed):
            if self._is_left_out(command):
                check_only(command)
                self.is_printed_elsewhere = True
                continue
            status, out, err = run_command(command)
            if status != 0:
                return f"{command!r} ended with status {status}:\n{out}{err}"
            printed += out
        self.printed = printed
        return None

    def _text(self, example: Example) -> str | None:
        printed, self.printed = self.printed, None
        if self.is_printed_elsewhere:
            return None
        if printed is None:
            return "a block of text follows no block that prints"
        if doctest.OutputChecker().check_output(example.parsed, printed, doctest.ELLIPSIS):
            return None
        return f"the page says\n{example.parsed}\nbut the block above it printed\n{printed}"

    def _file(self, example: Example) -> None:
        path = Path(example.region.lexemes["title"])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(example.parsed, encoding="utf-8")
        self.unused.add(str(path))

    def _is_left_out(self, source: str) -> bool:
        found = next((entry.text for entry in self.not_run if entry.text in source), None)
        self.left_out.update([found] if found else [])
        return found is not None


def _unknown(example: Example) -> str:
    return f"a block of {example.region.lexemes['language']!r}: python, bash, text, or a file with a title was expected"


def commands(source: str) -> list[str]:
    """Return the commands of a block, a line each; a line goes on after a backslash."""
    lines = source.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def run_command(command: str) -> tuple[int, str, str]:
    """Return the status of a command, and what it printed; our script, and Feast's, run in this process."""
    words = shlex.split(command, comments=True)
    if words[0] not in _SCRIPTS or _SHELL.search(command):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        shell = ["bash", "-euo", "pipefail", "-c", command]
        done = subprocess.run(shell, capture_output=True, text=True, env={**os.environ, "PATH": path}, check=False)
        return done.returncode, done.stdout, done.stderr
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        for each in (contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(Path.cwd())):
            stack.enter_context(each)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        # What the scripts change of the process, or Feast by importing a repository's definitions.
        patch.setattr(sys, "argv", words)
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        patch.setitem(sys.modules, "definitions", None)
        del sys.modules["definitions"]
        stopped = stack.enter_context(pytest.raises(SystemExit))
        (script,) = importlib.metadata.entry_points(group="console_scripts", name=words[0])
        script.load()()
    return int(stopped.value.code or 0), out.getvalue(), err.getvalue()


def check_only(command: str) -> None:
    """Check what can be checked of a command that is not run: its options, its target or its extras."""
    words = shlex.split(command, comments=True)
    if words[0] == "llmfeat" and (found := cli.get_command(None, words[1])):
        found.make_context(words[1], words[2:])
    elif words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, check=True)
    elif words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = re.findall(r"\[([\w,]+)\]", command)
        assert named, command
        assert {extra for names in named for extra in names.split(",")} <= set(extras), command


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Return an artifact that knows the words of the pages."""
    words = sorted(set(re.findall(r"\w+|[^\w\s]", "".join(path.read_text(encoding="utf-8") for path in PAGES))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conftest, "WORDS", [*conftest.WORDS[:4], *words])
        return conftest.write_artifact(tmp_path_factory.mktemp("tiny") / "artifact")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def applied(repo):
    stores.apply(Path(repo))
    return ""


@pytest.fixture
def place(tmp_path, tiny, cache, monkeypatch):
    """Go to an empty folder, where every export gives the tiny artifact: a real one takes minutes, and torch."""

    def exported(*arguments, **options):
        bound = _EXPORT.bind(*arguments, **options)
        shutil.copytree(tiny.path, bound.arguments["out"])
        return ModelArtifact.load(bound.arguments["out"])

    for module in (export, exporter):
        monkeypatch.setattr(module, "export_model", exported)
    # To compare backends is a test of its own, and rankers need not be good here.
    monkeypatch.setattr(agreement, "here", list)
    monkeypatch.setattr(fitting, "_MOST_TREES", 3)
    for task in ("click", "next_item.task"):
        monkeypatch.setattr(f"llmfeat.evaluate.{task}._N_REQUESTS", 5)
    # `feast apply` in a process of its own imports Feast each time; what it does is the same, and has a test.
    monkeypatch.setattr("llmfeat.store.apply_repo", applied)
    monkeypatch.setenv("LLMFEAT_CACHE_DIR", str(cache))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_blocks_of_a_page_run(path, request, place, tiny):
    text = path.read_text(encoding="utf-8")
    if f"`{GIVEN}` is" in text:
        shutil.copytree(tiny.path, GIVEN)
    if f"`{GIVEN_SCORER}` is" in text:
        shutil.copytree(request.getfixturevalue("llm_artifact").path, GIVEN_SCORER)
    Page().run(path)


def left_out(path: Path, not_run: tuple[NotRun, ...] = NOT_RUN) -> Counter[str]:
    """Return how often each exception holds on a page, without running it."""
    found: Counter[str] = Counter()
    for example in Document.parse(str(path), Page().blocks):
        lines = {"bash": commands(example.parsed), "python": [example.parsed]}
        for source in lines.get(example.region.lexemes["language"], []):
            found.update([entry.text for entry in not_run if entry.text in source][:1])
    return found


def test_what_is_not_run_is_this():
    found = sum((left_out(path) for path in PAGES), Counter())
    assert found == {entry.text: entry.count for entry in NOT_RUN}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_block_is_seen(path):
    tokens = MarkdownIt().enable("table").parse(path.read_text(encoding="utf-8"))
    assert [token.map for token in tokens if token.type == "code_block"] == [], "indented code runs nowhere: fence it"
    fences = [token.map[0] + 1 for token in tokens if token.type == "fence"]
    assert [example.line for example in Document.parse(str(path), Page().blocks)] == fences


def page(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```python\nprint(1)\n```\n```text\n2\n```", "the page says"),
        ("```bash\nllmfeat inspect nowhere\n```", "ended with status 1"),
        ("```bash\nllmfeat inspect --nonsense\n```", "ended with status 2"),
        ("```bash\nls . | grep nothing\n```", "ended with status 1"),
        ("```toml\na = 1\n```", "a block of 'toml'"),
        ("```\nanything\n```", "a block of ''"),
        ("```text\n1\n```", "follows no block that prints"),
    ],
)
def test_a_page_that_says_something_else_fails(tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SybilFailure, match=said):
        Page().run(page(tmp_path, text))


def test_a_page_whose_python_fails_fails_at_its_line(tmp_path):
    with pytest.raises(ZeroDivisionError) as raised:
        Page().run(page(tmp_path, "words\n\n```python\na = 1\n```\n\n```python\na / 0\n```"))
    assert raised.traceback[-1].lineno + 1 == 8


def test_blocks_share_folder_and_namespace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = '```toml title="a/b.toml"\nx = 1\n```\n```python\ny = 2\n```\n```bash\ncat \\\n  a/b.toml\n```\n'
    Page().run(page(tmp_path, f"{text}```text\nx = ...\n```\n```python\nassert y == 2\n```"))
    with pytest.raises(AssertionError, match="no block uses"):
        Page().run(page(tmp_path, '```toml title="c.toml"\nx = 1\n```'))


def test_what_is_left_out_is_counted_and_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = NotRun("make demo", 1, "minutes")
    done = Page((entry,))
    path = page(tmp_path, "```bash\nmake demo\n```\n```text\nmuch\n```")
    done.run(path)
    assert done.left_out == left_out(path, (entry,)) == {"make demo": 1}
    for stale in ("make nonsense", "pip install 'llmfeat[nonsense]'", "llmfeat export X --nonsense 1"):
        with pytest.raises(Exception, match="nonsense"):
            check_only(stale)


def test_the_site_is_built_from_these_files_alone(tmp_path):
    """In a process of its own, without warnings; nothing in it asks another machine for anything."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    built = sorted((tmp_path / "site").glob("*.html"))
    assert {path.stem for path in built} == {path.stem for path in PAGES[1:]} | {"404"}
    for path in built:
        assert _FETCHED.findall(path.read_text(encoding="utf-8")) == [], path
    assert _FETCHED.findall('<link rel="stylesheet" href="https://fonts.example/a.css">') == [
        "https://fonts.example/a.css"
    ]
