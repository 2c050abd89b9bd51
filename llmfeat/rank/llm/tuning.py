"""Rows with labels to a model of their own, found again in the cache when the same rows come."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from llmfeat._base.files import cache_dir, canonical_json, text_sha256
from llmfeat.artifact import ModelArtifact
from llmfeat.encode.lm import PromptScorer
from llmfeat.errors import ArtifactError, NothingToLearnError
from llmfeat.export import TRAINING, Examples, Lora, finetune_scorer
from llmfeat.rank.llm.prompts import LabelledPrompts
from llmfeat.rank.scorers.crossfit import user_folds
from llmfeat.types import BoolArray

__all__ = ["finetuned", "held_out_rows"]

_HELD_OUT = 10  # one in so many users


def held_out_rows(users: pa.StringArray, *, seed: int) -> BoolArray:
    """Return which rows are of the users that are held out: about a tenth, at least one and never all of several."""
    codes = users.dictionary_encode()
    folds = user_folds(codes.dictionary, n_folds=_HELD_OUT, seed=seed)
    least = int(folds.min(initial=_HELD_OUT)) if len(folds) else 0
    held_users = folds == least
    if held_users.all():
        held_users = np.arange(len(folds)) == 0
    held: BoolArray = held_users[codes.indices.to_numpy()]
    return held


def finetuned(
    scorer: PromptScorer,
    train: LabelledPrompts,
    held_out: LabelledPrompts,
    *,
    lora: Lora,
    seed: int,
    out: str | Path | None,
    verbose: bool,
) -> tuple[ModelArtifact, list[dict[str, float]]]:
    """Return the model adapted to some rows, and what each epoch gave."""
    for name, rows in (("learned from", train), ("held out", held_out)):
        if len(np.unique(rows.labels)) < 2:
            raise NothingToLearnError(
                f"the {len(rows)} rows {name} have labels of one kind or none, but both were expected: pass rows of "
                "more users, or another random_state"
            )
    answers = scorer.answer_tokens
    parts = [
        Examples(scorer.tokenizer.whole_ids(rows.texts, special=rows.special), rows.labels)
        for rows in (train, held_out)
    ]
    identity = [
        scorer.artifact.fingerprint,
        *(part.digest() for part in parts),
        answers.positive.tolist(),
        answers.negative.tolist(),
        asdict(lora),
        seed,
        TRAINING,
    ]
    digest = text_sha256(canonical_json(identity))
    folder = cache_dir("artifacts") / f"lora-{digest[:16]}" if out is None else Path(out)
    history = folder.with_name(folder.name + ".epochs.json")
    if out is None and history.is_file():
        try:
            return ModelArtifact.load(folder), json.loads(history.read_text(encoding="utf-8"))
        except ArtifactError:
            pass  # it is made anew
    made, epochs = finetune_scorer(
        scorer.artifact,
        folder,
        *parts,
        positive=answers.positive.tolist(),
        negative=answers.negative.tolist(),
        lora=lora,
        seed=seed,
        say=_say if verbose else None,
        progress=verbose,
    )
    if out is None:
        history.write_text(json.dumps(epochs), encoding="utf-8")
    return made, epochs


def _say(line: str) -> None:
    print(line, file=sys.stderr)
