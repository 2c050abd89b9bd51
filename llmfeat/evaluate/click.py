"""The task `click`: rows carry a label, and an arm ranks the rows of a user."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from llmfeat._base.frames import id_column
from llmfeat._base.progress import Doing, quiet
from llmfeat.encode import VectorTable
from llmfeat.errors import InputError
from llmfeat.evaluate.columns import FITTED, Columns, TaughtRows
from llmfeat.evaluate.controls import CollabVectors, random_vectors, tfidf_vectors
from llmfeat.evaluate.fitting import CLASSIFIER
from llmfeat.evaluate.metrics import METRICS, Estimate, Resamples, measure
from llmfeat.evaluate.sample import sample_rows, sample_users
from llmfeat.evaluate.split import TimeSplit, rolling_splits, split_by_column
from llmfeat.evaluate.task import (
    LiftConfig,
    LiftData,
    LiftTask,
    Material,
    OneByOne,
    Predictions,
    Request,
    deciles_of,
    slices_of,
)
from llmfeat.features import ActivityFeatures, HistoryFeatures, LearnedSimilarity, PastFittedFeatures, SimilarityLearner
from llmfeat.features._activity import ACTIVITY_NAMES, POPULARITY_NAMES
from llmfeat.features._rows import LogTransformer
from llmfeat.history import InteractionLog
from llmfeat.types import BoolArray, Float32Array, Float64Array, Int64Array

__all__ = ["ClickTask"]

# What is learned of the events is learned of so many at most, the last ones; and words are reduced to so many
# dimensions before a projection of them is learned.
_MOST_LEARNED_EVENTS = 500_000
_LEARNED_WORDS_DIM = 512
# How often it is learned anew over the time of the training; less often where there is much to learn from.
_N_BLOCKS, _N_BLOCKS_OF_MANY = 8, 3
_N_REQUESTS = 50
_TOP = 10


@dataclass(frozen=True)
class _LastEvents:
    """A learner that sees the last events of a log at most."""

    learner: Any
    most_events: int = _MOST_LEARNED_EVENTS

    def learn(self, log: InteractionLog) -> VectorTable:
        if log.n_events > self.most_events:
            log = _last_events(log, self.most_events)
        table: VectorTable = self.learner.learn(log)
        return table


def _last_events(log: InteractionLog, n_events: int) -> InteractionLog:
    kept = np.sort(np.argsort(log.times_us, kind="stable")[-n_events:])
    return InteractionLog.from_arrays(
        log.user_ids.take(pa.array(log.user_codes[kept])),
        log.item_ids.take(pa.array(log.item_codes[kept])),
        log.times_us[kept],
        log.labels[kept],
    )


class ClickTask(LiftTask):
    """See `LiftTask`; a test row sees every strictly earlier event, earlier test rows included."""

    metrics = METRICS
    primary = "auc"
    learner = CLASSIFIER

    def __init__(self, data: LiftData, config: LiftConfig) -> None:
        if data.log is None:
            raise InputError("the task 'click' needs the times of events: name the column of times, --timestamp")
        self._data, self._config, self._log = data, config, data.log
        self.lags_s = config.lags_s
        if data.split is not None and config.origins > 1:
            raise InputError(f"--origins {config.origins} came with a split column, which has one test: leave out one")
        if data.split is not None:
            self._whole = [split_by_column(data.split, data.times_us)]
        else:
            self._whole = rolling_splits(data.times_us, test_fraction=config.test_fraction, n_origins=config.origins)
        users = id_column(data.rows, "user_id", what="the rows").dictionary_encode()
        self._users: Int64Array = users.indices.cast(pa.int64()).to_numpy()
        self.splits = [self._sampled(split) for split in self._whole]

    def _sampled(self, split: TimeSplit) -> TimeSplit:
        config = self._config
        return TimeSplit(
            sample_rows(split.fit, config.most_train_rows * len(split.fit) // len(split.train), seed=config.seed),
            sample_rows(split.valid, config.most_train_rows * len(split.valid) // len(split.train), seed=config.seed),
            sample_users(split.test, self._users, config.most_test_rows, seed=config.seed),
            cut_us=split.cut_us,
        )

    def material(self, origin: int, lag_s: int, doing: Doing = quiet) -> Material:
        """See `LiftTask`."""
        doing("fitting the columns")
        split = self.splits[origin]
        train = split.train
        maker = self._maker(origin, lag_s)
        fold = np.where(np.isin(train, split.valid), 0, FITTED)
        taught = TaughtRows(maker.columns(train, doing), self._data.labels[train], fold)
        return Material(taught, maker.columns(split.test, doing))

    def predictions(self, material: Material, scores: Float64Array) -> Predictions:
        """See `LiftTask`."""
        return Predictions(scores.mean(axis=0), list(scores))

    def baseline(self, origin: int) -> Float64Array | None:
        """See `LiftTask`."""
        return None if self._data.baseline is None else self._data.baseline[self.splits[origin].test]

    @functools.cache  # noqa: B019
    def slices(self, origin: int) -> Mapping[str, BoolArray]:
        """Return which test rows are of items and users with few earlier events, whatever the lag."""
        item_events, user_events = self._events(origin)
        return slices_of(item_events, user_events)

    def decile_events(self, origin: int) -> Mapping[str, tuple[int, int]]:
        """See `LiftTask`."""
        return deciles_of(self._events(origin)[0])[1]

    @functools.cache  # noqa: B019
    def _events(self, origin: int) -> tuple[Int64Array, Int64Array]:
        """Return the earlier events of the item, and of the user, of each test row."""
        rows = self._data.rows.take(pa.array(self.splits[origin].test))
        activity = ActivityFeatures(self._log).fit(rows).transform(rows)
        item, user = (activity[:, ACTIVITY_NAMES.index(f"{what}_n_events")] for what in ("item", "user"))
        return item.astype(np.int64), user.astype(np.int64)

    @functools.cached_property
    def _units(self) -> tuple[Int64Array, Resamples, Int64Array, Resamples]:
        """Return the user and the item of each row, as columns of resamples that all origins share."""
        tested = np.unique(np.concatenate([split.test for split in self.splits]))
        items = id_column(self._data.rows, "item_id", what="the rows").dictionary_encode()
        out: list[Any] = []
        for codes in (self._users, items.indices.cast(pa.int64()).to_numpy()):
            distinct = np.unique(codes[tested])
            drawn = Resamples.draw(len(distinct), n_resamples=self._config.n_resamples, seed=self._config.seed)
            out += [np.searchsorted(distinct, codes), drawn]
        return out[0], out[1], out[2], out[3]

    def measure(self, origin: int, predictions: Any, name: str, *, resampled: bool) -> Mapping[str, Estimate]:
        """See `LiftTask`; the cold slice of items is resampled by item."""
        inside = self.slices(origin)[name]
        rows = self.splits[origin].test[inside]
        users, by_user, items, by_item = self._units
        groups = None if self._data.groups is None else self._data.groups[rows]
        if not resampled:
            by_user, by_item = (Resamples(each.weights[:1]) for each in (by_user, by_item))
        return measure(
            predictions[inside],
            self._data.labels[rows],
            users[rows],
            by_user,
            groups=groups,
            by_item=(items[rows], by_item) if name == "cold_item" else None,
        )

    def facts(self) -> dict[str, Any]:
        """See `LiftTask`."""
        data, last = self._data, self.splits[0]
        whole = self._whole[0]
        return {
            "users": len(self._log.user_ids),
            "train_rows": len(last.train),
            "test_rows": len(last.test),
            "test_users": len(np.unique(self._users[last.test])),
            "test_positive_share": float(data.labels[last.test].mean()),
            "split": {"by": "time" if data.split is None else "column", "test_from_us": last.cut_us},
            "sampled": {
                "train": {"used": len(last.train), "of": len(whole.train)},
                "test": {"used": len(last.test), "of": len(whole.test)},
            },
        }

    def one_by_one(self, lag_s: int) -> OneByOne:
        """Return the columns of the test rows of some users and moments, all at once and a request each."""
        test = self.splits[0].test
        keys = np.stack([self._users[test], self._data.times_us[test]])
        _, request = np.unique(keys, axis=1, return_inverse=True)
        n_requests = int(request.max()) + 1
        draw = np.random.default_rng(self._config.seed)
        chosen = draw.choice(n_requests, min(_N_REQUESTS, n_requests), replace=False)
        requests = [test[request == each] for each in chosen.tolist()]
        maker = self._maker(0, lag_s)
        return OneByOne(
            maker.columns(np.concatenate(requests)),
            Columns.concatenate([maker.columns(rows) for rows in requests]),
            len(requests),
        )

    def requests(self, lag_s: int, n_requests: int) -> list[Request]:
        """Return the test rows of some users, a request each; see `LiftTask`."""
        test, data, maker = self.splits[0].test, self._data, self._maker(0, lag_s)
        found = []
        for user in _ranked_users(self._users[test], data.labels[test], n_requests, seed=self._config.seed):
            rows = test[self._users[test] == user]
            asked = data.rows.take(pa.array(rows))
            name = asked.column("user_id")[0].as_py()
            past = self._log.as_of(name, int(data.times_us[rows].min()))[-_TOP:]
            items = id_column(asked, "item_id", what="the rows")
            found.append(
                Request(
                    user_id=name,
                    history=self._log.item_ids.take(pa.array(self._log.item_codes[past])).to_pylist(),
                    targets=[],
                    items=items,
                    is_target=data.labels[rows] > 0,
                    columns=maker.columns(rows),
                    because=maker.because(rows),
                )
            )
        return found

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _maker(self, origin: int, lag_s: int) -> _ColumnMaker:
        split = self.splits[origin]
        seen_us = self._data.times_us
        if self._config.freeze_at_test_start:
            seen_us = seen_us.copy()
            seen_us[split.test] = split.cut_us
        return _ColumnMaker(self._data, self._config, split.train, lag_s, seen_us)


class _ColumnMaker:
    """The columns of rows, from what was known `lag_s` seconds before each; fitted on the training rows."""

    def __init__(self, data: LiftData, config: LiftConfig, train: Int64Array, lag_s: int, seen_us: Int64Array) -> None:
        assert data.log is not None, "the task checked it"
        self._data, self._seen_us = data, seen_us
        log, seed = data.log, config.seed
        activity = ActivityFeatures(log, history_lag_s=lag_s)
        words = {name: tfidf_vectors(data.item_ids, texts, seed=seed) for name, texts in self._texts().items()}
        dense = words["tfidf"]
        if dense.dim > _LEARNED_WORDS_DIM:
            dense = tfidf_vectors(data.item_ids, data.texts, seed=seed, dim=_LEARNED_WORDS_DIM)
        placebo = random_vectors(data.item_ids, dim=data.vectors.dim, seed=seed)
        encoded = {"llm": data.vectors, **{f"llm_{name}": table for name, (_, table) in data.views.items()}}
        kernels: dict[str, dict[str, VectorTable]] = {"random": {"random": placebo}, "tfidf": words, "llm": encoded}
        projected = {"random": placebo, "tfidf": dense, "llm": data.vectors}
        transformers: dict[str, LogTransformer] = {
            "no_text": activity,
            "collab": _learned(log, "collab", CollabVectors(random_state=seed), lag_s),
        }
        for family, tables in kernels.items():
            learner = SimilarityLearner(projected[family], LearnedSimilarity())
            transformers[family] = HistoryFeatures(log, tables, history_lag_s=lag_s)
            transformers[f"{family}_learned"] = _learned(log, f"{family}_learned", learner, lag_s)
        rows = self._asked(train)
        self._transformers = {family: transformer.fit(rows) for family, transformer in transformers.items()}

    def _texts(self) -> dict[str, Any]:
        return {"tfidf": self._data.texts, **{f"tfidf_{name}": texts for name, (texts, _) in self._data.views.items()}}

    def columns(self, rows: Int64Array, doing: Doing = quiet) -> Columns:
        """Return the columns of some rows; those of a row are the same whatever else is asked for."""
        asked = self._asked(rows)
        families: dict[str, Float32Array] = {}
        names: dict[str, tuple[str, ...]] = {}
        for family, transformer in self._transformers.items():
            doing(f"columns of {len(rows):,} rows, {family}")
            families[family] = transformer.transform(asked)
            names[family] = tuple(map(str, transformer.get_feature_names_out()))
        popular = [ACTIVITY_NAMES.index(name) for name in POPULARITY_NAMES]
        families["popularity"], names["popularity"] = families["no_text"][:, popular], POPULARITY_NAMES
        self._add_own(families, names, rows, asked)
        return Columns(families, names)

    def because(self, rows: Int64Array) -> pa.Table:
        """Return the item of the history that each row's item is nearest to, by the encoder."""
        features = self._transformers["llm"]
        assert isinstance(features, HistoryFeatures), "the encoder's are over its vectors as they are"
        return features.because(self._asked(rows))

    def _asked(self, rows: Int64Array) -> pa.Table:
        asked = self._data.rows.take(pa.array(rows))
        moments = pa.array(self._seen_us[rows], pa.timestamp("us", "UTC"))
        return asked.set_column(asked.column_names.index("timestamp"), "timestamp", moments)

    def _add_own(
        self,
        families: dict[str, Float32Array],
        names: dict[str, tuple[str, ...]],
        rows: Int64Array,
        asked: pa.Table,
    ) -> None:
        blocks: list[Float32Array] = []
        called: list[str] = []
        if self._data.own is not None:
            users, items = (id_column(asked, name, what="the rows") for name in ("user_id", "item_id"))
            # As they were at the moment itself: how late they are is their owner's to know.
            blocks.append(self._data.own.columns(rows, users, items, self._data.times_us[rows]))
            called += self._data.own.names
        if self._data.baseline is not None:
            blocks.append(self._data.baseline[rows].astype(np.float32)[:, None])
            called.append("baseline_score")
        if blocks:
            families["own"], names["own"] = np.concatenate(blocks, axis=1), tuple(called)


def _learned(log: InteractionLog, name: str, learner: Any, lag_s: int) -> PastFittedFeatures:
    """Return history features over vectors that the events before each block of time taught."""
    n_blocks = _N_BLOCKS if log.n_events <= _MOST_LEARNED_EVENTS // 2 else _N_BLOCKS_OF_MANY
    return PastFittedFeatures(log, {name: _LastEvents(learner)}, n_blocks=n_blocks, history_lag_s=lag_s)


def _ranked_users(users: Int64Array, labels: Int64Array, n_users: int, *, seed: int) -> list[int]:
    """Return some users, drawn at random, of those with the most to rank: over ten rows, a positive among them."""
    n_rows, n_positive = np.bincount(users), np.bincount(users, weights=labels)
    worth = np.flatnonzero((n_rows > _TOP) & (n_positive > 0))
    if not len(worth):
        worth = np.flatnonzero(n_rows > 0)
    drawn = np.random.default_rng(seed).choice(worth, min(n_users, len(worth)), replace=False)
    return [int(user) for user in np.sort(drawn)]
