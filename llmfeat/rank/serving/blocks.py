"""The columns of a ranker in blocks: what each is computed of, in one request and over a training set alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from llmfeat.errors import InputError
from llmfeat.features import ActivityFeatures, HistoryFeatures
from llmfeat.features._activity import ACTIVITY_NAMES, activity_index
from llmfeat.features._kernel import KernelSpec
from llmfeat.features.request import RequestWindow, request_because, request_features
from llmfeat.features.semantic import SemanticIds
from llmfeat.history import InteractionLog, LabelDelay
from llmfeat.rank.serving.gathered import Gathered
from llmfeat.store.columns import StoreColumns
from llmfeat.types import Float32Array, Float64Array, VectorSource

__all__ = ["ActivityBlock", "BaseBlock", "Block", "HistoryBlock", "SemanticBlock", "StoreBlock", "VectorPart"]

_US_PER_S = 1_000_000


class Block(Protocol):
    """Some columns of a ranker, next to each other."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, as the booster knows them."""
        ...

    @property
    def parts(self) -> tuple[VectorPart, ...]:
        """The vectors of candidates that it needs."""
        ...

    def compute(self, found: Gathered) -> Any:
        """Return the columns of a request, shape ``(n_candidates, n_columns)``."""
        ...


@dataclass(frozen=True, eq=False)
class VectorPart:
    """One kind of vectors.

    Attributes
    ----------
    name : str
        What its columns begin with.
    fingerprint : str
        Of the vectors that the features see.
    base : str
        Of those that are kept: the same where nothing is applied to them.
    reducer : fitted transformer or None
        What is applied when they are read.
    """

    name: str
    fingerprint: str
    base: str
    reducer: Any = None


@dataclass(frozen=True, eq=False)
class HistoryBlock:
    """What `HistoryFeatures` computes.

    Attributes
    ----------
    names : tuple of str
        Of the columns.
    parts : tuple of VectorPart
        In the order of their columns.
    params : dict
        Of `HistoryFeatures`, without the log, the vectors and the names of columns.
    available_after_us : int
        How late labels arrived in the log that was trained on.
    """

    names: tuple[str, ...]
    parts: tuple[VectorPart, ...]
    params: Mapping[str, Any]
    available_after_us: int = 0

    @cached_property
    def spec(self) -> KernelSpec:
        """What is asked of the kernel."""
        return self._features().spec()

    @property
    def lag_us(self) -> int:
        """How late events reach the features."""
        return round(float(self.params["history_lag_s"]) * _US_PER_S)

    def window(self, found: Gathered) -> RequestWindow:
        """Return what the request sees of the history."""
        delay = LabelDelay(self.available_after_us)
        as_of_us = found.now_us - self.lag_us
        return RequestWindow.of(found.history, as_of_us=as_of_us, max_events=self.spec.max_events, delay=delay)

    def compute(self, found: Gathered) -> Float32Array:
        """Return the columns of a request."""
        window = self.window(found)
        blocks = [
            request_features(found.candidates[part.fingerprint], self._events(found, part, window), window, self.spec)
            for part in self.parts
        ]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)

    def because(self, found: Gathered, name: str | None = None) -> list[str | None]:
        """Return the item of the history that each candidate is most similar to, by the first of the vectors."""
        part = next((part for part in self.parts if name in (None, part.name)), None)
        if part is None:
            raise InputError(f"because={name!r}, but the vectors are {[part.name for part in self.parts]}: name one")
        window = self.window(found)
        events = self._events(found, part, window)
        return request_because(found.candidates[part.fingerprint], events, window, max_events=self.spec.max_events)

    def transformer(self, log: InteractionLog, sources: Mapping[str, VectorSource]) -> HistoryFeatures:
        """Return the fitted transformer of training over other data, for `replay`."""
        features = self._features()
        features.set_params(log=log, vectors={part.name: sources[part.fingerprint] for part in self.parts})
        features.fingerprints_ = {part.name: part.fingerprint for part in self.parts}
        return features

    def _events(self, found: Gathered, part: VectorPart, window: RequestWindow) -> Float32Array:
        stop = found.history.seen_before(window.as_of_us)
        return found.events[part.fingerprint][stop - len(window) : stop]

    def _features(self) -> HistoryFeatures:
        kept: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in self.params.items()
        }
        return HistoryFeatures(None, None, **kept)


@dataclass(frozen=True, eq=False)
class ActivityBlock:
    """What `ActivityFeatures` computes, of a log in this process: it counts the events of all users.

    Attributes
    ----------
    names : tuple of str
        Of the columns.
    lag_s : float
        How late events reach the features.
    """

    names: tuple[str, ...]
    lag_s: float
    parts: tuple[VectorPart, ...] = ()

    def compute(self, found: Gathered) -> Float32Array:
        """Return the columns of a request."""
        log, n_rows = found.log, len(found.item_ids)
        assert log is not None, "OnlineRanker asks for it"
        users = np.repeat(log.user_code([found.user_id]), n_rows)
        as_of_us = np.full(n_rows, found.now_us - round(self.lag_s * _US_PER_S), dtype=np.int64)
        return activity_index(log).features(users, log.item_code(found.item_ids), as_of_us)

    def transformer(self, log: InteractionLog) -> ActivityFeatures:
        """Return the fitted transformer of training over another log, for `replay`."""
        assert len(self.names) == len(ACTIVITY_NAMES)
        return ActivityFeatures(log, history_lag_s=self.lag_s)


@dataclass(frozen=True, eq=False)
class SemanticBlock:
    """What `SemanticIdFeatures` gives: the code book is applied to the vectors when they are read.

    Attributes
    ----------
    names : tuple of str
        Of the columns.
    part : VectorPart
        The vectors that are coded.
    book : SemanticIds
        The fitted book.
    """

    names: tuple[str, ...]
    part: VectorPart
    book: SemanticIds

    @property
    def parts(self) -> tuple[VectorPart, ...]:
        """The vectors of candidates that it needs."""
        return (self.part,)

    def compute(self, found: Gathered) -> Any:
        """Return the columns of a request, int32."""
        return self.book.transform(found.candidates[self.part.fingerprint])


@dataclass(frozen=True, eq=False)
class StoreBlock:
    """What `FeastFeatures` reads of the views of items and of users.

    Attributes
    ----------
    names : tuple of str
        Of the columns.
    views : tuple of StoreColumns
        What is read.
    """

    names: tuple[str, ...]
    views: tuple[StoreColumns, ...]
    parts: tuple[VectorPart, ...] = ()

    def compute(self, found: Gathered) -> Float32Array:
        """Return the columns of a request."""
        return np.concatenate([found.store[view.view] for view in self.views], axis=1)


@dataclass(frozen=True, eq=False)
class BaseBlock:
    """The caller's own columns, as the request brings them.

    Attributes
    ----------
    names : tuple of str
        Of the columns.
    columns : tuple of str
        What the caller calls them.
    """

    names: tuple[str, ...]
    columns: tuple[str, ...]
    parts: tuple[VectorPart, ...] = field(default=())

    def compute(self, found: Gathered) -> Float64Array:
        """Return the columns of a request, float64 as the trees were trained on: a price in cents, or an epoch."""
        return np.stack([found.base[name] for name in self.columns], axis=1)
