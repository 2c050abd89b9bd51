"""Pop, ItemKNN and EASE of LensKit, and SASRec of Cornac, as scorers of the whole catalogue of Office Products.

Both score any history, so that test users need not be among those that a model was fitted on. An item without an event
is unknown to a model: it cannot be told from other such items, and comes after all that are known, or, in EASE, stands
at the weight 0 that it has there.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self
from unittest import mock

import joblib
import numpy as np
from _office import Queries

from llmfeat.evaluate.next_item import metrics_per_query, scorer_ranks
from llmfeat.history import Sequences
from llmfeat.rank.scorers import FittableScorer

CHOSEN_BY = "ndcg@10"
# As many measurements without a better one end a training.
_PATIENCE = 3
_EPOCHS_BETWEEN = 2
# Trainings at a time, of one thread each where OMP_NUM_THREADS is 1.
N_JOBS = 2


class Peer(FittableScorer, Protocol):
    """A scorer that can say what it was made with."""

    settings: Mapping[str, Any]


@dataclass(eq=False)
class LensKitScorer:
    """A component of LensKit, by its class below ``lenskit`` and its parameters."""

    name: str
    component: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def fit(self, sequences: Sequences) -> Self:
        """Train on who met what: these models know no order, and LensKit refuses repeats."""
        import pandas as pd
        from lenskit.data import DatasetBuilder, ItemList
        from lenskit.pipeline import topn_pipeline

        events = pd.DataFrame({"user_id": sequences.row_of_event, "item_id": sequences.item_codes.astype(np.int64)})
        builder = DatasetBuilder()
        catalogue = np.arange(sequences.n_items)
        builder.add_entities("item", catalogue)  # first, and ascending: an item's number is its code
        builder.add_interactions(
            "event", events.drop_duplicates(), entities=["user", "item"], missing="insert", default=True
        )
        self.pipeline_ = topn_pipeline(_lenskit_class(self.component)(**self.settings))
        self.pipeline_.train(builder.build())
        self.catalogue_ = ItemList(item_ids=catalogue)
        return self

    def scores(self, histories: Sequences) -> Any:
        """Return what LensKit scores, float32 of shape ``(n_queries, n_items)``; NaN where it scores nothing."""
        import lenskit
        from lenskit.data import ItemList, RecQuery

        out = np.empty((len(histories), histories.n_items), dtype=np.float32)
        for row, events in enumerate(np.split(histories.item_codes, histories.offsets[1:-1])):
            query = RecQuery(history_items=ItemList(item_ids=np.unique(events).astype(np.int64)))
            out[row] = lenskit.score(self.pipeline_, query, self.catalogue_).scores()
        return out


def _lenskit_class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"lenskit.{module}"), name)


@dataclass(eq=False)
class SASRecScorer:
    """SASRec of Cornac, by its parameters; `n_epochs` among them."""

    settings: Mapping[str, Any]
    seed: int = 0
    name: str = "sasrec"

    def fit(self, sequences: Sequences) -> Self:
        """Train on each sequence's every next item, in the loop of Cornac."""
        return self._fit(sequences)

    def fit_watched(self, sequences: Sequences, queries: Queries, *, max_epochs: int) -> dict[str, Any]:
        """Return the best number of epochs by `CHOSEN_BY`, with that, trained until it gets no better."""
        curve: list[float] = []

        def measure(*_: Any, **__: Any) -> float:
            curve.append(_mean_metric(self, queries))
            if len(curve) - int(np.argmax(curve)) > _PATIENCE:
                raise _NoBetterError
            return curve[-1]

        # Cornac keeps the weights of the best epoch, and tells neither which it was nor stops after it.
        watched = mock.patch("cornac.models.sasrec.recom_sasrec.val_score", measure)
        with watched, contextlib.suppress(_NoBetterError):
            self._fit(sequences, n_epochs=max_epochs, model_selection="best", val_eval_every=_EPOCHS_BETWEEN)
        best = int(np.argmax(curve))
        return {"n_epochs": _EPOCHS_BETWEEN * (best + 1), CHOSEN_BY: curve[best]}

    def _fit(self, sequences: Sequences, **more: Any) -> Self:
        from cornac.data import SequentialDataset
        from cornac.models import SASRec

        codes = {code: code for code in range(sequences.n_items)}
        rows = zip(sequences.row_of_event.tolist(), sequences.item_codes.tolist(), strict=True)
        # Session, item, time: one session a user, with the place in the log for time.
        events = [(row, code, at) for at, (row, code) in enumerate(rows)]
        data = SequentialDataset.build(events, fmt="SIT", global_iid_map=codes)
        self.known_ = self._known(sequences)
        self.model_ = SASRec(**{**self.settings, **more}, seed=self.seed)
        self.model_.fit(data, data)
        return self

    def _known(self, sequences: Sequences) -> Any:
        """Return which items the model has learned anything of, bool of shape ``(n_items,)``."""
        return np.bincount(sequences.item_codes, minlength=sequences.n_items) > 0

    def scores(self, histories: Sequences) -> Any:
        """Return Cornac's scores, float32 of shape ``(n_queries, n_items)``; NaN for items it never saw.

        It is `SASRec.score` for many histories at once.
        """
        import torch

        known = histories.keep(self.known_[histories.item_codes])
        model = self.model_.model.eval()
        with torch.no_grad():
            inputs = torch.from_numpy(padded(known, self.model_.max_len, pad=self.model_.pad_idx))
            out = model(None, inputs, torch.arange(histories.n_items)).numpy()
        out[known.lengths == 0] = 1  # as Cornac scores an empty history
        out[:, ~self.known_] = np.nan
        return out


