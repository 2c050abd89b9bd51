"""The rows that a ranker of candidates is taught on."""

from __future__ import annotations

import numpy as np

from llmfeat.errors import InputError
from llmfeat.evaluate.columns import LEFT_OUT, Columns, TaughtRows
from llmfeat.evaluate.next_item.candidates import CandidateRows
from llmfeat.rank.scorers.crossfit import user_folds

__all__ = ["taught_rows", "together"]

# Contexts that a ranker learns from at most, and those of them that trials are made with, in folds of users.
_MOST_TAUGHT, _MOST_TRIED = 3_000, 1_200
_VALID_FOLDS = 3


def taught_rows(rows: CandidateRows, n_stages: int, *, seed: int) -> TaughtRows:
    """Return the rows of the contexts that teach something, those of one of so many stages, drawn at random.

    A context none of whose targets is a candidate teaches a ranker nothing.
    """
    able = np.unique(rows.candidates.query[rows.is_target])
    draw = np.random.default_rng(seed)
    drawn = draw.permutation(able)[: _MOST_TAUGHT // n_stages]
    every = np.arange(rows.candidates.n_queries)
    is_drawn, is_tried = np.isin(every, drawn), np.isin(every, drawn[: _MOST_TRIED // n_stages])
    kept = np.flatnonzero(is_drawn[rows.candidates.query])
    fold = np.where(is_tried, user_folds(rows.queries.users, n_folds=_VALID_FOLDS), LEFT_OUT)
    return TaughtRows(
        rows.columns.take(kept),
        rows.is_target[kept].astype(np.int64),
        fold[rows.candidates.query[kept]],
        rows.candidates.counts[is_drawn],
    )


def together(parts: list[TaughtRows]) -> TaughtRows:
    """Return the rows of several stages as one."""
    fold = np.concatenate([part.fold for part in parts])
    sizes = np.concatenate([part.sizes for part in parts if part.sizes is not None])
    if len(sizes) < 2:
        raise InputError(
            f"{len(sizes)} moments of users have a liked item among their candidates, but two to learn from were "
            "expected: a longer log, or a smaller test, is needed"
        )
    if len(np.unique(fold[fold != LEFT_OUT])) < 2:  # of users too few to part
        fold = np.repeat(np.arange(len(sizes)) % _VALID_FOLDS, sizes)
    return TaughtRows(
        Columns.concatenate([part.columns for part in parts]),
        np.concatenate([part.labels for part in parts]),
        fold,
        sizes,
    )
