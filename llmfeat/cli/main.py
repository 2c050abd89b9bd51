"""``llmfeat``: the commands, each imported when it is called."""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from llmfeat._version import __version__
from llmfeat.errors import LLMFeatError, LLMFeatWarning

__all__ = ["cli", "main"]

# name -> (module, one line for the overview); a command's module, and what it imports, loads on use.
_COMMANDS = {
    "demo": ("llmfeat.cli.demo", "Walk the whole road on MovieLens-100K: what do LLM features add?"),
    "encode": ("llmfeat.cli.encode", "Encode a catalogue into a vector table; only what is new or changed."),
    "export": ("llmfeat.cli.export", "Export a model to a folder that runs without torch, checked against torch."),
    "lift": ("llmfeat.cli.lift", "How much would text features add to your ranker? On your own two files."),
    "zeroshot": ("llmfeat.cli.zeroshot", "How good is a language model as a ranker here, untrained, beside controls?"),
    "materialize": ("llmfeat.cli.materialize", "Bring a feature store up to date; only what changed, read back."),
    "store": ("llmfeat.cli.store", "Make, apply and check a Feast repository: init, status, verify, probe, replay."),
    "inspect": ("llmfeat.cli.inspect", "Verify an exported model, and print its spec and parity certificate."),
    "certify": ("llmfeat.cli.certify", "Compare this machine's backends with the one that certified an artifact."),
    "cache": ("llmfeat.cli.cache", "Look into the cache of vectors, shrink it, or check it."),
    "doctor": ("llmfeat.cli.doctor", "Print versions, onnxruntime providers, processor and GPU, and what to mend."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, said) for name, (_, said) in sorted(_COMMANDS.items())])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="llmfeat")
def cli() -> None:
    """Features from language models for the recommenders you already run."""


def main() -> None:
    """Run the command line; an error of ours is a message and status 1, not a traceback."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, LLMFeatWarning):
            errors.print(f"[yellow]note[/]        {escape(str(message))}", markup=True)

    # Other libraries' warnings speak to developers; ours say how data was handled.
    warnings.showwarning = show
    try:
        cli()
    except LLMFeatError as error:
        errors.print("[red]error[/]      ", end=" ")
        errors.print(str(error), markup=False)
        sys.exit(1)
