"""What runs a graph: one small protocol."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np

from llmfeat.types import Float32Array, Int64Array

__all__ = ["CPU_BUCKETS", "OUTPUT", "Backend", "Buckets", "feeds", "first_line"]

OUTPUT = "embedding"

# (up to this length, texts are padded to a multiple of this), in tokens.
Buckets: TypeAlias = tuple[tuple[int, int], ...]

# Short texts come in thousands of equal length, so they need no padding; of longer ones 1 to 3 % is padding on average.
CPU_BUCKETS: Buckets = ((32, 1), (64, 2), (128, 4), (256, 8), (512, 16), (1 << 30, 64))


class Backend(Protocol):
    """Runs an exported graph on padded token ids; `run` may be called from `n_streams` threads at once.

    Attributes
    ----------
    numerics : str
        The class of backends whose vectors have the same bits, up to the kind of processor; also the backend's name.
    n_streams : int
        How many batches it runs at once.
    batch_tokens : int
        How many padded tokens a batch has at most, unless the user says otherwise.
    buckets : Buckets
        To which lengths texts are padded.
    """

    numerics: str
    n_streams: int
    batch_tokens: int
    buckets: Buckets

    def run(self, input_ids: Int64Array, attention_mask: Int64Array, prompt_tokens: int) -> Float32Array:
        """Return the vectors, float32 of shape ``(n_texts, dim)``, of ids and mask of shape ``(n_texts, length)``.

        The first `prompt_tokens` of each text are the prompt's, for graphs that leave them out of the pooling.
        """
        ...


def feeds(
    names: set[str], input_ids: Int64Array, attention_mask: Int64Array, prompt_tokens: int
) -> dict[str, Int64Array]:
    """Return what a graph with the inputs `names` is fed."""
    possible = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "token_type_ids": np.zeros_like(input_ids),
        "prompt_tokens": np.full(len(input_ids), prompt_tokens, dtype=np.int64),
    }
    return {name: possible[name] for name in names}


def first_line(error: Exception) -> str:
    """Return what a runtime's error says, without the places before it and the pages that follow."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return (said or [type(error).__name__])[0][:300]
