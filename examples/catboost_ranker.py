"""CatBoost: what the user's own history adds to a ranker, on later requests.

The data is made up, so that the effect is known to be there: each user likes items near one direction of the item
vectors. Real vectors come from `llmfeat.encode_table`. Run it with ``python examples/catboost_ranker.py``.
"""

import pandas as pd
from _made_up import by_time, made_up
from catboost import CatBoostRanker
from sklearn.pipeline import FeatureUnion

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
