"""How good the LLM scorer is on TALLRec's movie protocol: as it comes, adapted to few and to all rows, and stacked."""

from __future__ import annotations

import time
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
from _ml100k import PARAMETERS, TEMPLATE
from _tallrec import APART, PROMPT, QUESTION, TallRec
from sklearn.metrics import roc_auc_score

from llmfeat import ActivityFeatures, HistoryFeatures, LLMScorer, PreferencePrompt, TextEncoder, VectorTable
from llmfeat._base.frames import id_column
from llmfeat.artifact import ModelArtifact
from llmfeat.evaluate.controls import tfidf_vectors
from llmfeat.evaluate.metrics import Resamples, interval, measure
from llmfeat.export import Lora, cached_artifact
from llmfeat.rank.scorers.crossfit import user_folds

__all__ = ["measure_controls", "measure_full", "measure_shots", "measure_stacked", "measure_zero_shot"]

N_SHOTS, N_HELD_OUT, N_STACKED = 256, 256, 3000
# The shots come from the users of one fold; what is stacked on their model learns from the others.
_N_FOLDS = 3
_SHOTS = Lora(learning_rate=3e-4)  # of two rates that were tried on the validation split
# Tried once, as it is: only the epoch is chosen, by the loss on the rows held out.
_FULL = Lora(learning_rate=5e-4, epochs=3, batch_rows=16)
_SEEDS = range(5)
_N_TREES = 100


def measure_zero_shot(artifact: ModelArtifact, tallrec: TallRec, *, quick: bool) -> dict[str, Any]:
    """Return the AUC of the model as it comes, and of its scores calibrated on rows of the validation split."""
    parts = tallrec.parts
    known = _some(parts["valid"], N_HELD_OUT)
    scorer = _scorer(artifact, tallrec).fit(tallrec.take(known), tallrec.labels[known])
    log_odds = scorer.log_odds(tallrec.take(parts["test"]))
    raw = _auc(tallrec, log_odds)
    others = {
        name: _auc(tallrec, _zero_shot(artifact, tallrec, prompt))
        for name, prompt in (("in two lists, liked and disliked", APART), ("as a question in a chat", QUESTION))
    }
    calibrated = _auc(tallrec, scorer.calibrator_.decision(log_odds))
    return {
        "auc_zero_shot": calibrated,
        "aucs": {
            "the model as it comes": raw,
            **{f"the model as it comes, asked {name}": auc for name, auc in others.items()},
            f"calibrated on {len(known)} rows of the validation split": calibrated,
        },
        "is_turned": scorer.calibrator_.sign_ < 0,
    }


def measure_shots(artifact: ModelArtifact, tallrec: TallRec, *, quick: bool) -> dict[str, Any]:
    """Return the AUC of the model adapted to 256 rows, uncalibrated."""
    lora, shots, test = Lora(epochs=1) if quick else _SHOTS, _shots(tallrec), tallrec.take(tallrec.parts["test"])
    apart, _ = _adapted(artifact, tallrec, shots, lora, prompt=APART)
    scorer, seconds = _adapted(artifact, tallrec, shots, lora)
    auc, auc_apart = (_auc(tallrec, each.log_odds(test)) for each in (scorer, apart))
    return {
        "auc_256": auc,
        "aucs": {
            f"adapted to {N_SHOTS} rows": auc,
            f"adapted to {N_SHOTS} rows, asked in two lists, liked and disliked": auc_apart,
        },
        "epochs": scorer.epochs_,
        "fit_s": seconds,
    }


def measure_full(artifact: ModelArtifact, tallrec: TallRec, *, quick: bool) -> dict[str, Any]:
    """Return the AUC of the model adapted to the whole train split, uncalibrated."""
    train = tallrec.parts["train"]
    scorer, seconds = _adapted(artifact, tallrec, train, _FULL)
    auc = _auc(tallrec, scorer.log_odds(tallrec.take(tallrec.parts["test"])))
    return {
        "auc_full": auc,
        "aucs": {f"adapted to all {len(train):,} rows": auc},
        "epochs": scorer.epochs_,
        "fit_s": seconds,
    }


def measure_stacked(artifact: ModelArtifact, tallrec: TallRec, *, quick: bool) -> dict[str, Any]:
    """Return what the adapted model's score adds to LightGBM over our features, on rows of users it never saw."""
    train, test = tallrec.parts["train"], tallrec.parts["test"]
    train = _some(train[_folds(tallrec, train) > 0], N_STACKED)
    scorer, _ = _adapted(artifact, tallrec, _shots(tallrec), Lora(epochs=1) if quick else _SHOTS)
    columns, names = _features(tallrec, llm=not quick)
    score = np.full(len(columns), np.nan, dtype=np.float32)
    both = np.concatenate([train, test])
    score[both] = scorer.log_odds(tallrec.take(both))
    without = _boosted(columns, tallrec, train, test)
    stacked = _boosted(np.column_stack([columns, score]), tallrec, train, test)
    lone = _boosted(score[:, None], tallrec, train, test)
    users = np.unique(tallrec.take(test).column("user_id").to_pylist(), return_inverse=True)[1].astype(np.int64)
    resamples = Resamples.draw(int(users.max()) + 1, n_resamples=2000, seed=0)
    found = [measure(scores, tallrec.labels[test], users, resamples)["auc"] for scores in (stacked, without)]
    difference = found[0] - found[1]
    return {
        "stacked_diff": float(difference.point),
        "ci95": list(interval(difference)),
        "aucs": {
            f"LightGBM over our {len(names)} features, {len(train):,} rows": float(found[1].point),
            "the same with the adapted model's score": float(found[0].point),
            "LightGBM over that score alone": _auc(tallrec, lone),
        },
    }


