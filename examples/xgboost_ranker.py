"""XGBoost: what the user's own history adds to a ranker, with the depth of the trees searched over users.

The data is made up, so that the effect is known to be there: each user likes items near one direction of the item
vectors. Real vectors come from `llmfeat.encode_table`. Run it with ``python examples/xgboost_ranker.py``.
"""

import numpy as np
import pandas as pd
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import FeatureUnion
from xgboost import XGBRanker

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
        ranker = XGBRanker(
            n_estimators=100, learning_rate=0.3, early_stopping_rounds=10, eval_metric="ndcg@10", n_jobs=1
        )
        pipeline = RankingPipeline([("features", FeatureUnion(parts)), ("ranker", ranker)], group="request_id")
        # Folds are cut between users, groups between requests. Each fit stops early by the same held-out requests.
        search = GridSearchCV(pipeline, {"ranker__max_depth": [2, 4]}, cv=GroupKFold(2))
        search.fit(train, train.clicked, groups=train.user_id, eval_set=[(valid, valid.clicked)])
        best = search.best_estimator_["ranker"]
        shape = f"{best.best_iteration + 1} trees of depth {best.max_depth}"
        print(f"{name:>15}: NDCG@10 {search.score(test, test.clicked):.3f} on later requests, with {shape}")
    gain = pd.Series(best.get_booster().get_score(importance_type="gain")).nlargest(5)
    print(f"gain by feature:\n{gain.round(1).to_string()}")


if __name__ == "__main__":
    main()
