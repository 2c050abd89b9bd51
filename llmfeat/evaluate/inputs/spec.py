"""Which files and columns a comparison is made of, and which options contradict each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmfeat.errors import InputError
from llmfeat.text import ItemTemplate

__all__ = ["InputSpec", "option_of"]

_TASKS = ("click", "next-item")
# Each of these columns means something of its own; a group may be the user, or a session by its start.
_ROLES = ("user_id", "item_id", "timestamp", "label", "rating", "split_column", "history_column", "baseline_score")


@dataclass(frozen=True)
class InputSpec:
    """What people have: two files, and the names of their columns.

    Parameters
    ----------
    items, interactions : path or data frame
        The catalogue and the log: frames of pandas, polars or Arrow, or what `open_rows` reads.
    text : sequence of str, default=()
        Columns of the catalogue; the first is required, the others are added where they are filled.
    template : ItemTemplate, optional
        Instead of `text`.
    task : {"click", "next-item"}, default="click"
        Binary ranking within users, or ranking of the whole catalogue.
    label, rating : str, optional
        The column of labels 0 and 1, or of ratings, which are positive from `like_threshold` on. `click` needs one of
        them; for `next-item` rows without either are all positive.
    like_threshold : float, default=4.0
        The least rating of a positive.
    user_id, item_id, timestamp : str
        Columns of the log; `item_id` of the catalogue too.
    split_column : str, optional
        The column that says ``train``, ``valid`` or ``test``.
    history_column : str, optional
        The column of each row's own history, oldest first; for `next-item`, with `split_column`.
    base_features : path or data frame, optional
        The user's own features; see `BaseFeatures`.
    baseline_score : str, optional
        The column of the log with the score of the user's own ranker; for `click`.
    group_id : str, optional
        The column of the log with the slate or session that is ranked; for `click`.

    Raises
    ------
    InputError
        When options contradict each other, or one is missing that another needs.

    Examples
    --------
    >>> from llmfeat.evaluate.inputs import InputSpec
    >>> InputSpec("items.parquet", "log.parquet", text=("title",), label="label").task
    'click'
    >>> InputSpec("items.parquet", "log.parquet", text=("title",))
    Traceback (most recent call last):
    ...
    llmfeat.errors.InputError: neither --label nor --rating came, but --task click needs rows of both kinds, positive \
and negative: name the column, or, where the log holds positives only, pass --task next-item
    """

    items: Any
    interactions: Any
    text: Sequence[str] = ()
    template: ItemTemplate | None = None
    task: Literal["click", "next-item"] = "click"
    label: str | None = None
    rating: str | None = None
    like_threshold: float = 4.0
    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str = "timestamp"
    split_column: str | None = None
    history_column: str | None = None
    base_features: Any = None
    baseline_score: str | None = None
    group_id: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.text, str):
            raise InputError(
                f"text={self.text!r} is one string, but a sequence of column names was expected: put it in a list"
            )
        object.__setattr__(self, "text", tuple(self.text))
        for is_wrong, message in _contradictions(self):
            if is_wrong:
                raise InputError(message)

    @property
    def item_template(self) -> ItemTemplate:
        """The template of an item's text: the one that was passed, or that of the columns."""
        return self.template or ItemTemplate.of_columns(self.text)


def option_of(field: str) -> str:
    """Return the option of the command line that sets a field."""
    return "--" + field.replace("_", "-")


def _contradictions(spec: InputSpec) -> Iterator[tuple[bool, str]]:
    """Yield what might be wrong with the options, each with its message, in the order in which to mend them."""
    is_click = spec.task == "click"
    yield (
        spec.task not in _TASKS,
        f"--task {spec.task!r} came, but click or next-item was expected: pass one of them",
    )
    yield (
        not spec.text and spec.template is None,
        "neither --text nor --template came, but an item's text was expected: pass --text title --text description",
    )
    yield (
        bool(spec.text) and spec.template is not None,
        "both --text and --template came, but one of them was expected: drop --text, as the template names the columns",
    )
    yield (
        spec.label is not None and spec.rating is not None,
        f"both --label {spec.label} and --rating {spec.rating} came, but one of them was expected: drop --rating where "
        "the labels are 0 and 1, else --label",
    )
    yield (
        not math.isfinite(spec.like_threshold),
        f"--like-threshold {spec.like_threshold} came, but a number was expected: pass the least rating of a positive",
    )
    yield (
        is_click and spec.history_column is not None,
        f"--history-column {spec.history_column} came with --task click, whose histories are made of the log: drop it, "
        "or pass --task next-item",
    )
    yield (
        is_click and spec.label is None and spec.rating is None,
        "neither --label nor --rating came, but --task click needs rows of both kinds, positive and negative: name the "
        "column, or, where the log holds positives only, pass --task next-item",
    )
    yield (
        spec.history_column is not None and spec.split_column is None,
        f"--history-column {spec.history_column} came without --split-column, but rows that bring their own histories "
        "need not be in order of time: name the column that says train, valid or test",
    )
    yield (
        not is_click and spec.baseline_score is not None,
        f"--baseline-score {spec.baseline_score} came with --task next-item, which ranks the whole catalogue while the "
        "log has scores of its own rows only: drop it, or pass a file of user_id, item_id and score as --base-features",
    )
    yield (
        not is_click and spec.group_id is not None,
        f"--group-id {spec.group_id} came with --task next-item, whose groups are the whole catalogue, once for each "
        "event: drop it",
    )
    names = Counter(name for role in _ROLES if (name := getattr(spec, role)) is not None)
    twice = next((name for name, count in names.items() if count > 1), None)
    options = " and ".join(option_of(role) for role in _ROLES if getattr(spec, role) == twice)
    yield (
        twice is not None,
        f"{options} both name the column {twice!r}, but each needs a column of its own: name the right ones",
    )
    yield (
        spec.group_id is not None and spec.group_id in (spec.label, spec.rating, spec.item_id),
        f"--group-id {spec.group_id} names the column of items or labels, but a slate, session or user was expected: "
        "name the right one",
    )
