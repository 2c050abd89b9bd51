"""Catalogue-like texts that ship with the package: what an export is compared on, and what int8 is calibrated on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any

__all__ = ["AWKWARD_TEXTS", "sample_texts"]

# Empty, one letter, digits, other scripts, right to left, combining marks, emoji, blanks, a very long word.
AWKWARD_TEXTS = (
    "",
    "a",
    "1995",
    "Ünïcödé – naïve café",
    "電影 映画 영화",
    "фильм «Сталкер»",
    "فيلم وثائقي",
    "चलचित्र",
    "e\u0301 n\u0303 (combining)",
    "🎬🍿",
    "family 👨‍👩‍👧‍👦, flag 🇧🇷, thumb 👍🏽",
    "UPPER lower MiXeD",
    "a\tb\nc\r\nd",
    "  blanks   before, between and after  ",
    "<b>Tags</b> &amp; entities; 50% off!!! @shop #sale https://example.com/?q=1",
    "x" * 300,
)


def sample_texts(n_texts: int, *, seed: int = 0) -> list[str]:
    """Return `n_texts` different texts: product titles, descriptions, films, headlines, histories, other languages.

    Parameters
    ----------
    n_texts : int
        How many, up to some thousands.
    seed : int, default=0
        Another seed gives other texts, of which a few may be the same.

    Examples
    --------
    >>> sample_texts(2)[1]
    'Confession in Minor (2000). Space opera: a cargo pilot smuggles a princess past a blockade.'
    """
    draw = random.Random(seed)
    kinds: list[Callable[[random.Random], str]] = [_title, _title, _description, _film, _history, _query, _news]
    found: dict[str, None] = dict.fromkeys(draw.sample(_data()["other_languages"], k=min(n_texts // 25, 20)))
    while len(found) < n_texts:
        found.setdefault(draw.choice(kinds)(draw))
    texts = list(found)
    draw.shuffle(texts)
    return texts


def _title(draw: random.Random) -> str:
    noun, _, materials, _, _, sizes = draw.choice(_data()["kinds"])
    brand, adjective = draw.choice(_data()["brands"]), draw.choice(_data()["adjectives"])
    return f"{brand} {draw.choice(materials)} {noun}, {draw.choice(sizes)}, {adjective}"


def _description(draw: random.Random) -> str:
    noun, group, materials, features, uses, sizes = draw.choice(_data()["kinds"])
    said = ". ".join(text[0].upper() + text[1:] for text in draw.sample(features, k=draw.randint(1, len(features))))
    return (
        f"{draw.choice(_data()['brands'])} {noun} ({group}). {said}. A {draw.choice(_data()['adjectives'])} "
        f"{draw.choice(materials)} {noun} for {draw.choice(uses)}, {draw.choice(sizes)}."
    )


def _film(draw: random.Random) -> str:
    genre, premise, turn = draw.choice(_data()["films"])
    title, year = draw.choice(_data()["film_titles"]), draw.randint(1935, 2025)
    plot = premise if draw.random() < 0.5 else f"{premise}, and {turn}"
    return f"{title} ({year}). {genre.capitalize()}: {plot}."


def _history(draw: random.Random) -> str:
    return "Bought before: " + "; ".join(_title(draw) for _ in range(draw.randint(2, 8)))


def _query(draw: random.Random) -> str:
    noun, _, materials, _, uses, _ = draw.choice(_data()["kinds"])
    if draw.random() < 0.3:
        return f"Which {noun} is best for {draw.choice(uses)}?"
    return f"{draw.choice(_data()['adjectives'])} {draw.choice(materials)} {noun} for {draw.choice(uses)}"


def _news(draw: random.Random) -> str:
    return f"{draw.choice(_data()['news'])}. {draw.choice(_data()['news'])}."


@cache
def _data() -> dict[str, Any]:
    text = (resources.files("llmfeat.export") / "data" / "sample.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data
