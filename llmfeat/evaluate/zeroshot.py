"""``llmfeat zeroshot``: a language model that learned nothing here, as a ranker, beside controls on the same rows."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.files import atomic_write
from llmfeat._base.ids import IdIndex
from llmfeat._base.progress import spinner
from llmfeat.encode import TextEncoder, VectorTable
from llmfeat.encode.lm import PromptScorer
from llmfeat.evaluate.inputs import InputSpec, LiftInputs, read_inputs
from llmfeat.evaluate.metrics import Estimate, Resamples, interval, measure
from llmfeat.evaluate.numbers import interval_json, number
from llmfeat.evaluate.split import TimeSplit, split_by_time
from llmfeat.evaluate.zeroshot_rows import AskedRows, ZeroshotConfig, asked_rows, codes_of, times_of
from llmfeat.features import HistoryFeatures
from llmfeat.history import AsOfIndex, InteractionLog
from llmfeat.rank.llm import LLMRanking, LLMScorer, usual_prompt
from llmfeat.text import PreferencePrompt
from llmfeat.types import Float32Array, Float64Array, Int64Array

__all__ = ["ARMS", "METRICS", "ListeningScorer", "ZeroshotConfig", "remarks", "run_zeroshot", "write_zeroshot"]

ARMS = ("random", "popularity", "cosine", "llm")
METRICS = ("auc", "user_auc", "ndcg@10")
_CONTROLS = ("cosine", "popularity")
_LEAST_SHARE, _LEAST_USERS = 0.5, 30

Say = Callable[[str], None]


class ListeningScorer(PromptScorer):
    """A `PromptScorer` that keeps how probable it was, for each prompt, that the model gives an answer at all.

    Attributes
    ----------
    shares : list of ndarray of float32
        P(yes) + P(no) of the prompts, an array for each call.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.shares: list[Float32Array] = []

    def log_probs(self, *args: Any, **options: Any) -> Float32Array:
        """See `PromptScorer.log_probs`."""
        found = super().log_probs(*args, **options)
        self.shares.append(np.exp(found).sum(axis=1))
        return found

    def answer_share(self) -> float:
        """Return the mean of `shares`; NaN where nothing was asked."""
        return float(np.concatenate(self.shares).mean()) if sum(map(len, self.shares)) else float("nan")


def run_zeroshot(
    spec: InputSpec,
    config: ZeroshotConfig,
    *,
    scorer: ListeningScorer,
    encoder: TextEncoder,
    prompt: PreferencePrompt | None = None,
    say: Say,
    progress: bool = True,
) -> dict[str, Any]:
    """Return the content of ``zeroshot.json``: how well a model ranks the test of somebody's own data, untrained.

    Parameters
    ----------
    spec : InputSpec
        The files and their columns; with the task ``next-item`` all events are positives, and negatives are drawn.
    config : ZeroshotConfig
        Which rows.
    scorer : ListeningScorer
        The language model.
    encoder : TextEncoder
        What the arm ``cosine`` compares items by.
    prompt : PreferencePrompt, optional
        What is asked; as in `LLMScorer` by default.
    say : callable
        Takes a line of text.
    progress : bool, default=True
        Whether to show bars on standard error.

    Raises
    ------
    InputError
        When the files, or their options, cannot be worked with; the test is empty, or its labels are all the same.
    BackendError
        When the model cannot be run.
    """
    prompt = prompt or usual_prompt(scorer)
    inputs = _read(spec, say, progress=progress)
    split = split_by_time(times_of(inputs), test_fraction=config.test_fraction)
    texts = inputs.template.render_arrow(inputs.items, truncate=encoder.truncate)
    rows = asked_rows(inputs, split.test, texts.is_valid().to_numpy(zero_copy_only=False), config)
    say(f"rows        {len(rows.labels):,} of {len(rows.users.unique()):,} users, {int(rows.labels.sum()):,} positive")
    log, frame, needed = _log(inputs), rows.frame(spec), _needed(inputs, rows)
    vectors = _vectors(inputs.item_ids.take(needed), texts.take(needed), encoder, progress=progress)
    looking_back = _looking_back(spec, config)
    ranker = LLMScorer(
        log,
        scorer,
        inputs.items.take(needed),
        item_template=inputs.template,
        prompt=prompt,
        calibration=None,
        verbose=progress,
        **looking_back,
    )
    ranking, seconds = _asked(ranker, scorer, frame)
    scores = {
        "random": np.random.default_rng([config.seed, 1]).random(len(rows.labels)),
        "popularity": _popularity(log, rows, config),
        "cosine": _cosine(log, vectors, frame, looking_back),
        "llm": ranking.log_odds.astype(np.float64),
    }
    found = _measured(scores, rows, config)
    return {
        "schema": 1,
        "data": _data_json(inputs, split, rows),
        "model": _model_json(scorer, encoder, prompt),
        "arms": {arm: {name: _value_json(each) for name, each in found[arm].items()} for arm in ARMS},
        "differences": {
            f"llm_vs_{arm}": {name: interval_json(found["llm"][name] - found[arm][name]) for name in METRICS}
            for arm in _CONTROLS
        },
        "counts": _counts_json(log, rows, ranking, config),
        "cost": _cost_json(scorer, seconds),
        "method": asdict(config),
    }


