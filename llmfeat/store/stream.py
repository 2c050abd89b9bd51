"""Histories that are fresh: read from the store, and pushed to it, an event at a time."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmfeat._base.frames import id_array, id_column, label_column, time_column, to_frame, to_us
from llmfeat.encode.changes import now_us
from llmfeat.errors import InputError, StoreConfigError
from llmfeat.history import LabelDelay, UserHistory
from llmfeat.store.dialects import Held
from llmfeat.store.histories import FIELDS, history_cells, history_of
from llmfeat.store.online import OnlineView, open_view
from llmfeat.store.repo import open_store
from llmfeat.store.values import Raw, pack_bytes, unpack_bytes
from llmfeat.types import Int64Array

__all__ = ["EventPusher", "FeastHistories", "drop_pushed"]

_STRIPES = 256


class FeastHistories:
    """Users' histories read from the online store: what was materialized, then what was pushed since.

    The two are views of their own, each with one writer, so that a nightly run and a stream never write one row. An
    event that both hold counts once.

    Parameters
    ----------
    repo : str or Path
        The feature repository.
    fingerprint : str, optional
        Which histories, where the repository has views of several lengths or label delays.

    Examples
    --------
    >>> histories = FeastHistories("feature_repo")  # doctest: +SKIP
    >>> histories("u1").item_ids  # doctest: +SKIP
    ['a', 'b']
    """

    def __init__(self, repo: str | Path, *, fingerprint: str | None = None) -> None:
        self.repo = str(repo)
        self.fingerprint = fingerprint

    def __call__(self, user_id: str) -> UserHistory:
        """Return the history of one user, empty where the store has none."""
        return self.read([user_id])[0]

    def read(self, user_ids: Sequence[str]) -> list[UserHistory]:
        """Return the histories of some users."""
        # Where labels come late, those that the log has of young events are early, and the pushed ones are true.
        relabels = self.label_delay.available_after_us > 0
        batch, pushed = (view.read(user_ids, FIELDS) for view in (self.histories, self.events))
        return [
            _at(batch, at, what=self.histories.name)
            .followed_by(_at(pushed, at, what=self.events.name), relabels=relabels)
            .latest(self.max_events)
            for at in range(len(user_ids))
        ]

    @property
    def max_events(self) -> int:
        """How many events a history holds at most."""
        return int(self.histories.tags["max_events"])

    @property
    def label_delay(self) -> LabelDelay:
        """How late labels arrive."""
        return LabelDelay(int(self.histories.tags["available_after_us"]))

    @cached_property
    def store(self) -> Any:
        """The opened ``feast.FeatureStore``."""
        return open_store(self.repo)

    @cached_property
    def histories(self) -> OnlineView:
        """The view of what was materialized."""
        return open_view(self.store, self._fingerprint, "user_histories", where=self.repo)

    @cached_property
    def events(self) -> OnlineView:
        """The view of what was pushed."""
        return open_view(self.store, self._fingerprint, "user_events", where=self.repo)

    @cached_property
    def _fingerprint(self) -> str:
        if self.fingerprint is not None:
            return self.fingerprint
        tags = [view.tags for view in self.store.list_feature_views()]
        found = [one["fingerprint"] for one in tags if one.get("llmfeat") == "user_histories"]
        if len(found) != 1:
            raise StoreConfigError(
                f"{self.repo} has {len(found)} views of histories ({[one[:12] for one in found]}), but one was "
                "expected: "
                + ("pass fingerprint=" if found else "set histories.log in llmfeat.toml, and run `feast apply`")
            )
        return str(found[0])

    def __getstate__(self) -> dict[str, Any]:
        """Leave the connection out: it is opened again on use."""
        return {"repo": self.repo, "fingerprint": self.fingerprint}


class EventPusher:
    """Puts events into the online store as they happen; the next request sees them.

    Any number of threads and processes may push at once, for one user too: an event is added to what the store holds in
    one transaction (SQLite), or again where another one came between (Redis). In other stores, which Feast can only
    read and write, a user's events must go through one process, as those of a partition of a queue do. The same event
    once more changes nothing, so that a queue may deliver it twice.

    Parameters
    ----------
    repo : str or Path
        The feature repository.
    fingerprint : str, optional
        Which histories, where the repository has several.

    Examples
    --------
    >>> pusher = EventPusher("feature_repo")  # doctest: +SKIP
    >>> pusher.push("u1", "i3", label=1)  # doctest: +SKIP
    """

    def __init__(self, repo: str | Path, *, fingerprint: str | None = None) -> None:
        self._source = FeastHistories(repo, fingerprint=fingerprint)
        # Threads of one process need not try again and again.
        self._locks = [threading.Lock() for _ in range(_STRIPES)]

    def push(self, user_id: Any, item_id: Any, *, timestamp: Any = None, label: float | None = 1.0) -> None:
        """Add one event to a user's history.

        Parameters
        ----------
        user_id, item_id
            Who and what.
        timestamp : datetime or epoch, optional
            When; now by default.
        label : {0, 1} or None, default=1
            How it ended. None where nobody knows yet: push the event again, with its label, when somebody does.

        Raises
        ------
        InputError, TimestampError
            When an id or the time is null, or the label is another number.
        StoreError
            When the store does not take it: push it again.
        """
        user, item = id_array([user_id, item_id], what="the ids of the event").to_pylist()
        time_us = now_us() if timestamp is None else int(to_us([timestamp], what="the time of the event")[0])
        self._add(user, [(item, time_us, _label(label))])

    def push_frame(
        self,
        events: Any,
        *,
        user_id: str = "user_id",
        item_id: str = "item_id",
        timestamp: str = "timestamp",
        label: str | None = None,
    ) -> int:
        """Add the events of a data frame, and return how many users they were of; a positive each without `label`."""
        frame = to_frame(events, what="the events")
        users = id_column(frame, user_id, what="the events").to_pylist()
        items = id_column(frame, item_id, what="the events").to_pylist()
        times: Int64Array = time_column(frame, timestamp, what="the events")
        labels = np.ones(len(users)) if label is None else label_column(frame, label, what="the events")
        of_user: dict[str, list[tuple[str, int, float]]] = {}
        for user, item, time_us, value in zip(users, items, times.tolist(), labels.tolist(), strict=True):
            of_user.setdefault(user, []).append((item, time_us, _label(value)))
        for user, added in of_user.items():
            self._add(user, added)
        return len(of_user)

    def forget(self, user_ids: Any) -> None:
        """Remove all that the online store holds of some users, at once; remove them from the log, too.

        What a log still holds comes back with the next run that finds it changed.
        """
        kinds = ("user_events", "user_histories", "user_vectors")
        store = self._source.store
        views = [OnlineView(store, view) for view in store.list_feature_views() if view.tags.get("llmfeat") in kinds]
        for user in id_array(user_ids, what="the users").to_pylist():
            with self._locks[hash(user) % _STRIPES]:
                for view in views:
                    view.dialect.modify(user, view.fields, functools.partial(_emptied, view.fields))

    def _add(self, user: str, events: Sequence[tuple[str, int, float]]) -> None:
        view, most = self._source.events, self._source.max_events

        def added(held: Held) -> tuple[dict[str, bytes], int] | None:
            history = before = _at(held.values, 0, what=view.name)
            for item, time_us, label in events:
                history = history.with_event(item, time_us, label)
            return None if history is before else _changed(history.latest(most), held)

        with self._locks[hash(user) % _STRIPES]:
            view.dialect.modify(user, FIELDS, added)


def drop_pushed(view: OnlineView, user_ids: Sequence[str], *, until_us: int) -> None:
    """Remove what was pushed of some users up to a moment: a log that reaches further holds them no more."""

    def kept(held: Held) -> tuple[dict[str, bytes], int] | None:
        history = _at(held.values, 0, what=view.name)
        n_old = history.seen_before(until_us + 1)
        return _changed(history.latest(len(history) - n_old), held) if n_old else None

    pushed = view.read(user_ids, FIELDS[:1])[FIELDS[0]]
    for user, raw in zip(user_ids, pushed, strict=True):
        if unpack_bytes(raw):  # most have nothing
            view.dialect.modify(user, FIELDS, kept)


def _changed(history: UserHistory, held: Held) -> tuple[dict[str, bytes], int]:
    """Return the fields of a history, and a time later than what it replaces."""
    cells = history_cells(history) if len(history) else dict.fromkeys(FIELDS, b"")
    (packed,) = zip(*(pack_bytes([cells[name]]) for name in FIELDS), strict=True)
    return dict(zip(FIELDS, packed, strict=True)), max(now_us(), held.times_us[0] + 1)


def _emptied(fields: Sequence[str], held: Held) -> tuple[dict[str, bytes], int] | None:
    (nothing,) = pack_bytes([b""])
    if not any(unpack_bytes(held.values[name][0]) for name in fields):
        return None
    return dict.fromkeys(fields, nothing), max(now_us(), held.times_us[0] + 1)


def _at(values: Mapping[str, Sequence[Raw]], at: int, *, what: str) -> UserHistory:
    ids, labels, times_us = (values[name][at] for name in FIELDS)
    return history_of((ids, labels, times_us), what=what)


def _label(label: float | None) -> float:
    value = float("nan") if label is None else float(label)
    if not (value != value or value in (0.0, 1.0)):
        raise InputError(f"label={label!r}, but 0, 1 or None was expected: turn ratings into those first")
    return value
