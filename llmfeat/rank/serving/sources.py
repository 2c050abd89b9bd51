"""Where a request's vectors, histories and numbers come from, each checked to be what the ranker was trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmfeat.errors import BundleError, StoreConfigError, StoreError, TableFingerprintError
from llmfeat.features.reduce import ReducedVectors
from llmfeat.rank.serving.blocks import HistoryBlock, VectorPart
from llmfeat.rank.serving.bundle import RankerBundle
from llmfeat.rank.serving.deadline import Deadline, Late
from llmfeat.store import FeastHistories, FeastVectors, ItemCache, open_store
from llmfeat.store.columns import StoreColumns
from llmfeat.store.item_cache import FeastVersions
from llmfeat.store.online import OnlineView
from llmfeat.types import Float32Array, Int64Array, VectorSource

__all__ = ["CandidateVectors", "Fetch", "StoreReader", "checked_histories"]


class Fetch:
    """Vectors that are asked for: those that are in this process, and those that are waited for."""

    def __init__(self, vectors: Float32Array, absent: Int64Array, wait: Callable[[float], Float32Array] | None) -> None:
        self._vectors = vectors
        self._absent = absent
        self._wait = wait

    def result(self, reserve_s: float, tolerates: bool, degraded: set[str]) -> Float32Array:
        """Return the vectors; NaN for what came too late, or not at all where that is tolerated."""
        if self._wait is not None:
            try:
                self._vectors[self._absent] = self._wait(reserve_s)
            except Late:
                degraded.add("vectors")
                self._vectors[self._absent] = np.nan
            except StoreError:
                if not tolerates:
                    raise
                degraded.add("vectors")
                self._vectors[self._absent] = np.nan
        return self._vectors


class CandidateVectors:
    """The item vectors of a bundle, kept in this process.

    Attributes
    ----------
    parts : dict of str to VectorPart
        By the fingerprint of what the features see.
    caches : dict of str to ItemCache
        By the same.
    """

    def __init__(
        self,
        bundle: RankerBundle,
        repo: str | Path | None,
        items: VectorSource | Mapping[str, VectorSource] | None,
        *,
        cache_items: int,
        refresh_s: float,
    ) -> None:
        self.parts: dict[str, VectorPart] = {part.fingerprint: part for block in bundle.blocks for part in block.parts}
        of_history = [part.fingerprint for block in bundle.history_blocks for part in block.parts]
        self.candidate_parts = tuple(self.parts)
        self.event_parts = tuple(dict.fromkeys(of_history))
        self.caches: dict[str, ItemCache] = {}
        self._kept: dict[str, ItemCache] = {}
        for fingerprint, part in self.parts.items():
            if part.base not in self._kept:
                source = self._source(part.base, repo, items)
                self._kept[part.base] = ItemCache(source, capacity=cache_items, refresh_s=refresh_s)
            kept = self._kept[part.base]
            if part.reducer is None:
                self.caches[fingerprint] = kept
                continue
            versions = FeastVersions(kept.source) if isinstance(kept.source, FeastVectors) else None
            # Of the source, not of what is kept of it: that may be older than what `versions` says.
            reduced = ReducedVectors(kept.source, part.reducer)
            if reduced.fingerprint != fingerprint:
                raise TableFingerprintError(
                    f"the reducer of {part.name!r} gives {reduced.fingerprint[:12]}, but the ranker was trained on "
                    f"{fingerprint[:12]}: save the bundle again"
                )
            self.caches[fingerprint] = ItemCache(reduced, capacity=cache_items, refresh_s=refresh_s, versions=versions)

    def begin(self, fingerprint: str, ids: Sequence[str], clock: Deadline) -> Fetch:
        """Look vectors up, and begin to read those that are not in this process."""
        cache = self.caches[fingerprint]
        vectors, absent = cache.cached(ids)
        if not len(absent):
            return Fetch(vectors, absent, None)
        wanted = [ids[at] for at in absent.tolist()]
        return Fetch(vectors, absent, clock.start(lambda: cache.fetch(wanted)))

    def warm(self, ids: Any) -> None:
        """Read vectors ahead of the requests."""
        for cache in self.caches.values():
            cache.warm(ids)

    def _source(
        self, base: str, repo: str | Path | None, items: VectorSource | Mapping[str, VectorSource] | None
    ) -> VectorSource:
        if items is None:
            if repo is None:
                raise BundleError(
                    f"the ranker reads the vectors {base[:12]}, but neither items= nor repo= came: pass one"
                )
            source: VectorSource = FeastVectors(repo, fingerprint=base)
            _ = source.dim  # the view must be there now, not at the first request
            return source
        given = items if isinstance(items, Mapping) else {items.fingerprint: items}
        if base not in given or given[base].fingerprint != base:
            raise TableFingerprintError(
                f"items has the vectors {[source.fingerprint[:12] for source in given.values()]}, but the ranker was "
                f"trained on {base[:12]}: serve the generation that it was trained on, or the ranker of this one"
            )
        return given[base]


class StoreReader:
    """Numbers and vectors that a ranker reads of views, of the candidates or of the user."""

    def __init__(self, repo: str | Path | None, views: Sequence[StoreColumns]) -> None:
        if repo is None:
            raise BundleError("the ranker has FeastFeatures, but no repo= came: pass the feature repository")
        self._repo = repo
        self._columns = tuple(views)
        _ = self._views

    def read(self, user_id: str, item_ids: Sequence[str]) -> dict[str, Float32Array]:
        """Return the columns of each view for the candidates."""
        found = {}
        for columns, view in zip(self._columns, self._views, strict=True):
            if columns.key == "user_id":
                found[columns.view] = np.repeat(columns.read(view, [user_id]), len(item_ids), axis=0)
            else:
                found[columns.view] = columns.read(view, item_ids)
        return found

    def nothing(self, n_rows: int) -> dict[str, Float32Array]:
        """Return what stands for views that could not be read: the indicator says 0."""
        empty = {}
        for columns in self._columns:
            matrix = np.full((n_rows, len(columns.names)), np.nan, dtype=np.float32)
            matrix[:, 0] = 0
            empty[columns.view] = matrix
        return empty

    @cached_property
    def _views(self) -> list[OnlineView]:
        store = open_store(self._repo)
        views = {view.name: view for view in store.list_feature_views()}
        opened = []
        for columns in self._columns:
            if columns.view not in views:
                raise StoreConfigError(
                    f"{self._repo} has the views {sorted(views)}, but the ranker was trained on {columns.view!r}: "
                    "apply it"
                )
            now = StoreColumns.of(views[columns.view], columns.fields)
            if now != columns:
                raise TableFingerprintError(
                    f"{columns.view} is now {now}, but the ranker was trained on {columns}: serve the views that it "
                    "was trained on"
                )
            opened.append(OnlineView(store, views[columns.view]))
        return opened


def checked_histories(histories: FeastHistories, blocks: Sequence[HistoryBlock]) -> FeastHistories:
    """Return the histories of a store, if they are long enough and their labels as late as those of training.

    Raises
    ------
    StoreConfigError
        When they are not.
    """
    longest = max(block.spec.max_events for block in blocks)
    if histories.max_events < longest:
        raise StoreConfigError(
            f"{histories.repo} keeps {histories.max_events} events of a user, but the ranker looks at {longest}: raise "
            "histories.max_events in llmfeat.toml, apply, and materialize"
        )
    delays = {block.available_after_us for block in blocks}
    if delays != {histories.label_delay.available_after_us}:
        raise StoreConfigError(
            f"{histories.repo} has labels that arrive after {histories.label_delay.available_after_us} us, but the "
            f"ranker was trained on {sorted(delays)}: make histories of the log that it was trained on"
        )
    return histories