def measure_controls(artifact: ModelArtifact, tallrec: TallRec, *, quick: bool) -> dict[str, Any]:
    """Return the AUC of what needs no language model."""
    parts = tallrec.parts
    train, test = parts["train"], parts["test"]
    history = tallrec.histories.mean(axis=1)
    items = np.array(tallrec.rows.column("item_id").to_pylist())
    _, codes = np.unique(items, return_inverse=True)
    known = np.concatenate([train, parts["valid"]])
    liked = np.bincount(codes[known], weights=tallrec.labels[known], minlength=codes.max() + 1)
    seen = np.bincount(codes[known], minlength=codes.max() + 1)
    prior = tallrec.labels[known].mean()
    item = ((liked + 5 * prior) / (seen + 5))[codes]
    # A training row's own label is no part of its item's mean.
    own = np.zeros(len(codes))
    own[known] = 1
    left_out = ((liked[codes] - own * tallrec.labels + 5 * prior) / (seen[codes] - own + 5)).astype(np.float64)
    rates = np.column_stack(
        [history, tallrec.histories[:, -3:].mean(axis=1), tallrec.histories[:, -1], left_out, seen[codes] - own]
    )
    columns, names = _features(tallrec, llm=not quick)
    return {
        "aucs": {
            "the history's mean label": _auc(tallrec, history),
            "the item's mean label": _auc(tallrec, item),
            "LightGBM over item and history rates": _auc(tallrec, _boosted(rates, tallrec, train, test)),
            f"LightGBM over our {len(names)} features": _auc(tallrec, _boosted(columns, tallrec, train, test)),
        },
    }


def _scorer(
    artifact: ModelArtifact, tallrec: TallRec, *, prompt: PreferencePrompt = PROMPT, **parameters: Any
) -> LLMScorer:
    return LLMScorer(
        tallrec.log,
        artifact,
        tallrec.titles,
        prompt=prompt,
        user_id="row_id",
        group="user_id",
        cache=True,
        **parameters,
    )


def _zero_shot(artifact: ModelArtifact, tallrec: TallRec, prompt: PreferencePrompt) -> Any:
    """Return the model's own scores of the test rows."""
    rows = tallrec.take(tallrec.parts["test"])
    return _scorer(artifact, tallrec, prompt=prompt).fit(rows).log_odds(rows)


def _adapted(
    artifact: ModelArtifact, tallrec: TallRec, rows: Any, lora: Lora, *, prompt: PreferencePrompt = PROMPT
) -> tuple[LLMScorer, float]:
    """Return the scorer adapted to some rows; the same rows again are found in the cache."""
    held_out = _some(tallrec.parts["valid"], N_HELD_OUT)
    scorer = _scorer(artifact, tallrec, prompt=prompt, finetune=lora, calibration=None, verbose=True)
    started = time.perf_counter()
    scorer.fit(tallrec.take(rows), tallrec.labels[rows], eval_set=(tallrec.take(held_out), tallrec.labels[held_out]))
    return scorer, time.perf_counter() - started


def _shots(tallrec: TallRec) -> Any:
    train = tallrec.parts["train"]
    return _some(train[_folds(tallrec, train) == 0], N_SHOTS)


def _folds(tallrec: TallRec, rows: Any) -> Any:
    return user_folds(id_column(tallrec.take(rows), "user_id", what="rows"), n_folds=_N_FOLDS)


def _some(rows: Any, n_rows: int) -> Any:
    return np.sort(np.random.default_rng(0).permutation(rows)[:n_rows])


def _auc(tallrec: TallRec, scores: Any) -> float:
    test = tallrec.parts["test"]
    scores = np.asarray(scores)
    return float(roc_auc_score(tallrec.labels[test], scores if len(scores) == len(test) else scores[test]))


def _features(tallrec: TallRec, *, llm: bool) -> tuple[Any, list[str]]:
    """Return our features of every row at the moment of its rating: what any user did strictly before it."""
    ids = id_column(tallrec.items, "item_id", what="the films")
    texts = TEMPLATE.render(tallrec.items)
    sources = {"tfidf": tfidf_vectors(ids, texts, seed=0)}
    if llm:
        encoder = TextEncoder(cached_artifact("bundled:minilm"), cache=True)
        there = [at for at, text in enumerate(texts) if text is not None]
        vectors = np.full((len(texts), encoder.dim), np.nan, dtype=np.float32)
        vectors[there] = encoder.encode([texts[at] for at in there])
        sources["llm"] = VectorTable.from_arrays(ids, vectors)
    rows = pa.table(
        {
            "user_id": tallrec.rows.column("user_id"),
            "item_id": tallrec.rows.column("item_id"),
            "timestamp": tallrec.rows.column("rated_at"),
        }
    )
    found = [
        ActivityFeatures(tallrec.ratings).fit(rows),
        HistoryFeatures(tallrec.ratings, sources).fit(rows),
    ]
    names = [str(name) for features in found for name in features.get_feature_names_out()]
    return np.concatenate([features.transform(rows) for features in found], axis=1), names


def _boosted(columns: Any, tallrec: TallRec, train: Any, test: Any) -> Any:
    """Return the mean probability of some seeds' rankers, of the test rows."""
    scores = [
        lightgbm.train(
            {**PARAMETERS, "seed": seed}, lightgbm.Dataset(columns[train], tallrec.labels[train]), _N_TREES
        ).predict(columns[test])
        for seed in _SEEDS
    ]
    return np.mean(scores, axis=0)
