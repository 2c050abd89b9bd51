"""Files: hashes, atomic writes, the user's cache folder."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import platformdirs

__all__ = [
    "atomic_folder",
    "atomic_write",
    "cache_dir",
    "canonical_json",
    "claimed",
    "file_sha256",
    "replace_folder",
    "source_sha256",
    "text_sha256",
]

_STAGING, _RETIRED = ".staging", ".old"
_NEW_S = 60  # between its creation and its lock, a folder looks abandoned


def cache_dir(*parts: str) -> Path:
    """Return a folder below the user's cache, ``$LLMFEAT_CACHE_DIR`` or the platform's; created if need be."""
    root = os.environ.get("LLMFEAT_CACHE_DIR") or platformdirs.user_cache_dir("llmfeat")
    path = Path(root).expanduser().joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    """Return the SHA-256 of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def source_sha256(package: ModuleType) -> str:
    """Return the SHA-256 of a package's Python sources: what it computes changes only with them."""
    digest = hashlib.sha256()
    folder = Path(str(package.__file__)).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()} {file_sha256(path)}\n".encode())
    return digest.hexdigest()


def canonical_json(value: Any) -> str:
    """Return one JSON text per value: sorted keys, no spaces; what fingerprints are taken over."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def atomic_write(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for the owner only; a table is read by other users as any file would be.
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` when the block ends well, and is dropped when not.

    A process that is killed leaves the old folder or the new one, and a hidden one beside it, which the next call
    removes. Where two names cannot be exchanged in one step (see `replace_folder`) it may leave neither for a moment
    between two renames; the next call then puts the old one back.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=_STAGING))
    try:
        with claimed(staging):
            yield staging
            for file in staging.rglob("*"):
                if file.is_file():
                    with open(file, "rb+") as opened:
                        os.fsync(opened.fileno())
            staging.chmod(0o777 & ~_umask())
            replace_folder(staging, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def replace_folder(new: Path, path: Path) -> None:
    """Move the folder `new` to `path`; what was at `path` is afterwards at `new`, or gone.

    One step where the system can exchange two names (Linux since 3.15, macOS), else two renames.
    """
    if not path.exists():
        new.rename(path)
    elif not _exchange(new, path):
        retired = new.with_name(new.name + _RETIRED)
        path.rename(retired)
        try:
            new.rename(path)
        except BaseException:
            retired.rename(path)
            raise
        shutil.rmtree(retired, ignore_errors=True)


def _exchange(one: Path, two: Path) -> bool:
    """Exchange two names in one step; return False where the system or the file system cannot."""
    library: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE; macOS's RENAME_SWAP is 2 as well
    if hasattr(library, "renameat2"):
        status = library.renameat2(here, os.fsencode(one), here, os.fsencode(two), exchange)
    elif hasattr(library, "renamex_np"):
        status = library.renamex_np(os.fsencode(one), os.fsencode(two), exchange)
    else:
        return False
    if status == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(two))


def _sweep(path: Path) -> None:
    """Mend what killed processes left beside `path`: staging folders that nobody holds, an old folder half replaced."""
    for retired in path.parent.glob(f".{glob.escape(path.name)}.*{_STAGING}{_RETIRED}"):
        # Only where names cannot be exchanged, between the two renames: the old folder goes back to its place.
        with contextlib.suppress(OSError):
            if time.time() - retired.stat().st_ctime > _NEW_S:
                shutil.rmtree(retired) if path.exists() else retired.rename(path)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_STAGING}"):
        with contextlib.suppress(OSError):  # another process was faster, or it is not ours to remove
            if time.time() - left.stat().st_mtime > _NEW_S:
                with claimed(left):
                    shutil.rmtree(left)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes; raises BlockingIOError where another one holds it.

    A process that dies lets go. Where there are no such locks (Windows) nothing is held.
    """
    if os.name != "posix":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
