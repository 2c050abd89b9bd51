"""What the sections about the run show: examples, cost, data, method, and every metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmfeat.evaluate.report.charts import Chart, Value, difference_chart, stands
from llmfeat.evaluate.report.formats import (
    count,
    interval,
    level,
    megabytes,
    minutes,
    plain,
    seconds,
    signed,
    upper_first,
)
from llmfeat.evaluate.report.labels import ARM_LABELS, COMPARISON_LABELS, SLICE_LABELS, metric_of
from llmfeat.evaluate.report.results import arms_present, comparisons_present
from llmfeat.evaluate.report.words import headline_of, rows_words, split_words

__all__ = ["Cell", "Table", "cost_of", "examples_of", "method_of", "metrics_of", "preflight_of", "serving_of"]

# What `method` holds that is said in words elsewhere on the page.
_SAID = frozenset({"command", "intervals", "test_fraction"})
_METHOD_NAMES = {
    "seed": "Seed",
    "seeds": "Seeds",
    "origins": "Origins",
    "history_lag_s": "Events arrive late by, s",
    "lags_s": "Lags measured, s",
    "freeze_at_test_start": "History ends where the test begins",
    "n_resamples": "Bootstrap samples",
    "like_threshold": "Positive from a rating of",
}


@dataclass(frozen=True)
class Cell:
    """One number of a table, its interval, and on which side of zero that lies ("better", "worse" or "")."""

    text: str
    interval: str = ""
    side: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose rows begin with their heading."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def examples_of(lift: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the example users; None where none were asked for."""
    found = lift.get("examples")
    return {"users": found} if found else None


