"""The rows that a model is asked about: of the test by time, some users; where all are positives, with negatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from llmfeat._base.ids import IdIndex
from llmfeat.errors import InputError
from llmfeat.evaluate.inputs import InputSpec, LiftInputs
from llmfeat.evaluate.sample import sample_rows
from llmfeat.history import AsOfIndex
from llmfeat.types import BoolArray, Int64Array

__all__ = ["AskedRows", "ZeroshotConfig", "asked_rows", "codes_of", "times_of"]

_MOST_OF_USER = 50


@dataclass(frozen=True)
class ZeroshotConfig:
    """Which rows are scored.

    Parameters
    ----------
    n_rows : int
        How many rows are scored at most, negatives that are drawn included.
    n_negatives : int
        For events without labels: the items that are drawn beside each.
    test_fraction : float
        The share of rows, the last by time, that is the test.
    history_lag_s : float
        Seconds by which events reach every arm late.
    seed : int
        Of users, events and negatives, the random arm and resamples.
    n_resamples : int
        Of the bootstrap over users.
    """

    n_rows: int = 1000
    n_negatives: int = 19
    test_fraction: float = 0.2
    history_lag_s: float = 0
    seed: int = 0
    n_resamples: int = 1000


@dataclass(frozen=True, eq=False)
class AskedRows:
    """What every arm ranks; `groups` says what is ranked together, all rows of a user where it is None."""

    users: pa.StringArray
    items: pa.StringArray
    times_us: Int64Array
    labels: Int64Array
    groups: Int64Array | None

    def frame(self, spec: InputSpec) -> pa.Table:
        """Return users, items and times, under the names that the columns have in the files."""
        moments = pa.array(self.times_us, pa.timestamp("us", "UTC"))
        return pa.table({spec.user_id: self.users, spec.item_id: self.items, spec.timestamp: moments})


def asked_rows(inputs: LiftInputs, test: Int64Array, has_text: BoolArray, config: ZeroshotConfig) -> AskedRows:
    """Return rows of the test: of some users all; where all are positives some events, with negatives.

    A user's rows are ranked against each other, so that they belong together. An event is ranked against what is drawn
    beside it alone, and events of many users say more than as many of few.

    Raises
    ------
    InputError
        When the rows are all positive or all negative, or no negative can be drawn.
    """
    if inputs.labels is None:
        events = sample_rows(test, config.n_rows // (1 + config.n_negatives), seed=config.seed)
        return _with_negatives(inputs, events, has_text, config)
    drawn = _by_users(test, codes_of(inputs.users), times_of(inputs), config.n_rows, seed=config.seed)
    labels = inputs.labels[drawn]
    if labels.min() == labels.max():
        raise InputError(
            f"all {len(labels):,} rows that were drawn of the test have the label {labels[0]}, but both 0 and 1 were "
            "expected: raise --rows, or pass another --seed or --test-fraction"
        )
    taken = pa.array(drawn)
    return AskedRows(inputs.users.take(taken), inputs.row_items.take(taken), times_of(inputs)[drawn], labels, None)


def _by_users(rows: Int64Array, users: Int64Array, times_us: Int64Array, n_rows: int, *, seed: int) -> Int64Array:
    """Return the rows of one user after another, drawn at random, oldest first, until there are `n_rows`.

    Of a user there are `_MOST_OF_USER` at most: the rows of a few who did much would say little of the others.
    """
    _, codes = np.unique(users[rows], return_inverse=True)
    turn = np.random.default_rng(seed).permutation(int(codes.max(initial=-1)) + 1)
    order = np.lexsort((times_us[rows], turn[codes]))
    sizes = np.bincount(turn[codes])
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return rows[order[place < _MOST_OF_USER]][:n_rows]


def _with_negatives(inputs: LiftInputs, events: Int64Array, has_text: BoolArray, config: ZeroshotConfig) -> AskedRows:
    """Return a group for each event: its item, then items with a text that its user had nothing to do with till then.

    What came at the very moment of the event is a positive as well, and so is not drawn.
    """
    users, places = codes_of(inputs.users), IdIndex(inputs.item_ids).positions(inputs.row_items)
    by_user = AsOfIndex(users, times_of(inputs), int(users.max(initial=-1)) + 1)
    starts = by_user.first(users[events])
    stops = by_user.before(users[events], times_of(inputs)[events] + 1)
    draw = np.random.default_rng([config.seed, 2])
    items: list[Int64Array] = []
    for event, start, stop in zip(events.tolist(), starts.tolist(), stops.tolist(), strict=True):
        is_free = has_text.copy()
        is_free[places[by_user.order[start:stop]]] = False
        free = np.flatnonzero(is_free)
        others = draw.choice(free, min(config.n_negatives, len(free)), replace=False)
        items.append(np.concatenate([places[event : event + 1], others]))
    groups = np.repeat(np.arange(len(events)), [len(each) for each in items])
    labels = np.diff(groups, prepend=-1)
    if labels.all():
        raise InputError(
            f"for none of {len(events):,} events is there an item with a text that its user had no event with before, "
            "but negatives were to be drawn: pass a larger catalogue, or labels with --label or --rating"
        )
    of_row = events[groups]
    return AskedRows(
        inputs.users.take(pa.array(of_row)),
        inputs.item_ids.take(pa.array(np.concatenate(items))),
        times_of(inputs)[of_row],
        labels,
        groups,
    )


def codes_of(ids: pa.StringArray) -> Int64Array:
    """Return a number for each id, from 0 on, in the order in which they first appear."""
    codes: Int64Array = ids.dictionary_encode().indices.cast(pa.int64()).to_numpy()
    return codes


def times_of(inputs: LiftInputs) -> Int64Array:
    """Return the time of each row, microseconds."""
    assert inputs.times_us is not None, "only rows that bring their own histories come without times"
    return inputs.times_us
