"""What is read of a view, and the columns that it makes: of values online and of rows offline, the same."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat.encode.changes import now_us
from llmfeat.encode.parts import vectors_of
from llmfeat.errors import InputError, StoreConfigError
from llmfeat.store.online import OnlineView
from llmfeat.store.values import unpack_numbers, unpack_vectors
from llmfeat.types import BoolArray, Float32Array

__all__ = ["MissingTally", "StoreColumns", "makes_columns"]

_NUMBERS = frozenset(["Int32", "Int64", "Float32", "Float64", "Bool"])
_SUFFIX = re.compile(r"_[0-9a-f]{12}$")
_US_PER_S = 1_000_000


@dataclass(frozen=True)
class StoreColumns:
    """What is read of one view, and the columns that it makes.

    Attributes
    ----------
    view : str
        Its name.
    key : str
        Its join key.
    stem : str
        What its columns begin with: the name without the fingerprint.
    vectors : dict of str to int
        Fields that hold a vector, and their dimensions.
    numbers : tuple of str
        Fields that hold a number.
    types : tuple of str
        Of the fields as Feast has them, in the order of `fields`; of vectors that of their numbers, too.
    fingerprint : str
        What the view's values are; empty for a view of somebody else's.
    """

    view: str
    key: str
    stem: str
    vectors: Mapping[str, int]
    numbers: tuple[str, ...]
    types: tuple[str, ...]
    fingerprint: str

    @classmethod
    def of(cls, view: Any, fields: Sequence[str] | None) -> Self:
        """Read them off a Feast view; all fields that make columns, where none are named.

        Raises
        ------
        StoreConfigError
            When the view has several keys, or keys that are no texts.
        InputError
            When a field is unknown, or makes no column.
        """
        if len(view.join_keys) != 1:
            raise StoreConfigError(f"{view.name} has the keys {list(view.join_keys)}, but views of one key are read")
        (key,) = view.join_keys
        kinds = {column.name: str(column.dtype) for column in view.entity_columns}
        if kinds.get(key) != "String":
            raise StoreConfigError(
                f"{view.name} has the key {key!r} of type {kinds.get(key)}, but String was expected: ids are compared "
                "as texts, and Feast finds nothing by a key of another type"
            )
        known = {feature.name: str(feature.dtype) for feature in view.features}
        unknown = sorted(set(fields or ()) - known.keys())
        if unknown:
            raise InputError(f"{view.name} has the fields {list(known)}, but {unknown} were asked for: correct them")
        dim = view.tags.get("dim")
        vectors = {name: int(dim) for name, kind in known.items() if kind == "Bytes" and dim is not None}
        numbers = tuple(name for name, kind in known.items() if kind in _NUMBERS)
        wanted = list(fields) if fields is not None else [*vectors, *numbers]
        useless = [name for name in wanted if name not in vectors and name not in numbers]
        if useless or not wanted:
            raise InputError(
                f"{view.name} has { ({name: known[name] for name in useless} or known) }, of which no columns can be "
                "made: name fields of numbers or vectors; histories are read by OnlineRanker"
            )
        dtype = view.tags.get("dtype", "float32")
        if vectors and dtype != "float32":
            raise StoreConfigError(f"{view.name} has vectors of {dtype}, but float32 was expected: upgrade llmfeat")
        kept = [name for name in vectors if name in wanted], [name for name in numbers if name in wanted]
        return cls(
            view.name,
            str(key),
            _SUFFIX.sub("", view.name),
            {name: vectors[name] for name in kept[0]},
            tuple(kept[1]),
            (*(f"{known[name]} of {dtype}" for name in kept[0]), *(known[name] for name in kept[1])),
            view.tags.get("fingerprint", ""),
        )

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are read."""
        return (*self.vectors, *self.numbers)

    @property
    def names(self) -> list[str]:
        """The names of the columns: whether the view has anything, then vectors by dimension, then numbers."""
        dims = [f"{self._stem_of(name)}_{at}" for name, dim in self.vectors.items() for at in range(dim)]
        return [f"has_{self.stem}", *dims, *(f"{self.stem}_{name}" for name in self.numbers)]

    def _stem_of(self, name: str) -> str:
        return self.stem if name == "vector" else f"{self.stem}_{name}"

    def read(self, view: OnlineView, ids: Sequence[str]) -> Float32Array:
        """Return the columns of some ids as they are online."""
        ttl = view.view.ttl
        values = view.read(ids, self.fields)
        blocks = [unpack_vectors(values[name], dim, what=view.name) for name, dim in self.vectors.items()]
        blocks += [unpack_numbers(values[name])[:, None] for name in self.numbers]
        matrix = self._with_indicator(blocks, len(ids))
        if ttl is not None and ttl.total_seconds() > 0:
            # Feast looks at it in joins only: online it would serve a value of last year.
            times_us = np.array(view.dialect.held(ids, self.fields).times_us)
            matrix[times_us < now_us() - round(ttl.total_seconds() * _US_PER_S), 1:] = np.nan
            matrix[:, 0] = ~np.isnan(matrix[:, 1:]).all(axis=1)
        return matrix

    def decode(self, rows: pa.Table) -> Float32Array:
        """Return the columns of rows of the offline store."""
        blocks = []
        for name, dim in self.vectors.items():
            blocks.append(_vectors(rows.column(name), dim, what=f"{self.view}:{name}"))
        for name in self.numbers:
            numbers = rows.column(name).cast(pa.float64(), safe=False).to_numpy().astype(np.float32)
            blocks.append(numbers[:, None])
        return self._with_indicator(blocks, len(rows))

    def _with_indicator(self, blocks: Sequence[Float32Array], n_rows: int) -> Float32Array:
        there = np.zeros(n_rows, dtype=bool)
        for block in blocks:
            there |= ~np.isnan(block[:, 0])
        matrix = np.empty((n_rows, len(self.names)), dtype=np.float32)
        matrix[:, 0] = there
        begin = 1
        for block in blocks:
            matrix[:, begin : begin + block.shape[1]] = block
            begin += block.shape[1]
        return matrix


