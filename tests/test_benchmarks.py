"""The benchmarks run, and the README says what their results say."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeat import TextEncoder

ROOT = Path(__file__).parent.parent
TEXT_FAMILIES = ("similarity", "learned", "smoothed", "alike_users")


@pytest.mark.slow
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
    more = {"year": ["1995"] * 40, "genres": ["Drama"] * 40, "plot": titles[::-1], "ml_title": titles}
    pq.write_table(pa.table({"item_id": ids, "title": titles, **more}), films / "items.parquet")
    events = {
        "user_id": draw.integers(0, 30, 3000).astype(str),
        "item_id": draw.integers(0, 40, 3000).astype(str),
        "timestamp": 10**9 + 60 * draw.integers(0, 5000, 3000),
        "label": draw.integers(0, 2, 3000),
        "rating": draw.integers(1, 6, 3000),
    }
    pq.write_table(pa.table(events), films / "interactions.parquet")
    shop = folder / "online_retail_uci"
    shop.mkdir()
    shutil.copy(films / "items.parquet", shop / "items.parquet")
    purchases = {name: values[:900] for name, values in events.items() if name not in ("label", "rating")}
    pq.write_table(pa.table(purchases), shop / "interactions.parquet")


def run(name, out, *more):
    """Run a benchmark as a smoke test, and return the figures and rows that it wrote."""
    script = [sys.executable, ROOT / "benchmarks" / f"{name}.py", "--quick", "--json", out]
    done = subprocess.run([*script, *more], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    body = json.loads(out.read_text())
    return body["figures"], body["rows"]


@pytest.mark.slow
def test_quick_runs_of_the_features(tmp_path, artifact):
    write_data(tmp_path)
    out, where = tmp_path / "out.json", ("--data", tmp_path, "--artifact", artifact.path)
    figures, _ = run("features", out)
    assert set(figures) == {"rows_per_s", "request_ms", "transform_request_ms", "over_bare_product"}
    figures, rows = run("features", out, "--validation", *where)
    assert [part["part"] for part in rows] == ["ml100k_ablation", "office_ablation"]
    # Histories are drawn, so that nobody knows what comes next of 40 items.
    assert all(abs(each["hr@10"]["mean"] - 10 / 40) < 0.2 for each in rows[1]["families"])
    families = {each["family"] for each in rows[1]["families"] if each["change"] == "added to no text"}
    assert families == {f"{kind}_{what}" for kind in ("tfidf", "llm") for what in TEXT_FAMILIES}
    script = [sys.executable, ROOT / "benchmarks" / "features.py", "--quick", "--validation", "--json", out]
    missing = subprocess.run([*script, "--data", tmp_path / "nowhere"], capture_output=True, text=True)
    assert missing.returncode == 2
    assert "pass --data DIR" in missing.stderr


@pytest.mark.slow
def test_a_quick_run_of_the_lift(tmp_path, artifact):
    write_data(tmp_path)
    figures, rows = run("lift", tmp_path / "out.json", "--data", tmp_path, "--artifact", artifact.path)
    assert {"office_hr10", "ml100k_auc", "retail_ndcg10", "retail_hybrid_vs_full_minus_llm_low"} <= set(figures)
    lifts = [row for row in rows if row["part"] == "lift"]
    assert [row["data"] for row in lifts] == ["ml100k", "office", "retail"]
    assert all(row["checks"]["online_equals_offline"] for row in lifts)
    assert all(abs(row["arms"][arm]["all"]["hr@10"][0] - 0.25) < 0.2 for row in lifts[1:] for arm in ("llm", "hybrid"))
    assert len(rows[-1]["looks"]) >= 1


@pytest.mark.slow
def test_a_quick_run_of_the_scorer(tmp_path, llm_artifact, monkeypatch):
    write_data(tmp_path)
    monkeypatch.setenv("LLMFEAT_CACHE_DIR", str(tmp_path / "cache"))
    figures, rows = run("scorer", tmp_path / "out.json", "--data", tmp_path, "--artifact", llm_artifact.path)
    assert set(figures) == {"prefix_speedup", "vs_torch", "auc_zero_shot", "auc_256", "stacked_diff"}
    assert [row["part"] for row in rows] == ["speed", "speed", "zero_shot", "shots", "stacked", "controls"]
    assert all(gap < 1e-3 for row in rows[:2] for gap in row["score_difference_nats"].values())
    # Ratings are drawn: nothing tells who likes what.
    assert all(0.3 < auc < 0.7 for row in rows[2:] for auc in row["aucs"].values())


@pytest.mark.slow
def test_a_quick_run_of_the_models(tmp_path, artifact):
    pytest.importorskip("cornac", reason="SASRec is Cornac's, of the extra bench")
    write_data(tmp_path)
    out, where = tmp_path / "out.json", ("--data", tmp_path, "--artifact", artifact.path)
    figures, rows = run("models", out, *where)
    check_models(figures, rows, {"lightgbm", "xgboost", "catboost", "dcn_v2", "deepfm", "two_tower", "sasrec"})


@pytest.mark.slow
def test_a_quick_run_of_the_models_that_are_always_here(tmp_path, artifact):
    write_data(tmp_path)
    out, where = tmp_path / "out.json", ("--data", tmp_path, "--artifact", artifact.path)
    models = ("lightgbm", "xgboost", "catboost", "dcn_v2", "deepfm", "two_tower")
    figures, rows = run("models", out, *where, "--models", *models)
    check_models(figures, rows, set(models))
    # A part that is run again leaves the others as they are.
    again, more = run("models", out, *where, "--parts", "ml100k", "--models", "two_tower")
    assert [row for row in more if row.get("model") != "two_tower"] == [
        r for r in rows if r.get("model") != "two_tower"
    ]
    assert set(again) == set(figures)


@pytest.fixture
def data_of_models(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("_models_data")


def altered(folder, since):
    """Write the films again, with other items and labels in all ratings from a moment on."""
    path = folder / "ml100k_plots" / "interactions.parquet"
    table = pq.read_table(path)
    late = table.column("timestamp").to_numpy() >= since
    assert 0 < late.sum() < len(late)
    items = np.where(late, table.column("item_id").to_numpy()[::-1], table.column("item_id").to_numpy())
    labels = np.where(late, 1 - table.column("label").to_numpy(), table.column("label").to_numpy())
    table = table.set_column(table.column_names.index("item_id"), "item_id", pa.array(items, pa.string()))
    pq.write_table(table.set_column(table.column_names.index("label"), "label", pa.array(labels)), path)


@pytest.mark.slow
def test_what_happens_in_the_test_teaches_no_model(tmp_path, artifact, data_of_models):
    """Sequences, what chooses epochs, and the rows that are taught are as they were, whatever the test is."""
    write_data(tmp_path)
    encoder = TextEncoder(artifact)
    folder = tmp_path / "ml100k_plots"
    first = data_of_models.Ml100k(folder, encoder, quick=True)
    altered(tmp_path, first._cut_us // 10**6)
    second = data_of_models.Ml100k(folder, encoder, quick=True)
    assert first._cut_us == second._cut_us
    for one, two in ((first.past, second.past), *zip(first.watched()[:2], second.watched()[:2], strict=True)):
        assert one.to_lists() == two.to_lists()
    assert first.watched()[2].tolist() == second.watched()[2].tolist()
    assert first.taught.ids.equals(second.taught.ids)
    assert first.taught.taught.labels.tolist() == second.taught.taught.labels.tolist()
    for arm, families in data_of_models.FAMILIES.items():
        before, after = (each.taught.taught.columns.matrix(families) for each in (first, second))
        np.testing.assert_array_equal(before, after, err_msg=arm)
    assert not first.tested.ids.equals(second.tested.ids)


@pytest.mark.slow
def test_without_our_features_is_without_text(tmp_path, artifact, data_of_models):
    """Other texts change what models see with our features, and nothing of what they see without."""
    write_data(tmp_path)
    encoder = TextEncoder(artifact)
    folder = tmp_path / "ml100k_plots"
    first = data_of_models.Ml100k(folder, encoder, quick=True)
    items = pq.read_table(folder / "items.parquet")
    names = ("title", "plot", "ml_title")
    pq.write_table(
        pa.table({**{n: items[n] for n in items.column_names}, **{n: items[n][::-1] for n in names}}),
        folder / "items.parquet",
    )
    second = data_of_models.Ml100k(folder, encoder, quick=True)
    same = {
        arm: np.array_equal(*(each.tested.taught.columns.matrix(families) for each in (first, second)), equal_nan=True)
        for arm, families in data_of_models.FAMILIES.items()
    }
    assert same == {"without": True, "with": False}


def check_models(figures, rows, models):
    assert {"two_tower_recall200", "union_recall300", "office_hr10_two_tower", "onnx_parity"} <= set(figures)
    assert {f"{part}_{model}_gain" for part in ("office", "ml100k") for model in models} <= set(figures)
    assert figures["two_tower_recall200"] == figures["union_recall300"] == 1  # of 40 items
    assert figures["onnx_parity"] < 1e-6
    by_part = {part: [row for row in rows if row["part"] == part] for part in ("office", "ml100k")}
    for part, metric in (("office", "hr@10"), ("ml100k", "auc")):
        assert {(row["model"], row["arm"]) for row in by_part[part]} == {
            (model, arm) for model in models for arm in ("without", "with")
        }
        assert all(0 <= row[metric] <= 1 and row["seconds"] > 0 for row in by_part[part])
    # Histories and ratings are drawn: nothing tells what comes next, or who likes what.
    assert all(abs(row["hr@10"] - 10 / 40) < 0.2 for row in by_part["office"])
    assert all(0.3 < row["auc"] < 0.7 for row in by_part["ml100k"])


@pytest.mark.slow
def test_a_quick_run_of_the_verdicts(tmp_path):
    figures, rows = run("verdict", tmp_path / "out.json")
    assert [(row["task"], row["level"]) for row in rows] == [("click", "large"), ("next-item", "large")]
    assert sum(figures.values()) == 2
    assert figures["click_large_no"] == figures["next_item_large_no"] == 0


@pytest.mark.slow
def test_a_quick_run_of_the_store(tmp_path, redis_server, monkeypatch):
    figures, rows = run("online", tmp_path / "out.json")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    online = importlib.import_module("online")
    assert set(figures) == set(online.FIGURES)
    assert figures["reader_failures"] == figures["kill_rows_wrong"] == 0
    assert figures["materialize_speedup"] > 1
    parts = {row["part"] for row in rows}
    assert parts == {"reads", "ranker", "materialize", "readers", "kills", "historical", "redis"}
    (kills,) = (row for row in rows if row["part"] == "kills")
    assert kills["n_kills"] == 1
    # The worse of both stores.
    stores = [row["online_p99_ms"] for row in rows if row["part"] == "ranker"]
    assert len(stores) == 2
    assert figures["online_p99_ms"] == max(stores)
    speedups = [row["materialize_speedup"] for row in rows if row["part"] == "materialize"]
    assert figures["materialize_speedup"] == min(speedups)


@pytest.fixture
def check(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("check")


@pytest.fixture
def copy(tmp_path):
    """The pages and the results, to be changed."""
    for name in ("README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("docs", "benchmarks/results"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def change(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_pages_say_what_the_results_say(check):
    assert list(check.problems()) == []


def test_what_pages_say_is_noticed_when_it_is_changed(check, copy):
    assert list(check.problems(copy)) == []
    performance, features = copy / "docs" / "performance.md", copy / "docs" / "features.md"
    change(performance, "0.99995<!--", "0.99996<!--")
    (measured,) = re.findall(r"\| rows a second, offline \| [\d,]+ \|", features.read_text(encoding="utf-8"))
    change(features, measured, "| rows a second, offline | 1 |")
    assert [problem.partition(" does not say")[0] for problem in check.problems(copy)] == [
        "docs/features.md",
        "docs/performance.md",
    ]
    assert check.render(copy, only="features") == [features]
    assert check.render(copy) == [performance]
    assert list(check.problems(copy)) == []
    for page in (performance, features):
        assert page.read_bytes() == (ROOT / "docs" / page.name).read_bytes()


def test_results_that_changed_are_noticed_on_every_page(check, copy):
    results = copy / "benchmarks" / "results" / "encode-cpu.json"
    body = json.loads(results.read_text())
    next(row for row in body["rows"] if row.get("name") == "openvino-bf16" and row["what"] == "titles")[
        "texts_per_s"
    ] = 4321.0
    results.write_text(json.dumps(body))
    assert len(list(check.problems(copy))) == 2
    check.render(copy)
    for page in ("README.md", "docs/performance.md"):
        assert "4,321" in (copy / page).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("# Encoding a catalogue\n", "# Encoding a catalogue\n\nIt does 1.5 million.\n", "no results file holds"),
        ("# Encoding a catalogue\n", "# Encoding a catalogue\n\nIt is 3 times as fast.\n", "no results file holds"),
        ("# Encoding a catalogue\n", "# Encoding<!-- .2f of encode-cpu: figures/amx -->\n", "does not follow a number"),
        ("It holds 10 GiB at most", "It holds much", "no longer says"),
        (
            "# Encoding a catalogue\n",
            "# Encoding\n\n<!-- news: rendered from benchmarks/results/news.json -->\nx\n<!-- /news -->\n",
            "TABLES in benchmarks/check.py does not know",
        ),
    ],
)
def test_what_comes_from_nowhere_is_noticed(check, copy, old, new, said):
    change(copy / "docs" / "encoding.md", old, new)
    (problem,) = check.problems(copy)
    assert said in problem


def test_a_table_without_its_marks_is_noticed(check, copy):
    change(copy / "README.md", "<!-- /movielens -->", "")
    assert any("lacks the marks of 'movielens'" in problem for problem in check.problems(copy))


def test_only_kept_results_are_rendered(check, tmp_path, capsys):
    check.render_results(tmp_path / "features.json")
    check.render_results(ROOT / "benchmarks" / "results" / "features.json")  # which the pages show already
    assert capsys.readouterr().out == ""


def test_a_path_that_leads_nowhere_is_an_error(check):
    results = {"rows": [{"what": "a", "x": 1}, {"what": "b", "x": 2}, {"what": "b", "x": 3}]}
    assert check.look_up(results, "rows/what=a/x") == 1
    assert check.look_up(results, "rows/what=b&x=3/x") == 3
    for path in ("rows/what=b/x", "rows/what=c/x", "figures/x"):
        with pytest.raises((KeyError, ValueError)):
            check.look_up(results, path)


def test_large_logs_are_skewed_and_whole(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    scale = importlib.import_module("scale")
    size = scale.Size("click", 20_000, 300, 500)
    scale.write_log(size, tmp_path)
    items, log = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("items", "interactions"))
    assert (items.num_rows, log.num_rows) == (300, 20_000)
    assert set(log["item_id"].to_pylist()) <= set(items["item_id"].to_pylist())
    times = log["timestamp"].to_numpy()
    assert (np.diff(times) >= 0).all()
    assert 0.2 < log["label"].to_numpy().mean() < 0.8
    for name, at_least in (("item_id", 0.3), ("user_id", 0.3)):  # of the events, a tenth of them has so much
        counts = np.sort(log[name].value_counts().field("counts").to_numpy())[::-1]
        assert counts[: len(counts) // 10].sum() > at_least * 20_000


def test_the_table_of_large_logs_says_what_was_drawn(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    scale = importlib.import_module("scale")
    row = {
        "task": "next-item", "n_events": 5_000_000, "n_items": 200_000, "n_users": 400_000, "run_s": 1500.0,
        "peak_gb": 9.96, "taught": {"used": 999, "of": 800_000}, "tested": {"used": 998, "of": 1_000_000},
    }  # fmt: skip
    machine = {"cores": 2, "processor": "x", "system": "y", "python": "3.11"}
    assert "| next-item | 5,000,000 | 200,000 | 999 of 800,000 | 998 of 1,000,000 | 25 minutes | 10.0 GB |" in (
        scale.table({"rows": [row], "machine": machine})
    )
    assert scale.figures_of([row]) == {"next_item_min": 25.0, "next_item_peak_gb": 9.96}
