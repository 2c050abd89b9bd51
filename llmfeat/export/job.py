"""One model in one precision: its graph built, written, and compared with torch."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmfeat._base.progress import spinner
from llmfeat.artifact import TextTokenizer
from llmfeat.export.digest import graph_sha256
from llmfeat.export.fuse import Fusions, fuse, unfused
from llmfeat.export.graft import HIDDEN, LOGITS, graft_head, graft_last_logits, graft_positions, trim_rotary
from llmfeat.export.head import EmbeddingHead
from llmfeat.export.parity import certify_encoder, certify_scorer
from llmfeat.export.precision import to_fp16, to_int8
from llmfeat.export.quiet import quietly
from llmfeat.export.reference import EncoderReference, ScorerReference
from llmfeat.export.runner import GraphError, GraphRunner, graph_inputs, make_feeds
from llmfeat.export.share import share_prefix
from llmfeat.export.source import ModelSource
from llmfeat.export.storage import data_file, save_graph
from llmfeat.export.trace import trace

if TYPE_CHECKING:
    import onnx

__all__ = ["ExportJob", "Made", "Say"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Made:
    """A graph on disk, and what was found out about it."""

    files: list[Path]
    sha256: str
    fusions: Fusions
    kept_float32: list[str]
    parity: dict[str, Any]


@dataclass(frozen=True)
class ExportJob:
    """One model in one precision: built, written and compared with torch."""

    source: ModelSource
    head: EmbeddingHead | None  # None for a scorer
    prompts: tuple[str, str]
    precision: str
    tokenizer: TextTokenizer
    calibration_texts: list[str]
    say: Say
    progress: bool

    def run(self, path: Path) -> Made:
        """Write the graph; where the fused one does not run or misses a floor, the one as it was traced."""
        try:
            made = self._attempt(path)
        except GraphError as error:
            why = str(error)
        else:
            why = "; ".join(made.parity["failures"])
            # int8 misses a floor by itself, whatever is fused.
            if not why or self.precision == "int8":
                return made
        self.say(f"with fusions: {why}; again without them")
        for file in (path, data_file(path)):
            file.unlink(missing_ok=True)
        return self._attempt(path, why_unfused=why)

    def _attempt(self, path: Path, *, why_unfused: str | None = None) -> Made:
        graph, fusions, kept = self._build(why_unfused)
        with spinner("writing the graph", shown=self.progress):
            digest, files = graph_sha256(graph), save_graph(graph, path)
        del graph
        gc.collect()
        parity = self._certify(path)
        self.say(_parity_line(parity))
        return Made(files, digest, fusions, kept, parity)

    def _build(self, why_unfused: str | None) -> tuple[onnx.ModelProto, Fusions, list[str]]:
        """Return the graph: traced, fused, with its positions, in its precision, with its head.

        Beside it: what was fused, and which layers of an int8 graph stayed in float32.
        """
        source, head, tokenizer = self.source, self.head, self.tokenizer
        with spinner("tracing the model", shown=self.progress):
            graph = trace(source, kind="encoder" if head else "scorer")
        if why_unfused is None:
            with quietly(), spinner("fusing operators", shown=self.progress):
                graph, fusions = fuse(graph, source, attention_for=self._attention_for)
        else:
            fusions = unfused(graph, why_unfused)
        self.say(_fusion_line(fusions))
        kept: list[str] = []
        graft_positions(graph)
        trim_rotary(graph, n_positions=tokenizer.max_tokens if head else source.context_tokens or tokenizer.max_tokens)
        if head is None:
            graft_last_logits(graph, vocab_size=int(source.config.vocab_size))
            # Quantized products are written in another way; and calibration, without a cache, would see them empty.
            shared = self.precision != "int8" and share_prefix(graph)
            self.say("a prefix is computed once for a batch" + ("" if shared else ", and its keys copied to each row"))
        if self.precision == "fp16":
            graph = to_fp16(graph, keep=[HIDDEN, LOGITS])
        elif self.precision == "int8":
            inputs, prompt = graph_inputs(graph), self.prompts[1]
            feeds = [
                make_feeds(inputs, [tokenizer.ids(prompt + text)], pad_id=tokenizer.pad_id)
                for text in self.calibration_texts
            ]
            with quietly(), spinner(f"calibrating on {len(feeds)} texts", shown=self.progress):
                graph, kept = to_int8(graph, feeds)
            self.say(f"int8, calibrated on {len(feeds)} texts; {len(kept)} layers of a wide range stay in float32")
        if head is not None:
            graft_head(graph, head, hidden_size=source.hidden_size)
        return graph, fusions, kept

    @property
    def _attention_for(self) -> str:
        """Why attention is not fused, in words; empty where it may be."""
        if self.precision == "int8":
            return "its products can be quantized"
        return "" if self.head else "rows can share the keys of a prefix"

    def _certify(self, graph: Path) -> dict[str, Any]:
        runner = GraphRunner(graph, pad_id=self.tokenizer.pad_id)
        if self.head is None:
            reference = ScorerReference(self.source)
            return certify_scorer(runner, self.tokenizer, reference, precision=self.precision, progress=self.progress)
        return certify_encoder(
            runner,
            self.tokenizer,
            EncoderReference(self.source, self.head, max_tokens=self.tokenizer.max_tokens),
            prompts=self.prompts,
            precision=self.precision,
            both_sides=self.source.is_decoder,
            progress=self.progress,
        )


def _fusion_line(fusions: Fusions) -> str:
    fused = ", ".join(f"{count} {name}" for name, count in fusions.fused.items()) or "nothing"
    left = f"; not fused: {', '.join(fusions.left)}" if fusions.left else ""
    return f"{fusions.nodes_before} operators became {fusions.nodes_after}: {fused}{left}"


def _parity_line(parity: dict[str, Any]) -> str:
    if "cosine_min" in parity:
        measured = f"cosine at least {parity['cosine_min']:.7f}, mean {parity['cosine_mean']:.7f}"
    else:
        measured = f"log-probabilities differ by {parity['log_prob_diff_max']:.2g} nats at most"
    equal = "the same bits" if parity["batch_invariance"]["bit_equal"] else "not the same bits"
    return (
        f"against {parity['reference']}, {parity['n_texts']} texts: {measured}, "
        f"top-10 overlap {parity['top10_overlap']:.3f}; alone and in a batch {equal}"
    )
