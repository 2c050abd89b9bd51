"""The answer to a request, and what it may do without."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llmfeat.types import Float64Array

__all__ = ["DEGRADATION", "Ranking", "in_order"]

DEGRADATION = ("texts", "vectors", "store", "history", "ranker")
"""What a request does without when time runs short or the store fails, in this order.

``texts``: cold items are not encoded, and have no vector. ``vectors``: vectors that are not in this process are not
waited for. ``store``: numbers of the feature store are not waited for. ``history``: the user is ranked as one without
a history. ``ranker``: candidates come back as they came, or in the order of `fallback`, without scores.
"""


@dataclass(frozen=True, eq=False)
class Ranking:
    """The answer to a request.

    Attributes
    ----------
    item_ids : list of str
        The candidates, best first; of equal scores the one that came first.
    scores : ndarray of shape (n_candidates,), float64
        Of `item_ids`; NaN where the ranker did not run.
    because_item_ids : list of str or None, optional
        The item of the history that each is most similar to, where that was asked for.
    degraded : tuple of str
        What the request did without, of `DEGRADATION`; empty where it has all.
    n_missing : int
        Candidates without a vector.
    n_encoded : int
        Cold candidates whose text was encoded for this request.
    n_events : int
        Events of the history that was found.
    is_history_cut : bool
        Whether the store keeps too few events of this user: a lag hides the newest, and older ones are gone.
    elapsed_ms : float
        From the call to the answer.
    """

    item_ids: list[str]
    scores: Float64Array
    because_item_ids: list[str | None] | None
    degraded: tuple[str, ...]
    n_missing: int
    n_encoded: int
    n_events: int
    is_history_cut: bool
    elapsed_ms: float


def in_order(degraded: Iterable[str]) -> tuple[str, ...]:
    """Return what a request did without, in the order of `DEGRADATION`."""
    return tuple(sorted(degraded, key=DEGRADATION.index))
