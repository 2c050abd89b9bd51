"""Any online store, through the interface that Feast asks of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from llmfeat.errors import StoreError
from llmfeat.store.dialects.base import CHUNK_ROWS, Change, Held, Place, entity_keys
from llmfeat.store.values import Raw

__all__ = ["FeastDialect"]

_US_PER_S = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class FeastDialect:
    """`Dialect` over ``feast.infra.online_stores.OnlineStore``: a message for each cell, and every store."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def read(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, list[Raw]]:
        """Return the fields of `ids`; see `Dialect`."""
        return self.held(ids, fields).values

    def held(self, ids: Sequence[str], fields: Sequence[str]) -> Held:
        """Return the fields of `ids`, and when they were written; see `Dialect`."""
        values: dict[str, list[Raw]] = {field: [] for field in fields}
        times_us: list[int] = []
        for begin in range(0, len(ids), CHUNK_ROWS):
            for moment, found in self._rows(ids[begin : begin + CHUNK_ROWS], fields):
                # Redis gives an empty message for what is missing, SQLite none at all.
                there = {name: value.SerializeToString() for name, value in (found or {}).items()}
                for field in fields:
                    values[field].append(there.get(field) or None)
                times_us.append(
                    round((moment - _EPOCH).total_seconds() * _US_PER_S) if moment and any(there.values()) else 0
                )
        return Held(values, times_us)

    def write(self, ids: Sequence[str], fields: Mapping[str, Sequence[bytes]], moment_us: int) -> None:
        """Write every field of `ids`; see `Dialect`."""
        value: Any = type(entity_keys(self._place, [""])[0].entity_values[0])
        moment = datetime.fromtimestamp(moment_us / _US_PER_S, tz=UTC)
        cells = {name: [value.FromString(raw) for raw in raws] for name, raws in fields.items()}
        rows = [
            (key, dict(zip(cells, row, strict=True)), moment, moment)
            for key, *row in zip(entity_keys(self._place, ids), *cells.values(), strict=True)
        ]
        for begin in range(0, len(rows), CHUNK_ROWS):
            part = rows[begin : begin + CHUNK_ROWS]
            self._place.online.online_write_batch(self._place.config, self._place.view, part, None)

    def modify(self, key: str, fields: Sequence[str], change: Change) -> bool:
        """Read, change and write one id; Feast has no way to keep another writer from coming between."""
        made = change(self.held([key], fields))
        if made is not None:
            cells, moment_us = made
            self.write([key], {name: [raw] for name, raw in cells.items()}, moment_us)
        return made is not None

    def ids(self) -> None:
        """Return None: Feast cannot be asked."""
        return

    def close(self) -> None:
        """Do nothing: the connection is Feast's."""

    def _rows(self, ids: Sequence[str], fields: Sequence[str]) -> list[Any]:
        place = self._place
        # Redis adds a name of its own to the list of fields that it is given.
        rows: list[Any] = place.online.online_read(place.config, place.view, entity_keys(place, ids), list(fields))
        if len(rows) != len(ids):
            raise StoreError(
                f"{place.view.name} gave {len(rows)} rows for {len(ids)} ids: the online store loses rows, report it"
            )
        return rows
