"""What towers learn from: plain arrays, and the pairs of history and next item in them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llmfeat.types import BoolArray, Float32Array, Int32Array, Int64Array

__all__ = ["TowerData", "history_block"]


@dataclass(frozen=True, eq=False)
class TowerData:
    """Sequences of items over a catalogue, with what is known of each item, each user and each event.

    Attributes
    ----------
    features : ndarray of shape (n_items, n_features), float32
        What texts say of each item; the mean of the others where they say nothing.
    item_codes : ndarray of shape (n_events,), int32
        The items of the sequences, one sequence after the other, oldest first.
    offsets : ndarray of shape (n_sequences + 1,), int64
        Where each sequence begins.
    owners : ndarray of shape (n_sequences,), int64
        Whose each sequence is, from 0; sequences of nobody in particular are each of their own.
    has_users : bool
        Whether owners have an embedding.
    context : ndarray of shape (n_events, n_context), float32, optional
        What was known of the moment of each event.
    max_events : int
        How many of the last events a history has.
    """

    features: Float32Array
    item_codes: Int32Array
    offsets: Int64Array
    owners: Int64Array
    has_users: bool
    context: Float32Array | None
    max_events: int

    @property
    def n_items(self) -> int:
        """The size of the catalogue."""
        return len(self.features)

    @property
    def n_users(self) -> int:
        """How many users have an embedding."""
        return int(self.owners.max(initial=-1)) + 1 if self.has_users else 0

    @property
    def n_context(self) -> int:
        """How many columns the context has."""
        return 0 if self.context is None else int(self.context.shape[1])

    @cached_property
    def sequence_of_event(self) -> Int64Array:
        """The sequence of each event, int64 of shape ``(n_events,)``."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @cached_property
    def counts(self) -> Int64Array:
        """How often each item comes, int64 of shape ``(n_items,)``."""
        return self.counts_of(np.arange(len(self.item_codes)))

    def counts_of(self, events: Int64Array) -> Int64Array:
        """Return how often each item comes among some events."""
        return np.bincount(self.item_codes[events], minlength=self.n_items)

    def histories(self, events: Int64Array) -> tuple[Int64Array, BoolArray]:
        """Return what stands before some events of the sequences; see `history_block`."""
        starts = self.offsets[self.sequence_of_event[events]]
        return history_block(self.item_codes, starts, events, max_events=self.max_events)


def history_block(
    item_codes: Int32Array, starts: Int64Array, stops: Int64Array, *, max_events: int
) -> tuple[Int64Array, BoolArray]:
    """Return the last items of ``item_codes[start:stop]`` for each pair, newest first, and which places hold one.

    Returns
    -------
    items : ndarray of shape (n, max_events), int64
        0 where there is none.
    there : ndarray of shape (n, max_events), bool
        Which places hold an item.
    """
    at = stops[:, None] - 1 - np.arange(max_events)
    there: BoolArray = at >= starts[:, None]
    items = item_codes[np.where(there, at, 0)].astype(np.int64) if len(item_codes) else np.zeros(at.shape, np.int64)
    return np.where(there, items, 0), there
