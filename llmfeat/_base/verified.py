"""Digests of files that were read before: an artifact is hashed when it is new or was touched, not at every start."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from llmfeat._base.files import atomic_write, cache_dir, file_sha256, text_sha256

__all__ = ["verified_sha256"]


def verified_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex, from the user's cache where its size, times and inode are those of then.

    Where the cache cannot be written, the file is hashed every time.
    """
    state = path.stat()
    seen = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
    name = f"{text_sha256(str(path.resolve()))[:32]}.json"
    try:
        known = json.loads((cache_dir("verified") / name).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        known = {}
    if isinstance(known, dict) and known.get("seen") == seen and isinstance(known.get("sha256"), str):
        return str(known["sha256"])
    digest = file_sha256(path)
    with contextlib.suppress(OSError):  # a home that cannot be written to
        atomic_write(cache_dir("verified") / name, json.dumps({"seen": seen, "sha256": digest}).encode())
    return digest
