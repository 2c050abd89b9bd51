"""Rows that every model is fitted on and measured by: Office Products as next items, MovieLens-100K as clicks."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from _ml100k import load_ml100k
from _office import load_office
from features import _vectors as office_vectors
from scipy.stats import rankdata

from llmfeat import InteractionLog, TextEncoder, TwoTower, VectorTable
from llmfeat.evaluate import LiftConfig
from llmfeat.evaluate.arms import ARMS
from llmfeat.evaluate.click import ClickTask
from llmfeat.evaluate.columns import TaughtRows
from llmfeat.evaluate.controls import tfidf_vectors
from llmfeat.evaluate.fitting import CLASSIFIER, RANKER, Learner
from llmfeat.evaluate.metrics import Resamples, measure
from llmfeat.evaluate.next_item import TargetRanks, metrics_per_query
from llmfeat.evaluate.next_item.candidates import TOWERS, CandidateRows, FittedStage
from llmfeat.evaluate.next_item.queries import Stage
from llmfeat.evaluate.next_item.taught import taught_rows, together
from llmfeat.history import Sequences
from llmfeat.rank.scorers import ItemScorer

# What a model sees without our features, and with them.
FAMILIES: Mapping[str, Sequence[str]] = {"without": ARMS["no_text"], "with": ARMS["hybrid"]}
WITH_TOWERS = (*ARMS["hybrid"], TOWERS)
_WORDS_DIM = 512
_MAX_EVENTS = 50
_BLOCK_ROWS = 1024


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of users and items; what is taught has labels, folds and, where rows are ranked together, sizes."""

    ids: pd.DataFrame
    taught: TaughtRows

    def __len__(self) -> int:
        return len(self.ids)

    def frame(self, families: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
        """Return ids and columns side by side, and the names of the columns."""
        matrix = self.taught.columns.matrix(families)
        names = [f"column_{at}" for at in range(matrix.shape[1])]
        return pd.concat([self.ids, pd.DataFrame(matrix, columns=names)], axis=1), names


class Data(ABC):
    """One data set: rows to learn from, rows to be measured on, sequences, and what text says of the items."""

    name: str
    quick: bool
    metrics: tuple[str, ...]
    learner: Learner
    item_ids: pa.StringArray
    vectors: Mapping[str, VectorTable]
    taught: Rows
    tested: Rows

    @property
    @abstractmethod
    def past(self) -> Sequences:
        """What happened before the test, as sequences of what was liked."""

    @abstractmethod
    def watched(self) -> tuple[Sequences, Sequences, Any]:
        """Return an earlier past, and histories after it with what came next: they choose numbers of epochs."""

    @abstractmethod
    def scores_of(self, scorer: ItemScorer) -> np.ndarray[Any, Any]:
        """Return what a scorer of the catalogue says of the rows to be measured."""

    @abstractmethod
    def measured(self, scores: Any) -> dict[str, float]:
        """Return the metrics of scores of the rows to be measured."""


class Office(Data):
    """The valid events teach, the test events measure; candidates are those of all generators but two towers."""

    name = "office"
    metrics = ("hr@10", "ndcg@10")
    learner = RANKER

    def __init__(self, folder: Path, encoder: TextEncoder, *, quick: bool) -> None:
        self.quick = quick
        self.office = load_office(folder)
        self.by_family = office_vectors(self.office, encoder)
        self.vectors = {family: self.by_family[family]["all"] for family in ("llm", "tfidf")}
        self.item_ids = self.office.item_ids
        stages = {"taught": self.office.taught, "tested": self.office.tested}
        if quick:  # does not look at the test
            past, queries = self.office.taught.past, self.office.taught.queries
            halves = np.array_split(np.arange(min(200, len(queries))), 2)
            stages = {name: Stage(past, queries.take(some)) for name, some in zip(stages, halves, strict=True)}
        self.stages: Mapping[str, Stage] = stages
        rows = {name: self.candidate_rows(stage) for name, stage in stages.items()}
        self.taught, self.tested, self.ranked = _taught_of(rows["taught"]), _rows_of(rows["tested"]), rows["tested"]

    def candidate_rows(self, stage: Stage, towers: Any = None) -> CandidateRows:
        """Return the candidates of a stage, with its columns, those of two towers among them where they are made."""
        return FittedStage(stage, self.by_family, towers=towers).rows(stage.queries)

    def with_towers(self, towers: Any) -> tuple[TaughtRows, CandidateRows]:
        """Return what is taught and what is tested where two towers propose as well."""
        taught, tested = (self.candidate_rows(self.stages[name], towers) for name in ("taught", "tested"))
        return together([taught_rows(taught, 1, seed=0)]), tested

    @property
    def past(self) -> Sequences:
        """See `Data`."""
        return self.stages["tested"].past

    def watched(self) -> tuple[Sequences, Sequences, Any]:
        """See `Data`: the valid events."""
        stage = self.stages["taught"]
        return stage.past, stage.queries.contexts, stage.queries.targets

    def scores_of(self, scorer: ItemScorer) -> np.ndarray[Any, Any]:
        """See `Data`."""
        candidates = self.ranked.candidates
        found = np.empty(len(candidates), np.float32)
        for first in range(0, candidates.n_queries, _BLOCK_ROWS):
            some = np.arange(first, min(first + _BLOCK_ROWS, candidates.n_queries))
            rows = slice(*np.searchsorted(candidates.query, [some[0], some[-1] + 1]))
            scores = scorer.scores(self.ranked.queries.contexts.take(some))
            found[rows] = scores[candidates.query[rows] - first, candidates.item[rows]]
        return found

    def measured(self, scores: Any) -> dict[str, float]:
        """See `Data`."""
        return mean_metrics(self.ranked.ranks(np.asarray(scores, np.float64)), self.metrics)


class Ml100k(Data):
    """The last fifth by time measures; a row sees all that happened before it."""

    name = "ml100k"
    metrics = ("auc", "user_auc")
    learner = CLASSIFIER

    def __init__(self, folder: Path, encoder: TextEncoder, *, quick: bool) -> None:
        self.quick = quick
        data = load_ml100k(folder, encoder)
        config = LiftConfig(task="click", lags_s=(0,))
        if quick:
            config = dataclasses.replace(config, most_train_rows=600, most_test_rows=300)
        task = ClickTask(data, config)
        material, split = task.material(0, 0), task.splits[0]
        self.item_ids = data.item_ids
        words = tfidf_vectors(data.item_ids, data.texts, seed=0, dim=_WORDS_DIM)
        self.vectors = {"llm": data.vectors, "tfidf": words}
        assert data.log is not None, "films are rated at some time"
        liked = np.flatnonzero(data.log.labels > 0)
        self._liked = InteractionLog.from_arrays(
            data.log.user_ids.take(pa.array(data.log.user_codes[liked])),
            data.log.item_ids.take(pa.array(data.log.item_codes[liked])),
            data.log.times_us[liked],
            data.log.labels[liked],
        )
        self._test, self._cut_us = split.test, split.cut_us
        self._valid_us = int(data.times_us[split.valid].min())
        self._rows, self._times_us = data.rows, data.times_us
        self.taught = Rows(self._ids(split.train), material.taught)
        labels = data.labels[split.test]
        self.tested = Rows(self._ids(split.test), TaughtRows(material.tested, labels, np.zeros(len(labels), np.int64)))

    def _ids(self, rows: Any) -> pd.DataFrame:
        return self._rows.select(["user_id", "item_id"]).take(pa.array(rows)).to_pandas()

    @property
    def past(self) -> Sequences:
        """See `Data`."""
        return self._until(self._cut_us)

    def _until(self, moment_us: int) -> Sequences:
        past = self._liked.until(moment_us)
        never_us = np.full(len(past.user_ids), np.iinfo(np.int64).max)
        return Sequences.of_log(past, past.user_ids, never_us, item_ids=self.item_ids)

    def watched(self) -> tuple[Sequences, Sequences, Any]:
        """See `Data`: the last tenth of the training time."""
        liked = self._liked
        after = np.flatnonzero((liked.times_us >= self._valid_us) & (liked.times_us < self._cut_us))
        users = liked.user_ids.take(pa.array(liked.user_codes[after]))
        histories = self._histories(users, liked.times_us[after])
        return (
            self._until(self._valid_us),
            histories,
            histories.item_code(liked.item_ids.take(pa.array(liked.item_codes[after]))),
        )

    def _histories(self, users: Any, times_us: Any) -> Sequences:
        return Sequences.of_log(self._liked, users, times_us, max_events=_MAX_EVENTS, item_ids=self.item_ids)

    def scores_of(self, scorer: ItemScorer) -> np.ndarray[Any, Any]:
        """See `Data`."""
        users = pa.array(self.tested.ids["user_id"])
        histories = self._histories(users, self._times_us[self._test])
        items = histories.item_code(pa.array(self.tested.ids["item_id"]))
        found = np.empty(len(items), np.float32)
        for first in range(0, len(items), _BLOCK_ROWS):
            some = np.arange(first, min(first + _BLOCK_ROWS, len(items)))
            found[some] = scorer.scores(histories.take(some))[np.arange(len(some)), items[some]]
        return found

    def measured(self, scores: Any) -> dict[str, float]:
        """See `Data`; any score is one from 0 to 1 by its rank."""
        scores = np.asarray(scores, np.float64)
        ranks = rankdata(np.where(np.isnan(scores), -np.inf, scores)) / len(scores)
        users = self.tested.ids["user_id"].factorize()[0]
        unit = Resamples(np.ones((1, int(users.max()) + 1)))
        found = measure(ranks, self.tested.taught.labels, users, unit)
        return {name: found[name].point for name in self.metrics}


def mean_metrics(ranks: TargetRanks, names: Sequence[str]) -> dict[str, float]:
    """Return the means of some metrics over queries."""
    found = metrics_per_query(ranks)
    return {name: float(found[name].mean()) for name in names}


def tower_of(data: Data, seed: int, vectors: Mapping[str, VectorTable] | None = None, **more: Any) -> Any:
    """Return what makes the two towers that are measured: as they come, over all sources side by side by default."""
    if data.quick:
        more |= {"epochs": 1, "held_out": 0}
    return functools.partial(TwoTower, dict(vectors or data.vectors), random_state=seed, **more)


def _rows_of(rows: CandidateRows) -> Rows:
    candidates, queries = rows.candidates, rows.queries
    ids = pd.DataFrame(
        {
            "user_id": queries.users.take(pa.array(candidates.query)).to_pandas(),
            "item_id": queries.contexts.item_ids.take(pa.array(candidates.item)).to_pandas(),
        }
    )
    labels = rows.is_target.astype(np.int64)
    return Rows(ids, TaughtRows(rows.columns, labels, np.zeros(len(labels), np.int64), candidates.counts))


def _taught_of(rows: CandidateRows) -> Rows:
    """Return the rows that teach something, as `llmfeat lift` draws them."""
    taught = together([taught_rows(rows, 1, seed=0)])
    every = _rows_of(rows)
    # The rows of contexts with a target among their candidates, all of them where there are few.
    able = np.unique(rows.candidates.query[rows.is_target])
    kept = np.flatnonzero(np.isin(rows.candidates.query, able))
    if len(kept) != len(taught.labels):
        raise ValueError(f"{len(taught.labels)} rows were drawn of {len(kept)}, but all were expected: raise the limit")
    return Rows(every.ids.iloc[kept].reset_index(drop=True), taught)
