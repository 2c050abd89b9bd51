"""What the towers are given: the vectors of items side by side, at one scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat.errors import InputError, TableFingerprintError
from llmfeat.history import InteractionLog, Sequences
from llmfeat.rank.scorers.base import check_vectors, named_ids
from llmfeat.rank.scorers.cosine import unit_rows
from llmfeat.types import Float32Array, VectorSource

__all__ = ["check_same_sources", "item_features", "likes_of", "means_of", "sources_of"]

_SCALE = 4.0  # entries of unit vectors are small beside the steps of Adam


def sources_of(vectors: Any) -> dict[str, VectorSource]:
    """Return vector sources by name.

    Raises
    ------
    InputError
        When one is no vector source, or there is none.
    """
    sources = dict(vectors) if isinstance(vectors, Mapping) else {"text": vectors}
    for name, source in sources.items():
        check_vectors(source, what=f"vectors[{name!r}]")
    if not sources:
        raise InputError("vectors names no source: pass a VectorTable, or several by name")
    return sources


def item_features(sources: Mapping[str, VectorSource], ids: Any) -> Float32Array:
    """Return the unit vectors of items, one source beside the other, float32; NaN where a source has none."""
    blocks = []
    for source in sources.values():
        found = source.lookup(ids)
        unit = unit_rows(found) * np.float32(_SCALE)
        unit[~unit.any(axis=1)] = np.nan
        blocks.append(unit)
    return np.ascontiguousarray(np.concatenate(blocks, axis=1))


def likes_of(log: InteractionLog, sources: Mapping[str, VectorSource]) -> tuple[Sequences, pa.StringArray]:
    """Return what each user of a log liked, over its items and those that the sources name, and that catalogue."""
    item_ids = pc.unique(pa.concat_arrays([log.item_ids, *map(named_ids, sources.values())]))
    never_us = np.full(len(log.user_ids), np.iinfo(np.int64).max)
    return Sequences.of_log(log, log.user_ids, never_us, item_ids=item_ids).positives(), item_ids


def check_same_sources(sources: Mapping[str, VectorSource], fitted: Mapping[str, str]) -> None:
    """Raise `TableFingerprintError` unless the sources are those that the towers were fitted with."""
    given = {name: source.fingerprint for name, source in sources.items()}
    if list(given.items()) != list(fitted.items()):
        short = [{name: mark[:12] for name, mark in each.items()} for each in (given, fitted)]
        raise TableFingerprintError(
            f"the vectors are {short[0]}, but the towers were fitted with {short[1]}: pass those, or fit again"
        )


def means_of(features: Float32Array) -> Float32Array:
    """Return the mean of each feature over the items that have it, float32; 0 where none has."""
    there = ~np.isnan(features)
    totals = np.where(there, features, 0).sum(axis=0, dtype=np.float64)
    means: Float32Array = (totals / np.maximum(there.sum(axis=0), 1)).astype(np.float32)
    return means
