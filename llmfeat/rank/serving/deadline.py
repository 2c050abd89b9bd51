"""A request's time, and what is waited for within it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["Deadline", "Late", "Pace"]

T = TypeVar("T")


class Late(Exception):  # noqa: N818  it is no error: the request goes on without
    """What was waited for did not come in time."""


class Pace:
    """How long something takes, as seen lately: a mean that forgets, from any thread."""

    def __init__(self, first_s: float) -> None:
        self._mean_s = first_s
        self._lock = threading.Lock()

    @property
    def expected_s(self) -> float:
        """Half as long again as it took lately."""
        return 1.5 * self._mean_s

    def add(self, seconds: float) -> None:
        """Note how long it took now; what takes many times as long as it should happened once."""
        with self._lock:
            self._mean_s += 0.1 * (min(seconds, 5 * self._mean_s) - self._mean_s)

    def relax(self) -> None:
        """Expect somewhat less, as nothing was tried: what was slow once is tried again before long."""
        with self._lock:
            self._mean_s *= 0.9


class Deadline:
    """When a request must be answered; without one, what is asked for is called at once and waited for.

    Parameters
    ----------
    seconds : float or None
        From now on.
    pool : ThreadPoolExecutor
        Where calls run that may be given up.
    """

    def __init__(self, seconds: float | None, pool: Callable[[], ThreadPoolExecutor]) -> None:
        self.started = time.perf_counter()
        self._end = None if seconds is None else self.started + seconds
        self._pool = pool

    @property
    def elapsed_s(self) -> float:
        """Seconds since the request came."""
        return time.perf_counter() - self.started

    def left_s(self, reserve_s: float = 0.0) -> float:
        """Return the seconds until the deadline, less what is to be kept for later; infinite without one."""
        return float("inf") if self._end is None else self._end - time.perf_counter() - reserve_s

    def start(self, call: Callable[[], T]) -> Callable[[float], T]:
        """Begin a call, and return what waits for it, given the seconds to keep for later; or raises `Late`."""
        if self._end is None:
            return lambda reserve_s: call()
        future: Future[T] = self._pool().submit(call)

        def wait(reserve_s: float) -> T:
            try:
                return future.result(timeout=max(0.0, self.left_s(reserve_s)))
            except TimeoutError as error:
                if future.done():  # just now; or the error is the call's own, of a socket say
                    return future.result()
                # A call that runs goes on, and what it reads is kept for the next request.
                future.cancel()
                raise Late from error

        return wait
