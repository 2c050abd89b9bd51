"""A log as a folder: arrays that many processes map into memory and share, and one small file that names them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from llmfeat._base.files import atomic_folder, canonical_json, file_sha256, text_sha256
from llmfeat._base.verified import verified_sha256
from llmfeat.errors import InputError

__all__ = ["LOG_FILE", "StoredLog", "read_stored", "write_stored"]

LOG_FILE = "log.json"
_SCHEMA = 1
_ARRAYS = {"user_codes": "<i4", "item_codes": "<i4", "times_us": "<i8", "labels": "<f4", "user_offsets": "<i8"}
_IDS = ("user_ids", "item_ids")
_FILES = (*(f"{name}.npy" for name in _ARRAYS), *(f"{name}.arrow" for name in _IDS))
_PROPERTIES = ("available_after_us", "cut_us")


@dataclass(frozen=True, eq=False)
class StoredLog:
    """What a folder holds.

    Attributes
    ----------
    arrays : dict of str to ndarray
        By the name of their file; read-only.
    ids : dict of str to pyarrow.StringArray
        By the name of their file.
    properties : dict of str to int or None
        Of the log as a whole.
    """

    arrays: dict[str, npt.NDArray[Any]]
    ids: dict[str, pa.StringArray]
    properties: dict[str, int | None]


def write_stored(stored: StoredLog, folder: Path) -> None:
    """Write a folder in one step; a log that was there is replaced, and those who opened it keep the old one."""
    is_new = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_new and not (folder / LOG_FILE).is_file():
        raise InputError(f"{folder} is there but holds no {LOG_FILE}, so it is no log to replace: name another folder")
    with atomic_folder(folder) as staging:
        for name, kind in _ARRAYS.items():
            np.save(staging / f"{name}.npy", stored.arrays[name].astype(kind, copy=False), allow_pickle=False)
        for name in _IDS:
            _write_ids(staging / f"{name}.arrow", stored.ids[name])
        files = {
            name: {"sha256": file_sha256(staging / name), "size_bytes": (staging / name).stat().st_size}
            for name in _FILES
        }
        body = {"schema": _SCHEMA, **{name: stored.properties[name] for name in _PROPERTIES}, "files": files}
        (staging / LOG_FILE).write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    for name in _FILES:  # the digests are remembered from here on, so that the first to open it need not wait
        verified_sha256(folder / name)


def read_stored(folder: Path, *, in_memory: bool) -> tuple[StoredLog, str]:
    """Return what a folder holds, and the fingerprint of it all.

    Raises
    ------
    InputError
        When there is no log, it is of another schema, or a file is not the one that was written.
    """
    body = _read_body(folder)
    for name, (sha256, size_bytes) in body.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size_bytes or verified_sha256(path) != sha256:
            raise InputError(
                f"{path} is missing or is not the file that was written: restore it, or save the log again"
            )
    stored = StoredLog(
        arrays={name: _read_array(folder / f"{name}.npy", in_memory=in_memory) for name in _ARRAYS},
        ids={name: _read_ids(folder / f"{name}.arrow", in_memory=in_memory) for name in _IDS},
        properties=body.properties,
    )
    return stored, body.fingerprint


@dataclass(frozen=True)
class _Body:
    """What `LOG_FILE` says: the digest and the size of each file, and the properties of the log."""

    files: dict[str, tuple[str, int]]
    properties: dict[str, int | None]
    fingerprint: str


def _read_body(folder: Path) -> _Body:
    path = folder / LOG_FILE
    if not path.is_file():
        raise InputError(f"{folder} holds no {LOG_FILE}, but a saved log was expected: make one with log.save(folder)")
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body["schema"] != _SCHEMA:
            raise InputError(
                f"{path} has schema {body['schema']!r}, but this version reads {_SCHEMA}: save the log again, or "
                "upgrade llmfeat"
            )
        files = {name: (str(body["files"][name]["sha256"]), int(body["files"][name]["size_bytes"])) for name in _FILES}
        properties = {name: None if body[name] is None else int(body[name]) for name in _PROPERTIES}
    except InputError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not describe a log ({error!r}): restore it, or save the log again") from error
    return _Body(files, properties, text_sha256(canonical_json(body)))


def _read_array(path: Path, *, in_memory: bool) -> npt.NDArray[Any]:
    # A plain view: what is taken from a numpy.memmap would be one as well.
    array: npt.NDArray[Any] = np.load(path, mmap_mode=None if in_memory else "r", allow_pickle=False).view(np.ndarray)
    array.setflags(write=False)
    return array


def _write_ids(path: Path, ids: pa.StringArray) -> None:
    table = pa.table({"id": ids})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _read_ids(path: Path, *, in_memory: bool) -> pa.StringArray:
    ids = pa.ipc.open_file(pa.OSFile(str(path)) if in_memory else pa.memory_map(str(path))).read_all().column("id")
    return ids.chunk(0) if ids.num_chunks == 1 else ids.combine_chunks()
