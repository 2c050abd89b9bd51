"""How much each arm adds over the others, on the same test rows, over lags, seeds and origins."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np

from llmfeat._base.files import cache_dir, canonical_json, source_sha256
from llmfeat._base.progress import Advance, bar
from llmfeat.errors import InputError
from llmfeat.evaluate.arms import ARMS, SLICES, arms_of, comparisons_of
from llmfeat.evaluate.click import ClickTask
from llmfeat.evaluate.fitting import FittedArm, Learner, fit_arm
from llmfeat.evaluate.metrics import Estimate
from llmfeat.evaluate.next_item.task import NextItemTask
from llmfeat.evaluate.runs import ArmMetrics, Run, gain, level
from llmfeat.evaluate.task import DECILES, LiftConfig, LiftData, LiftTask, Material, Measured, Predictions

__all__ = ["LiftResult", "measure_lift", "task_of"]

_CACHE_BYTES = 4 << 30
_TASKS: Mapping[str, Callable[[LiftData, LiftConfig], LiftTask]] = {"click": ClickTask, "next-item": NextItemTask}
# What is measured by decile of item popularity.
_DECILE_ARMS = ("no_text", "full_minus_llm", "hybrid")


@dataclass(frozen=True, eq=False)
class LiftResult:
    """What was measured.

    Attributes
    ----------
    task : LiftTask
        The rows.
    fitted : mapping of str to FittedArm
        The arms of the last origin at the first lag and seed.
    predictions : mapping of str to Predictions
        What they say of its test.
    runs : mapping of int to list of Run
        By lag in seconds; a run for each origin and seed.
    description : dict
        What the task says of the rows of the last origin.
    n_fits_reused : int
        How many arms came from the cache.
    fit_s : float
        Seconds of all fits, those from the cache included.
    """

    task: LiftTask
    fitted: Mapping[str, FittedArm]
    predictions: Mapping[str, Predictions]
    runs: Mapping[int, list[Run]]
    description: dict[str, Any]
    n_fits_reused: int
    fit_s: float

    @property
    def headline_runs(self) -> list[Run]:
        """The runs at the first lag."""
        return self.runs[self.task.lags_s[0]]

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that were measured."""
        return arms_of(has_baseline="baseline" in self.headline_runs[0].arms)

    @property
    def comparisons(self) -> Mapping[str, tuple[str, str]]:
        """What is compared."""
        return comparisons_of(has_baseline="baseline" in self.headline_runs[0].arms)

    def level(self, arm: str, part: str, metric: str) -> Estimate:
        """Return a metric of an arm on a slice, at the first lag."""
        return level(self.headline_runs, arm, part, metric)

    def gain(
        self, comparison: str, part: str, metric: str, *, lag_s: int | None = None, origin: int | None = None
    ) -> Estimate:
        """Return a paired difference on a slice, of one origin or of all."""
        ours, theirs = self.comparisons[comparison]
        runs = self.runs[self.task.lags_s[0] if lag_s is None else lag_s]
        return gain([run for run in runs if origin in (None, run.origin)], ours, theirs, part, metric)


def task_of(data: LiftData, config: LiftConfig) -> LiftTask:
    """Return the task of a configuration over data."""
    if config.task not in _TASKS:
        raise InputError(f"task={config.task!r}, but one of {list(_TASKS)} was expected")
    for name in ("seeds", "origins", "n_resamples"):
        if getattr(config, name) < 1:
            raise InputError(f"{name}={getattr(config, name)!r}, but at least 1 was expected")
    return _TASKS[config.task](data, config)


def measure_lift(data: LiftData, config: LiftConfig, *, progress: bool = False) -> LiftResult:
    """Fit every arm at every lag, origin and seed, and measure all of them on the same test rows and resamples.

    Fitted arms are kept in the user's cache, by the data, the origin, the lag, the seed, and the code that fits them: a
    run that was interrupted goes on where it was, and a second one on unchanged data fits nothing.
    """
    task = task_of(data, config)
    cache = _ArmCache(task, _inputs_key(data, config))
    n_fits = len(task.lags_s) * config.origins * config.seeds * len(ARMS)
    runs: dict[int, list[Run]] = {lag_s: [] for lag_s in task.lags_s}
    first: dict[str, tuple[FittedArm, Predictions]] = {}
    description: dict[str, Any] = {}
    with bar(n_fits, what="fitting arms", unit="arms", shown=progress) as advance:
        for origin in range(config.origins):
            for lag_s in task.lags_s:
                doing = functools.partial(_show, advance, lag_s)
                material = functools.cache(functools.partial(task.material, origin, lag_s, doing))
                for seed in range(config.seed, config.seed + config.seeds):
                    found = {}
                    for arm in ARMS:
                        doing(f"fitting {arm}")
                        found[arm] = cache.fit(origin, lag_s, arm, seed, material)
                        advance(1, note=f"{arm} fitted, lag {lag_s} s")
                    first = first or found
                    runs[lag_s].append(_measured(task, origin, seed, found))
                if (origin, lag_s) == (0, task.lags_s[0]):
                    description = cache.describe(origin, lag_s, material)
    cache.shrink()
    return LiftResult(
        task=task,
        fitted={arm: fitted for arm, (fitted, _) in first.items()},
        predictions={arm: predictions for arm, (_, predictions) in first.items()},
        runs=runs,
        description=description,
        n_fits_reused=cache.n_reused,
        fit_s=cache.fit_s,
    )


