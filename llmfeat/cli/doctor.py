"""``llmfeat doctor``."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator

import click
from rich.console import Console

from llmfeat._base.machine import instruction_sets, output
from llmfeat._version import __version__

__all__ = ["backends", "command", "problems"]

_PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tokenizers",
    "torch",
    "transformers",
    "sentence-transformers",
    "optimum",
    "optimum-onnx",
    "onnx",
    "scikit-learn",
    "lightgbm",
    "feast",
    "duckdb",
    "numpy",
    "pandas",
    "pyarrow",
)


@click.command("doctor")
def command() -> None:
    """Print versions, onnxruntime providers, processor and GPU, and what to mend.

    Ends with status 1 when something needs mending.
    """
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"llmfeat {__version__}, Python {platform.python_version()}, {platform.platform()}\n")
    versions = installed()
    for name in _PACKAGES:
        console.print(f"  {name:24}{versions.get(name, '[dim]not installed[/]')}")
    console.print(f"\n  {'onnxruntime providers':24}{', '.join(providers()) or '[dim]none[/]'}")
    console.print(f"  {'backends':24}{', '.join(backends()) or '[dim]none[/]'}")
    console.print(f"  {'cores':24}{_cores()}")
    console.print(f"  {'instruction sets':24}{', '.join(instruction_sets()) or '[dim]unknown[/]'}")
    console.print(f"  {'GPU':24}{gpu() or '[dim]none found[/]'}\n")
    found = list(problems(versions))
    for problem in found:
        console.print("[red]mend[/]", problem, markup=True)
    if found:
        sys.exit(1)
    console.print("nothing to mend")


def installed() -> dict[str, str]:
    """Return the installed versions of the packages that matter."""
    return {dist.name.lower().replace("_", "-"): dist.version for dist in importlib.metadata.distributions()}


def problems(versions: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with a set of installed versions, and how to mend it."""
    if "onnxruntime" in versions and "onnxruntime-gpu" in versions:
        yield (
            "onnxruntime and onnxruntime-gpu are both installed; they are one module, and the last one installed "
            "overwrote the other: pip uninstall -y onnxruntime onnxruntime-gpu, then "
            "pip install 'llmfeat[gpu]' (or 'llmfeat[cpu]')"
        )
    if not {"onnxruntime", "onnxruntime-gpu", "openvino"} & set(versions):
        yield "there is nothing to encode with: pip install 'llmfeat[cpu]' (or 'llmfeat[gpu]')"


def providers() -> list[str]:
    """Return onnxruntime's providers, none where it is not installed."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return []
    available: list[str] = onnxruntime.get_available_providers()
    return available


def backends() -> list[str]:
    """Return what can encode here, fastest first."""
    from llmfeat.encode.backends import BACKENDS, unavailable

    return [name for name in BACKENDS if not unavailable(name)]


def gpu() -> str:
    """Return the NVIDIA GPUs of this machine in words, empty where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    return output(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])


def _cores() -> str:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{usable} usable of {os.cpu_count()}"
