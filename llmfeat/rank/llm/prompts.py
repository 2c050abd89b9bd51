"""Rows of user, item and time to prompts: what each user did before, as much of it as the model's context holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa

from llmfeat.encode.lm import PromptScorer
from llmfeat.errors import InputError
from llmfeat.features._rows import Rows
from llmfeat.features._text_events import TextEvents
from llmfeat.text import ChatFrame, PreferencePrompt
from llmfeat.text._truncate import cut_distinct
from llmfeat.text.preference import Seen
from llmfeat.types import BoolArray, Float64Array, Int64Array

__all__ = ["PromptWriter", "Prompts", "usual_prompt"]

_CANDIDATE = "\0"  # where the candidate goes; no text of an item has one
_MERGED = 4  # tokens by which a text in its place may differ from the text alone


def usual_prompt(scorer: PromptScorer) -> PreferencePrompt:
    """Return the prompt where none is given: histories as examples of a scorer's answers."""
    no, yes = scorer.answers.shown(scorer.tokenizer)
    return replace(PreferencePrompt.by_example(), marks=(f":{no}", f":{yes}"))


@dataclass(frozen=True, eq=False)
class Prompts:
    """The prompts of some rows.

    Attributes
    ----------
    texts : list of str or None
        A row's prompt; None where the candidate has no text.
    n_items, n_dropped : ndarray of shape (n_rows,), int64
        Items of the history that the prompt has; older ones that the model's context had no room for.
    special : bool
        Whether the tokenizer is to put its special tokens around them.
    """

    texts: list[str | None]
    n_items: Int64Array
    n_dropped: Int64Array
    special: bool

    @property
    def is_usable(self) -> BoolArray:
        """Which rows have a prompt, bool of shape ``(n_rows,)``."""
        return np.array([text is not None for text in self.texts], dtype=bool)

    def take(self, rows: Int64Array) -> list[str]:
        """Return the prompts of some rows that have one."""
        return [str(self.texts[row]) for row in rows.tolist()]