@dataclass
class MissingTally:
    """Counts of rows that a view had nothing for, since the estimator was fitted.

    Attributes
    ----------
    rows : int
        Rows that were transformed.
    missing : dict of str to int
        By view, how many of them it had nothing for.
    """

    rows: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, n_rows: int, missing: Mapping[str, int]) -> None:
        """Count some rows, from any thread."""
        with self._lock:
            self.rows += n_rows
            for name, count in missing.items():
                self.missing[name] = self.missing.get(name, 0) + count

    def __getstate__(self) -> dict[str, Any]:
        return {"rows": self.rows, "missing": dict(self.missing)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


def makes_columns(view: Any, name: str) -> bool:
    """Return whether a field of a Feast view is a number or a vector."""
    kind = next(str(each.dtype) for each in view.features if each.name == name)
    return kind in _NUMBERS or (kind == "Bytes" and "dim" in view.tags)


def _vectors(cells: pa.ChunkedArray, dim: int, *, what: str) -> Float32Array:
    """Return binary cells as vectors, NaN where there is none."""
    vectors = np.full((len(cells), dim), np.nan, dtype=np.float32)
    sizes = pc.fill_null(pc.binary_length(cells), 0).to_numpy()
    there: BoolArray = sizes == 4 * dim
    if not (there | (sizes == 0)).all():
        raise StoreConfigError(
            f"{what} has vectors of {sorted(set(sizes.tolist()) - {0, 4 * dim})} bytes, {4 * dim} were expected: "
            "something else writes to its source"
        )
    kept = cells.filter(pa.array(there))
    if len(kept):
        _, vectors[there] = vectors_of(kept if isinstance(kept, pa.ChunkedArray) else pa.chunked_array([kept]), dim)
    return vectors
