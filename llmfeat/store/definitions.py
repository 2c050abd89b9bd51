"""All Feast objects of a repository, from what ``llmfeat.toml`` names and from the rankers that were registered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from llmfeat.encode.manifest import Generation, Manifest
from llmfeat.errors import StoreConfigError
from llmfeat.history import InteractionLog
from llmfeat.store.config import RepoSources
from llmfeat.store.histories import histories_table
from llmfeat.store.scalars import scalars_table
from llmfeat.store.snapshots import SnapshotTable
from llmfeat.store.views import Feast, events_view, snapshot_view, vector_views, view_name

if TYPE_CHECKING:
    from llmfeat.features.semantic import SemanticIds

__all__ = ["RANKERS_FOLDER", "RepoTables", "repo_objects", "views_of"]

RANKERS_FOLDER = "rankers"


@dataclass(frozen=True)
class RepoTables:
    """The tables behind a repository's views, opened when they are asked for."""

    sources: RepoSources

    @classmethod
    def of(cls, repo: str | Path) -> Self:
        """Return those that the repository's ``llmfeat.toml`` names."""
        return cls(RepoSources.read(repo))

    @cached_property
    def log(self) -> InteractionLog | None:
        """The log, memory-mapped; None where none is named."""
        return InteractionLog.open(self.sources.log) if self.sources.log is not None else None

    @cached_property
    def book(self) -> SemanticIds | None:
        """The code book, None where none is named."""
        if self.sources.semantic_ids is None:
            return None
        from llmfeat.features.semantic import SemanticIds

        return SemanticIds.load(self.sources.semantic_ids)

    @property
    def generations(self) -> dict[str, Generation]:
        """The generations of the items' table, by fingerprint."""
        return dict(Manifest.read(self.sources.items).generations)

    def served(self) -> list[str]:
        """Return the fingerprints of the item vectors that registered rankers serve."""
        return [fingerprint for body in self.rankers().values() for fingerprint in body["vectors"]]

    def rankers(self) -> dict[str, dict[str, Any]]:
        """Return what the folder ``rankers`` says of each ranker, by name."""
        paths = sorted((self.sources.repo / RANKERS_FOLDER).glob("*.json"))
        return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}

    def scalars(self, generation: Generation) -> SnapshotTable:
        """Return the table of the scalars of a generation's items."""
        return scalars_table(self.sources, generation, book=self.book, has_log=self.sources.log is not None)

    def histories(self) -> SnapshotTable:
        """Return the table of the users' histories.

        Raises
        ------
        StoreConfigError
            When no log is named.
        """
        if self.log is None:
            raise StoreConfigError(
                f"{self.sources.repo} names no log, of which histories are made: set histories.log in llmfeat.toml"
            )
        return histories_table(self.sources, available_after_us=self.log.label_delay.available_after_us)


def repo_objects(repo: str | Path) -> list[Any]:
    """Return the Feast objects of a repository: what its ``definitions.py`` holds.

    Entities of items and users; for each generation of the vector table a view of vectors and one of scalars; views of
    histories and of pushed events where a log is named, and of users' vectors where their table is; and a feature
    service for each ranker in the folder ``rankers``.

    Raises
    ------
    TableNotFoundError, InputError
        When there is no vector table, or no log where one is named.
    """
    feast, tables = Feast(), RepoTables.of(repo)
    views = vector_views(feast, tables.sources.items, entity="item")
    entities = [feast.entity("item")]
    for generation in tables.generations.values():
        scalars = tables.scalars(generation)
        scalars.prepare()
        about = {"vectors": generation.fingerprint}
        views.append(snapshot_view(feast, "item_scalars", scalars, entity="item", about=about))
    if tables.log is not None:
        histories = tables.histories()
        histories.prepare()
        about = {
            "max_events": str(tables.sources.max_events),
            "available_after_us": str(tables.log.label_delay.available_after_us),
        }
        views += [
            snapshot_view(feast, "user_histories", histories, entity="user", about=about),
            events_view(feast, histories, about),
        ]
    if tables.sources.users is not None:
        views += vector_views(feast, tables.sources.users, entity="user")
    if len(views) > sum(view.entities == ["item"] for view in views):
        entities.append(feast.entity("user"))
    return [*entities, *views, *_services(feast, tables, {view.name: view for view in views})]


def views_of(ranker: Mapping[str, Any]) -> list[str]:
    """Return the names of the views that a registered ranker reads of items, each once."""
    named = [view_name(fingerprint) for fingerprint in ranker["vectors"]]
    return list(dict.fromkeys([*named, *ranker.get("views", ())]))


def _services(feast: Feast, tables: RepoTables, views: dict[str, Any]) -> list[Any]:
    services = []
    for ranker, body in tables.rankers().items():
        wanted = views_of(body)
        missing = [name for name in wanted if name not in views]
        if missing:
            raise StoreConfigError(
                f"the ranker {ranker!r} reads the views {missing}, which no generation of the table gives any more: "
                "encode with its model again, or `llmfeat store unregister` it"
            )
        beside = [name for name in views if name.startswith(("user_histories_", "user_events_"))]
        tags = {"llmfeat": "ranker", **{name: str(value) for name, value in body["tags"].items()}}
        services.append(
            feast.service(f"ranker_{ranker}", [views[name] for name in [*wanted, *beside]], tags, body["description"])
        )
    return services
