"""A model on this machine, in the layout of transformers or sentence-transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llmfeat._base.optional import import_optional
from llmfeat.errors import ExportError
from llmfeat.export.quiet import quietly

__all__ = ["ModelSource", "require_weights"]

# Families whose positions begin after the padding token's id, so that fewer are usable than the table has rows.
_POSITIONS_AFTER_PADDING = {
    "camembert",
    "data2vec-text",
    "ibert",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
_DECODER_TOKENS = 512
_POOLER = "pooler."
# The names that sentence-transformers has given to one file, in its order.
_SETTINGS = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)


@dataclass(frozen=True)
class ModelSource:
    """A model on this machine, in the layout of transformers or sentence-transformers.

    Attributes
    ----------
    name : str
        What the user called it.
    root : Path
        The folder.
    revision : str
        The hub's commit, else the SHA-256 of the weights.
    licence : str
        As the model card or the GGUF file says, ``"unknown"`` where none does.
    """

    name: str
    root: Path
    revision: str
    licence: str

    @cached_property
    def path(self) -> Path:
        """The folder of the transformer, which older sentence-transformers models keep below the root."""
        modules = self.read_json("modules.json") or [{"path": ""}]
        return self.root / str(modules[0]["path"])

    @cached_property
    def config(self) -> Any:
        """The transformer's configuration.

        Raises
        ------
        ExportError
            When transformers does not know the architecture.
        """
        transformers = import_optional("transformers", purpose="exporting a model")
        try:
            return transformers.AutoConfig.from_pretrained(
                str(self.path), local_files_only=True, trust_remote_code=False
            )
        except (ValueError, OSError, KeyError) as error:
            raise ExportError(
                f"transformers {transformers.__version__} cannot read the configuration of {self.name}: {error} "
                "(llmfeat runs no code that comes with a model; an architecture must be part of transformers)"
            ) from error

    @property
    def architecture(self) -> str:
        """The class that the weights were saved from."""
        return str((self.config.architectures or [type(self.config).__name__.removesuffix("Config")])[0])

    @property
    def hidden_size(self) -> int:
        """The dimensions of a token.

        Raises
        ------
        ExportError
            When the configuration is not that of a text model.
        """
        if not hasattr(self.config, "hidden_size"):
            raise ExportError(f"{self.name} ({self.architecture}) states no hidden_size: text models can be exported")
        return int(self.config.hidden_size)

    @cached_property
    def is_decoder(self) -> bool:
        """Whether this is a causal language model: every token sees those before it only.

        Raises
        ------
        ExportError
            For an encoder with a decoder.
        """
        if getattr(self.config, "is_encoder_decoder", False):
            raise ExportError(
                f"{self.name} is an encoder with a decoder ({self.architecture}): "
                "encoders like BERT and decoders like Llama can be exported"
            )
        auto = import_optional("transformers.models.auto.modeling_auto", purpose="exporting a model")
        kind = self.config.model_type
        # BERT and its kin stand in both lists, for their rarely used causal variants.
        return kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of transformers."""
        transformers = import_optional("transformers", purpose="exporting a model")
        try:
            with quietly():
                tokenizer = transformers.AutoTokenizer.from_pretrained(
                    str(self.path), local_files_only=True, trust_remote_code=False
                )
        except (ValueError, OSError, ImportError, TypeError, KeyError, AttributeError) as error:
            # Where a file is missing, each tokenizer fails in a way of its own.
            raise ExportError(
                f"the tokenizer of {self.name} cannot be loaded, is tokenizer.json in {self.path}? {error}"
            ) from error
        if not tokenizer.is_fast:
            raise ExportError(
                f"{self.name} has {type(tokenizer).__name__}, but a fast tokenizer was expected: its words cannot be "
                "split without transformers"
            )
        return tokenizer

    @property
    def context_tokens(self) -> int | None:
        """How many positions the model has, None where its configuration does not say."""
        positions = getattr(self.config, "max_position_embeddings", None)
        if not positions or positions < 0:
            return None
        if self.config.model_type in _POSITIONS_AFTER_PADDING:
            return int(positions) - int(self.config.pad_token_id) - 1
        return int(positions)

    def max_tokens(self, asked: int | None = None) -> int:
        """Return where texts are cut, special tokens included: as asked, else the model's own, 512 for decoders.

        Raises
        ------
        ExportError
            When the model has fewer positions, or states no limit.
        """
        context = self.context_tokens
        if asked is not None and (asked < 1 or (context is not None and asked > context)):
            raise ExportError(f"max_tokens={asked!r}, but {self.name} has {context} positions: pass 1 to {context}")
        n_special = self.tokenizer.num_special_tokens_to_add()
        if asked is not None and asked <= n_special:
            raise ExportError(
                f"max_tokens={asked!r}, but {self.name} puts {n_special} special tokens around a text: pass more"
            )
        if asked is not None:
            return asked
        own = self.settings.get("max_seq_length") or self.tokenizer.model_max_length
        limits = [limit for limit in (own, context) if limit is not None and limit < 10**9]
        if self.is_decoder:
            limits.append(_DECODER_TOKENS)
        if not limits:
            raise ExportError(f"{self.name} states no maximum length: pass max_tokens=...")
        return int(min(limits))

    def read_json(self, name: str, *, at: Path | None = None) -> Any:
        """Return the content of a JSON file below the root, or `at` another folder; None where there is none."""
        path = (at or self.root) / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ExportError(f"{path} cannot be read: {error}. Fetch the model again") from error

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What sentence-transformers notes of the transformer: maximum length, lower case, modalities."""
        for name in _SETTINGS:
            if found := self.read_json(name, at=self.path):
                return dict(found)
        return {}


def require_weights(name: str, loaded: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that lacks weights, which transformers draws at random.

    Parameters
    ----------
    name : str
        How to speak of the model.
    loaded : mapping
        What ``from_pretrained(..., output_loading_info=True)`` says.
    """
    # The pooler of BERT is left out of many checkpoints, and of every graph.
    missing = sorted(weight for weight in loaded["missing_keys"] if not weight.startswith(_POOLER))
    if missing:
        raise ExportError(
            f"{name} lacks {len(missing)} weights, such as {missing[0]!r}: export a whole checkpoint; a model without "
            "a vocabulary product is no scorer"
        )
