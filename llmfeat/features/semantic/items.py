"""Codes by item id: `ItemCodes`, and `SemanticIdFeatures` that gives them to the rows of a ranker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from llmfeat._base.frames import id_array, id_column, require_columns, to_frame
from llmfeat._base.ids import IdIndex, ids_as_bytes, ids_of_bytes
from llmfeat._base.places import places_in_groups
from llmfeat.errors import InputError, TableFingerprintError
from llmfeat.features.semantic.columns import code_columns, column_names
from llmfeat.features.semantic.trie import CodeTrie
from llmfeat.types import Int32Array, Int64Array

__all__ = ["ItemCodes", "SemanticIdFeatures"]


@dataclass(frozen=True, eq=False)
class ItemCodes:
    """Codes by item id, made by `SemanticIds.item_codes`; immutable, so that clones of estimators share it.

    Attributes
    ----------
    ids : pyarrow.StringArray of length n
        The items.
    codes : ndarray of shape (n, n_levels), int32
        Their codes, rows of -1 for items without a vector.
    fitted : CodeTrie
        The prefixes of the items that the book was fitted to, by whose numbers `SemanticIdFeatures` goes.
    fingerprint : str
        That of the book.

    Examples
    --------
    >>> import numpy as np
    >>> from llmfeat import VectorTable
    >>> from llmfeat.features.semantic import SemanticIds
    >>> table = VectorTable.from_arrays(["b", "a", "c"], [[1, 0], [1, 0], [0, 1]])
    >>> items = SemanticIds(levels=(2,)).fit_table(table).item_codes(table)
    >>> items.lookup(["c", "a", "unheard of"]).tolist()
    [[0], [1], [-1]]
    >>> items.items([1]).to_pylist()
    ['a', 'b']
    >>> items.disambiguated().tolist()
    [[1, 1], [1, 0], [0, 0]]
    """

    ids: pa.StringArray
    codes: Int32Array
    fitted: CodeTrie
    fingerprint: str

    def __post_init__(self) -> None:
        self.codes.setflags(write=False)

    def __len__(self) -> int:
        return len(self.ids)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __getstate__(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("codes", "fitted", "fingerprint")}
        return {**own, "ids": ids_as_bytes(self.ids)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, "ids": ids_of_bytes(state["ids"])})

    @cached_property
    def trie(self) -> CodeTrie:
        """The codes of these items as a tree, for a generator that may emit only what some item has."""
        return CodeTrie(self.codes[self.codes[:, 0] >= 0], self.fitted.n_codes)

    def lookup(self, ids: Any) -> Int32Array:
        """Return the codes of `ids`, int32 of shape ``(len(ids), n_levels)``; -1 for unknown and textless ones."""
        positions = self._index.positions(id_array(ids))
        return np.where(positions[:, None] < 0, np.int32(-1), self.codes[positions])

    def items(self, prefix: Sequence[int]) -> pa.StringArray:
        """Return the items whose codes begin with `prefix`, sorted by code, then by id; all with a code for ``()``."""
        low, high = self.trie.key_range(prefix, depth=self.trie.n_levels)
        keys = self.trie.keys(self.codes)[self._order]
        first, stop = np.searchsorted(keys, [low, high])
        return self.ids.take(pa.array(self._order[first:stop]))

    def disambiguated(self) -> Int32Array:
        """Return the codes with a last digit that counts the items of one code in the order of their ids, as in TIGER.

        Codes of int32, shape ``(n, n_levels + 1)``, that no two items share. The digit belongs to this catalogue, which
        is why `SemanticIds.transform` has none: a new item moves the digits of those after it that share its code.
        """
        keys = self.trie.keys(self.codes)[self._order]
        digits = np.empty(len(self), dtype=np.int32)
        digits[self._order] = np.where(keys < 0, -1, places_in_groups(keys))
        return np.column_stack([self.codes, digits])

    @cached_property
    def _order(self) -> Int64Array:
        by_id = pc.sort_indices(self.ids).to_numpy().astype(np.int64)
        order: Int64Array = by_id[np.argsort(self.trie.keys(self.codes)[by_id], kind="stable")]
        return order

    @cached_property
    def _index(self) -> IdIndex:
        return IdIndex(self.ids)


class SemanticIdFeatures(TransformerMixin, BaseEstimator):
    """Codes and prefixes of the items of rows: what `SemanticIds` gives for vectors, by item id.

    Parameters
    ----------
    items : ItemCodes
        The codes of the catalogue.
    item_id : str, default="item_id"
        The column of the rows.

    Attributes
    ----------
    fingerprint_ : str
        Of the book; `transform` refuses another, while `items` of more items by the same book may be put in.
    n_features_in_ : int
        Columns of the frame that was fitted on.
    feature_names_in_ : ndarray of str
        Their names.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat import VectorTable
    >>> from llmfeat.features.semantic import SemanticIdFeatures, SemanticIds
    >>> table = VectorTable.from_arrays(["a", "b"], [[1, 0], [0, 1]])
    >>> rows = pa.table({"item_id": ["b", "a", "unheard of"]})
    >>> features = SemanticIdFeatures(SemanticIds(levels=(2, 1)).fit_table(table).item_codes(table)).fit(rows)
    >>> features.transform(rows).tolist()
    [[0, 0, 0], [1, 0, 1], [-1, -1, -1]]
    """

    def __init__(self, items: ItemCodes | None = None, *, item_id: str = "item_id") -> None:
        self.items = items
        self.item_id = item_id

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the parameters and the columns of `X`; nothing is learned from its rows."""
        frame = to_frame(X, what="X")
        require_columns(frame, [self.item_id], what="X")
        self.fingerprint_ = self._items().fingerprint
        self.feature_names_in_ = np.array(frame.columns, dtype=object)
        self.n_features_in_ = len(frame.columns)
        return self

    def transform(self, X: Any) -> Int32Array:
        """Return codes and prefixes of the items of the rows, as `SemanticIds.transform` does; -1 for unknown items."""
        check_is_fitted(self)
        items = self._items()
        if items.fingerprint != self.fingerprint_:
            raise TableFingerprintError(
                f"items are of the book {items.fingerprint[:12]!r}, but the features were fitted with "
                f"{self.fingerprint_[:12]!r}: code the items with that book, or refit"
            )
        return code_columns(items.lookup(id_column(X, self.item_id, what="X")), items.fitted)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray[Any, Any]:
        """Return the names of the columns of `transform`."""
        return column_names(self._items().fitted.n_levels)

    def _items(self) -> ItemCodes:
        if not isinstance(self.items, ItemCodes):
            raise InputError(
                f"items is a {type(self.items).__name__}, but ItemCodes were expected: "
                "make them with SemanticIds(...).fit_table(table).item_codes(table)"
            )
        return self.items
