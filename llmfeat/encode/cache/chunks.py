"""The layout of what is stored.

* ``index``: key (16 bytes) -> chunk (8), row (4)
* ``chunks``: chunk (8) -> n (4), dim (4), n checksums (8 each), n keys (16 each), n vectors (4 x dim each)
* ``stamps``: chunk (8) -> second of its last use (8)
* ``oldest``: second of last use (8), chunk (8) -> nothing

Chunks and seconds are big-endian, so that they sort as numbers do; all else is little-endian. No text is stored.
"""

from __future__ import annotations

import functools
import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from llmfeat.errors import InputError
from llmfeat.types import Float32Array

__all__ = [
    "KEY_BYTES",
    "NOWHERE",
    "PLACE",
    "ROW_BYTES",
    "Chunk",
    "PlaceArray",
    "UInt8Array",
    "UInt64Array",
    "by_chunk",
    "join_keys",
    "pack",
    "parse",
    "place_bytes",
    "row_checksums",
    "split_bytes",
    "text_digests",
]

UInt8Array: TypeAlias = npt.NDArray[np.uint8]
UInt64Array: TypeAlias = npt.NDArray[np.uint64]
PlaceArray: TypeAlias = npt.NDArray[np.void]  # of PLACE

KEY_BYTES = 16
ROW_BYTES = 8 + KEY_BYTES  # of a chunk for each vector: checksum and key
PLACE = np.dtype([("chunk", ">u8"), ("row", "<u4")])
NOWHERE = bytes(PLACE.itemsize)  # there is no chunk 0
_HEADER = struct.Struct("<II")
_HASHED_BYTES = 1 << 20  # a block that stays in the processor's cache between two passes


class Chunk(NamedTuple):
    """The columns of a chunk."""

    checksums: UInt64Array
    keys: UInt8Array
    vectors: Float32Array


def text_digests(namespace: bytes, texts: Sequence[str]) -> list[bytes]:
    """Return the BLAKE2b digest of each text, 16 bytes, keyed by `namespace`."""
    try:
        return _digests(namespace, texts, "strict")
    except UnicodeEncodeError:
        return _digests(namespace, texts, "surrogatepass")  # a lone surrogate's bytes are those of no other text


def _digests(namespace: bytes, texts: Sequence[str], errors: str) -> list[bytes]:
    begin = hashlib.blake2b(key=namespace, digest_size=KEY_BYTES).copy  # a copy costs less than to be keyed again
    digests: list[bytes] = []
    add = digests.append
    for text in texts:
        digest = begin()
        digest.update(text.encode("utf-8", errors))
        add(digest.digest())
    return digests


def join_keys(keys: Sequence[bytes]) -> UInt8Array:
    """Return keys as an array of shape ``(n, 16)``."""
    joined = np.frombuffer(b"".join(keys), dtype=np.uint8)
    if len(joined) != len(keys) * KEY_BYTES:
        raise InputError(
            f"{len(keys)} keys have {len(joined)} bytes, but {KEY_BYTES} each were expected: take them from keys()"
        )
    return joined.reshape(-1, KEY_BYTES)


def split_bytes(array: npt.NDArray[Any]) -> list[bytes]:
    """Return the bytes of each row."""
    data, width = array.tobytes(), array.itemsize * math.prod(array.shape[1:])
    return [data[begin : begin + width] for begin in range(0, len(data), width)]


def place_bytes(chunk: bytes, n_rows: int) -> list[bytes]:
    """Return the places of the rows of a chunk, as the index holds them."""
    places = np.empty(n_rows, dtype=PLACE)
    places["chunk"], places["row"] = int.from_bytes(chunk, "big"), np.arange(n_rows)
    return split_bytes(places)


def by_chunk(places: PlaceArray) -> Iterator[tuple[bytes, npt.NDArray[np.intp], npt.NDArray[np.uint32]]]:
    """Yield each chunk, in order, with the positions in `places` that are in it, and their rows there."""
    numbers = places["chunk"].astype(np.uint64)
    order = np.argsort(numbers, kind="stable")
    order = order[np.searchsorted(numbers[order], 1) :]
    numbers, rows = numbers[order], places["row"][order]
    begins = np.flatnonzero(np.diff(numbers, prepend=np.uint64(0)))
    ends = np.append(begins[1:], len(order))[: len(begins)]
    chunks = split_bytes(numbers[begins].astype(">u8"))
    for chunk, begin, end in zip(chunks, begins.tolist(), ends.tolist(), strict=True):
        yield chunk, order[begin:end], rows[begin:end]


def pack(keys: Sequence[bytes], vectors: Float32Array) -> bytes:
    """Return a chunk of vectors, float32 of shape ``(n, dim)``, and their keys."""
    joined = join_keys(keys)
    checksums = row_checksums(joined, vectors).astype("<u8")
    columns = [checksums.tobytes(), joined.tobytes(), vectors.astype("<f4").tobytes()]
    return b"".join([_HEADER.pack(*vectors.shape), *columns])


def parse(data: Any) -> Chunk | None:
    """Return the columns of a chunk, which are views of `data`; None where its size is not what it says."""
    if data is None or len(data) < _HEADER.size:
        return None
    n_rows, dim = _HEADER.unpack_from(data)
    if not n_rows or not dim or len(data) != _HEADER.size + n_rows * (ROW_BYTES + 4 * dim):
        return None
    keys_at = _HEADER.size + 8 * n_rows
    vectors_at = keys_at + KEY_BYTES * n_rows
    return Chunk(
        np.frombuffer(data, "<u8", n_rows, _HEADER.size),
        np.frombuffer(data, np.uint8, n_rows * KEY_BYTES, keys_at).reshape(n_rows, KEY_BYTES),
        np.frombuffer(data, "<f4", n_rows * dim, vectors_at).reshape(n_rows, dim),
    )


def row_checksums(keys: UInt8Array, vectors: Float32Array) -> UInt64Array:
    """Return the checksum of each vector and its key, so that a vector in another's place is told as well.

    Multilinear hashing: the sum of 32-bit words times 64-bit weights, modulo 2**64 (Carter and Wegman, "Universal
    classes of hash functions", 1979; Lemire and Kaser, "Strongly universal string hashing is fast", 2014), which is one
    multiplication a word for all rows at once. Words are half as wide as weights, else changes of two highest bits
    would cancel; weights are odd, so that a change of one word is never missed.
    """
    n_rows, dim = vectors.shape
    weights = _weights(KEY_BYTES // 4 + dim)
    key_weights, weights = weights[: KEY_BYTES // 4], weights[KEY_BYTES // 4 :]
    checksums: UInt64Array = np.ascontiguousarray(keys).view("<u4").astype(np.uint64) @ key_weights
    words = np.ascontiguousarray(vectors, dtype="<f4").view("<u4")
    step = max(1, _HASHED_BYTES // (8 * dim))
    for begin in range(0, n_rows, step):
        block = words[begin : begin + step].astype(np.uint64)
        checksums[begin : begin + step] += np.einsum("ij,j->i", block, weights)
    return checksums


@functools.lru_cache(maxsize=8)
def _weights(n: int) -> UInt64Array:
    drawn = np.frombuffer(hashlib.shake_128(b"llmfeat vector cache").digest(8 * n), "<u8")
    return drawn.astype(np.uint64) | np.uint64(1)
