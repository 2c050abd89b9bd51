"""The task `next-item`: rows are positives, and every test event ranks the whole catalogue."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.progress import Doing, quiet
from llmfeat.errors import InputError
from llmfeat.evaluate.columns import Columns
from llmfeat.evaluate.controls import random_vectors, tfidf_vectors
from llmfeat.evaluate.fitting import RANKER
from llmfeat.evaluate.metrics import Estimate, Resamples, interval
from llmfeat.evaluate.next_item.candidates import (
    K_PER_GENERATOR,
    CandidateRows,
    FittedStage,
    ItemVectors,
    concatenate_queries,
    history_features,
    kernel_rows,
)
from llmfeat.evaluate.next_item.metrics import NEXT_ITEM_METRICS, TargetRanks, measure_next_item
from llmfeat.evaluate.next_item.queries import Queries, Stage, stages_of_histories, stages_of_log
from llmfeat.evaluate.next_item.taught import taught_rows, together
from llmfeat.evaluate.numbers import number
from llmfeat.evaluate.split import rolling_splits, split_by_column
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
from llmfeat.history import InteractionLog
from llmfeat.types import BoolArray, Float64Array, Int64Array

__all__ = ["NextItemTask"]

WORDS_DIM = 512
# How often the statistics are fitted anew over the time of the test, and of what the ranker learns from.
N_BLOCKS = 2
# A query scores the catalogue with every generator: large catalogues are asked fewer queries.
_MOST_CELLS = 200_000_000
_LEAST_QUERIES = 1_000
_N_REQUESTS = 50
_TOP = 10
_LEAST_EARLIER = 0.5


class NextItemTask(LiftTask):
    """See `LiftTask`; statistics are of what was known before a stage, histories of what was before the query."""

    metrics = NEXT_ITEM_METRICS
    primary = "ndcg@10"
    learner = RANKER

    def __init__(self, data: LiftData, config: LiftConfig) -> None:
        self._data, self._config = data, config
        self.lags_s = config.lags_s[:1]
        self._log = None if data.log is None else _positives(data.log)
        self._brings_histories = "history" in data.rows.column_names
        if data.split is not None and config.origins > 1:
            raise InputError(f"--origins {config.origins} came with --split-column, which has one test: drop one")
        if self._brings_histories and data.split is None:
            raise InputError("rows bring their histories, but no split came: say which are 'test', --split-column")
        self._last: tuple[int, FittedStage] | None = None
        self._cuts_us: list[tuple[int, int]] = []
        if not self._brings_histories:
            self._cuts_us = self._cuts()

    def _cuts(self) -> list[tuple[int, int]]:
        """Return when the test of each origin begins, and when it ends, microseconds."""
        if self._log is None:
            raise InputError(
                "the task 'next-item' needs times, --timestamp, or histories, --history-column: neither came"
            )
        times_us, data = self._log.times_us, self._data
        if data.split is not None:
            split = split_by_column(data.split, data.times_us)
            n_earlier = int(np.count_nonzero(data.times_us[split.train] < split.cut_us))
            if n_earlier < _LEAST_EARLIER * len(split.train):
                raise InputError(
                    f"{n_earlier} of {len(split.train)} rows to learn from are earlier than the first test row, but "
                    "most were expected to be: mark the last rows by time 'test', or leave --split-column out"
                )
            return [(split.cut_us, int(data.times_us[split.test].max()) + 1)]
        splits = rolling_splits(times_us, test_fraction=self._config.test_fraction, n_origins=self._config.origins)
        ends = [int(times_us.max()) + 1, *(split.cut_us for split in splits)]
        return [(split.cut_us, end) for split, end in zip(splits, ends, strict=False)]

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _stages(self, origin: int) -> tuple[list[Stage], list[Stage], tuple[int, int]]:
        """Return the stages to learn from and those to test, with the queries that are used, and of how many."""
        config, data = self._config, self._data
        if self._brings_histories:
            assert data.split is not None, "the constructor checked it"
            liked = pa.array(np.flatnonzero(data.labels > 0))
            train, test = stages_of_histories(data.rows.take(liked), data.split.take(liked), data.item_ids)
        else:
            train, test = self._stages_by_time(origin)
        most = max(_LEAST_QUERIES, _MOST_CELLS // len(data.item_ids))
        n_train, n_test = (sum(len(stage.queries) for stage in stages) for stages in (train, test))
        return (
            _sampled_contexts(train, min(config.most_train_contexts, most), seed=config.seed),
            _sampled(test, min(config.most_test_queries, most), seed=config.seed),
            (n_train, n_test),
        )

    def _stages_by_time(self, origin: int) -> tuple[list[Stage], list[Stage]]:
        log, (cut_us, end_us) = self._log, self._cuts_us[origin]
        assert log is not None, "the cuts were made of it"
        lag_us = round(self.lags_s[0] * 1e6)
        times_us = np.sort(log.times_us)
        # The window to learn from is as large a part of its past as the test is of all.
        before = times_us[times_us < cut_us]
        window = np.searchsorted(times_us, end_us) - len(before)
        if not window:
            raise InputError(
                "no item was liked in the time of the test, so that there is none to be found: move the split"
            )
        n_taught = int(len(before) * window / (window + len(before)))
        train_edges = _edges(before[-max(n_taught, 1) :], cut_us)
        test_edges = _edges(times_us[(times_us >= cut_us) & (times_us < end_us)], end_us)
        freeze_us = cut_us if self._config.freeze_at_test_start else None
        ids = self._data.item_ids
        train = stages_of_log(log, ids, train_edges, lag_us=lag_us, asked=self._marked("train", "valid"))
        test = stages_of_log(log, ids, test_edges, lag_us=lag_us, freeze_us=freeze_us, asked=self._marked("test"))
        for what, stages in (("learned from", train), ("tested", test)):
            if not stages:
                raise InputError(
                    f"nothing is known before the rows that are {what}, {self.lags_s[0]} s late: a longer log, a "
                    "smaller --history-lag-s or another split is needed"
                )
        return train, test

    def _marked(self, *roles: str) -> InteractionLog | None:
        """Return the liked events that the split column marks so; None without such a column, for all."""
        data = self._data
        if data.split is None:
            return None
        is_marked = pc.is_in(data.split, value_set=pa.array(roles)).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(is_marked & (data.labels > 0))
        if not len(rows):
            raise InputError(
                f"no liked row has the split {' or '.join(roles)}, but some were expected: check the column"
            )
        users, items = (data.rows.column(name).combine_chunks().take(pa.array(rows)) for name in ("user_id", "item_id"))
        return InteractionLog.from_arrays(users, items, data.times_us[rows], np.ones(len(rows), dtype=np.float32))

    @functools.cached_property
    def _vectors(self) -> ItemVectors:
        data, seed = self._data, self._config.seed
        texts = {"all": data.texts, **{name: texts for name, (texts, _) in data.views.items()}}
        words = {name: tfidf_vectors(data.item_ids, each, seed=seed, dim=WORDS_DIM) for name, each in texts.items()}
        encoded = {"all": data.vectors, **{name: table for name, (_, table) in data.views.items()}}
        placebo = {
            name: random_vectors(data.item_ids, dim=data.vectors.dim, seed=seed + at) for at, name in enumerate(texts)
        }
        return {"random": placebo, "tfidf": words, "llm": encoded}

    def _fitted(self, stage: Stage, doing: Doing = quiet) -> FittedStage:
        return FittedStage(stage, self._vectors, log=self._log, own=self._data.own, doing=doing)

    def _last_fitted(self, origin: int, doing: Doing = quiet) -> FittedStage:
        """Return the last stage of the test: what single requests are asked of."""
        if self._last is None or self._last[0] != origin:
            self._last = None  # before another is fitted
            self._last = origin, self._fitted(self._stages(origin)[1][-1], doing)
        return self._last[1]

    def material(self, origin: int, lag_s: int, doing: Doing = quiet) -> Material:
        """See `LiftTask`."""
        doing("putting together what was known")
        train, test, _ = self._stages(origin)
        says = [_numbered(doing, at, len(train) + len(test)) for at in range(1, len(train) + len(test) + 1)]
        # One stage is held at a time: on large logs its statistics take most of the memory.
        taught = [
            taught_rows(self._fitted(stage, say).rows(stage.queries, say), len(train), seed=self._config.seed)
            for stage, say in zip(train, says, strict=False)
        ]
        parts = [
            self._fitted(stage, say).rows(stage.queries, say)
            for stage, say in zip(test[:-1], says[len(train) :], strict=False)
        ]
        parts.append(self._last_fitted(origin, says[-1]).rows(test[-1].queries, says[-1]))
        tested = CandidateRows.concatenate(parts)
        return Material(together(taught), tested.columns, tested)

    def predictions(self, material: Material, scores: Float64Array) -> Predictions:
        """See `LiftTask`: where the target of each query stands."""
        rows: CandidateRows = material.context
        return Predictions(rows.ranks(scores.mean(axis=0)), [rows.ranks(each) for each in scores])

    def candidates(self, predictions: Mapping[str, Predictions], description: Mapping[str, Any]) -> dict[str, Any]:
        """Return the share of targets among the candidates, and the ranking of those that are there, apart."""
        first: TargetRanks = next(iter(predictions.values())).bag
        # As ranks: the first place for a target that was found, so that a hit is a find.
        found = self.measure(0, TargetRanks.of(np.where(first.found, 1, -1)), "all", resampled=True)["hr@10"]
        given = {}
        for arm, each in predictions.items():
            ranks = each.bag.take(first.found)
            unit = Resamples(np.ones((1, 1)))
            points = measure_next_item(ranks, np.zeros(len(ranks), dtype=np.int64), unit)
            given[arm] = {metric: number(estimate.point) for metric, estimate in points.items()}
        recall = {"recall": number(found.point), "recall_ci95": [number(end) for end in interval(found)]}
        return {**recall, **description, "given_recall": given}

    def describe(self, material: Material) -> dict[str, Any]:
        """Return how many candidates there are, and the share of targets that each generator proposes."""
        rows: CandidateRows = material.context
        there = rows.target_rows[rows.target_rows >= 0]
        assert rows.candidates.proposed is not None, "they were generated"
        found = rows.candidates.proposed[there].sum(axis=0) / max(len(rows.queries), 1)
        return {
            "per_query": len(rows.candidates) / max(rows.candidates.n_queries, 1),
            "k_per_generator": K_PER_GENERATOR,
            "by_generator": dict(zip(rows.candidates.names, found.tolist(), strict=False)),
        }

    @functools.cache  # noqa: B019
    def _queries(self, origin: int) -> Queries:
        return concatenate_queries([stage.queries for stage in self._stages(origin)[1]])

    @functools.cache  # noqa: B019
    def _item_events(self, origin: int) -> Int64Array:
        """Return the earlier events of each target, whatever the lag; before its stage where there are no times."""
        queries = self._queries(origin)
        if self._log is not None and queries.moments_us is not None:
            index = self._log.by_item
            items = queries.contexts.item_ids.take(pa.array(np.maximum(queries.targets, 0)))
            codes = np.where(queries.targets >= 0, self._log.item_code(items), -1)
            return index.before(codes, queries.moments_us[queries.context]) - index.first(codes)
        counts = []
        for stage in self._stages(origin)[1]:
            events = np.bincount(stage.past.item_codes, minlength=stage.past.n_items)
            targets = stage.queries.targets
            counts.append(np.where(targets >= 0, events[np.maximum(targets, 0)], 0))
        return np.concatenate(counts).astype(np.int64)

    @functools.cache  # noqa: B019
    def slices(self, origin: int) -> Mapping[str, BoolArray]:
        """See `LiftTask`."""
        queries, events = self._queries(origin), self._item_events(origin)
        return slices_of(events, queries.contexts.lengths[queries.context])

    def decile_events(self, origin: int) -> Mapping[str, tuple[int, int]]:
        """See `LiftTask`."""
        return deciles_of(self._item_events(origin))[1]

    @functools.cached_property
    def _units(self) -> tuple[pa.StringArray, Resamples, Resamples]:
        """Return the users of all origins, and resamples of them and of the catalogue."""
        origins = range(max(len(self._cuts_us), 1))
        users = pc.unique(pa.concat_arrays([self._queries(origin).users for origin in origins]))
        targets = np.unique(np.concatenate([self._queries(origin).targets for origin in origins]))
        draw = functools.partial(Resamples.draw, n_resamples=self._config.n_resamples, seed=self._config.seed)
        self._targets = targets
        return users, draw(len(users)), draw(len(targets))

    def measure(self, origin: int, predictions: Any, name: str, *, resampled: bool) -> Mapping[str, Estimate]:
        """See `LiftTask`; the cold slice of items is resampled by item."""
        ranks: TargetRanks = predictions
        inside, queries = self.slices(origin)[name], self._queries(origin)
        names, by_user, by_item = self._units
        if name == "cold_item":
            units, resamples = np.searchsorted(self._targets, queries.targets), by_item
        else:
            of_context = pc.index_in(queries.users, value_set=names).to_numpy().astype(np.int64)
            units, resamples = of_context[queries.context], by_user
        if not resampled:
            resamples = Resamples(resamples.weights[:1])
        return measure_next_item(ranks.take(inside), units[inside], resamples)

    def facts(self) -> dict[str, Any]:
        """See `LiftTask`."""
        train, test, (of_train, of_test) = self._stages(0)
        n_train, n_test = (sum(len(stage.queries) for stage in stages) for stages in (train, test))
        users = pc.unique(self._queries(0).users)
        by = "own histories" if self._brings_histories else "time" if self._data.split is None else "column"
        return {
            "users": len(self._data.rows.column("user_id").unique()),
            "train_rows": n_train,
            "test_rows": n_test,
            "test_users": len(users),
            "test_positive_share": None,
            "split": {"by": by, "test_from_us": self._cuts_us[0][0] if self._cuts_us else None},
            "sampled": {"train": {"used": n_train, "of": of_train}, "test": {"used": n_test, "of": of_test}},
        }

    def one_by_one(self, lag_s: int) -> OneByOne:
        """See `LiftTask`: a request is a context."""
        fitted = self._last_fitted(0)
        queries = fitted.stage.queries
        n_contexts = len(queries.contexts)
        draw = np.random.default_rng(self._config.seed)
        chosen = np.sort(draw.choice(n_contexts, min(_N_REQUESTS, n_contexts), replace=False))
        alone = [fitted.rows(queries.of_contexts(np.array([context]))).columns for context in chosen.tolist()]
        return OneByOne(fitted.rows(queries.of_contexts(chosen)).columns, Columns.concatenate(alone), len(alone))

    def requests(self, lag_s: int, n_requests: int) -> list[Request]:
        """See `LiftTask`."""
        fitted = self._last_fitted(0)
        queries = fitted.stage.queries
        worth = np.flatnonzero(queries.contexts.lengths > 1)
        draw = np.random.default_rng(self._config.seed)
        chosen = np.sort(draw.choice(worth, min(n_requests, len(worth)), replace=False))
        return [_request(fitted, queries.of_contexts(np.array([context])), self._vectors) for context in chosen]


def _request(fitted: FittedStage, queries: Queries, vectors: ItemVectors) -> Request:
    rows = fitted.rows(queries)
    history = queries.contexts
    features, asked = history_features(history, {"llm": vectors["llm"]["all"]}), kernel_rows(history, rows.candidates)
    targets = queries.targets[queries.targets >= 0]
    return Request(
        user_id=queries.users[0].as_py(),
        history=history.to_lists()[0][-_TOP:],
        targets=history.item_ids.take(pa.array(targets)).to_pylist(),
        items=history.item_ids.take(pa.array(rows.candidates.item)),
        is_target=rows.is_target,
        columns=rows.columns,
        because=features.fit(asked).because(asked),
    )


def _numbered(doing: Doing, at: int, n_stages: int) -> Doing:
    return lambda what: doing(f"{at} of {n_stages} stages: {what}")


def _positives(log: InteractionLog) -> InteractionLog:
    """Return the log of what was liked."""
    liked = np.flatnonzero(log.labels > 0)
    if len(liked) == log.n_events:
        return log
    if not len(liked):
        raise InputError("no event is a positive, but the items that users liked are to be ranked: check the labels")
    return InteractionLog.from_arrays(
        log.user_ids.take(pa.array(log.user_codes[liked])),
        log.item_ids.take(pa.array(log.item_codes[liked])),
        log.times_us[liked],
        log.labels[liked],
    )


def _edges(times_us: Int64Array, end_us: int) -> Int64Array:
    """Return where the blocks of some sorted times begin, and where the last ends."""
    quantiles = np.quantile(times_us, np.linspace(0, 1, N_BLOCKS + 1)[:-1], method="lower").astype(np.int64)
    return np.unique(np.append(quantiles, end_us))


def _sampled(stages: list[Stage], n_queries: int, *, seed: int) -> list[Stage]:
    """Return the stages with at most so many queries in all, each as many of its own."""
    share = n_queries / max(sum(len(stage.queries) for stage in stages), 1)
    if share >= 1:
        return stages
    return [
        Stage(stage.past, stage.queries.sample(max(1, int(len(stage.queries) * share)), seed=seed)) for stage in stages
    ]


def _sampled_contexts(stages: list[Stage], n_contexts: int, *, seed: int) -> list[Stage]:
    """Return the stages with at most so many contexts in all; the targets of a context that is taught stay together.

    A target that was left out would be taught as an item that nobody took.
    """
    share = n_contexts / max(sum(len(stage.queries.contexts) for stage in stages), 1)
    if share >= 1:
        return stages
    sizes = [max(1, int(len(stage.queries.contexts) * share)) for stage in stages]
    return [
        Stage(stage.past, stage.queries.sample_contexts(size, seed=seed))
        for stage, size in zip(stages, sizes, strict=True)
    ]
