"""`UserTextFeatures`: what a user did last, as one text, and how near the candidate is to it."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from sklearn.utils.validation import check_is_fitted

from llmfeat._base.files import canonical_json, text_sha256
from llmfeat.artifact import ModelArtifact
from llmfeat.encode import TextEncoder, VectorCache
from llmfeat.encode.backends.choose import BACKENDS
from llmfeat.errors import InputError, TableFingerprintError
from llmfeat.features._encoders import EncoderMixin, encode_column
from llmfeat.features._item_texts import as_item_template, item_texts
from llmfeat.features._reducers import reduced
from llmfeat.features._rows import LogTransformer, Rows
from llmfeat.features._rowwise import BLOCK_ROWS, cosines
from llmfeat.features._text_events import TextEvents
from llmfeat.features.reduce import fitted_reducer
from llmfeat.history import InteractionLog
from llmfeat.text import HistoryTemplate, ItemTemplate
from llmfeat.types import Float32Array, Int64Array, VectorSource

__all__ = ["UserTextFeatures"]


class UserTextFeatures(EncoderMixin, LogTransformer):
    """The user's last items before each row as one text, and its cosine to the candidate.

    The text is encoded by the model that encoded the items, so that it can say what no mean of item vectors can: what
    the items have in common, and in which order they came. A user without such an event has NaN. Each distinct history
    is rendered and encoded once.

    Parameters
    ----------
    log : InteractionLog
        The events. It may reach past the rows: each row sees only what is strictly earlier than itself.
    artifact : str, Path, ModelArtifact or TextEncoder
        The model, or its folder.
    items : data frame or mapping of ids to texts
        The items' texts: a frame with the column `item_id`, one row per item, or a mapping, where None is no text.
        Rendered by `fit`; the texts are what is known of the items for good.
    item_template : ItemTemplate or str, optional
        How a row of such a frame becomes a text.
    template : HistoryTemplate, optional
        How the items' texts become one, and how many they are. By default the last 20, and first those which a model
        that cuts long texts keeps: the newest, where it cuts at the right.
    liked_only : bool, default=True
        Whether only events count that were known to be liked. Items without text never do.
    vectors : VectorSource, optional
        The candidates' vectors: a `VectorTable`, or `FeastVectors` for serving. It must be a table of `artifact` over
        `item_template`, which its fingerprint tells. By default the texts of the candidates are encoded.
    vector_template : ItemTemplate or str, optional
        Of the table `vectors`, where it is not `item_template`.
    with_vector : bool, default=False
        Whether the vector of the history is given too, and not only what it says of the candidate.
    reduce : int or transformer, optional
        Fewer dimensions of that vector, as in `TextEmbedder`; learned by `fit` from the distinct histories of its rows.
    role : {"query", "document"}, default="query"
        Which of the model's prompts stands before a history; the candidates are documents.
    history_lag_s : float, default=0
        Seconds by which events reach the features late, in training and serving alike.
    user_id, item_id, timestamp : str
        The columns of the rows.
    cache, backend, threads, streams, batch_tokens
        As in `TextEmbedder`.

    Attributes
    ----------
    fingerprint_ : str
        The artifact's as it was fitted with; `transform` refuses another.
    vectors_fingerprint_ : str or None
        That of `vectors`; `transform` refuses another.
    item_ids_ : pyarrow.StringArray
        The items.
    item_texts_ : pyarrow.Array
        Their texts, null where one has none.
    reducer_ : transformer or None
        The fitted `reduce`.
    n_dims_ : int
        Dimensions of the vector, as far as they are kept.
    n_features_in_ : int
        Columns of the frame that was fitted on.
    feature_names_in_ : ndarray of str
        Their names.

    Examples
    --------
    >>> from llmfeat.features import UserTextFeatures  # doctest: +SKIP
    >>> features = UserTextFeatures(
    ...     log, "artifacts/minilm", movies, item_template="{title}[ ({year})]",
    ...     template=HistoryTemplate("Films that I liked: {items}"), cache=True,
    ... )  # doctest: +SKIP
    >>> features.fit(train).transform(test)[:, 1]  # user_text_cosine  # doctest: +SKIP
    """

    def __init__(
        self,
        log: InteractionLog | None = None,
        artifact: TextEncoder | ModelArtifact | str | Path | None = None,
        items: Any = None,
        *,
        item_template: ItemTemplate | str | None = None,
        template: HistoryTemplate | None = None,
        liked_only: bool = True,
        vectors: VectorSource | None = None,
        vector_template: ItemTemplate | str | None = None,
        with_vector: bool = False,
        reduce: Any = None,
        role: str = "query",
        history_lag_s: float = 0,
        user_id: str = "user_id",
        item_id: str = "item_id",
        timestamp: str = "timestamp",
        cache: VectorCache | bool | str | Path | None = None,
        backend: str = "auto",
        threads: int | None = None,
        streams: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self.log = log
        self.artifact = artifact
        self.items = items
        self.item_template = item_template
        self.template = template
        self.liked_only = liked_only
        self.vectors = vectors
        self.vector_template = vector_template
        self.with_vector = with_vector
        self.reduce = reduce
        self.role = role
        self.history_lag_s = history_lag_s
        self.user_id = user_id
        self.item_id = item_id
        self.timestamp = timestamp
        self.cache = cache
        self.backend = backend
        self.threads = threads
        self.streams = streams
        self.batch_tokens = batch_tokens

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the parameters and the columns of `X`, render the items, and learn `reduce`.

        Raises
        ------
        InputError
            When a parameter, the items or `X` cannot be worked with.
        TableFingerprintError
            When `vectors` is not known to be of this model over these texts.
        """
        super().fit(X, y)
        encoder = self._encoder()
        self.fingerprint_ = encoder.artifact.fingerprint
        self.vectors_fingerprint_ = None if self.vectors is None else self._checked_source(encoder)
        self.item_ids_, self.item_texts_ = item_texts(
            self.items, self.item_template, item_id=self.item_id, truncate=encoder.truncate
        )
        self.reducer_: Any = None
        self.n_dims_ = encoder.dim
        if self.reduce is not None:
            vectors, _, _ = self._histories(self._rows(X), encoder)
            self.reducer_ = fitted_reducer(self.reduce, vectors)
            self.n_dims_ = reduced(self.reducer_, vectors[:1]).shape[1]
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
            How many items the text has; its cosine to the candidate, NaN where one of them has no text; and, where
            asked for, its vector.

        Raises
        ------
        TableFingerprintError
            When the artifact, or `vectors`, is not the one that was fitted with.
        """
        rows, encoder = self._rows(X), self._fitted_encoder()
        histories, history_of_row, n_items = self._histories(rows, encoder)
        distinct = rows.items.dictionary_encode()
        candidates = self._candidates(distinct.dictionary, encoder)
        codes = distinct.indices.cast(pa.int64()).to_numpy()
        columns = [n_items.astype(np.float32)[:, None], _cosines(histories, history_of_row, candidates, codes)[:, None]]
        if self.with_vector:
            kept = histories if self.reducer_ is None else reduced(self.reducer_, histories)
            columns.append(kept[history_of_row])
        return np.concatenate(columns, axis=1)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray[Any, Any]:
        """Return the names of the columns of `transform`."""
        names = ["user_text_n_items", "user_text_cosine"]
        if self.with_vector:
            check_is_fitted(self)
            names += [f"user_text_{at}" for at in range(self.n_dims_)]
        return np.array(names, dtype=object)

    def _histories(self, rows: Rows, encoder: TextEncoder) -> tuple[Float32Array, Int64Array, Int64Array]:
        """Return the vectors of the distinct histories, which is each row's, and how many items that one has."""
        template, events = self._history_template(encoder), self._text_events()
        windows, history_of_row, n_items = events.windows(rows, template.max_items)
        used = [self.item_texts_.take(pa.array(events.item_rows[start:stop])).to_pylist() for start, stop in windows]
        rendered = pa.array(template.render(used, truncate=encoder.truncate), pa.large_string())
        return encode_column(encoder, rendered, role=self.role), history_of_row, n_items

    def _candidates(self, ids: pa.StringArray, encoder: TextEncoder) -> Float32Array:
        if self.vectors is None:
            positions = self._text_events().index.positions(ids)
            texts = self.item_texts_.take(pa.array(positions, mask=positions < 0))
            return encode_column(encoder, texts, role="document")
        if self.vectors.fingerprint != self.vectors_fingerprint_:
            raise TableFingerprintError(
                f"vectors has the fingerprint {self.vectors.fingerprint[:12]!r}, but the features were fitted with "
                f"{(self.vectors_fingerprint_ or 'none')[:12]!r}: serve the generation that the ranker was trained on, "
                "or refit"
            )
        return self.vectors.lookup(ids)

    def _text_events(self) -> TextEvents:
        log = self._fitted_log()
        prepared = _PREPARED.get(self)
        if prepared is None or not prepared.is_of(log, self.item_texts_, self.liked_only):
            prepared = TextEvents.of(log, self.item_ids_, self.item_texts_, self.liked_only)
            _PREPARED[self] = prepared
        return prepared

    def _history_template(self, encoder: TextEncoder) -> HistoryTemplate:
        if self.template is None:
            return HistoryTemplate(newest_first=encoder.artifact.spec.truncation_side == "right")
        return self.template

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if self.template is not None and not isinstance(self.template, HistoryTemplate):
            raise InputError(f"template={self.template!r}, but a HistoryTemplate was expected: pass one, or None")
        if self.vectors is not None and not isinstance(self.vectors, VectorSource):
            raise InputError(
                f"vectors is a {type(self.vectors).__name__}, but a vector source was expected: pass a VectorTable, or "
                "None to encode the candidates' texts"
            )

    def _checked_source(self, encoder: TextEncoder) -> str:
        """Return the fingerprint of `vectors`, or raise where it is not of this model over a template that is known."""
        assert self.vectors is not None, "the caller checked it"
        template = self.item_template if self.vector_template is None else self.vector_template
        known = [] if template is None else _table_fingerprints(encoder, as_item_template(template))
        if self.vectors.fingerprint not in known:
            raise TableFingerprintError(
                f"vectors has the fingerprint {self.vectors.fingerprint[:12]!r}, but a table of the model "
                f"{encoder.artifact.fingerprint[:12]!r} over {template!r} was expected: pass its template as "
                "vector_template, encode the items with this artifact, or leave vectors out"
            )
        return self.vectors.fingerprint


# Made once per estimator and log, since a pass over the log takes longer than a request; beside the estimator, not in
# it, since it follows from what the estimator holds and need not be pickled.
_PREPARED: weakref.WeakKeyDictionary[UserTextFeatures, TextEvents] = weakref.WeakKeyDictionary()


def _table_fingerprints(encoder: TextEncoder, template: ItemTemplate) -> list[str]:
    """Return what tables of the encoder's model are called, by the backend that wrote them: all give such cosines."""
    identity = {"artifact": encoder.artifact.fingerprint, "template": template.fingerprint}
    return [text_sha256(canonical_json({**identity, "numerics": numerics})) for numerics in BACKENDS]


def _cosines(
    histories: Float32Array, history_of_row: Int64Array, candidates: Float32Array, candidate_of_row: Int64Array
) -> Float32Array:
    """Return the cosine of each row's history and candidate, float32, NaN where one has no direction."""
    out = np.empty(len(history_of_row), dtype=np.float32)
    for begin in range(0, len(out), BLOCK_ROWS):
        rows = slice(begin, begin + BLOCK_ROWS)
        out[rows] = cosines(histories[history_of_row[rows]], candidates[candidate_of_row[rows]])
    return out
