"""What the engine asks of a task: rows of an origin at a lag, and what scores of the test rows are worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from llmfeat._base.progress import Doing, quiet
from llmfeat.encode import VectorTable
from llmfeat.evaluate.columns import Columns, TaughtRows
from llmfeat.evaluate.fitting import Learner
from llmfeat.evaluate.metrics import Estimate
from llmfeat.history import InteractionLog
from llmfeat.types import BoolArray, Float32Array, Float64Array, Int64Array

__all__ = [
    "DECILES",
    "LiftConfig",
    "LiftData",
    "LiftTask",
    "Material",
    "Measured",
    "OneByOne",
    "OwnColumns",
    "Predictions",
    "Request",
    "deciles_of",
    "slices_of",
]

_COLD_EVENTS = 5
DECILES = tuple(f"decile_{at}" for at in range(1, 11))


class OwnColumns(Protocol):
    """The user's own columns of a row; `BaseFeatures` is one."""

    @property
    def names(self) -> tuple[str, ...]:
        """What they are called."""
        ...

    def columns(
        self, rows: Int64Array | None, users: pa.StringArray, items: pa.StringArray, times_us: Int64Array | None
    ) -> Float32Array:
        """Return them, float32 of shape ``(n_rows, len(names))``; NaN where nothing is known."""
        ...


