"""Feast's values as bytes: what an online store keeps of a field, made and read without a message for each cell."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat.errors import StoreError
from llmfeat.types import Float32Array

__all__ = ["Raw", "pack_bytes", "pack_numbers", "unpack_bytes", "unpack_numbers", "unpack_vectors"]

Raw = bytes | None
"""A field of an entity as the store holds it, a serialized ``feast.types.Value``; None where it holds nothing."""


def pack_bytes(cells: Iterable[bytes | None]) -> list[bytes]:
    """Return cells as values of the type Bytes; None as the empty one, which stands for "nothing"."""
    return [_header(len(cell)) + cell if cell else _header(0) for cell in cells]


def unpack_bytes(raw: Raw) -> bytes:
    """Return the bytes of a value, empty where there is none."""
    if not raw:
        return b""
    content: bytes = _message().FromString(raw).bytes_val
    return content


def pack_numbers(values: Iterable[float | None], *, field: str) -> list[bytes]:
    """Return numbers as values of a field of the message, such as ``"int64_val"``; None as a value without one."""
    make = functools.lru_cache(maxsize=65_536)(functools.partial(_packed, field))
    return [make(value) for value in values]


def unpack_numbers(raws: Sequence[Raw]) -> Float32Array:
    """Return values of any numeric type as float32, NaN where there is none."""
    parse = functools.lru_cache(maxsize=65_536)(_number)
    return np.array([parse(raw) for raw in raws], dtype=np.float32)


def unpack_vectors(raws: Sequence[Raw], dim: int, *, what: str) -> Float32Array:
    """Return values of the type Bytes as vectors, float32 of shape ``(n, dim)``; a row of NaN where there is none.

    Raises
    ------
    StoreError
        When a vector is not of `dim` dimensions.
    """
    vectors = np.full((len(raws), dim), np.nan, dtype=np.float32)
    header = _header(4 * dim)
    width = len(header) + 4 * dim
    there = [at for at, raw in enumerate(raws) if raw and len(raw) == width]
    if there:
        block = np.frombuffer(b"".join([raws[at] for at in there]), dtype=np.uint8)  # type: ignore[misc]
        rows = block.reshape(-1, width)
        is_ours = (rows[:, : len(header)] == np.frombuffer(header, dtype=np.uint8)).all()
        if not is_ours:
            raise StoreError(f"{what} holds values of another type than Bytes: something else writes to this view")
        vectors[there if len(there) < len(raws) else slice(None)] = np.ascontiguousarray(rows[:, len(header) :]).view(
            "<f4"
        )
    if len(there) < len(raws):
        kept = set(there)
        sizes = {len(unpack_bytes(raw)) for at, raw in enumerate(raws) if at not in kept} - {0}
        if sizes:
            raise StoreError(
                f"{what} has vectors of {sorted(sizes)} bytes, {4 * dim} were expected: something else writes to this "
                "view"
            )
    return vectors


@functools.lru_cache(maxsize=4096)
def _header(size: int) -> bytes:
    """Return what stands before so many bytes in a serialized value: Feast's own code says it, once a size."""
    whole: bytes = _message()(bytes_val=bytes(size)).SerializeToString()
    return whole[: len(whole) - size]


def _packed(field: str, value: float | None) -> bytes:
    message = _message()() if value is None else _message()(**{field: value})
    packed: bytes = message.SerializeToString()
    return packed


def _number(raw: Raw) -> float:
    if not raw:
        return float("nan")
    message = _message().FromString(raw)
    kind = message.WhichOneof("val")
    return float("nan") if kind is None else float(getattr(message, kind))


@functools.cache
def _message() -> Any:
    return import_optional("feast.protos.feast.types.Value_pb2", purpose="the feature store").Value
