"""``llmfeat lift`` from files to ``lift.json`` and ``report.html``: read, look, encode, measure, say."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.files import atomic_write
from llmfeat._base.machine import processor_name
from llmfeat._base.progress import spinner
from llmfeat._version import __version__
from llmfeat.encode import EncodeSummary, TextEncoder, VectorTable, encode_table
from llmfeat.errors import LLMFeatWarning
from llmfeat.evaluate.arms import ARMS, HEADLINE, SLICES
from llmfeat.evaluate.examples import examples_json
from llmfeat.evaluate.inputs import Finding, InputSpec, LiftInputs, preflight, read_inputs
from llmfeat.evaluate.inputs.finding import said_share
from llmfeat.evaluate.lift import LiftResult, measure_lift
from llmfeat.evaluate.numbers import number
from llmfeat.evaluate.report import render_report
from llmfeat.evaluate.results import arms_json, importance_json, lift_json, popularity_json, runs_json, tuning_json
from llmfeat.evaluate.split import split_by_time
from llmfeat.evaluate.task import LiftConfig, LiftData
from llmfeat.evaluate.verdict import judge
from llmfeat.history import InteractionLog
from llmfeat.text import ItemTemplate
from llmfeat.types import BoolArray

__all__ = [
    "EncodedCatalogue",
    "LiftFiles",
    "encode_catalogue",
    "environment",
    "lift_body",
    "lift_data",
    "look",
    "run_lift",
    "write_lift",
]

N_EXAMPLES = 5
_SAMPLE_TEXTS = 256
_PACKAGES = ("lightgbm", "numpy", "onnxruntime", "openvino", "pyarrow", "scikit-learn", "scipy", "tokenizers")

Say = Callable[[str], None]


@dataclass(frozen=True)
class LiftFiles:
    """What a run wrote.

    Attributes
    ----------
    lift : dict
        The content of ``lift.json``.
    json_path, report_path : Path
        Where the two files are.
    """

    lift: dict[str, Any]
    json_path: Path
    report_path: Path


@dataclass(frozen=True, eq=False)
class EncodedCatalogue:
    """The items' texts and vectors, and what encoding them took.

    Attributes
    ----------
    encoder : TextEncoder
        What encoded them.
    template : ItemTemplate
        What rendered them.
    texts : list of str or None
        The text of each item.
    vectors : VectorTable
        Of all text.
    views : mapping of str to (texts, VectorTable)
        Of the first column alone, where there are several.
    summary : EncodeSummary
        Of all text.
    encode_s : float
        Seconds of all encoding.
    texts_per_s : float
        Measured on a sample that no cache held.
    """

    encoder: TextEncoder
    template: ItemTemplate
    texts: list[str | None]
    vectors: VectorTable
    views: Mapping[str, tuple[list[str | None], VectorTable]]
    summary: EncodeSummary
    encode_s: float
    texts_per_s: float


def run_lift(
    spec: InputSpec,
    config: LiftConfig,
    *,
    out: Path,
    encoder: TextEncoder,
    n_examples: int = 0,
    command: str = "",
    say: Say,
    progress: bool = True,
) -> LiftFiles:
    """Measure what text features add to somebody's own data, saying each step; write the two files into `out`.

    Parameters
    ----------
    spec : InputSpec
        The files and their columns.
    config : LiftConfig
        How the comparison is run.
    out : Path
        The folder; the vectors go beside the two files, for use in production.
    encoder : TextEncoder
        The model.
    n_examples : int, default=0
        How many users are shown; their histories are personal data.
    command : str
        What was called, for who wants to repeat it.
    say : callable
        Takes a line of text.
    progress : bool
        Whether to show bars on standard error.
    """
    started = time.perf_counter()
    with spinner("reading", shown=progress), warnings.catch_warnings():
        warnings.simplefilter("ignore", LLMFeatWarning)  # all that is handled is among the findings
        inputs = read_inputs(spec)
        findings = look(inputs, config)
    counts = f"{inputs.n_rows:,} rows, {len(inputs.item_ids):,} items, {len(inputs.user_ids):,} users"
    say(f"data        {inputs.name}: {counts}")
    for finding in findings:
        say(f"{finding.severity:<11} {finding.what}: {finding.handling}")
    catalogue = encode_catalogue(inputs, encoder, out=out / "vectors", say=say, progress=progress)
    data = lift_data(inputs, catalogue)
    result = measure_lift(data, config, progress=progress)
    say(f"arms        {sum(map(len, result.runs.values())) * len(ARMS)} fits, {result.n_fits_reused} of them reused")
    lift = lift_body(
        data, config, result, catalogue, findings=findings, n_examples=n_examples, command=command, progress=progress
    )
    lift["cost"]["total_s"] = time.perf_counter() - started
    return write_lift(lift, out)


def write_lift(lift: dict[str, Any], out: Path) -> LiftFiles:
    """Write ``lift.json`` and ``report.html``."""
    json_path, report_path = out / "lift.json", out / "report.html"
    atomic_write(json_path, (json.dumps(lift, indent=2, allow_nan=False) + "\n").encode())
    atomic_write(report_path, render_report(lift).encode())
    return LiftFiles(lift, json_path, report_path)


def look(inputs: LiftInputs, config: LiftConfig) -> list[Finding]:
    """Return what was noticed in the data, and what will hurt."""
    is_test = _is_test(inputs, config)
    findings = preflight(inputs, is_train=~is_test, is_test=is_test)
    if inputs.task == "next-item" and inputs.labels is not None and (n_left := int((inputs.labels <= 0).sum())):
        said = f"{said_share(n_left, inputs.n_rows)} rows were not liked"
        findings.append(
            Finding("negatives", "note", n_left, inputs.n_rows, said, "left out: next items are those that users like")
        )
    return findings


def _is_test(inputs: LiftInputs, config: LiftConfig) -> BoolArray:
    """Return which rows the last test is of."""
    is_test = np.zeros(inputs.n_rows, dtype=bool)
    if inputs.split is not None:
        is_test |= pc.equal(inputs.split, "test").to_numpy(zero_copy_only=False)
    else:
        assert inputs.times_us is not None, "rows without times have a split"
        is_test[split_by_time(inputs.times_us, test_fraction=config.test_fraction).test] = True
    return is_test


def encode_catalogue(
    inputs: LiftInputs, encoder: TextEncoder, *, out: Path, say: Say, progress: bool
) -> EncodedCatalogue:
    """Bring the vector tables of a catalogue up to date: of all text, and of its first column where there are more."""
    templates = {"all": inputs.template}
    first = inputs.template.fields[0]
    if inputs.task == "next-item" and len(inputs.template.fields) > 1:
        templates[first] = ItemTemplate.of_columns([first])
    started = time.perf_counter()
    found: dict[str, tuple[list[str | None], VectorTable]] = {}
    summaries: list[EncodeSummary] = []
    for name, template in templates.items():
        table = out if name == "all" else out.with_name(f"{out.name}_{name}")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*valid_from", category=LLMFeatWarning)
            summary = encode_table(
                inputs.items,
                template=template,
                encoder=encoder,
                out=table,
                item_id=inputs.items.column_names[0],
                progress=progress,
            )
        summaries.append(summary)
        texts = template.render_arrow(inputs.items, truncate=encoder.truncate).to_pylist()
        found[name] = (texts, VectorTable.open(table))
    encode_s = time.perf_counter() - started
    done, tokens = summaries[0], sum(summary.tokens for summary in summaries)
    say(
        f"encode      {done.new:,} new, {done.changed:,} changed, {done.unchanged:,} unchanged, "
        f"{done.missing:,} without text; {tokens:,} tokens in {encode_s:.1f} s with {encoder.numerics}"
    )
    texts, vectors = found.pop("all")
    return EncodedCatalogue(
        encoder, inputs.template, texts, vectors, found, done, encode_s, _texts_per_s(encoder, texts)
    )


def _texts_per_s(encoder: TextEncoder, texts: list[str | None]) -> float:
    sample = [text for text in texts if text is not None][:_SAMPLE_TEXTS]
    bare = TextEncoder(encoder.artifact, backend=encoder.backend, threads=encoder.threads)
    bare.encode(sample[:8])  # the first call opens the session
    started = time.perf_counter()
    bare.encode(sample)
    return len(sample) / (time.perf_counter() - started)


def lift_data(inputs: LiftInputs, catalogue: EncodedCatalogue) -> LiftData:
    """Return what the engine works on."""
    columns: dict[str, Any] = {"user_id": inputs.users, "item_id": inputs.row_items}
    labels = np.ones(inputs.n_rows, dtype=np.int64) if inputs.labels is None else inputs.labels
    log = None
    if inputs.times_us is not None:
        columns["timestamp"] = pa.array(inputs.times_us, pa.timestamp("us", "UTC"))
        log = InteractionLog.from_arrays(inputs.users, inputs.row_items, inputs.times_us, labels.astype(np.float32))
    if inputs.histories is not None:
        columns["history"] = inputs.histories
    return LiftData(
        rows=pa.table(columns),
        labels=labels,
        log=log,
        item_ids=inputs.item_ids,
        texts=catalogue.texts,
        vectors=catalogue.vectors,
        views=catalogue.views,
        split=inputs.split,
        own=inputs.base,
        baseline=inputs.baseline_score,
        groups=None if inputs.groups is None else inputs.groups.dictionary_encode().indices.to_numpy().astype(np.int64),
        name=inputs.name,
    )


def lift_body(
    data: LiftData,
    config: LiftConfig,
    result: LiftResult,
    catalogue: EncodedCatalogue,
    *,
    findings: list[Finding],
    n_examples: int,
    command: str,
    progress: bool,
) -> dict[str, Any]:
    """Return the content of ``lift.json``, all but the time of the whole run."""
    task = result.task
    lifts = {lag_s: lift_json(result, lag_s=lag_s) for lag_s in task.lags_s}
    gains = {lag_s: result.gain(HEADLINE, "all", task.primary, lag_s=lag_s) for lag_s in task.lags_s}
    with spinner("comparing single requests with the batch", shown=progress):
        checks = _checks(result)
    examples = None
    if n_examples:
        requests = task.requests(task.lags_s[0], n_examples)
        examples = examples_json(requests, result.fitted, data)
    return {
        "schema": 1,
        "task": config.task,
        "primary_metric": task.primary,
        "data": _data_json(data, config, result),
        "preflight": [dataclasses.asdict(finding) for finding in findings],
        "encoder": _encoder_json(catalogue),
        "candidates": task.candidates(result.predictions, result.description),
        "arms": arms_json(result),
        "lift": lifts[task.lags_s[0]],
        "lags": {str(lag_s): lift for lag_s, lift in lifts.items()} if len(lifts) > 1 else {},
        "by_popularity": popularity_json(result),
        "importance": importance_json(result),
        "examples": examples,
        "verdict": judge(gains, metric=task.primary, n_users=result.task.facts()["test_users"]),
        "cost": {
            "texts": sum(text is not None for text in data.texts),
            "encode_s": catalogue.encode_s,
            "texts_per_s": catalogue.texts_per_s,
            "fit_s": result.fit_s,
            "peak_rss_mb": _peak_rss_mb(),
            "total_s": 0.0,
        },
        "checks": checks,
        "tuning": tuning_json(result),
        "method": {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in _method(config).items()},
            "history_lag_s": config.lags_s[0],
            "intervals": "95 %, paired bootstrap over users, over items for cold items, with the training's variance",
            "command": command,
        },
        "runs": runs_json(result),
        "environment": environment(),
    }


def _method(config: LiftConfig) -> dict[str, Any]:
    return dataclasses.asdict(config)


def _data_json(data: LiftData, config: LiftConfig, result: LiftResult) -> dict[str, Any]:
    facts = result.task.facts()
    split = dict(facts.pop("split"))
    from_us = split.pop("test_from_us")
    start = None if from_us is None else datetime.datetime.fromtimestamp(from_us / 1e6, datetime.UTC)
    slices = result.task.slices(0)
    return {
        "name": data.name,
        "items": len(data.item_ids),
        **facts,
        "test_rows_by_slice": {name: int(np.count_nonzero(slices[name])) for name in SLICES},
        "items_without_text": sum(text is None for text in data.texts),
        "split": {
            **split,
            "test_from": None if start is None else start.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "test_fraction": config.test_fraction if split["by"] == "time" else None,
        },
    }


def _encoder_json(catalogue: EncodedCatalogue) -> dict[str, Any]:
    artifact = catalogue.encoder.artifact
    return {
        "model": artifact.spec.source,
        "fingerprint": artifact.fingerprint,
        "dim": artifact.spec.dim,
        "backend": catalogue.encoder.numerics,
        "template": catalogue.template.template,
        "table_fingerprint": catalogue.vectors.fingerprint,
        "parity": dict(artifact.spec.parity),
    }


def _checks(result: LiftResult) -> dict[str, Any]:
    """Return whether rows that are asked for one by one have the columns and scores that they have in a batch."""
    made = result.task.one_by_one(result.task.lags_s[0])
    arm = result.fitted["hybrid"]
    together, alone = (columns.matrix(ARMS["hybrid"]) for columns in (made.together, made.one_by_one))
    scores = [arm.scores(matrix).tobytes() for matrix in (together, alone)]
    return {
        "online_equals_offline": together.tobytes() == alone.tobytes() and scores[0] == scores[1],
        "rows_compared": len(together),
        "columns_compared": together.shape[1],
        "requests": made.n_requests,
    }


def environment() -> dict[str, Any]:
    """Return the machine, and the versions of what computed."""
    installed = {dist.name.lower().replace("_", "-"): dist.version for dist in importlib.metadata.distributions()}
    return {
        "llmfeat": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "processor": processor_name(),
        **{name: installed[name] for name in _PACKAGES if name in installed},
    }


def _peak_rss_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return number(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)) or 0.0
