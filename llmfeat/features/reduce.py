"""Fewer dimensions: the first ones of a Matryoshka model, or principal components, whitened."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data

from llmfeat._base.files import canonical_json, text_sha256
from llmfeat.encode import VectorTable
from llmfeat.errors import EmptyInputError, InputError, LLMFeatWarning, NothingToLearnError
from llmfeat.features._reducers import content, is_fitted, reduced
from llmfeat.features._rowwise import (
    BLOCK_ROWS,
    complete_rows,
    grid_bits,
    on_grid,
    product,
    unit_rows,
)
from llmfeat.types import Float32Array, Float64Array, VectorSource

__all__ = [
    "Matryoshka",
    "ReducedVectors",
    "VectorReducer",
    "Whitening",
    "fitted_reducer",
    "moments",
    "reduce_table",
    "reduced_fingerprint",
]

# Directions with less of the largest variance are rounding of float32: whitened, they would be noise of unit size.
_LEAST_VARIANCE = 1e-10

_FloatMatrix = npt.NDArray[np.floating[Any]]


class VectorReducer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What reducers of vectors share: checking vectors, in which a row of NaN is a missing one."""

    n_components: int | None
    n_components_: int

    def _vectors(self, X: Any, *, reset: bool) -> _FloatMatrix:
        vectors: _FloatMatrix = validate_data(
            self,
            X,
            reset=reset,
            dtype=[np.float32, np.float64],
            ensure_all_finite="allow-nan",
            ensure_min_samples=1 if reset else 0,
        )
        return vectors

    def _wanted(self, dim: int) -> int:
        wanted: object = self.n_components
        if wanted is None:
            return dim
        if not (isinstance(wanted, int | np.integer) and wanted is not True and 1 <= wanted <= dim):
            raise InputError(
                f"n_components={wanted!r}, but an integer from 1 to the {dim} dimensions of the vectors was expected: "
                "pass fewer, or None for all"
            )
        return int(wanted)

    def transform(self, X: Any) -> Float32Array:
        """Return the reduced vectors.

        Parameters
        ----------
        X : array-like of shape (n_vectors, n_features_in_)
            Vectors; a row with NaN is a missing one.

        Returns
        -------
        ndarray of shape (n_vectors, n_components_), float32
            A row of NaN where the vector is missing. Computed alone, a row has the bits that it has in a batch.
        """
        check_is_fitted(self)
        vectors = self._vectors(X, reset=False)
        out = np.full((len(vectors), self.n_components_), np.nan, dtype=np.float32)
        for begin in range(0, len(vectors), BLOCK_ROWS):
            block = vectors[begin : begin + BLOCK_ROWS]
            there = complete_rows(block)
            out[begin : begin + len(block)][there] = self._reduce(block[there].astype(np.float64))
        return out

    def _reduce(self, vectors: Float64Array) -> Float64Array:
        """Return the reduced form of complete vectors; implemented by the subclasses."""
        raise TypeError(f"{type(self).__name__} is a base class")

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


