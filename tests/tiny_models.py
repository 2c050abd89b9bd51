"""Models of the real architectures with few, random weights, and tokenizers trained on the spot: no download."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from llmfeat.export.sample import sample_texts

__all__ = ["ENCODERS", "FAMILIES", "SCORERS", "TEXTS", "save_modules", "save_tiny"]

TEXTS = ["heat", "Steel water bottle, 750 ml", "a b c d e f", "電影 🎬", "", "office chair " * 90]

_VOCABULARY = 800
_POSITIONS = 600
# Larger than the usual 0.02: with that, all texts have nearly the same vector, and any graph would pass.
_SPREAD = 0.2
_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": _SPREAD,
}


def save_tiny(family: str, folder: Path, *, seed: int = 0, **config: Any) -> Path:
    """Save a tiny model of a family, as save_pretrained() does, and return its folder."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = FAMILIES[family](folder)
    model_class, config_class, sizes = _classes(family)
    torch.manual_seed(seed)
    special = {
        f"{role}_token_id": getattr(tokenizer, f"{role}_token_id")
        for role in ("pad", "bos", "eos", "cls", "sep")
        if getattr(tokenizer, f"{role}_token_id", None) is not None
    }
    model = model_class(config_class(vocab_size=len(tokenizer), **{**_SIZES, **sizes, **special, **config}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Biases and gains are initialized to zeros and ones, which hide what is done with them.
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))
            assert weight.isfinite().all(), name
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_modules(
    folder: Path,
    *,
    pooling: str = "mean",
    dense: tuple[int, ...] = (),
    normalize: bool = True,
    include_prompt: bool = True,
    prompts: dict[str, str] | None = None,
    max_seq_length: int | None = None,
) -> Path:
    """Turn a tiny model's folder into one of sentence-transformers, by that library itself."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers import models as parts

    transformer = parts.Transformer(str(folder))
    modes = {"mean": "mean", "cls": "cls", "last": "lasttoken"}
    size = transformer.get_embedding_dimension()
    modules: list[Any] = [
        transformer,
        parts.Pooling(size, pooling_mode=modes.get(pooling, pooling), include_prompt=include_prompt),
    ]
    for width in dense:
        modules.append(parts.Dense(size, width))
        size = width
    if normalize:
        modules.append(parts.Normalize())
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts)
    model.save(str(folder), safe_serialization=True, create_model_card=False)
    if max_seq_length is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": max_seq_length}))
    return folder


def _classes(family: str) -> tuple[Any, Any, dict[str, Any]]:
    import transformers as tf

    grouped = {"num_key_value_heads": 2, "max_position_embeddings": _POSITIONS}
    return {
        "bert": (tf.BertModel, tf.BertConfig, {"max_position_embeddings": _POSITIONS}),
        "mpnet": (tf.MPNetModel, tf.MPNetConfig, {"max_position_embeddings": _POSITIONS}),
        "xlm-roberta": (tf.XLMRobertaModel, tf.XLMRobertaConfig, {"max_position_embeddings": _POSITIONS}),
        "ernie": (tf.ErnieModel, tf.ErnieConfig, {"max_position_embeddings": _POSITIONS}),
        "modernbert": (
            tf.ModernBertModel,
            tf.ModernBertConfig,
            {"max_position_embeddings": _POSITIONS, "local_attention": 16, "num_hidden_layers": 4},
        ),
        "qwen3": (tf.Qwen3ForCausalLM, tf.Qwen3Config, {**grouped, "head_dim": 8}),
        "llama": (tf.LlamaForCausalLM, tf.LlamaConfig, {**grouped, "tie_word_embeddings": True}),
        "starcoder2": (tf.Starcoder2ForCausalLM, tf.Starcoder2Config, grouped),
    }[family]


def _wordpiece(folder: Path) -> Any:
    """BERT's: words in lower case, [CLS] and [SEP] around them."""
    import transformers as tf

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    _train(tokenizer, trainers.WordPieceTrainer(vocab_size=_VOCABULARY, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    return _fast(tf, tokenizer, names)


def _sentencepiece(folder: Path) -> Any:
    """XLM-RoBERTa's: pieces of a unigram model, <s> and </s> around them, padding with id 1."""
    import transformers as tf

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=_VOCABULARY, special_tokens=special, unk_token="<unk>")
    _train(tokenizer, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos": "<s>", "cls": "<s>", "pad": "<pad>", "eos": "</s>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
    return _fast(tf, tokenizer, names)


def _bytes(*, around: str) -> Callable[[Path], Any]:
    """Byte-level BPE, with what stands `around` a text: nothing, its end (Qwen3), its begin (Llama), or both."""

    def build(folder: Path) -> Any:
        import transformers as tf

        special = ["<pad>", "<begin>", "<end>"]
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        _train(
            tokenizer, trainers.BpeTrainer(vocab_size=_VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
        )
        if around != "$A":
            tokenizer.post_processor = processors.TemplateProcessing(
                single=around, special_tokens=[("<begin>", 1), ("<end>", 2)]
            )
        names = {"pad": "<pad>", "bos": "<begin>", "eos": "<end>"}
        if around == "<begin> $A <end>":
            names |= {"cls": "<begin>", "sep": "<end>"}
        return _fast(tf, tokenizer, names)

    return build


def _train(tokenizer: Tokenizer, trainer: Any) -> None:
    trainer.show_progress = False
    tokenizer.train_from_iterator(sample_texts(400, seed=3), trainer)


def _fast(tf: Any, tokenizer: Tokenizer, names: dict[str, str]) -> Any:
    tokens = {f"{role}_token": token for role, token in names.items()}
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if "[CLS]" in names.values() else [])]
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=512, model_input_names=inputs, **tokens
    )


# family -> its tokenizer
FAMILIES: dict[str, Callable[[Path], Any]] = {
    "bert": _wordpiece,
    "mpnet": _wordpiece,
    "ernie": _wordpiece,
    "xlm-roberta": _sentencepiece,
    "modernbert": _bytes(around="<begin> $A <end>"),
    "qwen3": _bytes(around="$A <end>"),
    "llama": _bytes(around="<begin> $A"),
    "starcoder2": _bytes(around="$A"),
}
ENCODERS = tuple(FAMILIES)
SCORERS = ("qwen3", "llama", "starcoder2")
