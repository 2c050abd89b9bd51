"""`ActivityFeatures`: what the log says of a user and an item without any text."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmfeat.features._activity import ACTIVITY_NAMES, activity_index
from llmfeat.features._rows import LogTransformer
from llmfeat.history import InteractionLog
from llmfeat.types import Float32Array

__all__ = ["ActivityFeatures"]


class ActivityFeatures(LogTransformer):
    """Counts, rates, windowed label means, recency and sessions, from events strictly before each row.

    What a good team has without text, and the ground that every claim about text stands on.

    Parameters
    ----------
    log : InteractionLog
        The events. It may reach past the rows: each row sees only what is strictly earlier than itself.
    history_lag_s : float, default=0
        Seconds by which events reach the features late, in training and serving alike.
    user_id, item_id, timestamp : str
        The columns of the rows.

    Attributes
    ----------
    n_features_in_ : int
        Columns of the frame that was fitted on.
    feature_names_in_ : ndarray of str
        Their names.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat import ActivityFeatures, InteractionLog
    >>> events = pa.table({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [10**9, 10**9 + 60]})
    >>> features = ActivityFeatures(InteractionLog.from_frame(events)).fit(events)
    >>> features.transform(events)[:, 0].tolist()  # user_n_events
    [0.0, 1.0]
    """

    def __init__(
        self,
        log: InteractionLog | None = None,
        *,
        history_lag_s: float = 0,
        user_id: str = "user_id",
        item_id: str = "item_id",
        timestamp: str = "timestamp",
    ) -> None:
        self.log = log
        self.history_lag_s = history_lag_s
        self.user_id = user_id
        self.item_id = item_id
        self.timestamp = timestamp

    def transform(self, X: Any) -> Float32Array:
        """Return the features of each row.

        Parameters
        ----------
        X : data frame
            Rows of user, item and timestamp, in any order.

        Returns
        -------
        ndarray of shape (n_rows, n_features), float32
            Ages in seconds; NaN where a mean or an age has nothing to be taken over.
        """
        rows, log = self._rows(X), self._fitted_log()
        return activity_index(log).features(log.user_code(rows.users), log.item_code(rows.items), rows.as_of_us)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray[Any, Any]:
        """Return the names of the columns of `transform`."""
        return np.array(ACTIVITY_NAMES, dtype=object)
