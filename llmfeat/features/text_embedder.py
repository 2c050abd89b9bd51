"""`TextEmbedder`: columns of text to vectors, as a scikit-learn transformer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

from llmfeat._base.frames import require_rows
from llmfeat.artifact import ModelArtifact
from llmfeat.encode import TextEncoder, VectorCache
from llmfeat.errors import InputError, MissingColumnError
from llmfeat.features._columns import arrow_table, as_two_dimensional, column_names
from llmfeat.features._encoders import EncoderMixin, encode_column
from llmfeat.features._reducers import reduced
from llmfeat.features.reduce import fitted_reducer
from llmfeat.text import ItemTemplate
from llmfeat.types import Float32Array

__all__ = ["TextEmbedder"]

_JOINED = "text"
_CELL = ItemTemplate("{cell}")


class TextEmbedder(EncoderMixin, TransformerMixin, BaseEstimator):
    """Vectors of the texts of each row, by an exported model.

    Takes pandas, polars and Arrow frames, arrays and lists, with any scalars in them: numbers, dates and booleans are
    read as their text. Equal texts are encoded once. A row computed alone has the bits that it has in a batch, unless
    `reduce` is a transformer of somebody else.

    Vectors by themselves do little for a tree ranker; linear models, and `ColumnTransformer` pipelines that end in
    them, are what this is for. For rankers over histories see `HistoryFeatures`.

    Parameters
    ----------
    artifact : str, Path, ModelArtifact or TextEncoder
        The model, or its folder. Needed; without it `fit` says how to make one.
    columns : sequence of str, optional
        Which columns are read; all by default. With `columns` or `template`, others may come and go between `fit` and
        `transform`. Columns without names are ``x0``, ``x1`` and so on.
    template : ItemTemplate or str, optional
        How a row becomes a text, such as ``"{title}[ ({year})]"``. By default columns are joined as
        `ItemTemplate.of_columns` does, where the first is required and the others are optional.
    per_column : bool, default=False
        Whether each column is a text of its own, with vectors of its own, rather than a part of one text.
    reduce : int or transformer, optional
        Fewer dimensions, learned by `fit` from the rows that have a text, for each text apart: at most so many
        components of `Whitening`, or a transformer such as ``Matryoshka(128)``, which is cloned. None by default.
    role : {"document", "query"}, default="document"
        Which of the model's prompts stands before each text; items are documents.
    missing : {"nan", "zero"}, default="nan"
        What the vector of a row without text is. LightGBM knows what to do with NaN; a linear model needs zeros, which
        after `Whitening` are the mean.
    cache : VectorCache, bool, str or Path, optional
        Where vectors are kept from call to call, so that a grid search encodes each text once: a cache, its folder, or
        True for the user's; none by default.
    backend, threads, streams, batch_tokens
        As in `TextEncoder`. One that is passed as `artifact` has its own, and its own cache.

    Attributes
    ----------
    fingerprint_ : str
        The artifact's as it was fitted with; `transform` refuses another.
    columns_ : list of str
        The columns that are read.
    template_ : str or None
        How they are joined; None where each is a text of its own.
    reducers_ : dict of str to transformer
        By text; empty without `reduce`.
    n_dims_ : dict of str to int
        Columns of the output, by text.
    n_features_in_ : int
        Columns of the frame that was fitted on.
    feature_names_in_ : ndarray of str
        Their names, where they have some.

    Examples
    --------
    >>> from llmfeat.features import TextEmbedder  # doctest: +SKIP
    >>> embedder = TextEmbedder("artifacts/minilm", ["title", "genres"], reduce=32, cache=True)  # doctest: +SKIP
    >>> ranker = make_pipeline(embedder, LogisticRegression())  # doctest: +SKIP
    >>> GridSearchCV(ranker, {"textembedder__reduce": [16, 32]}).fit(movies, liked)  # doctest: +SKIP
    """

    def __init__(
        self,
        artifact: TextEncoder | ModelArtifact | str | Path | None = None,
        columns: Sequence[str] | None = None,
        *,
        template: ItemTemplate | str | None = None,
        per_column: bool = False,
        reduce: Any = None,
        role: str = "document",
        missing: str = "nan",
        cache: VectorCache | bool | str | Path | None = None,
        backend: str = "auto",
        threads: int | None = None,
        streams: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self.artifact = artifact
        self.columns = columns
        self.template = template
        self.per_column = per_column
        self.reduce = reduce
        self.role = role
        self.missing = missing
        self.cache = cache
        self.backend = backend
        self.threads = threads
        self.streams = streams
        self.batch_tokens = batch_tokens

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the parameters, the artifact and the columns of `X`, and learn the reducers.

        Without `reduce` nothing is learned, and no text is encoded.

        Parameters
        ----------
        X : data frame or array-like of shape (n_rows, n_columns)
            The texts.
        y : array-like of shape (n_rows,), optional
            Passed on to `reduce`.

        Raises
        ------
        InputError
            When a parameter, or `X`, cannot be worked with.
        ArtifactError
            When the artifact cannot be used.
        """
        table = self._checked(X)
        self._learn({} if self.reduce is None else self._encoded(table), y)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Float32Array:
        """Return what ``fit(X, y).transform(X)`` does, where each text is encoded once."""
        vectors = self._encoded(self._checked(X))
        self._learn(vectors, y)
        return self._output(vectors)

    def transform(self, X: Any) -> Float32Array:
        """Return the vectors of each row.

        Parameters
        ----------
        X : data frame or array-like of shape (n_rows, n_columns)
            The columns that were fitted, in that order; with `columns` or `template` in any.

        Returns
        -------
        ndarray of shape (n_rows, n_features_out), float32
            The vectors of each text side by side; NaN, or zeros, where a row has no such text.

        Raises
        ------
        TableFingerprintError
            When the artifact is not the one that was fitted with.
        """
        check_is_fitted(self)
        rows = as_two_dimensional(X)
        if self.columns is None and self.template is None:
            _validate(self, rows, reset=False)
            table = arrow_table(rows, column_names(rows)).rename_columns(self.columns_)  # by position, as of an array
        else:
            table = _selected(rows, self.columns_)
        return self._output(self._encoded(table))

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray[Any, Any]:
        """Return the names of the columns of `transform`: ``title_0`` by column, ``text_0`` where they are joined."""
        check_is_fitted(self)
        _check_feature_names_in(self, input_features, generate_names=False)
        names = [f"{text}_{at}" for text, n_dims in self.n_dims_.items() for at in range(n_dims)]
        return np.array(names, dtype=object)

    def _checked(self, X: Any) -> pa.Table:
        """Set what follows from the parameters and the columns of `X`, and return these."""
        if self.missing not in ("nan", "zero"):
            raise InputError(f"missing={self.missing!r}, but 'nan' or 'zero' was expected")
        encoder = self._encoder()
        rows = as_two_dimensional(X)
        _validate(self, rows, reset=True)
        require_rows(len(rows), what="X")
        self.columns_, self.template_ = self._texts(column_names(rows))
        self.fingerprint_ = encoder.artifact.fingerprint
        return _selected(rows, self.columns_)

    def _texts(self, names: list[str]) -> tuple[list[str], str | None]:
        """Return which columns are read, and the template that joins them, None where each stands alone."""
        if self.template is not None:
            if self.columns is not None or self.per_column:
                raise InputError(
                    f"template={self.template!r} was passed with columns={self.columns!r} and "
                    f"per_column={self.per_column!r}, but a template names its columns: pass the one or the other"
                )
            template = self.template if isinstance(self.template, ItemTemplate) else ItemTemplate(self.template)
            return list(template.fields), template.template
        columns = names if self.columns is None else list(self.columns)
        if isinstance(self.columns, str) or not columns or len(set(columns)) < len(columns):
            raise InputError(
                f"columns={self.columns!r}, but a list of distinct names was expected: pass ['title', ...]"
            )
        joined = len(columns) > 1 and not self.per_column
        return columns, ItemTemplate.of_columns(columns).template if joined else None

    def _encoded(self, table: pa.Table) -> dict[str, Float32Array]:
        """Return the vectors of each text."""
        encoder = self._fitted_encoder()
        if self.template_ is not None:
            texts = {_JOINED: ItemTemplate(self.template_).render_arrow(table, truncate=encoder.truncate)}
        else:
            # By a name of our own: a column may have one that means something in templates.
            texts = {name: _CELL.render_arrow(pa.table({"cell": table.column(name)})) for name in self.columns_}
        return {name: encode_column(encoder, column, role=self.role) for name, column in texts.items()}

    def _learn(self, vectors: dict[str, Float32Array], y: Any) -> None:
        names = self.columns_ if self.template_ is None else [_JOINED]
        if self.reduce is None:
            self.reducers_: dict[str, Any] = {}
            self.n_dims_ = dict.fromkeys(names, self._encoder().dim)
            return
        self.reducers_ = {name: fitted_reducer(self.reduce, vectors[name], y) for name in names}
        self.n_dims_ = {name: reduced(self.reducers_[name], vectors[name][:1]).shape[1] for name in names}

    def _output(self, vectors: dict[str, Float32Array]) -> Float32Array:
        if self.reducers_:
            vectors = {name: reduced(self.reducers_[name], block) for name, block in vectors.items()}
        out = np.concatenate(list(vectors.values()), axis=1)
        if self.missing == "zero":
            out[np.isnan(out)] = 0
        return out

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _validate(estimator: TextEmbedder, rows: Any, *, reset: bool) -> None:
    """Set or compare the number and the names of the columns, as scikit-learn does."""
    n_columns = rows.shape[1]
    if not n_columns:
        raise InputError(
            f"X has 0 feature(s) (shape={tuple(rows.shape)}) while a minimum of 1 is required: pass a column of text"
        )
    try:
        validate_data(estimator, rows, reset=reset, skip_check_array=True)
    except (TypeError, ValueError) as error:
        advice = "pass the columns that were fitted, in that order, or say which with columns="
        raise InputError(f"{error}: {advice}") from error


def _selected(rows: Any, columns: list[str]) -> pa.Table:
    there = column_names(rows)
    missing = [name for name in columns if name not in there]
    if missing:
        raise MissingColumnError(
            f"X has the columns {there} but {missing} is needed: add it, or say which columns hold the text"
        )
    return arrow_table(rows, columns)
