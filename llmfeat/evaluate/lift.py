"""How much each arm adds over the others, on the same test rows, at each lag."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import joblib
import numpy as np
import pyarrow as pa

from llmfeat._base.files import cache_dir, canonical_json, source_sha256
from llmfeat._base.frames import id_column
from llmfeat._base.progress import bar
from llmfeat.encode import VectorTable
from llmfeat.evaluate.arms import ARMS, ArmResult, fit_arm
from llmfeat.evaluate.controls import CollabVectors, random_vectors, tfidf_vectors
from llmfeat.evaluate.metrics import METRICS, Estimate, Resamples, interval, measure
from llmfeat.evaluate.split import TimeSplit, split_by_time
from llmfeat.features import ActivityFeatures, HistoryFeatures, PastFittedFeatures
from llmfeat.features._activity import ACTIVITY_NAMES, POPULARITY_NAMES
from llmfeat.features._rows import LogTransformer
from llmfeat.history import InteractionLog
from llmfeat.types import BoolArray, Float32Array, Int64Array

__all__ = ["COMPARISONS", "SLICES", "LiftConfig", "LiftData", "LiftResult", "measure_lift", "number"]

# Test rows by slice; estimates by lag, arm, slice and metric.
Slices: TypeAlias = Mapping[str, BoolArray]
Estimates: TypeAlias = Mapping[int, Mapping[str, Mapping[str, Mapping[str, Estimate]]]]

# What is printed, the headline first: the encoder on top of everything else.
COMPARISONS: Mapping[str, tuple[str, str]] = {
    "hybrid_vs_full_minus_llm": ("hybrid", "full_minus_llm"),
    "llm_vs_no_text": ("llm", "no_text"),
    "llm_vs_random": ("llm", "random"),
    "llm_vs_tfidf": ("llm", "tfidf"),
    "hybrid_vs_no_text": ("hybrid", "no_text"),
    "random_vs_no_text": ("random", "no_text"),
    "collab_vs_no_text": ("collab", "no_text"),
    "tfidf_vs_no_text": ("tfidf", "no_text"),
}
SLICES = ("all", "warm_item", "cold_item", "cold_user")
_COLD_EVENTS = 5
_CACHE_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class LiftData:
    """What a comparison is made of.

    Attributes
    ----------
    rows : pyarrow.Table
        ``user_id``, ``item_id`` (strings) and ``timestamp`` (microseconds, UTC) of each labelled impression.
    labels : ndarray of shape (n_rows,), int64
        0 or 1.
    log : InteractionLog
        The same events.
    item_ids : pyarrow.StringArray
        The catalogue.
    texts : sequence of str or None
        The text of each item.
    vectors : VectorTable
        The encoder's.
    """

    rows: pa.Table
    labels: Int64Array
    log: InteractionLog
    item_ids: pa.StringArray
    texts: Sequence[str | None]
    vectors: VectorTable

    @property
    def times_us(self) -> Int64Array:
        """The time of each row, microseconds."""
        times: Int64Array = self.rows.column("timestamp").cast(pa.int64()).to_numpy()
        return times


@dataclass(frozen=True)
class LiftConfig:
    """How a comparison is run.

    Parameters
    ----------
    test_fraction : float
        The share of rows, the last by time, that is the test.
    seed : int
        Of rankers, control vectors and resamples.
    lags_s : tuple of int
        Seconds by which events reach the features late; the first is the one that the arms are reported at.
    n_resamples : int
        Of the bootstrap over users.
    """

    test_fraction: float = 0.2
    seed: int = 0
    lags_s: tuple[int, ...] = (0, 3600, 86400)
    n_resamples: int = 1000


@dataclass(frozen=True, eq=False)
class LiftResult:
    """What was measured.

    Attributes
    ----------
    split : TimeSplit
        The rows by role.
    slices : mapping of str to ndarray of bool
        Which test rows are in each slice.
    arms : mapping of int to mapping of str to ArmResult
        By lag in seconds, then by arm.
    estimates : mapping of int to mapping of str to mapping of str to mapping of str to Estimate
        By lag, arm, slice and metric.
    n_fits_reused : int
        How many arms came from the cache.
    """

    split: TimeSplit
    slices: Slices
    arms: Mapping[int, Mapping[str, ArmResult]]
    estimates: Estimates
    n_fits_reused: int = 0

    def arms_json(self, lag_s: int) -> dict[str, Any]:
        """Return ``arms`` of ``lift.json``: per arm and slice every metric, and its interval under ``ci95``."""
        return {
            arm: {name: _metrics_json(by_metric) for name, by_metric in by_slice.items()}
            for arm, by_slice in self.estimates[lag_s].items()
        }

    def lift_json(self, lag_s: int) -> dict[str, Any]:
        """Return ``lift`` of ``lift.json``: per comparison, slice and metric the difference and its interval."""
        found = self.estimates[lag_s]
        return {
            name: {part: _lift_json(found[ours][part], found[theirs][part]) for part in self.slices}
            for name, (ours, theirs) in COMPARISONS.items()
        }


def measure_lift(data: LiftData, config: LiftConfig, *, progress: bool = False) -> LiftResult:
    """Fit every arm at every lag, and measure all of them on the same test rows and resamples.

    Fitted arms are kept in the user's cache, by the data, the lag, the seed, and the code that fits them: a second run
    on unchanged data fits nothing.
    """
    split = split_by_time(data.times_us, test_fraction=config.test_fraction)
    memory = joblib.Memory(cache_dir("arms"), verbose=0)
    fit = memory.cache(_fit_arm, ignore=["families", "labels", "split"])
    arms: dict[int, dict[str, ArmResult]] = {lag_s: {} for lag_s in config.lags_s}
    inputs_key = _inputs_key(data, config)
    n_reused = 0
    with bar(len(config.lags_s) * len(ARMS), what="fitting arms", unit="arms", shown=progress) as advance:
        for lag_s in config.lags_s:
            families = functools.cache(functools.partial(_families, data, split, lag_s=lag_s, seed=config.seed))
            for arm in ARMS:
                key = (inputs_key, lag_s, arm, config.seed)
                n_reused += fit.check_call_in_cache(*key, families, data.labels, split)
                arms[lag_s][arm] = fit(*key, families, data.labels, split)
                advance(1)
    memory.reduce_size(bytes_limit=_CACHE_BYTES)
    slices = _slices(data, split)
    return LiftResult(split, slices, arms, _estimates(data, split, slices, arms, config), n_reused)


def _families(data: LiftData, split: TimeSplit, *, lag_s: int, seed: int) -> dict[str, Float32Array]:
    """Return the columns of each family for all rows, from what was known `lag_s` seconds before each."""
    activity = ActivityFeatures(data.log, history_lag_s=lag_s)
    sources = {
        "random": random_vectors(data.item_ids, dim=data.vectors.dim, seed=seed),
        "tfidf": tfidf_vectors(data.item_ids, data.texts, seed=seed),
        "llm": data.vectors,
    }
    transformers: dict[str, LogTransformer] = {
        "activity": activity,
        "collab": PastFittedFeatures(data.log, {"collab": CollabVectors(random_state=seed)}, history_lag_s=lag_s),
        **{name: HistoryFeatures(data.log, {name: source}, history_lag_s=lag_s) for name, source in sources.items()},
    }
    train = data.rows.take(pa.array(split.train))
    families = {name: transformer.fit(train).transform(data.rows) for name, transformer in transformers.items()}
    popular = [ACTIVITY_NAMES.index(name) for name in POPULARITY_NAMES]
    return {**families, "popularity": families["activity"][:, popular]}


def _slices(data: LiftData, split: TimeSplit) -> Slices:
    """Return which test rows are of items and users with few earlier events, whatever the lag."""
    rows = data.rows.take(pa.array(split.test))
    activity = ActivityFeatures(data.log).fit(rows).transform(rows)
    item_events = activity[:, ACTIVITY_NAMES.index("item_n_events")]
    user_events = activity[:, ACTIVITY_NAMES.index("user_n_events")]
    return {
        "all": np.ones(len(activity), dtype=bool),
        "warm_item": item_events >= _COLD_EVENTS,
        "cold_item": item_events < _COLD_EVENTS,
        "cold_user": user_events < _COLD_EVENTS,
    }


def _fit_arm(
    inputs_key: str,
    lag_s: int,
    arm: str,
    seed: int,
    families: Callable[[], Mapping[str, Float32Array]],
    labels: Int64Array,
    split: TimeSplit,
) -> ArmResult:
    """Fit an arm; the first four arguments are the cache's key, so that a cached arm needs no columns at all."""
    return fit_arm({name: families()[name] for name in ARMS[arm]}, labels, split, seed=seed)


