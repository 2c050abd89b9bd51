"""A causal language model adapted to labelled prompts, by low-rank matrices that are merged into its weights.

The loss is that of the score which the exported model will give: log P(yes) - log P(no) of the one token after the
prompt, as the log-odds of a label (Hu et al., LoRA, 2021; Bao et al., TALLRec, 2023).
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmfeat._base.files import canonical_json, text_sha256
from llmfeat._base.optional import import_optional
from llmfeat._base.progress import bar
from llmfeat.artifact import ModelArtifact
from llmfeat.errors import ExportError, InputError
from llmfeat.export.exporter import export_source
from llmfeat.export.fetch import open_source
from llmfeat.export.frozen import KeptStates
from llmfeat.export.quiet import quietly
from llmfeat.export.source import ModelSource
from llmfeat.export.trace import load_torch
from llmfeat.types import Float64Array

__all__ = ["TRAINING", "Examples", "Lora", "finetune_scorer"]

TRAINING = 2
"""Bumped when the same rows and settings give another model."""
_MEGABATCH = 16  # batches whose rows are sorted by length together, so that little is padded


@dataclass(frozen=True)
class Lora:
    """How a model is adapted.

    Parameters
    ----------
    rank : int, default=8
        Of the matrices that are learned.
    alpha : float, optional
        Their scale; twice the rank by default.
    layers : int, optional
        How many layers are adapted, counted from the last; a third of them by default. No gradient goes through those
        before, and what they make of a row is kept from the first epoch on, where all rows' states take up to 4 GiB.
    learning_rate : float, default=1e-3
        At its peak, after a tenth of the steps; it falls to zero by the end.
    weight_decay : float, default=0.01
        Of AdamW.
    epochs : int, default=4
        At most.
    batch_rows : int, default=8
        Rows of a step.
    patience : int, default=1
        Stop after so many epochs without a lower loss on the rows held out; the best epoch's weights are kept.
    dtype : {"auto", "float32", "bfloat16"}, default="auto"
        bfloat16 on a GPU, and on processors that multiply it. The model's own weights are then rounded to it, for good;
        what is learned is not.
    device : str, default="auto"
        ``cuda`` where there is one, else ``cpu``.
    """

    rank: int = 8
    alpha: float | None = None
    layers: int | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    epochs: int = 4
    batch_rows: int = 8
    patience: int = 1
    dtype: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("rank", "epochs", "batch_rows", "patience", "layers"):
            value = getattr(self, name)
            if value is None and name == "layers":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name}={value!r}, but a whole number from 1 on was expected")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate={self.learning_rate!r}, but more than 0 was expected")
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise InputError(f"dtype={self.dtype!r}, but 'auto', 'float32' or 'bfloat16' was expected")


@dataclass(frozen=True, eq=False)
class Examples:
    """Prompts as token ids, and the label of each: 0 or 1."""

    ids: Sequence[Sequence[int]]
    labels: Float64Array

    def digest(self) -> str:
        """Return the SHA-256 of all of it, in hex."""
        return text_sha256(canonical_json([[list(row) for row in self.ids], self.labels.tolist()]))

    def __len__(self) -> int:
        return len(self.ids)


def finetune_scorer(
    artifact: ModelArtifact,
    out: str | Path,
    train: Examples,
    held_out: Examples,
    *,
    positive: Sequence[int],
    negative: Sequence[int],
    lora: Lora | None = None,
    seed: int = 0,
    force: bool = False,
    say: Any = None,
    progress: bool = False,
) -> tuple[ModelArtifact, list[dict[str, float]]]:
    """Adapt the model that an artifact was exported from, merge, export it, and return it with what each epoch gave.

    Parameters
    ----------
    artifact : ModelArtifact
        A scorer; its weights are fetched again from where they came.
    out : str or Path
        The folder of the new artifact.
    train, held_out : Examples
        Rows to learn from, and rows of other users, after which the best epoch is chosen.
    positive, negative : sequence of int
        The tokens of both answers.
    lora : Lora, optional
        How.
    seed : int, default=0
        Of the first weights and the order of rows: on one machine the same data give the same model.
    force, say, progress
        As in `export_model`.

    Returns
    -------
    artifact : ModelArtifact
        With a fingerprint of its own; its precision and its context are the old one's.
    epochs : list of dict
        ``loss`` and ``held_out_loss`` in nats a row, ``seconds``, by epoch.

    Raises
    ------
    ExportError
        When the weights are not those of the artifact any more, or the loss is not finite.
    """
    lora = lora or Lora()
    spec = artifact.spec
    if not len(train) or not len(held_out):
        raise InputError(f"{len(train)} rows to learn from and {len(held_out)} held out: pass some of both")
    say = say or (lambda line: None)
    with open_source(spec.source) as source, tempfile.TemporaryDirectory(prefix="llmfeat-lora-") as folder:
        if source.revision != spec.revision:
            raise ExportError(
                f"{spec.source} is now {source.revision[:12]}, {artifact.path} was exported from {spec.revision[:12]}: "
                "export it again, then fine-tune"
            )
        merged = Path(folder) / "model"
        epochs = _adapt(source, merged, train, held_out, (positive, negative), lora, seed, say, progress)
        digest = text_sha256(canonical_json([artifact.fingerprint, train.digest(), asdict(lora), seed, TRAINING]))
        tuned = ModelSource(f"{spec.source}+lora", merged, digest, source.licence)
        made = export_source(
            tuned,
            Path(out),
            kind="scorer",
            precision=spec.precision,
            max_tokens=spec.max_tokens,
            force=force,
            say=say,
            progress=progress,
        )
    return made, epochs


def _adapt(
    source: ModelSource,
    folder: Path,
    train: Examples,
    held_out: Examples,
    answers: tuple[Sequence[int], Sequence[int]],
    lora: Lora,
    seed: int,
    say: Any,
    progress: bool,
) -> list[dict[str, float]]:
    """Save the adapted model, merged, as save_pretrained() does; return what each epoch gave."""
    torch = import_optional("torch", purpose="fine-tuning")
    peft = import_optional("peft", purpose="fine-tuning")
    device = ("cuda" if torch.cuda.is_available() else "cpu") if lora.device == "auto" else lora.device
    dtype = _dtype(torch, lora.dtype, device)
    with quietly(), torch.random.fork_rng():
        torch.manual_seed(seed)
        base = load_torch(source, kind="scorer")
        n_layers = int(base.config.num_hidden_layers)
        n_adapted = min(lora.layers or math.ceil(n_layers / 3), n_layers)
        config = peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha or 2 * lora.rank,
            lora_dropout=0.0,
            target_modules=_linear(torch, base),
            layers_to_transform=list(range(n_layers - n_adapted, n_layers)),
            task_type="CAUSAL_LM",
        )
        model = peft.get_peft_model(base.to(device=device, dtype=dtype), config)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        for weight in weights:
            weight.data = weight.data.float()  # small steps are lost in bfloat16
    say(
        f"{len(train)} rows to learn from, {len(held_out)} held out; {sum(each.numel() for each in weights):,} weights "
        f"of the last {n_adapted} of {n_layers} layers, {str(dtype).removeprefix('torch.')} on {device}"
    )
    n_tokens = sum(len(row) for part in (train, held_out) for row in part.ids)
    kept = KeptStates.of(torch, base, n_layers - n_adapted, n_tokens=n_tokens) if lora.epochs > 1 else None
    trainer = _Trainer(torch, model, weights, answers, kept, pad_id=source.tokenizer.pad_token_id or 0, device=device)
    if not trainer.check(held_out) and lora.epochs > 1 and n_adapted < n_layers:
        say("all layers are computed in each epoch: what those below make of the rows cannot be kept, or is over 4 GiB")
    epochs = trainer.run(train, held_out, lora, seed, say, progress)
    with quietly():
        # In float32 before they are merged: what was learned is smaller than a step of bfloat16.
        whole = model.to(device="cpu", dtype=torch.float32).merge_and_unload()
        whole.save_pretrained(folder)
        source.tokenizer.save_pretrained(folder)
    return epochs


class _Trainer:
    """Learns the weights of an adapted model from prompts and labels."""

    def __init__(
        self,
        torch: Any,
        model: Any,
        weights: list[Any],
        answers: Any,
        kept: KeptStates | None,
        *,
        pad_id: int,
        device: str,
    ) -> None:
        self._torch = torch
        self._model = model.eval()  # gradients flow all the same; what is kept of a row must be no draw of dropout
        self._weights = weights
        self._answers = [list(ids) for ids in answers]
        self._kept = kept
        self._pad_id = pad_id
        self._device = device

    def check(self, examples: Examples) -> bool:
        """Return whether states are kept; from here on they are not where they give other logits than all layers do."""
        rows = range(min(len(examples), 4))
        if self._kept is not None and not self._kept.agrees(_keys(examples, rows), self._inputs(examples, rows)):
            self._kept = None
        return self._kept is not None

    def run(
        self, train: Examples, held_out: Examples, lora: Lora, seed: int, say: Any, progress: bool
    ) -> list[dict[str, float]]:
        torch = self._torch
        n_steps = lora.epochs * -(-len(train) // lora.batch_rows)
        optimizer = torch.optim.AdamW(self._weights, lr=lora.learning_rate, weight_decay=lora.weight_decay)
        warm = max(1, n_steps // 10)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warm, max(0.0, (n_steps - step) / max(1, n_steps - warm)))
        )
        random = np.random.default_rng(seed)
        found: list[dict[str, float]] = []
        best, kept, since = math.inf, None, 0
        with bar(lora.epochs * len(train), what="fine-tuning", unit="rows", shown=progress) as advance:
            for epoch in range(lora.epochs):
                started, total = time.perf_counter(), 0.0
                for rows in _shuffled(train, lora.batch_rows, random):
                    loss = self._loss(train, rows)
                    if not torch.isfinite(loss):
                        raise ExportError(
                            f"the loss is {float(loss.detach())} in epoch {epoch + 1}: lower the learning rate, "
                            f"{lora.learning_rate} now"
                        )
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
                    schedule.step()
                    total += float(loss.detach()) * len(rows)
                    advance(len(rows), f"loss {total / max(1, len(train)):.3f}" if epoch else "")
                held = self._held_out_loss(held_out, lora.batch_rows)
                seconds = time.perf_counter() - started
                found.append({"loss": total / len(train), "held_out_loss": held, "seconds": seconds})
                say(f"epoch {epoch + 1}: loss {total / len(train):.4f}, held out {held:.4f}")
                if held < best:
                    best, since = held, 0
                    kept = [weight.detach().clone() for weight in self._weights]
                    continue
                since += 1
                if since >= lora.patience:
                    break
        if kept is None:
            raise ExportError(
                f"the loss on the {len(held_out)} rows held out was never finite: lower the learning rate"
            )
        with torch.no_grad():
            for weight, value in zip(self._weights, kept, strict=True):
                weight.copy_(value)
        return found

    def _loss(self, examples: Examples, rows: Sequence[int]) -> Any:
        torch = self._torch
        said = self._logits(examples, rows)
        yes, no = (said[:, answer].float().logsumexp(1) for answer in self._answers)
        wanted = torch.tensor(examples.labels[list(rows)], dtype=torch.float32, device=self._device)
        return torch.nn.functional.binary_cross_entropy_with_logits(yes - no, wanted)

    def _logits(self, examples: Examples, rows: Sequence[int]) -> Any:
        inputs = self._inputs(examples, rows)
        if self._kept is not None:
            return self._kept.logits(_keys(examples, rows), inputs)
        return self._model(use_cache=False, logits_to_keep=1, **inputs).logits[:, -1]

    def _inputs(self, examples: Examples, rows: Sequence[int]) -> dict[str, Any]:
        torch = self._torch
        ids = [examples.ids[row] for row in rows]
        length = max(map(len, ids))
        # On the left, so that the last token of all stands in one column.
        batch = torch.full((len(ids), length), self._pad_id, dtype=torch.long)
        mask = torch.zeros_like(batch)
        for at, row in enumerate(ids):
            batch[at, length - len(row) :] = torch.tensor(list(row))
            mask[at, length - len(row) :] = 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        named = {"input_ids": batch, "attention_mask": mask, "position_ids": positions}
        return {name: value.to(self._device) for name, value in named.items()}

    def _held_out_loss(self, examples: Examples, batch_rows: int) -> float:
        order = sorted(range(len(examples)), key=lambda row: len(examples.ids[row]))
        total = 0.0
        with self._torch.inference_mode():
            for begin in range(0, len(order), batch_rows):
                rows = order[begin : begin + batch_rows]
                total += float(self._loss(examples, rows)) * len(rows)
        return total / len(examples)


def _keys(examples: Examples, rows: Sequence[int]) -> list[tuple[int, int]]:
    return [(id(examples), row) for row in rows]


def _shuffled(examples: Examples, batch_rows: int, random: np.random.Generator) -> Iterator[list[int]]:
    """Yield batches in a new order, of rows of like length."""
    order = random.permutation(len(examples)).tolist()
    batches = []
    for begin in range(0, len(order), batch_rows * _MEGABATCH):
        part = sorted(order[begin : begin + batch_rows * _MEGABATCH], key=lambda row: len(examples.ids[row]))
        batches += [part[at : at + batch_rows] for at in range(0, len(part), batch_rows)]
    yield from (batches[at] for at in random.permutation(len(batches)).tolist())


def _linear(torch: Any, model: Any) -> list[str]:
    """Return the names of the linear layers but the product with the vocabulary."""
    head = model.get_output_embeddings()
    found = {
        name.rpartition(".")[2]
        for name, each in model.named_modules()
        if isinstance(each, torch.nn.Linear) and each is not head
    }
    if not found:
        raise ExportError(f"{type(model).__name__} has no linear layers that can be adapted: take another model")
    return sorted(found)


def _dtype(torch: Any, asked: str, device: str) -> Any:
    if asked != "auto":
        return getattr(torch, asked)
    if device != "cpu":
        return torch.bfloat16
    capability = torch.backends.cpu.get_cpu_capability()
    has = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)() or (
        capability.startswith("AVX512") and getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    )
    return torch.bfloat16 if has else torch.float32
