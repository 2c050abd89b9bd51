"""Splits by time: the past trains, its last tenth tunes, the future tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from llmfeat._base.frames import require_rows
from llmfeat.errors import InputError
from llmfeat.types import Int64Array

__all__ = ["TimeSplit", "rolling_splits", "split_by_column", "split_by_time"]

_VALID_FRACTION = 0.1


@dataclass(frozen=True, eq=False)
class TimeSplit:
    """Rows by role; each an ascending array of row numbers.

    Attributes
    ----------
    fit, valid, test : ndarray of int64
        What a ranker is tuned on, what decides the tuning, what is measured.
    cut_us : int
        The first moment of `test`, microseconds.
    """

    fit: Int64Array
    valid: Int64Array
    test: Int64Array
    cut_us: int

    @property
    def train(self) -> Int64Array:
        """`fit` and `valid` together: what the final ranker is fitted on."""
        return np.sort(np.concatenate([self.fit, self.valid]))


def split_by_time(times_us: Int64Array, *, test_fraction: float = 0.2) -> TimeSplit:
    """Split rows so that about the last `test_fraction` of them, by time, are the test.

    Rows of one moment are never parted: those at the cut are all in the test.

    Raises
    ------
    InputError
        When the fraction is not between 0 and 1, or the times leave a part without rows.
    """
    if not 0 < test_fraction < 1:
        raise InputError(f"test_fraction={test_fraction!r}, but a share between 0 and 1 was expected")
    require_rows(len(times_us), what="what is to be split")
    ordered = np.sort(times_us)
    cut_us = int(ordered[int(len(ordered) * (1 - test_fraction))])
    train = ordered[ordered < cut_us]
    valid_us = int(train[int(len(train) * (1 - _VALID_FRACTION))]) if len(train) else cut_us
    parts = (
        np.flatnonzero(times_us < valid_us),
        np.flatnonzero((times_us >= valid_us) & (times_us < cut_us)),
        np.flatnonzero(times_us >= cut_us),
    )
    if not all(len(part) for part in parts):
        raise InputError(
            f"{len(times_us)} rows of {len(np.unique(times_us))} distinct times split into {[len(p) for p in parts]} "
            "rows to fit, validate and test: more moments are needed"
        )
    return TimeSplit(*parts, cut_us=cut_us)


def rolling_splits(times_us: Int64Array, *, test_fraction: float, n_origins: int) -> list[TimeSplit]:
    """Return the split of all rows, then of the rows before its test, and so on: each test ends where one begins."""
    splits, rows = [], np.arange(len(times_us))
    for _ in range(n_origins):
        split = split_by_time(times_us[rows], test_fraction=test_fraction)
        splits.append(TimeSplit(rows[split.fit], rows[split.valid], rows[split.test], cut_us=split.cut_us))
        rows = splits[-1].train
    return splits


def split_by_column(roles: pa.StringArray, times_us: Int64Array) -> TimeSplit:
    """Split rows as a column says: ``train``, ``valid`` and ``test``.

    Where none is ``valid``, or none ``train``, the last tenth of the others by time chooses the tuning.

    Raises
    ------
    InputError
        When no row is the test, or none is left to learn from.
    """
    codes = np.array([{"train": 0, "valid": 1, "test": 2}[role] for role in roles.to_pylist()], dtype=np.int64)
    fit, valid, test = (np.flatnonzero(codes == role) for role in range(3))
    counts = {"train": len(fit), "valid": len(valid), "test": len(test)}
    if not len(test) or len(fit) + len(valid) < 2:
        raise InputError(f"the split has {counts} rows, but some to test and some to learn from were expected")
    if not len(valid) or not len(fit):
        train = np.concatenate([fit, valid])
        ordered = train[np.argsort(times_us[train], kind="stable")]
        n_fit = max(1, int(len(ordered) * (1 - _VALID_FRACTION)))
        fit, valid = np.sort(ordered[:n_fit]), np.sort(ordered[n_fit:])
    return TimeSplit(fit, valid, test, cut_us=int(times_us[test].min()))