class _NoBetterError(Exception):
    """Further epochs make a training no better."""


def padded(histories: Sequences, width: int, *, pad: int) -> Any:
    """Return the last events of each history, at the right of int64 of shape ``(n_rows, width)``."""
    recent = histories.last(width)
    out = np.full((len(recent), width), pad, dtype=np.int64)
    out[recent.row_of_event, width - 1 - recent.age_rank] = recent.item_codes
    return out


def choose(scorers: Iterable[Peer], past: Sequences, queries: Queries) -> tuple[Peer, list[dict[str, Any]]]:
    """Return the best scorer by `CHOSEN_BY` once fitted on the past, and what each one got."""
    tried = [(scorer, _mean_metric(scorer.fit(past), queries)) for scorer in scorers]
    best = max(tried, key=lambda each: each[1])[0]
    return best, [{**scorer.settings, CHOSEN_BY: value} for scorer, value in tried]


def choose_sasrec(
    settings: Iterable[Mapping[str, Any]], past: Sequences, queries: Queries, *, max_epochs: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the best settings by `CHOSEN_BY`, with the best number of epochs, and what each one got."""

    def tried_with(each: Mapping[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        found = SASRecScorer(each).fit_watched(past, queries, max_epochs=max_epochs)
        return {**each, **found, "seconds": time.perf_counter() - started}

    tried = joblib.Parallel(n_jobs=N_JOBS)(joblib.delayed(tried_with)(each) for each in settings)
    best = max(tried, key=lambda each: each[CHOSEN_BY])
    return {name: value for name, value in best.items() if name not in (CHOSEN_BY, "seconds")}, tried


def _mean_metric(scorer: FittableScorer, queries: Queries) -> float:
    ranks = scorer_ranks(scorer, queries.histories, queries.targets)
    return float(metrics_per_query(ranks)[CHOSEN_BY].mean())


pop = functools.partial(LensKitScorer, "pop", "basic.PopScorer")
item_knn = functools.partial(LensKitScorer, "itemknn", "knn.ItemKNNScorer")
ease = functools.partial(LensKitScorer, "ease", "knn.EASEScorer")
