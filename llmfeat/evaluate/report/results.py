"""What the sections about results show: arms, comparisons, popularity, importance, candidates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmfeat.evaluate.report.charts import Axis, Chart, Value, difference_chart, ends_of, level_chart, value_of
from llmfeat.evaluate.report.formats import count, percent, upper_first
from llmfeat.evaluate.report.labels import (
    ARM_LABELS,
    ARM_NOTES,
    COMPARISON_LABELS,
    COMPARISON_NOTES,
    FAMILY_LABELS,
    LLM_ARMS,
    SLICE_LABELS,
    lag_label,
    metric_of,
)
from llmfeat.evaluate.report.words import headline_of

__all__ = [
    "adds_of",
    "arms_of",
    "arms_present",
    "candidates_of",
    "comparisons_present",
    "importance_of",
    "popularity_of",
]

_LAG_COMPARISONS = ("hybrid_vs_full_minus_llm", "llm_vs_no_text", "random_vs_no_text")
_POPULARITY_COMPARISONS = ("hybrid_vs_full_minus_llm", "hybrid_vs_no_text")
_IMPORTANCE_ARMS = ("hybrid", "full_minus_llm")
_MOST_COLUMNS = 20


def arms_present(lift: Mapping[str, Any]) -> list[str]:
    """Return the arms of ``lift.json`` in the order in which they are read."""
    return [
        *(arm for arm in ARM_LABELS if arm in lift["arms"]),
        *(arm for arm in lift["arms"] if arm not in ARM_LABELS),
    ]


def comparisons_present(found: Mapping[str, Any]) -> list[str]:
    """Return the comparisons of ``lift`` in the order in which they are read."""
    return [
        *(name for name in COMPARISON_LABELS if name in found),
        *(name for name in found if name not in COMPARISON_LABELS),
    ]


def arms_of(lift: Mapping[str, Any]) -> dict[str, Any]:
    """Return the charts of the arms: on all rows by each metric that is told, then by slice on the primary one."""
    primary = headline_of(lift).metric
    told = ["hr@10", primary] if lift["task"] == "next-item" and primary != "hr@10" else [primary]
    whole = [
        _arm_chart(f"chart-arms-{_slug(metric)}", metric_of(metric).label, lift, "all", metric, notes=at == 0)
        for at, metric in enumerate(told)
        if any(metric in lift["arms"][arm]["all"] for arm in lift["arms"])
    ]
    parts = [part for part in _slices(lift) if part != "all"]
    values = {part: _arm_values(lift, part, primary) for part in parts}
    base = metric_of(primary).chance
    # One axis for all slices: their bars compare with each other.
    axis = Axis.over(ends_of(value for part in parts for value in values[part]), fixed_low=base)
    sliced = [
        level_chart(
            f"chart-slice-{_slug(part)}",
            SLICE_LABELS.get(part, part),
            values[part],
            note=_rows_note(lift, part),
            base=base,
            as_percent=metric_of(primary).as_percent,
            axis=axis,
        )
        for part in parts
    ]
    return {"whole": whole, "sliced": sliced, "metric": metric_of(primary), "chance": base}


def adds_of(lift: Mapping[str, Any]) -> dict[str, Any]:
    """Return the charts of the comparisons, of the headline by slice, and of what late events leave of a gain."""
    headline = headline_of(lift)
    metric = headline.metric
    label = metric_of(metric).label
    compared = difference_chart(
        "chart-adds",
        f"Difference in {label}",
        [
            _gain(
                COMPARISON_LABELS.get(name, name), lift["lift"][name]["all"].get(metric), COMPARISON_NOTES.get(name, "")
            )
            for name in comparisons_present(lift["lift"])
        ],
        note=f"all test rows, {count(lift['data']['test_rows'])}",
    )
    by_slice = difference_chart(
        "chart-adds-slices",
        "LLM over everything else, by slice",
        [
            _gain(
                SLICE_LABELS.get(part, part),
                lift["lift"][headline.comparison][part].get(metric),
                _rows_note(lift, part),
            )
            for part in _slices(lift)
        ],
        note=label,
    )
    return {"compared": compared, "by_slice": by_slice, "lags": _lag_chart(lift, metric)}


def popularity_of(lift: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the charts of the gain against how often an item was seen before; None where nothing was measured."""
    deciles = lift.get("by_popularity")
    if not deciles:
        return None
    label = metric_of(headline_of(lift).metric).label
    names = [name for name in _POPULARITY_COMPARISONS if any(name in decile["gain"] for decile in deciles)]
    values = {
        name: [
            _gain(_events_label(decile), decile["gain"].get(name), f"{count(decile['rows'])} rows")
            for decile in deciles
        ]
        for name in names
    }
    axis = Axis.over([*ends_of(value for name in names for value in values[name]), 0.0])
    charts = [
        difference_chart(
            f"chart-popularity-{_slug(name)}",
            COMPARISON_LABELS[name],
            values[name],
            note=f"{label}, by earlier events of the item",
            axis=axis,
        )
        for name in names
    ]
    return {"charts": charts, "n_deciles": len(deciles)}


