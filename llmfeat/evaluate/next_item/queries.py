"""What is to be ranked, and what was known before: by time, and for rows that bring their own histories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa

from llmfeat.errors import InputError
from llmfeat.history import InteractionLog, Sequences
from llmfeat.rank.scorers.crossfit import user_folds
from llmfeat.types import BoolArray, Int64Array

__all__ = ["HISTORY_EVENTS", "Queries", "Stage", "stages_of_histories", "stages_of_log"]

# How many of a user's last events a query brings, and how many of them the statistics of the past are made of: some
# users have thousands, and all pairs of them would drown the others.
HISTORY_EVENTS = 50
_PAST_EVENTS = 200
SPLITS = ("train", "valid", "test")
_TRAIN, _VALID, _TEST = range(3)
_N_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Queries:
    """Targets to be found, and the contexts that they are to be found from.

    The items of a basket share their context: the user and the moment. Each is a query of its own, and the others stay
    candidates.

    Attributes
    ----------
    contexts : Sequences
        The history of each context, strictly earlier than its moment, and its user.
    moments_us, as_of_us : ndarray of shape (n_contexts,), int64, optional
        When a context is, and up to when it sees, microseconds; None where events have an order and no times.
    context : ndarray of shape (n_queries,), int64
        The context of each query, ascending.
    targets : ndarray of shape (n_queries,), int64
        The item that came, as a position in the catalogue; -1 for one outside it.
    """

    contexts: Sequences
    moments_us: Int64Array | None
    as_of_us: Int64Array | None
    context: Int64Array
    targets: Int64Array

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def users(self) -> pa.StringArray:
        """The user of each context."""
        users = self.contexts.users
        assert users is not None, "contexts are made with their users"
        return users

    def take(self, queries: Int64Array) -> Self:
        """Return some queries, ascending, with the contexts that they have."""
        kept, context = np.unique(self.context[queries], return_inverse=True)
        return replace(
            self,
            contexts=self.contexts.take(kept),
            moments_us=None if self.moments_us is None else self.moments_us[kept],
            as_of_us=None if self.as_of_us is None else self.as_of_us[kept],
            context=context.astype(np.int64),
            targets=self.targets[queries],
        )

    def of_contexts(self, contexts: Int64Array) -> Self:
        """Return the queries of some contexts."""
        return self.take(np.flatnonzero(np.isin(self.context, contexts)))

    def sample(self, n_queries: int, *, seed: int) -> Self:
        """Return at most so many queries, drawn at random."""
        if len(self) <= n_queries:
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self), n_queries, replace=False)))

    def sample_contexts(self, n_contexts: int, *, seed: int) -> Self:
        """Return the queries of at most so many contexts, drawn at random: all targets of each."""
        if len(self.contexts) <= n_contexts:
            return self
        drawn = np.random.default_rng(seed).choice(len(self.contexts), n_contexts, replace=False)
        return self.of_contexts(np.sort(drawn))


@dataclass(frozen=True, eq=False)
class Stage:
    """What was known at some moment, and queries after it.

    Attributes
    ----------
    past : Sequences
        What everybody did before the stage begins, a row per user: what statistics are fitted on.
    queries : Queries
        What came then.
    """

    past: Sequences
    queries: Queries


def stages_of_log(
    log: InteractionLog,
    item_ids: pa.StringArray,
    edges_us: Int64Array,
    *,
    lag_us: int = 0,
    freeze_us: int | None = None,
    asked: InteractionLog | None = None,
) -> list[Stage]:
    """Return a stage for each pair of consecutive moments: the events between them are its queries.

    Before the first event there is nothing to rank by: such a stage is left out.

    Parameters
    ----------
    log : InteractionLog
        Positive events.
    item_ids : pyarrow.StringArray
        The catalogue.
    edges_us : ndarray of int64
        Ascending moments, microseconds: where stages begin, and where the last ends.
    lag_us : int, default=0
        By how much events reach everything late.
    freeze_us : int, optional
        Nothing later than this is seen, in histories and statistics alike.
    asked : InteractionLog, optional
        The events that are queries, where not all are.
    """
    asked = log if asked is None else asked
    of_catalogue = _positions(asked, item_ids)
    opens_us = int(log.times_us.min())
    stages = []
    for start_us, stop_us in zip(edges_us[:-1].tolist(), edges_us[1:].tolist(), strict=True):
        events = np.flatnonzero((asked.times_us >= start_us) & (asked.times_us < stop_us))
        known_us = (start_us if freeze_us is None else min(start_us, freeze_us)) - lag_us
        if not len(events) or known_us <= opens_us:
            continue
        past = log.until(known_us)
        now = np.full(len(past.user_ids), np.iinfo(np.int64).max)
        known = Sequences.of_log(past, past.user_ids, now, max_events=_PAST_EVENTS, item_ids=item_ids)
        stages.append(Stage(known, _queries_of_events(log, asked, events, of_catalogue, item_ids, lag_us, freeze_us)))
    return stages


def _queries_of_events(
    log: InteractionLog,
    asked: InteractionLog,
    events: Int64Array,
    of_catalogue: Int64Array,
    item_ids: pa.StringArray,
    lag_us: int,
    freeze_us: int | None,
) -> Queries:
    # Sorted by user and time as the log is: the events of a context follow one another.
    users, times_us = asked.user_codes[events], asked.times_us[events]
    opens = np.ones(len(events), dtype=bool)
    opens[1:] = (np.diff(users) != 0) | (np.diff(times_us) != 0)
    context = np.cumsum(opens) - 1
    targets = of_catalogue[asked.item_codes[events]]
    keep = _first_of_pairs(context, targets, len(item_ids))
    moments_us = times_us[opens]
    seen_us = moments_us if freeze_us is None else np.minimum(moments_us, freeze_us)
    names = asked.user_ids.take(pa.array(users[opens]))
    histories = Sequences.of_log(log, names, seen_us, max_events=HISTORY_EVENTS, lag_us=lag_us, item_ids=item_ids)
    return Queries(histories, moments_us, seen_us - lag_us, context[keep], targets[keep])


def _first_of_pairs(context: Int64Array, targets: Int64Array, n_items: int) -> Int64Array:
    """Return the rows, ascending, whose context and target come for the first time."""
    _, first = np.unique(context * (n_items + 1) + targets + 1, return_index=True)
    return np.sort(first)


def _positions(log: InteractionLog, item_ids: pa.StringArray) -> Int64Array:
    """Return where in the catalogue each item of the log is, -1 for one that is not there."""
    places = {item: place for place, item in enumerate(item_ids.to_pylist())}
    return np.array([places.get(item, -1) for item in log.item_ids.to_pylist()], dtype=np.int64)


def stages_of_histories(
    rows: pa.Table, split: pa.StringArray, item_ids: pa.StringArray, *, history: str = "history"
) -> tuple[list[Stage], list[Stage]]:
    """Return the stages to learn from and the stage to test, of rows that bring their own histories.

    The rows of a user follow one another in the order of the table. A row's history is of the row alone. What everybody
    did before the test is put together from what can only be earlier: the rows before the test with the history of
    each user's first, and the shortest history among a user's test rows, which ends before them. A history of one event
    is left out of it unless an earlier row of the user follows: a user's first event has no row of its own, and may be
    of any time.

    The rows hold all events of their time, so that a user without a valid row did nothing then, and the shortest test
    history of such a user ends before the valid rows as well.

    Where there are valid rows, they are what the ranker learns from, ranked by what was known before them; the train
    rows then only say what was known. Without valid rows it is the train rows, each user's ranked by what the others
    did.

    Parameters
    ----------
    rows : pyarrow.Table
        ``user_id``, ``item_id`` and the lists of item ids, oldest first.
    split : pyarrow.StringArray
        ``train``, ``valid`` or ``test`` for each row.
    item_ids : pyarrow.StringArray
        The catalogue.
    """
    codes = np.array([SPLITS.index(name) for name in split.to_pylist()], dtype=np.int64)
    histories = Sequences.from_lists(rows, history, item_ids=item_ids, user_id="user_id")
    targets = histories.item_code(rows["item_id"])
    queries = Queries(histories.last(HISTORY_EVENTS), None, None, np.arange(len(codes)), targets)
    parts = {role: np.flatnonzero(codes == role) for role in (_TRAIN, _VALID, _TEST)}
    if not len(parts[_TEST]):
        raise InputError("no row has the split 'test', but at least one was expected: mark the rows to be measured")
    known = _Known(histories, targets, codes)
    test = [Stage(known.before(_TEST), queries.take(parts[_TEST]))]
    if len(parts[_VALID]):
        return [Stage(known.before(_VALID), queries.take(parts[_VALID]))], test
    if not len(parts[_TRAIN]):
        raise InputError(
            "all rows have the split 'test', but rows to learn from were expected: mark earlier rows 'valid' or 'train'"
        )
    return _cross_fitted(known.before(_TEST), queries.take(parts[_TRAIN])), test


class _Known:
    """Puts together what each user did before a split."""

    def __init__(self, histories: Sequences, targets: Int64Array, codes: Int64Array) -> None:
        assert histories.users is not None, "histories are made with their users"
        self._item_ids = histories.item_ids
        self._histories, self._targets, self._codes = histories, targets, codes
        encoded = histories.users.dictionary_encode()
        self._users = encoded.dictionary
        # By user, split, then the order of the table.
        user = encoded.indices.to_numpy()
        self._order = np.lexsort((np.arange(len(codes)), codes, user))
        self._edges = np.flatnonzero(np.diff(user[self._order], prepend=-1))

    def before(self, role: int) -> Sequences:
        """Return a row per user: what happened before the rows of `role`, and nothing that may be later."""
        events = {user: found for user, rows in self._rows() if (found := self._events(rows, role))}
        return _of_lists(events, self._users, self._item_ids)

    def _rows(self) -> Any:
        for user, first in enumerate(self._edges):
            last = self._edges[user + 1] if user + 1 < len(self._edges) else len(self._order)
            yield user, self._order[first:last]

    def _events(self, rows: Int64Array, role: int) -> list[int]:
        # The shortest history of the first split that the user is in; of equally long ones the first.
        opening = rows[self._codes[rows] == self._codes[rows[0]]]
        row = opening[np.argmin(self._histories.lengths[opening])]
        start, stop = self._histories.offsets[row : row + 2]
        events: list[int] = self._histories.item_codes[start:stop].tolist()
        earlier = [int(self._targets[each]) for each in rows if self._codes[each] < role]
        if len(events) == 1 and not earlier:
            return []
        return [item for item in (*events, *earlier) if item >= 0][-_PAST_EVENTS:]


def _of_lists(events: Mapping[int, list[int]], users: pa.StringArray, item_ids: pa.StringArray) -> Sequences:
    codes = np.array([code for found in events.values() for code in found], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(found) for found in events.values()])]).astype(np.int64)
    names = users.take(pa.array(list(events), pa.int64()))
    return Sequences(codes, offsets, item_ids, users=names)


def _cross_fitted(past: Sequences, queries: Queries) -> list[Stage]:
    """Return a stage per fold of the users: their queries, and what the others did."""
    assert past.users is not None, "the past is made with its users"
    fold_of_past, fold_of_context = (user_folds(users, n_folds=_N_FOLDS) for users in (past.users, queries.users))
    stages = []
    for fold in range(_N_FOLDS):
        own: BoolArray = fold_of_context[queries.context] == fold
        if own.any():
            others = past.take(np.flatnonzero(fold_of_past != fold))
            stages.append(Stage(others, queries.take(np.flatnonzero(own))))
    return stages
