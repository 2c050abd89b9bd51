"""`HistoryFeatures`: the candidate seen through the user's own past."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pyarrow as pa

from llmfeat.errors import InputError, TableFingerprintError
from llmfeat.features._kernel import History, KernelSpec, similarity_features
from llmfeat.features._rows import LogTransformer, Seen
from llmfeat.history import InteractionLog
from llmfeat.types import Float32Array, VectorSource

__all__ = ["HistoryFeatures"]


class HistoryFeatures(LogTransformer):
    """Similarities of a candidate item to the items of the user's history, strictly before each row.

    For every vector source: the cosine to the last event, the largest, the mean and the mean of the nearest, over all
    events, the liked and the disliked ones; the mean label of the history weighted by similarity; whether the
    candidate has a vector, and which share of the history has one. A raw embedding does nothing for a tree ranker;
    this is what does.

    Parameters
    ----------
    log : InteractionLog
        The events. It may reach past the rows: each row sees only what is strictly earlier than itself.
    vectors : mapping of str to VectorSource
        Item vectors by the name that their columns begin with: a `VectorTable`, or `FeastVectors` for serving.
    max_events : int, default=50
        How many of the most recent events are looked at.
    top_k : int, default=5
        How many of the nearest events make the ``top`` mean.
    temperatures : tuple of float, default=(0.05, 0.2)
        How sharp the similarity-weighted mean labels are.
    history_lag_s : float, default=0
        Seconds by which events reach the features late, in training and serving alike.
    user_id, item_id, timestamp : str
        The columns of the rows.

    Attributes
    ----------
    fingerprints_ : dict of str to str
        Of each vector source as it was fitted; `transform` refuses another.
    n_features_in_ : int
        Columns of the frame that was fitted on.
    feature_names_in_ : ndarray of str
        Their names.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat import HistoryFeatures, InteractionLog, VectorTable
    >>> events = pa.table({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [10**9, 10**9 + 60]})
    >>> table = VectorTable.from_arrays(["a", "b"], [[1.0, 0.0], [0.6, 0.8]])
    >>> features = HistoryFeatures(InteractionLog.from_frame(events), {"text": table}).fit(events)
    >>> features.set_output(transform="default").transform(events)[:, 2].round(3).tolist()  # text_last
    [nan, 0.6000000238418579]
    """

    def __init__(
        self,
        log: InteractionLog | None = None,
        vectors: Mapping[str, VectorSource] | None = None,
        *,
        max_events: int = 50,
        top_k: int = 5,
        temperatures: tuple[float, ...] = (0.05, 0.2),
        history_lag_s: float = 0,
        user_id: str = "user_id",
        item_id: str = "item_id",
        timestamp: str = "timestamp",
    ) -> None:
        self.log = log
        self.vectors = vectors
        self.max_events = max_events
        self.top_k = top_k
        self.temperatures = temperatures
        self.history_lag_s = history_lag_s
        self.user_id = user_id
        self.item_id = item_id
        self.timestamp = timestamp

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the parameters and the columns of `X`, and record the fingerprints of the vectors."""
        super().fit(X, y)
        self.fingerprints_ = {name: source.fingerprint for name, source in self._sources().items()}
        return self

    def transform(self, X: Any) -> Float32Array:
        """Return the features of each row.

        Parameters
        ----------
        X : data frame
            Rows of user, item and timestamp, in any order. Computed alone, a row has the bits that it has in a batch.

        Returns
        -------
        ndarray of shape (n_rows, n_features), float32
            NaN where a value is undefined.

        Raises
        ------
        TableFingerprintError
            When a vector source is not the one that was fitted with.
        """
        rows, log, spec = self._rows(X), self._fitted_log(), self._spec()
        self._check_fingerprints()
        seen = Seen.of(log, rows, max_events=self.max_events)
        codes, event_rows = np.unique(log.item_codes[seen.positions], return_inverse=True)
        distinct = rows.items.dictionary_encode()
        n_candidates = len(distinct.dictionary)
        ids = pa.concat_arrays([distinct.dictionary, log.item_ids.take(pa.array(codes))])
        candidates = distinct.indices.cast(pa.int64()).to_numpy()
        history = History(event_rows.astype(np.int64) + n_candidates, log.labels[seen.positions])
        blocks = [
            similarity_features(source.lookup(ids), candidates, seen.start, seen.stop, history, spec)
            for source in self._sources().values()
        ]
        return np.concatenate(blocks, axis=1)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray[Any, Any]:
        """Return the names of the columns of `transform`: the source's name, then what was computed."""
        names = [f"{source}_{name}" for source in self._sources() for name in self._spec().names]
        return np.array(names, dtype=object)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        self._spec()
        self._sources()

    def _spec(self) -> KernelSpec:
        for name, value in (("max_events", self.max_events), ("top_k", self.top_k)):
            if not (isinstance(value, int | np.integer) and value >= 1):
                raise InputError(f"{name}={value!r}, but an integer of at least 1 was expected")
        if not isinstance(self.temperatures, tuple | list) or not all(each > 0 for each in self.temperatures):
            raise InputError(f"temperatures={self.temperatures!r}, but a tuple of numbers over 0 was expected")
        return KernelSpec(int(self.max_events), int(self.top_k), tuple(self.temperatures))

    def _sources(self) -> Mapping[str, VectorSource]:
        if not isinstance(self.vectors, Mapping) or not self.vectors:
            raise InputError(
                f"vectors={self.vectors!r}, but a mapping of names to vector sources was expected: "
                "such as {'llm': VectorTable.open(...)}"
            )
        for name, source in self.vectors.items():
            if not isinstance(source, VectorSource):
                raise InputError(
                    f"vectors[{name!r}] is a {type(source).__name__}, but a vector source was expected: "
                    "wrap arrays with VectorTable.from_arrays(ids, vectors)"
                )
        return self.vectors

    def _check_fingerprints(self) -> None:
        for name, source in self._sources().items():
            fitted = self.fingerprints_.get(name)
            if source.fingerprint != fitted:
                raise TableFingerprintError(
                    f"vectors[{name!r}] has the fingerprint {source.fingerprint[:12]!r}, but the features were fitted "
                    f"with {(fitted or 'none')[:12]!r}: serve the generation that the ranker was trained on, or refit"
                )
