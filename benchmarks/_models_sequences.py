"""Models of sequences: our two towers, and SASRec of Cornac, from ids alone and with what text says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
from _models_data import Data, tower_of
from _office import Queries
from _office_peers import SASRecScorer

from llmfeat import VectorTable
from llmfeat.history import Sequences
from llmfeat.rank.adapters import to_embedding_matrix
from llmfeat.rank.scorers import FittableScorer
from llmfeat.rank.scorers.cosine import has_direction

# As the peers' grid chose for Office Products, but half as wide, which is nearly as good and twice as fast.
_SASREC = {
    "max_len": 10,
    "batch_size": 128,
    "n_sample": 2048,
    "sample_alpha": 0.0,
    "embedding_dim": 64,
    "dropout": 0.2,
}
_MOST_EPOCHS = 14
_MOST_WATCHED = 2000


def two_tower(data: Data, arm: str, seed: int) -> FittableScorer:
    """Return two towers to fit: from ids alone, which know no item that nobody met, and with vectors of its text.

    Ids are dropped for the sake of texts; where there are none, none is dropped.
    """
    if arm == "with":
        return tower_of(data, seed)()
    nothing = VectorTable.from_arrays(data.item_ids, np.full((len(data.item_ids), 1), np.nan))
    return tower_of(data, seed, {"nothing": nothing}, id_dropout=0.0)()


class TextSASRec(SASRecScorer):
    """SASRec whose items begin as a projection, which is learned, of their vectors, beside what is learned of each."""

    def __init__(self, settings: Mapping[str, Any], table: VectorTable, *, seed: int) -> None:
        super().__init__(settings, seed=seed)
        self._table = table

    def _fit(self, sequences: Any, **more: Any) -> Any:
        from cornac.models.sasrec import sasrec

        begin, ids = sasrec.SASRecModel.__init__, sequences.item_ids.to_pylist()
        matrix = to_embedding_matrix(self._table, [*ids, None], fill="zeros").values

        def with_text(model: Any, **sizes: Any) -> None:
            begin(model, **sizes)
            model.item_emb = _text_embedding(model.item_emb, matrix)

        with mock.patch.object(sasrec.SASRecModel, "__init__", with_text):
            super()._fit(sequences, **more)
        return self

    def _known(self, sequences: Sequences) -> Any:
        return super()._known(sequences) | has_direction(self._table.lookup(sequences.item_ids))


def _text_embedding(own: Any, matrix: Any) -> Any:
    import torch

    class TextEmbedding(torch.nn.Module):
        """An embedding of ids plus a projection of vectors, of the scale that the former begins with."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding_dim = own.embedding_dim
            self.own = own
            self.vectors = torch.nn.Embedding.from_pretrained(torch.from_numpy(matrix), freeze=True)
            self.project = torch.nn.Linear(matrix.shape[1], own.embedding_dim, bias=False)
            torch.nn.init.normal_(self.project.weight, std=0.02)

        def forward(self, rows: Any) -> Any:
            return self.own(rows) + self.project(self.vectors(rows))

    return TextEmbedding()


def sasrec_settings(data: Data, arm: str) -> dict[str, Any]:
    """Return the settings with the number of epochs that is best on what came before the test."""
    past, histories, targets = data.watched()
    if len(targets) > _MOST_WATCHED:
        some = np.sort(np.random.default_rng(0).choice(len(targets), _MOST_WATCHED, replace=False))
        histories, targets = histories.take(some), targets[some]
    settings = {**_SASREC, "embedding_dim": 16} if data.quick else _SASREC
    scorer = _sasrec(data, arm, settings, seed=0)
    watched = scorer.fit_watched(past, Queries(histories, targets), max_epochs=2 if data.quick else _MOST_EPOCHS)
    return {**settings, "n_epochs": watched["n_epochs"]}


def sasrec(data: Data, arm: str, seed: int, settings: Mapping[str, Any]) -> FittableScorer:
    """Return SASRec to fit."""
    return _sasrec(data, arm, settings, seed=seed)


def _sasrec(data: Data, arm: str, settings: Mapping[str, Any], *, seed: int) -> SASRecScorer:
    if arm == "without":
        return SASRecScorer(settings, seed=seed)
    return TextSASRec(settings, _beside(data), seed=seed)


def _beside(data: Data) -> VectorTable:
    """Return the sources as one table, side by side, each of unit length, as the towers take them."""
    blocks = []
    for table in data.vectors.values():
        found = np.nan_to_num(table.lookup(data.item_ids))
        blocks.append(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12))
    return VectorTable.from_arrays(pa.array(data.item_ids), np.concatenate(blocks, axis=1))
