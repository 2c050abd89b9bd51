"""LightGBM: what the user's own history adds to a ranker, on later requests.

The data is made up, so that the effect is known to be there: each user likes items near one direction of the item
vectors. Real vectors come from `llmfeat.encode_table`. Run it with ``python examples/lightgbm_ranker.py``.
"""

import pandas as pd
from _made_up import by_time, made_up
from lightgbm import LGBMRanker, early_stopping
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
        ranker = LGBMRanker(n_estimators=300, learning_rate=0.05, num_leaves=8, random_state=0, n_jobs=1, verbose=-1)
        pipeline = RankingPipeline([("features", FeatureUnion(parts)), ("ranker", ranker)], group="request_id")
        pipeline.fit(
            train,
            train.clicked,
            eval_set=[(valid, valid.clicked)],
            ranker__eval_at=[10],
            ranker__callbacks=[early_stopping(40, verbose=False)],
        )
        trees = ranker.best_iteration_
        print(f"{name:>15}: NDCG@10 {pipeline.score(test, test.clicked):.3f} on later requests, with {trees} trees")
    importance = pd.Series(ranker.feature_importances_, ranker.feature_name_).nlargest(5)
    print(f"splits by feature:\n{importance.to_string()}")


if __name__ == "__main__":
    main()
