"""Requests as they were served, written down for `replay`: ids, moments, features and scores, and no text."""

from __future__ import annotations

import base64
import json
import os
import random
import threading
import uuid
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from llmfeat.errors import InputError, LLMFeatWarning
from llmfeat.rank.serving.bundle import RankerBundle
from llmfeat.rank.serving.gathered import Gathered
from llmfeat.types import Float32Array, Float64Array

__all__ = ["RequestLog", "ServedRequest", "read_requests"]

_SCHEMA = 1


@dataclass(frozen=True, eq=False)
class ServedRequest:
    """One request as it was answered.

    Attributes
    ----------
    request_id : str
        A number of its own.
    bundle : str
        The fingerprint of the ranker.
    user_id : str
        Who asked.
    item_ids : list of str
        The candidates, in the order they came.
    now_us : int
        The moment of the request.
    base : dict of str to list of float
        The caller's own columns.
    matrix : ndarray of shape (n_candidates, n_columns), float32
        The features that the ranker saw; those of `base` to the precision of float32.
    scores : ndarray of shape (n_candidates,), float64
        What it said of them.
    degraded : tuple of str
        What the request did without.
    n_encoded : int
        Candidates that were encoded from the request's own text.
    """

    request_id: str
    bundle: str
    user_id: str
    item_ids: list[str]
    now_us: int
    base: Mapping[str, list[float]]
    matrix: Float32Array
    scores: Float64Array
    degraded: tuple[str, ...]
    n_encoded: int

    @classmethod
    def of(
        cls,
        bundle: RankerBundle,
        found: Gathered,
        matrix: Float32Array | Float64Array,
        scores: Float64Array,
        degraded: tuple[str, ...],
        n_encoded: int,
    ) -> Self:
        """Return what is to be written down of a request."""
        base = {name: np.asarray(values).tolist() for name, values in found.base.items()}
        return cls(
            uuid.uuid4().hex,
            bundle.fingerprint,
            found.user_id,
            list(found.item_ids),
            found.now_us,
            base,
            matrix.astype(np.float32),
            np.asarray(scores),
            degraded,
            n_encoded,
        )

    def to_json(self) -> str:
        """Return it as one line of JSON."""
        body = {
            "schema": _SCHEMA,
            "request_id": self.request_id,
            "bundle": self.bundle,
            "user_id": self.user_id,
            "item_ids": self.item_ids,
            "now_us": self.now_us,
            "base": dict(self.base),
            "shape": list(self.matrix.shape),
            "matrix": _packed(self.matrix.astype("<f4")),
            "scores": _packed(self.scores.astype("<f8")),
            "degraded": list(self.degraded),
            "n_encoded": self.n_encoded,
        }
        return json.dumps(body, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def of_json(cls, line: str) -> Self:
        """Return the request of a line.

        Raises
        ------
        InputError
            When it is no such line.
        """
        try:
            body = json.loads(line)
            if body["schema"] != _SCHEMA:
                raise InputError(f"a request was written with schema {body['schema']!r}, this version reads {_SCHEMA}")
            return cls(
                body["request_id"],
                body["bundle"],
                body["user_id"],
                body["item_ids"],
                int(body["now_us"]),
                body["base"],
                np.frombuffer(_unpacked(body["matrix"]), dtype="<f4").reshape(body["shape"]),
                np.frombuffer(_unpacked(body["scores"]), dtype="<f8"),
                tuple(body["degraded"]),
                int(body["n_encoded"]),
            )
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            raise InputError(
                f"a line of the request log cannot be read ({error!r}): remove it, or restore the file"
            ) from error


class RequestLog:
    """Appends requests to a file of this process in a folder; threads may share it.

    Parameters
    ----------
    folder : str or Path
        Where the files are.
    sample : float, default=1
        Which share of the requests is kept.
    seed : int, optional
        Of the sample.

    Attributes
    ----------
    n_lost : int
        Requests that could not be written; they were answered all the same.
    """

    def __init__(self, folder: str | Path, *, sample: float = 1.0, seed: int | None = None) -> None:
        if not 0 < sample <= 1:
            raise InputError(f"sample={sample!r}, but a share over 0 and at most 1 was expected")
        self.folder = Path(folder)
        self.sample = sample
        self.n_lost = 0
        self._draw = random.Random(seed)
        self._lock = threading.Lock()
        self._file: IO[str] | None = None

    def add(self, request: ServedRequest) -> None:
        """Write one request down, or not, by the sample."""
        with self._lock:
            if self._draw.random() >= self.sample:
                return
            try:
                self._write(request)
            except OSError as error:  # a full disk, say: the answer is there, and is not to be lost with its record
                self.n_lost += 1
                if self.n_lost == 1:
                    warnings.warn(
                        f"{self.folder} cannot be written ({error.strerror or error}): requests are answered and not "
                        "kept, n_lost counts them",
                        LLMFeatWarning,
                        stacklevel=3,
                    )

    def _write(self, request: ServedRequest) -> None:
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            name = f"requests-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
            self._file = (self.folder / name).open("a", encoding="utf-8", buffering=1)
        self._file.write(request.to_json() + "\n")

    def close(self) -> None:
        """Close the file; the next request opens another one."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None


def read_requests(path: str | Path) -> Iterator[ServedRequest]:
    """Yield the requests of a file, or of every file of a folder; a last line that was cut off is left out.

    Raises
    ------
    InputError
        When there is no file, or another line cannot be read.
    """
    folder = Path(path)
    files = sorted(folder.glob("*.jsonl")) if folder.is_dir() else [folder]
    if not files or not all(file.is_file() for file in files):
        raise InputError(
            f"{path} holds no requests, but files of a RequestLog were expected: pass requests= to OnlineRanker"
        )
    for file in files:
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                if line.endswith("\n"):
                    yield ServedRequest.of_json(line)


def _packed(values: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 1)).decode()


def _unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))
