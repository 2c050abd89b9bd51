"""What every benchmark shares: its command line, the machine, and the file that it writes."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from llmfeat._base.machine import processor_name

ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = (
    "llmfeat",
    "catboost",
    "cornac",
    "fastembed",
    "feast",
    "lenskit",
    "lightgbm",
    "lmdb",
    "nncf",
    "numpy",
    "onnxruntime",
    "openvino",
    "optimum-intel",
    "peft",
    "pyarrow",
    "redis",
    "scikit-learn",
    "scipy",
    "sentence-transformers",
    "tokenizers",
    "torch",
    "torch-rechub",
    "transformers",
    "xgboost-cpu",
)


def arguments(description: str) -> argparse.Namespace:
    """Parse ``[--data DIR] [--quick | --full] --json FILE``."""
    return parser(description).parse_args()


def parser(description: str) -> argparse.ArgumentParser:
    """Return what every benchmark understands, for one that understands more."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, help="a folder of data sets; unused where a benchmark makes its own")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a smoke run of under a minute")
    size.add_argument("--full", action="store_true", help="also what takes longer than 20 minutes")
    parser.add_argument("--json", type=Path, required=True, help="where the results go")
    return parser


def write(path: Path, figures: dict[str, float], rows: list[dict[str, Any]]) -> None:
    """Write the results, and print the figures."""
    save(path, figures, rows)
    width = max(map(len, figures), default=0)
    for name, value in figures.items():
        print(f"{name:{width}}  {value:.6g}")


def save(path: Path, figures: dict[str, float], rows: list[dict[str, Any]]) -> None:
    """Write the results, of a run that may go on."""
    body = {
        "schema": 1,
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "figures": figures,
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=1, allow_nan=False) + "\n")


def versions() -> dict[str, str]:
    """Return the versions of what is installed of the packages that matter."""
    installed = {dist.name.lower().replace("_", "-"): dist.version for dist in importlib.metadata.distributions()}
    return {name: installed[name] for name in _PACKAGES if name in installed}


def machine() -> dict[str, Any]:
    """Return the processor and the system in words."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def system(where: dict[str, Any]) -> str:
    """Return a machine in a sentence's words."""
    return f"{where['cores']} cores of an {where['processor']}, {where['system']}, Python {where['python']}"


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
