"""The benchmarks run, and the README says what their results say."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "figures"),
    [
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


def write_data(folder):
    """Data sets of the layout that the benchmark of features reads, small and drawn."""
    draw = np.random.default_rng(0)
    office, films = folder / "amazon_office", folder / "ml100k_plots"
    office.mkdir(parents=True)
    films.mkdir()
    ids = [str(item) for item in range(40)]
    titles = [" ".join(draw.choice(["heat", "alien", "casino", "speed", "war"], 3)) for _ in ids]
    texts = {"item_id": ids, "title": titles, "description": [*titles[1:], None]}
    pq.write_table(pa.table(texts), office / "items.parquet")
    rows = []
    for split, users in (("valid", range(60)), ("test", range(40, 100))):
        for user in users:
            events = draw.permutation(40).astype(str).tolist()
            rows += [(f"u{user}", events[at], split, len(rows) + at, events[:at]) for at in (2, 3)]
    # A user's test rows go on where the valid ones ended.
    ends = {user: [*history, item] for user, item, split, _, history in rows if split == "valid"}
    rows = [(u, i, s, r, [*(ends.get(u, []) if s == "test" else []), *h][-10:]) for u, i, s, r, h in rows]
    names = ("user_id", "item_id", "split", "row_in_split", "history_item_ids")
    pq.write_table(
        pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), office / "interactions.parquet"
    )
    more = {"year": ["1995"] * 40, "genres": ["Drama"] * 40, "plot": titles[::-1]}
    pq.write_table(pa.table({"item_id": ids, "title": titles, **more}), films / "items.parquet")
    events = {
        "user_id": draw.integers(0, 30, 3000).astype(str),
        "item_id": draw.integers(0, 40, 3000).astype(str),
        "timestamp": 10**9 + 60 * draw.integers(0, 5000, 3000),
        "label": draw.integers(0, 2, 3000),
    }
    pq.write_table(pa.table(events), films / "interactions.parquet")


def test_a_quick_run_of_the_features(tmp_path, artifact):
    write_data(tmp_path)
    out = tmp_path / "features.json"
    script = [sys.executable, ROOT / "benchmarks" / "features.py", "--quick", "--json", out]
    subprocess.run([*script, "--data", tmp_path, "--artifact", artifact.path], check=True, capture_output=True)
    body = json.loads(out.read_text())
    assert set(body["figures"]) == {
        "rows_per_s",
        "request_ms",
        "transform_request_ms",
        "over_bare_product",
        "ml100k_no_text_auc",
        "ml100k_auc_lift",
        "office_hr10",
        "office_ndcg10",
        "office_candidate_recall",
    }
    arms = next(part["arms"] for part in body["rows"] if part["part"] == "office")
    # Histories are drawn, so that nobody knows what comes next of 40 items.
    assert all(abs(arms[arm]["hr@10"]["value"] - 10 / 40) < 0.15 for arm in arms)
    missing = subprocess.run([*script, "--data", tmp_path / "nowhere"], capture_output=True, text=True)
    assert missing.returncode == 2
    assert "pass --data DIR" in missing.stderr


@pytest.mark.parametrize(
    ("name", "page", "results"),
    [
        ("movielens", "README.md", "movielens"),
        ("artifacts", "docs/artifacts.md", "artifacts"),
        ("encode", "docs/performance.md", "encode-cpu"),
        ("features", "docs/features.md", "features"),
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


def test_the_ablation_is_that_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    features = importlib.import_module("features")
    found = json.loads((ROOT / "benchmarks" / "results" / "features-validation.json").read_text())
    page = (ROOT / "docs" / "features.md").read_text()
    shown = page.partition(features.ABLATION_START)[2].partition(features.ABLATION_END)[0]
    assert shown.strip() == features.ablation_table(found["rows"])


def test_the_readme_s_ten_lines_print_what_it_says():
    text = (ROOT / "README.md").read_text()
    code, expected = re.search(r"## Ten lines\n\n```python\n(.*?)```.*?```\n(.*?)```", text, re.DOTALL).groups()
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == expected
