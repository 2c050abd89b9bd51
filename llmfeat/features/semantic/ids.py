"""`SemanticIds`: item vectors as a few categorical codes, of which alike items share the first ones."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from llmfeat.encode import VectorTable
from llmfeat.errors import EmptyInputError, InputError, LLMFeatWarning, TableFingerprintError
from llmfeat.features.semantic.columns import code_columns, column_names
from llmfeat.features.semantic.items import ItemCodes
from llmfeat.features.semantic.parameters import check_parameters, plain_parameters
from llmfeat.features.semantic.report import LevelUse, SemanticIdReport, report_of
from llmfeat.features.semantic.residual import assign, fit_book, variance, whole
from llmfeat.features.semantic.storage import fingerprint_of, read_book, write_book
from llmfeat.features.semantic.trie import CodeTrie
from llmfeat.types import Float32Array, Int32Array

__all__ = ["SemanticIds"]


class SemanticIds(TransformerMixin, BaseEstimator):
    """Codes of vectors by residual k-means: a first code, a second of what that left over, and so on.

    The discrete ids of TIGER (Rajput et al., 2023, arXiv:2305.05065), with k-means in place of its RQ-VAE, for trees
    and CTR models as categories and for generators as targets. Stands behind a text embedder in a pipeline, or works on
    a `VectorTable`. The book is frozen by `fit`: the code of a vector depends on nothing but the vector and the book,
    not on its batch nor on the machine, so that new items can be coded at any time. A row with NaN, an item without
    text, gets -1 in every column; so does a row of zeros where vectors are normalized, as it has no direction.

    Parameters
    ----------
    levels : tuple of int, default=(256, 256, 256)
        The number of codes of each level. A level with fewer distinct residuals has as many codes as there are of
        these, with a warning.
    normalize : bool, default=True
        Whether vectors are brought to unit length, so that codes go by cosine. Where they are not, a vector of more
        than 16 times the longest fitted one is taken for a shorter one of its direction.
    n_init : int, default=1
        Runs of each k-means, of which the best is kept.
    max_iter : int, default=50
        Most iterations of a run.
    rows_per_code : int or None, default=256
        The k-means sees a sample of this many rows for each code of the largest level; None for all rows. Prefixes and
        figures are always of all rows.
    random_state : int, RandomState or None, default=0
        Draws the sample and the first centroids. One number gives one book on a machine.

    Attributes
    ----------
    book_ : CodeBook
        The centroids.
    trie_ : CodeTrie
        The codes of the fitted items as a tree: `trie_.children(prefix)` are the codes that may follow.
    fingerprint_ : str
        What identifies the book and the numbering of the prefixes.
    report_ : SemanticIdReport
        Use, collisions and residuals of the fitted items.
    vectors_fingerprint_ : str or None
        That of the table that `fit_table` was given.
    n_iter_ : int
        Iterations of the k-means of the level that took the most.
    n_features_in_ : int
        Dimensions of a vector.
    feature_names_in_ : ndarray of str
        Names of the fitted frame's columns, where it had any.

    Notes
    -----
    Columns are ``semantic_level1``, ``semantic_level2``, ... (the codes) and ``semantic_prefix2``, ... (the codes up to
    that level as one category; the first level is its own prefix), int32. Prefixes are numbered densely from 0 in
    lexicographic order, as they occur in the fitted items, and one that did not occur is -1: a mixed-radix number
    would reach 2**24 with three levels, past which the float32 that LightGBM works on confuses numbers, and
    it stores a categorical split as bits up to the largest category. LightGBM takes -1 as missing. The last prefix has
    nearly as many categories as there are items: leave it out where that is too many.

    Examples
    --------
    >>> import numpy as np
    >>> from llmfeat.features.semantic import SemanticIds
    >>> vectors = np.array([[1, 0], [0.8, 0.6], [-1, 0], [-0.8, 0.6], [np.nan, np.nan]], dtype=np.float32)
    >>> ids = SemanticIds(levels=(2, 2)).fit(vectors)
    >>> ids.get_feature_names_out().tolist()
    ['semantic_level1', 'semantic_level2', 'semantic_prefix2']
    >>> ids.transform(vectors).tolist()
    [[1, 0, 2], [1, 1, 3], [0, 0, 0], [0, 1, 1], [-1, -1, -1]]
    >>> ids.trie_.children([1]).tolist(), ids.report_.collision_rate
    ([0, 1], 0.0)
    """

    def __init__(
        self,
        levels: Sequence[int] = (256, 256, 256),
        *,
        normalize: bool = True,
        n_init: int = 1,
        max_iter: int = 50,
        rows_per_code: int | None = 256,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.levels = levels
        self.normalize = normalize
        self.n_init = n_init
        self.max_iter = max_iter
        self.rows_per_code = rows_per_code
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit a book to vectors.

        Parameters
        ----------
        X : array or data frame of shape (n_items, dim), float
            One row an item; one of NaN where it has no vector.
        y : None
            Ignored.

        Raises
        ------
        InputError
            When a parameter is wrong, or no row is a vector.
        """
        sizes = check_parameters(self.get_params())
        vectors = validate_data(self, X, dtype=np.float32, order="C", ensure_all_finite="allow-nan")
        there = np.flatnonzero(whole(vectors, normalize=self.normalize))
        if not len(there):
            raise EmptyInputError(
                f"none of the {len(vectors)} rows is a vector, at least 1 is needed: encode texts first"
            )
        random_state = check_random_state(self.random_state)
        n_most = len(there) if self.rows_per_code is None else self.rows_per_code * max(sizes)
        sample = np.sort(random_state.choice(there, n_most, replace=False)) if n_most < len(there) else there
        self.book_, self.n_iter_ = fit_book(
            vectors[sample],
            sizes,
            normalize=self.normalize,
            n_init=self.n_init,
            max_iter=self.max_iter,
            random_state=random_state,
        )
        if self.book_.n_codes != sizes:
            warnings.warn(
                f"the levels have {self.book_.n_codes} codes in place of {sizes}: the {len(sample)} fitted vectors "
                "leave no more distinct residuals",
                LLMFeatWarning,
                stacklevel=2,
            )
        codes, errors = assign(vectors, self.book_)
        self.trie_ = CodeTrie(codes[there], self.book_.n_codes)
        self.report_ = report_of(codes, errors, variance(vectors, self.book_), self.book_.n_codes)
        self.fingerprint_ = fingerprint_of(self.book_, self.trie_)
        self.vectors_fingerprint_: str | None = None
        return self

    def fit_table(self, table: VectorTable) -> Self:
        """Fit a book to all vectors of a table, and remember its fingerprint: `item_codes` refuses another."""
        self.fit(table.vectors)
        self.vectors_fingerprint_ = table.fingerprint
        return self

    def transform(self, X: Any) -> Int32Array:
        """Return codes and prefixes of vectors; see the notes of the class.

        Parameters
        ----------
        X : array or data frame of shape (n_items, dim), float
            Vectors of the model that was fitted with. A row coded alone has the codes that it has in a batch.

        Returns
        -------
        ndarray of shape (n_items, 2 * n_levels - 1), int32
            -1 where a row is no vector, or where no fitted item has the prefix.
        """
        check_is_fitted(self)
        codes, _ = assign(self._vectors(X), self.book_)
        return code_columns(codes, self.trie_)

    def report(self, X: Any) -> SemanticIdReport:
        """Return the figures of other vectors under this book, such as those of items added since the fit."""
        check_is_fitted(self)
        vectors = self._vectors(X)
        codes, errors = assign(vectors, self.book_)
        return report_of(codes, errors, variance(vectors, self.book_), self.book_.n_codes)

    def item_codes(self, table: VectorTable) -> ItemCodes:
        """Return the codes of the items of a table.

        Raises
        ------
        TableFingerprintError
            When the book was fitted to a table of another fingerprint.
        InputError
            When the vectors are of another dimension.
        """
        check_is_fitted(self)
        if self.vectors_fingerprint_ not in (None, table.fingerprint):
            raise TableFingerprintError(
                f"the table has the fingerprint {table.fingerprint[:12]!r}, but the book was fitted to "
                f"{self.vectors_fingerprint_[:12]!r}: code the generation that it was fitted to, or refit"
            )
        if table.dim != self.n_features_in_:
            raise InputError(
                f"the table has vectors of {table.dim} dimensions, but the book was fitted to {self.n_features_in_}: "
                "code vectors of the same model, or refit"
            )
        codes, _ = assign(table.vectors, self.book_)
        return ItemCodes(table.ids, codes, self.trie_, self.fingerprint_)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray[Any, Any]:
        """Return the names of the columns of `transform`."""
        check_is_fitted(self)
        return column_names(len(self.book_.levels))

    def save(self, path: str | Path) -> None:
        """Write the fitted transformer to one file, without pickle: a line of JSON, then the arrays.

        A `random_state` that is no integer is not kept.
        """
        check_is_fitted(self)
        about = {
            "fingerprint": self.fingerprint_,
            "parameters": plain_parameters(self.get_params()),
            "n_iter": self.n_iter_,
            "report": asdict(self.report_),
            "vectors_fingerprint": self.vectors_fingerprint_,
            "feature_names": [str(name) for name in getattr(self, "feature_names_in_", ())],
        }
        write_book(Path(path), self.book_, self.trie_, about)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the fitted transformer that `save` wrote.

        Raises
        ------
        ArtifactNotFoundError, ArtifactSchemaError, ArtifactCorruptError
            When there is no file, a newer version wrote it, or it is not what was written.
        """
        book, trie, about = read_book(Path(path))
        ids = cls(**about["parameters"] | {"levels": tuple(about["parameters"]["levels"])})
        ids.book_, ids.trie_ = book, trie
        ids.fingerprint_ = about["fingerprint"]
        ids.vectors_fingerprint_ = about["vectors_fingerprint"]
        uses = tuple(LevelUse(**level) for level in about["report"]["levels"])
        ids.report_ = SemanticIdReport(**about["report"] | {"levels": uses})
        ids.n_iter_ = about["n_iter"]
        ids.n_features_in_ = book.dim
        if about["feature_names"]:
            ids.feature_names_in_ = np.array(about["feature_names"], dtype=object)
        return ids

    def _vectors(self, X: Any) -> Float32Array:
        vectors: Float32Array = validate_data(
            self, X, reset=False, dtype=np.float32, order="C", ensure_all_finite="allow-nan", ensure_min_samples=0
        )
        return vectors

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []
        return tags
