"""`TwoTower`: vectors of users and items, learned from what users did, whose product says what comes next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from llmfeat._base.frames import id_array
from llmfeat._base.ids import IdIndex
from llmfeat._base.optional import import_optional
from llmfeat.encode import VectorTable
from llmfeat.errors import InputError, NothingToLearnError
from llmfeat.history import InteractionLog
from llmfeat.history.sequences import Sequences
from llmfeat.rank.scorers.base import check_catalogue, check_whole
from llmfeat.rank.scorers.cosine import has_direction, products, unit_rows
from llmfeat.rank.two_tower.context import checked_context, scale_of, scaled_context
from llmfeat.rank.two_tower.data import TowerData, history_block
from llmfeat.rank.two_tower.graphs import item_graph, user_graph
from llmfeat.rank.two_tower.inputs import check_same_sources, item_features, likes_of, means_of, sources_of
from llmfeat.rank.two_tower.parameters import check_parameters, check_sizes
from llmfeat.rank.two_tower.parity import measure_parity
from llmfeat.rank.two_tower.ranking import ItemIndex, best_items, blocks, on_grid
from llmfeat.rank.two_tower.runtime import TowerRuntime
from llmfeat.rank.two_tower.towers import Towers
from llmfeat.rank.two_tower.training import Training, train_towers
from llmfeat.types import BoolArray, Float32Array, Int64Array, VectorSource

__all__ = ["TwoTower"]

_BLOCK_CELLS = 1 << 22  # of a query and an item, about 30 bytes each while a block is worked on
_NOT_SAVED = ("vectors", "threads", "verbose")


@dataclass(eq=False)
class TwoTower:
    """Learns vectors of items and of users from sequences, so that their product is high for what comes next.

    The tower of items is a projection of what language models, or any other sources, say of the text, plus an
    embedding of the item's own, which is dropped now and then while training, so that items that nobody met have a
    vector as well. The tower of users pools the vectors of the last events, recent ones more, and turns them; an
    embedding of the user and columns of the moment are added where they are asked for. Both have unit length.

    Each pair of a history and the item that came next is learned against the items of its batch and a sample of the
    catalogue, corrected for how often items come (logQ). Training takes torch; what is fitted is two ONNX graphs,
    compared with torch, and needs it no more.

    A scorer like the others: it proposes candidates, `CrossFitted` makes it a feature, and `item_vectors_` goes
    wherever vectors of texts go.

    Parameters
    ----------
    vectors : VectorSource or mapping of str to VectorSource
        Item vectors; several are put side by side.
    dim : int, default=128
        Of the vectors that are learned.
    hidden : int, default=0
        Width of a layer that is added to the projection, for large logs; none by default.
    max_events : int, default=20
        How many of the last events make a user.
    user_embeddings : bool, default=False
        Whether each user has an embedding beside their history; the sequences then say whose they are.
    epochs : int, default=8
        At most; the learning rate falls to zero by their end.
    held_out : float, default=0.1
        Share of users to tell by when to stop; the towers are then trained anew on all of them. 0 runs all epochs.
        Where the sequences do not say whose they are, each counts as a user's. Users held out have no embedding of
        their own: how much those should learn is not told by them.
    patience : int, default=2
        Stop after so many epochs without a lower loss on those.
    learning_rate : float, default=1e-3
        At its peak.
    weight_decay : float, default=1e-4
        Of AdamW, for what all items share.
    batch_rows : int, default=512
        Pairs of a step.
    n_sampled : int, default=4096
        Items of the catalogue that a batch is compared with, beside its own; with as many as the catalogue has, or
        more, all of it.
    temperature : float, default=0.07
        Of the softmax, to begin with; it is learned.
    dropout, id_dropout, history_dropout : float
        Of the pooled history, of an item's own embedding, and of events.
    random_state : int, default=0
        Of the training. The same towers come of it on machines of one kind, with as many threads of torch.
    threads : int, optional
        Of ONNX Runtime; its own choice by default.
    verbose : bool, default=False
        Whether to show a bar on standard error while training.
    name : str
        What its columns are called.

    Attributes
    ----------
    towers_ : Towers
        The graphs.
    item_vectors_ : VectorTable
        Of the catalogue; NaN for an item that has neither a vector nor an event.
    fingerprint_ : str
        Of the towers; that of `item_vectors_` too.

    References
    ----------
    Yi et al., Sampling-bias-corrected neural modeling for large corpus item recommendations, RecSys 2019.
    Yang et al., Mixed negative sampling for learning two-tower neural networks in recommendations, WWW 2020.
    Volkovs et al., DropoutNet: addressing cold start in recommender systems, NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np
    >>> import pyarrow as pa
    >>> from llmfeat import VectorTable
    >>> from llmfeat.history import Sequences
    >>> from llmfeat.rank.two_tower import TwoTower
    >>> table = VectorTable.from_arrays(["a", "b", "c", "d"], np.eye(4))
    >>> past = Sequences.from_lists(pa.table({"h": [["a", "b"], ["c", "d"]] * 20}), "h")
    >>> towers = TwoTower(table, dim=4, epochs=20, held_out=0, batch_rows=8, learning_rate=0.05).fit(past)
    >>> seen = Sequences.from_lists(pa.table({"h": [["a"], ["c"]]}), "h", item_ids=past.item_ids)
    >>> towers.recommend(seen, 1).column("item_id").to_pylist()
    ['b', 'd']
    """

    vectors: VectorSource | Mapping[str, VectorSource]
    dim: int = 128
    hidden: int = 0
    max_events: int = 20
    user_embeddings: bool = False
    epochs: int = 8
    held_out: float = 0.1
    patience: int = 2
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    batch_rows: int = 512
    n_sampled: int = 4096
    temperature: float = 0.07
    dropout: float = 0.2
    id_dropout: float = 0.3
    history_dropout: float = 0.1
    random_state: int = 0
    threads: int | None = None
    verbose: bool = False
    name: str = "two_tower"
    item_ids_: pa.StringArray | None = field(default=None, init=False, repr=False)
    towers_: Towers = field(init=False, repr=False)
    item_vectors_: VectorTable = field(init=False, repr=False)
    _unit: Float32Array = field(init=False, repr=False)
    _is_known: BoolArray = field(init=False, repr=False)
    _opened: TowerRuntime | None = field(default=None, init=False, repr=False)
    _index: ItemIndex | None = field(default=None, init=False, repr=False)

    def fit(self, sequences: Sequences, *, context: Any = None) -> Self:
        """Learn the towers, write them as graphs, and compute the vectors of the catalogue.

        Parameters
        ----------
        sequences : Sequences
            What happened, before whatever is to be scored begins. Every event counts, whatever its label: pass
            ``sequences.positives()`` where dislikes are among them.
        context : array of shape (n_events, n_context), optional
            What was known of the moment of each event, such as the hour; NaN counts as the mean. Towers that learned
            from one are asked with one: `generate_candidates` and `CrossFitted` have none to give.

        Raises
        ------
        InputError
            When a parameter, a vector source or the context cannot be worked with.
        DuplicateIdError
            When the catalogue has an id twice.
        NothingToLearnError
            When there are no two items to tell apart.
        MissingDependencyError
            When torch, onnx or onnxruntime is not installed.
        ParityError
            When the graphs give other vectors than torch.
        """
        check_parameters(self)
        modules = [import_optional(name, purpose="fitting two towers") for name in ("torch", "onnx", "onnxruntime")]
        sources = sources_of(self.vectors)
        owners, user_ids = self._owners_of(sequences)
        check_sizes(int(self.dim), sequences.item_ids, user_ids)
        features = item_features(sources, sequences.item_ids)
        fill = means_of(features)
        moments = checked_context(context, len(sequences.item_codes))
        scale = scale_of(moments)
        data = TowerData(
            features=np.where(np.isnan(features), fill, features),
            item_codes=sequences.item_codes,
            offsets=sequences.offsets,
            owners=owners,
            has_users=self.user_embeddings,
            context=scaled_context(moments, scale),
            max_events=int(self.max_events),
        )
        plain = self._plain_parameters()
        how = Training(**{each.name: plain[each.name] for each in fields(Training)})
        trained = train_towers(data, how, seed=self.random_state, progress=self.verbose)
        graphs = {"item_graph": item_graph(trained, fill), "user_graph": user_graph(trained)}
        runtime = TowerRuntime(**graphs, threads=self.threads)
        self.towers_ = Towers(
            **graphs,
            **Towers.ids_as_fields(sequences.item_ids, data.counts > 0, user_ids),
            sources={name: source.fingerprint for name, source in sources.items()},
            dims={name: source.dim for name, source in sources.items()},
            dim=how.dim,
            max_events=how.max_events,
            context=scale,
            parameters=plain,
            trained={
                **trained.about(measure_parity(trained, data, runtime)),
                "versions": {module.__name__: module.__version__ for module in modules},
            },
        )
        self._open(sequences.item_ids, features, runtime)
        return self

    @property
    def fingerprint_(self) -> str:
        """What identifies the towers, in hex."""
        return self.towers_.fingerprint

    def learn(self, log: InteractionLog) -> VectorTable:
        """Return the item vectors that the likes of a log teach, of its items and of those of the sources.

        That makes towers a learner of `PastFittedFeatures`: each row of a log is then compared with its user's history
        by towers of the past alone. These towers stay as they are. Where the log teaches nothing, no item has a vector.
        """
        past, ids = likes_of(log, sources_of(self.vectors))
        try:
            return replace(self).fit(past).item_vectors_
        except NothingToLearnError:
            return VectorTable.from_arrays(ids, np.full((len(ids), 1), np.nan))

    def scores(self, histories: Sequences, *, context: Any = None) -> Float32Array:
        """Return the cosines of users and items, float32 of shape ``(n_queries, n_items)``.

        A query without history is scored by what is asked most; NaN for an item that has neither a vector nor an event.
        """
        check_catalogue(self.item_ids_, histories, name=self.name)
        found = self._products(self.user_vectors(histories, context=context))
        found[:, ~self._is_known] = np.nan
        return found

    def user_vectors(self, histories: Sequences, *, context: Any = None) -> Float32Array:
        """Return unit vectors of users, float32 of shape ``(n_queries, dim)``; a row has its bits in any batch.

        Parameters
        ----------
        histories : Sequences
            What each query saw; with ``user_embeddings`` they say whose they are, and a user who was not fitted on has
            none.
        context : array of shape (n_queries, n_context), optional
            The moment of each query, where the towers learned from one.
        """
        check_catalogue(self.item_ids_, histories, name=self.name)
        moments = checked_context(context, len(histories), n_columns=len(self.towers_.context))
        scaled = scaled_context(moments, self.towers_.context)
        rows = self._rows_of_users(histories)
        vectors = self.item_vectors_.vectors
        out = np.empty((len(histories), self.towers_.dim), np.float32)
        for some in blocks(len(histories)):
            starts, stops = histories.offsets[:-1][some], histories.offsets[1:][some]
            items, there = history_block(histories.item_codes, starts, stops, max_events=self.towers_.max_events)
            there &= self._is_known[items]
            moment = None if scaled is None else scaled[some]
            out[some] = self._runtime.users(np.nan_to_num(vectors[items]), there, rows[some], moment)
        return out

    def item_vectors(self, item_ids: Any) -> VectorTable:
        """Return vectors of any items whose texts the sources know, those that nobody met among them.

        Raises
        ------
        TableFingerprintError
            When the vectors are not those that were fitted with. A table that has grown keeps the fingerprint of its
            model where it was encoded, and where it was given one (``from_arrays(..., fingerprint=...)``).
        """
        self._require_fitted()
        ids = id_array(item_ids, what="the ids of the items")
        sources = sources_of(self.vectors)
        check_same_sources(sources, self.towers_.sources)
        return self._table(ids, item_features(sources, ids), self._runtime)

    def over(self, item_ids: Any) -> TwoTower:
        """Return these towers over another catalogue, such as one that has grown since they were fitted.

        Raises
        ------
        TableFingerprintError
            As in `item_vectors`.
        """
        self._require_fitted()
        ids = id_array(item_ids, what="the ids of the items")
        sources = sources_of(self.vectors)
        check_same_sources(sources, self.towers_.sources)
        fresh = replace(self)
        fresh.towers_ = self.towers_
        fresh._open(ids, item_features(sources, ids), self._runtime)
        return fresh

    def recommend(
        self,
        histories: Sequences,
        n: int = 10,
        *,
        exclude_history: bool = True,
        context: Any = None,
        exact_limit: int = 200_000,
    ) -> pa.Table:
        """Return the best items of each query.

        Parameters
        ----------
        histories : Sequences
            What each query saw.
        n : int, default=10
            How many items; fewer where the catalogue has no more.
        exclude_history : bool, default=True
            Whether items that the query saw are left out.
        context : array of shape (n_queries, n_context), optional
            As in `user_vectors`.
        exact_limit : int, default=200000
            Up to this many items all products are computed. In a larger catalogue ``usearch`` searches a graph of the
            items, which is made on first use: it finds most of the best, with the same scores.

        Returns
        -------
        pyarrow.Table
            ``query`` (int64), ``item_id`` (string), ``score`` (float32, the cosine) and ``rank`` (int64, from 1), best
            first; of equal scores the first in the catalogue. ``user_id`` too, where the histories say whose they are.

        Raises
        ------
        InputError
            When a parameter, or the catalogue of the histories, is not as expected.
        MissingDependencyError
            When the catalogue is larger, and usearch is not installed.
        """
        check_whole(1, n=n)
        check_whole(0, exact_limit=exact_limit)
        check_catalogue(self.item_ids_, histories, name=self.name)
        users = self.user_vectors(histories, context=context)
        n_items = len(self._unit)
        if n_items > exact_limit:
            index = self._searched()
            parts = [
                index.best_items(on_grid(users[some]), histories, some, int(n), exclude_history)
                for some in blocks(len(histories))
            ]
        else:
            parts = [
                best_items(self._products(users[some]), self._is_known, histories, some, int(n), exclude_history)
                for some in blocks(len(histories), max(1, _BLOCK_CELLS // max(1, n_items)))
            ]
        query, item, score, rank = (np.concatenate(each) for each in zip(*parts, strict=True))
        items = histories.item_ids.take(pa.array(item))
        found = {"query": query, "item_id": items, "score": score, "rank": rank}
        if histories.users is not None:
            found["user_id"] = histories.users.take(pa.array(query))
        return pa.table(found)

    def save(self, folder: str | Path) -> None:
        """Write the towers into a folder; see `load`."""
        self._require_fitted()
        self.towers_.save(folder)

    @classmethod
    def load(
        cls, folder: str | Path, vectors: VectorSource | Mapping[str, VectorSource], *, threads: int | None = None
    ) -> Self:
        """Return the towers of a folder, over the catalogue that they were fitted on.

        Parameters
        ----------
        folder : str or Path
            Where `save` wrote them.
        vectors : VectorSource or mapping of str to VectorSource
            The item vectors that they were fitted with.
        threads : int, optional
            Of ONNX Runtime.

        Raises
        ------
        ArtifactError
            When the folder does not hold what was written.
        TableFingerprintError
            When the vectors are others.
        """
        towers = Towers.load(folder)
        sources = sources_of(vectors)
        check_same_sources(sources, towers.sources)
        read = cls(vectors, **towers.parameters, threads=threads)
        read.towers_ = towers
        runtime = TowerRuntime(towers.item_graph, towers.user_graph, threads=threads)
        read._open(towers.item_ids, item_features(sources, towers.item_ids), runtime)
        return read

    @property
    def _runtime(self) -> TowerRuntime:
        """The graphs, opened on first use."""
        if self._opened is None:
            self._require_fitted()
            self._opened = TowerRuntime(self.towers_.item_graph, self.towers_.user_graph, threads=self.threads)
        return self._opened

    def _require_fitted(self) -> None:
        if self.item_ids_ is None:
            raise InputError(f"{self.name!r} has learned from no sequences yet: call fit(sequences) first")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_index": None}  # what runs is opened again on use

    def _open(self, item_ids: pa.StringArray, features: Float32Array, runtime: TowerRuntime) -> None:
        """Compute the vectors of a catalogue."""
        self._opened, self._index = runtime, None
        self.item_vectors_ = self._table(item_ids, features, runtime)
        self._unit = unit_rows(self.item_vectors_.vectors)
        self._is_known = has_direction(self._unit)
        self.item_ids_ = item_ids

    def _table(self, ids: pa.StringArray, features: Float32Array, runtime: TowerRuntime) -> VectorTable:
        rows = IdIndex(self.towers_.item_ids).positions(ids) + 1
        vectors = runtime.items(features, rows)
        is_met = np.concatenate([[False], self.towers_.is_met])[rows]
        vectors[np.isnan(features).all(axis=1) & ~is_met] = np.nan  # nothing is known of it
        return VectorTable.from_arrays(ids, vectors, fingerprint=self.towers_.fingerprint)

    def _products(self, users: Float32Array) -> Float32Array:
        """Return cosines, the same bits for a user alone and among others."""
        return products(on_grid(users), self._unit)

    def _searched(self) -> ItemIndex:
        """Return the index of the catalogue, made on first use."""
        if self._index is None:
            self._index = ItemIndex(self._unit, self._is_known)
        return self._index

    def _owners_of(self, sequences: Sequences) -> tuple[Int64Array, pa.StringArray | None]:
        """Return whose each sequence is, from 0, and the users where they have an embedding."""
        if sequences.users is None and not self.user_embeddings:
            return np.arange(len(sequences)), None
        encoded = self._required_users(sequences).dictionary_encode()
        owners = encoded.indices.cast(pa.int64()).to_numpy()
        return owners, encoded.dictionary if self.user_embeddings else None

    def _rows_of_users(self, histories: Sequences) -> Int64Array:
        """Return the row in the graph of each query's user, 0 for one who was not fitted on."""
        if not len(self.towers_.user_ids):
            return np.zeros(len(histories), np.int64)
        return IdIndex(self.towers_.user_ids).positions(self._required_users(histories)) + 1

    def _required_users(self, sequences: Sequences) -> pa.StringArray:
        if sequences.users is None:
            raise InputError(
                "the sequences do not say whose they are, but users have embeddings: pass sequences.with_users(ids), "
                "or user_embeddings=False"
            )
        return sequences.users

    def _plain_parameters(self) -> dict[str, Any]:
        """Return the parameters that are a part of what is saved, as plain values."""
        found = {each.name: getattr(self, each.name) for each in fields(self) if each.init}
        return {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in found.items()
            if name not in _NOT_SAVED
        }
