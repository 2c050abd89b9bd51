"""The texts of the parity check: every length, every script, and what people sell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llmfeat.export.sample import AWKWARD_TEXTS, sample_texts

if TYPE_CHECKING:
    from llmfeat.artifact import TextTokenizer

__all__ = ["Probe", "catalogue_probes", "make_probes"]

_LONGEST = 512
_N_LENGTHS = 32
_SEED = 2  # neither that of the catalogue's texts nor that of calibration


@dataclass(frozen=True)
class Probe:
    """A text of the check.

    Attributes
    ----------
    said : str
        How to speak of it.
    text, prompt : str
        What the reference encodes.
    ids : tuple of int
        What the graph gets: tokens of the prompt and the text.
    prompt_tokens : int
        How many of `ids` are the prompt's.
    """

    said: str
    text: str
    prompt: str
    ids: tuple[int, ...]
    prompt_tokens: int


def make_probes(tokenizer: TextTokenizer, prompts: Sequence[str]) -> list[Probe]:
    """Return texts of 1 to 512 tokens, or to where the model cuts, and awkward ones, once for each prompt."""
    longest = min(tokenizer.max_tokens, _LONGEST)
    texts = [(f"awkward text {at} ({len(text)} characters)", text) for at, text in enumerate(AWKWARD_TEXTS)]
    texts += [(f"sample cut at {length} tokens", text) for length, text in _of_every_length(tokenizer, longest)]
    return [_probe(tokenizer, said, text, prompt) for prompt in dict.fromkeys(prompts) for said, text in texts]


def catalogue_probes(tokenizer: TextTokenizer, prompt: str, *, n_texts: int) -> list[Probe]:
    """Return `n_texts` texts as catalogues have them."""
    texts = sample_texts(n_texts)
    return [_probe(tokenizer, f"catalogue text {at}", text, prompt) for at, text in enumerate(texts)]


def _probe(tokenizer: TextTokenizer, said: str, text: str, prompt: str) -> Probe:
    ids = tuple(tokenizer.ids(prompt + text))
    # An empty text that has no token is one padding token, which the reference reads from its name.
    text = text or (tokenizer.pad_token if not tokenizer.counts_any(prompt) else "")
    return Probe(f"{said}, {len(ids)} tokens", text, prompt, ids, tokenizer.prompt_tokens(prompt))


def _of_every_length(tokenizer: TextTokenizer, longest: int) -> list[tuple[int, str]]:
    """Return (tokens, text) for lengths from 1 to a little over `longest`, closer together where they are short."""
    source = " ".join(sample_texts(4 * longest // 10 + 20, seed=_SEED))
    ends = tokenizer.token_ends(source)
    lengths = np.unique(np.geomspace(1, longest + longest // 8 + 1, _N_LENGTHS).astype(int))
    return [(int(length), source[: ends[min(length, len(ends)) - 1]]) for length in lengths]