@dataclass(frozen=True, eq=False)
class LabelledPrompts:
    """Prompts of rows whose candidate has a text, and the labels of 0 and 1 of these rows."""

    texts: list[str]
    labels: Float64Array
    special: bool

    @classmethod
    def of(cls, prompts: Prompts, y: Any, *, keep: BoolArray | None = None) -> Self:
        """Return the rows that have a prompt, or those to keep of them, with their labels.

        Raises
        ------
        InputError
            When there is not a label of 0 or 1 for each row.
        """
        try:
            labels = np.asarray(y, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError("y holds no numbers, but 0 or 1 was expected for each row: cast it") from error
        if labels.shape != (len(prompts.texts),):
            raise InputError(f"y has the shape {labels.shape}, but {(len(prompts.texts),)} was expected: one a row")
        n_other = int((~np.isin(labels, (0.0, 1.0))).sum())
        if n_other:
            raise InputError(f"{n_other} of {len(labels)} labels are not 0 or 1: pass whether the user liked the item")
        rows = np.flatnonzero(prompts.is_usable if keep is None else prompts.is_usable & keep)
        return cls(prompts.take(rows), labels[rows], prompts.special)

    def __len__(self) -> int:
        return len(self.texts)


class PromptWriter:
    """Writes the prompts of rows.

    Where the model's context is too short, the oldest items of the history are left out, never the instruction, nor
    the candidate. How many depends on the history alone where items are limited in tokens (`item_tokens`), so that all
    candidates of a user share it; else on the candidate too.

    Parameters
    ----------
    scorer : PromptScorer
        The model: its tokenizer, its context and its chat template count.
    prompt : PreferencePrompt
        What is asked.
    item_ids : pyarrow.StringArray
        The items.
    texts : pyarrow.Array
        Their texts, null where one has none.

    Raises
    ------
    InputError
        When the model's context has no room for the instruction and a candidate.
    """

    def __init__(
        self, scorer: PromptScorer, prompt: PreferencePrompt, item_ids: pa.StringArray, texts: pa.Array
    ) -> None:
        spec = scorer.artifact.spec
        self._scorer = scorer
        self._prompt = prompt
        is_chat = prompt.chat and spec.chat_template is not None
        if is_chat:
            self._frame = ChatFrame.of(
                str(spec.chat_template), spec.special_tokens, system=prompt.system, opening=prompt.opening
            )
        else:
            self._frame = ChatFrame(f"{prompt.system}\n" if prompt.system else "", prompt.opening)
        self._special = not is_chat
        self.item_ids = item_ids
        self.item_texts = texts
        self._texts = self._plain(texts)
        if prompt.item_tokens is not None:
            n_tokens = self._count([self._whole([], "")])[0]
            room = scorer.max_tokens - n_tokens - prompt.item_tokens - _MERGED
            if room < 0:
                raise InputError(
                    f"the prompt without any item has {n_tokens} tokens, and with a candidate of {prompt.item_tokens} "
                    f"is longer than the {scorer.max_tokens} that {scorer.artifact.path} takes: shorten it, lower "
                    "item_tokens, or export the model with more max_tokens"
                )

    def write(self, rows: Rows, events: TextEvents) -> Prompts:
        """Return the prompts of rows, given the events of the log whose item has a text."""
        windows, window_of_row = events.labelled_windows(rows, self._prompt.max_items)
        histories = [self._history(events, *window) for window in windows.tolist()]
        places = events.index.positions(rows.items)
        candidates = [self._texts[place] if place >= 0 else None for place in places.tolist()]
        kept = self._kept(histories, window_of_row, candidates)
        heads: dict[tuple[int, int], tuple[str, str]] = {}
        texts: list[str | None] = []
        for window, n_items, candidate in zip(window_of_row.tolist(), kept.tolist(), candidates, strict=True):
            if candidate is None:
                texts.append(None)
                continue
            if (window, n_items) not in heads:
                history = histories[window]
                before, _, after = self._whole(history[len(history) - n_items :], _CANDIDATE).partition(_CANDIDATE)
                heads[window, n_items] = before, after
            before, after = heads[window, n_items]
            texts.append(f"{before}{candidate}{after}")
        n_items = np.array([len(history) for history in histories], dtype=np.int64)[window_of_row]
        return Prompts(texts, kept, n_items - kept, self._special)

    def _kept(self, histories: list[list[Seen]], window_of_row: Int64Array, candidates: list[str | None]) -> Int64Array:
        """Return how many of the newest items of its history each row's prompt has room for."""
        if self._prompt.item_tokens is not None:
            reserves = np.full(len(candidates), self._prompt.item_tokens + _MERGED, dtype=np.int64)
        else:
            distinct = list(dict.fromkeys(text for text in candidates if text is not None))
            n_tokens = dict(zip(distinct, self._scorer.count_tokens(distinct, special=False), strict=True))
            reserves = np.array([0 if text is None else n_tokens[text] + _MERGED for text in candidates], np.int64)
        cases, case_of_row = np.unique(np.stack([window_of_row, reserves], axis=1), axis=0, return_inverse=True)
        windows, room = cases[:, 0].tolist(), self._scorer.max_tokens - cases[:, 1]
        # By halves: more items are never fewer tokens.
        most = np.array([len(histories[window]) for window in windows], dtype=np.int64)
        least = np.full(len(cases), -1, dtype=np.int64)
        tried = most.copy()  # nearly always all fit
        open_cases = np.arange(len(cases))
        while len(open_cases):
            drawn = [self._newest(histories[windows[case]], int(tried[case])) for case in open_cases.tolist()]
            fits = np.array(self._count([self._whole(items, "") for items in drawn])) <= room[open_cases]
            least[open_cases[fits]] = tried[open_cases[fits]]
            most[open_cases[~fits]] = tried[open_cases[~fits]] - 1
            tried = (least + most + 1) // 2
            open_cases = np.flatnonzero(least < most)
        if (least < 0).any():
            raise InputError(
                f"{int((least < 0)[case_of_row.ravel()].sum())} candidates are longer than the model's "
                f"{self._scorer.max_tokens} tokens leave room for: pass a prompt with item_tokens=64"
            )
        return least[case_of_row.ravel()]

    @staticmethod
    def _newest(history: list[Seen], n_items: int) -> list[Seen]:
        return history[len(history) - n_items :]

    def _whole(self, history: Sequence[Seen], candidate: str) -> str:
        return self._frame.render(self._prompt.render(history, candidate))

    def _count(self, texts: list[str]) -> list[int]:
        return self._scorer.count_tokens(texts, special=self._special)

    def _history(self, events: TextEvents, start: int, known: int, stop: int) -> list[Seen]:
        found: list[Seen] = []
        for at in range(start, stop):
            text = self._texts[int(events.item_rows[at])]
            if text is not None:
                found.append((text, bool(events.is_liked[at]) if at < known else None))
        return found

    def _plain(self, texts: pa.Array) -> list[str | None]:
        """Return the items' texts, cut to their tokens, without what would speak as the template does."""
        special = [_CANDIDATE, *self._scorer.tokenizer.special_texts]
        plain: list[str | None] = []
        for text in texts.to_pylist():
            for each in special if text else ():
                text = text.replace(each, " ")
            plain.append(text.strip() or None if text else None)
        if self._prompt.item_tokens is not None:
            there = [text for text in plain if text is not None]
            cut = cut_distinct(there, self._prompt.item_tokens, self._scorer.tokenizer.truncate)
            plain = [text if text is None else cut.get(text, text) or None for text in plain]
        return plain
