"""What the readers of files share: a file must stay as it is, lines of text, batches of one size."""

from __future__ import annotations

import gzip
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from llmfeat._base.rows.source import RowBatch, RowSource
from llmfeat.errors import InputError

__all__ = ["FileRows", "damaged", "rechunked", "text_lines"]


class FileRows(RowSource):
    """The rows of a file or a folder that must stay as it is while it is read."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{what} in {path}")
        self._path = path
        self._stamps = _stamps(path)

    def _read(self, columns: list[str], batch_rows: int) -> Iterator[RowBatch]:
        self._require_unchanged()
        try:
            yield from self._read_file(columns, batch_rows)
        except InputError:
            self._require_unchanged()  # what looks damaged may be half written
            raise
        self._require_unchanged()

    def _require_unchanged(self) -> None:
        if _stamps(self._path) != self._stamps:
            raise InputError(f"{self._what} changed while it was read, but must stay as it is until the end: run again")

    @abstractmethod
    def _read_file(self, columns: list[str], batch_rows: int) -> Iterator[RowBatch]: ...


def damaged(path: Path, kind: str, reason: object) -> InputError:
    """Return the error for a file that is not what its name says."""
    return InputError(f"{path} cannot be read ({reason}), but a whole {kind} file was expected: write it anew")


def text_lines(path: Path, *, is_gzip: bool) -> Iterator[tuple[int, str]]:
    """Yield the number, from 1, and the text of each line of a file in UTF-8.

    Raises
    ------
    InputError
        Naming the line that is no UTF-8, or the file that is damaged.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if is_gzip else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}, line {number} is no UTF-8, which was expected: convert the file to UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, "gzip" if is_gzip else "text", error) from error


def rechunked(tables: Iterable[pa.Table], n_rows: int) -> Iterator[pa.Table]:
    """Yield the rows of tables of one schema in tables of `n_rows`, the last one smaller."""
    held: list[pa.Table] = []
    n_held = 0
    for table in tables:
        held.append(table)
        n_held += table.num_rows
        while n_held >= n_rows:
            joined = pa.concat_tables(held)
            yield joined.slice(0, n_rows)
            held, n_held = [joined.slice(n_rows)], n_held - n_rows
    if n_held:
        yield pa.concat_tables(held)


def _stamps(path: Path) -> list[tuple[Path, int, int]]:
    """Return name, size and time of change of a file, or of each parquet file of a folder."""
    try:
        files = _parquet_files(path) if path.is_dir() else [path]
        return [(file, stat.st_size, stat.st_mtime_ns) for file in files for stat in [file.stat()]]
    except OSError:
        return []


def _parquet_files(folder: Path) -> list[Path]:
    found = (file for file in folder.rglob("*") if file.suffix.lower() == ".parquet" and file.is_file())
    return sorted(file for file in found if not any(part[0] in "._" for part in file.relative_to(folder).parts))
