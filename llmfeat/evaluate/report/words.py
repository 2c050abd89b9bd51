"""The answer in sentences that need no statistics to be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmfeat.evaluate.report.charts import Chart, Value, difference_chart
from llmfeat.evaluate.report.formats import count, is_number, minutes, percent, signed, upper_first
from llmfeat.evaluate.report.labels import COMPARISON_LABELS, metric_of

__all__ = ["Answer", "Headline", "answer_of", "headline_of", "rows_words", "split_words"]

_TITLES = {
    "yes": "Adopt the LLM features",
    "no": "Do not adopt the LLM features",
    "underpowered": "These data cannot tell",
}
_NEXT_STEPS = {
    "yes": "Before it serves, see below what it costs and where the gain is.",
    "no": "It holds for this encoder on these texts: others, or a user's history as text, may do better.",
    "underpowered": "More test users would tell: a longer log, an earlier start of the test, or more origins.",
}
_READINGS = {
    "auc": "AUC: of one positive and one negative test row, drawn at random, how often the positive one is ranked "
    "first. 50 of 100 is chance, 100 of 100 is perfect.",
    "ndcg@10": "NDCG@10 counts the next item in full when it is ranked first, less on each rank below (0.63 on the "
    "second, 0.29 on the tenth), and not at all past ten: it grows when hits come earlier, not only more often.",
}


@dataclass(frozen=True)
class Headline:
    """The one comparison on the one metric that the answer rests on."""

    comparison: str
    metric: str
    diff: float | None
    low: float | None
    high: float | None
    detectable: float | None
    least_worth: float | None

    @property
    def arms(self) -> tuple[str, str]:
        """The arm with the encoder, and the one that it is held against."""
        ours, _, theirs = self.comparison.partition("_vs_")
        return ours, theirs


@dataclass(frozen=True)
class Answer:
    """What stands above everything else on the page.

    Attributes
    ----------
    adopt : {"yes", "no", "underpowered"}
        The verdict.
    title, sentence, reading, rule, next_step : str
        The verdict as a heading; the answer with its interval; how its metric is read; what decides; what to do.
    strip : Chart
        The interval against zero, what would be worth it and what could be found.
    facts : tuple of (number, unit, note)
        The size of the test, and the cost.
    """

    adopt: str
    title: str
    sentence: str
    reading: str
    rule: str
    next_step: str
    strip: Chart
    facts: tuple[tuple[str, str, str], ...]


def headline_of(lift: Mapping[str, Any]) -> Headline:
    """Return the headline of ``lift.json``."""
    verdict = lift["verdict"]
    metric = lift.get("primary_metric") or verdict["metric"]
    found = lift["lift"][verdict["comparison"]]["all"][metric]
    low, high = verdict.get("ci95") or found["ci95"]
    return Headline(
        verdict["comparison"],
        metric,
        verdict.get("diff", found["diff"]),
        low,
        high,
        verdict.get("minimum_detectable_effect"),
        verdict.get("least_worth"),
    )


def answer_of(lift: Mapping[str, Any]) -> Answer:
    """Return the answer of ``lift.json``."""
    headline = headline_of(lift)
    verdict = lift["verdict"]
    sentence = _cannot_tell(lift, headline) if verdict["adopt"] == "underpowered" else _change(lift, headline)
    return Answer(
        adopt=verdict["adopt"],
        title=_TITLES[verdict["adopt"]],
        sentence=sentence,
        reading=_READINGS.get(
            headline.metric, f"{metric_of(headline.metric).label}: {metric_of(headline.metric).meaning}."
        ),
        rule=_rule(headline.least_worth),
        next_step=_NEXT_STEPS[verdict["adopt"]],
        strip=_strip(headline, known=verdict["adopt"] != "underpowered"),
        facts=_facts(lift),
    )


def rows_words(data: Mapping[str, Any]) -> str:
    """Return how many rows were trained on and tested, and of how many they are a sample."""
    parts = []
    for role, n_rows in (("train", data.get("train_rows")), ("test", data.get("test_rows"))):
        sample = (data.get("sampled") or {}).get(role) or {}
        if sample.get("used") is not None and sample["used"] != sample.get("of"):
            parts.append(f"{role}: {count(sample['used'])} rows, drawn from {count(sample['of'])}")
        elif n_rows is not None:
            parts.append(f"{role}: {count(n_rows)} rows")
    return upper_first("; ".join(parts))


def split_words(data: Mapping[str, Any], method: Mapping[str, Any]) -> str:
    """Return where the training ends and the test begins."""
    split = data.get("split") or {}
    share = split.get("test_fraction") or method.get("test_fraction")
    if split.get("by") == "column":
        return "by the column of the data that says so"
    if split.get("by") == "own histories":
        return "by the column of the data that says so; each row brings its own history"
    start = f", from {split['test_from'].replace('T', ' ').replace('Z', ' UTC')} on" if split.get("test_from") else ""
    return f"by time: the test is the last {percent(share)} of the rows{start}" if share else f"by time{start}"


def _rule(least_worth: float | None) -> str:
    """Return what decides, in words: it was fixed before anything was measured, whatever the verdict."""
    if least_worth is None or not is_number(least_worth):
        return "Adopt when the interval is above zero."
    return (
        f"Adopt when the interval is above zero and the gain at least {least_worth:g}, the least worth a model; "
        "do not when the interval ends below that; otherwise the data cannot tell."
    )


def _change(lift: Mapping[str, Any], headline: Headline) -> str:
    label = metric_of(headline.metric).label
    lasting = _interval_words(headline)
    return f"On {lift['data']['name']}, {_in_words(lift, headline)}{label} changes by {signed(headline.diff)}{lasting}."


def _cannot_tell(lift: Mapping[str, Any], headline: Headline) -> str:
    """Return the answer without a sign: one that is not known must not be read as one that is."""
    label = metric_of(headline.metric).label
    name, users = lift["data"]["name"], lift["data"].get("test_users")
    who = f"{count(users)} test users" if users is not None else "the test rows"
    if not is_number(headline.detectable):
        return f"On {name}, {who} are too few to find a gain in {label} of any size{_interval_words(headline)}."
    # An interval above zero says that there is a gain, not that there is enough of it.
    nothing = "too little" if headline.low is not None and headline.low > 0 else "nothing"
    return (
        f"On {name}, {who} are enough to find, four times in five, a gain in {label} of {headline.detectable:.4f} "
        f"or more; what the LLM features add was not told apart from {nothing}{_interval_words(headline)}."
    )


def _interval_words(headline: Headline) -> str:
    if not (is_number(headline.low) and is_number(headline.high)):
        return " (its interval is undefined)"
    return f" (95 % interval {signed(headline.low)} to {signed(headline.high)})"


def _in_words(lift: Mapping[str, Any], headline: Headline) -> str:
    """Return the two arms in a unit that everybody knows, and a semicolon; nothing where an arm has no number."""
    ours, theirs = (lift["arms"].get(arm, {}).get("all", {}) for arm in headline.arms)
    if lift["task"] == "next-item" and is_number(ours.get("hr@10")) and is_number(theirs.get("hr@10")):
        return (
            f"the next item was among the ten best in {percent(ours['hr@10'])} of cases instead of "
            f"{percent(theirs['hr@10'])} without the LLM features; "
        )
    if headline.metric == "auc" and is_number(ours.get("auc")) and is_number(theirs.get("auc")):
        return (
            f"the right one of two test rows is ranked first in {100 * ours['auc']:.2f} of 100 pairs instead of "
            f"{100 * theirs['auc']:.2f} without the LLM features; "
        )
    return ""


def _strip(headline: Headline, *, known: bool) -> Chart:
    label = metric_of(headline.metric).label
    value = Value(
        COMPARISON_LABELS.get(headline.comparison, headline.comparison),
        headline.diff if known else None,
        headline.low,
        headline.high,
        text="" if known else "cannot tell",
    )
    marks = [
        ("worth", headline.least_worth, f"least gain worth a model: {signed(headline.least_worth)}"),
        ("found", headline.detectable, f"least gain found four times in five: {signed(headline.detectable)}"),
    ]
    return difference_chart("chart-answer", f"Change in {label}, 95 % interval", [value], marks=marks)


def _facts(lift: Mapping[str, Any]) -> tuple[tuple[str, str, str], ...]:
    data, cost = lift["data"], lift.get("cost") or {}
    facts = [(count(data["test_rows"]), "test rows", f"of {count(data['test_users'])} users")]
    if data.get("train_rows") is not None:
        facts.append((count(data["train_rows"]), "training rows", "all before the test" if _by_time(data) else ""))
    if data.get("items") is not None:
        without = data.get("items_without_text")
        facts.append((count(data["items"]), "items", f"{count(without)} without text" if without else "all with text"))
    if cost.get("texts_per_s"):
        facts.append((minutes(1e6 / cost["texts_per_s"]), "per million items", "to encode, on this machine"))
    return tuple(facts)


def _by_time(data: Mapping[str, Any]) -> bool:
    split: Mapping[str, Any] = data.get("split") or {}
    return bool(split.get("by", "time") == "time")
