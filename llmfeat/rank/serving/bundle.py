"""`RankerBundle`: what one trained ranker needs to be served, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.pipeline import Pipeline

from llmfeat._base.files import atomic_folder, canonical_json, file_sha256, text_sha256
from llmfeat._base.optional import import_optional
from llmfeat._version import __version__
from llmfeat.errors import BundleError
from llmfeat.features.request import KERNEL_VERSION
from llmfeat.features.semantic import SemanticIds
from llmfeat.rank.serving.blocks import Block, HistoryBlock
from llmfeat.rank.serving.reading import read_pipeline
from llmfeat.rank.serving.writing import block_json, block_of
from llmfeat.types import Float32Array, Float64Array

__all__ = ["BUNDLE_FILE", "RankerBundle"]

BUNDLE_FILE = "bundle.json"
_MODEL_FILE = "model.txt"
_SCHEMA = 1


@dataclass(frozen=True, eq=False)
class RankerBundle:
    """One trained ranker: booster, columns in their order, and what each of them is computed of.

    It names vectors by their fingerprints and holds none; learned projections and code books, which are small, are part
    of it, so that to train anew writes nothing into the store. Two bundles serve side by side, and to switch back is to
    open the other one.

    Made by `of_pipeline` and `load`.

    Attributes
    ----------
    name : str
        What its feature service is named after.
    blocks : tuple of Block
        The columns, in the booster's order.
    model : str
        The trees, as LightGBM writes them.
    trained : dict
        Whatever is to be remembered of the training.
    kernel : int
        The version of the kernel that computed the training matrix.
    created_at : str
        When it was made, ISO 8601.
    """

    name: str
    blocks: tuple[Block, ...]
    model: str
    trained: Mapping[str, Any] = field(default_factory=dict)
    kernel: int = KERNEL_VERSION
    created_at: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise BundleError(
                f"name={self.name!r}, but letters, digits and _ were expected: it is part of names in Feast"
            )

    @classmethod
    def of_pipeline(
        cls,
        pipeline: Pipeline,
        *,
        name: str,
        semantic_ids: SemanticIds | None = None,
        trained: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make one of a fitted pipeline.

        Parameters
        ----------
        pipeline : Pipeline
            A `RankingPipeline`, or scikit-learn's, of two steps: features, then a model of LightGBM. The features are
            `HistoryFeatures`, `ActivityFeatures`, `SemanticIdFeatures`, `FeastFeatures` and columns that a
            ``ColumnTransformer`` passes through, in a ``FeatureUnion`` or alone. Vectors that are learned go in as
            `ReducedVectors`.
        name : str
            A name of letters, digits and ``_``, such as ``"ctr_2026_11"``.
        semantic_ids : SemanticIds, optional
            The book of `SemanticIdFeatures`.
        trained : mapping, optional
            What is to be remembered of the training, as plain values: the data's name, a metric, a commit.

        Raises
        ------
        BundleError
            When a step cannot be bundled; the message says which, and what to do.
        """
        cls(name, (), "")  # the name is looked at first
        parts = read_pipeline(pipeline, semantic_ids=semantic_ids)
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        remembered = json.loads(canonical_json(dict(trained or {})))
        return cls(name, parts.blocks, parts.booster.model_to_string(), remembered, KERNEL_VERSION, made_at)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns, in the booster's order."""
        return tuple(name for block in self.blocks for name in block.names)

    @property
    def base_columns(self) -> tuple[str, ...]:
        """The columns that a request brings."""
        return tuple(name for block in self.blocks for name in getattr(block, "columns", ()))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the matrix that the trees were trained on: the caller's own columns are float64, all others float32."""
        return np.dtype(np.float64 if self.base_columns else np.float32)

    @property
    def vectors(self) -> tuple[str, ...]:
        """The fingerprints of the item vectors that it reads, each once."""
        return tuple(dict.fromkeys(part.base for block in self.blocks for part in block.parts))

    @property
    def views(self) -> tuple[str, ...]:
        """The names of the views that its `FeastFeatures` read."""
        return tuple(dict.fromkeys(view.view for block in self.blocks for view in getattr(block, "views", ())))

    @property
    def history_blocks(self) -> tuple[HistoryBlock, ...]:
        """The blocks that look at the user's history."""
        return tuple(block for block in self.blocks if isinstance(block, HistoryBlock))

    @cached_property
    def fingerprint(self) -> str:
        """What identifies it: everything but when it was made and what is remembered of the training."""
        files: dict[str, bytes] = {}
        body = self._body(files)
        identity = {key: body[key] for key in ("kernel", "blocks")}
        digests = {name: text_sha256(data.hex()) for name, data in files.items()}
        return text_sha256(canonical_json({**identity, "model": text_sha256(self.model), "files": digests}))

    def save(self, folder: str | Path) -> None:
        """Write it into a folder, in one step; a bundle that was there is replaced.

        Raises
        ------
        BundleError
            When the folder holds something else.
        """
        path = Path(folder)
        is_new = not path.exists() or (path.is_dir() and not any(path.iterdir()))
        if not is_new and not (path / BUNDLE_FILE).is_file():
            raise BundleError(
                f"{path} is there but holds no {BUNDLE_FILE}, so it is no bundle to replace: name another"
            )
        files = {_MODEL_FILE: self.model.encode()}
        body = self._body(files)
        with atomic_folder(path) as staging:
            for name, data in files.items():
                (staging / name).write_bytes(data)
            body["files"] = {name: file_sha256(staging / name) for name in sorted(files)}
            body["fingerprint"] = self.fingerprint
            (staging / BUNDLE_FILE).write_text(json.dumps(body, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Open a bundle, after checking every file of it.

        Raises
        ------
        BundleError
            When there is none, a file is not the one that was written, or the kernel has changed since.
        """
        path = Path(folder)
        if not (path / BUNDLE_FILE).is_file():
            raise BundleError(
                f"{path} holds no {BUNDLE_FILE}, but a bundle was expected: save one with bundle.save(folder)"
            )
        try:
            body = json.loads((path / BUNDLE_FILE).read_text(encoding="utf-8"))
            if body["schema"] != _SCHEMA:
                raise BundleError(
                    f"{path} has schema {body['schema']!r}, this version reads {_SCHEMA}: upgrade llmfeat"
                )
            for name, digest in body["files"].items():
                if Path(name).name != name or not (path / name).is_file() or file_sha256(path / name) != digest:
                    raise BundleError(f"{path / name} is missing or is not what was written: copy the bundle again")
            files = {name: (path / name).read_bytes() for name in body["files"]}
            blocks = tuple(block_of(block, files) for block in body["blocks"])
            bundle = cls(
                body["name"],
                blocks,
                files[_MODEL_FILE].decode(),
                body["trained"],
                int(body["kernel"]),
                body["created_at"],
            )
        except BundleError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{path} does not describe a bundle ({error!r}): save it again") from error
        if bundle.kernel != KERNEL_VERSION:
            raise BundleError(
                f"{path} was trained with version {bundle.kernel} of the feature kernel, this llmfeat has "
                f"{KERNEL_VERSION}, which gives other numbers: serve it with the llmfeat it was trained with, or "
                "train again"
            )
        if bundle.fingerprint != body["fingerprint"]:
            raise BundleError(f"{path} is not the bundle that was written: copy it again")
        return bundle

    @cached_property
    def booster(self) -> Any:
        """The trees, ready to predict."""
        lightgbm = import_optional("lightgbm", purpose="serving this ranker")
        booster = lightgbm.Booster(model_str=self.model)
        if booster.num_feature() != len(self.columns):
            raise BundleError(f"the booster has {booster.num_feature()} columns, the bundle {len(self.columns)}")
        return booster

    def predict(self, matrix: Float32Array | Float64Array, *, threads: int | None = None) -> Float64Array:
        """Return a score for each row of features; `threads` of LightGBM, its own choice by default."""
        options = {} if threads is None else {"num_threads": threads}
        scores: Float64Array = np.asarray(self.booster.predict(matrix, **options), dtype=np.float64)
        return scores

    def __getstate__(self) -> dict[str, Any]:
        """Leave the opened booster out."""
        return {name: value for name, value in self.__dict__.items() if name != "booster"}

    def _body(self, files: dict[str, bytes]) -> dict[str, Any]:
        blocks: Sequence[dict[str, Any]] = [block_json(block, files) for block in self.blocks]
        return {
            "schema": _SCHEMA,
            "name": self.name,
            "llmfeat": __version__,
            "kernel": self.kernel,
            "created_at": self.created_at,
            "trained": dict(self.trained),
            "blocks": list(blocks),
        }
