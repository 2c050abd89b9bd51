"""`OnlineRanker`: a whole request in one call, from ids to a sorted list."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from llmfeat._base.frames import id_array, to_us
from llmfeat.encode import TextEncoder
from llmfeat.errors import BundleError, InputError, LLMFeatError, StoreError, StoreMissingError
from llmfeat.features._activity import activity_index
from llmfeat.history import InteractionLog, UserHistory
from llmfeat.rank.serving.blocks import ActivityBlock, StoreBlock
from llmfeat.rank.serving.bundle import RankerBundle
from llmfeat.rank.serving.cold import ColdItems
from llmfeat.rank.serving.deadline import Deadline, Late, Pace
from llmfeat.rank.serving.gathered import Gathered
from llmfeat.rank.serving.ranking import Ranking, in_order
from llmfeat.rank.serving.request_log import RequestLog, ServedRequest
from llmfeat.rank.serving.sources import CandidateVectors, StoreReader, checked_histories
from llmfeat.store import FeastHistories
from llmfeat.text import ItemTemplate
from llmfeat.types import Float32Array, Float64Array, VectorSource

__all__ = ["OnlineRanker"]

_FIRST_COMPUTE_S = 0.002
_POOL_THREADS = 64


class OnlineRanker:
    """Ranks candidates for a user: history and vectors from the store, the kernel of training, the booster.

    One object serves any number of threads. Vectors of items are kept in this process, as many as `cache_items`, and
    are dropped when the store says that their text changed.

    Parameters
    ----------
    bundle : RankerBundle, str or Path
        The ranker, or its folder.
    repo : str or Path, optional
        The feature repository that vectors, histories and numbers come from, as far as nothing else is given.
    items : VectorSource or mapping of str to VectorSource, optional
        Vectors of items, by fingerprint where there are several: a `VectorTable` in this process, say.
    history : callable, optional
        What gives the `UserHistory` of a user id; `FeastHistories` of `repo` by default.
    log : InteractionLog, optional
        For `ActivityFeatures`, which count the events of all users; set `log` to a newer one at any time.
    encoder, template : TextEncoder and ItemTemplate, optional
        For items that are not in the store yet, whose text comes with the request.
    max_texts : int, default=8
        How many of those a request may encode.
    cache_items : int, default=100_000
        How many vectors of each kind are kept in this process.
    refresh_s : float, default=30
        How often the store is asked whether texts changed.
    max_missing_share : float, default=1
        Of the candidates, how many may be without a vector; with more the request raises.
    on_store_error : {"raise", "degrade"}, default="raise"
        Whether a store that fails fails the request, or is done without, as one that is late is.
    fallback : callable, optional
        Takes the candidates and returns them in the order for requests that have no time for the ranker.
    threads : int or None, default=1
        Of LightGBM, for one request. More are quicker on an idle machine and slower on a busy one; None is its own
        choice.
    requests : RequestLog, optional
        Where requests are written down, for `replay`.

    Raises
    ------
    BundleError, StoreConfigError, TableFingerprintError
        When something that the ranker needs is not given, or is another one than it was trained on.

    Examples
    --------
    >>> ranker = OnlineRanker("ranker", repo="feature_repo")  # doctest: +SKIP
    >>> ranking = ranker.rank("u1", ["i3", "i8", "i5"], deadline_ms=30, because=True)  # doctest: +SKIP
    >>> ranking.item_ids, ranking.because_item_ids, ranking.degraded  # doctest: +SKIP
    (['i8', 'i3', 'i5'], ['i1', 'i1', None], ())
    """

    def __init__(
        self,
        bundle: RankerBundle | str | Path,
        *,
        repo: str | Path | None = None,
        items: VectorSource | Mapping[str, VectorSource] | None = None,
        history: Callable[[str], UserHistory] | None = None,
        log: InteractionLog | None = None,
        encoder: TextEncoder | None = None,
        template: ItemTemplate | None = None,
        max_texts: int = 8,
        cache_items: int = 100_000,
        refresh_s: float = 30.0,
        max_missing_share: float = 1.0,
        on_store_error: str = "raise",
        fallback: Callable[[list[str]], Sequence[str]] | None = None,
        threads: int | None = 1,
        requests: RequestLog | None = None,
    ) -> None:
        if on_store_error not in ("raise", "degrade"):
            raise InputError(f"on_store_error={on_store_error!r}, but 'raise' or 'degrade' was expected")
        self.bundle = bundle if isinstance(bundle, RankerBundle) else RankerBundle.load(bundle)
        self.max_missing_share = max_missing_share
        self.on_store_error = on_store_error
        self.fallback = fallback
        self.threads = threads
        self.requests = requests
        blocks = self.bundle.blocks
        self.log = log
        self.vectors = CandidateVectors(self.bundle, repo, items, cache_items=cache_items, refresh_s=refresh_s)
        self.history = history
        if self.bundle.history_blocks and history is None:
            if repo is None:
                raise BundleError(
                    "the ranker looks at histories, but neither history= nor repo= came: pass one of them"
                )
            self.history = checked_histories(FeastHistories(repo), self.bundle.history_blocks)
        views = [view for block in blocks if isinstance(block, StoreBlock) for view in block.views]
        self._store = StoreReader(repo, views) if views else None
        self._cold = ColdItems(self.vectors, encoder, template, max_texts=max_texts) if encoder is not None else None
        self._compute_pace = Pace(_FIRST_COMPUTE_S)
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self.bundle.booster  # noqa: B018  opened before the first request, not by it

    @property
    def log(self) -> InteractionLog | None:
        """The events that `ActivityFeatures` count. A newer one is made ready before requests see it."""
        return self._log

    @log.setter
    def log(self, log: InteractionLog | None) -> None:
        if any(isinstance(block, ActivityBlock) for block in self.bundle.blocks):
            if log is None:
                raise BundleError(
                    "the ranker has ActivityFeatures, which count all users' events: pass log=, an InteractionLog"
                )
            activity_index(log)  # seconds for a large one, which no request should take
        self._log = log

    def rank(
        self,
        user_id: Any,
        item_ids: Any,
        *,
        now: Any = None,
        base: Mapping[str, Any] | None = None,
        texts: Mapping[Any, Any] | None = None,
        deadline_ms: float | None = None,
        because: bool | str = False,
    ) -> Ranking:
        """Return the candidates, best first.

        Parameters
        ----------
        user_id : str, int or UUID
            Whose request it is.
        item_ids : sequence of ids
            The candidates.
        now : datetime or epoch, optional
            The moment of the request: events at it or later are not seen. The clock's by default.
        base : mapping of str to array-like of shape (n_candidates,), optional
            The caller's own columns, in the order of the candidates; one value for all of them will do.
        texts : mapping of id to row or str, optional
            What the template renders for candidates that may not be in the store yet, or their text itself.
        deadline_ms : float, optional
            When the answer must be there; what is late is done without, in the order of `DEGRADATION`. Without a
            deadline everything is waited for.
        because : bool or str, default=False
            Whether to say which item of the history each candidate is most similar to; by which of the vectors, where
            it is a name.

        Raises
        ------
        InputError
            When there is no candidate, an id is null, or a column is missing.
        StoreMissingError
            When more than `max_missing_share` of the candidates have no vector.
        StoreError
            When the store fails, unless it is to be done without.
        """
        clock = Deadline(None if deadline_ms is None else deadline_ms / 1e3, self._pool)
        if isinstance(item_ids, str | bytes):
            raise InputError(
                f"item_ids is one {type(item_ids).__name__}, but a sequence of ids was expected: put it in a list"
            )
        user, *ids = _texts([user_id, *item_ids])
        if not ids:
            raise InputError("the request has 0 candidates, but at least 1 was expected: answer it without the ranker")
        now_us = round(time.time() * 1e6) if now is None else int(to_us([now], what="the moment of the request")[0])
        found = Gathered(user, ids, now_us, UserHistory.empty(), self._base(base, len(ids)), self.log)
        degraded: set[str] = set()
        n_encoded = self._gather(found, texts or {}, clock, degraded)
        n_missing = self._n_missing(found, tolerates="vectors" in degraded)
        if deadline_ms is not None and clock.left_s() <= 0:
            return self._given_up(found, degraded, n_missing, n_encoded, clock)
        began = time.perf_counter()
        matrix = self._matrix(found)
        scores = self.bundle.predict(matrix, threads=self.threads)
        self._compute_pace.add(time.perf_counter() - began)
        why = self._because(found, because) if because else None
        order = np.argsort(-scores, kind="stable").tolist()
        ranking = Ranking(
            [ids[at] for at in order],
            scores[order],
            None if why is None else [why[at] for at in order],
            in_order(degraded),
            n_missing,
            n_encoded,
            len(found.history),
            self._is_cut(found),
            clock.elapsed_s * 1e3,
        )
        if self.requests is not None:
            self.requests.add(ServedRequest.of(self.bundle, found, matrix, scores, ranking.degraded, n_encoded))
        return ranking

    def warm(self, item_ids: Any) -> None:
        """Read vectors into this process ahead of the requests, as many as are kept."""
        self.vectors.warm(item_ids)

    def close(self) -> None:
        """Stop the threads that wait for stores, and write out what was noted of requests."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
        if self.requests is not None:
            self.requests.close()

    def __enter__(self) -> OnlineRanker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _gather(self, found: Gathered, texts: Mapping[Any, Any], clock: Deadline, degraded: set[str]) -> int:
        """Fill what the features need; return how many texts were encoded."""
        compute_s = self._compute_pace.expected_s
        history = clock.start(lambda: self._read_history(found.user_id)) if self.bundle.history_blocks else None
        store = clock.start(lambda: self._read_store(found)) if self._store is not None else None
        fetches = [self.vectors.begin(part, found.item_ids, clock) for part in self.vectors.candidate_parts]
        if history is not None:
            found.history = self._waited("history", lambda: history(compute_s), found.history, degraded)
        # The history's vectors are few, and most of them are in this process.
        asked = [self.vectors.begin(part, found.history.item_ids, clock) for part in self.vectors.event_parts]
        for part, fetch in zip(self.vectors.candidate_parts, fetches, strict=True):
            found.candidates[part] = fetch.result(compute_s, self._tolerates, degraded)
        for part, fetch in zip(self.vectors.event_parts, asked, strict=True):
            found.events[part] = fetch.result(compute_s, self._tolerates, degraded)
        if store is not None:
            nothing = self._store.nothing(len(found.item_ids)) if self._store is not None else {}
            found.store = self._waited("store", lambda: store(compute_s), nothing, degraded)
        if not texts:
            return 0
        if self._cold is None:
            raise InputError("texts came with the request, but no encoder: pass encoder= and template= to OnlineRanker")
        n_encoded, is_whole = self._cold.fill(found, texts, clock, compute_s)
        if not is_whole:
            degraded.add("texts")
        return n_encoded

    def _waited(self, name: str, wait: Callable[[], Any], otherwise: Any, degraded: set[str]) -> Any:
        try:
            return wait()
        except Late:
            degraded.add(name)
        except StoreError:
            if not self._tolerates:
                raise
            degraded.add(name)
        return otherwise

    @property
    def _tolerates(self) -> bool:
        return self.on_store_error == "degrade"

    def _read_history(self, user: str) -> UserHistory:
        assert self.history is not None, "checked when it was made"
        try:
            history = self.history(user)
        except OSError as error:  # of the caller's own function: a service that is away, or late
            if isinstance(error, LLMFeatError):
                raise
            raise StoreError(f"history= raised {type(error).__name__}: see whether what it reads is there") from error
        if not isinstance(history, UserHistory):
            raise InputError(
                f"history returned a {type(history).__name__}, but a UserHistory was expected: UserHistory.of"
            )
        return history

    def _read_store(self, found: Gathered) -> dict[str, Float32Array]:
        assert self._store is not None, "asked for where there is one"
        return self._store.read(found.user_id, found.item_ids)

    def _matrix(self, found: Gathered) -> Float32Array | Float64Array:
        shape = len(found.item_ids), len(self.bundle.columns)
        matrix: Float32Array | Float64Array = np.empty(shape, dtype=self.bundle.dtype)
        begin = 0
        for block in self.bundle.blocks:
            end = begin + len(block.names)
            matrix[:, begin:end] = block.compute(found)
            begin = end
        return matrix

    def _because(self, found: Gathered, because: bool | str) -> list[str | None]:
        if not self.bundle.history_blocks:
            raise InputError("because= was asked for, but this ranker does not look at histories: leave it out")
        return self.bundle.history_blocks[0].because(found, because if isinstance(because, str) else None)

    def _base(self, base: Mapping[str, Any] | None, n_rows: int) -> dict[str, Float64Array]:
        given = base or {}
        missing = [name for name in self.bundle.base_columns if name not in given]
        if missing:
            raise InputError(
                f"base has the columns {list(given)}, but {missing} is needed: the ranker was trained on it"
            )
        columns = {}
        for name in self.bundle.base_columns:
            try:
                values = np.asarray(given[name], dtype=np.float64)
                if values.ndim and values.shape != (n_rows,):  # one value for all comes by itself, not in a list
                    raise ValueError(f"{values.shape} came")
                columns[name] = np.broadcast_to(values, (n_rows,))
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"base[{name!r}] is no number for each of {n_rows} candidates ({error}): pass as many"
                ) from error
        return columns

    def _n_missing(self, found: Gathered, *, tolerates: bool) -> int:
        counts = [int(np.count_nonzero(np.isnan(one[:, 0]))) for one in found.candidates.values()]
        n_missing, n_rows = max(counts, default=0), len(found.item_ids)
        if n_missing > self.max_missing_share * n_rows and not tolerates:  # what is late may well be there
            raise StoreMissingError(
                f"{n_missing} of {n_rows} candidates have no vector, at most {self.max_missing_share:.0%} were "
                "expected: see `llmfeat store status`, or raise max_missing_share"
            )
        return n_missing

    def _is_cut(self, found: Gathered) -> bool:
        """Whether a lag hides so much of a full history that less is left than the kernel looks at."""
        kept = getattr(self.history, "max_events", None)
        if kept is None or len(found.history) < kept:
            return False
        return any(len(block.window(found)) < block.spec.max_events for block in self.bundle.history_blocks)

    def _given_up(
        self, found: Gathered, degraded: set[str], n_missing: int, n_encoded: int, clock: Deadline
    ) -> Ranking:
        degraded.add("ranker")
        ids = list(found.item_ids)
        if self.fallback is not None:
            ids = [str(each) for each in self.fallback(ids)]
            if sorted(ids) != sorted(found.item_ids):
                raise InputError("fallback returned other items than the candidates: return the same ones in an order")
        return Ranking(
            ids,
            np.full(len(ids), np.nan),
            None,
            in_order(degraded),
            n_missing,
            n_encoded,
            len(found.history),
            self._is_cut(found),
            clock.elapsed_s * 1e3,
        )

    def _pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(_POOL_THREADS, thread_name_prefix="llmfeat-request")
            return self._executor


def _texts(ids: list[Any]) -> list[str]:
    """Return ids as texts; those that are texts already, as most are, cost next to nothing."""
    if all(type(key) is str for key in ids):
        return ids
    texts: list[str] = id_array(ids, what="the ids of the request").to_pylist()
    return texts
