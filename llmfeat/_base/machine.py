"""The processor, as far as it decides what is fast."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

__all__ = ["instruction_sets", "output", "processor_name"]

# What matters for encoding, by the names that Linux and macOS give it.
_SETS = {
    "AMX": ("amx_tile",),
    "AMX-BF16": ("amx_bf16",),
    "AVX-512": ("avx512f",),
    "AVX-512 VNNI": ("avx512_vnni",),
    "AVX-512 BF16": ("avx512_bf16",),
    "AVX2": ("avx2",),
    "NEON": ("asimd", "neon"),
    "SVE": ("sve",),
}


def instruction_sets() -> list[str]:
    """Return the instruction sets of this processor that speed up encoding, none where they cannot be read."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        said = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    elif sys.platform == "darwin":
        names = ["machdep.cpu.features", "machdep.cpu.leaf7_features"]
        said = output(["sysctl", "-n", *names]) or ("asimd" if platform.machine() == "arm64" else "")
    else:
        said = ""
    flags = set(said.lower().replace(":", " ").split())
    return [name for name, spellings in _SETS.items() if flags & set(spellings)]


def processor_name() -> str:
    """Return what the processor is called."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def output(command: list[str]) -> str:
    """Return what a command prints, nothing when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    return done.stdout.strip() if done.returncode == 0 else ""
