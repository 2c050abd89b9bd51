"""The data file: opened when it is whole, moved aside when it is not."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmfeat._base.optional import import_optional
from llmfeat.errors import CacheError, LLMFeatWarning

__all__ = [
    "CORRUPT",
    "DATA",
    "DATABASES",
    "damage",
    "file_id",
    "fill_up",
    "hold",
    "is_short",
    "lmdb_module",
    "map_bytes",
    "move_aside",
    "open_file",
    "remove_files",
]

DATA, CORRUPT = "data.mdb", "data.mdb.corrupt-"
DATABASES = ("index", "chunks", "stamps", "oldest")
_LOCK = "lock.mdb"
_FORMAT = b"llmfeat vectors 1"
_SPARE_BYTES = 1 << 25
_MAX_READERS = 1024
_TORN_S = 1.0  # so long a file that is too short may be about to be filled up


def lmdb_module() -> Any:
    """Return the package `lmdb`."""
    return import_optional("lmdb", purpose="the vector cache")


def damage() -> tuple[type[Exception], ...]:
    """Return LMDB's errors that say that a file is no good."""
    lmdb = lmdb_module()
    return (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError)


def map_bytes(max_bytes: int) -> int:
    """Return the size of a map in which `max_bytes` may be used.

    A transaction writes beside what it replaces, and the pages that it frees are used again by the one after the next.
    """
    return -(-(max_bytes + max_bytes // 8 + _SPARE_BYTES) >> 20) << 20


def open_file(folder: Path, max_bytes: int, *, readonly: bool) -> tuple[Any, dict[str, Any]]:
    """Return the LMDB environment of a folder, which is made if need be, and its databases.

    Raises
    ------
    CacheError
        When the file is another program's, or, where it can only be read, when there is none or it is damaged.
    lmdb.Error, OSError
        When the folder cannot be used otherwise.
    """
    data = folder / DATA
    if readonly and not data.exists():
        raise CacheError(f"{folder} holds no vectors and cannot be written: make it writable, or pass another path")
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder):
        try:
            return _open(folder, max_bytes, readonly=readonly)
        except damage() as error:
            if readonly:
                raise CacheError(
                    f"{data} is damaged ({type(error).__name__}) and cannot be moved: remove it, or pass another path"
                ) from error
            move_aside(folder, type(error).__name__)
            return _open(folder, max_bytes, readonly=readonly)


def _open(folder: Path, max_bytes: int, *, readonly: bool) -> tuple[Any, dict[str, Any]]:
    lmdb, data = lmdb_module(), folder / DATA
    options = {
        # A file that was written under a larger bound needs pages as well, to be evicted from.
        "map_size": max(map_bytes(max_bytes), map_bytes(data.stat().st_size) if data.exists() else 0),
        "max_dbs": len(DATABASES),
        "max_readers": _MAX_READERS,
        "readonly": readonly,
        # A read transaction that is kept for the next one keeps its slot too, which a fork would share.
        "max_spare_txns": 0,
        # A power cut may undo the last transaction, which the next encode does again; it leaves no half one.
        "metasync": False,
        # Else what was in the process's memory, texts among it, would fill the unused part of pages.
        "meminit": True,
    }
    try:
        env = lmdb.open(str(folder), **options)
    except lmdb.Error as error:
        if not readonly or isinstance(error, damage()):
            raise
        # The table of readers cannot be written. A writer may then overwrite what is being read: checksums tell.
        env = lmdb.open(str(folder), **options, lock=False)
    try:
        _require_whole(env, folder, wait_s=0 if readonly else _TORN_S)
        if not readonly:
            env.reader_check()
        return env, _databases(env, folder, readonly=readonly)
    except BaseException:
        env.close()
        raise


def _databases(env: Any, folder: Path, *, readonly: bool) -> dict[str, Any]:
    # py-lmdb 3.0 loses a handle that is opened in a read transaction, unless it begins that transaction itself.
    with env.begin(write=not readonly) as txn:
        new = not txn.stat()["entries"] and not readonly
        if new:
            txn.put(b"format", _FORMAT)
        written = txn.get(b"format")
        if written != _FORMAT:
            raise CacheError(
                f"{folder / DATA} is of the format {written!r}, but {_FORMAT!r} was expected: pass another path"
            )
        if not readonly:
            return {name: env.open_db(name.encode(), txn=txn, create=new) for name in DATABASES}
    return {name: env.open_db(name.encode(), create=False) for name in DATABASES}


def _require_whole(env: Any, folder: Path, *, wait_s: float) -> None:
    """Raise LMDB's error of a damaged file when it is torn: to read a page beyond its end would kill the process."""
    until = time.monotonic() + wait_s
    while is_short(env, folder):
        if time.monotonic() > until:
            raise lmdb_module().CorruptedError("the file is shorter than its pages")
        time.sleep(0.05)


def is_short(env: Any, folder: Path) -> bool:
    """Return whether the file lacks pages that LMDB says it has."""
    with contextlib.suppress(FileNotFoundError):  # another process may have removed it
        return (folder / DATA).stat().st_size < _whole_bytes(env)
    return False


def fill_up(env: Any, folder: Path, whose: tuple[int, int] | None) -> None:
    """Let the file have all of its pages, unless it is another one by now; to be called while no process writes."""
    with contextlib.suppress(FileNotFoundError), open(folder / DATA, "rb+") as file:
        stat = os.fstat(file.fileno())
        if (stat.st_dev, stat.st_ino) == whose and stat.st_size < _whole_bytes(env):
            file.truncate(_whole_bytes(env))


def _whole_bytes(env: Any) -> int:
    return int((env.info()["last_pgno"] + 1) * env.stat()["psize"])


def move_aside(folder: Path, reason: str) -> None:
    """Move the data file aside, instead of one that was moved before; processes that have it open keep it."""
    remove_files(folder, _LOCK, f"{CORRUPT}*")
    name = f"{CORRUPT}{time.strftime('%Y%m%dT%H%M%S')}"
    (folder / DATA).rename(folder / name)
    warnings.warn(
        f"{folder / DATA} is damaged ({reason}), but vectors were expected: it was moved to {name}, and texts are "
        "encoded again; check the disk, and remove the file when nobody looks into it",
        LLMFeatWarning,
        stacklevel=2,
    )


def remove_files(folder: Path, *patterns: str) -> None:
    """Remove the files of these names, by default all of the cache."""
    for pattern in patterns or (_LOCK, DATA, f"{CORRUPT}*"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def file_id(folder: Path) -> tuple[int, int] | None:
    """Return what tells the data file from one that took its place."""
    try:
        stat = (folder / DATA).stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes that open, move or remove its file."""
    if os.name != "posix":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
