"""Progress bars on standard error: shown on a terminal, silent elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

__all__ = ["Advance", "Doing", "bar", "quiet", "spinner"]


class Advance(Protocol):
    """Moves a bar on."""

    def __call__(self, steps: int, note: str = "") -> None:
        """Move it on by `steps`, and show `note` at its end."""
        ...


class Doing(Protocol):
    """Takes what is being done, in a few words; a bar shows it at its end."""

    def __call__(self, what: str) -> None:
        """Show it."""
        ...


def quiet(what: str) -> None:
    """Show nothing."""


@contextlib.contextmanager
def bar(total: int | None, *, what: str, unit: str, shown: bool = True) -> Iterator[Advance]:
    """Yield a function that moves a bar named `what` on by so many of `total` units, and may say something beside it.

    Without a total the bar pulses, and the units are counted.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield lambda steps, note="": None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, TextColumn("{task.fields[note]}"), console=console) as progress:
        task = progress.add_task(what, total=total, note="")
        yield lambda steps, note="": progress.update(task, advance=steps, note=note)


@contextlib.contextmanager
def spinner(what: str, *, shown: bool = True) -> Iterator[None]:
    """Show that `what` is under way, where nothing can be counted."""
    from rich.console import Console

    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield
        return
    with console.status(what):
        yield
