"""Tokens ahead of the model: texts are tokenized while batches run, and results find their way back."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import numpy as np

from llmfeat.artifact import TextTokenizer
from llmfeat.encode.backends import Backend
from llmfeat.encode.batching import Batch, Batcher
from llmfeat.types import Float32Array, Int64Array

__all__ = ["Tally", "encode_distinct"]

_CHUNK_TEXTS, _CHUNK_CHARACTERS = 512, 1_000_000
_CHUNKS_AHEAD = 4


@dataclass
class Tally:
    """What an encoder did since it was made.

    Attributes
    ----------
    texts, cached, tokens, positions : int
        Distinct texts that were asked for; those that the cache held; tokens that the model was given; positions that
        it computed, padding included.
    """

    texts: int = 0
    cached: int = 0
    tokens: int = 0
    positions: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, *, texts: int = 0, cached: int = 0, tokens: int = 0, positions: int = 0) -> None:
        """Count something, from any thread."""
        with self._lock:
            self.texts += texts
            self.cached += cached
            self.tokens += tokens
            self.positions += positions

    def __getstate__(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("texts", "cached", "tokens", "positions")}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


def encode_distinct(
    texts: Sequence[str],
    vectors: Float32Array,
    *,
    backend: Backend,
    tokenizer: TextTokenizer,
    batch_tokens: int,
    prompt_tokens: int,
    tally: Tally,
    done: Callable[[Int64Array], object],
) -> None:
    """Fill `vectors`, float32 of shape ``(n_texts, dim)``, with a vector per text; `done` is told which rows are.

    Long texts run first, by their characters, so that memory peaks at once and texts of one length come together; a
    thread tokenizes some hundred texts ahead of the model, which runs as many batches at once as its backend can.
    """
    batcher = Batcher(
        buckets=backend.buckets, max_tokens=tokenizer.max_tokens, batch_tokens=batch_tokens, pad_id=tokenizer.pad_id
    )

    def run(batch: Batch) -> Int64Array:
        vectors[batch.rows] = backend.run(batch.ids, batch.mask, prompt_tokens)
        tally.add(tokens=int(batch.mask.sum()), positions=batch.ids.size)
        return batch.rows

    batches = _batches(texts, tokenizer, batcher)
    for rows in map(run, batches) if len(texts) == 1 else _run_at_once(run, batches, backend.n_streams):
        done(rows)


def _batches(texts: Sequence[str], tokenizer: TextTokenizer, batcher: Batcher) -> Iterator[Batch]:
    characters = np.fromiter(map(len, texts), np.int64, len(texts))
    order = np.argsort(-characters, kind="stable")
    chunks = list(_chunks(order, characters[order]))

    def tokenize(rows: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
        return (rows, *tokenizer.flat_ids([texts[row] for row in rows.tolist()]))

    for rows, flat, lengths in map(tokenize, chunks) if len(chunks) == 1 else _ahead(tokenize, chunks):
        yield from batcher.add(rows, flat, lengths)
    yield from batcher.flush()


def _chunks(rows: Int64Array, characters: Int64Array) -> Iterator[Int64Array]:
    """Yield rows in pieces of some hundred texts and a million characters at most, or of one text."""
    ends = np.cumsum(characters)
    begin = 0
    while begin < len(rows):
        before = int(ends[begin - 1]) if begin else 0
        fitting = int(np.searchsorted(ends, before + _CHUNK_CHARACTERS, side="right"))
        end = min(begin + _CHUNK_TEXTS, max(begin + 1, fitting))
        yield rows[begin:end]
        begin = end


def _ahead(
    tokenize: Callable[[Int64Array], tuple[Int64Array, Int64Array, Int64Array]], chunks: Sequence[Int64Array]
) -> Iterator[tuple[Int64Array, Int64Array, Int64Array]]:
    """Yield the chunks' tokens in order, a few of them tokenized ahead in a thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="llmfeat-tokenize") as pool:
        waiting: deque[Future[tuple[Int64Array, Int64Array, Int64Array]]] = deque()
        try:
            for chunk in chunks:
                waiting.append(pool.submit(tokenize, chunk))
                if len(waiting) > _CHUNKS_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # a consumer that stops early waits for what runs, not for what was queued
            for future in waiting:
                future.cancel()


def _run_at_once(run: Callable[[Batch], Int64Array], batches: Iterator[Batch], n_streams: int) -> Iterator[Int64Array]:
    """Yield the rows of finished batches; while `n_streams` run, as many are ready."""
    with ThreadPoolExecutor(n_streams, thread_name_prefix="llmfeat-run") as pool:
        running: set[Future[Int64Array]] = set()
        try:
            for batch in batches:
                running.add(pool.submit(run, batch))
                if len(running) >= 2 * n_streams:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in finished)
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        finally:
            for future in running:
                future.cancel()
