"""The vectors that an encoder has to beat: random ones, words, and co-ratings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.validation import check_is_fitted

from llmfeat._base.frames import require_rows, time_column, to_frame
from llmfeat.encode import VectorTable
from llmfeat.errors import InputError
from llmfeat.features import HistoryFeatures
from llmfeat.features._rows import LogTransformer
from llmfeat.history import InteractionLog
from llmfeat.types import Float32Array

__all__ = ["CollabFeatures", "collab_vectors", "random_vectors", "tfidf_vectors"]

# Past this many numbers the words are reduced; on small catalogues exact words are the stronger control.
_MOST_DENSE = 1 << 25
_REDUCED_DIM = 256
_COLLAB_DIM = 64
_LEAST_EVENTS = 100
_BEFORE_ALL = np.iinfo(np.int64).min // 2


def random_vectors(ids: pa.StringArray, *, dim: int, seed: int) -> VectorTable:
    """Return normally distributed vectors: the placebo, which says how much the kernel alone adds."""
    drawn = np.random.default_rng(seed).standard_normal((len(ids), dim))
    return VectorTable.from_arrays(ids, drawn)


def tfidf_vectors(ids: pa.StringArray, texts: Sequence[str | None], *, seed: int) -> VectorTable:
    """Return TF-IDF vectors of the very texts that the encoder sees, through an SVD where the catalogue is large."""
    there = [row for row, text in enumerate(texts) if text is not None]
    if not there:
        return _no_vectors(ids)
    # The default pattern drops one-letter words, and with them titles such as "M" and "Z".
    words = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    matrix = words.fit_transform([text for text in texts if text is not None])
    if len(texts) * matrix.shape[1] <= _MOST_DENSE:
        dense = matrix.toarray()
    else:
        dense = TruncatedSVD(min(_REDUCED_DIM, matrix.shape[1]), random_state=seed).fit_transform(matrix)
    vectors = np.full((len(texts), dense.shape[1]), np.nan, dtype=np.float32)
    vectors[there] = dense
    return VectorTable.from_arrays(ids, vectors)


def collab_vectors(log: InteractionLog, *, seed: int) -> VectorTable:
    """Return item vectors from co-ratings: an SVD of the items' rows of likes (+1) and dislikes (-1) by user.

    One user or one item alone has no co-ratings, and gives no vectors.
    """
    if min(len(log.item_ids), len(log.user_ids)) < 2:
        return _no_vectors(log.item_ids)
    signs = np.where(log.labels > 0, 1.0, -1.0)
    shape = (len(log.item_ids), len(log.user_ids))
    ratings = sp.csr_matrix((signs, (log.item_codes, log.user_codes)), shape=shape)
    norms = sp.linalg.norm(ratings, axis=1)
    unit = sp.diags(np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)) @ ratings
    dim = min(_COLLAB_DIM, *(size - 1 for size in shape))
    return VectorTable.from_arrays(log.item_ids, TruncatedSVD(dim, random_state=seed).fit_transform(unit))


def _no_vectors(ids: pa.StringArray) -> VectorTable:
    return VectorTable.from_arrays(ids, np.full((len(ids), 1), np.nan))


class CollabFeatures(LogTransformer):
    """`HistoryFeatures` over co-rating vectors that were fitted on the past of each row.

    The time of the rows that it is fitted on is cut into blocks of equal size. A block's rows see vectors fitted on the
    events before the block, later rows those fitted on all events up to the last fitted row, and rows before there are
    enough events see none.

    Parameters
    ----------
    log : InteractionLog
        The events.
    n_blocks : int, default=8
        How often the vectors are fitted anew over the time of the fitted rows.
    random_state : int, default=0
        Of the SVD.
    history_lag_s, user_id, item_id, timestamp
        As in `HistoryFeatures`.

    Attributes
    ----------
    edges_us_ : ndarray of int64
        The first moment of each block; the first block is of rows before the fitted ones, the last of rows after them.
    parts_ : list of HistoryFeatures
        By block.
    """

    def __init__(
        self,
        log: InteractionLog | None = None,
        *,
        n_blocks: int = 8,
        random_state: int = 0,
        history_lag_s: float = 0,
        user_id: str = "user_id",
        item_id: str = "item_id",
        timestamp: str = "timestamp",
    ) -> None:
        self.log = log
        self.n_blocks = n_blocks
        self.random_state = random_state
        self.history_lag_s = history_lag_s
        self.user_id = user_id
        self.item_id = item_id
        self.timestamp = timestamp

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit the vectors of each block on the events before it; `X` says where the blocks are."""
        if not (isinstance(self.n_blocks, int | np.integer) and self.n_blocks >= 1):
            raise InputError(f"n_blocks={self.n_blocks!r}, but an integer of at least 1 was expected")
        super().fit(X, y)
        times_us = time_column(X, self.timestamp, what="X")
        require_rows(len(times_us), what="X")
        quantiles = np.quantile(times_us, np.linspace(0, 1, self.n_blocks + 1)[:-1]).astype(np.int64)
        # Rows before the fitted ones make a block of their own, which sees no vectors: all of them are of its future.
        self.edges_us_ = np.unique(np.concatenate([[_BEFORE_ALL], quantiles, [times_us.max() + 1]]))
        self.parts_ = [self._part(edge).fit(X) for edge in self.edges_us_.tolist()]
        return self

    def transform(self, X: Any) -> Float32Array:
        """Return the features of each row, float32; see `HistoryFeatures.transform`."""
        check_is_fitted(self)
        times_us = time_column(X, self.timestamp, what="X")
        block_of = np.searchsorted(self.edges_us_, times_us, side="right") - 1
        frame = to_frame(X, what="X")
        out = np.empty((len(frame), len(self.get_feature_names_out())), dtype=np.float32)
        for block, part in enumerate(self.parts_):
            rows = np.flatnonzero(block_of == block)
            if len(rows):
                out[rows] = part.transform(frame[rows.tolist()].to_native())
        return out

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray[Any, Any]:
        """Return the names of the columns of `transform`."""
        return self._part(_BEFORE_ALL).get_feature_names_out()

    def _part(self, edge_us: int) -> HistoryFeatures:
        log = self._fitted_log()
        past_us = edge_us - round(self.history_lag_s * 1e6)
        if np.count_nonzero(log.times_us < past_us) >= _LEAST_EVENTS:
            vectors = collab_vectors(log.until(past_us), seed=self.random_state)
        else:
            vectors = _no_vectors(log.item_ids)
        return HistoryFeatures(
            log,
            {"collab": vectors},
            history_lag_s=self.history_lag_s,
            user_id=self.user_id,
            item_id=self.item_id,
            timestamp=self.timestamp,
        )
