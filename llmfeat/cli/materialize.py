"""``llmfeat materialize``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

__all__ = ["command"]


@click.command("materialize")
@click.argument("repo", type=click.Path(exists=True, file_okay=False, path_type=Path), default="feature_repo")
@click.option(
    "--only",
    type=click.Choice(["items", "scalars", "histories", "users"]),
    multiple=True,
    help="Look at these alone; once or more.  [default: all]",
)
@click.option(
    "--fingerprint",
    "fingerprints",
    multiple=True,
    metavar="HEX",
    help="Generations of the vector table.  [default: the current one, and those that a registered ranker serves]",
)
@click.option("--full", is_flag=True, help="Write every row, whatever was written before: for a cold start.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
def command(repo: Path, only: tuple[str, ...], fingerprints: tuple[str, ...], full: bool, as_json: bool) -> None:
    """Bring the online store of REPO up to date: what changed since the last run, and nothing else.

    llmfeat.toml in REPO (feature_repo by default) names the vector table, and the log that histories are made of.

    \b
    llmfeat encode items.parquet --text title --out feature_repo/data/item_vectors
    llmfeat store apply feature_repo
    llmfeat materialize feature_repo

    What is written is read back. Killed at any moment, the next run writes what is left; a run after nothing changed
    writes nothing.
    """  # noqa: D301  click reads the control character
    from llmfeat.store import materialize
    from llmfeat.store.materialize import WHAT

    done = materialize(repo, only=only or WHAT, fingerprints=fingerprints or None, full=full, progress=True)
    if as_json:
        click.echo(json.dumps({"views": [dataclasses.asdict(view) for view in done.views], "seconds": done.seconds}))
        return
    width = max((len(view.view) for view in done.views), default=0)
    for view in done.views:
        cleared = f", {view.cleared:,} cleared" if view.cleared else ""
        click.echo(f"{view.view:<{width}}  {view.written:,} written{cleared}, {view.unchanged:,} unchanged")
    click.echo(f"{done.written + done.cleared:,} rows written and read back in {done.seconds:.1f} s")
