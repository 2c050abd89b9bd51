"""``llmfeat.toml``: what the views of a repository are made of."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from llmfeat.errors import StoreConfigError

__all__ = ["CONFIG_FILE", "RepoSources"]

CONFIG_FILE = "llmfeat.toml"
_KEYS = {"items": {"table", "semantic_ids"}, "users": {"table"}, "histories": {"log", "max_events"}}


@dataclass(frozen=True)
class RepoSources:
    """What the views of a repository are made of; paths are absolute.

    Attributes
    ----------
    repo : Path
        The repository.
    items : Path
        The vector table of items.
    semantic_ids : Path or None
        A file of `SemanticIds.save`, whose codes are among the scalars of items.
    users : Path or None
        The vector table of users.
    log : Path or None
        A folder of `InteractionLog.save`, of which histories and popularity are made; without it there is neither.
    max_events : int
        How many events a history holds: more than a ranker looks at, whose newest ones a lag may hide.
    """

    repo: Path
    items: Path
    semantic_ids: Path | None = None
    users: Path | None = None
    log: Path | None = None
    max_events: int = 100

    @classmethod
    def read(cls, repo: str | Path) -> Self:
        """Read the file of a repository; one without it has a vector table in ``data/item_vectors``.

        Raises
        ------
        StoreConfigError
            When the file is no TOML, or says what nobody knows.
        """
        folder = Path(repo).absolute()
        path = folder / CONFIG_FILE
        if not path.is_file():
            return cls(folder, folder / "data" / "item_vectors")
        try:
            body = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise StoreConfigError(f"{path} is no TOML ({error}): mend it") from error
        for section, entries in body.items():
            unknown = {section} - _KEYS.keys() or set(_tables(path, section, entries)) - _KEYS[section]
            if unknown:
                known = ", ".join(f"{name}.{key}" for name, keys in _KEYS.items() for key in sorted(keys))
                raise StoreConfigError(
                    f"{path} has {sorted(unknown)}, but only {known} are known: remove or correct it"
                )

        def found(section: str, key: str) -> Path | None:
            value = body.get(section, {}).get(key)
            if value is None:
                return None
            if not isinstance(value, str) or not value:
                raise StoreConfigError(
                    f"{path} has {section}.{key} = {value!r}, but a path was expected: put it in quotes"
                )
            return folder / value

        max_events = body.get("histories", {}).get("max_events", cls.max_events)
        if not isinstance(max_events, int) or isinstance(max_events, bool) or not 1 <= max_events <= 10_000:
            raise StoreConfigError(
                f"{path} has histories.max_events = {max_events!r}, but an integer from 1 to 10000 was expected"
            )
        return cls(
            folder,
            found("items", "table") or folder / "data" / "item_vectors",
            found("items", "semantic_ids"),
            found("users", "table"),
            found("histories", "log"),
            max_events,
        )

    def to_toml(self) -> str:
        """Return the text of the file, paths below the repository as relative ones."""

        def line(key: str, path: Path | None, example: str) -> str:
            if path is None:
                return f'# {key} = "{example}"'
            name = (path.relative_to(self.repo) if path.is_relative_to(self.repo) else path).as_posix()
            return f"{key} = {json.dumps(name, ensure_ascii=False)}"  # TOML's strings are those of JSON

        return "\n".join(
            [
                "# What the views of this repository are made of; paths are relative to this file.",
                "# `llmfeat materialize` brings the online store up to date with it.",
                "[items]",
                "# What `llmfeat encode` writes.",
                line("table", self.items, ""),
                "# A file of SemanticIds.save: its codes are added to the items' scalars.",
                line("semantic_ids", self.semantic_ids, "data/semantic_ids.bin"),
                "",
                "[histories]",
                "# A folder of InteractionLog.save: without it there are neither histories nor popularity.",
                line("log", self.log, "data/log"),
                "# How many events a history holds: more than HistoryFeatures look at, as a lag may hide the newest.",
                f"max_events = {self.max_events}",
                "",
                "[users]",
                "# A vector table whose ids are those of users.",
                line("table", self.users, "data/user_vectors"),
                "",
            ]
        )

    def replaced(self, **changes: Any) -> Self:
        """Return these sources with some changed; what is None stays as it is."""
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if value is not None})


def _tables(path: Path, section: str, entries: Any) -> dict[str, Any]:
    if not isinstance(entries, dict):
        raise StoreConfigError(
            f"{path} has {section} = {entries!r} outside of a section: see `llmfeat store init --help`"
        )
    return entries