class Matryoshka(VectorReducer):
    """The first dimensions of each vector, at unit length again.

    For models that were trained so that the first dimensions are an embedding by themselves [1]_, as their cards say.
    Of another model the first dimensions are not better than any others: take `Whitening`.

    Parameters
    ----------
    n_components : int, optional
        How many; all by default.

    Attributes
    ----------
    n_components_ : int
        The number of dimensions that are kept.
    n_features_in_ : int
        Dimensions of the vectors that it was fitted on.
    feature_names_in_ : ndarray of str
        Their names, where they came as a data frame.

    References
    ----------
    .. [1] Kusupati et al. "Matryoshka Representation Learning", NeurIPS 2022. https://arxiv.org/abs/2205.13147

    Examples
    --------
    >>> from llmfeat.features.reduce import Matryoshka
    >>> Matryoshka(2).fit_transform([[3.0, 4.0, 12.0], [0.0, 1.0, 5.0]]).round(1).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 1.0]]
    """

    def __init__(self, n_components: int | None = None) -> None:
        self.n_components = n_components

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the parameters and the shape of `X`; nothing is learned from it."""
        self.n_components_ = self._wanted(self._vectors(X, reset=True).shape[1])
        return self

    def _reduce(self, vectors: Float64Array) -> Float64Array:
        return unit_rows(vectors[:, : self.n_components_])


class Whitening(VectorReducer):
    """Principal components at unit variance, of vectors without their mean.

    Embeddings share a large mean and a few directions that say little of what a text is about; without them cosines
    spread, and no direction counts more than another [1]_. What is learned are means and covariances: no label.

    Parameters
    ----------
    n_components : int, optional
        How many components at most, those of most variance; all by default. There are fewer where the fitted vectors
        span fewer directions.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features_in_,), float64
        Of the fitted vectors.
    components_ : ndarray of shape (n_components_, n_features_in_), float64
        Directions of unit length, of most variance first; the largest number of each is positive.
    explained_variance_ : ndarray of shape (n_components_,), float64
        The variance along each.
    n_components_ : int
        The number of components.
    n_features_in_ : int
        Dimensions of the vectors that it was fitted on.
    feature_names_in_ : ndarray of str
        Their names, where they came as a data frame.

    Notes
    -----
    The covariance is summed in float64 over blocks of rows, so that beside the vectors memory grows with the square of
    their dimensions only; scikit-learn's PCA would copy the vectors, or sum in float32.

    References
    ----------
    .. [1] Su et al. "Whitening Sentence Representations for Better Semantics and Faster Retrieval", 2021.
       https://arxiv.org/abs/2103.15316

    Examples
    --------
    >>> import numpy as np
    >>> from llmfeat.features.reduce import Whitening
    >>> vectors = np.array([[3, 1], [1, 1], [5, 2], [np.nan, np.nan]], dtype=np.float32)
    >>> white = Whitening().fit_transform(vectors)
    >>> white[:3].std(axis=0, ddof=1).round(3).tolist(), np.isnan(white[3]).all().item()
    ([1.0, 1.0], True)
    """

    def __init__(self, n_components: int | None = None) -> None:
        self.n_components = n_components

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn mean and components of the vectors that are there.

        Raises
        ------
        InputError
            When fewer than two vectors are there, all are the same, or `n_components` is out of range.
        """
        vectors = self._vectors(X, reset=True)
        wanted = self._wanted(vectors.shape[1])
        n_there, mean, covariance = moments(vectors)
        variance, axes = np.linalg.eigh(covariance)
        variance, axes = variance[::-1], axes[:, ::-1]
        n_directions = min(int(np.count_nonzero(variance > _LEAST_VARIANCE * variance[0])), n_there - 1)
        if variance[0] <= 0 or not n_directions:
            raise NothingToLearnError(
                f"the {n_there} vectors are all the same, but two different ones were expected: fit on more rows, or "
                "leave the column out"
            )
        if self.n_components is not None and wanted > n_directions:
            warnings.warn(
                f"n_components={wanted} is more than the {n_directions} directions of the {n_there} fitted vectors: "
                f"{n_directions} components are kept",
                LLMFeatWarning,
                stacklevel=2,
            )
        self.n_components_ = min(wanted, n_directions)
        self.mean_ = mean
        self.explained_variance_ = variance[: self.n_components_].copy()
        # An eigenvector has no sign of its own; this one does not depend on the order of the rows.
        axes = axes[:, : self.n_components_]
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(self.n_components_)])
        self.components_ = on_grid(np.ascontiguousarray(axes.T), grid_bits(vectors.shape[1]))
        return self

    def _reduce(self, vectors: Float64Array) -> Float64Array:
        along = product(vectors - self.mean_, self.components_.T)
        white: Float64Array = along / np.sqrt(self.explained_variance_)
        return white


def moments(vectors: _FloatMatrix) -> tuple[int, Float64Array, Float64Array]:
    """Return how many vectors are complete, their mean, and their covariance."""
    n_there, total = 0, np.zeros(vectors.shape[1])
    for block in _complete_blocks(vectors):
        n_there += len(block)
        total += block.sum(axis=0)
    if n_there < 2:
        raise NothingToLearnError(
            f"{n_there} of {len(vectors)} rows have a vector (n_samples={n_there}), but at least 2 were expected: fit "
            "on more rows"
        )
    mean = total / n_there
    scatter = np.zeros((len(mean), len(mean)))
    for block in _complete_blocks(vectors):
        block -= mean
        scatter += block.T @ block
    return n_there, mean, scatter / (n_there - 1)


def _complete_blocks(vectors: _FloatMatrix) -> Iterator[Float64Array]:
    for begin in range(0, len(vectors), BLOCK_ROWS):
        block = vectors[begin : begin + BLOCK_ROWS]
        yield block[complete_rows(block)].astype(np.float64)


def fitted_reducer(reduce: Any, vectors: Float32Array, y: Any = None) -> Any:
    """Return a fitted reducer of the vectors that are there.

    Parameters
    ----------
    reduce : int or transformer
        At most so many components of `Whitening`, or any scikit-learn transformer of vectors, which is cloned.
    vectors : ndarray of shape (n_vectors, dim), float32
        A row of NaN is a missing vector; the reducer does not see it.
    y : array-like of shape (n_vectors,), optional
        For transformers that need a target.
    """
    if isinstance(reduce, int | np.integer) and not isinstance(reduce, bool):
        reducer: Any = Whitening(int(reduce))
    elif isinstance(reduce, type) or not (hasattr(reduce, "fit") and hasattr(reduce, "transform")):
        raise InputError(
            f"reduce={reduce!r}, but an integer or a transformer was expected: pass 32, or Matryoshka(128)"
        )
    else:
        reducer = clone(reduce)
    there = complete_rows(vectors)
    if not there.any():
        raise EmptyInputError(
            f"none of {len(vectors)} rows has a text, but at least 1 is needed to fit {reducer!r}: check the columns"
        )
    return reducer.fit(vectors[there], None if y is None else np.asarray(y)[there])


