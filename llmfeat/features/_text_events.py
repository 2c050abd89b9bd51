"""The events of a log that can stand in a text, and which of them each row sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa

from llmfeat._base.ids import IdIndex
from llmfeat.features._rows import Rows
from llmfeat.history import InteractionLog
from llmfeat.types import BoolArray, Int64Array

__all__ = ["TextEvents"]


@dataclass(frozen=True, eq=False)
class TextEvents:
    """The events of a log that can stand in a text, in the log's order.

    Attributes
    ----------
    log, texts, liked_only
        What this was made of.
    index : IdIndex
        Of the items.
    item_rows : ndarray of shape (n,), int64
        Of each such event its item's row in `texts`.
    n_before : ndarray of shape (n_events + 1,), int64
        How many such events are before each position in the log.
    is_liked : ndarray of shape (n,), bool
        Whether its label is positive.
    """

    log: InteractionLog
    texts: pa.Array
    liked_only: bool
    index: IdIndex
    item_rows: Int64Array
    n_before: Int64Array
    is_liked: BoolArray

    @classmethod
    def of(cls, log: InteractionLog, ids: pa.StringArray, texts: pa.Array, liked_only: bool) -> Self:
        """Return those events of a log whose item has a text, and that were liked where only these count."""
        index = IdIndex(ids)
        rows = index.positions(log.item_ids)
        has_text = np.append(texts.is_valid().to_numpy(zero_copy_only=False), False)  # the last is for the row -1
        rows = np.where(has_text[rows], rows, -1)[log.item_codes]
        kept = (rows >= 0) & (log.labels > 0) if liked_only else rows >= 0
        n_before = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)
        return cls(log, texts, liked_only, index, rows[kept], n_before, log.labels[kept] > 0)

    def is_of(self, log: InteractionLog, texts: pa.Array, liked_only: bool) -> bool:
        """Return whether this was made of these very objects."""
        return self.log is log and self.texts is texts and self.liked_only == liked_only

    def windows(self, rows: Rows, max_items: int) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Return the distinct windows that rows see, which of them each row sees, and how many items that one has.

        Returns
        -------
        windows : ndarray of shape (n_windows, 2), int64
            Where each begins and ends in `item_rows`, oldest first; an empty one is (0, 0).
        window_of_row, n_items : ndarray of shape (n_rows,), int64
        """
        # What was liked is known as far as labels had arrived; what happened, as far as events had.
        begin, labelled, end = self.log.labelled_windows(rows.users, rows.as_of_us)
        stop = self.n_before[labelled if self.liked_only else end]
        start = np.maximum(self.n_before[begin], stop - max_items)
        bounds = np.where((stop > start)[:, None], np.stack([start, stop], axis=1), 0)
        windows, window_of_row = np.unique(bounds, axis=0, return_inverse=True)
        return windows, window_of_row.ravel(), stop - start

    def labelled_windows(self, rows: Rows, max_items: int) -> tuple[Int64Array, Int64Array]:
        """Return the distinct windows that rows see, with what is known of their labels, and which each row sees.

        Returns
        -------
        windows : ndarray of shape (n_windows, 3), int64
            Where each begins in `item_rows`, where labels are known no more, and where it ends.
        window_of_row : ndarray of shape (n_rows,), int64
        """
        begin, labelled, end = self.log.labelled_windows(rows.users, rows.as_of_us)
        stop = self.n_before[end]
        start = np.maximum(self.n_before[begin], stop - max_items)
        known = np.maximum(self.n_before[labelled], start)
        bounds = np.where((stop > start)[:, None], np.stack([start, known, stop], axis=1), 0)
        windows, window_of_row = np.unique(bounds, axis=0, return_inverse=True)
        return windows, window_of_row.ravel()
