"""`preflight`: what in the data will hurt a comparison, said before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc

from llmfeat.evaluate.inputs.finding import Finding, Severity, said_share
from llmfeat.evaluate.inputs.leaks import future_counts, label_leaks
from llmfeat.evaluate.inputs.read import LiftInputs
from llmfeat.evaluate.inputs.view import View
from llmfeat.types import BoolArray

__all__ = ["preflight"]

# With fewer users a 95 % interval of an AUC is rarely narrower than the lift of a good encoder.
_FEW_USERS = 200
# What most encoders of sentences read; a word is a token or more.
_MODEL_WORDS = 256
_RARE_LABEL = 0.01


def preflight(inputs: LiftInputs, *, is_train: BoolArray, is_test: BoolArray) -> list[Finding]:
    """Return what was noticed in the data, that of `inputs` included, warnings first.

    Parameters
    ----------
    inputs : LiftInputs
        See `read_inputs`.
    is_train, is_test : ndarray of shape (n_rows,), bool
        The rows that fit the ranker, rows for tuning included, and those that measure it.

    Raises
    ------
    EmptyInputError, InputError
        When one of the two is empty, or no mask over the rows.

    Examples
    --------
    >>> import numpy as np, pyarrow as pa
    >>> from llmfeat.evaluate.inputs import InputSpec, preflight, read_inputs
    >>> items = pa.table({"item_id": [1, 2], "title": ["Heat", None]})
    >>> log = pa.table({"user_id": [7, 7, 8], "item_id": [1, 2, 2], "timestamp": [10**9] * 3, "label": [1, 0, 1]})
    >>> inputs = read_inputs(InputSpec(items, log, text=("title",), label="label"))
    >>> findings = preflight(inputs, is_train=np.array([True, True, False]), is_test=np.array([False, False, True]))
    >>> next(finding.what for finding in findings if finding.code == "ties")
    "2 of 3 (66.7 %) rows share their user's moment with another row"
    """
    view = View(inputs, is_train, is_test)
    found = [*inputs.findings, *(finding for check in _CHECKS for finding in check(view))]
    return sorted(found, key=lambda finding: finding.severity != "warning")


def _few(view: View) -> Iterator[Finding]:
    n_users, n_rows = int(np.count_nonzero(np.bincount(view.test_users))), len(view.test_rows)
    if n_users < _FEW_USERS:
        said = f"{n_users:,} users with {n_rows:,} rows are in the test"
        handling = f"intervals, which are over users, will be wide: a test of {_FEW_USERS:,} users or more says more"
        yield Finding("few_test_users", "warning", n_users, len(view.inputs.user_ids), said, handling)


def _order(view: View) -> Iterator[Finding]:
    times_us = view.inputs.times_us
    if times_us is None:
        return
    train_us, test_us = times_us[view.is_train], times_us[view.is_test]
    n_late = int((train_us > test_us.min()).sum())
    if n_late:
        said = f"{said_share(n_late, len(train_us))} training rows are later than the first test row"
        handling = "features see strictly earlier events only, but the ranker learns from these rows: split by time"
        yield Finding("split_not_by_time", "warning", n_late, len(train_us), said, handling)


def _ties(view: View) -> Iterator[Finding]:
    if view.inputs.times_us is None or not view.n_tied:
        return
    n_rows = view.inputs.n_rows
    said = f"{said_share(view.n_tied, n_rows)} rows share their user's moment with another row"
    yield Finding("ties", "note", view.n_tied, n_rows, said, "none of them sees another: only strictly earlier events")


def _texts(view: View) -> Iterator[Finding]:
    n_items, n_rows = len(view.has_text), len(view.test_rows)
    n_without = int((~view.has_text).sum())
    if n_without:
        said = f"{said_share(n_without, n_items)} items have no text"
        n_partly = _n_partly(view)
        if n_partly:
            said += f"; {n_partly:,} of them have some, but not the column that the template requires"
        yield _graded(
            "items_without_text", n_without, n_items, said, "no vector: features of it are missing (NaN)", 0.2
        )
    n_test = int((~view.has_text[view.test_items]).sum())
    if n_test:
        said = f"{said_share(n_test, n_rows)} test rows are of items without text"
        yield _graded("test_rows_without_text", n_test, n_rows, said, "kept: the encoder cannot help there", 0.1)


def _n_partly(view: View) -> int:
    """Return how many items have a text in some column, but none from the template."""
    columns = (pc.is_valid(view.inputs.items.column(name)).to_numpy() for name in view.inputs.template.fields)
    return int((np.logical_or.reduce(list(columns)) & ~view.has_text).sum())


def _words(view: View) -> Iterator[Finding]:
    texts = view.rendered.drop_null()
    if not len(texts):
        return
    n_words = pc.count_substring_regex(texts, r"\S+").to_numpy()
    n_long, n_short = int((n_words > _MODEL_WORDS).sum()), int((n_words < 3).sum())
    if n_short:
        said = f"{said_share(n_short, len(texts))} texts have under 3 words, the median {np.median(n_words):.0f}"
        handling = "encoded as they are; they say little: name more columns, if there are"
        yield _graded("short_texts", n_short, len(texts), said, handling, 0.5)
    if n_long:
        said = f"{said_share(n_long, len(texts))} texts have over {_MODEL_WORDS} words"
        yield Finding("long_texts", "note", n_long, len(texts), said, "the model cuts them where its window ends")
    n_same = int((counts := pc.value_counts(texts).field("counts").to_numpy())[counts > 1].sum())
    if n_same:
        said = f"{said_share(n_same, len(texts))} items share their text with another item"
        yield _graded("identical_texts", n_same, len(texts), said, "one vector for all of a text", 0.2)


def _unseen(view: View) -> Iterator[Finding]:
    n_rows = len(view.test_rows)
    for code, noun, n_train, handling in (
        ("unseen_items", "items", view.train_item_rows[view.test_items], "kept: here a text has most to add"),
        ("unseen_users", "users", view.train_user_rows[view.test_users], "kept: their histories begin in the test"),
    ):
        n_unseen = int((n_train == 0).sum())
        if n_unseen:
            said = f"{said_share(n_unseen, n_rows)} test rows are of {noun} without a training row"
            yield Finding(code, "note", n_unseen, n_rows, said, handling)


def _labels(view: View) -> Iterator[Finding]:
    labels = view.inputs.labels
    if labels is None:
        return
    for part, rows in (("test", view.is_test), ("training", view.is_train)):
        n_positive, n_rows = int(labels[rows].sum()), int(rows.sum())
        said = f"{said_share(n_positive, n_rows)} {part} rows are positive"
        rarer = min(n_positive, n_rows - n_positive)
        if view.inputs.task == "next-item":
            handling = "the others are events, but no targets"
            yield Finding(f"{part}_positives", "note" if n_positive else "warning", n_positive, n_rows, said, handling)
            continue
        handling = "used as they are" if rarer else "there is nothing to rank: split elsewhere"
        severity: Severity = "warning" if rarer < _RARE_LABEL * n_rows else "note"
        yield Finding(f"{part}_positives", severity, n_positive, n_rows, said, handling)


def _groups(view: View) -> Iterator[Finding]:
    labels, groups = view.inputs.labels, view.inputs.groups
    if labels is None or view.inputs.task != "click":
        return
    noun = "users" if groups is None else "groups"
    codes = view.test_users
    if groups is not None:
        codes = groups.take(view.test_rows).dictionary_encode().indices.to_numpy()
    n_rows = np.bincount(codes)
    n_positive = np.bincount(codes, weights=labels[view.test_rows])
    single = n_rows == 1
    one_label = (n_rows > 1) & ((n_positive == 0) | (n_positive == n_rows))
    n_groups, n_out = int((n_rows > 0).sum()), int((single | one_label).sum())
    if n_out:
        said = (
            f"{said_share(n_out, n_groups)} test {noun} with {int(n_rows[single | one_label].sum()):,} rows cannot be "
            f"ranked: {int(single.sum()):,} have one row, {int(one_label.sum()):,} one label only"
        )
        handling = "no part of user_auc; in the other metrics, ndcg@10 wherever there is a positive"
        yield _graded("small_groups", n_out, n_groups, said, handling, 0.5)


def _history_lengths(view: View) -> Iterator[Finding]:
    if view.inputs.times_us is None and view.inputs.histories is None:
        return
    lengths, n_rows = view.test_history_lengths, len(view.test_rows)
    n_empty = int((lengths == 0).sum())
    said = (
        f"{said_share(n_empty, n_rows)} test rows have an empty history; the median is {np.median(lengths):,.0f} "
        f"events, the most {lengths.max():,}"
    )
    yield _graded("empty_histories", n_empty, n_rows, said, "kept: features of such a history are missing", 0.5)


def _targets(view: View) -> Iterator[Finding]:
    """Yield histories that hold the very event that they are to predict."""
    if view.inputs.histories is None:
        return
    histories = view.inputs.histories.take(view.test_rows)
    targets = view.inputs.row_items.take(view.test_rows)
    parents = pc.list_parent_indices(histories)
    hits = pc.equal(histories.flatten(), targets.take(parents)).to_numpy(zero_copy_only=False)
    rows = parents.to_numpy()
    is_newest = np.append(np.diff(rows) > 0, True)[: len(rows)]
    n_rows = len(targets)
    n_newest, n_held = int((hits & is_newest).sum()), len(np.unique(rows[hits]))
    if 2 * n_newest > n_rows:
        said = f"{said_share(n_newest, n_rows)} test rows have their own item as the newest of their history"
        handling = "used as they are: check that a history ends before its event"
        yield Finding("target_in_history", "warning", n_newest, n_rows, said, handling)
    elif n_held:
        said = f"{said_share(n_held, n_rows)} test rows have their item in their history already"
        yield Finding("repeated_targets", "note", n_held, n_rows, said, "items of a history stay candidates")


def _repeats(view: View) -> Iterator[Finding]:
    """Yield how many of the test's pairs of user and item were there in training."""
    n_items = len(view.inputs.item_ids)
    known = view.train_user_rows[view.test_users] > 0
    # Sorted both: np.isin hashes (since NumPy 2.3), which takes ten times as long for millions of pairs.
    pairs = np.sort(view.test_users[known] * n_items + view.test_items[known])
    train = np.sort(view.inputs.user_codes[view.is_train] * n_items + view.inputs.item_codes[view.is_train])
    at = np.minimum(np.searchsorted(train, pairs), len(train) - 1)
    n_repeated = int(np.count_nonzero(train[at] == pairs))
    if n_repeated:
        n_rows = len(view.test_rows)
        said = f"{said_share(n_repeated, n_rows)} test rows are of an item that their user has a training row of"
        yield Finding("repeats", "note", n_repeated, n_rows, said, "kept, in every arm alike")


def _graded(code: str, count: int, of: int, what: str, handling: str, share: float) -> Finding:
    """Return a finding that is a warning from a share on."""
    return Finding(code, "warning" if count > share * of else "note", count, of, what, handling)


_CHECKS = (
    _few,
    _order,
    label_leaks,
    future_counts,
    _labels,
    _groups,
    _texts,
    _words,
    _unseen,
    _ties,
    _history_lengths,
    _targets,
    _repeats,
)
