"""Whether the verdict of ``llmfeat lift`` can be trusted: on made-up logs, of which it is known what text is worth.

For each task and each level of the planted effect, logs of different seeds are compared as people's are. At no effect a
"yes" is false, at a large one everything else is.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from _report import parser, save, system, write
from _synthetic import EFFECTS, TASKS, make_log
from check import render_results

from llmfeat import InteractionLog
from llmfeat._base.frames import id_column
from llmfeat.evaluate import LiftConfig, LiftData, measure_lift
from llmfeat.evaluate.arms import HEADLINE
from llmfeat.evaluate.metrics import interval
from llmfeat.evaluate.verdict import judge

# Logs of next items take ten times as long as those of clicks: smaller ones, and fewer of them where text is of use. A
# large effect must be found in logs of the usual size; in the smaller ones it was found in two of six.
_N_LOGS = {"click": {"zero": 20, "small": 20, "large": 20}, "next-item": {"zero": 20, "small": 10, "large": 8}}
_SMALLER = {"n_users": 200, "n_items": 150, "n_events_per_user": 15}
_QUERIES = {"most_train_contexts": 500, "most_test_queries": 500}
_N_RESAMPLES = 500


def main() -> None:
    """Run the benchmark."""
    arguments = parser(__doc__.partition("\n")[0])
    arguments.add_argument("--only", choices=TASKS, help="one task; the rows of the other stay as they are in FILE")
    arguments.add_argument("--level", choices=EFFECTS["click"], help="with --only: of that task one level")
    options = arguments.parse_args()
    before = json.loads(options.json.read_text())["rows"] if options.only and options.json.is_file() else []
    kept = {(row["task"], row["level"]) for row in before if options.only != row["task"]}
    if options.level:
        kept |= {(row["task"], row["level"]) for row in before if row["level"] != options.level}
    rows: list[dict[str, Any]] = [row for row in before if (row["task"], row["level"]) in kept]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLMFEAT_CACHE_DIR"] = folder
        for task in TASKS if options.only is None else [options.only]:
            for level in ["large"] if options.quick else [options.level] if options.level else EFFECTS[task]:
                seeds = range(1 if options.quick else _N_LOGS[task][level])
                rows += [_judged(task, level, seed, quick=options.quick) for seed in seeds]
                save(options.json, figures_of(rows), rows)
    write(options.json, figures_of(rows), rows)
    if not options.quick:
        render_results(options.json)


def lift_data(task: str, level: str, seed: int, **sizes: int) -> LiftData:
    """Return a made-up log as the engine takes it."""
    made = make_log(task, EFFECTS[task][level], seed, **sizes)
    log = made.interactions
    ids = {name: id_column(log, name, what="the log") for name in ("user_id", "item_id")}
    moments = log.column("timestamp").cast(pa.timestamp("us", "UTC"))
    is_click = task == "click"
    labels = log.column("label").to_numpy().astype(np.int64) if is_click else np.ones(len(log), dtype=np.int64)
    times_us = moments.cast(pa.int64()).to_numpy()
    return LiftData(
        rows=pa.table({**ids, "timestamp": moments}),
        labels=labels,
        log=InteractionLog.from_arrays(ids["user_id"], ids["item_id"], times_us, labels.astype(np.float32)),
        item_ids=id_column(made.items, "item_id", what="the items"),
        texts=made.items.column("title").to_pylist(),
        vectors=made.vectors,
    )


def _judged(task: str, level: str, seed: int, *, quick: bool) -> dict[str, Any]:
    started = time.perf_counter()
    is_smaller = task == "next-item" and level != "large"
    sizes = {"n_users": 60, "n_items": 60, "n_events_per_user": 10} if quick else _SMALLER if is_smaller else {}
    queries = _QUERIES if is_smaller or quick else {}
    config = LiftConfig(task=task, lags_s=(0,), n_resamples=_N_RESAMPLES, seed=seed, **queries)
    result = measure_lift(lift_data(task, level, seed, **sizes), config)
    gain = result.gain(HEADLINE, "all", result.task.primary)
    low, high = interval(gain)
    n_users = result.task.facts()["test_users"]
    verdict = judge({0: gain}, metric=result.task.primary, n_users=n_users)
    row = {"task": task, "level": level, "seed": seed, "adopt": verdict["adopt"], "gain": [gain.point, low, high]}
    print(*row.values(), f"{time.perf_counter() - started:.0f} s", flush=True)
    return row


def figures_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the share of each verdict, by task and level."""
    figures: dict[str, float] = {}
    for task in TASKS:
        for level in EFFECTS[task]:
            found = Counter(row["adopt"] for row in rows if (row["task"], row["level"]) == (task, level))
            name = f"{task.replace('-', '_')}_{level}"
            figures |= {f"{name}_{adopt}": found[adopt] for adopt in ("yes", "no", "underpowered")}
    return figures


def table(results: dict[str, Any]) -> str:
    """Return the table of the docs."""
    lines = ["| task | planted effect | logs | yes | no | underpowered | mean gain |", "|---|---|---|---|---|---|---|"]
    for task in TASKS:
        for level in EFFECTS[task]:
            rows = [row for row in results["rows"] if (row["task"], row["level"]) == (task, level)]
            found = Counter(row["adopt"] for row in rows)
            counts = " | ".join(str(found[adopt]) for adopt in ("yes", "no", "underpowered"))
            mean = np.mean([row["gain"][0] for row in rows])
            lines.append(f"| {task} | {level} | {len(rows)} | {counts} | {mean:+.4f} |")
    return "\n".join([*lines, "", f"{system(results['machine'])}."])


if __name__ == "__main__":
    main()
