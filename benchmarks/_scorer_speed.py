"""Candidates a second: a shared prefix against batched full prompts, in ONNX Runtime and in transformers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llmfeat.artifact import ModelArtifact
from llmfeat.encode.lm import PromptScorer
from llmfeat.encode.lm.causal import CausalModel, Prefix
from llmfeat.export import open_source
from llmfeat.export.quiet import quietly
from llmfeat.export.sample import sample_texts
from llmfeat.text import ChatFrame

__all__ = ["measure_speed"]

_SIZES = (1, 4, 20)  # of the batches of full prompts that are tried; the fastest is compared with
Score = Callable[[list[str]], Any]


def measure_speed(
    artifact: ModelArtifact, *, n_candidates: int, n_prefix: int, n_own: int, n_rounds: int
) -> dict[str, Any]:
    """Return seconds of each way, as medians of rounds A B C A B C, each round with a user of its own."""
    scorer = PromptScorer(artifact, prefix_bytes=0)  # nothing is known from the round before
    warm = PromptScorer(artifact)
    tokens = scorer.tokenizer.whole_ids
    draw = np.random.default_rng(0)
    rounds = [_prompts(scorer, draw, n_candidates, n_prefix, n_own) for _ in range(n_rounds + 1)]
    for prompts in rounds:
        lengths = {len(ids) for ids in tokens(prompts, special=False)}
        assert lengths == {n_prefix + n_own}, lengths
    model = CausalModel(artifact)
    torch_logits = _torch_model(artifact)
    warm.log_probs(rounds[-1], special=False)
    ways: dict[str, Callable[[list[str]], Any]] = {
        "shared prefix": lambda prompts: scorer.log_probs(prompts, special=False),
        "shared prefix, instruction known": lambda prompts: warm.log_probs(prompts, special=False),
    }
    for size in [size for size in _SIZES if size <= n_candidates]:
        ways[f"full prompts, batches of {size}"] = _in_batches(
            lambda ids: model.logits(Prefix((), ()), ids), scorer, size
        )
        ways[f"torch, full prompts, batches of {size}"] = _in_batches(torch_logits, scorer, size)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    differences = {"full prompts": 0.0, "torch": 0.0}
    for prompts in rounds[:n_rounds]:
        said = {}
        for name, way in ways.items():
            started = time.perf_counter()
            said[name] = way(prompts)
            seconds[name].append(time.perf_counter() - started)
        for what, name in (
            ("full prompts", "full prompts, batches of "),
            ("torch", "torch, full prompts, batches of "),
        ):
            other = next(values for key, values in said.items() if key.startswith(name))
            gap = np.abs((said["shared prefix"] - other) @ np.array([1.0, -1.0])).max()
            differences[what] = max(differences[what], float(gap))
    best = {
        what: min((np.median(seconds[name]), name) for name in ways if name.startswith(what)) for what in differences
    }
    shared = np.array(seconds["shared prefix"])
    return {
        "part": "speed",
        "n_candidates": n_candidates,
        "prefix_tokens": n_prefix,
        "own_tokens": n_own,
        "rounds": n_rounds,
        "candidates_per_s": {name: n_candidates / float(np.median(values)) for name, values in seconds.items()},
        # By round, then the median of these: the machine is not alike from minute to minute.
        "prefix_speedup": float(np.median(np.array(seconds[best["full prompts"][1]]) / shared)),
        "vs_torch": float(np.median(np.array(seconds[best["torch"][1]]) / shared)),
        "fastest_full": best["full prompts"][1],
        "fastest_torch": best["torch"][1],
        "score_difference_nats": differences,
    }


def _prompts(scorer: PromptScorer, draw: Any, n_candidates: int, n_prefix: int, n_own: int) -> list[str]:
    """Return prompts of `n_prefix` tokens in common and `n_own` each, the closing of the chat template among these."""
    spec = scorer.artifact.spec
    frame = ChatFrame.of(
        str(spec.chat_template),
        spec.special_tokens,
        system="You predict whether a user will like an item. Answer Yes or No.",
    )
    texts = sample_texts(400, seed=int(draw.integers(1 << 30)))
    before, after = f"{frame.before}Liked:", f"\nLiked?{frame.after}"

    def count(text: str) -> int:
        return scorer.count_tokens([text], special=False)[0]

    head = _filled(" ".join(texts[:40]), lambda text: count(f"{before} {text}\nNext:") - n_prefix, scorer)
    shared = f"{before} {head}\nNext:"
    # Each candidate begins with another word, so that they share no more.
    found: list[str] = []
    for at, text in enumerate(texts[40:]):
        own = _filled(
            f"{chr(65 + at % 26)}{at} {text}", lambda text: count(f"{shared} {text}{after}") - n_prefix - n_own, scorer
        )
        prompt = f"{shared} {own}{after}"
        if count(prompt) == n_prefix + n_own and prompt not in found:
            found.append(prompt)
        if len(found) == n_candidates:
            return found
    raise RuntimeError("too few candidates of that length")


def _filled(text: str, excess: Callable[[str], int], scorer: PromptScorer) -> str:
    """Return the begin of a text that is too long by nothing, as near as its tokens allow."""
    n_tokens = scorer.count_tokens([text], special=False)[0]
    while n_tokens > 1 and excess(text) > 0:
        n_tokens -= max(1, excess(text))
        text = scorer.tokenizer.truncate([text], max(1, n_tokens))[0].rstrip()
    return text


def _in_batches(logits: Callable[[Any], Any], scorer: PromptScorer, size: int) -> Score:
    def score(prompts: list[str]) -> Any:
        ids = scorer.tokenizer.whole_ids(prompts, special=False)
        parts = [
            scorer.answer_tokens.log_probs(logits(ids[begin : begin + size])) for begin in range(0, len(ids), size)
        ]
        return np.concatenate(parts)

    return score


def _torch_model(artifact: ModelArtifact) -> Callable[[Sequence[Sequence[int]]], Any]:
    """Return transformers' own way to the logits of the last token, in float32."""
    import torch
    import transformers

    with open_source(artifact.spec.source) as source, quietly():
        model = transformers.AutoModelForCausalLM.from_pretrained(str(source.path), dtype=torch.float32).eval()

    def logits(ids: Sequence[Sequence[int]]) -> Any:
        with torch.inference_mode():  # all of one length: nothing is padded
            return model(input_ids=torch.tensor(ids), use_cache=False, logits_to_keep=1).logits[:, -1].numpy()

    return logits
