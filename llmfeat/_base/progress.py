"""Progress bars on standard error: shown on a terminal, silent elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

__all__ = ["bar", "spinner"]


@contextlib.contextmanager
def bar(total: int, *, what: str, unit: str, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """Yield a function that moves a bar named `what` on by so many of `total` units."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not (shown and console.is_terminal)
    ) as progress:
        task = progress.add_task(what, total=total)
        yield lambda steps: progress.advance(task, steps)


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
