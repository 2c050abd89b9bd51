"""What is read off a window of cosines: one small function a statistic, over plain arrays of one block of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from llmfeat.types import BoolArray, Float32Array, Float64Array, Int64Array

__all__ = ["DEFAULT_STATISTICS", "SIDES", "STATISTICS", "KernelSpec", "Window", "summarize"]

SIDES = ("all", "pos", "neg")
DEFAULT_STATISTICS = ("coverage", "last", "top", "mean", "decay", "label")
_BELOW_ALL = -2  # cosines end at -1
_LEAST_NORM = 2.0**-8
# 2**-100 times the least cosine but 0 is still a normal float32.
_MOST_HALF_LIVES = np.float32(100)


@dataclass(frozen=True)
class KernelSpec:
    """What the kernel computes: how far back, which statistics, how sharp.

    Parameters
    ----------
    max_events : int
        The most recent events that are looked at.
    top_k : int
        How many of the nearest events make the ``top`` mean.
    half_lives : tuple of float
        For each, a mean whose weights halve with that many events.
    half_lives_s : tuple of float
        For each, a mean whose weights halve with that many seconds.
    temperatures : tuple of float
        For each, the mean label of the history weighted by ``exp(cosine / temperature)``.
    statistics : tuple of str
        Which of `STATISTICS`.
    sides : tuple of str
        Which of `SIDES`: over all events, the liked ones, the disliked ones.
    """

    max_events: int = 50
    top_k: int = 5
    half_lives: tuple[float, ...] = (5.0,)
    half_lives_s: tuple[float, ...] = ()
    temperatures: tuple[float, ...] = (0.05, 0.2)
    statistics: tuple[str, ...] = DEFAULT_STATISTICS
    sides: tuple[str, ...] = SIDES

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(name for statistic in self.ordered for name in STATISTICS[statistic].names(self))

    @cached_property
    def ordered(self) -> tuple[str, ...]:
        """The statistics in the order of their columns, whatever the order they were asked for in."""
        return tuple(name for name in STATISTICS if name in self.statistics)

    def prefixes(self) -> tuple[str, ...]:
        """Return what the columns of each side begin with."""
        return tuple("" if side == "all" else f"{side}_" for side in self.sides)


@dataclass(frozen=True, eq=False)
class Window:
    """A block of rows and what each sees, newest first; ``width`` is ``spec.max_events``.

    Attributes
    ----------
    has_vector : ndarray of shape (n_rows,), bool
        Whether the candidate has one.
    earlier : ndarray of shape (n_rows, width), bool
        Whether the window reaches that far back.
    seen : ndarray of shape (n_rows, width), bool
        Whether there is a cosine: an event, with a vector, and a candidate with one.
    cosines : ndarray of shape (n_rows, width), float32
        0 where not `seen`.
    labels : ndarray of shape (n_rows, width), float32
        NaN where there is no event, or its label is not known yet.
    ages_s : ndarray of shape (n_rows, width), float32, or None
        Seconds since each event; anything where there is none.
    with_vector : ndarray of shape (n_rows, width), bool
        Whether there is an event that has a vector, whatever the candidate has.
    norms : mapping of str to ndarray of shape (n_rows,), float64
        By side, the length of the sum of the window's unit vectors; only where a statistic needs it.
    """

    has_vector: BoolArray
    earlier: BoolArray
    seen: BoolArray
    cosines: Float32Array
    labels: Float32Array
    ages_s: Float32Array | None
    with_vector: BoolArray
    norms: Mapping[str, Float64Array]

    # Masks are float32 of 0 and 1: numpy multiplies by them several times as fast as by booleans.

    @cached_property
    def sides(self) -> Mapping[str, Float32Array]:
        """The seen events of each side: 1 where there is one."""
        return {
            "all": _mask(self.seen),
            "pos": _mask(self.seen & (self.labels > 0)),
            "neg": _mask(self.seen & (self.labels <= 0)),
        }

    @cached_property
    def counts(self) -> Mapping[str, Float32Array]:
        """How many seen events each side has."""
        return {side: _count(mask) for side, mask in self.sides.items()}

    @cached_property
    def kept(self) -> Mapping[str, Float32Array]:
        """The cosines of each side, 0 elsewhere."""
        return {side: self.cosines if side == "all" else self.cosines * mask for side, mask in self.sides.items()}

    @cached_property
    def nearest(self) -> Int64Array:
        """The column of the highest cosine, the newest of equal ones; 0 where nothing is seen."""
        nearest: Int64Array = _sunk(self.cosines, self.sides["all"]).argmax(axis=1)
        return nearest

    def at_nearest(self, values: Float32Array) -> Float32Array:
        """Return what `values` hold at the nearest event, NaN where nothing is seen."""
        taken = np.take_along_axis(values, self.nearest[:, None], axis=1)[:, 0]
        return np.where(self.counts["all"] > 0, taken, np.float32(np.nan))


Columns: TypeAlias = Iterator[Float32Array]


@dataclass(frozen=True)
class Statistic:
    """A family of columns: their names, and how they are computed."""

    names: Callable[[KernelSpec], tuple[str, ...]]
    columns: Callable[[Window, KernelSpec], Columns]
    uses_ages: bool = False
    uses_norms: bool = False


def summarize(window: Window, spec: KernelSpec, out: Float32Array) -> None:
    """Fill `out`, of shape ``(n_rows, len(spec.names))``."""
    at = 0
    for name in spec.ordered:
        for column in STATISTICS[name].columns(window, spec):
            out[:, at] = column
            at += 1


def _coverage(window: Window, spec: KernelSpec) -> Columns:
    yield window.has_vector.astype(np.float32)
    yield _divide(_count(_mask(window.with_vector)), _count(_mask(window.earlier)))


def _counts(window: Window, spec: KernelSpec) -> Columns:
    for side in spec.sides:
        yield window.counts[side]


def _last(window: Window, spec: KernelSpec) -> Columns:
    yield np.where(window.seen[:, 0], window.cosines[:, 0], np.float32(np.nan))


def _max_and_top(window: Window, spec: KernelSpec) -> Columns:
    for side in spec.sides:
        mask, count = window.sides[side], window.counts[side]
        top = min(spec.top_k, mask.shape[1])
        ranked = np.sort(_sunk(window.cosines, mask), axis=1)[:, -top:]  # upwards: what is not of the side comes first
        largest = ranked[:, -1].copy()
        largest[count == 0] = np.nan
        yield largest
        ranked[ranked < _BELOW_ALL] = 0.0
        yield _divide(ranked.sum(axis=1), np.minimum(count, np.float32(top)))


def _mean(window: Window, spec: KernelSpec) -> Columns:
    for side in spec.sides:
        yield _divide(window.kept[side].sum(axis=1), window.counts[side])


def _decay(window: Window, spec: KernelSpec) -> Columns:
    events_ago = np.arange(window.cosines.shape[1], dtype=np.float32)[None]
    weights = [_decayed(events_ago, half_life) for half_life in spec.half_lives]
    if spec.half_lives_s:
        assert window.ages_s is not None, "the kernel gives ages where half-lives are in seconds"
        weights += [_decayed(window.ages_s, half_life_s) for half_life_s in spec.half_lives_s]
    for weight in weights:
        for side in spec.sides:
            total = (window.kept[side] * weight).sum(axis=1)
            yield _divide(total, (window.sides[side] * weight).sum(axis=1))


def _decayed(ages: Float32Array, half_life: float) -> Float32Array:
    # Past the largest number of half-lives all events weigh the same, so that the mean of old ones alone is their mean.
    # What is no event of the row may have any age, and is taken at 0 or that many half-lives.
    weights: Float32Array = np.exp2(-np.clip(ages * np.float32(1 / half_life), 0, _MOST_HALF_LIVES))
    return weights


def _profile(window: Window, spec: KernelSpec) -> Columns:
    for side in spec.sides:
        # A sum that cancels out has no direction, and the rounding of the cosines would be all that is left of it.
        there = (window.counts[side] > 0) & (window.norms[side] > _LEAST_NORM)
        total = window.kept[side].sum(axis=1, dtype=np.float64)
        yield np.clip(_divide(total, np.where(there, window.norms[side], 0.0)), -1, 1)


def _label(window: Window, spec: KernelSpec) -> Columns:
    known, liked = window.sides["pos"] + window.sides["neg"], window.sides["pos"]
    cosines = _sunk(window.cosines, known)
    cosines -= cosines.max(axis=1, keepdims=True)
    for temperature in spec.temperatures:
        weights = np.exp(cosines * np.float32(1 / temperature))
        weights *= known
        yield _divide((weights * liked).sum(axis=1), weights.sum(axis=1))


def _nearest(window: Window, spec: KernelSpec) -> Columns:
    yield window.at_nearest(window.labels)
    yield np.where(window.counts["all"] > 0, window.nearest, np.nan).astype(np.float32)
    assert window.ages_s is not None, "the kernel gives ages where a statistic uses them"
    yield window.at_nearest(window.ages_s)


def _novelty(window: Window, spec: KernelSpec) -> Columns:
    yield np.float32(1) - window.at_nearest(window.cosines)


def _by_side(*stats: str) -> Callable[[KernelSpec], tuple[str, ...]]:
    return lambda spec: tuple(f"{side}{stat}" for side in spec.prefixes() for stat in stats)


def _decay_names(spec: KernelSpec) -> tuple[str, ...]:
    lives = [f"decay{life:g}" for life in spec.half_lives] + [f"decay{life:g}s" for life in spec.half_lives_s]
    return tuple(f"{side}{life}" for life in lives for side in spec.prefixes())


# In the order of their columns.
STATISTICS: Mapping[str, Statistic] = {
    "coverage": Statistic(lambda spec: ("has_vector", "history_share"), _coverage),
    "count": Statistic(_by_side("n"), _counts),
    "last": Statistic(lambda spec: ("last",), _last),
    "top": Statistic(lambda spec: _by_side("max", f"top{spec.top_k}")(spec), _max_and_top),
    "mean": Statistic(_by_side("mean"), _mean),
    "decay": Statistic(_decay_names, _decay),
    "profile": Statistic(_by_side("profile"), _profile, uses_norms=True),
    "label": Statistic(lambda spec: tuple(f"label_t{each:g}" for each in spec.temperatures), _label),
    "nearest": Statistic(
        lambda spec: ("nearest_label", "nearest_events_ago", "nearest_age_s"), _nearest, uses_ages=True
    ),
    "novelty": Statistic(lambda spec: ("novelty",), _novelty),
}


def _mask(there: BoolArray) -> Float32Array:
    return there.astype(np.float32)


def _count(mask: Float32Array) -> Float32Array:
    count: Float32Array = np.einsum("ij->i", mask)  # whole numbers, exact in any order
    return count


def _sunk(cosines: Float32Array, mask: Float32Array) -> Float32Array:
    """Return the cosines where the mask is 1, and values under `_BELOW_ALL` where it is 0."""
    return cosines + (mask - np.float32(1)) * np.float32(4)


def _divide(total: Float32Array | Float64Array, count: Float32Array | Float64Array) -> Float32Array:
    out = np.full(len(total), np.nan, dtype=np.float32)
    np.divide(total, count, out=out, where=count > 0, casting="same_kind")
    return out
