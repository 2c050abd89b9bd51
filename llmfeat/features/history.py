"""`HistoryFeatures`: the candidate seen through the user's own past."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa

from llmfeat.errors import InputError, TableFingerprintError
from llmfeat.features._kernel import History, KernelSpec, nearest_events, similarity_features
from llmfeat.features._rows import LogTransformer, Rows, Seen
from llmfeat.features._summaries import DEFAULT_STATISTICS, SIDES, STATISTICS
from llmfeat.history import InteractionLog
from llmfeat.types import Float32Array, Int64Array, VectorSource

__all__ = ["HistoryFeatures"]


@dataclass(frozen=True, eq=False)
class _Windows:
    """Rows and their histories, by the position of each item in `ids`: what a vector source is asked for."""

    ids: pa.StringArray
    candidates: Int64Array
    seen: Seen
    history: History


class HistoryFeatures(LogTransformer):
    """Similarities of a candidate item to the items of the user's history, strictly before each row.

    A raw embedding does nothing for a tree ranker; the candidate seen through the user's own past does. For every
    vector source, these statistics of the cosines between the candidate and the user's last events:

    ==========  ==================================================  ==========================================
    statistic   columns                                             what they are
    ==========  ==================================================  ==========================================
    coverage    ``has_vector``, ``history_share``                   whether the candidate has a vector, and which
                                                                    share of the history has one
    count       ``n``                                               events with a vector
    last        ``last``                                            cosine to the last event
    top         ``max``, ``top5``                                   the largest, and the mean of the nearest
    mean        ``mean``                                            over all events
    decay       ``decay5``, ``decay3600s``                          mean with weights that halve with every 5
                                                                    events, or every 3,600 seconds
    profile     ``profile``                                         cosine to the sum of the history's unit vectors
    label       ``label_t0.05``                                     mean label of the history, weighted by
                                                                    ``exp(cosine / temperature)``
    nearest     ``nearest_label``, ``nearest_events_ago``,          of the event with the largest cosine
                ``nearest_age_s``
    novelty     ``novelty``                                         distance to the nearest: ``1 - max``
    ==========  ==================================================  ==========================================

    ``count``, ``top``, ``mean``, ``decay`` and ``profile`` come once a side: over all events, over the liked ones
    (``pos_``) and over the disliked ones (``neg_``). An event whose label is not known yet is on neither.

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
    half_lives : tuple of float, default=(5,)
        Of the decayed means, in events.
    half_lives_s : tuple of float, default=()
        Of further decayed means, in seconds.
    temperatures : tuple of float, default=(0.05, 0.2)
        How sharp the similarity-weighted mean labels are.
    statistics : tuple of str, default=("coverage", "last", "top", "mean", "decay", "label")
        Which of the statistics above; their order does not matter.
    sides : tuple of str, default=("all", "pos", "neg")
        Where all events are positives, ``("all",)`` says as much with fewer columns.
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
        self.vectors = vectors
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
        rows, spec = self._rows(X), self.spec()
        window = self._window(rows)
        blocks = [
            similarity_features(
                source.lookup(window.ids),
                window.candidates,
                window.seen.start,
                window.seen.stop,
                window.history,
                spec,
                as_of_us=rows.as_of_us,
                labelled=window.seen.labelled,
            )
            for source in self._checked_sources().values()
        ]
        return np.concatenate(blocks, axis=1)

    def because(self, X: Any, *, source: str | None = None) -> pa.Table:
        """Return the item of the history that each candidate is most similar to, for explanations.

        Parameters
        ----------
        X : data frame
            As in `transform`.
        source : str, optional
            Which of the vector sources; the first by default.

        Returns
        -------
        pyarrow.Table
            ``because_item_id`` (string) and ``similarity`` (float32) of each row, null where there is none; the newest
            of equally similar items.
        """
        sources = self._checked_sources()
        if source is not None and source not in sources:
            raise InputError(f"source={source!r}, but the vector sources are {list(sources)}: name one of them")
        rows = self._rows(X)
        window = self._window(rows)
        vectors = sources[source or next(iter(sources))].lookup(window.ids)
        events, cosines = nearest_events(
            vectors,
            window.candidates,
            window.seen.start,
            window.seen.stop,
            window.history,
            max_events=self.spec().max_events,
        )
        items = pa.array(window.history.vectors[events] if len(window.history.vectors) else events, mask=events < 0)
        similarity = pa.array(cosines, mask=events < 0)
        return pa.table({"because_item_id": window.ids.take(items), "similarity": similarity})

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray[Any, Any]:
        """Return the names of the columns of `transform`: the source's name, then what was computed."""
        names = [f"{source}_{name}" for source in self._sources() for name in self.spec().names]
        return np.array(names, dtype=object)

    def _check_parameters(self) -> None:
        super()._check_parameters()
        self.spec()
        self._sources()

    def spec(self) -> KernelSpec:
        """Return what the parameters ask of the kernel, and raise `InputError` where they make no sense."""
        for name, value in (("max_events", self.max_events), ("top_k", self.top_k)):
            if not (isinstance(value, int | np.integer) and value >= 1):
                raise InputError(f"{name}={value!r}, but an integer of at least 1 was expected")
        for name in ("half_lives", "half_lives_s", "temperatures"):
            values = getattr(self, name)
            if not isinstance(values, tuple | list) or not all(each > 0 for each in values):
                raise InputError(f"{name}={values!r}, but a tuple of numbers over 0 was expected")
        for name, known in (("statistics", tuple(STATISTICS)), ("sides", SIDES)):
            values = getattr(self, name)
            if not isinstance(values, tuple | list) or not values or not set(values) <= set(known):
                raise InputError(f"{name}={values!r}, but one or more of {known} were expected, as a tuple")
        return KernelSpec(
            max_events=int(self.max_events),
            top_k=int(self.top_k),
            half_lives=tuple(self.half_lives),
            half_lives_s=tuple(self.half_lives_s),
            temperatures=tuple(self.temperatures),
            statistics=tuple(self.statistics),
            sides=tuple(side for side in SIDES if side in self.sides),
        )

    def _window(self, rows: Rows) -> _Windows:
        log = self._fitted_log()
        seen = Seen.of(log, rows, max_events=self.max_events)
        codes, event_rows = np.unique(log.item_codes[seen.positions], return_inverse=True)
        distinct = rows.items.dictionary_encode()
        ids = pa.concat_arrays([distinct.dictionary, log.item_ids.take(pa.array(codes))])
        history = History(
            event_rows.astype(np.int64) + len(distinct.dictionary),
            log.labels[seen.positions],
            log.times_us[seen.positions],
        )
        return _Windows(ids, distinct.indices.cast(pa.int64()).to_numpy(), seen, history)

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

    def _checked_sources(self) -> Mapping[str, VectorSource]:
        sources = self._sources()
        for name, source in sources.items():
            fitted = self.fingerprints_.get(name)
            if source.fingerprint != fitted:
                raise TableFingerprintError(
                    f"vectors[{name!r}] has the fingerprint {source.fingerprint[:12]!r}, but the features were fitted "
                    f"with {(fitted or 'none')[:12]!r}: serve the generation that the ranker was trained on, or refit"
                )
        return sources
