"""Columns that know the answer, or the future: what can be told of them by looking at their values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.stats import rankdata

from llmfeat.evaluate.inputs.finding import Finding
from llmfeat.evaluate.inputs.view import View
from llmfeat.types import Float64Array, Int64Array

__all__ = ["auc", "closer", "future_counts", "label_leaks", "spearman"]

# No ranker of clicks or ratings separates them so well.
_MAX_AUC = 0.95
# Enough to tell .95 from .94, and ranked in a moment.
_MAX_ROWS = 200_000
_MIN_ITEMS = 50
# Four standard errors, as a file may have a hundred columns; and not so small a thing that it hardly matters.
_MIN_Z = 4
_MIN_OF_TEST, _MIN_OF_BOTH = 0.5, 0.9
_FEATURE_HANDLING = "used as it is: check when it was computed, and leave it out where that was after the row"


def label_leaks(view: View) -> Iterator[Finding]:
    """Yield the columns of the user that alone separate the test's labels."""
    labels = view.inputs.labels
    if labels is None or view.inputs.task != "click":
        return
    step = -(-len(view.test_rows) // _MAX_ROWS)
    rows = view.test_rows[::step]
    score, base = view.inputs.baseline_score, view.inputs.base
    if score is not None:
        yield from _separates("baseline_leak", "the baseline score", score[rows], labels[rows])
    if base is not None:
        taken = rows if base.key == ("row_id",) else None
        times_us = None if view.inputs.times_us is None else view.inputs.times_us[rows]
        values = base.columns(taken, view.inputs.users.take(rows), view.inputs.row_items.take(rows), times_us)
        for name, column in zip(base.names, values.T, strict=True):
            yield from _separates("base_leak", f"the base feature {name!r}", column.astype(np.float64), labels[rows])


def future_counts(view: View) -> Iterator[Finding]:
    """Yield base features of items that are closer to how often an item comes in the test than in training."""
    base = view.inputs.base
    if base is None or base.key != ("item_id",):
        return
    past = view.train_item_rows.astype(np.float64)
    future = np.bincount(view.test_items, minlength=len(past)).astype(np.float64)
    seen = past + future > 0
    values = base.columns(None, None, view.inputs.item_ids, None)
    for name, column in zip(base.names, values.T, strict=True):
        kept = seen & np.isfinite(column)
        n_items = int(kept.sum())
        if n_items < _MIN_ITEMS:
            continue
        parts = past[kept], future[kept], past[kept] + future[kept]
        of_past, of_test, of_both = (abs(spearman(column[kept].astype(np.float64), counts)) for counts in parts)
        # Counts of the test alone, or of the whole log, which are nearer to the sum than to either part.
        knows_test = of_test > _MIN_OF_TEST and closer(of_test, of_past, spearman(*parts[:2]), n_items) > _MIN_Z
        knows_both = of_both > _MIN_OF_BOTH and closer(of_both, of_past, spearman(*parts[::2]), n_items) > _MIN_Z
        if knows_test or knows_both:
            said = (
                f"the base feature {name!r} of {n_items:,} items has a Spearman correlation of {of_past:.2f} with how "
                f"many training rows they have, {of_test:.2f} with test rows, {of_both:.2f} with both together"
            )
            yield Finding("base_future", "warning", n_items, len(past), said, _FEATURE_HANDLING)


def auc(scores: Float64Array, labels: Int64Array) -> float:
    """Return the area under the ROC curve, ties counting half, a missing score the least; NaN with one label only."""
    n_positive = int((labels == 1).sum())
    n_negative = len(labels) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    ranks = rankdata(np.where(np.isnan(scores), -np.inf, scores))
    return float((ranks[labels == 1].sum() - n_positive * (n_positive + 1) / 2) / n_positive / n_negative)


def spearman(left: Float64Array, right: Float64Array) -> float:
    """Return the rank correlation, ties sharing their mean rank; 0 where one side is constant."""
    ranks = [rankdata(side) - (len(side) + 1) / 2 for side in (left, right)]
    norm = float(np.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1])))
    return float(ranks[0] @ ranks[1]) / norm if norm else 0.0


def closer(one: float, other: float, between: float, n: int) -> float:
    """Return by how many standard errors one correlation is larger than another of the same variable.

    The z of Meng, Rosenthal and Rubin (1992), "Comparing correlated correlation coefficients", Psychological Bulletin
    111; `between` is the correlation of the two that are correlated with it.
    """
    one, other, between = (min(value, 0.999) for value in (one, other, between))
    mean_square = (one**2 + other**2) / 2
    share = min((1 - between) / (2 * (1 - mean_square)), 1)
    spread = (1 - share * mean_square) / (1 - mean_square)
    gap = np.arctanh(one) - np.arctanh(other)
    return float(gap * np.sqrt((n - 3) / (2 * (1 - between) * spread)))


def _separates(code: str, name: str, scores: Float64Array, labels: Int64Array) -> Iterator[Finding]:
    area = auc(scores, labels)
    if abs(area - 0.5) > _MAX_AUC - 0.5:
        said = f"{name} alone has an AUC of {area:.3f} on {len(labels):,} test rows: it seems to know the label"
        yield Finding(code, "warning", len(labels), len(labels), said, _FEATURE_HANDLING)
