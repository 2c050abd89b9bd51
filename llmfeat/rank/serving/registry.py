"""Rankers that a repository serves: a feature service of each, and their generations held against pruning."""

from __future__ import annotations

import json
from pathlib import Path

from llmfeat._base.files import atomic_write, text_sha256
from llmfeat.encode.generations import hold_generation, release_generation
from llmfeat.errors import BundleError, TableFingerprintError
from llmfeat.rank.serving.bundle import RankerBundle
from llmfeat.store.definitions import RANKERS_FOLDER, RepoTables
from llmfeat.store.views import view_name

__all__ = ["register_ranker", "unregister_ranker"]


def register_ranker(bundle: RankerBundle, repo: str | Path) -> Path:
    """Tell a repository that it serves a ranker, and return the file that says so.

    The next ``feast apply`` makes the feature service ``ranker_NAME``, with what the ranker was trained on as its tags;
    the generations of vectors that it reads are materialized every night and not pruned, until `unregister_ranker`.

    Raises
    ------
    TableFingerprintError
        When the repository's table lacks vectors that the ranker reads.
    """
    tables = RepoTables.of(repo)
    generations = tables.generations
    wanted = _generations(bundle, tables)
    missing = [name[:12] for name in wanted if name not in generations]
    if missing:
        raise TableFingerprintError(
            f"the ranker {bundle.name!r} reads the vectors {missing}, but {tables.sources.items} holds "
            f"{[name[:12] for name in generations]}: register it where its vectors are"
        )
    kinds = sorted({type(block).__name__.removesuffix("Block").lower() for block in bundle.blocks})
    body = {
        "bundle": bundle.fingerprint,
        "vectors": wanted,
        "views": list(bundle.views),
        "description": f"{len(bundle.columns)} columns ({', '.join(kinds)}), trained {bundle.created_at}",
        "tags": {
            "bundle": bundle.fingerprint,
            "kernel": bundle.kernel,
            "columns": len(bundle.columns),
            "created_at": bundle.created_at,
            **{f"trained_{name}": value for name, value in bundle.trained.items()},
        },
    }
    holder = _holder(bundle.name, tables)
    for fingerprint in wanted:
        hold_generation(tables.sources.items, fingerprint, by=holder)
    path = tables.sources.repo / RANKERS_FOLDER / f"{bundle.name}.json"
    atomic_write(path, (json.dumps(body, indent=2, sort_keys=True) + "\n").encode())
    release_generation(tables.sources.items, by=holder, but=wanted)  # what the last ranker of this name read
    return path


def unregister_ranker(name: str, repo: str | Path) -> None:
    """Tell a repository that it serves a ranker no more; its vectors may be pruned when nothing else holds them.

    Raises
    ------
    BundleError
        When there is no such ranker.
    """
    tables = RepoTables.of(repo)
    rankers = tables.rankers()
    if name not in rankers:
        raise BundleError(f"{repo} serves the rankers {sorted(rankers)}, but {name!r} was named: name one of them")
    (tables.sources.repo / RANKERS_FOLDER / f"{name}.json").unlink()
    release_generation(tables.sources.items, by=_holder(name, tables))


def _generations(bundle: RankerBundle, tables: RepoTables) -> list[str]:
    """Return the generations that a ranker reads: by itself, or through the views of `FeastFeatures`."""
    read = list(bundle.vectors)
    for fingerprint, generation in tables.generations.items():
        names = view_name(fingerprint), view_name(tables.scalars(generation).fingerprint, "item_scalars")
        if not set(names).isdisjoint(bundle.views):
            read.append(fingerprint)
    return list(dict.fromkeys(read))


def _holder(name: str, tables: RepoTables) -> str:
    """Return the name under which a repository holds what a ranker reads; two repositories may share a table."""
    return f"ranker_{name}_{text_sha256(str(tables.sources.repo.resolve()))[:8]}"