def _inputs_key(data: LiftData, config: LiftConfig) -> str:
    """Return a digest of everything that a fitted arm depends on but the lag, the arm and the seed."""
    digest = hashlib.sha256()
    item_ids = (data.rows.column("item_id"), data.item_ids, data.log.item_ids, data.vectors.ids)
    for ids in (data.rows.column("user_id"), *item_ids):
        digest.update(repr(ids.to_pylist()).encode())
    for array in (data.times_us, data.labels, data.log.user_codes, data.log.item_codes, data.log.times_us):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(data.log.labels.tobytes() + data.vectors.vectors.tobytes())
    digest.update(repr(data.texts).encode())
    versions = {name: importlib.metadata.version(name) for name in ("lightgbm", "numpy", "scikit-learn", "scipy")}
    sources = [source_sha256(sys.modules[f"llmfeat.{name}"]) for name in ("history", "features", "encode", "evaluate")]
    rest = {
        "label_delay": repr(data.log.label_delay),
        "vectors": data.vectors.fingerprint,
        "test": config.test_fraction,
        "versions": versions,
        "code": sources,
    }
    digest.update(canonical_json(rest).encode())
    return digest.hexdigest()


def _estimates(
    data: LiftData,
    split: TimeSplit,
    slices: Slices,
    arms: Mapping[int, Mapping[str, ArmResult]],
    config: LiftConfig,
) -> Estimates:
    encoded = id_column(data.rows, "user_id", what="the rows").take(pa.array(split.test)).dictionary_encode()
    users: Int64Array = encoded.indices.cast(pa.int64()).to_numpy()
    resamples = Resamples.draw(len(encoded.dictionary), n_resamples=config.n_resamples, seed=config.seed)
    labels = data.labels[split.test]
    return {
        lag_s: {
            arm: {
                name: measure(result.scores[rows], labels[rows], users[rows], resamples)
                for name, rows in slices.items()
            }
            for arm, result in by_arm.items()
        }
        for lag_s, by_arm in arms.items()
    }


def _metrics_json(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    values: dict[str, Any] = {name: number(estimates[name].point) for name in METRICS}
    return {**values, "ci95": {name: [number(end) for end in interval(estimates[name])] for name in METRICS}}


def _lift_json(ours: Mapping[str, Estimate], theirs: Mapping[str, Estimate]) -> dict[str, Any]:
    differences = {name: ours[name] - theirs[name] for name in METRICS}
    return {
        name: {"diff": number(difference.point), "ci95": [number(end) for end in interval(difference)]}
        for name, difference in differences.items()
    }


def number(value: float) -> float | None:
    """Return a number as JSON can hold it: NaN, which it cannot, as None."""
    return float(value) if np.isfinite(value) else None
