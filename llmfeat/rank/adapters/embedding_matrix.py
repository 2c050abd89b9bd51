"""Vectors in the row order of another library's id map, for the embedding layers of its models."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.frames import id_array, is_null
from llmfeat.errors import DuplicateIdError, InputError, LLMFeatWarning
from llmfeat.rank.scorers.base import check_vectors
from llmfeat.types import BoolArray, Float32Array, Int64Array, VectorSource

__all__ = ["FILLS", "EmbeddingMatrix", "to_embedding_matrix"]

FILLS = ("mean", "zeros", "normal")
_MOST_ROWS = 1 << 31


@dataclass(frozen=True, eq=False)
class EmbeddingMatrix:
    """A vector for each row of an embedding layer.

    Attributes
    ----------
    values : ndarray of shape (n_rows, dim), float32
        C-contiguous and without NaN: ``torch.nn.Embedding.from_pretrained(torch.from_numpy(matrix.values))``.
    is_known : ndarray of shape (n_rows,), bool
        Which rows hold the vector of their id.
    is_reserved : ndarray of shape (n_rows,), bool
        Which rows stand for no item, such as padding: zeros.
    fingerprint : str
        Of the vectors.
    """

    values: Float32Array
    is_known: BoolArray
    is_reserved: BoolArray
    fingerprint: str

    @property
    def n_unknown(self) -> int:
        """How many rows stand for an item without a vector, and were filled."""
        return int(np.count_nonzero(~self.is_known & ~self.is_reserved))

    @property
    def dim(self) -> int:
        """The number of dimensions of a vector."""
        return int(self.values.shape[1])

    def __len__(self) -> int:
        return len(self.values)


def to_embedding_matrix(
    vectors: VectorSource,
    ids: Any,
    *,
    reserved: Iterable[Any] = (),
    n_rows: int | None = None,
    fill: str = "mean",
    seed: int = 0,
) -> EmbeddingMatrix:
    """Return the vectors of ids in the order of another library's id map.

    Parameters
    ----------
    vectors : VectorSource
        Item or user vectors, such as a `VectorTable`.
    ids : sequence of ids, or mapping of ids to rows
        The library's map: the id of each row, None or NaN where a row stands for no item; or a mapping (a ``dict``; a
        pandas ``Series`` is a sequence) with the row of each id. RecBole has the former in
        ``dataset.field2id_token[dataset.iid_field]``, scikit-learn in ``LabelEncoder.classes_``.
    reserved : iterable of ids, optional
        Which of the ids stand for no item, such as ``["[PAD]"]``.
    n_rows : int, optional
        How many rows the layer has, where it has more than the map: those beyond stand for no item.
    fill : {"mean", "zeros", "normal"}, default="mean"
        What stands for an item without a vector: the mean of the known rows; zeros; or a draw of a normal distribution
        with their mean and standard deviation in each dimension. They are counted in `EmbeddingMatrix.n_unknown`, and
        in a warning.
    seed : int, default=0
        Of those draws.

    Returns
    -------
    EmbeddingMatrix
        Rows that stand for no item are zeros.

    Raises
    ------
    InputError
        When no id has a vector, the rows of a mapping are not whole numbers from 0 on, or a parameter makes no sense.
    DuplicateIdError
        When an id, or a row of a mapping, comes twice.

    Examples
    --------
    >>> from llmfeat import VectorTable
    >>> from llmfeat.rank.adapters import to_embedding_matrix
    >>> table = VectorTable.from_arrays(["a", "b"], [[1.0, 0.0], [0.0, 3.0]])
    >>> to_embedding_matrix(table, ["[PAD]", "b", "a"], reserved=["[PAD]"]).values
    array([[0., 0.],
           [0., 3.],
           [1., 0.]], dtype=float32)
    """
    if fill not in FILLS:
        raise InputError(f"fill={fill!r}, but one of {FILLS} was expected")
    check_vectors(vectors)
    rows_of, n_mapped = _by_row(ids) if isinstance(ids, Mapping) else _in_order(ids)
    n_total = n_mapped if n_rows is None else n_rows
    whole: object = n_total
    if not (isinstance(whole, int | np.integer) and whole >= n_mapped):
        raise InputError(f"n_rows={n_rows!r}, but the id map has {n_mapped} rows: pass at least as many, or none")
    names, rows = _distinct(rows_of, reserved)
    found = vectors.lookup(names)
    there = ~np.isnan(found[:, 0])
    if not there.any():
        raise InputError(
            f"none of the {len(names)} ids, such as {names[:3].to_pylist()}, has a vector: pass the ids as the "
            "vectors' table has them, not the library's row numbers"
        )
    values = np.zeros((n_total, vectors.dim), np.float32)
    values[rows[there]] = found[there]
    if not there.all():
        values[rows[~there]] = _filled(found[there], int(np.count_nonzero(~there)), fill, seed)
    is_known, is_reserved = np.zeros(n_total, dtype=bool), np.ones(n_total, dtype=bool)
    is_known[rows[there]] = True
    is_reserved[rows] = False
    matrix = EmbeddingMatrix(values, is_known, is_reserved, vectors.fingerprint)
    if matrix.n_unknown:
        stands = {"mean": "the mean of the others", "zeros": "zeros", "normal": "random vectors like the others"}[fill]
        warnings.warn(
            f"{matrix.n_unknown} of {len(names)} ids, such as {names.filter(pa.array(~there))[:3].to_pylist()}, have "
            f"no vector: {stands} stand in their rows",
            LLMFeatWarning,
            stacklevel=2,
        )
    return matrix


def _in_order(ids: Any) -> tuple[dict[int, Any], int]:
    """Return the id of each row that has one, and how many rows there are."""
    if isinstance(ids, str | bytes):
        raise InputError(
            f"the id map is one {type(ids).__name__}, but a sequence of ids was expected: put it in a list"
        )
    given = ids.to_pylist() if isinstance(ids, pa.Array | pa.ChunkedArray) else list(ids)
    return {row: each for row, each in enumerate(given) if not is_null(each)}, len(given)


def _by_row(ids: Mapping[Any, Any]) -> tuple[dict[int, Any], int]:
    """Return the same of a mapping of ids to rows."""
    try:
        rows = [int(row) if row == int(row) else -1 for row in ids.values()]
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("the rows of the id map are no whole numbers: pass {id: row}") from error
    n_bad = sum(not 0 <= row <= _MOST_ROWS for row in rows)
    if n_bad:
        raise InputError(
            f"{n_bad} rows of the id map are negative or fractions, or over {_MOST_ROWS}: pass {{id: row}}"
        )
    if len(set(rows)) != len(rows):
        raise DuplicateIdError(f"the id map has {len(rows)} ids, but {len(set(rows))} rows: each has one of its own")
    return {row: each for row, each in zip(rows, ids, strict=True) if not is_null(each)}, max(rows, default=-1) + 1


def _distinct(rows_of: Mapping[int, Any], reserved: Iterable[Any]) -> tuple[pa.StringArray, Int64Array]:
    """Return the ids that stand for items, and their rows."""
    if isinstance(reserved, str | bytes):
        raise InputError(f"reserved={reserved!r}, but a sequence of ids was expected: pass [{reserved!r}]")
    names = id_array(list(rows_of.values()), what="the id map")
    rows = np.fromiter(rows_of, np.int64, len(rows_of))
    left_out = id_array([each for each in reserved if not is_null(each)], what="the reserved ids").cast(pa.string())
    kept = ~pc.is_in(names, value_set=left_out).to_numpy(zero_copy_only=False)
    names, rows = names.filter(pa.array(kept)), rows[kept]
    n_twice = len(names) - len(pc.unique(names))
    if n_twice:
        raise DuplicateIdError(f"{n_twice} of {len(names)} ids of the map come more than once: each has one row")
    return names, rows


def _filled(known: Float32Array, n_rows: int, fill: str, seed: int) -> Float32Array:
    """Return what stands for items without a vector, float32 of shape ``(n_rows, dim)``."""
    if fill == "zeros":
        return np.zeros((n_rows, known.shape[1]), np.float32)
    mean = known.mean(axis=0, dtype=np.float64)
    if fill == "mean":
        return np.broadcast_to(mean.astype(np.float32), (n_rows, known.shape[1]))
    spread = known.std(axis=0, dtype=np.float64)
    drawn = np.random.default_rng(seed).standard_normal((n_rows, known.shape[1]))
    filled: Float32Array = (mean + spread * drawn).astype(np.float32)
    return filled
