"""A small shop: a catalogue, a log, a trained ranker, and repositories that serve it: `shop` and `served`.

The log ends a second before `Shop.now`, so that the lag of the features and the delay of the labels both hide something
of a request at that moment.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from lightgbm import LGBMRanker
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion

from llmfeat import (
    ActivityFeatures,
    HistoryFeatures,
    InteractionLog,
    ItemTemplate,
    ModelArtifact,
    RankingPipeline,
    SemanticIdFeatures,
    SemanticIds,
    TextEncoder,
    VectorTable,
    encode_table,
    materialize,
)
from llmfeat.features import LearnedSimilarity
from llmfeat.features._summaries import STATISTICS
from llmfeat.features.learned import affinity_of_log
from llmfeat.features.reduce import ReducedVectors
from llmfeat.rank.serving import OnlineRanker, RankerBundle, Ranking
from llmfeat.store import init_repo
from tests.stores import apply, put_vectors

WORDS = ("heat", "alien", "casino", "speed", "drama", "war", "the", "1995")
US = 10**6
T0 = 1_700_000_000
N_USERS, N_ITEMS, N_EVENTS, N_SECONDS = 15, 30, 900, 12 * 3600
COLD, NO_TEXT = f"i{N_ITEMS}", f"i{N_ITEMS + 1}"  # not in the table; in it, without a vector
LAG_S, DELAY_S = 1800, 3600
USERS_FINGERPRINT = "a" * 64


@dataclass(frozen=True)
class Shop:
    """What the ranker was trained on, and the ranker."""

    items: pa.Table
    events: pa.Table
    folder: Path
    artifact: ModelArtifact
    template: ItemTemplate
    book: SemanticIds
    pipeline: RankingPipeline
    bundle: RankerBundle
    now: int

    @property
    def table(self) -> Path:
        return self.folder / "item_vectors"

    @property
    def log(self) -> InteractionLog:
        return InteractionLog.open(self.folder / "log")

    @property
    def vectors(self) -> VectorTable:
        return VectorTable.open(self.table)

    def candidates(self, seed: int, n_rows: int = 12) -> tuple[list[str], list[float]]:
        """Return items, unknown ones and one without a text among them, and their prices."""
        draw = np.random.default_rng(seed)
        ids = [*(f"i{at}" for at in draw.integers(0, N_ITEMS, n_rows - 2)), NO_TEXT, "unheard of"]
        return [ids[at] for at in draw.permutation(n_rows)], draw.random(n_rows).tolist()

    def rows(self, user: str, item_ids: Sequence[str], prices: Sequence[float], now: Any = None) -> pd.DataFrame:
        """Return a request as the rows that the pipeline takes."""
        time = self.now if now is None else now
        return pd.DataFrame({"user_id": user, "item_id": list(item_ids), "timestamp": time, "price": prices})

    def ranker(self, repo: Path, **options: Any) -> OnlineRanker:
        return OnlineRanker(self.bundle, **{"repo": repo, "log": self.log, **options})


def serve(folder: Path, shop: Shop, **options: Any) -> Path:
    """Return a repository of the shop's table and log, applied and materialized."""
    sources = {"table": shop.table, "log": shop.folder / "log", "users": shop.folder / "user_vectors", "max_events": 40}
    repo = init_repo(folder / "repo", project=f"t{uuid.uuid4().hex[:12]}", **{**sources, **options})
    apply(repo)
    materialize(repo)
    return repo


def make_shop(folder: Path, artifact: ModelArtifact) -> Shop:
    draw = np.random.default_rng(0)
    titles = [" ".join(draw.choice(WORDS, 3)) for _ in range(N_ITEMS + 1)]
    ids = [f"i{at}" for at in range(N_ITEMS + 2)]
    items = pa.table(
        {
            "item_id": ids,
            "title": [*titles, None],
            "valid_from": pa.array([0] * len(ids), pa.timestamp("us", "UTC")),
        }
    )
    times = T0 + draw.integers(0, N_SECONDS, N_EVENTS)
    events = pa.table(
        {
            "user_id": [f"u{at}" for at in draw.integers(0, N_USERS, N_EVENTS)],
            "item_id": [f"i{at}" for at in draw.integers(0, N_ITEMS + 2, N_EVENTS)],
            "timestamp": times,
            "label": draw.integers(0, 2, N_EVENTS),
            "price": draw.random(N_EVENTS),
        }
    )
    InteractionLog.from_frame(events, label="label", available_after_s=DELAY_S).save(folder / "log")
    put_vectors(folder / "user_vectors", {"u1": [1.0, 0.0], "u2": [0.0, 1.0]}, fingerprint=USERS_FINGERPRINT)
    template, known = ItemTemplate("{title}"), items.filter(pa.array([each != COLD for each in ids]))
    encode_table(
        known, template=template, encoder=TextEncoder(artifact), out=folder / "item_vectors", valid_from="valid_from"
    )
    log, table = InteractionLog.open(folder / "log"), VectorTable.open(folder / "item_vectors")
    book = SemanticIds(levels=(4, 3)).fit_table(table)
    learned = LearnedSimilarity(4).fit(table.vectors, affinity_of_log(log, table))
    history = HistoryFeatures(
        log,
        {"llm": table, "learned": ReducedVectors(table, learned)},
        max_events=20,
        half_lives_s=(7200.0,),
        statistics=tuple(STATISTICS),
        history_lag_s=LAG_S,
    )
    features = FeatureUnion(
        [
            ("base", ColumnTransformer([("own", "passthrough", ["price"])])),
            ("activity", ActivityFeatures(log, history_lag_s=LAG_S)),
            ("history", history),
            ("semantic", SemanticIdFeatures(book.item_codes(table))),
        ]
    )
    pipeline = RankingPipeline([("features", features), ("ranker", small_ranker())])
    pipeline.fit(events.to_pandas(), events["label"].to_numpy())
    bundle = RankerBundle.of_pipeline(pipeline, name="first", semantic_ids=book, trained={"ndcg": 0.5})
    return Shop(items, events, folder, artifact, template, book, pipeline, bundle, int(times.max()) + 1)


def small_ranker(**options: Any) -> LGBMRanker:
    """Return a ranker of a few trees, on one thread."""
    given = {"n_estimators": 15, "min_child_samples": 5, "n_jobs": 1, "verbose": -1, "random_state": 0}
    return LGBMRanker(**{**given, **options})


def by_pipeline(pipeline: Any, rows: pd.DataFrame) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Return what the pipeline says of a request: the items, best first, and their scores."""
    scores = pipeline.predict(rows)
    order = np.argsort(-scores, kind="stable")
    return [rows["item_id"][at] for at in order.tolist()], scores[order]


def assert_ranked(ranking: Ranking, pipeline: Any, rows: pd.DataFrame) -> None:
    """Assert that a request was answered with the order and the very bits of the pipeline's scores."""
    item_ids, scores = by_pipeline(pipeline, rows)
    assert ranking.item_ids == item_ids
    assert ranking.scores.tobytes() == scores.tobytes()


def requests_of(shop: Shop, n_requests: int = 6) -> Iterator[tuple[str, list[str], list[float]]]:
    """Yield requests of users with long histories, and of nobody."""
    for number in range(n_requests):
        yield (f"u{number}" if number < n_requests - 1 else "nobody"), *shop.candidates(number)
