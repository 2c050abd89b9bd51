"""``report.html``: the content of ``lift.json`` on one self-contained page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

__all__ = ["ARM_LABELS", "render_report"]

ARM_LABELS = {
    "popularity": "popularity",
    "no_text": "no text",
    "random": "no text + random vectors",
    "collab": "no text + co-ratings",
    "tfidf": "no text + TF-IDF",
    "llm": "no text + LLM",
    "full_minus_llm": "all but LLM",
    "hybrid": "all (hybrid)",
}
_COMPARISON_LABELS = {
    "hybrid_vs_full_minus_llm": "LLM over everything else",
    "llm_vs_no_text": "LLM over no text",
    "llm_vs_random": "LLM over random vectors",
    "llm_vs_tfidf": "LLM over TF-IDF",
    "hybrid_vs_no_text": "everything over no text",
    "random_vs_no_text": "random vectors over no text",
    "collab_vs_no_text": "co-ratings over no text",
    "tfidf_vs_no_text": "TF-IDF over no text",
}
_MARGIN = 0.06


def render_report(lift: Mapping[str, Any]) -> str:
    """Return the page for the content of ``lift.json``."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("llmfeat.evaluate", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["lag"] = _lag_name
    return environment.get_template("report.html.j2").render(
        lift=lift,
        arm_labels=ARM_LABELS,
        comparison_labels=_COMPARISON_LABELS,
        headline=lift["lift"]["hybrid_vs_full_minus_llm"]["all"]["auc"],
        arm_charts=[
            _chart("AUC, all test rows", _arm_rows(lift, "all"), digits=4),
            _chart("AUC, cold items (under 5 earlier ratings)", _arm_rows(lift, "cold_item"), digits=3),
        ],
        lift_charts=[
            _chart(f"AUC difference, events seen {_lag_name(lag_s)}", _lift_rows(found), digits=4, signed=True)
            for lag_s, found in lift["lags"].items()
        ],
    )


def _arm_rows(lift: Mapping[str, Any], part: str) -> list[tuple[str, float, Sequence[float]]]:
    found = lift["arms"]
    return [(label, found[arm][part]["auc"], found[arm][part]["ci95"]["auc"]) for arm, label in ARM_LABELS.items()]


def _lift_rows(lift: Mapping[str, Any]) -> list[tuple[str, float, Sequence[float]]]:
    rows = ((label, lift[name]["all"]["auc"]) for name, label in _COMPARISON_LABELS.items())
    return [(label, found["diff"], found["ci95"]) for label, found in rows]


def _chart(
    title: str, rows: Iterable[tuple[str, float | None, Sequence[float | None]]], *, digits: int, signed: bool = False
) -> dict[str, Any]:
    """Return what the template draws: every position in percent of the chart's width."""
    defined = [
        (label, point, low, high)
        for label, point, (low, high) in rows
        if point is not None and low is not None and high is not None
    ]
    ends = [end for _, _, low, high in defined for end in (low, high)] + ([0.0] if signed else [])
    left, right = (min(ends), max(ends)) if ends else (0.0, 1.0)
    spread = max(right - left, 1e-9) * (1 + 2 * _MARGIN)
    left -= spread * _MARGIN / (1 + 2 * _MARGIN)

    def place(value: float) -> float:
        return round(100 * (value - left) / spread, 2)

    sign = "+" if signed else ""
    return {
        "title": title,
        "zero": place(0.0) if signed else None,
        "ticks": [
            {"at": place(tick), "text": f"{tick:{sign}.{digits - 1}f}"}
            for tick in _ticks(left, left + spread, step_digits=digits - 1)
        ],
        "rows": [
            {
                "label": label,
                "low": place(low),
                "high": place(high),
                "point": place(point),
                "text": f"{point:{sign}.{digits}f}",
                "interval": f"[{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]",
                "differs": signed and (low > 0 or high < 0),
            }
            for label, point, low, high in defined
        ],
    }


def _ticks(left: float, right: float, *, step_digits: int) -> list[float]:
    """Return about four round numbers between two ends."""
    rough = (right - left) / 4
    step = max(10.0 ** np.floor(np.log10(rough)), 10.0**-step_digits)
    step = next(step * factor for factor in (1, 2, 5, 10, 20, 50, 100, 200, 500) if step * factor >= rough)
    first = int(np.ceil(left / step))
    return [float(step * at) for at in range(first, int(np.floor(right / step)) + 1)]


def _lag_name(lag_s: str | int) -> str:
    seconds = int(lag_s)
    if seconds == 0:
        return "at once"
    return f"{seconds / 3600:g} h late" if seconds >= 3600 else f"{seconds} s late"
