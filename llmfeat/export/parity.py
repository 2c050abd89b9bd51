"""The parity certificate: an exported graph against the model it came from, and against itself in other batches."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from llmfeat._base.progress import bar
from llmfeat.artifact import TextTokenizer
from llmfeat.export.probes import Probe, catalogue_probes, make_probes
from llmfeat.export.reference import Advance, EncoderReference, ScorerReference
from llmfeat.export.runner import GraphRunner
from llmfeat.types import Float32Array, Float64Array

__all__ = ["LEAST_COSINE", "LEAST_OVERLAP", "MOST_LOG_PROB_DIFF", "certify_encoder", "certify_scorer"]

# What remains of a difference is: the order of additions; ten bits of mantissa; steps of 1/255 of a range.
LEAST_COSINE = {"fp32": 0.99999, "fp16": 0.9995, "int8": 0.985}
LEAST_OVERLAP = {"fp32": 0.0, "fp16": 0.0, "int8": 0.85}
LEAST_BATCH_COSINE = 0.99999
# Of a vector's length, as a part of it: nothing for unit vectors, part of the score for others.
MOST_LENGTH_ERROR = {"fp32": 0.0001, "fp16": 0.005, "int8": 0.1}
# In nats, the largest over the vocabulary.
MOST_LOG_PROB_DIFF = {"fp32": 0.001, "fp16": 0.1, "int8": 0.5}
MOST_BATCH_LOG_PROB_DIFF = 0.001

_N_CATALOGUE = 500
_N_NEIGHBOURS = 10
_SHORT = 64  # texts of up to so many tokens go through the largest batches
_N_INVARIANCE = 64
_N_MIXED, _CUT_EVERY = 14, 4
_N_WORST = 3


def certify_encoder(
    runner: GraphRunner,
    tokenizer: TextTokenizer,
    reference: EncoderReference,
    *,
    prompts: tuple[str, str],
    precision: str,
    both_sides: bool,
    progress: bool = False,
) -> dict[str, Any]:
    """Return the certificate of an encoder; what it misses is listed in words under ``failures``.

    Parameters
    ----------
    runner : GraphRunner
        The exported graph.
    tokenizer : TextTokenizer
        The exported tokenizer.
    reference : EncoderReference
        The model in torch.
    prompts : tuple of str
        What stands before queries, and before documents.
    precision : {"fp32", "fp16", "int8"}
        Which floors hold.
    both_sides : bool
        Whether padding on the left must give what padding on the right does.
    progress : bool, default=False
        Whether to show a bar on standard error, when that is a terminal.
    """
    probes = make_probes(tokenizer, prompts)
    catalogue = catalogue_probes(tokenizer, prompts[1], n_texts=_N_CATALOGUE)
    shown = [*probes, *catalogue]
    with _comparing(shown, progress=progress) as advance:
        got = _in_every_batch(runner, probes, catalogue, advance)
        wanted = dict(zip(shown, reference.encode(shown, advance=advance), strict=True))
    cosines = {
        size: _cosines(rows, np.stack([wanted[probe] for probe in which])) for size, (which, rows) in got.items()
    }
    together = np.concatenate(list(cosines.values()))
    lengths = [_lengths(rows, np.stack([wanted[probe] for probe in which])) for which, rows in got.values()]
    each = {probe: row for size in (64, 1) for probe, row in zip(*got[size], strict=True)}
    neighbours = [_neighbours(np.stack([vectors[probe] for probe in catalogue])) for vectors in (wanted, each)]
    certificate: dict[str, Any] = {
        "reference": reference.name,
        **_said(probes, catalogue),
        "cosine_min": float(together.min()),
        "cosine_mean": float(together.mean()),
        "least_cosine": LEAST_COSINE[precision],
        "length_error_max": float(np.max(np.concatenate(lengths))),
        "most_length_error": MOST_LENGTH_ERROR[precision],
        "cut_alike": _cut_alike(tokenizer, reference, prompts[1]),
        "cosine_min_by_batch_size": {str(size): float(values.min()) for size, values in cosines.items()},
        "top10_overlap": _overlap(*neighbours),
        "least_top10_overlap": LEAST_OVERLAP[precision],
        "batch_invariance": _batch_invariance(runner, catalogue, _cosine_distance),
        "worst": _worst(got, cosines, lowest=True),
    }
    if both_sides:
        left = _outputs(runner, got[7][0], 7, side="left")
        certificate["left_right_cosine_min"] = float(_cosines(left, got[7][1]).min())
    certificate["failures"] = list(_encoder_failures(certificate))
    return certificate


def certify_scorer(
    runner: GraphRunner,
    tokenizer: TextTokenizer,
    reference: ScorerReference,
    *,
    precision: str,
    progress: bool = False,
) -> dict[str, Any]:
    """Return the certificate of a scorer; see `certify_encoder`. Differences are in nats.

    Beside the comparison with torch, each text is cut in two, its first part computed once, and what follows scored
    with the key/value cache of the first part.
    """
    probes = make_probes(tokenizer, [""])
    catalogue = catalogue_probes(tokenizer, "", n_texts=_N_CATALOGUE)
    shown = [*probes, *catalogue]
    with _comparing(shown, progress=progress) as advance:
        outputs = _in_every_batch(runner, probes, catalogue, advance)
        wanted = dict(zip(shown, reference.log_probs([probe.ids for probe in shown], advance=advance), strict=True))
    got = {size: (which, _log_softmax(rows)) for size, (which, rows) in outputs.items()}
    diffs = {
        size: np.abs(rows - np.stack([wanted[probe] for probe in which])).max(axis=1)
        for size, (which, rows) in got.items()
    }
    each = {probe: row for size in (64, 1) for probe, row in zip(*got[size], strict=True)}
    neighbours = [
        np.argpartition(-np.stack([rows[probe] for probe in catalogue]), _N_NEIGHBOURS, axis=1)[:, :_N_NEIGHBOURS]
        for rows in (wanted, each)
    ]
    left = _log_softmax(_outputs(runner, got[7][0], 7, side="left"))
    certificate: dict[str, Any] = {
        "reference": reference.name,
        **_said(probes, catalogue),
        "log_prob_diff_max": float(np.max([values.max() for values in diffs.values()])),
        "log_prob_diff_mean": float(np.concatenate(list(diffs.values())).mean()),
        "most_log_prob_diff": MOST_LOG_PROB_DIFF[precision],
        "log_prob_diff_max_by_batch_size": {str(size): float(values.max()) for size, values in diffs.items()},
        "top10_overlap": _overlap(*neighbours),
        "least_top10_overlap": LEAST_OVERLAP[precision],
        "cache_log_prob_diff_max": _cache_difference(runner, probes),
        "shares_prefix": runner.shares_prefix,
        "shared_log_prob_diff_max": _shared_difference(runner, probes) if runner.shares_prefix else None,
        "left_right_log_prob_diff_max": float(np.abs(left - got[7][1]).max()),
        "batch_invariance": _batch_invariance(runner, catalogue, _log_prob_distance),
        "worst": _worst(got, diffs, lowest=False),
    }
    certificate["failures"] = list(_scorer_failures(certificate))
    return certificate


@contextlib.contextmanager
def _comparing(shown: list[Probe], *, progress: bool) -> Iterator[Advance]:
    """Show how much went through the graph and through torch; what goes through again is not counted."""
    n_tokens = 2 * sum(len(probe.ids) for probe in shown)
    with bar(n_tokens, what="comparing with torch", unit="tokens", shown=progress) as advance:
        yield advance


def _in_every_batch(
    runner: GraphRunner, probes: list[Probe], catalogue: list[Probe], advance: Advance
) -> dict[int, tuple[list[Probe], Float32Array]]:
    """Return, for each batch size, texts and their outputs.

    Alone goes all but the catalogue's short texts, which go in 64s, those of like length together; in sevens go texts
    of unlike length, padded to the longest among them.
    """
    mixed = random.Random(0).sample(probes, k=min(_N_MIXED, len(probes)))
    by_length = sorted(catalogue, key=lambda probe: len(probe.ids))
    limit = max(_SHORT, len(by_length[len(by_length) // 2].ids))  # half of them at least, behind a long prompt too
    short = [probe for probe in by_length if len(probe.ids) <= limit]
    others = [probe for probe in by_length if len(probe.ids) > limit]
    got = {7: (mixed, _outputs(runner, mixed, 7))}
    for size, which in ((1, [*probes, *others]), (64, short)):
        got[size] = which, _outputs(runner, which, size, advance=advance)
    return got


def _outputs(
    runner: GraphRunner, probes: Sequence[Probe], size: int, *, side: str = "right", advance: Advance | None = None
) -> Float32Array:
    parts = []
    for at in range(0, len(probes), size):
        batch = probes[at : at + size]
        ids, prompt_tokens = [probe.ids for probe in batch], [probe.prompt_tokens for probe in batch]
        parts.append(runner.run(ids, side=side, prompt_tokens=prompt_tokens))
        if advance:
            advance(sum(map(len, ids)))
    return np.concatenate(parts)


def _batch_invariance(
    runner: GraphRunner, catalogue: list[Probe], distance: Callable[[Float32Array, Float32Array], float]
) -> dict[str, Any]:
    """Return how a text's output depends on its batch, at one padded length: alone, among 64, in another order.

    Alone means as two equal rows, as the engine runs it: a single row goes through other kernels.
    """
    by_length = sorted(catalogue, key=lambda probe: len(probe.ids))
    middle = (len(by_length) - _N_INVARIANCE) // 2
    probes = by_length[middle : middle + _N_INVARIANCE]
    rows, begin = [probe.ids for probe in probes], [probe.prompt_tokens for probe in probes]
    length = max(map(len, rows))
    order = random.Random(1).sample(range(len(rows)), k=len(rows))

    def run(which: Sequence[int]) -> Float32Array:
        return runner.run([rows[at] for at in which], length=length, prompt_tokens=[begin[at] for at in which])

    together = run(range(len(rows)))
    again = np.empty_like(together)
    again[order] = run(order)
    alone = np.stack([run([at, at])[0] for at in range(len(rows))])
    return {
        "n_texts": len(rows),
        "padded_to": length,
        "bit_equal": bool(np.array_equal(together, alone) and np.array_equal(together, again)),
        "distance_max": float(np.max([distance(together, alone), distance(together, again)])),
    }


def _cache_difference(runner: GraphRunner, probes: Sequence[Probe]) -> float:
    """Return the largest difference between texts in one piece and in two, over several cuts.

    Two texts of unlike length go together, so that both their first parts and what follows are padded.
    """
    differences = []
    for probe in [probe for probe in probes if len(probe.ids) > 1][::_CUT_EVERY]:
        cut = len(probe.ids) // 2
        prefixes, suffixes = [probe.ids[:cut], probe.ids[: cut // 2 + 1]], [probe.ids[cut:], probe.ids[cut : cut + 1]]
        scored = runner.run_with_cache(prefixes, suffixes)
        whole = [runner.run([prefix + suffix])[0] for prefix, suffix in zip(prefixes, suffixes, strict=True)]
        differences.append(_log_prob_distance(scored, np.stack(whole)))
    return float(np.max(differences))


def _shared_difference(runner: GraphRunner, probes: Sequence[Probe]) -> float:
    """Return the largest difference between texts in one piece, and behind a prefix whose cache they share."""
    longest = max(probes, key=lambda probe: len(probe.ids)).ids
    prefix = longest[: max(1, len(longest) // 2)]
    others = [probe for probe in probes if len(probe.ids) + len(prefix) <= len(longest)][::_CUT_EVERY]
    suffixes = [probe.ids for probe in others] or [prefix[:1]]
    scored = runner.run_with_shared_cache(prefix, suffixes)
    return _log_prob_distance(scored, np.stack([runner.run([prefix + suffix])[0] for suffix in suffixes]))


def _encoder_failures(found: dict[str, Any]) -> Iterator[str]:
    # Written so that a NaN is a failure.
    if not found["cosine_min"] >= found["least_cosine"]:
        yield f"cosine {found['cosine_min']:.6f} to the model in torch, at least {found['least_cosine']} was expected"
    if not found["length_error_max"] <= found["most_length_error"]:
        yield f"vectors longer or shorter by {found['length_error_max']:.4f}, at most {found['most_length_error']}"
    if not found["cut_alike"]:
        yield "a text beyond max_tokens is not cut as sentence-transformers cuts it"
    if not found["top10_overlap"] >= found["least_top10_overlap"]:
        yield f"top-10 overlap {found['top10_overlap']:.3f}, at least {found['least_top10_overlap']} was expected"
    distance = found["batch_invariance"]["distance_max"]
    if not 1 - distance >= LEAST_BATCH_COSINE:
        yield f"cosine {1 - distance:.6f} between a text alone and in a batch, at least {LEAST_BATCH_COSINE}"
    if not found.get("left_right_cosine_min", 1.0) >= found["least_cosine"]:
        yield f"cosine {found['left_right_cosine_min']:.6f} between padding on the left and on the right"


def _scorer_failures(found: dict[str, Any]) -> Iterator[str]:
    most = found["most_log_prob_diff"]
    for name, what in (
        ("log_prob_diff_max", "to the model in torch"),
        ("cache_log_prob_diff_max", "between a text in one piece and with a key/value cache"),
        ("shared_log_prob_diff_max", "between a text in one piece and behind a shared prefix"),
        ("left_right_log_prob_diff_max", "between padding on the left and on the right"),
    ):
        if found[name] is not None and not found[name] <= most:
            yield f"a difference of {found[name]:.4f} nats {what}, at most {most} was expected"
    if not found["top10_overlap"] >= found["least_top10_overlap"]:
        yield f"overlap {found['top10_overlap']:.3f} of the ten next tokens, at least {found['least_top10_overlap']}"
    distance = found["batch_invariance"]["distance_max"]
    if not distance <= max(MOST_BATCH_LOG_PROB_DIFF, most / 10):
        yield f"a difference of {distance:.4f} nats between a text alone and in a batch"


def _said(probes: list[Probe], catalogue: list[Probe]) -> dict[str, Any]:
    lengths = [len(probe.ids) for probe in [*probes, *catalogue]]
    return {"n_texts": len(lengths), "n_catalogue_texts": len(catalogue), "tokens": [min(lengths), max(lengths)]}


def _worst(
    got: dict[int, tuple[list[Probe], Float32Array]], values: dict[int, Float64Array], *, lowest: bool
) -> list[dict[str, Any]]:
    """Return the texts that differ most, in whichever batch they do."""
    found: dict[Probe, float] = {}
    for size, (probes, _) in got.items():
        for probe, value in zip(probes, values[size].tolist(), strict=True):
            found[probe] = (min if lowest else max)(found.get(probe, value), value)
    order = sorted(found, key=lambda probe: found[probe] if lowest else -found[probe])[:_N_WORST]
    return [{"text": probe.said, "value": found[probe]} for probe in order]


def _cosines(one: Float32Array, two: Float32Array) -> Float64Array:
    one, two = one.astype(np.float64), two.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1), np.linalg.norm(two, axis=1)
    # Both are zero where a text is all prompt, and the prompt is not pooled.
    nothing = (lengths[0] == 0) & (lengths[1] == 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines: Float64Array = np.einsum("ij,ij->i", one, two) / (lengths[0] * lengths[1])
    return np.where(nothing, 1.0, cosines)


def _lengths(one: Float32Array, two: Float32Array) -> Float64Array:
    """Return how much longer or shorter each of some vectors is, as a part of what it should be."""
    got, wanted = np.linalg.norm(one, axis=1), np.linalg.norm(two, axis=1)
    errors: Float64Array = (np.abs(got - wanted) / np.where(wanted == 0, 1, wanted)).astype(np.float64)
    return errors


def _cut_alike(tokenizer: TextTokenizer, reference: EncoderReference, prompt: str) -> bool:
    """Return whether a text far beyond the limit has the tokens that sentence-transformers gives it."""
    text = " ".join(f"{at}" for at in range(2 * tokenizer.max_tokens))
    return tokenizer.ids(prompt + text) == reference.token_ids(text, prompt=prompt)


def _cosine_distance(one: Float32Array, two: Float32Array) -> float:
    return float(np.maximum(0, np.max(1 - _cosines(one, two))))


def _log_softmax(logits: Float32Array) -> Float32Array:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    found: Float32Array = (wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))).astype(np.float32)
    return found


def _log_prob_distance(one: Float32Array, two: Float32Array) -> float:
    return float(np.abs(_log_softmax(one) - _log_softmax(two)).max())


def _neighbours(vectors: Float32Array) -> Any:
    """Return the ten nearest other texts of each, by cosine."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = unit @ unit.T
    np.fill_diagonal(similar, -np.inf)
    return np.argpartition(-similar, _N_NEIGHBOURS, axis=1)[:, :_N_NEIGHBOURS]


def _overlap(one: Any, two: Any) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(one.tolist(), two.tolist(), strict=True)]))
