"""The feature store at work: requests read, ranked, written, killed; SQLite and Redis, each figure the worse of both.

Data are made up. Redis is started on a spare port; without it this ends with status 2.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _online_data import STORES, redis_server, redis_version
from _online_history import measure_historical
from _online_ranker import measure_ranker
from _online_reads import measure_reads
from _online_writes import measure_kills, measure_materialize, measure_readers
from _report import arguments, save, system, write
from check import render_results

# What is better when it is larger; of everything else the larger one is the worse.
_LARGER_IS_BETTER = frozenset(["vs_feast_to_dict", "materialize_speedup"])
FIGURES = (
    "vs_feast_to_dict",
    "warm_cache_ms",
    "online_p99_ms",
    "over_feast_share",
    "materialize_speedup",
    "reader_failures",
    "kill_rows_wrong",
    "historical_over_plain",
)


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__)
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, redis_server(Path(name)) as redis_at:
        for row in _measured(Path(name), redis_at, quick=options.quick):
            rows.append(row)
            print({key: value for key, value in row.items() if not isinstance(value, dict)}, flush=True)
            save(options.json, figures_of(rows), rows)  # what was measured stays, whatever comes
    rows.append({"part": "redis", "version": redis_version()})
    write(options.json, figures_of(rows), rows)
    if not options.quick:
        render_results(options.json)


def _measured(folder: Path, redis_at: str, *, quick: bool) -> Iterator[dict[str, Any]]:
    n_requests = 40 if quick else 2000
    for store in STORES:
        yield measure_reads(
            store, folder / f"reads_{store}", redis_at, n_items=300 if quick else 20_000, n_requests=n_requests
        )
        yield measure_ranker(
            store, folder / f"ranker_{store}", redis_at, n_items=200 if quick else 20_000, n_requests=n_requests
        )
        yield measure_materialize(
            store,
            folder / f"writes_{store}",
            redis_at,
            n_rows=500 if quick else 100_000,
            n_rounds=1 if quick else 3,
        )
        if quick and store == "redis":  # processes of their own take seconds to begin
            continue
        yield measure_readers(
            store,
            folder / f"readers_{store}",
            redis_at,
            n_rows=200 if quick else 20_000,
            n_readers=2 if quick else 8,
            seconds=0.5 if quick else 120,
        )
        yield measure_kills(
            store, folder / f"kills_{store}", redis_at, n_rows=200 if quick else 20_000, n_kills=1 if quick else 20
        )
    yield measure_historical(
        folder / "historical",
        n_rows=500 if quick else 100_000,
        n_items=100 if quick else 10_000,
        n_versions=3,
        n_rounds=1 if quick else 5,
    )


def figures_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return each figure, the worse of the two stores."""
    figures: dict[str, float] = {}
    for name in FIGURES:
        values = [float(row[name]) for row in rows if name in row]
        if values:
            figures[name] = min(values) if name in _LARGER_IS_BETTER else max(values)
    return figures


def table(results: dict[str, Any]) -> str:
    """Return the page's tables: a request's reads, then rankings, then writes."""
    by = {(row["part"], row.get("store")): row for row in results["rows"]}
    lines = ["| 1 user and 100 candidates of 384 dimensions | SQLite, p50 / p99 | Redis, p50 / p99 |", "|---|---|---|"]
    reads = {
        "bare": "the bytes alone, from a table of keys and values (`SELECT`, `MGET`)",
        "get_online_features": "Feast's `get_online_features`, vectors as `Bytes`, not decoded",
        "feast_to_dict": "Feast's `get_online_features(...).to_dict()`, vectors as `Array(Float32)`",
        "feast_features": "`FeastFeatures.transform`, to a numpy matrix",
        "warm_cache": "`ItemCache`, all of them in this process",
    }
    for name, what in reads.items():
        cells = [
            f"{by['reads', store]['p50_ms'][name]:.2f} / {by['reads', store]['p99_ms'][name]:.2f} ms"
            for store in STORES
        ]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    rankings = {
        "clients_1": "`OnlineRanker.rank`, one client",
        "clients_8": "8 clients at once, in one process",
        "clients_32": "32 clients at once",
        "store_1_ms_later": "one client, every call of the store 1 ms later",
        "cold": "one client, no vector in this process",
    }
    for name, what in rankings.items():
        cells = [
            f"{by['ranker', store]['requests'][name]['p50_ms']:.2f} / "
            f"{by['ranker', store]['requests'][name]['p99_ms']:.2f} ms"
            for store in STORES
        ]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    lines += ["", "| writing | SQLite | Redis |", "|---|---|---|"]
    writes = [by["materialize", store] for store in STORES]
    kills, readers = ([by[part, store] for store in STORES] for part in ("kills", "readers"))
    n_rows = f"{writes[0]['n_rows']:,}"
    for what, cells in (
        (f"{n_rows} changed rows, Feast's `materialize` from a file", [_median(one["feast_s"]) for one in writes]),
        (f"{n_rows} changed rows, `llmfeat materialize`, read back", [_median(one["ours_s"]) for one in writes]),
        ("nothing changed", [f"{one['nothing_changed_s']:.2f} s" for one in writes]),
        (
            f"reads that failed, of {readers[0]['n_readers']} processes while one writes",
            [f"{one['reader_failures']} of {one['n_reads']:,}" for one in readers],
        ),
        (
            f"rows lost, stale or mixed after {kills[0]['n_kills']} kills",
            [f"{one['kill_rows_wrong']}" for one in kills],
        ),
    ):
        lines.append(f"| {what} | {' | '.join(cells)} |")
    versions = results["versions"]
    history = by["historical", None]
    redis_said = next(row["version"] for row in results["rows"] if row["part"] == "redis")
    return "\n".join(
        [
            *lines,
            "",
            f"A training set of {history['n_rows']:,} rows, each with the vectors of its user and its item as they "
            f"were, takes {history['historical_over_plain']:.2f} times as long as an as-of join and a gather by hand "
            f"({_median(history['ours_s'])} against {_median(history['plain_s'])}).",
            "",
            f"{system(results['machine'])}; Feast {versions['feast']}, LightGBM {versions['lightgbm']} with 300 trees, "
            f"Redis {redis_said} on the same machine.",
        ]
    )


def _median(seconds: list[float]) -> str:
    return f"{sorted(seconds)[len(seconds) // 2]:.2f} s"


if __name__ == "__main__":
    main()
