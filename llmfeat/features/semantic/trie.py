"""`CodeTrie`: which codes occur, and what may follow a prefix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from llmfeat.errors import InputError
from llmfeat.types import BoolArray, Int32Array, Int64Array

__all__ = ["CodeTrie"]


class CodeTrie:
    """The codes that some items have, as a tree; the prefixes of each depth are numbered in lexicographic order.

    Parameters
    ----------
    codes : ndarray of shape (n, n_levels), int32
        Codes of items, each from 0; an item may share its code with others.
    n_codes : sequence of int
        The number of codes of each level.

    Examples
    --------
    >>> trie = CodeTrie(np.array([[0, 2], [1, 0], [0, 1]]), n_codes=(2, 3))
    >>> trie.children([0]).tolist()
    [1, 2]
    >>> trie.prefix_ids(np.array([[0, 2], [1, 1], [-1, -1]])).tolist()
    [[0, 1], [1, -1], [-1, -1]]
    """

    def __init__(self, codes: Int32Array, n_codes: Sequence[int]) -> None:
        self.n_codes = tuple(int(size) for size in n_codes)
        self._keys = tuple(np.unique(keys) for keys in self._prefix_keys(codes))

    @property
    def n_levels(self) -> int:
        """The number of codes of an item."""
        return len(self.n_codes)

    @property
    def n_prefixes(self) -> tuple[int, ...]:
        """The number of distinct prefixes of each depth; the last is that of distinct codes."""
        return tuple(len(keys) for keys in self._keys)

    @property
    def codes(self) -> Int32Array:
        """The distinct codes, int32 of shape ``(n_prefixes[-1], n_levels)``: row *i* is that of the prefix id *i*."""
        columns, rest = [], self._keys[-1]
        for size in reversed(self.n_codes):
            rest, column = np.divmod(rest, size)
            columns.append(column)
        return np.stack(columns[::-1], axis=1).astype(np.int32)

    def prefix_ids(self, codes: Int32Array) -> Int32Array:
        """Return the number of each prefix of each row, int32 of the shape of `codes`; -1 for one that no item has."""
        out = np.full(codes.shape, -1, dtype=np.int32)
        known = self._within(codes).all(axis=1)
        for depth, keys in enumerate(self._prefix_keys(codes[known])):
            positions = np.searchsorted(self._keys[depth], keys)
            found = np.append(self._keys[depth], -1)[positions] == keys
            out[known, depth] = np.where(found, positions, -1)
        return out

    def children(self, prefix: Sequence[int] = ()) -> Int32Array:
        """Return the codes that follow `prefix` in some item, ascending; none where no item begins so.

        What a generator may emit next: of the empty prefix, the codes of the first level that are used.

        Raises
        ------
        InputError
            When the prefix is a whole code, or longer.
        """
        low, high = self.key_range(prefix, depth=len(prefix) + 1)
        keys = self._keys[len(prefix)]
        children: Int64Array = (
            keys[np.searchsorted(keys, low) : np.searchsorted(keys, high)] % self.n_codes[len(prefix)]
        )
        return children.astype(np.int32)

    def key_range(self, prefix: Sequence[int], *, depth: int) -> tuple[int, int]:
        """Return the lowest key of the prefixes of `depth` codes that begin with `prefix`, and the end of these keys.

        Raises
        ------
        InputError
            When the prefix is too long.
        """
        if not len(prefix) <= depth <= self.n_levels:
            raise InputError(
                f"prefix has {len(prefix)} codes, but a whole code has {self.n_levels}: pass the first few of a code"
            )
        codes = np.array(prefix, dtype=np.int64).reshape(1, -1)
        if not self._within(codes).all():
            return 0, 0
        key = 0
        for code, size in zip(codes[0].tolist(), self.n_codes, strict=False):
            key = key * size + code
        below = int(np.prod(self.n_codes[len(prefix) : depth], dtype=np.int64))
        return key * below, (key + 1) * below

    def keys(self, codes: Int32Array) -> Int64Array:
        """Return each code as one integer, in mixed radix: in the order of the codes, -1 for a row of -1."""
        *_, keys = self._prefix_keys(codes)
        return np.where(codes[:, 0] < 0, -1, keys)

    def _within(self, codes: Int32Array | Int64Array) -> BoolArray:
        within: BoolArray = (codes >= 0) & (codes < np.array(self.n_codes[: codes.shape[1]]))
        return within

    def _prefix_keys(self, codes: Int32Array) -> Iterator[Int64Array]:
        keys = np.zeros(len(codes), dtype=np.int64)
        for column, size in zip(codes.T, self.n_codes, strict=True):
            keys = keys * size + column
            yield keys
