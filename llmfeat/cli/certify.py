"""``llmfeat certify``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from llmfeat.errors import BackendError

__all__ = ["command"]


@click.command("certify")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--backend",
    "backends",
    multiple=True,
    metavar="NAME",
    help="Which backend, once or more.  [default: each that works here]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def command(folder: Path, backends: tuple[str, ...], as_json: bool) -> None:
    """Compare the backends of this machine with the one that the artifact in FOLDER was certified with.

    What is found is added to the artifact's certificate: tables may hold vectors of two backends only where it says
    that their cosine is at least 0.9999. Run it once on every kind of machine that shares a table.
    """
    from llmfeat.artifact import ModelArtifact
    from llmfeat.encode import certify_backend
    from llmfeat.encode.agreement import here

    artifact = ModelArtifact.load(folder)
    wanted = list(backends) or here()
    if not wanted:
        raise BackendError("there is no backend here but the reference: pip install 'llmfeat[openvino]', or on a GPU")
    body = {}
    for name in wanted:
        artifact, found = certify_backend(artifact, name, progress=True)
        body[name] = found
        if not as_json:
            distance = found["batch_distance_max"]
            alone = "the same bits" if distance == 0 else f"within {distance:.1g}"
            click.echo(
                f"{name:22} cosine min {found['cosine_min']:.6f}, mean {found['cosine_mean']:.6f}; "
                f"alone and in a batch {alone} ({found['n_texts']} texts)"
            )
    if as_json:
        click.echo(json.dumps(body))
