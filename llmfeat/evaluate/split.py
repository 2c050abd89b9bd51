"""Splits by time: the past trains, its last tenth tunes, the future tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmfeat._base.frames import require_rows
from llmfeat.errors import InputError
from llmfeat.types import Int64Array

__all__ = ["TimeSplit", "split_by_time"]

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