@dataclass(frozen=True, eq=False)
class LiftData:
    """What a comparison is made of.

    Attributes
    ----------
    rows : pyarrow.Table
        ``user_id`` and ``item_id`` (strings) of each row; ``timestamp`` (microseconds, UTC) where events have times;
        ``history``, lists of item ids, where rows bring their own.
    labels : ndarray of shape (n_rows,), int64
        0 or 1.
    log : InteractionLog or None
        The same events; None where they have no times.
    item_ids : pyarrow.StringArray
        The catalogue.
    texts : sequence of str or None
        The text of each item.
    vectors : VectorTable
        The encoder's.
    views : mapping of str to (texts, VectorTable), optional
        Further texts of the items, such as titles alone, and the encoder's vectors of them.
    split : pyarrow.StringArray, optional
        ``train``, ``valid`` or ``test`` for each row; by time without it.
    own : OwnColumns, optional
        The user's own columns.
    baseline : ndarray of shape (n_rows,), float64, optional
        The user's own score, for `click`.
    groups : ndarray of shape (n_rows,), int64, optional
        What was ranked together, for `click`; all rows of a user by default.
    name : str
        What the data are called.
    """

    rows: pa.Table
    labels: Int64Array
    log: InteractionLog | None
    item_ids: pa.StringArray
    texts: Sequence[str | None]
    vectors: VectorTable
    views: Mapping[str, tuple[Sequence[str | None], VectorTable]] = field(default_factory=dict)
    split: pa.StringArray | None = None
    own: OwnColumns | None = None
    baseline: Float64Array | None = None
    groups: Int64Array | None = None
    name: str = "data"

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
    task : {"click", "next-item"}
        Binary ranking within a user, or next-item ranking of the whole catalogue.
    test_fraction : float
        The share of rows, the last by time, that is the test.
    seed : int
        Of rankers, control vectors, samples and resamples.
    seeds : int
        How many times every arm is tuned and fitted, from seeds `seed` on.
    origins : int
        How many tests there are: before the last, each ends where the next begins.
    lags_s : tuple of int
        Seconds by which events reach the features late; the first is the one that the arms are reported at.
    freeze_at_test_start : bool
        Whether what the test sees ends where it begins.
    n_resamples : int
        Of the bootstrap over users.
    most_train_rows, most_test_rows : int
        For `click`: rows past this are sampled, the test by users.
    most_train_contexts, most_test_queries : int
        For `next-item`: users at a moment that are learned from, with all that they took, and events that are tested.
    """

    task: str = "click"
    test_fraction: float = 0.2
    seed: int = 0
    seeds: int = 1
    origins: int = 1
    lags_s: tuple[int, ...] = (0, 3600, 86400)
    freeze_at_test_start: bool = False
    n_resamples: int = 1000
    most_train_rows: int = 200_000
    most_test_rows: int = 100_000
    most_train_contexts: int = 6_000
    most_test_queries: int = 10_000


@dataclass(frozen=True, eq=False)
class Material:
    """The rows of one origin at one lag.

    Attributes
    ----------
    taught : TaughtRows
        What the arms learn from.
    tested : Columns
        What they score.
    context : object
        Whatever the task needs to turn scores into predictions.
    """

    taught: TaughtRows
    tested: Columns
    context: Any = None


@dataclass(frozen=True, eq=False)
class Predictions:
    """What an arm says of the test, in the form that the task measures.

    Attributes
    ----------
    bag : object
        Of the mean over the bag.
    members : list of object
        Of each of its rankers; empty for what was not fitted.
    """

    bag: Any
    members: Sequence[Any] = ()


@dataclass(frozen=True, eq=False)
class Measured:
    """A metric of one run: of the bag with its resamples, and of each ranker in it."""

    estimate: Estimate
    members: Float64Array


@dataclass(frozen=True, eq=False)
class OneByOne:
    """The columns of some test rows, made all at once and request by request."""

    together: Columns
    one_by_one: Columns
    n_requests: int


@dataclass(frozen=True, eq=False)
class Request:
    """One user's items to rank, for an example.

    Attributes
    ----------
    user_id : str
        Whose.
    history : list of str
        What the user met last, the newest at the end.
    targets : list of str
        What came next, where it may not be among the items.
    items : pyarrow.StringArray
        What is ranked.
    is_target : ndarray of shape (n_items,), bool
        What the user liked, or met next.
    columns : Columns
        Of each item.
    because : pyarrow.Table
        ``because_item_id`` and ``similarity`` of each item; see `HistoryFeatures.because`.
    """

    user_id: str
    history: Sequence[str]
    targets: Sequence[str]
    items: pa.StringArray
    is_target: BoolArray
    columns: Columns
    because: pa.Table


class LiftTask(ABC):
    """A kind of comparison; the engine knows of it no more than this."""

    metrics: tuple[str, ...]
    primary: str
    learner: Learner
    lags_s: tuple[int, ...]

    @abstractmethod
    def material(self, origin: int, lag_s: int, doing: Doing = quiet) -> Material:
        """Return the rows of an origin at a lag; the expensive part, which says what it is doing."""

    @abstractmethod
    def predictions(self, material: Material, scores: Float64Array) -> Predictions:
        """Return what the scores of a bag, of shape ``(n_bag, n_rows)``, say."""

    def baseline(self, origin: int) -> Any:
        """Return the predictions of the user's own score; None without one."""
        return None

    @abstractmethod
    def slices(self, origin: int) -> Mapping[str, BoolArray]:
        """Return which test rows, or queries, are in each of `SLICES`, and in each decile of item popularity."""

    @abstractmethod
    def decile_events(self, origin: int) -> Mapping[str, tuple[int, int]]:
        """Return the fewest and the most earlier events of the items of each decile."""

    @abstractmethod
    def measure(self, origin: int, predictions: Any, name: str, *, resampled: bool) -> Mapping[str, Estimate]:
        """Return each metric on a slice; without resamples where they are not asked for."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what ``data`` of the result says of the rows."""

    def candidates(
        self, predictions: Mapping[str, Predictions], description: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Return ``candidates`` of the result; None for a task without them."""
        return None

    def describe(self, material: Material) -> dict[str, Any]:
        """Return what ``candidates`` of the result says of the rows; empty for a task without candidates."""
        return {}

    @abstractmethod
    def one_by_one(self, lag_s: int) -> OneByOne:
        """Return the columns of some test rows, made both ways."""

    @abstractmethod
    def requests(self, lag_s: int, n_requests: int) -> list[Request]:
        """Return some requests of the test, for examples."""


def slices_of(item_events: Int64Array, user_events: Int64Array) -> dict[str, BoolArray]:
    """Return which test rows are in each slice, by the earlier events of their item and of their user."""
    return {
        "all": np.ones(len(item_events), dtype=bool),
        "warm_item": item_events >= _COLD_EVENTS,
        "cold_item": item_events < _COLD_EVENTS,
        "cold_user": user_events < _COLD_EVENTS,
        **deciles_of(item_events)[0],
    }


def deciles_of(events: Int64Array) -> tuple[dict[str, BoolArray], dict[str, tuple[int, int]]]:
    """Return the rows of each decile by the earlier events of their item, and the fewest and most events of each.

    Deciles of equal events are one, so that there may be fewer than ten.
    """
    edges = np.unique(np.percentile(events, np.arange(0, 101, 10), method="lower")) if len(events) else np.zeros(0)
    if len(edges) == 1:
        edges = np.append(edges, edges[0])
    rows, spans = {}, {}
    for at in range(len(edges) - 1):
        is_last = at == len(edges) - 2
        inside = (events >= edges[at]) & ((events <= edges[at + 1]) if is_last else (events < edges[at + 1]))
        rows[DECILES[at]] = inside
        spans[DECILES[at]] = (int(events[inside].min()), int(events[inside].max())) if inside.any() else (0, 0)
    return rows, spans
