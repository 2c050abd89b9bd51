"""What a scorer is, and how a history becomes a row of weights over the catalogue."""

from __future__ import annotations

from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from llmfeat._base.frames import id_array
from llmfeat.errors import InputError
from llmfeat.history.sequences import Sequences
from llmfeat.types import Float32Array, VectorSource

__all__ = [
    "FittableScorer",
    "ItemScorer",
    "check_at_least",
    "check_catalogue",
    "check_choice",
    "check_counts",
    "check_share",
    "check_vectors",
    "check_whole",
    "history_weights",
    "named_ids",
]


@runtime_checkable
class ItemScorer(Protocol):
    """Anything that scores the whole catalogue for queries."""

    @property
    def name(self) -> str:
        """What its columns are called."""
        ...

    def scores(self, histories: Sequences) -> Float32Array:
        """Return shape ``(n_queries, n_items)``, float32: higher is better, NaN where a score is undefined.

        The caller passes as many queries at once as it has memory for. A row does not depend on the others.
        """
        ...


@runtime_checkable
class FittableScorer(ItemScorer, Protocol):
    """A scorer that learns from sequences."""

    def fit(self, sequences: Sequences) -> Self:
        """Learn from sequences, which end before whatever is to be scored begins.

        Every event counts, whatever its label: pass ``sequences.positives()`` where dislikes are among them.
        """
        ...


def check_catalogue(fitted: pa.StringArray | None, histories: Sequences, *, name: str) -> None:
    """Raise `InputError` unless the scorer is fitted, on the catalogue of these histories."""
    if fitted is None:
        raise InputError(f"the scorer {name!r} has learned from no sequences yet: call fit(sequences) first")
    if fitted is not histories.item_ids and not fitted.equals(histories.item_ids):
        raise InputError(
            f"the scorer {name!r} was fitted on {len(fitted)} items, but the histories are over {histories.n_items} "
            "items, or the same in another order: pass one item_ids= to both"
        )


def check_at_least(least: float, **values: float) -> None:
    """Raise `InputError` for the first parameter that is no finite number of at least `least`."""
    for name, value in values.items():
        given: object = value
        if not (isinstance(given, int | float | np.number) and least <= float(given) < np.inf):
            raise InputError(f"{name}={value!r}, but a number of at least {least:g} was expected")


def check_share(**values: float) -> None:
    """Raise `InputError` for the first parameter that is not over 0 and at most 1."""
    for name, value in values.items():
        given: object = value
        if not (isinstance(given, int | float | np.number) and 0 < float(given) <= 1):
            raise InputError(f"{name}={value!r}, but a number over 0 and up to 1 was expected")


def check_choice(choices: tuple[str, ...], **values: str) -> None:
    """Raise `InputError` for the first parameter that is none of the choices."""
    for name, value in values.items():
        if value not in choices:
            raise InputError(f"{name}={value!r}, but one of {choices} was expected")


def check_counts(counts: Any, sequences: Sequences) -> None:
    """Raise `InputError` unless these can be counts of pairs of the items of the sequences."""
    shape = (sequences.n_items, sequences.n_items)
    if not sp.issparse(counts) or counts.shape != shape:
        raise InputError(
            f"counts is a {type(counts).__name__} of shape {getattr(counts, 'shape', None)}, but a sparse array of "
            f"shape {shape} was expected: make it with count_pairs"
        )


def check_whole(least: int, **values: Any) -> None:
    """Raise `InputError` for the first parameter that is no whole number of at least `least`."""
    for name, value in values.items():
        if not (isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= least):
            raise InputError(f"{name}={value!r}, but a whole number of at least {least} was expected")


def check_vectors(vectors: Any, *, what: str = "vectors") -> None:
    """Raise `InputError` unless these are a source of vectors."""
    if not isinstance(vectors, VectorSource):
        raise InputError(
            f"{what} is a {type(vectors).__name__}, but a vector source was expected: "
            "wrap arrays with VectorTable.from_arrays(ids, vectors)"
        )


def named_ids(vectors: VectorSource) -> pa.StringArray:
    """Return the ids that a source of vectors names; none where it only answers."""
    ids = getattr(vectors, "ids", None)
    return pa.array([], pa.string()) if ids is None else id_array(ids, what="the ids of the vectors")


def history_weights(histories: Sequences, *, decay: float, max_events: int) -> Any:
    """Return how much each item of a history weighs: ``decay ** age_rank`` over its last `max_events` events.

    Returns
    -------
    scipy.sparse.csr_array of shape (n_queries, n_items), float64
        An item that comes twice has two entries: what multiplies by this adds them up, in the order of the events, so
        that a row has the same bits alone and in a batch.
    """
    recent = histories.last(max_events)
    weights = decay ** recent.age_rank.astype(np.float64)
    shape = (len(recent), recent.n_items)
    return sp.csr_array((weights, recent.item_codes, recent.offsets), shape=shape)
