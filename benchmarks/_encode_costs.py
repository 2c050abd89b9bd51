"""What users pay beside the model: a cache's second call, a night with few changes, memory over a million rows."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _encode_inside import seconds
from _texts import make_texts

N_TABLE, N_SAMPLE, N_CACHED, N_CACHED_FIRST = 1_000_000, 20_000, 100_000, 10_000
Rows = list[dict[str, Any]]


def cached(artifact: Any, numerics: str, folder: Path, shrink: int, rows: Rows) -> dict[str, float]:
    """Return how much faster a second call is, when the cache holds all of a hundred thousand texts."""
    from llmfeat import TextEncoder

    n_texts, n_first = N_CACHED // shrink, N_CACHED_FIRST // shrink
    texts = list(dict.fromkeys(make_texts(artifact.tokenizer_path, n_texts=n_texts, mean_tokens=12, seed=8)))
    encoder = TextEncoder(artifact, backend=numerics, cache=folder / "cache")
    encoder.encode(texts[-64:])
    first_s = seconds(lambda: encoder.encode(texts[:n_first])) * len(texts) / n_first
    encoder.encode(texts)
    before = encoder.tally.tokens
    again_s = statistics.median(seconds(lambda: encoder.encode(texts)) for _ in range(5))
    if encoder.tally.tokens != before:
        raise RuntimeError("the cache did not hold what it was given")
    rows.append({"what": "cache", "n_texts": len(texts), "first_extrapolated_s": first_s, "again_s": again_s})
    return {"cached_speedup": first_s / again_s}


def changed(artifact: Any, numerics: str, folder: Path, shrink: int, rows: Rows) -> dict[str, float]:
    """Return what a night's run costs when one row in a hundred changed, against encoding all.

    The whole table is filled with vectors that no model computed, since only their number matters; the full run is
    extrapolated from the first rows, the night's run is measured.
    """
    import pyarrow.parquet as pq

    from llmfeat import ItemTemplate, TextEncoder, encode_table

    n_rows, n_sample = N_TABLE // shrink, N_SAMPLE // shrink
    items = _catalogue(artifact, n_rows)
    changed = items["title"].to_numpy(zero_copy_only=False).copy()
    changed[::100] += " again"
    for name, titles in (("old", items["title"]), ("new", changed), ("sample", items["title"][:n_sample])):
        ids, known = items["item_id"][: len(titles)], items["valid_from"][: len(titles)]
        pq.write_table(_table(ids, titles, known), folder / f"{name}.parquet")
    settings = {"template": ItemTemplate("{title}"), "valid_from": "valid_from"}
    instant = TextEncoder(artifact, backend=numerics)
    instant._backend.run = _instant(artifact.spec.dim)
    fill_s = seconds(lambda: encode_table(folder / "old.parquet", encoder=instant, out=folder / "t", **settings))
    encoder = TextEncoder(artifact, backend=numerics)
    encoder.encode(changed[:64].tolist())
    full_s = (
        n_rows
        / n_sample
        * seconds(lambda: encode_table(folder / "sample.parquet", encoder=encoder, out=folder / "sample", **settings))
    )
    unchanged_s = seconds(lambda: encode_table(folder / "old.parquet", encoder=encoder, out=folder / "t", **settings))
    summary = encode_table(folder / "new.parquet", encoder=encoder, out=folder / "t", **settings)
    if summary.changed != len(changed[::100]) or summary.unchanged != n_rows - summary.changed:
        raise RuntimeError(f"the table saw {summary.changed} changed rows of {n_rows}")
    rows.append(
        {
            "what": "table",
            "n_rows": n_rows,
            "full_extrapolated_s": full_s,
            "one_percent_s": summary.seconds,
            "unchanged_s": unchanged_s,
            "fill_without_model_s": fill_s,
        }
    )
    return {"changed_1pct_share": summary.seconds / full_s}


def _instant(dim: int) -> Callable[..., Any]:
    draw = np.random.default_rng(0).standard_normal((8192, dim)).astype(np.float32)
    return lambda ids, mask, prompt_tokens: draw[: len(ids)]


def _catalogue(artifact: Any, n_rows: int) -> Any:
    """Return `n_rows` different short titles: some thousands, each with every number up to what is needed."""
    titles = make_texts(artifact.tokenizer_path, n_texts=min(n_rows, 20_000), mean_tokens=11, seed=9)
    many = [f"{titles[at % len(titles)]} {at // len(titles)}" for at in range(n_rows)]
    return _table([str(at) for at in range(n_rows)], many, np.zeros(n_rows, dtype=np.int64))


def _table(ids: Any, titles: Any, known: Any) -> Any:
    import pyarrow as pa

    moments = known if isinstance(known, pa.ChunkedArray) else pa.array(known, pa.timestamp("us", "UTC"))
    return pa.table({"item_id": ids, "title": titles, "valid_from": moments})


def memory(folder: Path, shrink: int, rows: Rows) -> dict[str, float]:
    """Return the peak memory of encoding a million rows with a tiny model, over what the model itself takes."""
    import pyarrow.parquet as pq

    from llmfeat import export_model
    from tests.tiny_models import save_tiny

    artifact = export_model(save_tiny("bert", folder / "tiny"), folder / "tiny-artifact")
    peaks = {}
    for n_rows in (N_TABLE // shrink // 10, N_TABLE // shrink):
        path = folder / f"{n_rows}.parquet"
        pq.write_table(_catalogue(artifact, n_rows), path)
        command = [sys.executable, __file__, artifact.path, path, folder / f"{n_rows}.t"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[n_rows] = float(done.stdout)
        rows.append({"what": "memory", "n_rows": n_rows, "peak_mb": peaks[n_rows]})
    return {"peak_mb": max(peaks.values())}


def _encode_table_alone(artifact: str, items: str, out: str) -> None:
    """Print the peak of this process while it encodes a table, over what it takes with an open model, in MB."""
    from llmfeat import ItemTemplate, TextEncoder, encode_table

    encoder = TextEncoder(artifact)
    encoder.encode([f"heat {at}" for at in range(256)])
    before = _status_mb("VmRSS")
    encode_table(items, template=ItemTemplate("{title}"), encoder=encoder, out=out, valid_from="valid_from")
    print(_status_mb("VmHWM") - before)


def _status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(name))


if __name__ == "__main__":  # a process of its own, so that its peak is its own
    _encode_table_alone(*sys.argv[1:])
