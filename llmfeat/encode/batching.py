"""Texts of one padded length to batches of a few shapes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llmfeat.encode.backends.base import Buckets
from llmfeat.types import Int64Array

__all__ = ["Batch", "Batcher", "bucket_lengths"]


@dataclass(frozen=True)
class Batch:
    """Texts that run together.

    Attributes
    ----------
    rows : ndarray of shape (n_texts,), int64
        Which texts they are.
    ids, mask : ndarray of shape (n_texts, length), int64
        Token ids, padded, and 1 where a token is the text's own.
    """

    rows: Int64Array
    ids: Int64Array
    mask: Int64Array

    def __getitem__(self, part: slice) -> Batch:
        return Batch(self.rows[part], self.ids[part], self.mask[part])

    def __len__(self) -> int:
        return len(self.rows)


def bucket_lengths(lengths: Int64Array, *, buckets: Buckets, max_tokens: int) -> Int64Array:
    """Return the padded length of each text: a function of its own length alone, so that neighbours never matter."""
    padded = np.zeros_like(lengths)
    below = 0
    for limit, step in buckets:
        here = (lengths > below) & (lengths <= limit)
        padded[here] = -(-lengths[here] // step) * step
        below = limit
    return np.minimum(np.maximum(padded, buckets[0][1]), max(max_tokens, int(lengths.max(initial=0))))


class Batcher:
    """Gathers texts by padded length, and gives them out in batches of few shapes.

    A full batch has as many texts as the budget takes; what is left at the end is cut into pieces of 1, 2, 3, 4, 6, 8,
    12, 16, 24, ... texts. Runtimes prepare kernels, and keep memory, for every shape that they see.

    Parameters
    ----------
    buckets : Buckets
        To which lengths texts are padded.
    max_tokens : int
        The longest of them.
    batch_tokens : int
        How many padded tokens a batch has at most; one text may have more.
    pad_id : int
        What fills up.
    """

    def __init__(self, *, buckets: Buckets, max_tokens: int, batch_tokens: int, pad_id: int) -> None:
        self.buckets = buckets
        self.max_tokens = max_tokens
        self.batch_tokens = batch_tokens
        self.pad_id = pad_id
        self._waiting: dict[int, list[Batch]] = defaultdict(list)
        self._n_waiting: dict[int, int] = defaultdict(int)

    def add(self, rows: Int64Array, flat: Int64Array, lengths: Int64Array) -> Iterator[Batch]:
        """Take texts, their tokens one after another in `flat`, and yield the batches that became full."""
        starts = np.cumsum(lengths) - lengths
        padded = bucket_lengths(lengths, buckets=self.buckets, max_tokens=self.max_tokens)
        order = np.argsort(padded, kind="stable")
        edges = np.flatnonzero(np.diff(padded[order])) + 1
        for texts in np.split(order, edges) if len(order) else ():
            length = int(padded[texts[0]])
            self._waiting[length].append(self._padded(rows[texts], flat, starts[texts], lengths[texts], length))
            self._n_waiting[length] += len(texts)
            n_full = max(1, self.batch_tokens // length)
            if self._n_waiting[length] >= n_full:
                gathered = self._take(length)
                n_ready = len(gathered) // n_full * n_full
                for begin in range(0, n_ready, n_full):
                    yield gathered[begin : begin + n_full]
                if n_ready < len(gathered):
                    self._waiting[length].append(gathered[n_ready:])
                    self._n_waiting[length] = len(gathered) - n_ready

    def flush(self) -> Iterator[Batch]:
        """Yield what is left, longest first."""
        for length in sorted(self._waiting, reverse=True):
            if self._n_waiting[length]:
                left = self._take(length)
                begin = 0
                for n_texts in _pieces(len(left)):
                    yield left[begin : begin + n_texts]
                    begin += n_texts

    def _padded(
        self, rows: Int64Array, flat: Int64Array, starts: Int64Array, lengths: Int64Array, length: int
    ) -> Batch:
        positions = np.arange(length)
        own = positions < lengths[:, None]
        # Behind a text's own tokens any index will do, they are overwritten.
        ids = flat[np.minimum(starts[:, None] + positions, len(flat) - 1)]
        ids[~own] = self.pad_id
        return Batch(rows, ids, own.astype(np.int64))

    def _take(self, length: int) -> Batch:
        parts = self._waiting.pop(length)
        del self._n_waiting[length]
        if len(parts) == 1:
            return parts[0]
        return Batch(
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.mask for part in parts]),
        )


def _pieces(n_texts: int) -> Iterator[int]:
    """Yield sizes of the form 2^k or 3*2^k that add up to `n_texts`, largest first."""
    while n_texts:
        power = 1 << (n_texts.bit_length() - 1)
        piece = power + power // 2 if power > 1 and power + power // 2 <= n_texts else power
        yield piece
        n_texts -= piece
