"""`BaseFeatures`: the columns that a team has already, joined to rows as they were known then."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from llmfeat._base.ids import IdIndex
from llmfeat.errors import DuplicateIdError, InputError
from llmfeat.evaluate.inputs.finding import said_share
from llmfeat.history import AsOfIndex
from llmfeat.types import Float32Array, Int64Array

__all__ = ["BaseFeatures"]


class BaseFeatures:
    """The user's own numeric columns, by row of the interactions, or by user, item and time.

    With times a row gets the latest values of its user and item at or before its own time; without, the only ones.

    Parameters
    ----------
    names : sequence of str
        The columns.
    values : ndarray of shape (n_entries, n_columns), float32
        NaN where a value is missing.
    rows : ndarray of shape (n_entries,), int64, optional
        The row of the interactions that each entry is for, as `LiftInputs` counts them; then nothing else is a key.
    users, items : pyarrow.StringArray, optional
        The user and the item that each entry is for.
    times_us : ndarray of shape (n_entries,), int64, optional
        Since when the values are known.

    Attributes
    ----------
    names : tuple of str
    key : tuple of str
        Which of ``row_id``, or ``user_id``, ``item_id`` and ``timestamp``, tell the entries apart.

    Raises
    ------
    DuplicateIdError
        When two entries have one key.
    InputError
        When there is no key.

    Examples
    --------
    >>> import numpy as np, pyarrow as pa
    >>> from llmfeat.evaluate.inputs import BaseFeatures
    >>> price = np.array([[3.0], [4.0]], dtype=np.float32)
    >>> base = BaseFeatures(["price"], price, items=pa.array(["a", "a"]), times_us=np.array([10, 20]))
    >>> base.columns(None, None, pa.array(["a", "a", "b"]), np.array([9, 20, 20])).tolist()
    [[nan], [4.0], [nan]]
    """

    def __init__(
        self,
        names: Sequence[str],
        values: Float32Array,
        *,
        rows: Int64Array | None = None,
        users: pa.StringArray | None = None,
        items: pa.StringArray | None = None,
        times_us: Int64Array | None = None,
    ) -> None:
        self.names = tuple(names)
        parts = {"row_id": rows, "user_id": users, "item_id": items, "timestamp": times_us}
        self.key = tuple(name for name, part in parts.items() if part is not None)
        if not self.key or (rows is not None and len(self.key) > 1):
            raise InputError(
                f"the base features have the key {self.key}, but row_id, or some of the others, was expected"
            )
        self._users = None if users is None else IdIndex(users.unique())
        self._items = None if items is None else IdIndex(items.unique())
        mixed = self._mixed(rows, users, items, len(values))
        self._known, codes = np.unique(mixed, return_inverse=True)
        known_us = np.zeros(len(values), dtype=np.int64) if times_us is None else times_us
        _require_distinct(codes, known_us, self.key)
        self._index = AsOfIndex(codes, known_us, len(self._known))
        self._values = values[self._index.order]

    def columns(
        self,
        rows: Int64Array | None,
        users: pa.StringArray | None,
        items: pa.StringArray | None,
        times_us: Int64Array | None,
    ) -> Float32Array:
        """Return the values of each row, float32 of shape (n_rows, n_columns), NaN where it has no entry.

        Parameters
        ----------
        rows : ndarray of shape (n_rows,), int64, optional
            Numbers of rows of `LiftInputs`; needed where the key is ``row_id``, as the others are where they are.
        users, items : pyarrow.StringArray, optional
            Their users and items.
        times_us : ndarray of shape (n_rows,), int64, optional
            Their times.

        Raises
        ------
        InputError
            When a part of the key was not passed.
        """
        at = self._positions(rows, users, items, times_us)
        out = np.full((len(at), len(self.names)), np.nan, dtype=np.float32)
        out[at >= 0] = self._values[at[at >= 0]]
        return out

    def matched(
        self,
        rows: Int64Array | None,
        users: pa.StringArray | None,
        items: pa.StringArray | None,
        times_us: Int64Array | None,
    ) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Return which rows have an entry; the parameters are those of `columns`."""
        found: np.ndarray[tuple[int], np.dtype[np.bool_]] = self._positions(rows, users, items, times_us) >= 0
        return found

    def _positions(
        self,
        rows: Int64Array | None,
        users: pa.StringArray | None,
        items: pa.StringArray | None,
        times_us: Int64Array | None,
    ) -> Int64Array:
        given = {"row_id": rows, "user_id": users, "item_id": items, "timestamp": times_us}
        if lacking := [name for name in self.key if given[name] is None]:
            raise InputError(
                f"the base features are keyed by {list(self.key)}, but {lacking} of the rows did not come: pass them, "
                "or key the file by what every row has"
            )
        n_rows = len(next(part for name in self.key if (part := given[name]) is not None))
        mixed = self._mixed(
            rows if "row_id" in self.key else None,
            users if "user_id" in self.key else None,
            items if "item_id" in self.key else None,
            n_rows,
        )
        codes = self._codes(mixed)
        # "At or before" is strictly before the next microsecond.
        asked_us = times_us + 1 if times_us is not None and "timestamp" in self.key else np.ones(n_rows, dtype=np.int64)
        stop = self._index.before(codes, asked_us)
        return np.where(stop > self._index.first(codes), stop - 1, -1)

    def _codes(self, mixed: Int64Array) -> Int64Array:
        """Return where each number lies among the known ones, -1 for others."""
        n_known = len(self._known)
        if not n_known:
            return np.full(len(mixed), -1, dtype=np.int64)
        if self._known[0] == 0 and self._known[-1] == n_known - 1:  # all there are: they are their codes
            return np.where(mixed < n_known, mixed, -1)
        at = np.minimum(np.searchsorted(self._known, mixed), n_known - 1)
        return np.where(self._known[at] == mixed, at, -1)

    def _mixed(
        self, rows: Int64Array | None, users: pa.StringArray | None, items: pa.StringArray | None, n_rows: int
    ) -> Int64Array:
        """Return one number for what tells rows apart beside their times, -1 where that is not known."""
        if rows is not None:
            return rows.astype(np.int64, copy=False)
        out = np.zeros(n_rows, dtype=np.int64)
        unknown = np.zeros(n_rows, dtype=np.bool_)
        for index, ids in ((self._users, users), (self._items, items)):
            if index is not None and ids is not None:
                positions = index.positions(ids)
                unknown |= positions < 0
                out = out * len(index.ids) + positions
        return np.where(unknown, -1, out)


def _require_distinct(codes: Int64Array, times_us: Int64Array, key: tuple[str, ...]) -> None:
    order = np.lexsort((times_us, codes))
    same = (np.diff(codes[order]) == 0) & (np.diff(times_us[order]) == 0)
    if n_same := int(same.sum()):
        hint = "" if "timestamp" in key or key == ("row_id",) else ", or add the time since when each is known"
        raise DuplicateIdError(
            f"the base features repeat the key {list(key)} in {said_share(n_same, len(codes))} rows, but one row each "
            f"was expected: keep one of them{hint}"
        )
