"""Rows for the CTR models of torch-rechub, such as DCN-v2 and DeepFM: our features, ids, and vectors as tables.

Importing this module imports torch and torch-rechub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.base import BaseEstimator, clone
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, QuantileTransformer
from sklearn.utils.validation import check_is_fitted

from llmfeat._base.frames import id_array, id_column, require_rows, to_frame
from llmfeat._base.ids import IdIndex
from llmfeat._base.optional import missing_dependency
from llmfeat.errors import InputError
from llmfeat.rank.adapters.embedding_matrix import to_embedding_matrix
from llmfeat.rank.scorers.base import check_whole, named_ids
from llmfeat.types import Float32Array, Int64Array, VectorSource

try:
    import torch
    from torch.utils.data import DataLoader
    from torch_rechub.basic.features import DenseFeature, SparseFeature
    from torch_rechub.utils.data import PredictDataset, TorchDataset
except ModuleNotFoundError as error:
    raise missing_dependency("torch_rechub", purpose="RechubData") from error

__all__ = ["RechubData", "VectorColumn"]

_WAYS = ("frozen", "warm", "projected")
_DENSE = "dense"
_MOST_QUANTILES = 1000


@dataclass(frozen=True, eq=False)
class VectorColumn:
    """A column of ids whose vectors a model reads.

    Parameters
    ----------
    column : str
        The column of the rows.
    vectors : VectorSource
        Their vectors.
    ids : sequence of ids, optional
        Which ids have a row, beside those that were fitted on: the whole catalogue, so that items that nobody met yet
        are read by their vectors. Those of a `VectorTable` by default.
    way : {"projected", "frozen", "warm"}, default="projected"
        How the model reads them. Projected: they stay as they are, and a projection to the size of the other embeddings
        is learned. Frozen: they are a dense feature of their own size, in each row. Warm: training of an embedding
        begins with them; they must have its size, as `reduce_table` brings them to.
    """

    column: str
    vectors: VectorSource
    ids: Any = None
    way: str = "projected"


class RechubData(BaseEstimator):
    """Makes what torch-rechub's models are built of and fed with, out of rows and features of ours.

    Dense features are brought to between -1 and 1 by their quantiles. Where a value is undefined, 0 stands for it; a
    column that was undefined somewhere when it was fitted has another one beside it that says where. Ids become rows of
    embeddings: row 0 is that of all ids that came fewer than `min_rows` times when it was fitted, or not at all, so
    that it is learned like any other.

    Parameters
    ----------
    dense : transformer, optional
        Such as `HistoryFeatures`, or a ``FeatureUnion`` of several; its columns become one dense feature.
    sparse : sequence of str
        The columns that have an embedding.
    vectors : mapping of str to VectorColumn
        Further embeddings, by name, whose rows are vectors.
    embed_dim : int, default=16
        Of the embeddings, and of what vectors are projected to.
    min_rows : int, default=2
        How often an id comes at least, to have a row of its own.

    Attributes
    ----------
    features_ : list
        Definitions of all features, made anew each time, so that two models share no parameters: what
        ``DCNv2(features=...)`` and ``DeepFM(deep_features=...)`` take.
    sparse_features_ : list
        Those of embeddings of `embed_dim`: what ``DeepFM(fm_features=...)`` takes.
    ids_ : dict of str to pyarrow.StringArray
        By sparse column or name of vectors, the ids of the rows from 1 on.

    Examples
    --------
    >>> import pandas as pd
    >>> from llmfeat import VectorTable
    >>> from llmfeat.rank.adapters.rechub import RechubData, VectorColumn
    >>> table = VectorTable.from_arrays(["a", "b", "c"], [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    >>> rows = pd.DataFrame({"user_id": ["u", "u", "v", "w"], "item_id": ["a", "a", "a", "b"]})
    >>> data = RechubData(sparse=["user_id", "item_id"], vectors={"text": VectorColumn("item_id", table)}, embed_dim=4)
    >>> inputs = data.fit(rows).inputs(pd.DataFrame({"user_id": ["u", "w"], "item_id": ["a", "c"]}))
    >>> {name: rows.tolist() for name, rows in inputs.items()}  # w came once, c never, but c has a vector
    {'user_id': [1, 0], 'item_id': [1, 0], 'text': [1, 3]}
    """

    def __init__(
        self,
        dense: Any = None,
        *,
        sparse: Sequence[str] = (),
        vectors: Mapping[str, VectorColumn] | None = None,
        embed_dim: int = 16,
        min_rows: int = 2,
    ) -> None:
        self.dense = dense
        self.sparse = sparse
        self.vectors = vectors
        self.embed_dim = embed_dim
        self.min_rows = min_rows

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn which ids there are and how dense features are distributed, and define the features.

        Parameters
        ----------
        X : data frame
            The rows to train on.
        y : array-like of shape (n_rows,), optional
            For `dense`.

        Raises
        ------
        InputError
            When a parameter or a column cannot be worked with.
        """
        self._check_parameters()
        require_rows(len(to_frame(X, what="X")), what="X")
        self.ids_ = {name: _frequent(id_column(X, name, what="X"), self.min_rows) for name in self.sparse}
        self.tables_: dict[str, Float32Array] = {}
        for name, each in self._named().items():
            self.ids_[name] = _catalogue(each, id_column(X, each.column, what="X"))
            self.tables_[name] = _table(each, self.ids_[name])
        self._index = {name: IdIndex(ids) for name, ids in self.ids_.items()}
        self.dense_: Pipeline | None = None
        if self.dense is not None:
            self.dense_ = _scaled(clone(self.dense), len(to_frame(X, what="X")))
            self.n_dense_ = int(self.dense_.fit_transform(X, y).shape[1])
        return self

    @property
    def sparse_features_(self) -> list[Any]:
        """Definitions of the embeddings of `embed_dim`."""
        check_is_fitted(self, "ids_")
        made = [SparseFeature(name, len(self.ids_[name]) + 1, self.embed_dim) for name in self.sparse]
        for name, each in self._named().items():
            if each.way != "frozen":
                begin = _Begin(self.tables_[name], is_projected=each.way == "projected")
                made.append(SparseFeature(name, len(self.tables_[name]), self.embed_dim, initializer=begin))
        return made

    @property
    def features_(self) -> list[Any]:
        """Definitions of all features."""
        frozen = [name for name, each in self._named().items() if each.way == "frozen"]
        dense = [DenseFeature(name, self.tables_[name].shape[1]) for name in frozen]
        if self.dense_ is not None:
            dense.append(DenseFeature(_DENSE, self.n_dense_))
        return [*self.sparse_features_, *dense]

    def inputs(self, X: Any) -> dict[str, Any]:
        """Return what the models take of rows, by feature: int64 rows of embeddings, and float32 for dense ones."""
        check_is_fitted(self, "ids_")
        found: dict[str, Int64Array | Float32Array] = {}
        for name in self.sparse:
            found[name] = self._rows_of(name, id_column(X, name, what="X"))
        for name, each in self._named().items():
            rows = self._rows_of(name, id_column(X, each.column, what="X"))
            found[name] = self.tables_[name][rows] if each.way == "frozen" else rows
        if self.dense_ is not None:
            n_rows = len(to_frame(X, what="X"))
            found[_DENSE] = np.empty((n_rows, self.n_dense_), np.float32)
            if n_rows:
                found[_DENSE][:] = self.dense_.transform(X)
        return found

    def loader(self, X: Any, y: Any = None, *, batch_rows: int = 1024, shuffle: bool = False, seed: int = 0) -> Any:
        """Return a torch ``DataLoader`` of batches ``(inputs, labels)``, or of ``inputs`` where no labels come.

        ``CTRTrainer`` takes the former to `fit` and, though it does not read them, to `predict`: pass zeros there.

        Parameters
        ----------
        X : data frame
            The rows.
        y : array-like of shape (n_rows,), optional
            Labels of 0 and 1.
        batch_rows : int, default=1024
            Rows of a batch.
        shuffle : bool, default=False
            Whether rows come in a new order in each epoch.
        seed : int, default=0
            Of that order.

        Raises
        ------
        InputError
            When there is not a number for each row.
        """
        inputs = self.inputs(X)
        data = PredictDataset(inputs) if y is None else TorchDataset(inputs, _labels(y, len(to_frame(X, what="X"))))
        order = torch.Generator().manual_seed(seed)
        return DataLoader(data, batch_size=batch_rows, shuffle=shuffle, generator=order)

    def unknown(self, X: Any) -> dict[str, int]:
        """Return, by embedding, how many rows are of ids without a row of their own."""
        columns = {name: name for name in self.sparse} | {name: each.column for name, each in self._named().items()}
        found = {name: self._rows_of(name, id_column(X, column, what="X")) for name, column in columns.items()}
        return {name: int((rows == 0).sum()) for name, rows in found.items()}

    def _named(self) -> Mapping[str, VectorColumn]:
        return self.vectors or {}

    def _rows_of(self, name: str, ids: pa.StringArray) -> Int64Array:
        return self._index[name].positions(ids) + 1

    def _check_parameters(self) -> None:
        if isinstance(self.sparse, str):
            raise InputError(f"sparse={self.sparse!r}, but a sequence of columns was expected: pass [{self.sparse!r}]")
        if self.dense is None and not self.sparse and not self.vectors:
            raise InputError("there is nothing to feed a model with: pass dense=, sparse= or vectors=")
        named = [*self.sparse, *self._named(), _DENSE]
        if len(set(named)) != len(named):
            raise InputError(f"the features are named {named}, but each needs a name of its own: rename some vectors")
        taken = [name for name in named if "." in name or hasattr(torch.nn.ModuleDict(), name)]
        if taken:
            raise InputError(f"torch takes no layers called {taken}: rename those vectors, or the columns of the rows")
        check_whole(1, embed_dim=self.embed_dim, min_rows=self.min_rows)
        for name, each in self._named().items():
            if (
                not isinstance(each, VectorColumn)
                or each.way not in _WAYS
                or not isinstance(each.vectors, VectorSource)
            ):
                raise InputError(
                    f"vectors[{name!r}] is {each!r}, but VectorColumn('item_id', table, way=...) was expected, "
                    f"where way is one of {_WAYS}"
                )
            if each.way == "warm" and each.vectors.dim != self.embed_dim:
                raise InputError(
                    f"vectors[{name!r}] have {each.vectors.dim} dimensions, but embeddings to begin with have those of "
                    f"the others, {self.embed_dim}: bring them there with reduce_table, or take way='projected'"
                )


class _Projected(torch.nn.Module):
    """Vectors that stay as they are, and a projection of them that is learned."""

    def __init__(self, values: Float32Array, embed_dim: int) -> None:
        super().__init__()
        self.table = torch.nn.Embedding.from_pretrained(torch.from_numpy(values), freeze=True)
        self.project = torch.nn.Linear(values.shape[1], embed_dim, bias=False)

    def forward(self, rows: Any) -> Any:
        return self.project(self.table(rows))


@dataclass(frozen=True, eq=False)
class _Begin:
    """An initializer of torch-rechub: an embedding that begins with vectors, or a `_Projected` of them."""

    values: Float32Array
    is_projected: bool

    def __call__(self, vocab_size: int, embed_dim: int, padding_idx: int | None = None) -> Any:
        if self.is_projected:
            return _Projected(self.values, embed_dim)
        return torch.nn.Embedding.from_pretrained(torch.from_numpy(self.values.copy()), freeze=False)


def _labels(y: Any, n_rows: int) -> Float32Array:
    try:
        labels: Float32Array = np.asarray(y, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError("y holds no numbers, but 0 or 1 was expected for each row: cast it") from error
    if labels.shape != (n_rows,):
        raise InputError(f"y has the shape {labels.shape}, but {(n_rows,)} was expected: a label for each row")
    n_bad = int(np.count_nonzero(~np.isfinite(labels)))
    if n_bad:
        raise InputError(f"y has {n_bad} of {n_rows} labels that are not finite: drop or fill those rows")
    return labels


def _frequent(ids: pa.StringArray, min_rows: int) -> pa.StringArray:
    """Return the ids that come often enough, in the order of their first row."""
    counted = pc.value_counts(ids)
    often = pc.greater_equal(counted.field("counts"), min_rows)
    return counted.field("values").filter(often)


def _catalogue(of: VectorColumn, fitted: pa.StringArray) -> pa.StringArray:
    """Return the ids that have a row: those of the vectors, then those of the rows."""
    known = named_ids(of.vectors) if of.ids is None else id_array(of.ids, what="the ids of the vectors")
    return pc.unique(pa.concat_arrays([known, fitted]))


def _table(of: VectorColumn, ids: pa.StringArray) -> Float32Array:
    """Return the vectors of rows from 1 on; row 0 is their mean, for ids without a row."""
    matrix = to_embedding_matrix(of.vectors, [None, *ids.to_pylist()])
    matrix.values[0] = matrix.values[matrix.is_known].mean(axis=0, dtype=np.float64)
    return matrix.values


def _scaled(dense: Any, n_rows: int) -> Pipeline:
    """Return a transformer whose columns are in [-1, 1], with 0 for NaN, and columns that say where there was one."""
    quantiles = QuantileTransformer(n_quantiles=min(_MOST_QUANTILES, n_rows), random_state=0)
    imputer = SimpleImputer(strategy="constant", fill_value=0.0, add_indicator=True, keep_empty_features=True)
    return make_pipeline(dense, quantiles, MinMaxScaler((-1, 1)), imputer)
