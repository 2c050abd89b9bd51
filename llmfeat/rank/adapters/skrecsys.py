"""Our features inside a `Cascade` of skrecsys: of the log as of each pair's time, and vectors joined by item.

Importing this module imports skrecsys.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pyarrow as pa
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from llmfeat._base.frames import id_array, read_times
from llmfeat._base.optional import import_optional, missing_dependency
from llmfeat.errors import InputError
from llmfeat.features._rows import LogTransformer
from llmfeat.types import Float32Array, Int64Array, VectorSource

try:
    from skrecsys.compose import JoinDynamicFeatures, JoinStaticFeatures
except ModuleNotFoundError as error:
    raise missing_dependency("skrecsys", purpose="LogFeatures") from error

__all__ = ["LogFeatures", "vector_features"]


class LogFeatures(JoinDynamicFeatures):
    """Features of a user and an item as of a time, as a feature component of skrecsys.

    A `JoinDynamicFeatures` keyed by user, item and time, whose callback is a transformer of ours: each pair sees what
    the transformer's log holds strictly before the pair's time. A pair without a time, which is what `recommend` asks
    for without ``as_of``, sees the whole log, as of its last event: a live service passes ``as_of``. The `Cascade`
    needs ``time=True``; its datetimes, which have no zone, are taken as UTC.

    The log is the transformer's own: what skrecsys fits the component on says nothing of labels, and leaves out what it
    holds back.

    Parameters
    ----------
    transformer : HistoryFeatures, ActivityFeatures or another transformer of a log
        Its columns are called ``user_id``, ``item_id`` and ``timestamp``, whatever they are called elsewhere.

    Examples
    --------
    >>> import numpy as np
    >>> import pyarrow as pa
    >>> from llmfeat import ActivityFeatures, InteractionLog
    >>> from llmfeat.rank.adapters.skrecsys import LogFeatures
    >>> events = pa.table({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [10**9, 10**9 + 60]})
    >>> features = LogFeatures(ActivityFeatures(InteractionLog.from_frame(events))).fit()
    >>> rows = np.array([["u", "a", 10**9], ["u", "a", 10**9 + 1], ["u", "a", np.nan]], dtype=object)
    >>> column = list(features.get_feature_names_out()).index("user_n_events")
    >>> features.transform(rows)[:, column].tolist()
    [0.0, 1.0, 2.0]
    """

    kind = ("user", "item", "time")
    n_features = None

    def __init__(self, transformer: LogTransformer | None = None) -> None:
        self.transformer = transformer

    @property
    def callback(self) -> Any:  # type: ignore[override]
        """What computes the features of distinct keys of user, item and time."""
        return self._features_of

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Check the transformer; nothing is learned from the interactions."""
        if not isinstance(self.transformer, LogTransformer):
            raise InputError(
                f"transformer is a {type(self.transformer).__name__}, but a transformer of a log was expected, such as "
                "HistoryFeatures(log, {'text': table})"
            )
        self.transformer_ = clone(self.transformer).set_output(transform="default")
        self.transformer_.fit(self._rows([], [], np.empty(0, np.int64)))
        self.n_features = len(self.get_feature_names_out())
        return self

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray[Any, Any]:
        """Return the names that the transformer gives its columns."""
        check_is_fitted(self)
        return np.asarray(self.transformer_.get_feature_names_out(), dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "transformer_")

    def _features_of(self, keys: Any) -> Float32Array:
        check_is_fitted(self)
        users, items, times = keys.T
        # What the transformer holds back of the latest events, it is not to hold back twice.
        lag_us = round(self.transformer_.history_lag_s * 1e6)
        latest = int(self.transformer_.log.times_us.max(initial=0)) + 1 + lag_us
        moments = _times_us(times, latest=latest)
        found: Float32Array = self.transformer_.transform(self._rows(users, items, moments))
        return found

    def _rows(self, users: Any, items: Any, times_us: Int64Array) -> pa.Table:
        names = (self.transformer_.user_id, self.transformer_.item_id, self.transformer_.timestamp)
        ids = [id_array(list(each)) if len(each) else pa.array([], pa.string()) for each in (users, items)]
        return pa.table(dict(zip(names, [*ids, pa.array(times_us, pa.timestamp("us", "UTC"))], strict=True)))


def vector_features(vectors: VectorSource, ids: Any, *, name: str = "text") -> JoinStaticFeatures:
    """Return vectors as features of the item of each pair; NaN for an item without one.

    Trees gain little from raw vectors: reduce them to a few dimensions first.

    Parameters
    ----------
    vectors : VectorSource
        Item vectors.
    ids : sequence of ids
        The items, of the type that they have in the interactions; skrecsys compares 7 with 7, not with "7".
    name : str, default="text"
        What the columns are called, before their number.

    Raises
    ------
    InputError
        When no item has a vector.
    """
    pandas = import_optional("pandas", purpose="vector_features")
    items = ids.to_pylist() if isinstance(ids, pa.Array | pa.ChunkedArray) else list(ids)
    found = vectors.lookup(items)
    if np.isnan(found).all():
        raise InputError(
            f"none of the {len(items)} items, such as {items[:3]}, has a vector: pass the table of these ids"
        )
    frame = pandas.DataFrame(found, columns=[f"{name}_{at}" for at in range(vectors.dim)])
    frame.insert(0, "item_id", items)
    # As objects: beside float32, whole numbers would become floats, and large ids one another.
    return JoinStaticFeatures("item", frame.astype(object))


def _times_us(times: Any, *, latest: int) -> Int64Array:
    """Return times in microseconds; `latest` where a pair has none."""
    missing = np.array([time is None or time != time for time in times], dtype=bool)
    found = np.full(len(times), latest, dtype=np.int64)
    if not missing.all():
        found[~missing], _ = read_times(pa.array(list(times[~missing])), what="the times of the pairs")
    return found
