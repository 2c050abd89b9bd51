"""Speed of the similarity features: rows per second offline, milliseconds per request, ratio to the bare product.

Synthetic histories of 50 events and vectors of 384 dimensions; medians of repeated, interleaved runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from _report import arguments, write

from llmfeat.features._kernel import History, KernelSpec, similarity_features

DIM = 384
N_ITEMS = 20_000
EVENTS_PER_USER = 150
ROWS_PER_USER = 100
N_CANDIDATES = 200


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__)
    n_users, n_repeats = (20, 2) if options.quick else (1000, 7)
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((N_ITEMS, DIM)).astype(np.float32)
    n_events = n_users * EVENTS_PER_USER
    history = History(draw.integers(0, N_ITEMS, n_events), draw.integers(0, 2, n_events).astype(np.float32))
    users = np.repeat(np.arange(n_users), ROWS_PER_USER)
    first = users * EVENTS_PER_USER
    stop = first + draw.integers(0, EVENTS_PER_USER + 1, len(users))
    candidates = draw.integers(0, N_ITEMS, len(users))
    spec = KernelSpec()
    window = vectors[: spec.max_events].T.copy()
    blocks = [vectors[candidates[at : at + ROWS_PER_USER]] for at in range(0, len(users), ROWS_PER_USER)]
    asked = slice(0, N_CANDIDATES)
    request = vectors[candidates[asked]], np.zeros(N_CANDIDATES, np.int64)
    events = History(draw.integers(0, N_CANDIDATES, spec.max_events), history.labels[: spec.max_events])
    full = np.full(N_CANDIDATES, spec.max_events)

    def offline() -> None:
        similarity_features(vectors, candidates, first, stop, history, spec)

    def bare_product() -> None:
        for block in blocks:
            block @ window

    def one_request() -> None:
        similarity_features(request[0], np.arange(N_CANDIDATES), request[1], full, events, spec)

    seconds: dict[str, list[float]] = {"offline": [], "bare_product": [], "one_request": []}
    tasks: dict[str, Callable[[], None]] = {
        "offline": offline,
        "bare_product": bare_product,
        "one_request": one_request,
    }
    for task in tasks.values():
        task()
    for _ in range(n_repeats):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(runs) for name, runs in seconds.items()}
    figures = {
        "rows_per_s": len(users) / median["offline"],
        "request_ms": 1000 * median["one_request"],
        "over_bare_product": median["offline"] / median["bare_product"],
    }
    rows = [{"task": name, "seconds": runs, "n_rows": len(users)} for name, runs in seconds.items()]
    write(options.json, figures, rows)


if __name__ == "__main__":
    main()
