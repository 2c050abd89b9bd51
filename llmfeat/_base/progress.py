"""Progress bars on standard error: shown on a terminal, silent elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

__all__ = ["Advance", "bar", "spinner"]


class Advance(Protocol):
    """Moves a bar on."""

    def __call__(self, steps: int, note: str = "") -> None:
        """Move it on by `steps`, and show `note` at its end."""
        ...


@contextlib.contextmanager
def bar(total: int | None, *, what: str, unit: str, shown: bool = True) -> Iterator[Advance]:
    """Yield a function that moves a bar named `what` on by so many of `total` units, and may say something beside it.

    Without a total the bar pulses, and the units are counted.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield lambda steps, note="": None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console) as progress:
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
