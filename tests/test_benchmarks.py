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
        (
            "encode",
            {
                "amx",
                "cached_speedup",
                "changed_1pct_share",
                "cosine_min",
                "gemm_share",
                "peak_mb",
                "real_token_share",
                "st_openvino_ran",
                "vs_st_best",
                "vs_st_torch_fp32",
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
    # Whether something is here may be 0.
    assert all(value > 0 for figure, value in body["figures"].items() if figure not in ("amx", "st_openvino_ran"))


@pytest.mark.parametrize(
    ("name", "page", "results"),
    [
        ("movielens", "README.md", "movielens"),
        ("artifacts", "docs/artifacts.md", "artifacts"),
        ("encode", "docs/performance.md", "encode-cpu"),
    ],
)
def test_a_table_is_that_of_the_results(monkeypatch, name, page, results):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", ROOT / "benchmarks" / f"{name}.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    found = json.loads((ROOT / "benchmarks" / "results" / f"{results}.json").read_text())
    shown = (ROOT / page).read_text().partition(benchmark.START)[2].partition(benchmark.END)[0]
    assert shown.strip() == benchmark.table(found["rows"], found["machine"])


def test_the_readme_s_ten_lines_print_what_it_says():
    text = (ROOT / "README.md").read_text()
    code, expected = re.search(r"## Ten lines\n\n```python\n(.*?)```.*?```\n(.*?)```", text, re.DOTALL).groups()
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == expected
