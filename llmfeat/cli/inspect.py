"""``llmfeat inspect``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmfeat.artifact import ArtifactSpec, ModelArtifact

__all__ = ["command"]


@click.command("inspect")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print artifact.json on standard output instead of a table.")
def command(folder: Path, as_json: bool) -> None:
    """Verify the artifact in FOLDER, and print its spec and its parity certificate.

    Ends with status 1 when a file is missing or was changed.
    """
    artifact = ModelArtifact.load(folder)
    if as_json:
        click.echo(artifact.spec.to_json(), nl=False)
        return
    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    # Prompts and names may hold brackets, which are not markup.
    for name, value in [*_spec_rows(artifact.spec), *_certificate_rows(artifact.spec)]:
        table.add_row(name, Text(value), style="red" if value.startswith("FAILED") else None)
    console.print(table)


def _spec_rows(spec: ArtifactSpec) -> Iterator[tuple[str, str]]:
    yield "fingerprint", spec.fingerprint
    yield "source", f"{spec.source}, {spec.architecture}, revision {spec.revision[:12]}"
    yield "licence", spec.licence
    if spec.kind == "encoder":
        unit = "unit length" if spec.normalize else "not normalized"
        prompt = "" if spec.include_prompt else ", prompt left out"
        yield "encoder", f"{spec.dim} dimensions, {spec.pooling} pooling{prompt}, {unit}"
        yield "prompts", f"query {spec.query_prompt!r}, document {spec.document_prompt!r}"
    else:
        yield "scorer", f"{spec.dim:,} tokens, chat template {'yes' if spec.chat_template else 'no'}"
    yield "max tokens", str(spec.max_tokens)
    yield "precision", f"{spec.precision}{_calibrated(spec)}, opset {spec.opset}"
    for name, record in sorted(spec.files.items()):
        yield name, f"{record.size_bytes / 1e6:,.1f} MB, sha256 {record.sha256[:12]}"
    fused = ", ".join(f"{count} {name}" for name, count in spec.fusions.get("fused", {}).items())
    if spec.fusions:
        yield "fused", fused or "nothing"
        yield "not fused", ", ".join(spec.fusions["left"]) or "nothing known"
    yield "exported with", ", ".join(f"{name} {version}" for name, version in sorted(spec.versions.items()))


def _calibrated(spec: ArtifactSpec) -> str:
    if not spec.calibration:
        return ""
    kept = len(spec.calibration["kept_float32"])
    return f", calibrated on {spec.calibration['n_texts']} texts, {kept} layers in float32"


def _certificate_rows(spec: ArtifactSpec) -> Iterator[tuple[str, str]]:
    parity = spec.parity
    if not parity:
        yield "parity", "never checked"
        return
    yield "parity", f"FAILED: {'; '.join(spec.failures)}" if spec.failures else "passed"
    low, high = parity["tokens"]
    yield "  against", f"{parity['reference']}, {parity['n_texts']} texts of {low} to {high} tokens"
    if spec.kind == "encoder":
        length = f"{parity['length_error_max']:.2g} (at most {parity['most_length_error']})"
        yield "  vectors' length", f"differs by {length}"
        yield "  cosine", _measured(parity, "cosine", "min", "mean", floor=f"at least {parity['least_cosine']}")
        sizes, unit = parity["cosine_min_by_batch_size"], ""
    else:
        floor = f"at most {parity['most_log_prob_diff']}"
        yield "  log-prob. difference", _measured(parity, "log_prob_diff", "max", "mean", floor=floor) + " nats"
        yield "  ... with the cache", f"max {parity['cache_log_prob_diff_max']:.2g} nats"
        shared = parity.get("shared_log_prob_diff_max")
        yield "  ... a shared one", "none, each row has its own" if shared is None else f"max {shared:.2g} nats"
        sizes, unit = parity["log_prob_diff_max_by_batch_size"], " nats"
    yield "  batches of", ", ".join(f"{size}: {value:.7g}{unit}" for size, value in sizes.items())
    sides = parity.get("left_right_cosine_min", parity.get("left_right_log_prob_diff_max"))
    if sides is not None:
        yield "  left or right padding", f"{sides:.7g}{unit}"
    yield "  top-10 overlap", f"{parity['top10_overlap']:.3f} on {parity['n_catalogue_texts']} texts"
    found = parity["batch_invariance"]
    equal = "the same bits" if found["bit_equal"] else f"differs by {found['distance_max']:.2g}"
    yield "  alone or in a batch", f"{equal} ({found['n_texts']} texts)"
    for name, compared in sorted(parity.get("numerics", {}).items()):
        other = compared["batch_distance_max"]
        said = "the same bits" if other == 0 else f"within {other:.1g}"
        yield f"  {name}", f"cosine min {compared['cosine_min']:.6f}; alone or in a batch {said}"
    worst = "; ".join(f"{entry['text']}: {entry['value']:.6g}" for entry in parity["worst"])
    yield "  differ most", worst


def _measured(parity: Any, name: str, extreme: str, mean: str, *, floor: str) -> str:
    return f"{extreme} {parity[f'{name}_{extreme}']:.7g}, {mean} {parity[f'{name}_{mean}']:.7g} ({floor})"
