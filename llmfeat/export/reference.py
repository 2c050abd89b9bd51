"""The model in torch, as its makers run it: what an exported graph is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat.errors import ExportError
from llmfeat.export.head import EmbeddingHead
from llmfeat.export.probes import Probe
from llmfeat.export.quiet import quietly
from llmfeat.export.source import ModelSource
from llmfeat.export.trace import load_torch
from llmfeat.types import Float32Array

__all__ = ["Advance", "EncoderReference", "ScorerReference"]

Advance = Callable[[int], None]  # is told how many tokens were computed

_BATCH, _AT_ONCE = 8, 64
# Given a model that was never saved by it, sentence-transformers would put each text into the model's chat template.
_PLAIN_TEXT = {
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
# Left unsaid, transformers asks at the terminal whether to run what came with a model.
_NO_CODE = {"trust_remote_code": False, "local_files_only": True}
_ST_POOLING = {"mean": "mean", "cls": "cls", "last": "lasttoken"}


class EncoderReference:
    """sentence-transformers, in torch, float32, on the CPU.

    Parameters
    ----------
    source : ModelSource
        The model; its own ``modules.json`` is used, unless there is none or `head` pools otherwise.
    head : EmbeddingHead
        What follows the transformer.
    max_tokens : int
        Where texts are cut.
    """

    def __init__(self, source: ModelSource, head: EmbeddingHead, *, max_tokens: int) -> None:
        module = import_optional("sentence_transformers", purpose="checking an export")
        try:
            with quietly():
                model = _load(source, head)
        except (ValueError, OSError) as error:
            raise ExportError(
                f"sentence-transformers {module.__version__} cannot load {source.name}, to compare with it: {error} "
                "(llmfeat runs no code that comes with a model)"
            ) from error
        model.max_seq_length = max_tokens
        model.truncate_dim = head.dim
        if model.tokenizer.pad_token is None:
            model.tokenizer.pad_token = model.tokenizer.eos_token
        self._model: Any = model.float()
        self._normalize = head.normalize
        self.name = f"sentence-transformers {module.__version__}, torch fp32"

    def encode(self, probes: Sequence[Probe], *, advance: Advance) -> Float32Array:
        """Return the vectors of some texts after their prompts, float32 of shape ``(n_texts, dim)``."""
        rows: list[Float32Array | None] = [None] * len(probes)
        with quietly():
            for prompt in dict.fromkeys(probe.prompt for probe in probes):
                places = [at for at, probe in enumerate(probes) if probe.prompt == prompt]
                for begin in range(0, len(places), _AT_ONCE):
                    part = places[begin : begin + _AT_ONCE]
                    found = self._model.encode(
                        [probes[at].text for at in part],
                        prompt=prompt,  # an empty one too: None would be the model's default
                        batch_size=_BATCH,
                        normalize_embeddings=self._normalize,  # once more, after the truncation
                        show_progress_bar=False,
                    )
                    for at, row in zip(part, found, strict=True):
                        rows[at] = row
                    advance(sum(len(probes[at].ids) for at in part))
        return np.stack([row for row in rows if row is not None])

    def token_ids(self, text: str, *, prompt: str) -> list[int]:
        """Return the token ids of one text, as this library cuts it."""
        with quietly():
            ids: list[int] = self._model.preprocess([text], prompt=prompt)["input_ids"][0].tolist()
        return ids


class ScorerReference:
    """transformers, in torch, float32, on the CPU, a text at a time.

    Parameters
    ----------
    source : ModelSource
        The model.
    """

    def __init__(self, source: ModelSource) -> None:
        self._torch: Any = import_optional("torch", purpose="checking an export")
        with quietly():
            self._model = load_torch(source, kind="scorer")
        version = import_optional("transformers", purpose="checking an export").__version__
        self.name = f"transformers {version}, torch fp32"

    def log_probs(self, ids: Sequence[Sequence[int]], *, advance: Advance) -> Float32Array:
        """Return the log-probabilities of the token after each list, in nats, float32 of shape ``(n, vocab_size)``."""
        rows = []
        with self._torch.inference_mode():
            for row in ids:
                logits = self._model(input_ids=self._torch.tensor([list(row)]), use_cache=False).logits[0, -1]
                rows.append(self._torch.log_softmax(logits.double(), dim=-1).float().numpy())
                advance(len(row))
        return np.stack(rows)


def _load(source: ModelSource, head: EmbeddingHead) -> Any:
    module = import_optional("sentence_transformers", purpose="checking an export")
    parts = import_optional("sentence_transformers.models", purpose="checking an export")
    if head.stated:
        model = module.SentenceTransformer(str(source.root), device="cpu", **_NO_CODE)
        model[1].pooling_mode = _ST_POOLING[head.pooling]
        return model
    keywords = {f"{part}_kwargs": dict(_NO_CODE) for part in ("model", "processor", "config")}
    transformer = parts.Transformer(str(source.path), **_PLAIN_TEXT, **keywords)
    pooling = parts.Pooling(head.hidden_size, pooling_mode=_ST_POOLING[head.pooling])
    return module.SentenceTransformer(modules=[transformer, pooling], device="cpu")
