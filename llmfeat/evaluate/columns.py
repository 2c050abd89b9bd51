"""The columns of a ranker by the family that they belong to, and the rows that it is taught on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from llmfeat.types import BoolArray, Float32Array, Int64Array

__all__ = ["Columns", "TaughtRows"]


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
    is_valid : ndarray of shape (n_rows,), bool
        Which rows choose between trials; whole groups are.
    sizes : ndarray of int64, optional
        The rows of each group, one after the other; None where rows stand alone.
    """

    columns: Columns
    labels: Int64Array
    is_valid: BoolArray
    sizes: Int64Array | None = None

    def sizes_of(self, is_chosen: BoolArray) -> Int64Array | None:
        """Return the sizes of the groups whose rows are chosen."""
        if self.sizes is None:
            return None
        first_rows = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)
        return self.sizes[is_chosen[first_rows]]
