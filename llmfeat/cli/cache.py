"""``llmfeat cache``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmfeat.errors import CacheError

if TYPE_CHECKING:
    from llmfeat.encode.cache import CacheInfo, VectorCache

__all__ = ["command"]


def _options(function: Callable[..., None]) -> Callable[..., None]:
    path = click.option(
        "--path",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="The cache's folder.  [default: vectors in the user's cache, or in $LLMFEAT_CACHE_DIR]",
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
    return path(as_json(function))


@click.group("cache")
def command() -> None:
    """Look into the cache of vectors, shrink it, or check it.

    Texts that were encoded once are looked up there instead: by folds, runs, jobs and servers of one machine.
    """


@command.command("info")
@_options
def info(path: Path | None, as_json: bool) -> None:
    """Print how many vectors there are, and the space that they take."""
    with _opened(path) as cache:
        found = cache.info()
    if as_json:
        # The bound is the encoder's that writes, not the folder's.
        kept = {name: value for name, value in dataclasses.asdict(found).items() if name != "max_bytes"}
        click.echo(json.dumps(kept | {"path": str(found.path)}))
        return
    for name, value in _rows(found):
        click.echo(f"{name:<12}{value}")


@command.command("prune")
@click.option(
    "--max-gb", type=click.FloatRange(min=0, min_open=True), metavar="X", help="Keep what takes X GB (10^9 bytes)."
)
@click.option("--all", "everything", is_flag=True, help="Keep nothing, and give the disk's space back.")
@_options
def prune(path: Path | None, as_json: bool, max_gb: float | None, everything: bool) -> None:
    """Throw out the vectors that were not used for longest.

    One of --max-gb and --all says how much stays.
    """
    if (max_gb is None) != everything:
        raise click.UsageError("one of --max-gb X and --all was expected: say how much is to stay")
    with _opened(path) as cache:
        n_evicted = cache.prune(0 if max_gb is None else max(1, int(max_gb * 1e9)))
        left = None if everything else cache.info()  # to ask would make the folder's files again
    n_left, used_bytes = (left.n_entries, left.used_bytes) if left else (0, 0)
    if as_json:
        click.echo(json.dumps({"n_evicted": n_evicted, "n_entries": n_left, "used_bytes": used_bytes}))
    else:
        click.echo(f"{n_evicted:,} vectors thrown out, {n_left:,} left ({_megabytes(used_bytes)})")


@command.command("verify")
@_options
def verify(path: Path | None, as_json: bool) -> None:
    """Check every vector, and remove those that are wrong."""
    with _opened(path) as cache:
        n_checked, n_corrupt = cache.verify()
        readonly = cache.info().readonly
    if as_json:
        n_removed = 0 if readonly else n_corrupt
        click.echo(json.dumps({"n_checked": n_checked, "n_corrupt": n_corrupt, "n_removed": n_removed}))
    else:
        done = " and left, the folder is read-only" if readonly else " and removed"
        click.echo(f"{n_checked:,} vectors checked, {n_corrupt:,} corrupt{done if n_corrupt else ''}")


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[VectorCache]:
    from llmfeat.encode.cache import VectorCache

    if path is not None and not (path / "data.mdb").is_file():
        raise CacheError(
            f"{path} holds no data.mdb, but a cache of vectors was expected: check --path, or leave it out"
        )
    with contextlib.closing(VectorCache(path)) as cache:
        yield cache


def _rows(found: CacheInfo) -> Iterator[tuple[str, Any]]:
    yield "folder", found.path
    yield "vectors", f"{found.n_entries:,}"
    yield "in use", _megabytes(found.used_bytes)
    yield "on disk", _megabytes(found.file_bytes)
    if found.readonly:
        yield "read-only", "yes"
    if found.n_set_aside:
        yield "damaged", f"{found.n_set_aside} file moved aside: data.mdb.corrupt-*"


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"
