"""Synthetic logs of which it is known how much the texts say, to see whether a comparison finds that much and no more.

Every item has a meaning and every user a taste: directions, whose product is their affinity. The effect is the weight
of the affinity in what users do; all else that moves them is independent of it::

    click      P(label = 1) = sigmoid(base + quality(item) + generosity(user) + kinship(user, item) + effect * affinity)
    next-item  P(item)      = softmax(popularity(item) + kinship(user, item) + effect * affinity)

Kinship is a second product of directions, which no text tells: co-occurrence finds it, as it finds the affinity where
there are events enough. What a user of `click` is shown is drawn by popularity alone. The encoder's vectors are the
meanings, rotated and noisy; the titles are of synonyms so many that two items of one meaning hardly share a word.

At effect 0 nothing that happens depends on a meaning: vectors that know it are of no use at all. And no user meets an
item twice, for vectors tell items apart, and would then say how the first time went.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.special import expit

from llmfeat import VectorTable
from llmfeat._base.places import places_in_groups
from llmfeat.errors import InputError
from llmfeat.types import Float64Array, Int64Array

__all__ = ["EFFECTS", "TASKS", "SyntheticLog", "make_log"]

TASKS = ("click", "next-item")

# By task and level: what a standard deviation of the affinity adds to the log-odds of a label, or of an item's choice.
# In the default sizes a comparison of `click` finds "small" in about half of the logs, and found "large" in each of 20.
EFFECTS: Mapping[str, Mapping[str, float]] = {
    "click": {"zero": 0.0, "small": 1.0, "large": 2.0},
    "next-item": {"zero": 0.0, "small": 0.6, "large": 1.5},
}

# One stream of random numbers for each part: two logs of one seed differ only where a parameter makes them differ.
_PARTS = ("visits", "items", "users", "meanings", "tastes", "kinships", "encoder", "titles", "choices", "labels")
_MEANING_DIM, _VECTOR_DIM, _KINSHIP_DIM = 8, 32, 4
# The length of the encoder's error beside a meaning of length 1.
_NOISE = 0.5
# Standard deviations of what else moves users, in log-odds.
_QUALITY, _GENEROSITY, _KINSHIP, _POPULARITY = 0.8, 0.8, 0.8, 1.0
_BASE = -0.3

_START_S = 1_700_000_000
_SPAN_S = 180 * 86_400
# The others join, or are released, at any time until the end: some are met for the first time in any test.
_USERS_FROM_START, _ITEMS_FROM_START = 0.75, 0.5
_MOST_OF_MEAN = 3
_SESSION_ENDS, _TIE, _GAP_S = 0.25, 0.1, 120

_N_TOPICS, _SYNONYMS_PER_ITEM, _N_FILLERS = 16, 4, 200
_TOPIC_WORDS, _FILLER_WORDS = 3, 2
_SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwxyz" for vowel in "aeiou"]
_SYLLABLES_PER_WORD = 4


@dataclass(frozen=True, eq=False)
class SyntheticLog:
    """A log, and what is known of it.

    Attributes
    ----------
    items : pyarrow.Table
        ``item_id`` and ``title`` of the catalogue, items without an event included.
    interactions : pyarrow.Table
        ``user_id``, ``item_id``, ``timestamp`` (microseconds, UTC, in whole seconds) by time, and in `click` ``label``
        (int64, 0 or 1).
    vectors : VectorTable
        What stands for the encoder: of every item, of 32 dimensions.
    effect : float
        The weight of the affinity.
    affinities : ndarray of shape (n_interactions,), float64
        Of the user and the item of each interaction: of mean 0 and variance 1 over all pairs.
    """

    items: pa.Table
    interactions: pa.Table
    vectors: VectorTable
    effect: float
    affinities: Float64Array


def make_log(
    task: str,
    effect: str | float,
    seed: int,
    *,
    n_users: int = 300,
    n_items: int = 300,
    n_events_per_user: int = 20,
) -> SyntheticLog:
    """Return a log with a planted effect, the same for the same arguments.

    Of one seed and task, logs of all effects have the same users, items, texts, vectors and times, and in `click` the
    same impressions: only the labels differ.

    Parameters
    ----------
    task : {"click", "next-item"}
        Whether impressions have a label, or all events are positives.
    effect : str or float
        A level of `EFFECTS`, or a weight of the affinity.
    seed : int
        Of everything.
    n_users, n_items : int
        How many there are; some items may end without an event.
    n_events_per_user : int
        The mean. Users differ: the counts are geometric, cut at three times the mean.

    Raises
    ------
    InputError
        When the task or the level is unknown, or there are too few items for users who meet none twice.

    Examples
    --------
    >>> log = make_log("click", "large", seed=0, n_users=50)
    >>> log.interactions.column_names
    ['user_id', 'item_id', 'timestamp', 'label']
    >>> log.items.num_rows, log.vectors.dim
    (300, 32)
    """
    weight = _weight(task, effect)
    _require_sizes(n_users, n_items, n_events_per_user)
    streams = map(np.random.default_rng, np.random.SeedSequence(seed).spawn(len(_PARTS)))
    draw = dict(zip(_PARTS, streams, strict=True))
    users, times_s = _visits(draw["visits"], n_users, n_events_per_user)
    released_s, popularity, quality = _items(draw["items"], n_items)
    generosity = _GENEROSITY * draw["users"].standard_normal(n_users)
    meanings = _directions(draw["meanings"], n_items, _MEANING_DIM)
    affinity = _products(_directions(draw["tastes"], n_users, _MEANING_DIM), meanings)
    kinship = _KINSHIP * _products(*(_directions(draw["kinships"], n, _KINSHIP_DIM) for n in (n_users, n_items)))
    drawn_to = popularity + (kinship + weight * affinity if task == "next-item" else np.zeros_like(kinship))
    items = _choices(draw["choices"], drawn_to, users, times_s, released_s)
    order = np.lexsort((users, times_s))
    user_ids, item_ids = _ids("u", n_users), _ids("i", n_items)
    columns = {
        "user_id": user_ids.take(pa.array(users[order])),
        "item_id": item_ids.take(pa.array(items[order])),
        "timestamp": pa.array(times_s[order] * 1_000_000, pa.timestamp("us", "UTC")),
    }
    if task == "click":
        log_odds = _BASE + quality[items] + generosity[users] + (kinship + weight * affinity)[users, items]
        labels = draw["labels"].random(len(users)) < expit(log_odds)
        columns["label"] = pa.array(labels[order].astype(np.int64))
    return SyntheticLog(
        items=pa.table({"item_id": item_ids, "title": _titles(draw["titles"], meanings)}),
        interactions=pa.table(columns),
        vectors=VectorTable.from_arrays(item_ids, _encoded(draw["encoder"], meanings)),
        effect=weight,
        affinities=affinity[users, items][order],
    )


def _weight(task: str, effect: str | float) -> float:
    if task not in TASKS:
        raise InputError(f"task={task!r}, but one of {TASKS} was expected")
    if not isinstance(effect, str):
        if not math.isfinite(effect):
            raise InputError(f"effect={effect!r}, but a finite number or a level was expected")
        return float(effect)
    if effect not in EFFECTS[task]:
        raise InputError(f"effect={effect!r}, but one of {tuple(EFFECTS[task])} was expected: or pass a number")
    return EFFECTS[task][effect]


def _require_sizes(n_users: int, n_items: int, n_events_per_user: int) -> None:
    if n_users < 1 or n_events_per_user < 1:
        raise InputError(f"n_users={n_users} and n_events_per_user={n_events_per_user}: at least 1 of each is needed")
    # The most that a user meets, from the items that are there from the start.
    least = math.ceil(_MOST_OF_MEAN * n_events_per_user / _ITEMS_FROM_START)
    if n_items < least:
        raise InputError(
            f"n_items={n_items}, but users of {n_events_per_user} events on average, who meet no item twice, need "
            f"{least}: pass more items or fewer events"
        )


def _visits(draw: np.random.Generator, n_users: int, mean: int) -> tuple[Int64Array, Int64Array]:
    """Return the user and the time, in seconds, of each event, by user and time.

    Sessions begin at any time after their user joined. In a session events follow within minutes, and some share their
    second with the one before.
    """
    counts = np.minimum(draw.geometric(1 / mean, n_users), _MOST_OF_MEAN * mean)
    users = np.repeat(np.arange(n_users), counts)
    joined_s = np.where(draw.random(n_users) < _USERS_FROM_START, 0.0, draw.random(n_users) * _SPAN_S)
    is_first = np.diff(users, prepend=-1) != 0
    opens = is_first | (draw.random(len(users)) < _SESSION_ENDS)
    session = np.cumsum(opens) - 1
    owner = users[opens]
    begins_s = joined_s[owner] + draw.random(len(owner)) * (_SPAN_S - joined_s[owner])
    gaps_s = np.where(draw.random(len(users)) < _TIE, 0, 1 + draw.exponential(_GAP_S, len(users)))
    running_s = np.cumsum(gaps_s.astype(np.int64))
    offsets_s = running_s - running_s[opens][session]
    times_s = _START_S + begins_s.astype(np.int64)[session] + offsets_s
    return users, times_s[np.lexsort((times_s, users))]


def _items(draw: np.random.Generator, n_items: int) -> tuple[Int64Array, Float64Array, Float64Array]:
    """Return when each item is released, in seconds, how popular it is, and how good."""
    n_old = math.ceil(_ITEMS_FROM_START * n_items)
    new_s = _START_S + np.sort(draw.integers(0, _SPAN_S, n_items - n_old))
    released_s = np.concatenate([np.zeros(n_old, dtype=np.int64), new_s])
    return released_s, _POPULARITY * draw.standard_normal(n_items), _QUALITY * draw.standard_normal(n_items)


def _directions(draw: np.random.Generator, n: int, dim: int) -> Float64Array:
    drawn = draw.standard_normal((n, dim))
    unit: Float64Array = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit


def _products(users: Float64Array, items: Float64Array) -> Float64Array:
    """Return the product of each user's direction with each item's, scaled to a variance of 1."""
    products: Float64Array = math.sqrt(users.shape[1]) * users @ items.T
    return products


def _choices(
    draw: np.random.Generator, utility: Float64Array, users: Int64Array, times_s: Int64Array, released_s: Int64Array
) -> Int64Array:
    """Return the item of each event: by the softmax of the utility of what is released and new to the user.

    The highest of utilities with Gumbel noise is a draw from their softmax.
    """
    nth = places_in_groups(users)
    unmet = np.ones(utility.shape, dtype=bool)
    items = np.empty(len(users), dtype=np.int64)
    for step in range(int(nth.max()) + 1):
        rows = np.flatnonzero(nth == step)
        who = users[rows]
        noisy = utility[who] + draw.gumbel(size=(len(rows), utility.shape[1]))
        open_to = unmet[who] & (released_s <= times_s[rows, None])
        items[rows] = np.where(open_to, noisy, -np.inf).argmax(axis=1)
        unmet[who, items[rows]] = False
    return items


def _encoded(draw: np.random.Generator, meanings: Float64Array) -> Float64Array:
    """Return the meanings in more dimensions, each with an error."""
    turned, _ = np.linalg.qr(draw.standard_normal((_VECTOR_DIM, meanings.shape[1])))
    encoded: Float64Array = meanings @ turned.T + _NOISE * _directions(draw, len(meanings), _VECTOR_DIM)
    return encoded


def _titles(draw: np.random.Generator, meanings: Float64Array) -> list[str]:
    """Return titles: words of the item's topic that hardly another item has, and words of no meaning that many have."""
    n_items, dim = meanings.shape
    topics = (meanings @ _directions(draw, _N_TOPICS, dim).T).argmax(axis=1)
    n_synonyms = _SYNONYMS_PER_ITEM * n_items
    synonyms = topics[:, None] * n_synonyms + draw.integers(0, n_synonyms, (n_items, _TOPIC_WORDS))
    fillers = _N_TOPICS * n_synonyms + draw.integers(0, _N_FILLERS, (n_items, _FILLER_WORDS))
    return [" ".join(map(_word, numbers)) for numbers in np.concatenate([synonyms, fillers], axis=1).tolist()]


def _word(number: int) -> str:
    base = len(_SYLLABLES)
    return "".join(_SYLLABLES[number // base**place % base] for place in range(_SYLLABLES_PER_WORD))


def _ids(prefix: str, n: int) -> pa.StringArray:
    return pa.array([f"{prefix}{number}" for number in range(n)])
