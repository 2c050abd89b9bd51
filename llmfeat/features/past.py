"""`PastFittedFeatures`: history features over vectors that are learned from events, without the future of any row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from sklearn.utils.validation import check_is_fitted

from llmfeat._base.frames import require_rows, time_column, to_frame
from llmfeat.errors import InputError
from llmfeat.features._rows import LogTransformer
from llmfeat.features._summaries import DEFAULT_STATISTICS, SIDES
from llmfeat.features.history import HistoryFeatures
from llmfeat.history import InteractionLog
from llmfeat.types import Float32Array, Int64Array, VectorSource

__all__ = ["PastFittedFeatures", "VectorLearner"]

_BEFORE_ALL = np.iinfo(np.int64).min // 2


@runtime_checkable
class VectorLearner(Protocol):
    """Anything that makes item vectors of what happened: co-ratings, a learned similarity."""

    def learn(self, log: InteractionLog) -> VectorSource:
        """Return the vectors that the events of `log`, and nothing else, teach."""
        ...


class PastFittedFeatures(LogTransformer):
    """`HistoryFeatures` over vectors that were learned from the past of each row.

    A ranker that trains on rows to whose features their own labels, or later ones, have contributed trusts those
    features too much. So the time of the rows that this is fitted on is cut into blocks of equal size: the rows of a
    block see vectors learned from the events before the block whose labels were known by then, and rows after the last
    block those learned from all events up to there. Rows before there are enough events see none, as do rows before
    the fitted ones.

    Parameters
    ----------
    log : InteractionLog
        The events.
    learners : mapping of str to VectorLearner
        What learns the vectors, by the name that their columns begin with.
    n_blocks : int, default=8
        How often the vectors are learned anew over the time of the fitted rows.
    min_events : int, default=100
        With fewer events than this nothing is learned.
    history_lag_s, user_id, item_id, timestamp
        As in `HistoryFeatures`.
    max_events, top_k, half_lives, half_lives_s, temperatures, statistics, sides
        As in `HistoryFeatures`.

    Attributes
    ----------
    edges_us_ : ndarray of int64
        The first moment of each block; the first block is of rows before the fitted ones, the last of rows after them.
    parts_ : list of HistoryFeatures or None
        By block; None where nothing was learned.
    n_features_in_ : int
        Columns of the frame that was fitted on.
    feature_names_in_ : ndarray of str
        Their names.
    """

    def __init__(
        self,
        log: InteractionLog | None = None,
        learners: Mapping[str, VectorLearner] | None = None,
        *,
        n_blocks: int = 8,
        min_events: int = 100,
        max_events: int = 50,
        top_k: int = 5,
        half_lives: tuple[float, ...] = (5,),
        half_lives_s: tuple[float, ...] = (),
        temperatures: tuple[float, ...] = (0.05, 0.2),
        statistics: tuple[str, ...] = DEFAULT_STATISTICS,
        sides: tuple[str, ...] = SIDES,
        history_lag_s: float = 0,
        user_id: str = "user_id",
        item_id: str = "item_id",
        timestamp: str = "timestamp",
    ) -> None:
        self.log = log
        self.learners = learners
        self.n_blocks = n_blocks
        self.min_events = min_events
        self.max_events = max_events
        self.top_k = top_k
        self.half_lives = half_lives
        self.half_lives_s = half_lives_s
        self.temperatures = temperatures
        self.statistics = statistics
        self.sides = sides
        self.history_lag_s = history_lag_s
        self.user_id = user_id
        self.item_id = item_id
        self.timestamp = timestamp

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the vectors of each block from the events before it; `X` says where the blocks are."""
        super().fit(X, y)
        times_us = time_column(X, self.timestamp, what="X")
        require_rows(len(times_us), what="X")
        quantiles = np.quantile(times_us, np.linspace(0, 1, self.n_blocks + 1)[:-1]).astype(np.int64)
        # Rows before the fitted ones make a block of their own, which sees no vectors: all of them are of its future.
        self.edges_us_: Int64Array = np.unique(np.concatenate([[_BEFORE_ALL], quantiles, [times_us.max() + 1]]))
        self.parts_ = [self._part(edge, X) for edge in self.edges_us_.tolist()]
        return self

    def transform(self, X: Any) -> Float32Array:
        """Return the features of each row, float32; see `HistoryFeatures.transform`."""
        check_is_fitted(self)
        times_us = time_column(X, self.timestamp, what="X")
        block_of = np.searchsorted(self.edges_us_, times_us, side="right") - 1
        frame = to_frame(X, what="X")
        out = np.full((len(frame), len(self.get_feature_names_out())), np.nan, dtype=np.float32)
        for block, part in enumerate(self.parts_):
            rows = np.flatnonzero(block_of == block)
            if part is not None and len(rows):
                out[rows] = part.transform(frame[rows.tolist()].to_native())
        return out

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray[Any, Any]:
        """Return the names of the columns of `transform`."""
        spec = self._history(None).spec()
        return np.array([f"{name}_{column}" for name in self._learners() for column in spec.names], dtype=object)

    def _part(self, edge_us: int, X: Any) -> HistoryFeatures | None:
        log = self._fitted_log()
        past_us = edge_us - round(self.history_lag_s * 1e6)
        known_us = log.label_delay.known_before(np.array([past_us]))[0]
        if np.count_nonzero(log.times_us < known_us) < self.min_events:
            return None
        past = log.until(past_us, labelled=True)
        vectors = {name: learner.learn(past) for name, learner in self._learners().items()}
        return self._history(vectors).fit(X)

    def _history(self, vectors: Mapping[str, VectorSource] | None) -> HistoryFeatures:
        shared = set(HistoryFeatures._get_param_names()) - {"log", "vectors"}
        return HistoryFeatures(self.log, vectors, **{name: getattr(self, name) for name in sorted(shared)})

    def _check_parameters(self) -> None:
        super()._check_parameters()
        for name, value in (("n_blocks", self.n_blocks), ("min_events", self.min_events)):
            if not (isinstance(value, int | np.integer) and value >= 1):
                raise InputError(f"{name}={value!r}, but an integer of at least 1 was expected")
        self._learners()
        self._history(None).spec()

    def _learners(self) -> Mapping[str, VectorLearner]:
        if not isinstance(self.learners, Mapping) or not self.learners:
            raise InputError(
                f"learners={self.learners!r}, but a mapping of names to vector learners was expected: "
                "such as {'collab': CollaborativeVectors()}"
            )
        for name, learner in self.learners.items():
            if not isinstance(learner, VectorLearner):
                raise InputError(
                    f"learners[{name!r}] is a {type(learner).__name__}, but something with a method learn(log) was "
                    "expected: vectors that are there already go into HistoryFeatures"
                )
        return self.learners
