"""XGBoost: what the user's own history adds to a ranker, with the depth of the trees searched over users.

The data is made up, so that the effect is known to be there: each user likes items near one direction of the item
vectors. Real vectors come from `llmfeat.encode_table`. Run it with ``python examples/xgboost_ranker.py``.
"""

import pandas as pd
from _made_up import by_time, made_up
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import FeatureUnion
from xgboost import XGBRanker

from llmfeat import ActivityFeatures, HistoryFeatures, InteractionLog, RankingPipeline


def main() -> None:
    """Fit with and without history features, and print NDCG at 10 on the last requests."""
    rows, vectors = made_up(seed=0)
    train, valid, test = by_time(rows)
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
