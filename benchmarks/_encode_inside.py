"""Inside the encoder: what it reaches of the processor's products, and where its time goes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_PART_OF = {
    "FullyConnected": "products with weights",
    "MatMul": "products with weights",
    "Gemm": "products with weights",
    "FusedMatMul": "products with weights",
    "Subgraph": "attention",
    "ScaledDotProductAttention": "attention",
    "Attention": "attention, its products with weights included",
    "Softmax": "attention",
    "Split": "attention",
    "Transpose": "attention",
    "MVN": "normalization, residuals, activations",
    "MulAdd": "normalization, residuals, activations",
    "Add": "normalization, residuals, activations",
    "Multiply": "normalization, residuals, activations",
    "SkipLayerNormalization": "normalization, residuals, activations",
    "LayerNormalization": "normalization, residuals, activations",
    "BiasGelu": "normalization, residuals, activations",
    "Gather": "look-up of embeddings",
    "ReduceSum": "pooling and length",
    "ReduceL2": "pooling and length",
    "Divide": "pooling and length",
    "Reorder": "copies within the model",
    "Convert": "copies within the model",
    "Memcpy": "copies within the model",
}
Rows = list[dict[str, Any]]


def gemm(artifact: Any, encoder: Any, texts: list[str], rows: Rows, rounds: int) -> dict[str, float]:
    """Compare what the encoder reaches with products of the model's own shapes alone, in the same precision."""
    shapes = _weight_shapes(artifact.graph_path)
    flops_per_token = 2 * sum(k * n for k, n in shapes)
    n_tokens = encoder._backend.batch_tokens
    products, flops = _products(encoder.numerics, sorted(set(shapes)), n_tokens)
    peak, reached = [], []
    for _ in range(rounds):
        peak.append(flops / seconds(products))
        before = encoder.tally.tokens
        taken_s = seconds(lambda: encoder.encode(texts))
        reached.append((encoder.tally.tokens - before) * flops_per_token / taken_s)
    rows.append(
        {
            "what": "gemm",
            "name": encoder.numerics,
            "peak_gflops": statistics.median(peak) / 1e9,
            "reached_gflops": statistics.median(reached) / 1e9,
            "mflop_per_token": flops_per_token / 1e6,
            "shapes": sorted(set(shapes)),
            "n_tokens": n_tokens,
        }
    )
    return {"gemm_share": statistics.median(reached) / statistics.median(peak)}


def _weight_shapes(graph_path: Path) -> list[tuple[int, int]]:
    """Return ``(k, n)`` of every product with a weight, attention's own (query by key) left out."""
    import onnx

    graph = onnx.load(str(graph_path), load_external_data=False).graph
    dims = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "Attention")]
    weights = [dims[node.input[1]] for node in products if len(dims.get(node.input[1], ())) == 2]
    return [(int(k), int(n)) for k, n in weights]


def _products(numerics: str, shapes: list[tuple[int, int]], n_tokens: int) -> tuple[Callable[[], object], float]:
    """Return what multiplies by a weight of each shape, and its operations: in OpenVINO for its classes, else numpy."""
    draw = np.random.default_rng(0)
    flops = float(2 * n_tokens * sum(k * n for k, n in shapes))
    pairs = [
        (draw.standard_normal((n_tokens, k), dtype=np.float32), draw.standard_normal((k, n), dtype=np.float32))
        for k, n in shapes
    ]
    if not numerics.startswith("openvino"):
        return lambda: [activations @ weights for activations, weights in pairs], flops
    import openvino as ov
    from openvino import opset13 as op

    requests = []
    for activations, weights in pairs:
        # There and back ten times, so that converting the input does not count.
        node = given = op.parameter(list(activations.shape), np.float32)
        for _ in range(10):
            node = op.matmul(op.matmul(node, weights, False, False), weights.T * 0.01, False, False)
        settings = {"INFERENCE_PRECISION_HINT": numerics.partition("-")[2], "NUM_STREAMS": 1}
        compiled = ov.Core().compile_model(ov.Model([node], [given]), "CPU", settings)
        requests.append((compiled.create_infer_request(), activations))
    for request, activations in requests:
        request.infer([activations])
    return lambda: [request.infer([activations]) for request, activations in requests], 20 * flops


def profile(artifact: Any, encoder: Any, texts: dict[str, list[str]], rows: Rows) -> None:
    """Say where the time of a pass goes: before the model, in it by kinds of operators, and around it."""
    from llmfeat.encode.batching import Batcher

    backend, tokenizer = encoder._backend, encoder._tokenizer
    for kind in ("titles", "histories"):
        some = texts[kind]
        in_model: list[float] = []
        run = backend.run

        def timed(*arguments: Any, run: Any = run, in_model: list[float] = in_model) -> Any:
            started = time.perf_counter()
            vectors = run(*arguments)
            in_model.append(time.perf_counter() - started)
            return vectors

        backend.run = timed
        wall_s = seconds(lambda some=some: encoder.encode(some))
        del backend.run
        started = time.perf_counter()
        flat, lengths = tokenizer.flat_ids(some)
        tokenize_s = time.perf_counter() - started
        batcher = Batcher(
            buckets=backend.buckets, max_tokens=tokenizer.max_tokens, batch_tokens=backend.batch_tokens, pad_id=0
        )
        started = time.perf_counter()
        batches = [*batcher.add(np.arange(len(some)), flat, lengths), *batcher.flush()]
        pad_s = time.perf_counter() - started
        model_share = sum(in_model) / backend.n_streams / wall_s
        parts = {
            "tokenization, ahead of the model": tokenize_s / wall_s,
            "padding and sorting": pad_s / wall_s,
            "waiting, and all else outside of the model": max(0.0, 1 - model_share),
        }
        for part, share in _operators(artifact, encoder, batches).items():
            parts[part] = share * model_share
        rows += [{"what": "profile", "kind": kind, "part": part, "share": share} for part, share in parts.items()]


def _operators(artifact: Any, encoder: Any, batches: list[Any]) -> dict[str, float]:
    """Return the share of the model's time by kinds of operators, as its runtime counts it."""
    if not encoder.numerics.startswith("openvino"):
        return {"the model": 1.0}
    import openvino as ov

    from llmfeat.encode.backends.base import feeds

    settings = {
        "INFERENCE_PRECISION_HINT": encoder.numerics.partition("-")[2],
        "NUM_STREAMS": 1,
        "PERF_COUNT": True,
    }
    compiled = ov.Core().compile_model(str(artifact.graph_path), "CPU", settings)
    names = {entry.get_any_name() for entry in compiled.inputs}
    request = compiled.create_infer_request()
    spent: dict[str, float] = {}
    for batch in batches:
        for _ in range(2):  # the first prepares kernels
            request.infer(feeds(names, batch.ids, batch.mask, 0))
        for operator in request.get_profiling_info():
            if str(operator.status).endswith("EXECUTED"):
                part = _PART_OF.get(operator.node_type, "other operators")
                spent[part] = spent.get(part, 0.0) + operator.real_time.total_seconds()
    return {part: seconds / sum(spent.values()) for part, seconds in sorted(spent.items(), key=lambda e: -e[1])}


def seconds(run: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
