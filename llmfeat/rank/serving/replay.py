"""`replay`: requests that were served, computed anew by the code of training over the log, and compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmfeat.encode import VectorTable
from llmfeat.encode.manifest import Manifest
from llmfeat.encode.table import latest_rows
from llmfeat.errors import BundleError, EmptyInputError
from llmfeat.features.reduce import ReducedVectors
from llmfeat.history import InteractionLog
from llmfeat.rank.serving.blocks import ActivityBlock, BaseBlock, HistoryBlock, SemanticBlock, StoreBlock
from llmfeat.rank.serving.bundle import RankerBundle
from llmfeat.rank.serving.request_log import ServedRequest, read_requests
from llmfeat.store import FeastFeatures
from llmfeat.store.columns import MissingTally
from llmfeat.types import BoolArray, Float32Array, Float64Array, VectorSource

__all__ = ["ColumnDifference", "ReplayReport", "replay"]

_MOST_EXAMPLES = 5


@dataclass(frozen=True)
class ColumnDifference:
    """What differs in one column.

    Attributes
    ----------
    column : str
        Its name.
    n_rows : int
        Rows whose value has other bits.
    largest : float
        The largest difference; infinite where one of the two is NaN.
    request_ids : tuple of str
        Some of the requests.
    """

    column: str
    n_rows: int
    largest: float
    request_ids: tuple[str, ...]


@dataclass(frozen=True)
class ReplayReport:
    """What came of it.

    Attributes
    ----------
    n_requests, n_rows, n_columns : int
        That were compared.
    differences : tuple of ColumnDifference
        The columns that differ; empty where served and trained are the same, bit for bit.
    n_degraded : int
        Requests that did without something, and are not compared.
    n_encoded : int
        Requests that encoded a text of their own, and are not compared.
    n_other : int
        Requests of another bundle.
    n_changed_rows : int
        Rows that are not compared, since a text of theirs changed after the request.
    n_scores : int
        Rows whose score differs, though no feature does.
    """

    n_requests: int
    n_rows: int
    n_columns: int
    differences: tuple[ColumnDifference, ...]
    n_degraded: int
    n_encoded: int
    n_other: int
    n_changed_rows: int
    n_scores: int

    @property
    def is_equal(self) -> bool:
        """Whether some rows were compared, and every value of them has the same bits."""
        return self.n_rows > 0 and not self.differences and not self.n_scores


def replay(
    requests: str | Path | Iterable[ServedRequest],
    bundle: RankerBundle,
    *,
    log: InteractionLog,
    table: str | Path | None = None,
    items: Mapping[str, VectorSource] | None = None,
    repo: str | Path | None = None,
) -> ReplayReport:
    """Compute served requests anew, all at once and offline, and compare them column by column.

    Bytes in a store that are right say nothing of what a server made of them. This asks the features themselves: the
    transformers of training, over the log as it is now, at the moments of the requests.

    Parameters
    ----------
    requests : str, Path or iterable of ServedRequest
        What a `RequestLog` wrote.
    bundle : RankerBundle
        The ranker that served them.
    log : InteractionLog
        Of all events up to the last request.
    table : str or Path, optional
        The vector table: rows of items whose text changed after the request are left out, and counted.
    items : mapping of str to VectorSource, optional
        Vectors by fingerprint, in place of those of `table`.
    repo : str or Path, optional
        The feature repository, where the ranker has `FeastFeatures`; they are read as they were then.

    Raises
    ------
    BundleError
        When vectors that the ranker reads are in neither `table` nor `items`.
    EmptyInputError
        When none of the requests can be compared.
    """
    every = list(read_requests(requests) if isinstance(requests, str | Path) else requests)
    own = [one for one in every if one.bundle == bundle.fingerprint]
    whole = [one for one in own if not one.degraded and not one.n_encoded]
    if not whole:
        raise EmptyInputError(
            f"of {len(every)} requests {len(own)} are of the ranker {bundle.fingerprint[:12]}, and none of these was "
            "served whole, but at least 1 is needed: log more requests, or pass the bundle that served them"
        )
    sources = _sources(bundle, table, items)
    rows = _rows(whole)
    matrix = _offline(bundle, rows, whole, log, sources, repo)
    served = np.concatenate([one.matrix for one in whole])
    compared = ~_changed_since(rows, whole, log, bundle, table)
    request_of = np.repeat(np.arange(len(whole)), [len(one.item_ids) for one in whole])
    narrow = matrix.astype(np.float32)
    differs = (narrow.view(np.uint32) != served.view(np.uint32)) & ~(np.isnan(narrow) & np.isnan(served))
    differs &= compared[:, None]
    scores = bundle.predict(matrix)
    was = np.concatenate([one.scores for one in whole])
    n_scores = int(np.count_nonzero(compared & ~differs.any(axis=1) & (scores != was)))
    return ReplayReport(
        len(whole),
        int(np.count_nonzero(compared)),
        matrix.shape[1],
        tuple(_differences(bundle.columns, narrow, served, differs, request_of, whole)),
        sum(bool(one.degraded) for one in own),
        sum(bool(one.n_encoded) and not one.degraded for one in own),
        len(every) - len(own),
        int(np.count_nonzero(~compared)),
        n_scores,
    )


def _sources(
    bundle: RankerBundle, table: str | Path | None, items: Mapping[str, VectorSource] | None
) -> dict[str, VectorSource]:
    kept: dict[str, VectorSource] = dict(items or {})
    if table is not None:
        held = Manifest.read(Path(table)).generations
        kept = {name: VectorTable.open(table, fingerprint=name) for name in bundle.vectors if name in held} | kept
    missing = [name[:12] for name in bundle.vectors if name not in kept]
    if missing:
        raise BundleError(
            f"the ranker reads the vectors {missing}, but they are in neither table= nor items=: pass them"
        )
    sources: dict[str, VectorSource] = {}
    for block in bundle.blocks:
        for part in block.parts:
            base = kept[part.base]
            sources[part.fingerprint] = base if part.reducer is None else ReducedVectors(base, part.reducer)
    return sources


def _rows(requests: Sequence[ServedRequest]) -> pa.Table:
    sizes = [len(one.item_ids) for one in requests]
    users = [one.user_id for one, size in zip(requests, sizes, strict=True) for _ in range(size)]
    times = np.repeat(np.array([one.now_us for one in requests], dtype=np.int64), sizes)
    ids = [item for one in requests for item in one.item_ids]
    return pa.table({"user_id": users, "item_id": ids, "timestamp": pa.array(times, pa.timestamp("us", "UTC"))})


def _offline(
    bundle: RankerBundle,
    rows: pa.Table,
    requests: Sequence[ServedRequest],
    log: InteractionLog,
    sources: Mapping[str, VectorSource],
    repo: str | Path | None,
) -> Float32Array | Float64Array:
    """Return the matrix of all requests, as training would have computed it."""
    blocks: list[Any] = []
    for block in bundle.blocks:
        if isinstance(block, HistoryBlock):
            blocks.append(block.transformer(log, sources).transform(rows))
        elif isinstance(block, ActivityBlock):
            blocks.append(block.transformer(log).fit(rows).transform(rows))
        elif isinstance(block, SemanticBlock):
            blocks.append(block.book.transform(sources[block.part.fingerprint].lookup(rows.column("item_id"))))
        elif isinstance(block, StoreBlock):
            blocks.append(_store_columns(block, rows, repo))
        else:
            assert isinstance(block, BaseBlock), block
            columns = [np.concatenate([one.base[name] for one in requests]) for name in block.columns]
            blocks.append(np.stack(columns, axis=1))
    return np.concatenate([np.asarray(block, dtype=bundle.dtype) for block in blocks], axis=1)


def _store_columns(block: StoreBlock, rows: pa.Table, repo: str | Path | None) -> Float32Array:
    if repo is None:
        raise BundleError("the ranker has FeastFeatures, but no repo= came: pass the feature repository")
    names = [f"{view.view}:{field}" for view in block.views for field in view.fields]
    features = FeastFeatures(repo, names, mode="historical", max_missing_share=1.0)
    features.columns_, features.tally_ = block.views, MissingTally()
    return features.transform(rows)


def _changed_since(
    rows: pa.Table,
    requests: Sequence[ServedRequest],
    log: InteractionLog,
    bundle: RankerBundle,
    table: str | Path | None,
) -> BoolArray:
    """Return which rows see an item, as candidate or in the history, whose text changed after the request."""
    changed = np.zeros(len(rows), dtype=bool)
    if table is None:
        return changed
    folder = Path(table)
    written: dict[str, int] = {}
    for fingerprint, generation in Manifest.read(folder).generations.items():
        if fingerprint in bundle.vectors:
            latest = latest_rows(folder, generation, ["item_id", "written_at"])
            times = latest.column("written_at").cast(pa.int64()).to_pylist()
            for key, time_us in zip(latest.column("item_id").to_pylist(), times, strict=True):
                written[key] = max(time_us, written.get(key, 0))
    begin = 0
    for one in requests:
        end = begin + len(one.item_ids)
        changed[begin:end] = [written.get(key, 0) > one.now_us for key in one.item_ids]
        for block in bundle.history_blocks:
            seen = log.as_of(one.user_id, one.now_us - block.lag_us)[-block.spec.max_events :]
            items = log.item_ids.take(pa.array(log.item_codes[seen])).to_pylist()
            if any(written.get(key, 0) > one.now_us for key in items):
                changed[begin:end] = True
        begin = end
    return changed


def _differences(
    columns: Sequence[str],
    matrix: Float32Array,
    served: Float32Array,
    differs: BoolArray,
    request_of: np.ndarray[Any, Any],
    requests: Sequence[ServedRequest],
) -> Iterable[ColumnDifference]:
    for at, name in enumerate(columns):
        rows = np.flatnonzero(differs[:, at])
        if len(rows):
            gaps = np.abs(matrix[rows, at].astype(np.float64) - served[rows, at])
            examples = dict.fromkeys(requests[number].request_id for number in request_of[rows].tolist())
            largest = float(np.where(np.isnan(gaps), np.inf, gaps).max())
            yield ColumnDifference(name, len(rows), largest, tuple(examples)[:_MOST_EXAMPLES])