def write_zeroshot(body: Mapping[str, Any], out: Path) -> Path:
    """Write ``zeroshot.json`` into a folder, and return its path."""
    path = out / "zeroshot.json"
    atomic_write(path, (json.dumps(body, indent=2, allow_nan=False) + "\n").encode())
    return path


def remarks(body: Mapping[str, Any]) -> list[str]:
    """Return what a reader of the figures must know, a sentence each."""
    counts, auc, share = body["counts"], body["arms"]["llm"]["auc"], body["model"]["answer_share"]
    said = []
    if counts["users"] < _LEAST_USERS:
        few = f"{counts['users']} user{'s' * (counts['users'] > 1)}"
        said.append(f"the rows are of {few} only, which tells little of others: raise --rows")
    if auc["ci95"][1] is not None and auc["ci95"][1] < 0.5:
        said.append(
            f"the model is worse than chance here (auc {auc['value']:.3f}, all of its interval below 0.5): its scores "
            "are worth inverting, which LLMScorer.fit does where it is given labels"
        )
    if share is not None and share < _LEAST_SHARE:
        said.append(
            f"only {share:.1%} of the probability is on the answers, the model would say something else: try other "
            "words (--yes, --no), another prompt, or a model that follows instructions"
        )
    if counts["without_text"]:
        said.append(f"{counts['without_text']:,} candidates have no text: the model was not asked, they come last")
    if counts["without_history"]:
        said.append(f"{counts['without_history']:,} rows are of users without an earlier event")
    if counts["prompts_cut"]:
        said.append(
            f"{counts['prompts_cut']:,} prompts had no room for the whole history: {counts['items_dropped']:,} items, "
            "the oldest, were left out"
        )
    return said


def _read(spec: InputSpec, say: Say, *, progress: bool) -> LiftInputs:
    """Return the files' content, having said what was noticed in them."""
    with spinner("reading", shown=progress):
        inputs = read_inputs(spec)
    counts = f"{inputs.n_rows:,} rows, {len(inputs.item_ids):,} items, {len(inputs.user_ids):,} users"
    say(f"data        {inputs.name}: {counts}")
    for finding in inputs.findings:
        say(f"{finding.severity:<11} {finding.what}: {finding.handling}")
    return inputs


def _log(inputs: LiftInputs) -> InteractionLog:
    labels = np.ones(inputs.n_rows, dtype=np.float32) if inputs.labels is None else inputs.labels.astype(np.float32)
    return InteractionLog.from_arrays(inputs.users, inputs.row_items, times_of(inputs), labels)


def _asked(ranker: LLMScorer, scorer: ListeningScorer, frame: pa.Table) -> tuple[LLMRanking, float]:
    """Return what the model says of rows, and the seconds that it took, without those of opening it."""
    scorer.numerics  # noqa: B018  opens it
    started = time.perf_counter()
    ranking = ranker.fit(frame).rank(frame)
    return ranking, time.perf_counter() - started


def _needed(inputs: LiftInputs, rows: AskedRows) -> pa.Array:
    """Return the places in the catalogue of the candidates, and of all that their users ever had an event with."""
    is_theirs = pc.is_in(inputs.users, value_set=rows.users.unique())
    ids = pa.concat_arrays([rows.items, inputs.row_items.filter(is_theirs)]).unique()
    return pa.array(np.sort(IdIndex(inputs.item_ids).positions(ids)))


def _vectors(ids: pa.StringArray, texts: pa.Array, encoder: TextEncoder, *, progress: bool) -> VectorTable:
    there = texts.is_valid().to_numpy(zero_copy_only=False)
    vectors = np.full((len(ids), encoder.dim), np.nan, dtype=np.float32)
    if there.any():
        vectors[there] = encoder.encode(texts.drop_null().to_pylist(), progress=progress)
    return VectorTable.from_arrays(ids, vectors)


