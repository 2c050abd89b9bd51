"""Vectors of texts, kept on disk."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmfeat._base.files import cache_dir
from llmfeat.encode.cache.chunks import ROW_BYTES, join_keys, row_checksums, text_digests
from llmfeat.encode.cache.environment import ClosedError, Environment
from llmfeat.encode.cache.file import CORRUPT, DATA, damage, lmdb_module
from llmfeat.errors import CacheError, InputError, LLMFeatWarning
from llmfeat.types import BoolArray, Float32Array

__all__ = ["CacheInfo", "VectorCache"]

_NAMESPACE_BYTES = 32
_ENTRY_BYTES = 64  # of the index, with its page's empty part
_LEAST_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 24  # written in one transaction; LMDB holds its dirty pages in memory
_CHUNK_BYTES = 1 << 18  # 170 vectors of 384 dimensions: few look-ups for a batch, little thrown out at once
_KEPT = 0.9  # of max_bytes, when the oldest is thrown out
_STAMPED_CHUNKS = 64  # in one transaction
_VERIFIED = 8192  # entries in one transaction


@dataclass(frozen=True)
class CacheInfo:
    """What is in a cache, and how much of it.

    Attributes
    ----------
    path : Path
        The folder.
    n_entries : int
        Vectors that can be found.
    used_bytes : int
        Pages in use, what `max_bytes` bounds.
    file_bytes : int
        The file's size: it keeps pages that were freed, for new vectors.
    max_bytes : int
        The bound that this `VectorCache` holds.
    readonly : bool
        Whether vectors can be read only.
    n_set_aside : int
        Damaged files that were moved aside and lie in the folder.
    """

    path: Path
    n_entries: int
    used_bytes: int
    file_bytes: int
    max_bytes: int
    readonly: bool
    n_set_aside: int


class VectorCache:
    """Keeps vectors of texts on disk, found by a digest of the text and of what encoded it.

    Threads and processes share a folder freely; an object is opened on first use, again after a fork, and is pickled
    as its parameters. What cannot be read counts as not found and what cannot be written is not kept, with a warning
    once: the caller encodes, as without a cache. Every vector has a checksum, which is compared on every read.

    Parameters
    ----------
    path : str or Path, optional
        A folder on a local disk; LMDB does not support network file systems. By default ``vectors`` in the user's
        cache folder, or in ``$LLMFEAT_CACHE_DIR``.
    max_bytes : int, default=10 GiB
        The space that vectors may take, at least 1 MiB. Beyond it those that were not used for longest are thrown
        out, down to 90 %. The file may be larger by an eighth and 32 MiB, which transactions need.

    Attributes
    ----------
    n_corrupt : int
        Entries that were found and not returned, because their checksum was wrong.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> cache = VectorCache(tempfile.mkdtemp())
    >>> keys = cache.keys(bytes(32), ["Heat (1995)", "Alien (1979)"])
    >>> cache.put(keys[:1], np.ones((1, 4), np.float32))
    1
    >>> vectors, found = cache.get(keys, 4)
    >>> found.tolist(), vectors[0].tolist()
    ([True, False], [1.0, 1.0, 1.0, 1.0])
    >>> cache.close()
    """

    def __init__(self, path: str | Path | None = None, *, max_bytes: int = 10 * 2**30) -> None:
        if max_bytes < _LEAST_BYTES:
            raise InputError(f"max_bytes={max_bytes!r}, but at least {_LEAST_BYTES} was expected: a cache needs room")
        self.path = path
        self.max_bytes = max_bytes
        self.n_corrupt = 0
        self._environment: Environment | None = None
        self._used: set[bytes] = set()  # chunks whose stamp is old
        self._said: set[str] = set()

    @staticmethod
    def keys(namespace: bytes, texts: Sequence[str]) -> list[bytes]:
        """Return the key of each text, 16 bytes: its BLAKE2b digest, keyed by the namespace.

        Parameters
        ----------
        namespace : bytes of length 32
            What encodes the texts: model, numerics and dimensions.
        texts : sequence of str

        Raises
        ------
        InputError
            When the namespace is of another length.
        """
        if len(namespace) != _NAMESPACE_BYTES:
            raise InputError(
                f"a namespace of {len(namespace)} bytes came, but {_NAMESPACE_BYTES} were expected: pass a SHA-256"
            )
        return text_digests(namespace, texts)

    def get(self, keys: Sequence[bytes], dim: int) -> tuple[Float32Array, BoolArray]:
        """Return the vectors of `keys`, and which of them were found.

        Parameters
        ----------
        keys : sequence of bytes of length 16
            As `keys` gives them.
        dim : int
            The number of dimensions of each vector.

        Returns
        -------
        vectors : ndarray of shape (n, dim), float32
            Zeros where nothing was found.
        found : ndarray of shape (n,), bool
            Whether there was a vector, and its checksum was right.
        """
        joined = join_keys(keys)
        vectors = np.zeros((len(keys), dim), dtype=np.float32)
        try:
            environment = self._opened()
            with environment.reading() as (values, views):
                places = environment.places(values, keys)
                rows = environment.gather(views, places, vectors)
                if not environment.readonly:
                    self._used.update(environment.not_fresh(values, rows.chunks))
        except _failures() as error:
            self._failed(error, "read")
            return np.zeros_like(vectors), np.zeros(len(keys), dtype=bool)
        if len(self._used) >= _STAMPED_CHUNKS:
            self._stamp(environment)
        found = rows.copied
        at = slice(None) if found.all() else np.flatnonzero(found)
        found[at] = row_checksums(joined[at], vectors[at]) == rows.checksums[at]
        wrong = (places["chunk"] != 0) & ~found
        if wrong.any():
            self.n_corrupt += int(wrong.sum())
            vectors[wrong] = 0
        return vectors, found

    def put(self, keys: Sequence[bytes], vectors: Float32Array) -> int:
        """Write the vectors of `keys`, and return how many were written; those that are there already are not.

        Parameters
        ----------
        keys : sequence of bytes of length 16
            As `keys` gives them.
        vectors : ndarray of shape (n, dim), float32
        """
        join_keys(keys)
        matrix = np.ascontiguousarray(vectors, dtype="<f4")
        if matrix.ndim != 2 or len(matrix) != len(keys) or not matrix.shape[1]:
            raise InputError(f"vectors have the shape {matrix.shape}, but ({len(keys)}, dim) was expected: one per key")
        step = max(1, min(_BLOCK_BYTES, self.max_bytes // 16) // (ROW_BYTES + matrix.itemsize * matrix.shape[1]))
        n_written = 0
        try:
            environment = self._opened()
            if environment.readonly:
                self._warn(
                    "write",
                    f"{environment.folder} is read-only, so new vectors are not kept: make it writable, or set "
                    "LLMFEAT_CACHE_DIR to a folder that is",
                )
                return 0
            for begin in range(0, len(keys), step):
                n_written += self._write(environment, keys[begin : begin + step], matrix[begin : begin + step])
        except _failures() as error:
            self._failed(error, "write")
        return n_written

    def info(self) -> CacheInfo:
        """Return what is in the cache.

        Raises
        ------
        CacheError
            When the folder cannot be used.
        """
        with self._told() as environment:
            with environment.reading() as (values, _):
                n_entries, used_bytes = environment.n_entries(values), environment.used_bytes(values)
            return CacheInfo(
                path=environment.folder,
                n_entries=n_entries,
                used_bytes=used_bytes,
                file_bytes=(environment.folder / DATA).stat().st_size,
                max_bytes=self.max_bytes,
                readonly=environment.readonly,
                n_set_aside=len(list(environment.folder.glob(f"{CORRUPT}*"))),
            )

    def prune(self, max_bytes: int | None = None) -> int:
        """Throw out what was not used for longest, and return how many vectors that were.

        The file keeps its size, for new vectors, unless all are thrown out: then it is removed, and so are damaged
        files that were moved aside.

        Parameters
        ----------
        max_bytes : int, optional
            The space that may stay in use; 0 throws out everything. By default the cache's own bound.

        Raises
        ------
        CacheError
            When the folder cannot be used, or is read-only.
        """
        if max_bytes is not None and max_bytes < 0:
            raise InputError(f"max_bytes={max_bytes!r}, but 0 or more was expected")
        with self._told() as environment:
            if environment.readonly:
                raise CacheError(f"{environment.folder} is read-only, so nothing can be thrown out: make it writable")
            if max_bytes != 0:
                return environment.evict(self.max_bytes if max_bytes is None else max_bytes)
            n_entries = self.info().n_entries
            environment.remove()
            return n_entries

    def verify(self) -> tuple[int, int]:
        """Compare every vector with its checksum; return how many there were, and how many were wrong.

        Wrong ones are removed, and encoded again when they are asked for; in a read-only folder they stay.

        Raises
        ------
        CacheError
            When the folder cannot be used.
        """
        with self._told() as environment:
            with environment.reading() as (values, _):
                keys, places = environment.entries(values)
            order = np.argsort(places["chunk"], kind="stable")
            # A transaction for each block: a long one would keep writers from using freed pages again.
            blocks = [order[begin : begin + _VERIFIED] for begin in range(0, len(order), _VERIFIED)]
            return len(keys), sum(environment.remove_wrong(keys[block], places[block]) for block in blocks)

    def close(self) -> None:
        """Close the folder for this process; whoever uses it next opens it again."""
        environment = self._environment
        if environment is not None and environment.is_current():
            self._stamp(environment)
            environment.close()
        self._environment = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "max_bytes": self.max_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], max_bytes=state["max_bytes"])  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"VectorCache({None if self.path is None else str(self.path)!r}, max_bytes={self.max_bytes})"

    def _opened(self) -> Environment:
        """Return the environment, opened if need be; raises what `failures` names."""
        environment = self._environment
        if environment is None or not environment.is_current():
            folder = cache_dir("vectors") if self.path is None else Path(self.path).expanduser()
            environment = self._environment = Environment.of(folder, self.max_bytes)
        environment.make_room(self.max_bytes)
        return environment

    @contextlib.contextmanager
    def _told(self) -> Iterator[Environment]:
        """Yield the environment; whatever fails is a `CacheError`."""
        try:
            yield self._opened()
        except _failures() as error:
            if isinstance(error, CacheError):
                raise
            again = isinstance(error, ClosedError) or self._mend(error)
            advice = "call again" if again else "check the folder, or pass another path"
            raise CacheError(f"{self!r} cannot be used ({error}): {advice}") from error

    def _write(self, environment: Environment, keys: Sequence[bytes], vectors: Float32Array) -> int:
        need = len(keys) * (ROW_BYTES + _ENTRY_BYTES) + vectors.nbytes
        with environment.reading() as (values, _):
            used = environment.used_bytes(values)
        if used + need > self.max_bytes:
            self._stamp(environment)
            environment.evict(int(self.max_bytes * _KEPT))
        try:
            return self._append(environment, keys, vectors)
        except lmdb_module().MapFullError:
            # A reader that began long ago keeps pages that were freed since, or they lie too scattered for a chunk. In
            # two steps: what a transaction frees can be used by the one after the next.
            for kept in (_KEPT, _KEPT**2):
                environment.evict(int(min(used, self.max_bytes) * kept))
            return self._append(environment, keys, vectors)

    def _append(self, environment: Environment, keys: Sequence[bytes], vectors: Float32Array) -> int:
        chunk_rows = max(1, min(_CHUNK_BYTES, self.max_bytes // 64) // (ROW_BYTES + vectors[0].nbytes))
        with environment.writing() as txn:
            there = environment.has(txn, keys, vectors.shape[1])
            # Of a key that comes twice its last row, as in a dict; what is there and right stays where it is.
            last = dict(zip(keys, range(len(keys)), strict=True))
            new = [row for row in last.values() if not there[row]]
            for begin in range(0, len(new), chunk_rows):
                rows = new[begin : begin + chunk_rows]
                environment.append(txn, [keys[row] for row in rows], vectors[rows])
        return len(new)

    def _stamp(self, environment: Environment) -> None:
        """Write down which chunks were used."""
        used, self._used = self._used, set()
        chunks = list(used)  # another thread may still add to the set
        if not chunks:
            return
        try:
            with environment.writing() as txn:
                environment.stamp(txn, chunks)
        except _failures() as error:
            self._failed(error, "write")

    def _failed(self, error: Exception, doing: str) -> None:
        """Take an error of reading or writing as a cache that holds nothing, and say so once."""
        if isinstance(error, ClosedError):
            return  # by another thread: the next call opens it again
        if self._mend(error):
            return
        if isinstance(error, CacheError):
            self._warn(doing, str(error))
        elif doing == "read":
            self._warn(doing, f"{self!r} cannot be read ({error}), so texts are encoded again: check the folder")
        else:
            self._warn(
                doing,
                f"{self!r} cannot be written ({error}), so new vectors are not kept: free space on its disk, or set "
                "LLMFEAT_CACHE_DIR to a folder on another one",
            )

    def _mend(self, error: Exception) -> bool:
        """Move a damaged file aside, and return whether it was one; close what only works when it is opened again."""
        environment = self._environment
        if environment is None or environment.readonly:
            return False
        if isinstance(error, damage()):
            with contextlib.suppress(OSError):
                environment.set_aside(type(error).__name__)
                return True
        if isinstance(error, lmdb_module().PanicError):
            environment.close()
        return False

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            warnings.warn(message, LLMFeatWarning, stacklevel=4)


def _failures() -> tuple[type[Exception], ...]:
    """Return what may go wrong with a folder, which is no reason for an encoder to fail."""
    return (lmdb_module().Error, OSError, CacheError, ClosedError)
