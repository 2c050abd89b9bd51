"""Feast definitions made from a vector table: names, dimensions and fingerprints are read, not typed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from llmfeat._base.optional import import_optional
from llmfeat.encode.manifest import Generation, Manifest

__all__ = ["ENTITY", "VECTOR", "feature_views", "view_name"]

ENTITY = "item"
VECTOR = "vector"
_KEY = "item_id"


def view_name(fingerprint: str) -> str:
    """Return the name of the view of one generation: another model or template is another view."""
    return f"item_vectors_{fingerprint[:12]}"


def feature_views(table: str | Path) -> list[Any]:
    """Return the Feast objects of a vector table: the entity, then one view per generation.

    Parameters
    ----------
    table : str or Path
        A folder that `encode_table` wrote.

    Returns
    -------
    list of feast.Entity and feast.FeatureView
        Add them to any feature repository.

    Raises
    ------
    TableNotFoundError
        When there is no table.
    """
    feast = import_optional("feast", purpose="the feature store")
    folder = Path(table).resolve()
    manifest = Manifest.read(folder)
    entity = feast.Entity(name=ENTITY, join_keys=[_KEY], value_type=feast.ValueType.STRING)
    return [entity, *(_view(feast, entity, folder, generation) for generation in manifest.generations.values())]


def _view(feast: Any, entity: Any, folder: Path, generation: Generation) -> Any:
    types = import_optional("feast.types", purpose="the feature store")
    format_ = import_optional("feast.data_format", purpose="the feature store")
    name = view_name(generation.fingerprint)
    return feast.FeatureView(
        name=name,
        entities=[entity],
        # Feast ignores a time to live online: a vector is valid until it is replaced.
        ttl=timedelta(0),
        schema=[
            feast.Field(name=_KEY, dtype=types.String),
            # Array(Float32) is slower to decode than bytes, 1.5 times in Python and 7 times over HTTP.
            feast.Field(name=VECTOR, dtype=types.Bytes),
        ],
        source=feast.FileSource(
            name=f"{name}_source",
            path=str(folder / generation.fingerprint[:16]),
            # Said, because the DuckDB store reads nothing from a folder whose format it is not told.
            file_format=format_.ParquetFormat(),
            timestamp_field="valid_from",
            created_timestamp_column="written_at",
        ),
        online=True,
        tags={
            "llmfeat": "item_vectors",
            "fingerprint": generation.fingerprint,
            "artifact": generation.artifact,
            "numerics": generation.numerics,
            "dim": str(generation.dim),
            "dtype": "float32",
        },
    )
