"""skrecsys: what the user's own history adds to the ranker of its `Cascade`, point in time.

The data is made up, so that the effect is known to be there: each user likes items near one direction of the item
vectors. Real vectors come from `llmfeat.encode_table`. Run it with ``python examples/skrecsys_cascade.py``.
"""

import numpy as np
from _made_up import made_up
from sklearn.ensemble import HistGradientBoostingClassifier
from skrecsys.compose import Cascade, ConcatFeatures, GeneratorScores, PointwiseRanker
from skrecsys.recommendation import MostPopularRecommender

from llmfeat import HistoryFeatures, InteractionLog
from llmfeat.rank.adapters.skrecsys import LogFeatures


def main() -> None:
    """Fit with and without history features on the earlier clicks, and print the hit rate of the later ones."""
    rows, vectors = made_up(seed=0)
    rows = rows.assign(time=rows.timestamp.dt.tz_localize(None))
    clicks = rows[rows.clicked == 1].sort_values("time")
    then = clicks.time.quantile(0.8)
    past, later = clicks[clicks.time < then], clicks[clicks.time >= then]
    # What was shown and not clicked tells as much: it is in the log, which skrecsys sees nothing of.
    history = LogFeatures(HistoryFeatures(InteractionLog.from_frame(rows, label="clicked"), {"text": vectors}))
    for name, features in {
        "without history": GeneratorScores(),
        "with history": ConcatFeatures([GeneratorScores(), history]),
    }.items():
        cascade = Cascade(
            MostPopularRecommender(),
            features,
            PointwiseRanker(HistGradientBoostingClassifier(max_iter=60, random_state=0)),
            n_retrieved=60,
            time=True,
        ).fit(past[["user_id", "item_id", "time"]].to_numpy(dtype=object))
        users = later.user_id.unique()
        items, _ = cascade.recommend(
            users, n_recommendations=10, exclude_seen=False, as_of=np.full(len(users), np.datetime64(then))
        )
        wanted = later.groupby("user_id").item_id.agg(set)
        hits = [len(wanted[user].intersection(best)) / len(best) for user, best in zip(users, items, strict=True)]
        print(f"{name:>15}: {np.mean(hits):.3f} of the first 10 were clicked later")


if __name__ == "__main__":
    main()
