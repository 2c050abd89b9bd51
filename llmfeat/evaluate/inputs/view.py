"""Rows of the training and the test, seen in the ways that several checks need: each is computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat.errors import EmptyInputError, InputError
from llmfeat.evaluate.inputs.read import LiftInputs
from llmfeat.types import BoolArray, Int64Array

__all__ = ["View", "moment_keys"]


@dataclass(frozen=True, eq=False)
class View:
    """Inputs with their rows by role."""

    inputs: LiftInputs
    is_train: BoolArray
    is_test: BoolArray

    def __post_init__(self) -> None:
        n_rows = self.inputs.n_rows
        for name, rows in (("is_train", self.is_train), ("is_test", self.is_test)):
            if rows.shape != (n_rows,) or rows.dtype != np.bool_:
                raise InputError(
                    f"{name} has the shape {rows.shape} and the type {rows.dtype}, but a bool for each of {n_rows:,} "
                    "rows was expected: pass masks, not row numbers"
                )
            if not rows.any():
                raise EmptyInputError(f"{name} marks 0 of {n_rows:,} rows, at least 1 is needed: move the split")

    @cached_property
    def test_rows(self) -> Int64Array:
        """The numbers of the test's rows."""
        return np.flatnonzero(self.is_test)

    @cached_property
    def test_users(self) -> Int64Array:
        """The code of the user of each of the test's rows."""
        users: Int64Array = self.inputs.user_codes[self.test_rows]
        return users

    @cached_property
    def test_items(self) -> Int64Array:
        """The position of the item of each of the test's rows."""
        items: Int64Array = self.inputs.item_codes[self.test_rows]
        return items

    @cached_property
    def train_item_rows(self) -> Int64Array:
        """How many training rows each item has."""
        return np.bincount(self.inputs.item_codes[self.is_train], minlength=len(self.inputs.item_ids))

    @cached_property
    def train_user_rows(self) -> Int64Array:
        """How many training rows each user has."""
        return np.bincount(self.inputs.user_codes[self.is_train], minlength=len(self.inputs.user_ids))

    @cached_property
    def rendered(self) -> pa.Array:
        """The text of each item, null where it has none; not cut to any number of tokens."""
        return self.inputs.template.render_arrow(self.inputs.items, truncate=lambda texts, _: list(texts))

    @cached_property
    def has_text(self) -> BoolArray:
        """Which items have a text."""
        found: BoolArray = pc.is_valid(self.rendered).to_numpy(zero_copy_only=False)
        return found

    @cached_property
    def n_tied(self) -> int:
        """How many rows share the moment of another row of their user."""
        same = np.diff(self._sorted_moments) == 0
        return int(np.count_nonzero(np.append(same, False) | np.append(False, same)))

    @cached_property
    def test_history_lengths(self) -> Int64Array:
        """How many events each of the test's rows sees: those of its own list, or all strictly earlier ones."""
        if self.inputs.histories is not None:
            lengths: Int64Array = (
                pc.list_value_length(self.inputs.histories).to_numpy()[self.test_rows].astype(np.int64)
            )
            return lengths
        keys, span = self._moments
        begins = np.searchsorted(self._sorted_moments, np.arange(len(self.inputs.user_ids)) * span)
        # Sorted questions are answered from the processor's cache.
        distinct, inverse = np.unique(keys[self.test_rows], return_inverse=True)
        return np.searchsorted(self._sorted_moments, distinct)[inverse] - begins[self.test_users]

    @cached_property
    def _moments(self) -> tuple[Int64Array, int]:
        assert self.inputs.times_us is not None  # without times nobody asks
        return moment_keys(self.inputs.user_codes, self.inputs.times_us, len(self.inputs.user_ids))

    @cached_property
    def _sorted_moments(self) -> Int64Array:
        return np.sort(self._moments[0])


def moment_keys(users: Int64Array, times_us: Int64Array, n_users: int) -> tuple[Int64Array, int]:
    """Return ``user * span + time`` of each row, which sorts by user and time, and the span.

    Times are counted in their own steps, whole seconds or days, so that the key fits; where it does not, in ranks.
    """
    times = times_us - times_us.min()
    times //= max(int(np.gcd.reduce(times)), 1)
    span = int(times.max()) + 1
    if n_users * span >= 2**62:
        moments, times = np.unique(times, return_inverse=True)
        span = len(moments)
    return users * span + times, span
