"""A fitted pipeline read as blocks of columns and a booster: what of it a bundle can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils.validation import check_is_fitted

from llmfeat.errors import BundleError
from llmfeat.features import ActivityFeatures, HistoryFeatures, SemanticIdFeatures, SemanticIds
from llmfeat.features.reduce import ReducedVectors
from llmfeat.rank.serving.blocks import (
    ActivityBlock,
    BaseBlock,
    Block,
    HistoryBlock,
    SemanticBlock,
    StoreBlock,
    VectorPart,
)
from llmfeat.store import FeastFeatures
from llmfeat.types import VectorSource

__all__ = ["PipelineParts", "read_pipeline"]

_HISTORY_PARAMS = (
    "max_events",
    "top_k",
    "half_lives",
    "half_lives_s",
    "temperatures",
    "statistics",
    "sides",
    "history_lag_s",
)


@dataclass(frozen=True, eq=False)
class PipelineParts:
    """A pipeline in parts.

    Attributes
    ----------
    blocks : tuple of Block
        In the order of the booster's columns.
    booster : lightgbm.Booster
        The trained trees.
    """

    blocks: tuple[Block, ...]
    booster: Any


def read_pipeline(pipeline: Pipeline, *, semantic_ids: SemanticIds | None = None) -> PipelineParts:
    """Return the parts of a fitted pipeline.

    Raises
    ------
    BundleError
        When a step is of a kind that is served by the pipeline itself only, or the ranker is not LightGBM's.
    """
    check_is_fitted(pipeline)
    if len(pipeline.steps) != 2:
        raise BundleError(
            f"the pipeline has the steps {[name for name, _ in pipeline.steps]}, but features and a ranker were "
            "expected: put all features into one FeatureUnion"
        )
    (_, features), (_, ranker) = pipeline.steps
    booster: Any = getattr(ranker, "booster_", None)
    if type(booster).__name__ != "Booster" or not type(booster).__module__.startswith("lightgbm"):
        raise BundleError(
            f"the last step is a {type(ranker).__name__}, but a model of LightGBM was expected: serve another one as a "
            "pipeline, whose predict takes a request's rows"
        )
    if booster.num_model_per_iteration() > 1:
        raise BundleError("the model gives a score for each of several classes, but one to rank by was expected")
    blocks = tuple(_blocks(features, "", semantic_ids))
    names = [name for block in blocks for name in block.names]
    expected = [str(name) for name in features.get_feature_names_out()]
    if names != expected or booster.num_feature() != len(names):
        raise BundleError(
            f"the features name {len(expected)} columns, their parts {len(names)}, and the ranker was trained on "
            f"{booster.num_feature()}: fit the pipeline as a whole, then bundle it"
        )
    return PipelineParts(blocks, booster)


def _blocks(features: Any, prefix: str, semantic_ids: SemanticIds | None) -> Iterator[Block]:
    if isinstance(features, FeatureUnion):
        if features.transformer_weights:
            raise BundleError("the FeatureUnion has transformer_weights, but trees need none: leave them out")
        for name, transformer in features.transformer_list:
            inner = f"{prefix}{name}__" if features.verbose_feature_names_out else prefix
            yield from _blocks(transformer, inner, semantic_ids)
    elif isinstance(features, ColumnTransformer):
        yield from _passed_through(features, prefix)
    else:
        read = next((read for kind, read in _READERS.items() if isinstance(features, kind)), None)
        if read is None:
            raise BundleError(
                f"a {type(features).__name__} is among the features, but a bundle holds "
                f"{[kind.__name__ for kind in _READERS]} and columns that a ColumnTransformer passes through: serve "
                "the pipeline itself, whose predict takes a request's rows"
            )
        names = tuple(f"{prefix}{name}" for name in features.get_feature_names_out())
        yield read(features, names, semantic_ids)


def _passed_through(features: ColumnTransformer, prefix: str) -> Iterator[Block]:
    for name, transformer, columns in features.transformers_:
        if name == "remainder" and isinstance(transformer, str) and transformer == "drop":
            continue
        is_passed = transformer == "passthrough" or type(transformer).__name__ == "FunctionTransformer"
        if not is_passed or getattr(transformer, "func", None) is not None or name == "remainder":
            raise BundleError(
                f"the ColumnTransformer's {name!r} is a {type(transformer).__name__}, but 'passthrough' of named "
                "columns was expected: compute the column before the pipeline, in training and serving alike"
            )
        own = [columns] if isinstance(columns, str) else list(columns)
        if not all(isinstance(each, str) for each in own):
            raise BundleError(f"the ColumnTransformer's {name!r} takes columns by position, but names were expected")
        inner = f"{prefix}{name}__" if features.verbose_feature_names_out else prefix
        yield BaseBlock(tuple(f"{inner}{each}" for each in own), tuple(own))


def _history(features: HistoryFeatures, names: tuple[str, ...], _: SemanticIds | None) -> Block:
    params = features.get_params(deep=False)
    parts = tuple(_part(name, source) for name, source in (features.vectors or {}).items())
    delay = features.log.label_delay if features.log is not None else None
    return HistoryBlock(
        names,
        parts,
        {name: _plain(params[name]) for name in _HISTORY_PARAMS},
        delay.available_after_us if delay is not None else 0,
    )


def _plain(value: Any) -> Any:
    """Return a parameter as JSON has it: a search over numpy's ranges leaves numbers of numpy's."""
    if isinstance(value, tuple | list):
        return tuple(_plain(each) for each in value)
    return value.item() if isinstance(value, np.generic) else value


def _part(name: str, source: VectorSource) -> VectorPart:
    if isinstance(source, ReducedVectors):
        return VectorPart(name, source.fingerprint, source.source.fingerprint, source.reducer)
    return VectorPart(name, source.fingerprint, source.fingerprint)


def _activity(features: ActivityFeatures, names: tuple[str, ...], _: SemanticIds | None) -> Block:
    return ActivityBlock(names, float(features.history_lag_s))


def _semantic(features: SemanticIdFeatures, names: tuple[str, ...], book: SemanticIds | None) -> Block:
    if book is None or book.fingerprint_ != features.fingerprint_:
        raise BundleError(
            f"SemanticIdFeatures were fitted with the book {features.fingerprint_[:12]!r}, but "
            f"{book.fingerprint_[:12] if book else 'none'} came: pass semantic_ids=, the fitted SemanticIds"
        )
    if book.vectors_fingerprint_ is None:
        raise BundleError("the book does not know its vectors, but they are coded when they are read: use fit_table")
    return SemanticBlock(names, VectorPart("semantic", book.vectors_fingerprint_, book.vectors_fingerprint_), book)


def _store(features: FeastFeatures, names: tuple[str, ...], _: SemanticIds | None) -> Block:
    others = [columns.key for columns in features.columns_ if columns.key not in ("item_id", "user_id")]
    if others:
        raise BundleError(
            f"FeastFeatures read views of the keys {others}, but only items and users are known to a request"
        )
    return StoreBlock(names, features.columns_)


_READERS: Mapping[type, Callable[[Any, tuple[str, ...], SemanticIds | None], Block]] = {
    HistoryFeatures: _history,
    ActivityFeatures: _activity,
    SemanticIdFeatures: _semantic,
    FeastFeatures: _store,
}
