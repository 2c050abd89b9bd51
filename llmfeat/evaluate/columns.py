"""The columns of a ranker by the family that they belong to, and the rows that it is taught on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from llmfeat.types import Float32Array, Int64Array

__all__ = ["FITTED", "LEFT_OUT", "Columns", "TaughtRows"]

FITTED, LEFT_OUT = -1, -2
"""Of `TaughtRows.fold`."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of some rows.

    Attributes
    ----------
    families : mapping of str to ndarray of shape (n_rows, n_columns), float32
        The columns by family.
    names : mapping of str to tuple of str
        What they are called.
    """

    families: Mapping[str, Float32Array]
    names: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(next(iter(self.families.values())))

    def matrix(self, families: Iterable[str]) -> Float32Array:
        """Return the columns of some families side by side, float32; families that are not there have none."""
        return np.concatenate([self.families[name] for name in families if name in self.families], axis=1)

    def names_of(self, families: Iterable[str]) -> list[tuple[str, str]]:
        """Return family and name of each column of `matrix`."""
        return [(family, name) for family in families if family in self.names for name in self.names[family]]

    def take(self, rows: Int64Array) -> Self:
        """Return the columns of some rows."""
        return type(self)({family: block[rows] for family, block in self.families.items()}, self.names)

    @classmethod
    def concatenate(cls, parts: list[Columns]) -> Self:
        """Return the columns of consecutive rows as one."""
        if len(parts) == 1:
            return cls(parts[0].families, parts[0].names)
        families = {name: np.concatenate([part.families[name] for part in parts]) for name in parts[0].families}
        return cls(families, parts[0].names)


@dataclass(frozen=True, eq=False)
class TaughtRows:
    """Labelled rows that a ranker learns from.

    Attributes
    ----------
    columns : Columns
        What it sees.
    labels : ndarray of shape (n_rows,), int64
        0 or 1.
    fold : ndarray of shape (n_rows,), int64
        Rows of a fold, from 0 on, choose between trials that are fitted on all rows of other folds. Rows of `FITTED`
        choose nothing, rows of `LEFT_OUT` have no part in trials at all. Whole groups are in one.
    sizes : ndarray of int64, optional
        The rows of each group, one after the other; None where rows stand alone.
    """

    columns: Columns
    labels: Int64Array
    fold: Int64Array
    sizes: Int64Array | None = None

    def folds(self) -> list[tuple[Int64Array, Int64Array]]:
        """Return the rows that are fitted, and those that choose, of each fold."""
        every = np.unique(self.fold[self.fold >= 0]).tolist()
        tried = self.fold != LEFT_OUT
        return [(np.flatnonzero(tried & (self.fold != each)), np.flatnonzero(self.fold == each)) for each in every]
