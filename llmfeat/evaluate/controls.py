"""The vectors that an encoder has to beat: random ones, words, and co-ratings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from llmfeat.encode import VectorTable
from llmfeat.history import InteractionLog

__all__ = ["CollabVectors", "random_vectors", "tfidf_vectors"]

# Past this many numbers the words are reduced; on small catalogues exact words are the stronger control.
_MOST_DENSE = 1 << 25
_REDUCED_DIM = 512
_WORD = re.compile(r"(?u)\b\w+\b")


def random_vectors(ids: pa.StringArray, *, dim: int, seed: int) -> VectorTable:
    """Return normally distributed vectors: the placebo, which says how much the kernel alone adds."""
    drawn = np.random.default_rng(seed).standard_normal((len(ids), dim))
    return VectorTable.from_arrays(ids, drawn)


def tfidf_vectors(
    ids: pa.StringArray, texts: Sequence[str | None], *, seed: int, dim: int | None = None
) -> VectorTable:
    """Return TF-IDF vectors of the very texts that the encoder sees.

    Of `dim` dimensions by an SVD; by default only where the catalogue is large.
    """
    there = [row for row, text in enumerate(texts) if text is not None]
    if not any(_WORD.search(texts[row] or "") for row in there):
        return _no_vectors(ids)
    # The default pattern drops one-letter words, and with them titles such as "M" and "Z".
    words = TfidfVectorizer(sublinear_tf=True, token_pattern=_WORD.pattern)
    matrix = words.fit_transform([text for text in texts if text is not None])
    is_small = dim is None and len(texts) * matrix.shape[1] <= _MOST_DENSE
    if is_small or min(matrix.shape) < 2:  # of one word or one text there is no SVD
        dense = matrix.toarray()
    else:
        dense = TruncatedSVD(min(dim or _REDUCED_DIM, matrix.shape[1]), random_state=seed).fit_transform(matrix)
    vectors = np.full((len(texts), dense.shape[1]), np.nan, dtype=np.float32)
    vectors[there] = dense
    return VectorTable.from_arrays(ids, vectors)


@dataclass(frozen=True)
class CollabVectors:
    """Learns item vectors from co-ratings: an SVD of the items' rows of likes (+1) and dislikes (-1) by user.

    Parameters
    ----------
    dim : int, default=64
        How many dimensions, where there are as many users and items.
    random_state : int, default=0
        Of the SVD.
    """

    dim: int = 64
    random_state: int = 0

    def learn(self, log: InteractionLog) -> VectorTable:
        """Return the vectors of a log; one user or one item alone has no co-ratings, and gives none."""
        shape = (len(log.item_ids), len(log.user_ids))
        if min(shape) < 2:
            return _no_vectors(log.item_ids)
        signs = np.where(log.labels > 0, 1.0, -1.0)
        ratings = sp.csr_matrix((signs, (log.item_codes, log.user_codes)), shape=shape)
        norms = sp.linalg.norm(ratings, axis=1)
        unit = sp.diags(np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)) @ ratings
        svd = TruncatedSVD(min(self.dim, *(size - 1 for size in shape)), random_state=self.random_state)
        return VectorTable.from_arrays(log.item_ids, svd.fit_transform(unit))


def _no_vectors(ids: pa.StringArray) -> VectorTable:
    return VectorTable.from_arrays(ids, np.full((len(ids), 1), np.nan))