def importance_of(lift: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the charts of what the rankers split on; None where nothing was kept of it."""
    found = {arm: about for arm, about in (lift.get("importance") or {}).items() if about}
    arms = [arm for arm in _IMPORTANCE_ARMS if arm in found]
    if not arms:
        return None
    families = {
        arm: [
            Value(FAMILY_LABELS.get(family, family), share, strong=family == "llm")
            for family, share in sorted(found[arm]["families"].items(), key=lambda entry: -entry[1])
        ]
        for arm in arms
    }
    axis = Axis.over(ends_of(value for arm in arms for value in families[arm]), fixed_low=0.0)
    columns = [
        Value(
            column["name"],
            column["share"],
            note=FAMILY_LABELS.get(column["family"], column["family"]),
            strong=column["family"] == "llm",
        )
        for column in found[arms[0]]["columns"][:_MOST_COLUMNS]
    ]
    return {
        "families": [
            level_chart(
                f"chart-families-{_slug(arm)}", upper_first(ARM_LABELS[arm]), families[arm], as_percent=True, axis=axis
            )
            for arm in arms
        ],
        "columns": level_chart(
            "chart-columns",
            f"The {len(columns)} columns that matter most",
            columns,
            note=ARM_LABELS[arms[0]],
            as_percent=True,
        )
        if columns
        else None,
    }


def candidates_of(lift: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the charts of the two stages apart: what reaches the ranker, and how it ranks what did."""
    found = lift.get("candidates")
    if not found:
        return None
    recall = [
        value_of("all generators together", found["recall"], found.get("recall_ci95"), strong=True),
        *(Value(name, share) for name, share in (found.get("by_generator") or {}).items()),
    ]
    given = found.get("given_recall") or {}
    metric = "hr@10" if any("hr@10" in about for about in given.values()) else headline_of(lift).metric
    ranked = [
        Value(ARM_LABELS.get(arm, arm), given[arm].get(metric), strong=arm in LLM_ARMS)
        for arm in arms_present(lift)
        if arm in given
    ]
    about = metric_of(metric)
    return {
        "recall": level_chart(
            "chart-recall", "Found by the candidate stage", recall, note="share of next items", as_percent=True
        ),
        "given": level_chart(
            "chart-given-recall",
            f"{about.label} of those found",
            ranked,
            note="the ranker alone",
            as_percent=about.as_percent,
        )
        if ranked
        else None,
        "recall_text": percent(found["recall"]),
        "per_query": count(found.get("per_query")),
        "k": count(found.get("k_per_generator")),
    }


def _arm_values(lift: Mapping[str, Any], part: str, metric: str, *, notes: bool = False) -> list[Value]:
    values = []
    for arm in arms_present(lift):
        found = lift["arms"][arm].get(part, {})
        ends = found.get("ci95", {}).get(metric)
        values.append(
            value_of(
                ARM_LABELS.get(arm, arm),
                found.get(metric),
                ends,
                note=ARM_NOTES.get(arm, "") if notes else "",
                strong=arm in LLM_ARMS,
            )
        )
    return values


def _arm_chart(name: str, title: str, lift: Mapping[str, Any], part: str, metric: str, *, notes: bool) -> Chart:
    about = metric_of(metric)
    values = _arm_values(lift, part, metric, notes=notes)
    return level_chart(name, title, values, note=about.meaning, base=about.chance, as_percent=about.as_percent)


def _lag_chart(lift: Mapping[str, Any], metric: str) -> Chart | None:
    lags: Mapping[str, Any] = lift.get("lags") or {}
    if len(lags) < 2:
        return None
    values = [
        _gain(f"events seen {lag_label(lag_s)}", found[name]["all"].get(metric), group=COMPARISON_LABELS[name])
        for name in _LAG_COMPARISONS
        for lag_s, found in lags.items()
        if name in found
    ]
    return difference_chart("chart-lags", f"Difference in {metric_of(metric).label} when events arrive late", values)


def _gain(label: str, found: Mapping[str, Any] | None, note: str = "", group: str = "") -> Value:
    if found is None:
        return Value(label, None, note=note, group=group)
    return value_of(label, found["diff"], found["ci95"], note=note, group=group)


def _slices(lift: Mapping[str, Any]) -> Sequence[str]:
    present: Iterable[str] = next(iter(lift["arms"].values()))
    return [
        *(part for part in SLICE_LABELS if part in present),
        *(part for part in present if part not in SLICE_LABELS),
    ]


def _rows_note(lift: Mapping[str, Any], part: str) -> str:
    n_rows = lift["data"].get("test_rows_by_slice", {}).get(part)
    return "" if n_rows is None else f"{count(n_rows)} rows"


def _events_label(decile: Mapping[str, Any]) -> str:
    low, high = decile["events"]
    return f"{count(low)} events" if low == high else f"{count(low)}–{count(high)} events"


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
