"""``llmfeat lift`` on logs as large as a shop's: seconds, and the memory at its peak, of the whole command.

The logs are made up, with what makes real ones hard: a few items and users have most of the events, some items none.
Nothing in them depends on a text, so that they say what a run costs and nothing else. Each run is a process of its own,
with an empty cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _report import parser, save, system, write
from check import render_results

from llmfeat.export import cached_artifact

_START_S, _SPAN_S = 1_700_000_000, 120 * 86_400
_WORDS, _WORDS_PER_TITLE = 20_000, 8
# An item's share of the events falls with its rank to this power; users' are log-normal.
_ITEM_POWER, _USER_SIGMA = 0.8, 1.0


@dataclass(frozen=True)
class Size:
    """A log to be made.

    Attributes
    ----------
    task : str
        ``click`` or ``next-item``.
    n_events, n_items, n_users : int
        How large it is.
    """

    task: str
    n_events: int
    n_items: int
    n_users: int


SIZES = (Size("click", 1_000_000, 20_000, 50_000), Size("next-item", 5_000_000, 200_000, 400_000))
_QUICK = (Size("click", 3_000, 200, 100), Size("next-item", 3_000, 300, 100))


def main() -> None:
    """Run the benchmark."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    arguments = parser(__doc__.partition("\n")[0])
    arguments.add_argument("--only", choices=["click", "next-item"], help="one task; the other stays as it is in FILE")
    options = arguments.parse_args()
    before = json.loads(options.json.read_text())["rows"] if options.only and options.json.is_file() else []
    rows = [row for row in before if row["task"] != options.only]
    for size in _QUICK if options.quick else SIZES:
        if options.only in (None, size.task):
            print(f"{size.task}: {size.n_events:,} events of {size.n_items:,} items", flush=True)
            rows.append(_measured(size))
            save(options.json, figures_of(rows), rows)
    write(options.json, figures_of(rows), rows)
    if not options.quick:
        render_results(options.json)


def write_log(size: Size, folder: Path, *, seed: int = 0) -> None:
    """Write ``items.parquet`` and ``interactions.parquet`` into a folder."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(3, 9, _WORDS)
    letters = draw.integers(ord("a"), ord("z") + 1, lengths.sum()).astype(np.uint8).tobytes().decode()
    ends = np.cumsum(lengths)
    words = [letters[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    common = 1 / np.arange(1, _WORDS + 1)
    chosen = draw.choice(_WORDS, (size.n_items, _WORDS_PER_TITLE), p=common / common.sum())
    ids = pa.array([f"sku-{item:07d}" for item in range(size.n_items)])
    titles = [" ".join(words[word] for word in row) for row in chosen.tolist()]
    pq.write_table(pa.table({"item_id": ids, "title": titles}), folder / "items.parquet")
    items = draw.permutation(size.n_items)[_drawn(draw, np.arange(1, size.n_items + 1) ** -_ITEM_POWER, size.n_events)]
    users = _drawn(draw, draw.lognormal(0, _USER_SIGMA, size.n_users), size.n_events)
    log = {
        "user_id": pa.array(users),
        "item_id": ids.take(pa.array(items)),
        "timestamp": pa.array(np.sort(draw.integers(_START_S, _START_S + _SPAN_S, size.n_events))),
    }
    if size.task == "click":
        liked = draw.normal(size=size.n_items)[items] + draw.normal(size=size.n_users)[users]
        log["label"] = pa.array((liked + draw.logistic(size=size.n_events) > 1).astype(np.int8))
    pq.write_table(pa.table(log), folder / "interactions.parquet")


def _drawn(draw: np.random.Generator, weights: Any, n: int) -> Any:
    edges = np.cumsum(weights)
    return np.minimum(np.searchsorted(edges, draw.random(n) * edges[-1]), len(edges) - 1)


def _measured(size: Size) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_log(size, folder)
        command = [str(Path(sys.executable).with_name("llmfeat")), "lift", "--task", size.task, "--text", "title"]
        command += ["--artifact", str(cached_artifact("bundled:minilm").path)]
        command += ["--items", str(folder / "items.parquet"), "--out", str(folder / "out")]
        command += ["--interactions", str(folder / "interactions.parquet")]
        command += ["--label", "label"] if size.task == "click" else []
        started = time.perf_counter()
        subprocess.run(command, check=True, env={**os.environ, "LLMFEAT_CACHE_DIR": str(folder / "cache")})
        run_s = time.perf_counter() - started
        lift = json.loads((folder / "out" / "lift.json").read_text())
    sampled = lift["data"]["sampled"]
    return {
        "task": size.task,
        "n_events": size.n_events,
        "n_items": size.n_items,
        "n_users": size.n_users,
        "run_s": run_s,
        "peak_gb": lift["cost"]["peak_rss_mb"] / 1024,
        "encode_s": lift["cost"]["encode_s"],
        "fit_s": lift["cost"]["fit_s"],
        "taught": sampled["train"],
        "tested": sampled["test"],
    }


def figures_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return minutes and memory by name."""
    figures = {}
    for row in rows:
        name = row["task"].replace("-", "_")
        figures |= {f"{name}_min": row["run_s"] / 60, f"{name}_peak_gb": row["peak_gb"]}
    return figures


def table(results: dict[str, Any]) -> str:
    """Return the page's table."""
    lines = ["| task | events | items | learned from | tested | time | memory |", "|---|---|---|---|---|---|---|"]
    for row in results["rows"]:
        used = (f"{row[part]['used']:,} of {row[part]['of']:,}" for part in ("taught", "tested"))
        time_min, memory = f"{row['run_s'] / 60:.0f} minutes", f"{row['peak_gb']:.1f} GB"
        cells = (row["task"], f"{row['n_events']:,}", f"{row['n_items']:,}", *used, time_min, memory)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{system(results['machine'])}; all-MiniLM-L6-v2."])


if __name__ == "__main__":
    main()
