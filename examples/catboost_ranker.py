"""CatBoost: what the user's own history adds to a ranker, on later requests.

The data is made up, so that the effect is known to be there: each user likes items near one direction of the item
vectors. Real vectors come from `llmfeat.encode_table`. Run it with ``python examples/catboost_ranker.py``.
"""

import numpy as np
import pandas as pd
from catboost import CatBoostRanker
from sklearn.pipeline import FeatureUnion

from llmfeat import ActivityFeatures, HistoryFeatures, InteractionLog, RankingPipeline, VectorTable

N_USERS, N_ITEMS, N_REQUESTS, N_CANDIDATES, DIM = 40, 60, 600, 10, 8


def made_up(seed: int) -> tuple[pd.DataFrame, VectorTable]:
    """Return impressions, a request of `N_CANDIDATES` rows at a time but in no order, and a vector of each item."""
    draw = np.random.default_rng(seed)
    vectors = draw.standard_normal((N_ITEMS, DIM)).astype(np.float32)
    taste, quality = draw.standard_normal((N_USERS, DIM)), draw.standard_normal(N_ITEMS)
    request = np.repeat(np.arange(N_REQUESTS), N_CANDIDATES)
    user, item = draw.integers(0, N_USERS, N_REQUESTS)[request], draw.integers(0, N_ITEMS, len(request))
    liking = (taste[user] * vectors[item]).sum(axis=1) / np.sqrt(DIM) + quality[item] - 1
    rows = pd.DataFrame(
        {
            "request_id": [f"request-{number}" for number in request],
            "user_id": user,
            "item_id": item,
            "timestamp": pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(request, unit="min"),
            "clicked": (draw.random(len(request)) < 1 / (1 + np.exp(-2 * liking))).astype(int),
        }
    )
    return rows.sample(frac=1, random_state=seed), VectorTable.from_arrays(range(N_ITEMS), vectors)


def main() -> None:
    """Fit with and without history features, and print NDCG at 10 on the last requests."""
    rows, vectors = made_up(seed=0)
    # By time: the ranker learns from the past, stops early by what came next, and is measured on what came last.
    later, last = rows.timestamp.quantile([0.6, 0.8])
    train, valid, test = (
        rows[rows.timestamp < later],
        rows[rows.timestamp.between(later, last)],
        rows[rows.timestamp > last],
    )
    # The log may reach past the rows: a row's features see only what is strictly earlier than the row.
    log = InteractionLog.from_frame(rows, label="clicked")
    activity = ("activity", ActivityFeatures(log))
    history = ("history", HistoryFeatures(log, {"text": vectors}))
    for name, parts in {"without history": [activity], "with history": [activity, history]}.items():
        ranker = CatBoostRanker(
            iterations=300,
            learning_rate=0.2,
            depth=4,
            loss_function="QueryRMSE",
            eval_metric="NDCG:top=10",
            early_stopping_rounds=20,
            random_seed=0,
            thread_count=1,
            allow_writing_files=False,
            verbose=False,
        )
        pipeline = RankingPipeline([("features", FeatureUnion(parts)), ("ranker", ranker)], group="request_id")
        pipeline.fit(train, train.clicked, eval_set=[(valid, valid.clicked)])
        trees = ranker.tree_count_  # CatBoost keeps the trees up to the best iteration only
        print(f"{name:>15}: NDCG@10 {pipeline.score(test, test.clicked):.3f} on later requests, with {trees} trees")
    # Its default importance of a ranking loss would need the rows again.
    values = ranker.get_feature_importance(type="PredictionValuesChange")
    importance = pd.Series(values, ranker.feature_names_).nlargest(5)
    print(f"importance by feature, in percent:\n{importance.round(1).to_string()}")


if __name__ == "__main__":
    main()
