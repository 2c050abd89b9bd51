"""The comparison of an exported graph with the model it came from."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat.errors import ParityError
from llmfeat.export.graph import OUTPUT
from llmfeat.export.sources import ModelSource
from llmfeat.types import Float32Array

__all__ = ["LEAST_COSINE", "check_parity", "parity_texts"]

# fp32 against fp32: what remains is the order of additions.
LEAST_COSINE = 0.9999
_N_TEXTS = 200
_BATCH = 8
_SPECIAL = (
    "a",
    "1995",
    "Ünïcödé – naïve café",
    "電影 映画 영화",
    "фильм",
    "فيلم",
    "🎬🍿",
    "UPPER lower MiXeD",
    "a\tb\nc",
    "",
)


def parity_texts(tokenizer: Any, *, max_tokens: int, n_texts: int = _N_TEXTS, seed: int = 0) -> list[str]:
    """Return texts of 1 to `max_tokens` tokens made of the tokenizer's own words, and some awkward ones."""
    words = sorted(word for word in tokenizer.get_vocab() if word.isalpha() and word.isascii())
    draw = random.Random(seed)
    n_made = n_texts - len(_SPECIAL)
    lengths = np.geomspace(1, max(max_tokens - 2, 1), n_made).astype(int)
    return [*_SPECIAL, *(" ".join(draw.choices(words, k=length)) for length in lengths)]


def check_parity(graph: Path, tokenizer_path: Path, source: ModelSource, *, max_tokens: int) -> dict[str, Any]:
    """Return the parity certificate: the exported graph against sentence-transformers, text by text.

    Raises
    ------
    ParityError
        When a cosine is under `LEAST_COSINE`.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    texts = parity_texts(tokenizer, max_tokens=max_tokens)
    wanted = _reference(source, texts, max_tokens=max_tokens)
    got = _run(graph, tokenizer, texts)
    cosines = np.einsum("ij,ij->i", got, wanted) / np.linalg.norm(got, axis=1) / np.linalg.norm(wanted, axis=1)
    worst = int(np.argmin(cosines))
    if not cosines[worst] >= LEAST_COSINE:
        raise ParityError(
            f"the exported graph of {source.name} has cosine {cosines[worst]:.6f} with the model on test text {worst} "
            f"of {len(texts)}, at least {LEAST_COSINE} was expected: report this model, its export cannot be trusted"
        )
    reference = import_optional("sentence_transformers", purpose="checking an export").__version__
    return {
        "n_texts": len(texts),
        "cosine_min": float(cosines.min()),
        "cosine_mean": float(cosines.mean()),
        "least_cosine": LEAST_COSINE,
        "reference": f"sentence-transformers {reference}, torch fp32",
    }


def _reference(source: ModelSource, texts: list[str], *, max_tokens: int) -> Float32Array:
    module = import_optional("sentence_transformers", purpose="checking an export")
    model = module.SentenceTransformer(str(source.path), device="cpu")
    model.max_seq_length = max_tokens
    vectors: Float32Array = model.encode(texts, batch_size=_BATCH, show_progress_bar=False)
    return vectors


def _run(graph: Path, tokenizer: Any, texts: list[str]) -> Float32Array:
    """Encode in the plainest way there is, so that the check does not lean on the engine."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    names = {entry.name for entry in session.get_inputs()}
    rows = []
    for text in texts:
        encoded = tokenizer.encode(text)
        feeds = {
            "input_ids": np.array([encoded.ids], dtype=np.int64),
            "attention_mask": np.array([encoded.attention_mask], dtype=np.int64),
            "token_type_ids": np.array([encoded.type_ids], dtype=np.int64),
        }
        rows.append(session.run([OUTPUT], {name: feeds[name] for name in names})[0][0])
    return np.stack(rows)
