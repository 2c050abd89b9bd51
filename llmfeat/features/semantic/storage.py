"""The file of fitted semantic ids: one line of canonical JSON, then the centroids and the codes as bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmfeat._base.files import atomic_write, canonical_json
from llmfeat.errors import ArtifactCorruptError, ArtifactNotFoundError, ArtifactSchemaError
from llmfeat.features.semantic.residual import CodeBook
from llmfeat.features.semantic.trie import CodeTrie

__all__ = ["fingerprint_of", "read_book", "write_book"]

_SCHEMA = 1


def fingerprint_of(book: CodeBook, trie: CodeTrie) -> str:
    """Return what identifies a book and the numbering of the prefixes, in hex."""
    return _sha256({"normalize": bool(book.normalize), "exponent": book.exponent, "dim": book.dim}, _body(book, trie))


def write_book(path: Path, book: CodeBook, trie: CodeTrie, about: Mapping[str, Any]) -> None:
    """Write a book and the codes of the fitted items, with what is to be known about them as JSON.

    `about` has the parameters of `SemanticIds` under ``parameters``, ``normalize`` among them.
    """
    shape = {"schema": _SCHEMA, "n_codes": book.n_codes, "dim": book.dim, "exponent": book.exponent}
    header = {**shape, **about}
    body = _body(book, trie)
    text = canonical_json(header | {"sha256": _sha256(header, body)})
    atomic_write(path, text.encode() + b"\n" + body)


def read_book(path: Path) -> tuple[CodeBook, CodeTrie, dict[str, Any]]:
    """Return the book, the codes, and the header, in which `about` is.

    Raises
    ------
    ArtifactNotFoundError, ArtifactSchemaError, ArtifactCorruptError
        When there is no file, a newer version wrote it, or it is not what was written.
    """
    if not path.is_file():
        raise ArtifactNotFoundError(f"{path} is no file: write one with SemanticIds(...).fit(vectors).save(path)")
    text, _, body = path.read_bytes().partition(b"\n")
    try:
        header = json.loads(text)
        is_canonical = canonical_json(header).encode() == text
        schema, written = header["schema"], header.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactCorruptError(
            f"{path} does not begin with a header of semantic ids: pass the file that SemanticIds.save wrote"
        ) from error
    if schema != _SCHEMA:
        raise ArtifactSchemaError(f"{path} has schema {schema!r}, this version reads {_SCHEMA}: upgrade llmfeat")
    if not is_canonical or _sha256(header, body) != written:
        raise ArtifactCorruptError(f"{path} has another sha256 than when it was written: copy it again, or refit")
    return *_arrays(header, body), header


def _arrays(header: Mapping[str, Any], body: bytes) -> tuple[CodeBook, CodeTrie]:
    sizes, dim = header["n_codes"], header["dim"]
    stops = np.cumsum([4 * dim * size for size in sizes])
    *parts, codes = np.split(np.frombuffer(body, dtype=np.uint8), stops)
    levels = tuple(part.view("<f4").reshape(-1, dim).astype(np.float32) for part in parts)
    trie = CodeTrie(codes.view("<i4").reshape(-1, len(sizes)).astype(np.int32), sizes)
    return CodeBook(levels, header["parameters"]["normalize"], header["exponent"]), trie


def _body(book: CodeBook, trie: CodeTrie) -> bytes:
    return b"".join([*(level.astype("<f4").tobytes() for level in book.levels), trie.codes.astype("<i4").tobytes()])


def _sha256(header: Mapping[str, Any], body: bytes) -> str:
    digest = hashlib.sha256(canonical_json(header).encode())
    digest.update(body)
    return digest.hexdigest()
