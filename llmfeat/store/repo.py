"""A Feast repository on disk: made from the shipped template, applied, and opened with its settings checked."""

from __future__ import annotations

import importlib.resources
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

from llmfeat._base.files import atomic_write
from llmfeat._base.optional import import_optional
from llmfeat.errors import StoreConfigError, StoreError

__all__ = ["TEMPLATE_FILES", "apply_repo", "init_repo", "open_store"]

TEMPLATE_FILES = ("feature_store.yaml", "definitions.py")
# The dask store drops rows of a historical join when entity and timestamp repeat, and so does the one for Ray.
_LOSSY_OFFLINE = ("file", "dask", "ray")


def init_repo(path: str | Path) -> Path:
    """Put the shipped template into a folder; files that are there already stay as they are."""
    folder = Path(path)
    templates = importlib.resources.files("llmfeat.store") / "templates"
    for name in TEMPLATE_FILES:
        if not (folder / name).exists():
            atomic_write(folder / name, (templates / name).read_bytes())
    (folder / "data").mkdir(exist_ok=True)
    return folder


def apply_repo(path: str | Path) -> None:
    """Run ``feast apply`` in a repository.

    Raises
    ------
    StoreError
        When it fails, with what it said.
    """
    import_optional("feast", purpose="the feature store")
    # Feast's own command, so that what is applied is what a user's `feast apply` gives.
    code = "from feast.cli.cli import cli; cli()"
    command = [sys.executable, "-c", code, "--chdir", str(Path(path).resolve()), "apply"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()[-2000:]
        raise StoreError(f"`feast apply` in {path} ended with status {done.returncode}. It said: {said}")


def open_store(path: str | Path) -> Any:
    """Return the ``feast.FeatureStore`` of a repository, after checking that its settings lose nothing.

    Raises
    ------
    StoreConfigError
        When a setting of ``feature_store.yaml`` would lose rows or fail reads; the message names the mend.
    """
    feast = import_optional("feast", purpose="the feature store")
    folder = Path(path)
    if not (folder / "feature_store.yaml").is_file():
        raise StoreConfigError(f"{folder} holds no feature_store.yaml: make a repository with store.init_repo")
    # It advises that a file registry needs no `serve_features_while_materializing`; reads fail without it all the same.
    logging.getLogger("feast.repo_config").setLevel(logging.ERROR)
    store = feast.FeatureStore(repo_path=str(folder))
    _check_config(store.config, folder / "feature_store.yaml")
    return store


def _check_config(config: Any, where: Path) -> None:
    offline = config.offline_store.type
    if offline in _LOSSY_OFFLINE:
        raise StoreConfigError(
            f"{where} has the offline store {offline!r}, which drops training rows whose entity and timestamp repeat: "
            "set offline_store: {type: duckdb}"
        )
    if not config.registry.serve_features_while_materializing:
        raise StoreConfigError(
            f"{where} lacks `serve_features_while_materializing: true` under `registry` (at top level Feast ignores "
            "it), so that reads fail while vectors are written: add it there"
        )
    if not config.materialization_config.online_write_batch_size:
        raise StoreConfigError(
            f"{where} lacks `online_write_batch_size` under `materialization`, so that Feast drops rows past its first "
            "batch: set it to 5000"
        )
