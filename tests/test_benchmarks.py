"""The benchmarks run, and the README says what their results say."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_quick_run_writes_the_contract(tmp_path):
    out = tmp_path / "kernel.json"
    script = ROOT / "benchmarks" / "history_kernel.py"
    subprocess.run([sys.executable, script, "--quick", "--json", out], check=True, capture_output=True)
    body = json.loads(out.read_text())
    assert set(body) == {"schema", "machine", "versions", "commit", "figures", "rows"}
    assert set(body["figures"]) == {"rows_per_s", "request_ms", "over_bare_product"}
    assert all(value > 0 for value in body["figures"].values())


def test_the_readme_table_is_that_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("movielens_benchmark", ROOT / "benchmarks" / "movielens.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    results = json.loads((ROOT / "benchmarks" / "results" / "movielens.json").read_text())
    shown = (ROOT / "README.md").read_text().partition(benchmark.START)[2].partition(benchmark.END)[0]
    assert shown.strip() == benchmark.table(results["rows"], results["machine"])


def test_the_readme_s_ten_lines_print_what_it_says():
    text = (ROOT / "README.md").read_text()
    code, expected = re.search(r"## Ten lines\n\n```python\n(.*?)```.*?```\n(.*?)```", text, re.DOTALL).groups()
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == expected
