"""The options that say what an item's text is and which model encodes it, shared by commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from llmfeat._base.progress import spinner

__all__ = ["bundled_model", "text_options"]

_OPTIONS = (
    click.option(
        "--text",
        "columns",
        multiple=True,
        metavar="COLUMN",
        help="A column of the text, once or more: the first is required, the others are added where they are filled.",
    ),
    click.option(
        "--template",
        "template_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help='Instead of --text: a TOML file with [item] template = "{title}[ ({year})][. {description:128}]".',
    ),
    click.option(
        "--artifact",
        type=click.Path(file_okay=False, path_type=Path),
        help="The exported model.  [default: all-MiniLM-L6-v2, exported once into the user's cache]",
    ),
)


def text_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--text``, ``--template`` and ``--artifact`` to a command, as `columns`, `template_file` and `artifact`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def bundled_model() -> Any:
    """Return the model that needs no download from a hub, exported the first time."""
    from llmfeat.export import cached_artifact

    with spinner("exporting all-MiniLM-L6-v2, once"):
        return cached_artifact("bundled:minilm")
