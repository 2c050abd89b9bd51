"""TALLRec's movie protocol, rebuilt from MovieLens-100K: one row per rating, with the ten before it as history."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmfeat import InteractionLog, PreferencePrompt
from llmfeat.history import HISTORY_AS_OF_US

N_HISTORY, N_ROWS = 10, 10_000
LIKED_OVER = 3
# Chosen among some ways to write the same, by the model's own AUC on the validation split.
PROMPT = PreferencePrompt.by_example(max_items=N_HISTORY)
# The same in two lists, as TALLRec has them: which film came when is not told.
APART = replace(PROMPT, template="[Liked:\n{liked}\n][Disliked:\n{disliked}\n]Next:\n{candidate}:")
QUESTION = PreferencePrompt(max_items=N_HISTORY)


@dataclass(frozen=True, eq=False)
class TallRec:
    """The rows of the protocol, oldest user first.

    Attributes
    ----------
    rows : pyarrow.Table
        ``row_id``, ``user_id``, ``item_id``, ``timestamp`` (that of histories without times) and ``rated_at``.
    labels : ndarray of shape (n_rows,), int64
        Whether the rating is over 3.
    histories : ndarray of shape (n_rows, 10), int64
        Labels of the history, oldest first.
    log : InteractionLog
        Each row's own history, the row for a user.
    ratings : InteractionLog
        All ratings, with their times.
    items : pyarrow.Table
        The films.
    titles : dict of str to str
        By item.
    """

    rows: pa.Table
    labels: np.ndarray[Any, Any]
    histories: np.ndarray[Any, Any]
    log: InteractionLog
    ratings: InteractionLog
    items: pa.Table
    titles: dict[str, str]

    @property
    def parts(self) -> dict[str, np.ndarray[Any, Any]]:
        """The rows of train, valid and test: 80, 10 and 10 % in their order."""
        n_rows = len(self.labels)
        edges = [0, n_rows * 8 // 10, n_rows * 9 // 10, n_rows]
        return {name: np.arange(edges[at], edges[at + 1]) for at, name in enumerate(("train", "valid", "test"))}

    def take(self, which: Any) -> pa.Table:
        """Return some of the rows."""
        return self.rows.take(pa.array(np.asarray(which)))


def load_tallrec(folder: Path, *, n_rows: int = N_ROWS) -> TallRec:
    """Return the last `n_rows` rows: users in order of first appearance, each user's ratings by time."""
    events = pq.read_table(folder / "interactions.parquet")
    items = pq.read_table(folder / "items.parquet")
    users, items_of = (np.array(events.column(name).cast(pa.string()).to_pylist()) for name in ("user_id", "item_id"))
    times = events.column("timestamp").cast(pa.int64()).to_numpy()
    liked = (events.column("rating").to_numpy() > LIKED_OVER).astype(np.int64)
    _, first = np.unique(users, return_index=True)
    found: list[tuple[str, np.ndarray[Any, Any]]] = []
    for user in users[np.sort(first)]:
        of_user = np.flatnonzero(users == user)
        of_user = of_user[np.argsort(times[of_user], kind="stable")]
        found += [(user, of_user[at - N_HISTORY : at + 1]) for at in range(N_HISTORY, len(of_user))]
    found = found[-n_rows:]
    places = np.array([where for _, where in found])
    targets, before = places[:, -1], places[:, :-1]
    row_ids = [f"r{at}" for at in range(len(found))]
    rows = pa.table(
        {
            "row_id": row_ids,
            "user_id": [user for user, _ in found],
            "item_id": items_of[targets].tolist(),
            "timestamp": pa.array(np.full(len(found), HISTORY_AS_OF_US), pa.timestamp("us", "UTC")),
            "rated_at": pa.array(times[targets] * 1_000_000, pa.timestamp("us", "UTC")),
        }
    )
    own = pa.table(
        {
            "row_id": row_ids,
            "history_item_ids": items_of[before].tolist(),
            "history_labels": liked[before].tolist(),
        }
    )
    # The label of the protocol: over 3.
    rated = pa.table({"user_id": users, "item_id": items_of, "timestamp": times, "label": liked})
    ids = items.column("item_id").cast(pa.string()).to_pylist()
    return TallRec(
        rows=rows,
        labels=liked[targets],
        histories=liked[before],
        log=InteractionLog.from_histories(own, row_id="row_id", labels="history_labels"),
        ratings=InteractionLog.from_frame(rated, label="label"),
        items=items,
        titles=dict(zip(ids, items.column("ml_title").to_pylist(), strict=True)),
    )
