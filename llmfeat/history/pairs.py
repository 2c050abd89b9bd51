"""Which items come near one another in sequences: the counts that co-occurrence and item vectors are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from llmfeat.errors import InputError
from llmfeat.history.sequences import Sequences
from llmfeat.types import Float64Array, Int32Array, Int64Array

__all__ = ["both_ways", "count_events", "count_pairs", "first_of_each", "sum_pairs", "user_codes"]


def count_pairs(
    sequences: Sequences, *, window: int, distance_decay: float, forward: bool, once_per_user: bool = False
) -> Any:
    """Return how often item ``k`` came within `window` events after (or also before) item ``j``.

    Parameters
    ----------
    sequences : Sequences
        What happened, oldest first.
    window : int
        Pairs at most so many places apart count.
    distance_decay : float
        A pair at distance ``d`` counts ``distance_decay ** (d - 1)``.
    forward : bool
        Whether only what comes later counts for what came earlier; otherwise the counts are symmetric.
    once_per_user : bool, default=False
        Whether a pair at one distance counts once per user, however many rows hold it. Needs users.

    Returns
    -------
    scipy.sparse.csr_array of shape (n_items, n_items), float64
        An item that follows itself is on the diagonal.
    """
    rows = sequences.row_of_event
    return sum_pairs(
        sequences.item_codes,
        rows,
        n_items=sequences.n_items,
        window=window,
        distance_decay=distance_decay,
        forward=forward,
        owners=user_codes(sequences)[rows] if once_per_user else None,
    )


def sum_pairs(
    items: Int32Array | Int64Array,
    groups: Int32Array | Int64Array,
    *,
    n_items: int,
    window: int,
    distance_decay: float,
    forward: bool = False,
    owners: Int32Array | None = None,
    signs: Float64Array | None = None,
) -> Any:
    """Return the sums over pairs of events that are near each other, of events in flat arrays.

    Parameters
    ----------
    items : ndarray of shape (n_events,), int
        What each event is of, from 0 to ``n_items - 1``.
    groups : ndarray of shape (n_events,), int
        Events of one group stand together, oldest first; pairs are within a group.
    n_items, window, distance_decay, forward
        As in `count_pairs`.
    owners : ndarray of shape (n_events,), int, optional
        Whose each event is, where a pair at one distance is to count once for each owner.
    signs : ndarray of shape (n_events,), float64, optional
        A pair counts the product of the signs of its events; 1 by default.

    Returns
    -------
    scipy.sparse.csr_array of shape (n_items, n_items), float64
    """
    shape = (n_items, n_items)
    sums = sp.csr_array(shape, dtype=np.float64)
    # Groups stand together, so that where no pair is so far apart, none is further apart.
    for distance in range(1, window + 1):
        at = np.flatnonzero(groups[distance:] == groups[:-distance])
        if not len(at):
            break
        if owners is not None:
            pairs = items[at].astype(np.int64) * n_items + items[at + distance]
            at = at[first_of_each(owners[at], pairs)]
        weights = np.full(len(at), float(distance_decay) ** (distance - 1))
        if signs is not None:
            weights *= signs[at] * signs[at + distance]
        sums = sums + sp.coo_array((weights, (items[at], items[at + distance])), shape=shape).tocsr()
    if not forward:
        return both_ways(sums)
    sums.sort_indices()
    return sums


def both_ways(counts: Any) -> Any:
    """Return the symmetric counts of those that `count_pairs` gave for ``forward=True``."""
    both = counts + counts.T.tocsr()
    both.sort_indices()
    return both


def count_events(sequences: Sequences, *, once_per_user: bool = False) -> Int64Array:
    """Return how many events, or how many users, each item has, int64 of shape ``(n_items,)``."""
    codes = sequences.item_codes
    if once_per_user:
        codes = codes[first_of_each(user_codes(sequences)[sequences.row_of_event], codes)]
    return np.bincount(codes, minlength=sequences.n_items)


def user_codes(sequences: Sequences) -> Int32Array:
    """Return a code of the user of each row, int32.

    Raises
    ------
    InputError
        When the sequences do not say whose they are.
    """
    if sequences.users is None:
        raise InputError(
            "the sequences do not say whose they are, but users were to be told apart: "
            "pass user_id= to Sequences.from_lists, or use with_users(ids)"
        )
    codes: Int32Array = sequences.users.dictionary_encode().indices.to_numpy()
    return codes


def first_of_each(left: Int32Array | Int64Array, right: Int32Array | Int64Array) -> Int64Array:
    """Return the position of the first entry of each distinct pair ``(left, right)``, ascending, int64."""
    order = np.lexsort((right, left))  # stable: equal pairs keep their order
    opens = np.ones(len(order), dtype=bool)
    opens[1:] = (np.diff(left[order]) != 0) | (np.diff(right[order]) != 0)
    return np.sort(order[opens])
