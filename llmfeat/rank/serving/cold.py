"""Candidates that are not in the store yet: encoded from the text that the request brings, within a budget."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from llmfeat.encode import TextEncoder
from llmfeat.errors import BundleError, InputError, TableFingerprintError
from llmfeat.features._reducers import reduced
from llmfeat.rank.serving.deadline import Deadline, Late, Pace
from llmfeat.rank.serving.gathered import Gathered
from llmfeat.rank.serving.sources import CandidateVectors
from llmfeat.text import ItemTemplate
from llmfeat.types import Float32Array

__all__ = ["ColdItems"]

_FIRST_S = 0.01


class ColdItems:
    """Encodes the texts of candidates without a vector, by the model that encoded the catalogue.

    Parameters
    ----------
    vectors : CandidateVectors
        What the ranker reads.
    encoder : TextEncoder
        The model and the backend of the catalogue.
    template : ItemTemplate or None
        That of the catalogue.
    max_texts : int
        How many texts a request may encode.
    """

    def __init__(
        self, vectors: CandidateVectors, encoder: TextEncoder, template: ItemTemplate | None, *, max_texts: int
    ) -> None:
        if template is None:
            raise BundleError(
                "encoder= came without template=, but a text must be rendered as the catalogue's were: pass it"
            )
        if max_texts < 1:
            raise InputError(
                f"max_texts={max_texts!r}, but at least 1 was expected: leave the encoder out to encode none"
            )
        self._encoder = encoder
        self._template = template
        self._max_texts = max_texts
        fingerprint = encoder.table_fingerprint(template)
        self._parts = {name: part for name, part in vectors.parts.items() if part.base == fingerprint}
        if not self._parts:
            bases = sorted({part.base[:12] for part in vectors.parts.values()})
            raise TableFingerprintError(
                f"encoder and template make vectors of {fingerprint[:12]}, but the ranker reads {bases}: pass those "
                "that the catalogue was encoded with, backend included"
            )
        self._pace = Pace(_FIRST_S)
        encoder.encode(["warm up"])  # the first text opens the model, which takes many times as long as a text does

    def fill(self, found: Gathered, texts: Mapping[Any, Any], clock: Deadline, reserve_s: float) -> tuple[int, bool]:
        """Encode what is missing and has a text; return how many texts, and whether these were all.

        As many as fit into the budget and the time that is left are encoded, in the order of the candidates.
        """
        name = next(iter(self._parts))
        cold = np.flatnonzero(np.isnan(found.candidates[name][:, 0])).tolist()
        given = {str(key): text for key, text in texts.items()}
        wanted = list(dict.fromkeys(found.item_ids[at] for at in cold if found.item_ids[at] in given))
        left_s = clock.left_s(reserve_s)
        fits = self._max_texts if left_s == float("inf") else int(left_s / self._pace.expected_s)
        chosen = wanted[: max(0, min(self._max_texts, fits))]
        if wanted and not chosen:
            self._pace.relax()
        rendered = {key: self._rendered(given[key]) for key in chosen}
        encoded = [key for key in chosen if rendered[key] is not None]
        if encoded:
            try:
                vectors = clock.start(lambda: self._encode([str(rendered[key]) for key in encoded]))(reserve_s)
            except Late:
                return 0, False
            self._put(found, dict(zip(encoded, vectors, strict=True)), cold)
        return len(encoded), len(chosen) == len(wanted)

    def _encode(self, texts: list[str]) -> Float32Array:
        began = time.perf_counter()
        vectors = self._encoder.encode(texts)
        self._pace.add((time.perf_counter() - began) / len(texts))
        return vectors

    def _put(self, found: Gathered, vectors: dict[str, Float32Array], cold: list[int]) -> None:
        rows = [at for at in cold if found.item_ids[at] in vectors]
        block = np.stack([vectors[found.item_ids[at]] for at in rows])
        for name, part in self._parts.items():
            found.candidates[name][rows] = block if part.reducer is None else reduced(part.reducer, block)

    def _rendered(self, row: Any) -> str | None:
        if row is None or isinstance(row, str):
            return row or None
        if not isinstance(row, Mapping):
            raise InputError(
                f"a text of the request is a {type(row).__name__}, but a text or a row of fields was expected"
            )
        if not set(row) & set(self._template.fields):
            raise InputError(
                f"a text of the request has the fields {list(row)}, but the template needs "
                f"{list(self._template.fields)}"
            )
        table = pa.table({name: [row.get(name)] for name in self._template.fields})
        (text,) = self._template.render(table, truncate=self._encoder.truncate)
        return text
