"""`FeastFeatures`: columns of a feature store as a scikit-learn transformer, the same for training and for serving."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from llmfeat._base.frames import id_column, require_columns, time_column, to_frame
from llmfeat.errors import InputError, StoreConfigError, StoreMissingError, TableFingerprintError, TableNotFoundError
from llmfeat.store.columns import MissingTally, StoreColumns, makes_columns
from llmfeat.store.historical import AsOfFiles, join_through_feast
from llmfeat.store.online import OnlineView
from llmfeat.store.probe import OfflineProbe, probe_offline
from llmfeat.store.repo import open_store
from llmfeat.types import Float32Array

__all__ = ["FeastFeatures"]

_MODES = ("online", "historical")


class FeastFeatures(TransformerMixin, BaseEstimator):
    """Vectors and numbers of a feature store for the ids of rows: as they were then, or as they are now.

    In training ``mode="historical"`` gives what was known at or before the time of each row; set ``mode="online"`` to
    serve, with the same columns. Rows keep their order, and no row is lost, whatever the offline store does with rows
    that tie. What the store lacks is NaN, with 0 in the indicator of its view; it is counted, and above a share the
    transformer raises: a store that was emptied is an error, not a ranking.

    Parameters
    ----------
    repo : str or Path
        The feature repository.
    features : str or sequence of str
        The name of a feature service; or views, ``"item_vectors_0123456789ab"`` for all that makes columns of one,
        ``"item_scalars_0123456789ab:popularity"`` for one field.
    mode : {"online", "historical"}, default="online"
        Where values come from.
    max_missing_share : float, default=0.5
        Of the rows of a call, how many a view may have nothing for; 1 for any number.
    through_feast : bool, default=False
        Whether historical values come from Feast's own retrieval even where the view's source is parquet on this
        machine, which is joined here several times as fast, row for row the same.
    user_id, item_id, timestamp : str
        The columns of the rows. Keys of other views are columns of their own name. Times are needed by
        ``mode="historical"`` only.

    Attributes
    ----------
    columns_ : tuple of StoreColumns
        What is read of each view. `transform` refuses a store whose view has another fingerprint, dimension or type.
    tally_ : MissingTally
        How many rows had nothing, by view.
    n_features_in_ : int
        Columns of the frame that was fitted on.
    feature_names_in_ : ndarray of str
        Their names.

    Examples
    --------
    >>> features = FeastFeatures("feature_repo", "ranker_v1", mode="historical")  # doctest: +SKIP
    >>> pipeline = RankingPipeline([("features", features), ("ranker", LGBMRanker())]).fit(rows, y)  # doctest: +SKIP
    >>> pipeline.set_params(features__mode="online").predict(request)  # doctest: +SKIP
    """

    def __init__(
        self,
        repo: str | Path | None = None,
        features: str | Sequence[str] | None = None,
        *,
        mode: str = "online",
        max_missing_share: float = 0.5,
        through_feast: bool = False,
        user_id: str = "user_id",
        item_id: str = "item_id",
        timestamp: str = "timestamp",
    ) -> None:
        self.repo = repo
        self.features = features
        self.mode = mode
        self.max_missing_share = max_missing_share
        self.through_feast = through_feast
        self.user_id = user_id
        self.item_id = item_id
        self.timestamp = timestamp

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the parameters and the columns of `X`, and record what the views are; nothing is learned from rows.

        Raises
        ------
        StoreConfigError
            When the repository lacks a view, or, for ``mode="historical"``, its offline store loses rows.
        """
        self._check_parameters()
        opened = _opened(self)
        columns = tuple(StoreColumns.of(view, fields) for view, fields in self._wanted(opened))
        frame = to_frame(X, what="X")
        needed = [self._column(one.key) for one in columns]
        require_columns(frame, [*needed, *([self.timestamp] if self.mode == "historical" else [])], what="X")
        if self.mode == "historical":
            opened.require_lossless()
        self.columns_ = columns
        self.tally_ = MissingTally()
        self.feature_names_in_ = np.array(frame.columns, dtype=object)
        self.n_features_in_ = len(frame.columns)
        return self

    def transform(self, X: Any) -> Float32Array:
        """Return the columns for each row.

        Parameters
        ----------
        X : data frame
            Rows in any order.

        Returns
        -------
        ndarray of shape (n_rows, n_features), float32
            NaN where the store has nothing.

        Raises
        ------
        TableFingerprintError
            When a view is not the one that was fitted with.
        StoreMissingError
            When a view has nothing for more than `max_missing_share` of the rows.
        """
        check_is_fitted(self)
        self._check_parameters()
        opened = _opened(self)
        blocks, missing = [], {}
        for columns in self.columns_:
            keys = id_column(X, self._column(columns.key), what="X")
            block = self._block(opened, columns, keys, X)
            missing[columns.view] = int(np.count_nonzero(block[:, 0] == 0))
            blocks.append(block)
        n_rows = len(blocks[0])
        self.tally_.add(n_rows, missing)
        for view, count in missing.items():
            if count > self.max_missing_share * n_rows:
                raise StoreMissingError(
                    f"{view} has nothing for {count} of {n_rows} rows, at most {self.max_missing_share:.0%} were "
                    f"expected: materialize it, see `llmfeat store status`, or raise max_missing_share"
                )
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray[Any, Any]:
        """Return the names of the columns of `transform`."""
        check_is_fitted(self)
        return np.array([name for columns in self.columns_ for name in columns.names], dtype=object)

    def _block(self, opened: _Opened, columns: StoreColumns, keys: pa.StringArray, X: Any) -> Float32Array:
        view = opened.view(columns)
        if not len(keys):  # of which Feast's own retrieval cannot tell the type
            return np.empty((0, len(columns.names)), dtype=np.float32)
        if self.mode == "online":
            encoded = keys.dictionary_encode()
            distinct = columns.read(view, encoded.dictionary.to_pylist())
            return distinct if len(distinct) == len(keys) else distinct[encoded.indices.to_numpy()]
        times_us = time_column(X, self.timestamp, what="X")
        files = None if self.through_feast else AsOfFiles.of(view.view, repo=Path(str(self.repo)))
        if files is not None:
            return columns.decode(files.join(keys, times_us, columns.fields))
        return columns.decode(join_through_feast(opened.store, view.view, keys, times_us, columns.fields))

    def _column(self, key: str) -> str:
        return {"user_id": self.user_id, "item_id": self.item_id}.get(key, key)

    def _check_parameters(self) -> None:
        if not isinstance(self.repo, str | Path):
            raise InputError(f"repo={self.repo!r}, but the folder of a feature repository was expected")
        if self.mode not in _MODES:
            raise InputError(f"mode={self.mode!r}, but one of {list(_MODES)} was expected")
        share: object = self.max_missing_share
        if not (isinstance(share, int | float | np.number) and 0 <= float(share) <= 1):
            raise InputError(f"max_missing_share={share!r}, but a share from 0 to 1 was expected")
        if not self.features or not isinstance(self.features, str | Sequence):
            raise InputError(
                f"features={self.features!r}, but the name of a feature service, or names of views, were expected"
            )

    def _wanted(self, opened: _Opened) -> list[tuple[Any, list[str] | None]]:
        """Return the views, and which of their fields; None for all that make columns."""
        assert self.features is not None, "checked"
        if isinstance(self.features, str):
            service = opened.service(self.features)
            found = []
            for projection in service.feature_view_projections:
                view = opened.feast_view(projection.name)
                if view.tags.get("llmfeat") not in ("user_histories", "user_events"):  # for OnlineRanker
                    found.append((view, [each.name for each in projection.features]))
            return [(view, [name for name in names if makes_columns(view, name)]) for view, names in found]
        wanted: dict[str, list[str] | None] = {}
        for reference in self.features:
            name, _, one = str(reference).partition(":")
            if not one:
                wanted[name] = None
            elif (fields := wanted.setdefault(name, [])) is not None:
                fields.append(one)
        return [(opened.feast_view(name), fields) for name, fields in wanted.items()]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "columns_")


