"""Charts as plain data: every place in percent of the chart's width, every number also as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmfeat.evaluate.report.formats import interval, is_number, level, signed

__all__ = ["Axis", "Bar", "Chart", "Mark", "Value", "difference_chart", "ends_of", "level_chart", "stands", "value_of"]

Stands = Literal["above", "below", "open"]

# Room between the outermost value and the edge, so that a point or a label there is not cut.
_MARGIN = 0.05
_STANDS_WORDS = {"above": "above zero", "below": "below zero", "open": "reaches zero"}


@dataclass(frozen=True)
class Value:
    """One number to draw, with its interval where it has one.

    Attributes
    ----------
    label, note : str
        What it is, and what there is to say of it.
    point, low, high : float or None
        The number and the ends of its interval; None where it is undefined.
    strong : bool
        Whether it is drawn in the accent.
    group : str
        The heading under which it stands.
    text : str
        What is printed instead of the number.
    """

    label: str
    point: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""
    strong: bool = False
    group: str = ""
    text: str = ""


@dataclass(frozen=True)
class Bar:
    """A `Value` in its place: `fill` and `span` are (left, width) in percent."""

    label: str
    note: str
    group: str
    text: str
    interval: str
    spoken: str
    strong: bool
    fill: tuple[float, float] | None
    span: tuple[float, float] | None
    point: float | None
    stands: Stands | None
    stands_words: str


@dataclass(frozen=True)
class Mark:
    """A vertical line across a chart, named in its legend."""

    kind: str
    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """What the template draws; `id` is unique on the page, `zero` is where zero lies if it is drawn."""

    id: str
    title: str
    note: str
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    zero: float | None
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Axis:
    """A line from `low` to `high`, which are not equal.

    Examples
    --------
    >>> axis = Axis.over([0.0, 0.03], margin=0)
    >>> axis.place(0.015), axis.ticks()
    (50.0, [0.0, 0.01, 0.02, 0.03])
    """

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float], *, margin: float = _MARGIN, fixed_low: float | None = None) -> Axis:
        """Return an axis that holds the values; with `fixed_low` it begins there unless a value is below."""
        found = [value for value in values if math.isfinite(value)]
        ends = found + ([] if fixed_low is None else [fixed_low])
        low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
        # Values that agree still need a width; it follows their size so that floats can tell the ends apart.
        room = margin * (high - low) if high > low else max(abs(high), 1e-6)
        return cls(low if low == fixed_low else low - room, high + room)

    def place(self, value: float) -> float:
        """Return where a value lies, in percent, within the axis."""
        return round(min(max(100 * (value - self.low) / (self.high - self.low), 0.0), 100.0), 2)

    def step(self) -> float:
        """Return the distance of the ticks: 1, 2 or 5 times a power of ten, for two to six of them."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        return next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= rough * (1 - 1e-9))

    def ticks(self) -> list[float]:
        """Return round numbers on the axis."""
        step = self.step()
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        # Rounded: 3 * 0.1 would print as 0.30000000000000004.
        digits = max(0, 1 - math.floor(math.log10(step)))
        return [round(step * at, digits) + 0.0 for at in range(first, last + 1)]


def stands(low: float | None, high: float | None) -> Stands | None:
    """Return on which side of zero an interval lies; "open" when it reaches zero, None when it is undefined."""
    if low is None or high is None or not is_number(low) or not is_number(high):
        return None
    return "above" if low > 0 else "below" if high < 0 else "open"


def value_of(label: str, point: float | None, ends: Sequence[float | None] | None, **about: Any) -> Value:
    """Return a `Value` from what ``lift.json`` holds."""
    low, high = ends if ends is not None else (None, None)
    return Value(label, point, low, high, **about)


def ends_of(values: Iterable[Value]) -> list[float]:
    """Return all numbers of `values` that are defined: what an axis has to hold."""
    return [
        end for value in values for end in (value.point, value.low, value.high) if end is not None and is_number(end)
    ]


def level_chart(
    name: str,
    title: str,
    values: Sequence[Value],
    *,
    note: str = "",
    base: float = 0.0,
    as_percent: bool = False,
    axis: Axis | None = None,
) -> Chart:
    """Return bars that begin at `base`, so that their lengths compare.

    Parameters
    ----------
    name, title, note : str
        Its id on the page, its heading and what stands beside that.
    values : sequence of Value
        One a bar.
    base : float
        Where the bars begin: zero, or what chance gives.
    as_percent : bool
        Whether the numbers are shares.
    axis : Axis, optional
        One that several charts have in common; by default one that holds the values.
    """
    axis = Axis.over(ends_of(values), fixed_low=base) if axis is None else axis
    bars = tuple(
        _bar(
            value,
            axis,
            base=base,
            text=value.text or level(value.point, as_percent=as_percent),
            ends=interval((value.low, value.high), change=False, as_percent=as_percent),
            side=None,
        )
        for value in values
    )
    return Chart(name, title, note, bars, _ticks(axis, as_percent=as_percent), None)


def difference_chart(
    name: str,
    title: str,
    values: Sequence[Value],
    *,
    note: str = "",
    axis: Axis | None = None,
    marks: Iterable[tuple[str, float | None, str]] = (),
) -> Chart:
    """Return points with intervals about a line at zero.

    Parameters
    ----------
    name, title, note, values, axis
        As for `level_chart`; the axis holds zero and the marks.
    marks : iterable of (kind, value, label)
        Lines besides the one at zero; those whose value is None are left out.
    """
    defined = [(kind, at, label) for kind, at, label in marks if at is not None and is_number(at)]
    axis = Axis.over([*ends_of(values), 0.0, *(at for _, at, _ in defined)]) if axis is None else axis
    bars = tuple(
        _bar(
            value,
            axis,
            base=None,
            text=value.text or signed(value.point),
            ends=interval((value.low, value.high), change=True),
            side=stands(value.low, value.high),
        )
        for value in values
    )
    lines = tuple(Mark(kind, axis.place(at), label) for kind, at, label in defined)
    return Chart(name, title, note, bars, _ticks(axis, change=True), axis.place(0.0), lines)


def _bar(value: Value, axis: Axis, *, base: float | None, text: str, ends: str, side: Stands | None) -> Bar:
    point = axis.place(value.point) if value.point is not None and is_number(value.point) else None
    span = fill = None
    if ends and value.low is not None and value.high is not None:
        span = _between(axis.place(value.low), axis.place(value.high))
    if base is not None and point is not None:
        fill = _between(axis.place(base), point)
    words = _STANDS_WORDS[side] if side else ""
    heading = f"{value.group}, {value.label}" if value.group else value.label
    spoken = ", ".join(part for part in (f"{heading}: {text}", f"interval {ends}" if ends else "", words) if part)
    return Bar(value.label, value.note, value.group, text, ends, spoken, value.strong, fill, span, point, side, words)


def _between(left: float, right: float) -> tuple[float, float]:
    low, high = min(left, right), max(left, right)
    return low, round(high - low, 2)


def _ticks(axis: Axis, *, as_percent: bool = False, change: bool = False) -> tuple[tuple[float, str], ...]:
    digits = max(0, -math.floor(math.log10(axis.step() * (100 if as_percent else 1)) + 1e-9))

    def text(value: float) -> str:
        if as_percent:
            return f"{100 * value:.{digits}f} %"
        sign = "+" if change and value else ""
        return f"{value:{sign}.{digits}f}".replace("-", "\N{MINUS SIGN}")

    return tuple((axis.place(value), text(value)) for value in axis.ticks())
