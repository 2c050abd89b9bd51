"""Reading ahead: the next element is made in a thread while this one is worked on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ahead"]

T = TypeVar("T")


def ahead(elements: Iterable[T]) -> Iterator[T]:
    """Yield the elements in order, the next one being made while the consumer has this one."""
    nothing = object()
    iterator = iter(elements)
    pool = ThreadPoolExecutor(1, thread_name_prefix="llmfeat-ahead")
    try:
        coming = pool.submit(next, iterator, nothing)
        while (element := coming.result()) is not nothing:
            coming = pool.submit(next, iterator, nothing)
            yield element  # type: ignore[misc]  # it is no `nothing`
    finally:  # a consumer that stops early does not wait for an element that it will not take
        pool.shutdown(wait=False, cancel_futures=True)