class _Opened:
    """The connections of one estimator and its clones' own, opened on use."""

    def __init__(self, repo: str | Path) -> None:
        self.repo = repo
        self._views: dict[str, OnlineView] = {}

    @functools.cached_property
    def store(self) -> Any:
        return open_store(self.repo)

    def feast_view(self, name: str) -> Any:
        views = {view.name: view for view in self.store.list_feature_views()}
        if name not in views:
            raise StoreConfigError(
                f"{self.repo} has the views {sorted(views)}, but {name!r} was expected: apply it first"
            )
        return views[name]

    def service(self, name: str) -> Any:
        services = {one.name: one for one in self.store.list_feature_services()}
        if name not in services:
            raise StoreConfigError(
                f"{self.repo} has the feature services {sorted(services)}, but {name!r} was expected: register the "
                "ranker and apply, or name views in a list"
            )
        return services[name]

    def view(self, columns: StoreColumns) -> OnlineView:
        """Return a view that is still what it was when it was fitted."""
        view = self._views.get(columns.view)
        if view is None:
            view = OnlineView(self.store, self.feast_view(columns.view))
            now = StoreColumns.of(view.view, columns.fields)
            if now != columns:
                raise TableFingerprintError(
                    f"{columns.view} is now {now}, but the features were fitted with {columns}: serve the generation "
                    "that the ranker was trained on, or refit"
                )
            self._views[columns.view] = view
        return view

    def require_lossless(self) -> None:
        """Raise where the offline store loses rows; asked once for each repository and process."""
        found = _probed(str(Path(self.repo).absolute()))
        if found is not None and found.loses:
            raise StoreConfigError(
                f"{self.repo} has the offline store {found.store!r}, which loses training rows ({found.reason}): set "
                "offline_store: {type: duckdb} in feature_store.yaml"
            )


# Not in the estimator: connections are neither cloned nor pickled.
_OPENED: weakref.WeakKeyDictionary[FeastFeatures, _Opened] = weakref.WeakKeyDictionary()


def _opened(features: FeastFeatures) -> _Opened:
    found = _OPENED.get(features)
    if found is None or found.repo != features.repo:
        found = _OPENED[features] = _Opened(str(features.repo))
        found.repo = features.repo or ""
    return found


@functools.lru_cache(maxsize=16)
def _probed(repo: str) -> OfflineProbe | None:
    try:
        return probe_offline(repo)
    except TableNotFoundError:  # a repository of somebody else's: the count of rows is asserted all the same
        return None
