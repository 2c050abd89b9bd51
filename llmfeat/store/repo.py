"""A Feast repository on disk: made from the shipped template, applied, and opened with its settings checked."""

from __future__ import annotations

import importlib.resources
import logging
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

from llmfeat._base.files import atomic_write
from llmfeat._base.optional import import_optional
from llmfeat.errors import InputError, LLMFeatWarning, StoreConfigError, StoreError
from llmfeat.store.config import CONFIG_FILE, RepoSources

__all__ = ["TEMPLATE_FILES", "apply_repo", "init_repo", "open_store"]

TEMPLATE_FILES = ("feature_store.yaml", "definitions.py", CONFIG_FILE)
_SQLITE = "online_store:\n  type: sqlite\n  path: data/online_store.db\n"
_TIMEOUTS = {"socket_timeout": 5, "socket_connect_timeout": 2}
_REDIS = "online_store:\n  type: redis\n  connection_string: {where}\n"


def init_repo(
    path: str | Path,
    *,
    redis: str | None = None,
    project: str | None = None,
    table: str | Path | None = None,
    log: str | Path | None = None,
    max_events: int | None = None,
    semantic_ids: str | Path | None = None,
    users: str | Path | None = None,
) -> Path:
    """Put the shipped template into a folder, and return it; files that are there already stay as they are.

    Parameters
    ----------
    path : str or Path
        The repository's folder.
    redis : str, optional
        Where a Redis server is, such as ``"localhost:6379"``; the online store is SQLite without.
    project : str, optional
        Feast's name of the project, part of every key in the online store; ``llmfeat`` by default.
    table, log, max_events, semantic_ids, users : optional
        What the views are made of, see `RepoSources`: what ``llmfeat.toml`` says in their place.

    Raises
    ------
    InputError
        When a file that is there already says otherwise than what is passed.
    """
    folder = Path(path).absolute()
    given = {"items": table, "log": log, "semantic_ids": semantic_ids, "users": users}
    changes: dict[str, Any] = {name: Path(value).absolute() for name, value in given.items() if value is not None}
    sources = RepoSources(folder, folder / "data" / "item_vectors").replaced(**changes, max_events=max_events)
    templates = importlib.resources.files("llmfeat.store") / "templates"
    contents = {name: (templates / name).read_text(encoding="utf-8") for name in TEMPLATE_FILES if name != CONFIG_FILE}
    contents[CONFIG_FILE] = sources.to_toml()
    if redis is not None:
        contents["feature_store.yaml"] = _replaced(
            contents["feature_store.yaml"], _SQLITE, _REDIS.format(where=_address(redis))
        )
    if project is not None:
        if not project.isidentifier():
            raise InputError(f"project={project!r}, but a name of letters, digits and _ was expected")
        contents["feature_store.yaml"] = _replaced(
            contents["feature_store.yaml"], "project: llmfeat\n", f"project: {project}\n"
        )
    asked = {
        "feature_store.yaml": [
            name for name, value in {"redis": redis, "project": project}.items() if value is not None
        ],
        CONFIG_FILE: [*changes, *(["max_events"] if max_events is not None else [])],
    }
    for name, options in asked.items():
        there = folder / name
        if options and there.exists() and there.read_text(encoding="utf-8") != contents[name]:
            raise InputError(f"{there} is there already, and {options} came: edit it, or remove it first")
    for name, content in contents.items():
        if not (folder / name).exists():
            atomic_write(folder / name, content.encode())
    (folder / "data").mkdir(exist_ok=True)
    return Path(path)


def _address(redis: str) -> str:
    if "\n" in redis or ":" not in redis.partition(",")[0]:
        raise InputError(f"redis={redis.partition(',')[0]!r}, but a server was expected, such as 'localhost:6379'")
    given = {part.partition("=")[0] for part in redis.split(",") if "=" in part}
    # A server that is silent would hold the thread that asks for ever; the client's own default is to wait.
    return ",".join([redis, *(f"{name}={value}" for name, value in _TIMEOUTS.items() if name not in given)])


def _replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, "the template has it"
    return text.replace(old, new)


def apply_repo(path: str | Path) -> str:
    """Run ``feast apply`` in a repository, and return what it said.

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
    return done.stdout.strip()


def open_store(path: str | Path) -> Any:
    """Return the ``feast.FeatureStore`` of a repository, after checking that its settings lose nothing.

    The offline store is not among them: `probe_offline` tells by its answers whether one loses rows.

    Raises
    ------
    StoreConfigError
        When a setting of ``feature_store.yaml`` would lose rows or fail reads; the message names the mend.
    """
    feast = import_optional("feast", purpose="the feature store")
    folder = Path(path)
    if not (folder / "feature_store.yaml").is_file():
        raise StoreConfigError(
            f"{folder} holds no feature_store.yaml: make a repository with `llmfeat store init`, or store.init_repo"
        )
    # It advises that a file registry needs no `serve_features_while_materializing`; reads fail without it all the same.
    logging.getLogger("feast.repo_config").setLevel(logging.ERROR)
    store = feast.FeatureStore(repo_path=str(folder))
    _check_config(store.config, folder / "feature_store.yaml")
    return store


def _check_config(config: Any, where: Path) -> None:
    if not config.registry.serve_features_while_materializing:
        raise StoreConfigError(
            f"{where} lacks `serve_features_while_materializing: true` under `registry` (at top level Feast ignores "
            "it), so that reads fail while vectors are written: add it there"
        )
    online = config.online_store
    if type(online).__name__ == "RedisOnlineStoreConfig" and "socket_timeout" not in online.connection_string:
        warnings.warn(
            f"{where} has no socket_timeout in its connection_string: a server that is silent holds every thread that "
            "asks for ever, add ',socket_timeout=5,socket_connect_timeout=2'",
            LLMFeatWarning,
            stacklevel=4,
        )
    if not config.materialization_config.online_write_batch_size:
        raise StoreConfigError(
            f"{where} lacks `online_write_batch_size` under `materialization`, so that Feast drops rows past its first "
            "batch: set it to 5000"
        )