def serving_of(lift: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return whether single requests give what was measured, and the lambdarank pipelines where they were fitted."""
    checks, ranker = lift.get("checks"), lift.get("ranker")
    if not checks and not ranker:
        return None
    return {
        "equal": checks["online_equals_offline"] if checks else None,
        "compared": f"{count(checks['rows_compared'])} rows of {count(checks['columns_compared'])} columns, "
        f"in {count(checks['requests'])} requests"
        if checks
        else "",
        "ranker_model": ranker["model"] if ranker else "",
        "ranker": difference_chart(
            "chart-ranker",
            "LLM over no text, within users",
            [
                Value(metric_of(name).label, gain["diff"], *gain["ci95"])
                for name, gain in ranker["llm_vs_no_text"].items()
            ],
        )
        if ranker
        else None,
    }


def cost_of(lift: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return (number, unit, note) of what the encoder and the fits cost, and which encoder it is."""
    cost = lift.get("cost")
    if not cost:
        return None
    rate = cost.get("texts_per_s")
    facts = []
    if rate:
        facts += [
            (minutes(1e6 / rate), "per million items", f"{count(rate)} texts a second, measured"),
            (seconds(1000 / rate), "per 1,000 items", "what a daily load of new items takes"),
        ]
    if cost.get("texts") is not None:
        taken = cost.get("encode_s")
        facts.append(
            (count(cost["texts"]), "texts here", f"{seconds(taken)}; those known before are not encoded again")
        )
    facts.append(
        (seconds(cost.get("fit_s")), "to fit all arms", f"{megabytes(cost.get('peak_rss_mb'))} of memory at most")
    )
    if cost.get("total_s") is not None:
        facts.append((seconds(cost["total_s"]), "for this report", "from the data to this page"))
    encoder = lift.get("encoder")
    about = f"{encoder['model']}, {encoder['dim']} dimensions, {encoder['backend']}. " if encoder else ""
    return {"facts": facts, "encoder": about}


def preflight_of(lift: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the findings about the data, warnings first; None where none were kept."""
    found = lift.get("preflight")
    if not found:
        return None
    ordered = sorted(found, key=lambda finding: finding["severity"] != "warning")
    return [
        {
            "severity": finding["severity"],
            "code": finding["code"],
            "what": upper_first(finding["what"]),
            "handling": upper_first(finding["handling"]),
            "counts": _counts(finding.get("count"), finding.get("of")),
        }
        for finding in ordered
    ]


def method_of(lift: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything that a repetition needs."""
    method, data, encoder = lift.get("method") or {}, lift["data"], lift.get("encoder") or {}
    return {
        "command": method.get("command", ""),
        "test": [
            ("Verdict", upper_first(lift["verdict"]["because"])),
            ("Split", split_words(data, method)),
            ("Rows", rows_words(data)),
            ("Intervals", plain(method["intervals"]) if method.get("intervals") else ""),
            *(
                (_METHOD_NAMES.get(name, _words(name)), plain(held))
                for name, held in method.items()
                if name not in _SAID
            ),
        ],
        "encoder": [(_words(name), plain(held)) for name, held in encoder.items()],
        "environment": [(name, plain(held)) for name, held in (lift.get("environment") or {}).items()],
        "tuning": _tuning(lift.get("tuning")),
        "runs": _runs(lift),
    }


def metrics_of(lift: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of every arm, and of every comparison, by slice."""
    arms = arms_present(lift)
    metrics = [name for name in lift["arms"][arms[0]]["all"] if name != "ci95"]
    slices = []
    for part in lift["arms"][arms[0]]:
        n_rows = lift["data"].get("test_rows_by_slice", {}).get(part)
        note = "" if n_rows is None else f"{count(n_rows)} rows"
        slices.append(
            (SLICE_LABELS.get(part, part), note, _arm_table(lift, part, metrics), _gain_table(lift, part, metrics))
        )
    meanings = [(metric_of(name).label, metric_of(name).meaning, metric_of(name).lower_is_better) for name in metrics]
    return {"slices": slices, "meanings": meanings}


def _arm_table(lift: Mapping[str, Any], part: str, metrics: list[str]) -> Table:
    rows = []
    for arm in arms_present(lift):
        found = lift["arms"][arm].get(part, {})
        cells = (
            Cell(level(found.get(name)), interval(found.get("ci95", {}).get(name), change=False)) for name in metrics
        )
        rows.append((ARM_LABELS.get(arm, arm), tuple(cells)))
    return Table("Arms", SLICE_LABELS.get(part, part), tuple(metric_of(name).label for name in metrics), tuple(rows))


def _gain_table(lift: Mapping[str, Any], part: str, metrics: list[str]) -> Table:
    rows = []
    for comparison in comparisons_present(lift["lift"]):
        found = lift["lift"][comparison].get(part, {})
        cells = tuple(_gain_cell(found.get(name), lower_is_better=metric_of(name).lower_is_better) for name in metrics)
        rows.append((COMPARISON_LABELS.get(comparison, comparison), cells))
    return Table(
        "Differences", SLICE_LABELS.get(part, part), tuple(metric_of(name).label for name in metrics), tuple(rows)
    )


def _gain_cell(found: Mapping[str, Any] | None, *, lower_is_better: bool) -> Cell:
    if found is None:
        return Cell(level(None))
    side = stands(*found["ci95"])
    good = "below" if lower_is_better else "above"
    word = "" if side in (None, "open") else "better" if side == good else "worse"
    return Cell(signed(found["diff"]), interval(found["ci95"], change=True), word)


def _tuning(tuning: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not tuning:
        return None
    arms: Mapping[str, Any] = tuning.get("arms") or {}
    return {
        "chosen_by": tuning.get("chosen_by") or "",
        "n_trials": len(tuning.get("space") or []),
        "bag": tuning.get("bag"),
        "parameters": plain(tuning["parameters"]) if tuning.get("parameters") else "",
        "arms": [
            {
                "label": ARM_LABELS.get(arm, arm),
                "columns": count(about["columns"]) if "columns" in about else "",
                "chosen": plain(about.get("chosen") or {}),
                "trials": [plain(trial) for trial in about.get("trials") or []],
            }
            for arm, about in arms.items()
        ],
    }


def _runs(lift: Mapping[str, Any]) -> Chart | None:
    runs = lift.get("runs")
    if not runs or len(runs) < 2:
        return None
    headline = headline_of(lift)
    values = [Value(f"origin {run['origin']}, seed {run['seed']}", run["diff"]) for run in runs]
    label = metric_of(headline.metric).label
    return difference_chart("chart-runs", f"Difference in {label}, run by run", values, note="LLM over everything else")


def _counts(found: int | None, of: int | None) -> str:
    if found is None:
        return ""
    if not of:
        return count(found)
    return f"{count(found)} of {count(of)}, {100 * found / of:.3g} %"


def _words(name: str) -> str:
    return upper_first(name.replace("_", " "))
