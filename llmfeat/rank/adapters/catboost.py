"""Vectors as CatBoost's own embedding features."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from llmfeat._base.frames import id_column, require_rows, to_frame
from llmfeat._base.optional import import_optional
from llmfeat.errors import InputError, TableFingerprintError
from llmfeat.rank.scorers.base import check_vectors
from llmfeat.types import VectorSource

__all__ = ["EmbeddingColumn"]


class EmbeddingColumn(TransformerMixin, BaseEstimator):
    """The vector of each row's item as one column of arrays, which CatBoost takes as an embedding feature.

    CatBoost makes features of it by itself: distances to classes, and what is known of the nearest. It learns them from
    the rows' own labels. The ranker is told the column's name: ``CatBoostRanker(embedding_features=["vector"])``.

    Parameters
    ----------
    vectors : VectorSource
        Item vectors, such as a `VectorTable`. For a row without one, the mean of those of the rows that were fitted on
        stands, since CatBoost takes no NaN.
    column : str, default="item_id"
        The column of ids.
    name : str, default="vector"
        What the column is called.

    Attributes
    ----------
    fingerprint_ : str
        Of the vectors; `transform` refuses others.
    fill_ : ndarray of shape (dim,), float32
        What stands for a vector that is missing.

    Examples
    --------
    >>> import pandas as pd
    >>> from llmfeat import VectorTable
    >>> from llmfeat.rank.adapters.catboost import EmbeddingColumn
    >>> table = VectorTable.from_arrays(["a", "b"], [[1.0, 0.0], [0.0, 1.0]])
    >>> rows = pd.DataFrame({"item_id": ["b", "a", "c"]})
    >>> [cell.tolist() for cell in EmbeddingColumn(table).fit_transform(rows)["vector"]]
    [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]]
    """

    def __init__(self, vectors: VectorSource | None = None, *, column: str = "item_id", name: str = "vector") -> None:
        self.vectors = vectors
        self.column = column
        self.name = name

    def fit(self, X: Any, y: Any = None) -> Self:
        """Record the fingerprint of the vectors, and the mean of those of the rows."""
        ids = id_column(X, self.column, what="X")
        require_rows(len(ids), what="X")
        found = self._source().lookup(ids)
        there = ~np.isnan(found[:, 0])
        if not there.any():
            raise InputError(
                f"none of the {len(found)} rows has a vector: pass the table of the ids that {self.column!r} holds"
            )
        self.fill_ = found[there].mean(axis=0, dtype=np.float64).astype(np.float32)
        self.fingerprint_ = self._source().fingerprint
        self.feature_names_in_ = np.array(to_frame(X, what="X").columns, dtype=object)
        self.n_features_in_ = len(self.feature_names_in_)
        return self

    def transform(self, X: Any) -> Any:
        """Return the column, a pandas frame of shape ``(n_rows, 1)`` with an array of float32 in each cell.

        Raises
        ------
        TableFingerprintError
            When the vectors are not those that were fitted with.
        """
        check_is_fitted(self)
        pandas = import_optional("pandas", purpose="CatBoost's embedding features")
        source = self._source()
        if source.fingerprint != self.fingerprint_:
            raise TableFingerprintError(
                f"the vectors have the fingerprint {source.fingerprint[:12]!r}, but the column was fitted with "
                f"{self.fingerprint_[:12]!r}: serve the generation that the ranker was trained on, or refit"
            )
        found = source.lookup(id_column(X, self.column, what="X"))
        found[np.isnan(found[:, 0])] = self.fill_
        return pandas.DataFrame({self.name: list(found)}, index=getattr(X, "index", None))

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray[Any, Any]:
        """Return the name of the column."""
        return np.array([self.name], dtype=object)

    def _source(self) -> VectorSource:
        check_vectors(self.vectors)
        assert self.vectors is not None, "it was checked"
        return self.vectors
