"""What a request has gathered when its features are computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmfeat.history import InteractionLog, UserHistory
from llmfeat.types import Float32Array, Float64Array

__all__ = ["Gathered"]


@dataclass(eq=False)
class Gathered:
    """A request and all that was found out for it; what could not be had in time is empty or NaN.

    Attributes
    ----------
    user_id : str
        Whose request it is.
    item_ids : list of str
        The candidates.
    now_us : int
        The moment of the request, in microseconds since the epoch, UTC.
    history : UserHistory
        The user's latest events, later ones than the request's lag among them.
    candidates, events : dict of str to ndarray of shape (n, dim), float32
        By the fingerprint of their source, vectors of the candidates and of the history's items.
    store : dict of str to ndarray of shape (n_candidates, n_columns), float32
        By view, what the feature store holds.
    base : dict of str to ndarray of shape (n_candidates,), float64
        The caller's own columns.
    log : InteractionLog or None
        For features that are computed of all users' events.
    """

    user_id: str
    item_ids: list[str]
    now_us: int
    history: UserHistory
    base: Mapping[str, Float64Array]
    log: InteractionLog | None = None
    candidates: dict[str, Float32Array] = field(default_factory=dict)
    events: dict[str, Float32Array] = field(default_factory=dict)
    store: dict[str, Float32Array] = field(default_factory=dict)
