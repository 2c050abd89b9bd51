"""What every transformer over rows (user, item, timestamp) shares: checking them, and the events that they see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from llmfeat._base.frames import id_column, require_columns, time_column, to_frame
from llmfeat.errors import InputError
from llmfeat.history import InteractionLog
from llmfeat.types import Float32Array, Int64Array

__all__ = ["LogEstimator", "LogTransformer", "Rows", "Seen"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Checked rows: ids as strings, and the moment up to which each row may see, in microseconds."""

    users: pa.StringArray
    items: pa.StringArray
    as_of_us: Int64Array


@dataclass(frozen=True, eq=False)
class Seen:
    """The events of a log that some rows see, and where each row's are among them.

    Attributes
    ----------
    positions : ndarray of int64
        Positions in the log, ascending, each once.
    start, labelled, stop : ndarray of shape (n_rows,), int64
        Row ``i`` sees ``positions[start[i]:stop[i]]``, and knows the labels of ``positions[start[i]:labelled[i]]``.
    """

    positions: Int64Array
    start: Int64Array
    labelled: Int64Array
    stop: Int64Array

    @classmethod
    def of(cls, log: InteractionLog, rows: Rows, *, max_events: int) -> Self:
        """Return what `rows` see of `log`: the time and the memory are of the rows, not of the log."""
        start, labelled, stop = log.labelled_windows(rows.users, rows.as_of_us, max_events=max_events)
        order = np.argsort(start, kind="stable")
        first, reach = start[order], np.maximum.accumulate(stop[order])
        opens = np.ones(len(order), dtype=bool)
        opens[1:] = first[1:] > reach[:-1]
        lefts = first[opens]
        rights = reach[np.append(np.flatnonzero(opens)[1:] - 1, len(order) - 1)] if len(order) else lefts
        sizes = rights - lefts
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        positions = np.arange(offsets[-1]) + np.repeat(lefts - offsets[:-1], sizes)
        shift = (lefts - offsets[:-1])[np.searchsorted(lefts, start, side="right") - 1] if len(order) else start
        return cls(positions, start - shift, labelled - shift, stop - shift)


class LogEstimator(BaseEstimator):
    """Base of the estimators that look rows up in an interaction log."""

    log: InteractionLog | None
    history_lag_s: float
    user_id: str
    item_id: str
    timestamp: str

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the parameters and the columns of `X`; nothing is learned from its rows."""
        self._check_parameters()
        frame = to_frame(X, what="X")
        require_columns(frame, [self.user_id, self.item_id, self.timestamp], what="X")
        self.feature_names_in_ = np.array(frame.columns, dtype=object)
        self.n_features_in_ = len(frame.columns)
        return self

    def _check_parameters(self) -> None:
        if not isinstance(self.log, InteractionLog):
            raise InputError(
                f"log is a {type(self.log).__name__}, but an InteractionLog was expected: "
                "make one with InteractionLog.from_frame(...)"
            )
        lag_s: object = self.history_lag_s
        if not (isinstance(lag_s, int | float | np.number) and 0 <= float(lag_s) < np.inf):
            raise InputError(f"history_lag_s={lag_s!r}, but 0 or more seconds were expected")

    def _rows(self, X: Any) -> Rows:
        check_is_fitted(self)
        times_us = time_column(X, self.timestamp, what="X")
        return Rows(
            users=id_column(X, self.user_id, what="X"),
            items=id_column(X, self.item_id, what="X"),
            as_of_us=times_us - round(self.history_lag_s * 1e6),
        )

    def _fitted_log(self) -> InteractionLog:
        assert self.log is not None, "fit checked it"
        return self.log


class LogTransformer(TransformerMixin, LogEstimator):
    """Base of the transformers among them."""

    def transform(self, X: Any) -> Float32Array:
        """Return the features of the rows of `X`; implemented by the subclasses."""
        raise TypeError(f"{type(self).__name__} is a base class")
