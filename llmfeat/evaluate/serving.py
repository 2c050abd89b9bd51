"""The check that a server computes what was trained on: the same request online and offline, byte for byte."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.pipeline import Pipeline

from llmfeat.history import InteractionLog
from llmfeat.types import VectorSource

__all__ = ["ServingCheck", "compare_serving", "sample_requests"]


@dataclass(frozen=True)
class ServingCheck:
    """What was compared, and whether all of it was equal.

    Attributes
    ----------
    features_equal, scores_equal : bool
        Every byte of the feature matrix, and of the ranker's scores.
    n_rows, n_columns, n_requests : int
        Of the matrix, and in how many calls the server computed it.
    """

    features_equal: bool
    scores_equal: bool
    n_rows: int
    n_columns: int
    n_requests: int


def sample_requests(
    log: InteractionLog,
    users: pa.StringArray,
    items: pa.StringArray,
    *,
    n_users: int = 50,
    n_candidates: int = 20,
    seed: int = 0,
) -> list[pa.Table]:
    """Return a request per sampled user: random candidates, one microsecond after the log's last event."""
    draw = np.random.default_rng(seed)
    now = pa.scalar(int(log.times_us.max()) + 1, pa.timestamp("us", "UTC"))
    requests = []
    for user in draw.choice(len(users), size=min(n_users, len(users)), replace=False):
        candidates = items.take(pa.array(draw.choice(len(items), size=n_candidates, replace=False)))
        columns = {"user_id": pa.array([users[int(user)].as_py()] * n_candidates), "item_id": candidates}
        requests.append(pa.table({**columns, "timestamp": pa.array([now.as_py()] * n_candidates, now.type)}))
    return requests


def compare_serving(
    pipeline: Pipeline, requests: list[pa.Table], *, parameter: str, online: dict[str, VectorSource]
) -> ServingCheck:
    """Compare a fitted pipeline on all requests at once with its copy that serves them one by one from `online`.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted on vectors from parquet.
    requests : list of pyarrow.Table
        The rows of each request.
    parameter : str
        The parameter of the pipeline that holds the vectors, such as ``"features__history__vectors"``.
    online : dict of str to VectorSource
        What a server puts in its place.
    """
    server = copy.deepcopy(pipeline).set_params(**{parameter: online})
    together = pa.concat_tables(requests)
    offline = _features_and_scores(pipeline, together)
    served = [_features_and_scores(server, request) for request in requests]
    features = np.concatenate([one for one, _ in served])
    scores = np.concatenate([one for _, one in served])
    return ServingCheck(
        features_equal=features.tobytes() == offline[0].tobytes(),
        scores_equal=scores.tobytes() == offline[1].tobytes(),
        n_rows=len(features),
        n_columns=features.shape[1],
        n_requests=len(requests),
    )


def _features_and_scores(pipeline: Pipeline, rows: pa.Table) -> tuple[Any, Any]:
    features = pipeline[:-1].transform(rows)
    return features, pipeline[-1].predict(features)
