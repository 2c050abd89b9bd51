"""`status`: what a repository's views hold, since when, and who is served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmfeat.encode.manifest import Manifest, Part
from llmfeat.errors import LLMFeatError
from llmfeat.store.definitions import RepoTables, views_of
from llmfeat.store.online import OnlineView
from llmfeat.store.repo import open_store
from llmfeat.store.views import KINDS, view_name

__all__ = ["RepoStatus", "ViewStatus", "status"]


@dataclass(frozen=True)
class ViewStatus:
    """One view.

    Attributes
    ----------
    view : str
        Its name.
    kind : str
        What it holds.
    is_applied : bool
        Whether Feast knows it.
    finished_us : int or None
        When a run last brought it up to date; None where none did.
    n_behind : int
        Parts of its table that are not in the store.
    is_kept : bool
        Whether `materialize` keeps it fresh: it is of the current generation, or a registered ranker serves it.
    served_by : tuple of str
        Registered rankers that read it.
    problem : str
        What the store said when it was asked; empty where it answered.
    """

    view: str
    kind: str
    is_applied: bool
    finished_us: int | None
    n_behind: int
    is_kept: bool = True
    served_by: tuple[str, ...] = ()
    problem: str = ""

    @property
    def needs_attention(self) -> bool:
        """Whether somebody should look: it is behind, was never applied, or does not answer."""
        return bool(self.problem) or (self.is_kept and (self.n_behind > 0 or not self.is_applied))


@dataclass(frozen=True)
class RepoStatus:
    """A repository.

    Attributes
    ----------
    repo : Path
        Its folder.
    online, offline : str
        The types of its stores.
    views : tuple of ViewStatus
        Those that its tables give, then those that Feast knows beside them.
    rankers : dict of str to str
        The registered ones, and the fingerprints of their bundles.
    """

    repo: Path
    online: str
    offline: str
    views: tuple[ViewStatus, ...]
    rankers: dict[str, str]


def status(repo: str | Path) -> RepoStatus:
    """Return what a repository's views hold.

    Raises
    ------
    StoreConfigError, TableNotFoundError
        When there is no repository, or no vector table.
    """
    tables, store = RepoTables.of(repo), open_store(repo)
    applied = {view.name: view for view in store.list_feature_views()}
    rankers = tables.rankers()
    read = {ranker: views_of(body) for ranker, body in rankers.items()}
    views = []
    for name, kind, parts, is_kept in _expected(tables):
        served = tuple(ranker for ranker, names in read.items() if name in names)
        if name not in applied:
            views.append(ViewStatus(name, kind, False, None, len(parts), is_kept, served))
            continue
        try:
            state = OnlineView(store, applied[name]).state()
        except LLMFeatError as error:
            views.append(ViewStatus(name, kind, True, None, len(parts), is_kept, served, str(error)))
            continue
        is_known = state is not None and state.holds(parts)
        n_behind = len(parts) - (state.n_parts if state is not None and is_known else 0)
        finished_us = state.finished_us if state is not None and state.finished_us else None
        views.append(ViewStatus(name, kind, True, finished_us, n_behind, is_kept, served))
    known = {view.view for view in views}
    for name, view in sorted(applied.items()):
        kind = view.tags.get("llmfeat", "")
        if name not in known and kind in KINDS and kind != "user_events":
            views.append(
                ViewStatus(name, kind, True, None, 0, False, problem="no table of this repository gives it any more")
            )
    config = store.config
    bundles = {name: str(body["bundle"]) for name, body in rankers.items()}
    return RepoStatus(
        tables.sources.repo, str(config.online_store.type), str(config.offline_store.type), tuple(views), bundles
    )


def _expected(tables: RepoTables) -> list[tuple[str, str, Sequence[Part], bool]]:
    expected: list[tuple[str, str, Sequence[Part], bool]] = []
    kept = {Manifest.read(tables.sources.items).current, *tables.served()}
    for fingerprint, generation in tables.generations.items():
        is_kept = fingerprint in kept
        expected.append((view_name(fingerprint), "item_vectors", generation.parts, is_kept))
        scalars = tables.scalars(generation).opened()
        expected.append((view_name(scalars.fingerprint, "item_scalars"), "item_scalars", scalars.parts, is_kept))
    if tables.log is not None:
        histories = tables.histories().opened()
        expected.append((view_name(histories.fingerprint, "user_histories"), "user_histories", histories.parts, True))
    if tables.sources.users is not None:
        manifest = Manifest.read(tables.sources.users)
        for fingerprint, generation in manifest.generations.items():
            is_kept = fingerprint == manifest.current
            expected.append((view_name(fingerprint, "user_vectors"), "user_vectors", generation.parts, is_kept))
    return expected
