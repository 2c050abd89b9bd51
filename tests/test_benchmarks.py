"""The benchmarks run, and the README says what their results say."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("history_kernel", {"rows_per_s", "request_ms", "over_bare_product"}),
        (
            "artifacts",
            {
                f"bert_encoder_{precision}_{figure}"
                for precision in ("fp32", "fp16", "int8")
                for figure in ("distance", "top10_overlap", "texts_per_s")
            },
        ),
    ],
)
def test_quick_run_writes_the_contract(tmp_path, name, figures):
    out = tmp_path / f"{name}.json"
    script = ROOT / "benchmarks" / f"{name}.py"
    subprocess.run([sys.executable, script, "--quick", "--json", out], check=True, capture_output=True)
    body = json.loads(out.read_text())
    assert set(body) == {"schema", "machine", "versions", "commit", "figures", "rows"}
    assert set(body["figures"]) == figures
    assert all(value > 0 for value in body["figures"].values())


@pytest.mark.parametrize(("name", "page"), [("movielens", "README.md"), ("artifacts", "docs/artifacts.md")])
def test_a_table_is_that_of_the_results(monkeypatch, name, page):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", ROOT / "benchmarks" / f"{name}.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    results = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    shown = (ROOT / page).read_text().partition(benchmark.START)[2].partition(benchmark.END)[0]
    assert shown.strip() == benchmark.table(results["rows"], results["machine"])


def test_the_readme_s_ten_lines_print_what_it_says():
    text = (ROOT / "README.md").read_text()
    code, expected = re.search(r"## Ten lines\n\n```python\n(.*?)```.*?```\n(.*?)```", text, re.DOTALL).groups()
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == expected
