"""Views of the online store by name, and item vectors read from one: fields as bytes, decoded in one step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmfeat._base.frames import id_array
from llmfeat.errors import StoreConfigError
from llmfeat.store.dialects import Dialect, open_dialect
from llmfeat.store.repo import open_store
from llmfeat.store.state import STATE_ID, ViewState
from llmfeat.store.values import Raw, pack_bytes, unpack_bytes, unpack_vectors
from llmfeat.store.views import VECTOR, view_name
from llmfeat.types import Float32Array

__all__ = ["FeastVectors", "OnlineView", "open_view"]


class OnlineView:
    """One view of an opened repository.

    Attributes
    ----------
    view : feast.FeatureView
        Feast's own object.
    name : str
        Its name.
    tags : dict of str to str
        What it is: ``llmfeat`` (its kind), ``fingerprint``, and what that kind has.
    fields : tuple of str
        Its features.
    """

    def __init__(self, store: Any, view: Any) -> None:
        self.view = view
        self.name = str(view.name)
        self.tags = dict(view.tags)
        self.fields = tuple(field.name for field in view.features)
        self.dialect: Dialect = open_dialect(store, view)

    def read(self, ids: Sequence[str], fields: Sequence[str] | None = None) -> dict[str, list[Raw]]:
        """Return fields of `ids` as the store holds them, all fields by default; None where it holds nothing."""
        values = self.dialect.read(ids, self.fields if fields is None else fields)
        if STATE_ID in ids:  # whoever asks for it by chance finds nothing
            for cells in values.values():
                cells[:] = [None if key == STATE_ID else cell for key, cell in zip(ids, cells, strict=True)]
        return values

    def state(self) -> ViewState | None:
        """Return the record of what was written, None where there is none."""
        data = unpack_bytes(self.dialect.read([STATE_ID], [self._state_field])[self._state_field][0])
        return ViewState.of_bytes(data, what=self.name) if data else None

    def put_state(self, state: ViewState, *, moment_us: int) -> None:
        """Replace the record."""
        cells = {field: pack_bytes([b""]) for field in self.fields}
        cells[self._state_field] = pack_bytes([state.to_bytes()])
        self.dialect.write([STATE_ID], cells, moment_us)

    @cached_property
    def _state_field(self) -> str:
        """The first field that holds bytes; every view of ours has one."""
        return str(next(field.name for field in self.view.features if str(field.dtype) == "Bytes"))


def open_view(store: Any, fingerprint: str, kind: str, *, where: str | Path) -> OnlineView:
    """Return the view of a fingerprint.

    Raises
    ------
    StoreConfigError
        When the repository has none.
    """
    name = view_name(fingerprint, kind)
    views = {view.name: view for view in store.list_feature_views()}
    if name not in views or views[name].tags.get("fingerprint") != fingerprint:
        raise StoreConfigError(
            f"{where} has the views {sorted(views)}, but {name!r} was expected: encode with the model that the "
            "features were fitted with, and run `feast apply`"
        )
    return OnlineView(store, views[name])


class FeastVectors:
    """Item vectors read from the online store: a `VectorSource` for serving.

    Parameters
    ----------
    repo : str or Path
        The feature repository.
    fingerprint : str
        The generation to serve; a store that has no view of it is refused.
    kind : {"item_vectors", "user_vectors"}, default="item_vectors"
        Whose vectors they are.

    Examples
    --------
    >>> serving = FeastVectors("feature_repo", fingerprint=table.fingerprint)  # doctest: +SKIP
    >>> features.set_params(vectors={"llm": serving}).transform(request)  # doctest: +SKIP
    """

    def __init__(self, repo: str | Path, *, fingerprint: str, kind: str = "item_vectors") -> None:
        self.repo = str(repo)
        self.fingerprint = fingerprint
        self.kind = kind

    @property
    def dim(self) -> int:
        """The number of dimensions of a vector."""
        return int(self.view.tags["dim"])

    def lookup(self, ids: Any) -> Float32Array:
        """Return the vectors of `ids`, float32 of shape ``(len(ids), dim)``; NaN for those that the store lacks.

        Raises
        ------
        StoreError
            When a vector is not of the view's dimension.
        """
        encoded = id_array(ids).dictionary_encode()
        vectors = self.read(encoded.dictionary.to_pylist())
        if len(vectors) == len(encoded):  # every id once, in its own order
            return vectors
        rows: Float32Array = vectors[encoded.indices.to_numpy()]
        return rows

    def read(self, ids: Sequence[str]) -> Float32Array:
        """Return what `lookup` does, of ids that are texts already; each is read as often as it comes."""
        if not ids:
            return np.empty((0, self.dim), dtype=np.float32)
        return unpack_vectors(self.view.read(ids, (VECTOR,))[VECTOR], self.dim, what=self.view.name)

    @cached_property
    def store(self) -> Any:
        """The opened ``feast.FeatureStore``."""
        return open_store(self.repo)

    @cached_property
    def view(self) -> OnlineView:
        """The view that is read."""
        return open_view(self.store, self.fingerprint, self.kind, where=self.repo)

    def __deepcopy__(self, memo: dict[int, Any]) -> FeastVectors:
        """Return itself: clones of an estimator share the connection."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave the connection out: it is opened again on use."""
        return {"repo": self.repo, "fingerprint": self.fingerprint, "kind": self.kind}
