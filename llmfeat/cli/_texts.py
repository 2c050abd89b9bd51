"""The options that say what an item's text is and which model encodes it, shared by commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from llmfeat._base.progress import spinner

__all__ = ["bundled_model", "item_options", "text_options"]

_ITEM_OPTIONS = (
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
)
_ARTIFACT = click.option(
    "--artifact",
    type=click.Path(file_okay=False, path_type=Path),
    help="The exported model.  [default: all-MiniLM-L6-v2, exported once into the user's cache]",
)
# kind -> the model of that kind that needs no download from a hub, and what it is called
_BUNDLED = {
    "encoder": ("bundled:minilm", "all-MiniLM-L6-v2"),
    "scorer": ("bundled:smollm2", "SmolLM2-135M-Instruct"),
}


def item_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--text`` and ``--template`` to a command, as `columns` and `template_file`."""
    for option in reversed(_ITEM_OPTIONS):
        command = option(command)
    return command


def text_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--text``, ``--template`` and ``--artifact`` to a command, as `columns`, `template_file` and `artifact`."""
    return item_options(_ARTIFACT(command))


def bundled_model(kind: str = "encoder") -> Any:
    """Return the model of a kind that needs no download from a hub, exported the first time."""
    from llmfeat.export import cached_artifact

    model, name = _BUNDLED[kind]
    with spinner(f"exporting {name}, once"):
        return cached_artifact(model, kind=kind)