def _looking_back(spec: InputSpec, config: ZeroshotConfig) -> dict[str, Any]:
    """Return what the arms that look back have in common."""
    names = {"user_id": spec.user_id, "item_id": spec.item_id, "timestamp": spec.timestamp}
    return {**names, "history_lag_s": config.history_lag_s}


def _as_of_us(rows: AskedRows, config: ZeroshotConfig) -> Int64Array:
    return rows.times_us - round(config.history_lag_s * 1e6)


def _popularity(log: InteractionLog, rows: AskedRows, config: ZeroshotConfig) -> Float64Array:
    """Return the positives of each row's item, strictly before the row."""
    liked = np.flatnonzero(log.labels > 0)
    index = AsOfIndex(log.item_codes[liked], log.times_us[liked], len(log.item_ids))
    codes = log.item_code(rows.items)
    return (index.before(codes, _as_of_us(rows, config)) - index.first(codes)).astype(np.float64)


def _cosine(log: InteractionLog, vectors: VectorTable, frame: pa.Table, shared: dict[str, Any]) -> Float64Array:
    """Return the mean cosine of each row's item to what its user liked, strictly before the row; NaN without either."""
    features = HistoryFeatures(log, {"text": vectors}, statistics=("mean",), sides=("pos",), **shared)
    return features.fit(frame).transform(frame)[:, 0].astype(np.float64)


def _measured(
    scores: Mapping[str, Float64Array], rows: AskedRows, config: ZeroshotConfig
) -> dict[str, dict[str, Estimate]]:
    users = codes_of(rows.users)
    n_users = int(users.max()) + 1
    # One user is in every resample: an interval of no width would be a lie.
    resamples = Resamples.draw(n_users, n_resamples=config.n_resamples if n_users > 1 else 0, seed=config.seed)
    found = {arm: measure(each, rows.labels, users, resamples, groups=rows.groups) for arm, each in scores.items()}
    return {arm: {name: estimates[name] for name in METRICS} for arm, estimates in found.items()}


def _value_json(estimate: Estimate) -> dict[str, Any]:
    return {"value": number(estimate.point), "ci95": [number(end) for end in interval(estimate)]}


def _data_json(inputs: LiftInputs, split: TimeSplit, rows: AskedRows) -> dict[str, Any]:
    start = datetime.datetime.fromtimestamp(split.cut_us / 1e6, datetime.UTC)
    return {
        "name": inputs.name,
        "rows": inputs.n_rows,
        "items": len(inputs.item_ids),
        "users": len(inputs.user_ids),
        "test_rows": len(split.test),
        "test_from": start.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "negatives": "labels" if rows.groups is None else "drawn",
    }


def _model_json(scorer: ListeningScorer, encoder: TextEncoder, prompt: PreferencePrompt) -> dict[str, Any]:
    def model(of: PromptScorer | TextEncoder) -> dict[str, Any]:
        return {"model": of.artifact.spec.source, "fingerprint": of.artifact.fingerprint, "backend": of.numerics}

    return {
        **model(scorer),
        "answers": asdict(scorer.answers),
        "answer_share": number(scorer.answer_share()),
        "prompt": asdict(prompt),
        "encoder": model(encoder),
    }


def _counts_json(log: InteractionLog, rows: AskedRows, ranking: LLMRanking, config: ZeroshotConfig) -> dict[str, int]:
    start, stop = log.windows(rows.users, _as_of_us(rows, config))
    n_users = len(rows.users.unique())
    dropped = ranking.n_dropped[ranking.is_scored]
    return {
        "rows": len(rows.labels),
        "users": n_users,
        "groups": n_users if rows.groups is None else len(np.unique(rows.groups)),
        "positives": int(rows.labels.sum()),
        "without_text": int((~ranking.is_scored).sum()),
        "without_history": int((start == stop).sum()),
        "prompts_cut": int((dropped > 0).sum()),
        "items_dropped": int(dropped.sum()),
    }


def _cost_json(scorer: ListeningScorer, seconds: float) -> dict[str, Any]:
    tally = scorer.tally
    n_run = tally.prompts - tally.cached
    return {
        "prompts": tally.prompts,
        "cached": tally.cached,
        "tokens": tally.tokens,
        "computed": tally.computed,
        "seconds": seconds,
        "prompts_per_s": n_run / seconds if n_run else None,
    }
