"""Training rows from the store: point in time, against an as-of join and a gather by hand."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from _online_data import DIM, ITEMS, USERS, add_rows, make_repo

from llmfeat.store import FeastFeatures, view_name


def measure_historical(folder: Path, *, n_rows: int, n_items: int, n_versions: int, n_rounds: int) -> dict[str, Any]:
    """Return the seconds of both, in turn: rows of a user and an item, each with a vector of several versions."""
    draw = np.random.default_rng(0)
    tables = {name: folder / "data" / f"{name}_vectors" for name in ("item", "user")}
    for version in range(1, 1 + n_versions):
        add_rows(tables["item"], ITEMS, "i", np.arange(n_items), version)
        add_rows(tables["user"], USERS, "u", np.arange(n_items), version)
    repo = make_repo(folder, redis_at=None, users=tables["user"])
    names = {part: [f"{part[0]}{number}" for number in draw.integers(0, n_items, n_rows).tolist()] for part in tables}
    times = 1_700_000_000_000_000 + draw.integers(0, (n_versions + 1) * 1_000_000, n_rows)
    rows = pa.table(
        {
            "user_id": names["user"],
            "item_id": names["item"],
            "timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )
    views = [view_name(ITEMS), view_name(USERS, "user_vectors")]
    features = FeastFeatures(repo, views, mode="historical", max_missing_share=1.0).fit(rows)

    def plain() -> Any:
        blocks = [
            _as_of(sorted(tables[part].glob("*/*.parquet")), rows.column(f"{part}_id"), times)
            for part in ("item", "user")
        ]
        return np.concatenate(blocks, axis=1)

    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(n_rounds):
        for name, call in (("plain", plain), ("ours", lambda: features.transform(rows))):
            began = time.perf_counter()
            matrix = call()
            seconds[name].append(time.perf_counter() - began)
            if name == "plain":
                expected = matrix
    vectors = np.concatenate([matrix[:, 1 : DIM + 1], matrix[:, DIM + 2 :]], axis=1)
    assert np.array_equal(vectors, expected, equal_nan=True)
    return {
        "part": "historical",
        "n_rows": n_rows,
        "n_items": n_items,
        "n_versions": n_versions,
        "plain_s": seconds["plain"],
        "ours_s": seconds["ours"],
        "historical_over_plain": float(np.median(seconds["ours"]) / np.median(seconds["plain"])),
    }


def _as_of(files: list[Path], keys: pa.ChunkedArray, times: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the vector of each row as it was at its time: read, sort, search, gather."""
    table = pa.concat_tables([pq.read_table(file, columns=["item_id", "vector", "valid_from"]) for file in files])
    encoded = table.column("item_id").combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy().astype(np.int64)
    moments = table.column("valid_from").cast(pa.int64()).to_numpy()
    order = np.lexsort((moments, codes))
    # One number for key and moment: what is sorted by it is sorted by both.
    span = int(max(moments.max(), times.max())) - int(moments.min()) + 2
    sortable = codes[order] * span + moments[order] - moments.min()
    wanted = pc.index_in(keys.combine_chunks(), value_set=encoded.dictionary).to_numpy().astype(np.int64)
    at = np.searchsorted(sortable, wanted * span + np.maximum(times - moments.min(), -1), side="right") - 1
    found = (at >= 0) & (codes[order[np.maximum(at, 0)]] == wanted)
    _, _, data = table.column("vector").combine_chunks().buffers()  # every row has one, so they stand side by side
    vectors = np.frombuffer(data, dtype="<f4").reshape(-1, DIM)
    out = np.full((len(keys), DIM), np.nan, dtype=np.float32)
    out[found] = vectors[order[at[found]]]
    return out