def _show(advance: Advance, lag_s: int, what: str) -> None:
    advance(0, note=f"{what}, lag {lag_s} s")


def _measured(task: LiftTask, origin: int, seed: int, found: Mapping[str, tuple[FittedArm, Predictions]]) -> Run:
    predictions = {arm: each for arm, (_, each) in found.items()}
    own = task.baseline(origin)
    if own is not None:
        predictions["baseline"] = Predictions(own)
    arms = {arm: _arm_metrics(task, origin, arm, each) for arm, each in predictions.items()}
    return Run(origin, seed, arms)


def _arm_metrics(task: LiftTask, origin: int, arm: str, predictions: Predictions) -> ArmMetrics:
    parts = [name for name in task.slices(origin) if name in SLICES or (name in DECILES and arm in _DECILE_ARMS)]
    measured = {}
    for name in parts:
        bag = task.measure(origin, predictions.bag, name, resampled=True)
        members = [task.measure(origin, each, name, resampled=False) for each in predictions.members]
        measured[name] = {
            metric: Measured(bag[metric], np.array([each[metric].point for each in members])) for metric in task.metrics
        }
    return measured


class _ArmCache:
    """Fitted arms and what they say, kept by everything that they depend on."""

    def __init__(self, task: LiftTask, key: str) -> None:
        self._task, self._key = task, key
        self._memory = joblib.Memory(cache_dir("arms"), verbose=0)
        self._fit = self._memory.cache(_fit, ignore=["task", "material"])
        self._describe = self._memory.cache(_describe, ignore=["task", "material"])
        self.n_reused, self.fit_s = 0, 0.0

    def fit(
        self, origin: int, lag_s: int, arm: str, seed: int, material: Callable[[], Material]
    ) -> tuple[FittedArm, Predictions]:
        key = (self._key, origin, lag_s, arm, seed)
        self.n_reused += self._fit.check_call_in_cache(*key, self._task, material)
        found: tuple[FittedArm, Predictions] = self._fit(*key, self._task, material)
        self.fit_s += found[0].fit_s
        return found

    def describe(self, origin: int, lag_s: int, material: Callable[[], Material]) -> dict[str, Any]:
        said: dict[str, Any] = self._describe(self._key, origin, lag_s, self._task, material)
        return said

    def shrink(self) -> None:
        self._memory.reduce_size(bytes_limit=_CACHE_BYTES)


def _fit(
    inputs_key: str, origin: int, lag_s: int, arm: str, seed: int, task: LiftTask, material: Callable[[], Material]
) -> tuple[FittedArm, Predictions]:
    """Fit an arm; the first five arguments are the cache's key, so that a cached arm needs no rows at all."""
    rows = material()
    learner: Learner = task.learner
    fitted = fit_arm(rows.taught, ARMS[arm], learner, seed=seed)
    return fitted, task.predictions(rows, fitted.scores(rows.tested.matrix(ARMS[arm])))


def _describe(
    inputs_key: str, origin: int, lag_s: int, task: LiftTask, material: Callable[[], Material]
) -> dict[str, Any]:
    return task.describe(material())


def _inputs_key(data: LiftData, config: LiftConfig) -> str:
    """Return a digest of everything that a fitted arm depends on but the origin, the lag, the arm and the seed."""
    digest = hashlib.sha256()
    for column in (*data.rows.columns, data.item_ids, data.split):
        digest.update(b"-" if column is None else repr(column.type).encode())
        for chunk in () if column is None else getattr(column, "chunks", [column]):
            for buffer in chunk.buffers():
                digest.update(b"-" if buffer is None else buffer)
            digest.update(repr((chunk.offset, len(chunk))).encode())
    arrays = [data.labels, data.baseline, data.groups, data.vectors.vectors]
    arrays += [table.vectors for _, table in data.views.values()]
    arrays += [] if data.log is None else [data.log.times_us, data.log.labels]
    for array in arrays:
        digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    digest.update(repr([data.vectors.ids.to_pylist(), *(t.ids.to_pylist() for _, t in data.views.values())]).encode())
    digest.update(repr([data.texts, *((name, texts) for name, (texts, _) in data.views.items())]).encode())
    versions = {name: importlib.metadata.version(name) for name in ("lightgbm", "numpy", "scikit-learn", "scipy")}
    packages = ("_base", "history", "features", "encode", "rank", "evaluate")
    sources = [source_sha256(sys.modules[f"llmfeat.{name}"]) for name in packages]
    taken = ("task", "test_fraction", "freeze_at_test_start", "most_train_rows", "most_test_rows")
    queries = ("most_train_contexts", "most_test_queries", "seed")
    rest = {
        "label_delay": None if data.log is None else repr(data.log.label_delay),
        "own": joblib.hash(data.own),
        "config": {name: getattr(config, name) for name in (*taken, *queries)},
        "versions": versions,
        "code": sources,
    }
    digest.update(canonical_json(rest).encode())
    return digest.hexdigest()
