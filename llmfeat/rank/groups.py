"""Groups for learning to rank: rows of any order as LightGBM's, XGBoost's and CatBoost's rankers ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import narwhals.stable.v2 as nw
import numpy as np

from llmfeat._base.frames import id_array
from llmfeat.errors import InputError
from llmfeat.types import Float64Array, Int64Array

__all__ = ["Groups", "group_sizes", "mean_ndcg"]


@dataclass(frozen=True, eq=False)
class Groups:
    """Rows put together by group, such as their user or their request; made by `of`.

    Attributes
    ----------
    order : ndarray of shape (n_rows,), int64
        The rows sorted by group. Groups come in the order in which they first appear, and rows of one group keep
        their order: rows that stand together already stay where they are.
    sizes : ndarray of shape (n_groups,), int64
        Rows of each group, for ``LGBMRanker.fit(group=sizes)``.

    Examples
    --------
    >>> groups = Groups.of(["u2", "u1", "u2"])
    >>> groups.order.tolist(), groups.sizes.tolist(), groups.ids.tolist()
    ([0, 2, 1], [2, 1], [0, 0, 1])
    >>> groups.sort(["a", "b", "c"]).tolist()
    ['a', 'c', 'b']
    >>> groups.restore([0.1, 0.2, 0.3]).tolist()
    [0.1, 0.3, 0.2]
    """

    order: Int64Array
    sizes: Int64Array

    @classmethod
    def of(cls, ids: Any) -> Self:
        """Return the groups of rows, given the id of each row's group.

        Parameters
        ----------
        ids : sequence, array or column of ids
            Integers, strings or UUIDs, in any order.

        Raises
        ------
        InputError
            When an id is null.
        """
        encoded = id_array(ids, what="the groups").dictionary_encode()
        codes = encoded.indices.to_numpy()
        sizes = np.bincount(codes, minlength=len(encoded.dictionary)).astype(np.int64)
        return cls(np.argsort(codes, kind="stable").astype(np.int64), sizes)

    @property
    def ids(self) -> Int64Array:
        """The group of each sorted row, from 0 on, for XGBoost's ``qid=`` and CatBoost's ``group_id=``."""
        return np.repeat(np.arange(len(self.sizes), dtype=np.int64), self.sizes)

    @property
    def starts(self) -> Int64Array:
        """The first row of each group among the sorted rows."""
        return (np.cumsum(self.sizes) - self.sizes).astype(np.int64)

    def sort(self, rows: Any) -> Any:
        """Return a frame, a column or an array of all rows, sorted by group.

        A frame or column of pandas, polars or Arrow, a numpy array and a sparse matrix keep their type, and are
        returned as they are where they are sorted already; anything else comes back as a numpy array.

        Raises
        ------
        InputError
            When the number of rows is not that of the groups.
        """
        self._require_rows(rows)
        native = nw.from_native(rows, eager_only=True, allow_series=True, pass_through=True)
        if isinstance(native, nw.DataFrame | nw.Series):
            return rows if self._is_sorted else native[self.order].to_native()
        if hasattr(rows, "tocsr"):  # other sparse layouts cannot be indexed
            return rows if self._is_sorted else rows.tocsr()[self.order]
        return np.asarray(rows) if self._is_sorted else np.asarray(rows)[self.order]

    def restore(self, values: Any) -> np.ndarray[Any, Any]:
        """Return values of the sorted rows, such as scores, in the rows' own order: what `sort` did is undone.

        Raises
        ------
        InputError
            When the number of values is not that of the rows.
        """
        self._require_rows(values)
        sorted_values = np.asarray(values)
        restored = np.empty_like(sorted_values)
        restored[self.order] = sorted_values
        return restored

    @property
    def _is_sorted(self) -> bool:
        return bool((np.diff(self.order) > 0).all())

    def _require_rows(self, rows: Any) -> None:
        n_rows = rows.shape[0] if hasattr(rows, "shape") else len(rows)
        if n_rows != len(self.order):
            raise InputError(
                f"{n_rows} rows came, but the groups have {len(self.order)}: pass all rows that the groups were made of"
            )


def group_sizes(groups: Any) -> Int64Array:
    """Return the sizes of the runs of equal ids, for ``LGBMRanker.fit(..., group=sizes)``.

    Parameters
    ----------
    groups : sequence, array or column of ids
        The group of each row, such as its user or its request; rows of one group stand together.

    Returns
    -------
    ndarray of shape (n_groups,), int64
        In the order of the rows; they add up to the number of rows.

    Raises
    ------
    InputError
        When a group's rows do not stand together: a ranker would silently take them for two groups.

    Examples
    --------
    >>> group_sizes(["u1", "u1", "u2"]).tolist()
    [2, 1]
    """
    ids = id_array(groups, what="the groups").dictionary_encode()
    codes = ids.indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    if len(starts) != len(ids.dictionary):
        raise InputError(
            f"{len(ids.dictionary)} groups come in {len(starts)} runs of rows, but each group's rows must stand "
            "together: sort the rows by group first, as Groups.of(ids).sort(rows) does"
        )
    return np.diff(starts, append=len(codes)).astype(np.int64)


def mean_ndcg(labels: Any, scores: Any, groups: Any, *, k: int = 10) -> float:
    """Return NDCG at `k`, as the mean over the groups that have a label over 0.

    The gain of a label is ``2 ** label - 1``, as lambdarank and Burges et al. (2005) have it; rows of equal score share
    the mean of their discounts (McSherry and Najork, 2008), so that the order of the rows says nothing. LightGBM and
    XGBoost count a group without such a label as 1, which makes their figure larger.

    Parameters
    ----------
    labels : array-like of shape (n_rows,)
        Relevance of each row, 0 or more.
    scores : array-like of shape (n_rows,)
        Higher is better.
    groups : sequence, array or column of ids
        The group of each row, in any order.
    k : int, default=10
        How many of the first rows of a group count.

    Raises
    ------
    InputError
        When the lengths differ, a label or a score is not finite, or no group has a label over 0.

    Examples
    --------
    >>> mean_ndcg([1, 0, 1, 0], [0.9, 0.1, 0.3, 0.7], ["a", "a", "b", "b"])  # (1 + 1 / log2(3)) / 2
    0.8154648767857288
    """
    found = Groups.of(groups)
    relevance, score = (found.sort(np.asarray(values, dtype=np.float64)) for values in (labels, scores))
    for name, values in (("labels", relevance), ("scores", score)):
        n_bad = int(np.count_nonzero(~np.isfinite(values)))
        if n_bad:
            raise InputError(f"{n_bad} of {len(values)} {name} are not finite: a ranking needs one of each row")
    gains = np.exp2(relevance) - 1
    ideal = _dcg(gains, relevance, found, k)
    exists = ideal > 0
    if not exists.any():
        raise InputError(f"none of {len(ideal)} groups has a label over 0, but NDCG needs one: pass more groups")
    return float(np.mean(_dcg(gains, score, found, k)[exists] / ideal[exists]))


def _dcg(gains: Float64Array, keys: Float64Array, groups: Groups, k: int) -> Float64Array:
    """Return the discounted gain of each group whose rows, sorted by group, are ranked by falling key."""
    ids = groups.ids
    order = np.lexsort((-keys, ids))  # ids are sorted, so that each group stays in its place
    ranks = np.arange(len(order)) - np.repeat(groups.starts, groups.sizes)
    discounts = np.where(ranks < k, 1 / np.log2(ranks + 2), 0.0)
    opens = (np.diff(ids, prepend=-1) != 0) | (np.diff(keys[order], prepend=np.nan) != 0)
    ties = np.cumsum(opens) - 1
    shared = np.bincount(ties, weights=discounts) / np.bincount(ties)
    return np.add.reduceat(gains[order] * shared[ties], groups.starts)
