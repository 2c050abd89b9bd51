"""Numbers as the page prints them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "UNDEFINED",
    "count",
    "interval",
    "level",
    "megabytes",
    "minutes",
    "percent",
    "plain",
    "seconds",
    "signed",
    "upper_first",
]

UNDEFINED = "undefined"
_MINUS = "\N{MINUS SIGN}"
_DIGITS = 4
_MOST_DIGITS = 6


def is_number(value: float | None) -> bool:
    """Return whether there is a value: null, NaN and infinities are none."""
    return value is not None and math.isfinite(value)


def count(value: float | None) -> str:
    """Return a whole number with its thousands apart."""
    return UNDEFINED if value is None else f"{value:,.0f}"


def level(value: float | None, *, as_percent: bool = False) -> str:
    """Return a metric: four digits, or percent."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    return percent(value) if as_percent else f"{value:.{_DIGITS}f}".replace("-", _MINUS)


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in percent."""
    return UNDEFINED if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f} %"


def signed(value: float | None) -> str:
    """Return a difference with its sign: four digits, or more where four would hide on which side of zero it is.

    Examples
    --------
    >>> signed(0.00116), signed(0.00003), signed(0.0)
    ('+0.0012', '+0.00003', '0.0000')
    """
    if value is None or not math.isfinite(value):
        return UNDEFINED
    if value == 0:
        return f"{0:.{_DIGITS}f}"
    digits = _DIGITS
    while digits < _MOST_DIGITS and round(value, digits) == 0:
        digits += 1
    return f"{value:+.{digits}f}".replace("-", _MINUS)


def interval(ends: Sequence[float | None] | None, *, change: bool, as_percent: bool = False) -> str:
    """Return an interval in brackets; nothing where either end is undefined."""
    if ends is None or not all(map(is_number, ends)):
        return ""
    low, high = (signed(end) if change else level(end, as_percent=as_percent) for end in ends)
    return f"[{low.removesuffix(' %')}, {high}]"


def seconds(value: float | None) -> str:
    """Return a duration in the unit that suits it."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    if value < 120:
        return f"{value:.0f} s" if value >= 10 else f"{value:.2g} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def minutes(value_s: float | None) -> str:
    """Return seconds as minutes: whole ones from ten on."""
    if value_s is None or not math.isfinite(value_s):
        return UNDEFINED
    return f"{value_s / 60:,.0f} min" if value_s >= 600 else f"{value_s / 60:.2g} min"


def megabytes(value: float | None) -> str:
    """Return a size that came in MB."""
    if value is None:
        return UNDEFINED
    return f"{value / 1024:.1f} GB" if value >= 1024 else f"{value:.0f} MB"


def plain(value: Any) -> str:
    """Return anything that JSON holds as a line of text.

    Examples
    --------
    >>> plain({"num_leaves": 8, "reused": True, "lags_s": [0, 3600]})
    'num_leaves 8 · reused yes · lags_s 0, 3600'
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return " · ".join(f"{name} {plain(held)}" for name, held in _flat(value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(plain, value)) if value else "none"
    return str(value)


def _flat(mapping: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the entries of a mapping, those of mappings within it in their place."""
    return [
        entry
        for name, held in mapping.items()
        for entry in (_flat(held) if isinstance(held, Mapping) else [(str(name), held)])
    ]


def upper_first(text: str) -> str:
    """Return a text that begins as a sentence does, the rest as it is."""
    return text[:1].upper() + text[1:]
