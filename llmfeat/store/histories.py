"""Histories as a feature store keeps them: three compact columns a user, made of a log, read back as `UserHistory`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from llmfeat._base.files import canonical_json, text_sha256
from llmfeat.errors import StoreError
from llmfeat.history import InteractionLog, UserHistory
from llmfeat.history.user import known_labels
from llmfeat.store.config import RepoSources
from llmfeat.store.snapshots import SnapshotTable
from llmfeat.store.values import Raw, unpack_bytes

__all__ = ["FIELDS", "USER_KEY", "histories_table", "history_cells", "history_of", "history_rows"]

USER_KEY = "user_id"
FIELDS = ("item_ids", "labels", "times_us")
_LAYOUT = 1


def histories_table(sources: RepoSources, *, available_after_us: int) -> SnapshotTable:
    """Return where the histories of a repository are kept; `SnapshotTable.opened` reads it.

    Two logs of other delays, or histories of other lengths, are two tables, and two views.
    """
    identity = {
        "kind": "user_histories",
        "layout": _LAYOUT,
        "max_events": sources.max_events,
        "available_after_us": available_after_us,
    }
    fields = tuple((name, pa.binary()) for name in FIELDS)
    folder = sources.repo / "data" / "user_histories"
    return SnapshotTable(folder, text_sha256(canonical_json(identity)), USER_KEY, fields)


def history_rows(log: InteractionLog, *, max_events: int) -> pa.Table:
    """Return a row for each user of a log: the last `max_events` events, valid from a microsecond after the last.

    Feast joins what is at or before a row's time, and an event at the row's own time is the answer itself.
    """
    offsets = log.by_user.offsets
    stop = offsets[1:]
    start = np.maximum(offsets[:-1], stop - max_events)
    labels = known_labels(log).astype("<f4", copy=False)
    names = np.array([json.dumps(name, ensure_ascii=False) for name in log.item_ids.to_pylist()], dtype=object)

    def cells() -> Iterator[tuple[bytes, bytes, bytes]]:
        for low, high in zip(start.tolist(), stop.tolist(), strict=True):
            items = ",".join(names[log.item_codes[low:high]])
            yield f"[{items}]".encode(), labels[low:high].tobytes(), log.times_us[low:high].astype("<i8").tobytes()

    columns = list(zip(*cells(), strict=True))
    return pa.table(
        {
            USER_KEY: log.user_ids,
            **{name: pa.array(column, pa.binary()) for name, column in zip(FIELDS, columns, strict=True)},
            "valid_from": pa.array(log.times_us[stop - 1] + 1, pa.timestamp("us", "UTC")),
        }
    )


def history_cells(history: UserHistory) -> dict[str, bytes]:
    """Return the columns of a history: a JSON list of ids, float32 labels, int64 microseconds, little-endian."""
    ids = ",".join(json.dumps(name, ensure_ascii=False) for name in history.item_ids)
    return {
        "item_ids": f"[{ids}]".encode(),
        "labels": history.labels.astype("<f4").tobytes(),
        "times_us": history.times_us.astype("<i8").tobytes(),
    }


def history_of(raws: tuple[Raw, Raw, Raw], *, what: str) -> UserHistory:
    """Return the history that three values of a store hold, empty where there is nothing.

    Raises
    ------
    StoreError
        When they are not of one history.
    """
    ids, labels, times_us = (unpack_bytes(raw) for raw in raws)
    if not ids:
        return UserHistory.empty()
    try:
        history = UserHistory(
            _list_of(ids),
            np.frombuffer(labels, dtype="<f4").astype(np.float32),
            np.frombuffer(times_us, dtype="<i8").astype(np.int64),
        )
    except ValueError as error:
        raise StoreError(
            f"{what} holds no history ({type(error).__name__}): something else writes to this view"
        ) from error
    if not len(history.item_ids) == len(history.labels) == len(history.times_us):
        raise StoreError(
            f"{what} holds {len(history.item_ids)} items, {len(history.labels)} labels and {len(history.times_us)} "
            "times, but one of each for an event was expected: something else writes to this view"
        )
    return history


def _list_of(ids: bytes) -> list[str]:
    items = json.loads(ids)
    if not isinstance(items, list):
        raise ValueError("a list was expected")
    return items
