"""A tiny language model that answers "a" for yes and "b" for no, exported once for the tests of a worker.

`llm_source`, `llm_artifact` and `llm_unshared` are fixtures of every test (`conftest.py` names this file as a plugin).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmfeat import ModelArtifact, export_model
from llmfeat.encode.lm import Answers
from llmfeat.export import job, parity
from llmfeat.export.sample import sample_texts
from tests import tiny_models
from tests.tiny_models import save_tiny

ANSWERS = Answers(("a",), ("b",))
# What the tiny tokenizer is trained on too, so that each is a token.
_SAID = ["yes no Yes No"] * 200

# As SmolLM2 writes it, in the special tokens of the tiny tokenizer.
CHAT = (
    "{% for message in messages %}{{ '<begin>' + message['role'] + '\n' + message['content'] + '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<begin>assistant\n' }}{% endif %}"
)

# Titles whose first or last characters merge with their surroundings, or that begin alike.
AWKWARD_TITLES = (
    "heat",
    "heats",
    "heat 2",
    "hea",
    " heat",
    "   heat",
    "heat ",
    "'s",
    "s",
    ".",
    "...",
    "!?",
    "1995",
    "99",
    "電影",
    "電影 🎬",
    "映画",
    "фильм",
    "فيلم",
    "🎬🍿",
    "👨‍👩‍👧‍👦",
    "👨‍👩",
    "é",
    "e\u0301",
    "\n",
    "\tx",
    "<end>",
    "<begin>heat",
    "<end",
    "x" * 40,
    "",
)


@pytest.fixture(scope="session")
def llm_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Llama with a chat template, which knows yes and no; tests change copies of it only."""
    with few_texts() as patch:
        patch.setattr(tiny_models, "sample_texts", lambda *sample, **how: [*sample_texts(*sample, **how), *_SAID])
        folder = save_tiny("llama", tmp_path_factory.mktemp("llm") / "source")
    (folder / "chat_template.jinja").write_text(CHAT)
    return folder


@pytest.fixture(scope="session")
def llm_artifact(llm_source: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelArtifact:
    """What it is exported to."""
    with few_texts():
        return export_model(llm_source, tmp_path_factory.mktemp("llm") / "artifact", kind="scorer")


@pytest.fixture(scope="session")
def llm_unshared(llm_source: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelArtifact:
    """The same model in a graph whose cache has a row for each prompt."""
    with few_texts() as patch:
        patch.setattr(job, "share_prefix", lambda graph: False)
        return export_model(llm_source, tmp_path_factory.mktemp("llm") / "unshared", kind="scorer")


@contextlib.contextmanager
def few_texts() -> Iterator[pytest.MonkeyPatch]:
    """Compare with torch on a few texts only, whose libraries warn: what the certificate finds has tests of its own."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(parity, "_N_CATALOGUE", 16)
        yield patch


def alone(folder: Path, prompts: Sequence[str], *, special: bool = True, answers: Answers = ANSWERS) -> np.ndarray:
    """Return log P(yes) and log P(no) of each prompt, one by one, by transformers in torch."""
    import torch

    model, tokenizer = _opened(folder)
    sides = [
        [
            tokenizer.convert_tokens_to_ids(tokenizer.tokenize(way))[0]
            for word in words
            for way in answers.variants(word)
        ]
        for words in (answers.positive, answers.negative)
    ]
    found = []
    for prompt in prompts:
        ids = tokenizer(prompt, add_special_tokens=special)["input_ids"]
        with torch.inference_mode():
            said = model(torch.tensor([ids])).logits[0, -1].double().log_softmax(0)
        found.append([float(said[sorted(set(side))].logsumexp(0)) for side in sides])
    return np.array(found)


def whole(folder: Path, prompt: str, *, special: bool = True) -> tuple[int, ...]:
    """Return the tokens of a whole prompt, by transformers."""
    return tuple(_opened(folder)[1](prompt, add_special_tokens=special)["input_ids"])


_OPENED: dict[Path, Any] = {}


def _opened(folder: Path) -> Any:
    if folder not in _OPENED:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        _OPENED[folder] = model, AutoTokenizer.from_pretrained(folder)
    return _OPENED[folder]