def reduce_table(reducer: Any, table: VectorTable, *, fit_ids: Any = None) -> VectorTable:
    """Return a table of reduced vectors, for `HistoryFeatures` or anything else that takes vectors by id.

    Parameters
    ----------
    reducer : Matryoshka, Whitening or another transformer
        A fitted one is used as it is. One that is not fitted, and every one where `fit_ids` is passed, is fitted here,
        in place, so that it can be kept for items that come later.
    table : VectorTable
        The vectors.
    fit_ids : sequence of ids, optional
        The items whose vectors are fitted on, such as those that were known when training ended; all by default.

    Returns
    -------
    VectorTable
        The same ids; a row of NaN where there was one. Its fingerprint follows from that of `table` and from what the
        reducer has learned, so that `HistoryFeatures` refuses vectors of another reducer.

    Raises
    ------
    EmptyInputError
        When none of `fit_ids` has a vector.

    Examples
    --------
    >>> from llmfeat import VectorTable
    >>> from llmfeat.features.reduce import Matryoshka, reduce_table
    >>> table = VectorTable.from_arrays(["a", "b"], [[3.0, 4.0, 5.0], [0.0, 2.0, 1.0]])
    >>> reduce_table(Matryoshka(2), table).lookup(["b"]).tolist()
    [[0.0, 1.0]]
    """
    if fit_ids is not None or not is_fitted(reducer):
        vectors = table.vectors if fit_ids is None else table.lookup(fit_ids)
        there = complete_rows(vectors)
        if not there.any():
            raise EmptyInputError(
                f"none of the {len(vectors)} ids to fit on has a vector in {table!r}, 2 are needed: check the ids"
            )
        reducer.fit(vectors[there])
    return VectorTable(
        table.ids, reduced(reducer, table.vectors), fingerprint=reduced_fingerprint(table.fingerprint, reducer)
    )


def reduced_fingerprint(fingerprint: str, reducer: Any) -> str:
    """Return the fingerprint of vectors of another fingerprint behind a fitted reducer."""
    return text_sha256(canonical_json({"table": fingerprint, "reducer": content(reducer)}))


class ReducedVectors:
    """A `VectorSource` that reduces another one's vectors as they are read: `reduce_table`, without a table.

    A feature store holds vectors as the model gave them; a projection that is learned anew every week is applied when
    they are read, and the catalogue is not written again. Bits and fingerprint are those of `reduce_table`.

    Parameters
    ----------
    source : VectorSource
        The vectors as they are kept.
    reducer : Matryoshka, Whitening, LearnedSimilarity or another fitted transformer
        What is applied to them.

    Attributes
    ----------
    fingerprint : str
        Of the source, and of what the reducer has learned.

    Examples
    --------
    >>> from llmfeat import VectorTable
    >>> from llmfeat.features.reduce import Matryoshka, ReducedVectors, reduce_table
    >>> table = VectorTable.from_arrays(["a", "b"], [[3.0, 4.0, 5.0], [0.0, 2.0, 1.0]])
    >>> shorter = ReducedVectors(table, Matryoshka(2).fit(table.vectors))
    >>> shorter.lookup(["b"]).tolist(), shorter.fingerprint == reduce_table(shorter.reducer, table).fingerprint
    ([[0.0, 1.0]], True)
    """

    def __init__(self, source: VectorSource, reducer: Any) -> None:
        if not is_fitted(reducer):
            raise InputError(f"{reducer!r} is not fitted, but vectors are reduced as they are read: fit it first")
        self.source = source
        self.reducer = reducer
        self.fingerprint = reduced_fingerprint(source.fingerprint, reducer)

    @property
    def dim(self) -> int:
        """The number of dimensions of a reduced vector."""
        return int(reduced(self.reducer, np.ones((1, self.source.dim), dtype=np.float32)).shape[1])

    def lookup(self, ids: Any) -> Float32Array:
        """Return the reduced vectors of `ids`, float32; NaN for those that the source lacks."""
        return reduced(self.reducer, self.source.lookup(ids))

    def __deepcopy__(self, memo: dict[int, Any]) -> ReducedVectors:
        """Return itself: clones of an estimator share the source."""
        return self
