"""Feast definitions made from what is there: names, dimensions and fingerprints are read, not typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmfeat._base.optional import import_optional
from llmfeat.encode.manifest import Generation, Manifest
from llmfeat.encode.parts import part_folder
from llmfeat.errors import InputError
from llmfeat.store.histories import USER_KEY
from llmfeat.store.scalars import ITEM_KEY
from llmfeat.store.snapshots import SnapshotTable

__all__ = [
    "ENTITY",
    "KINDS",
    "VECTOR",
    "Feast",
    "events_view",
    "feature_views",
    "snapshot_view",
    "vector_views",
    "view_name",
]

ENTITY = "item"
VECTOR = "vector"
KINDS = ("item_vectors", "item_scalars", "user_vectors", "user_histories", "user_events")
_ENTITIES = {"item": ITEM_KEY, "user": USER_KEY}


def view_name(fingerprint: str, kind: str = "item_vectors") -> str:
    """Return the name of the view of one generation: another model or template is another view."""
    return f"{kind}_{fingerprint[:12]}"


def feature_views(table: str | Path, *, entity: str = ENTITY) -> list[Any]:
    """Return the Feast objects of a vector table: the entity, then one view per generation.

    Parameters
    ----------
    table : str or Path
        A folder that `encode_table` wrote.
    entity : {"item", "user"}, default="item"
        Whose vectors they are. A table of users has their ids where one of items has the items'.

    Returns
    -------
    list of feast.Entity and feast.FeatureView
        Add them to any feature repository.

    Raises
    ------
    TableNotFoundError
        When there is no table.
    """
    feast = Feast()
    return [feast.entity(entity), *vector_views(feast, table, entity=entity)]


class Feast:
    """Feast's classes, imported once, and what is made of them."""

    def __init__(self) -> None:
        self.feast = import_optional("feast", purpose="the feature store")
        self.types = import_optional("feast.types", purpose="the feature store")
        self._format = import_optional("feast.data_format", purpose="the feature store")
        self._entities: dict[str, Any] = {}

    def entity(self, name: str) -> Any:
        """Return the entity of items or of users, keyed by texts."""
        if name not in _ENTITIES:
            raise InputError(f"entity={name!r}, but one of {list(_ENTITIES)} was expected")
        if name not in self._entities:
            self._entities[name] = self.feast.Entity(
                name=name, join_keys=[_ENTITIES[name]], value_type=self.feast.ValueType.STRING
            )
        return self._entities[name]

    def view(
        self,
        name: str,
        *,
        entity: str,
        fields: Mapping[str, pa.DataType],
        folder: Path,
        tags: Mapping[str, str],
        renamed: Mapping[str, str] | None = None,
    ) -> Any:
        """Return a view over a folder of parts."""
        key = _ENTITIES[entity]
        kinds = {"binary": self.types.Bytes, "int64": self.types.Int64, "string": self.types.String}
        return self.feast.FeatureView(
            name=name,
            entities=[self.entity(entity)],
            # Feast ignores a time to live online: a value is valid until it is replaced.
            ttl=timedelta(0),
            schema=[
                self.feast.Field(name=key, dtype=self.types.String),
                *(self.feast.Field(name=field, dtype=kinds[str(kind)]) for field, kind in fields.items()),
            ],
            source=self.feast.FileSource(
                name=f"{name}_source",
                path=str(folder),
                # Said, because the DuckDB store reads nothing from a folder whose format it is not told.
                file_format=self._format.ParquetFormat(),
                timestamp_field="valid_from",
                created_timestamp_column="written_at",
                field_mapping=dict(renamed or {}),
            ),
            online=True,
            tags=dict(tags),
        )

    def service(self, name: str, views: Sequence[Any], tags: Mapping[str, str], description: str) -> Any:
        """Return a feature service over whole views."""
        return self.feast.FeatureService(name=name, features=list(views), tags=dict(tags), description=description)


def vector_views(feast: Feast, table: str | Path, *, entity: str) -> list[Any]:
    """Return one view for each generation of a vector table."""
    folder = Path(table).resolve()
    feast.entity(entity)
    return [_vector_view(feast, entity, folder, one) for one in Manifest.read(folder).generations.values()]


def _vector_view(feast: Feast, entity: str, folder: Path, generation: Generation) -> Any:
    kind = f"{entity}_vectors"
    return feast.view(
        view_name(generation.fingerprint, kind),
        entity=entity,
        # Array(Float32) is slower to decode than bytes, 1.5 times in Python and 7 times over HTTP.
        fields={VECTOR: pa.binary()},
        folder=folder / part_folder(generation.fingerprint),
        renamed={} if entity == "item" else {ITEM_KEY: _ENTITIES[entity]},
        tags={
            "llmfeat": kind,
            "fingerprint": generation.fingerprint,
            "artifact": generation.artifact,
            "numerics": generation.numerics,
            "dim": str(generation.dim),
            "dtype": "float32",
        },
    )


def snapshot_view(
    feast: Feast, kind: str, table: SnapshotTable, *, entity: str, about: Mapping[str, str], stem: str | None = None
) -> Any:
    """Return the view of a table of derived rows."""
    return feast.view(
        view_name(table.fingerprint, stem or kind),
        entity=entity,
        fields=dict(table.fields),
        folder=table.rows_folder.resolve(),
        tags={"llmfeat": stem or kind, "fingerprint": table.fingerprint, **about},
    )


def events_view(feast: Feast, histories: SnapshotTable, about: Mapping[str, str]) -> Any:
    """Return the view of what was pushed since the histories were made: it has their columns, and one writer more."""
    return snapshot_view(feast, "user_histories", histories, entity="user", about=about, stem="user_events")
