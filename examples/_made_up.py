"""Requests of made-up users, for the examples beside: what each user likes is known to be in the item vectors."""

import numpy as np
import pandas as pd

from llmfeat import VectorTable

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


def by_time(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the rows to learn from, those that came next (to stop early by), and those that came last."""
    later, last = rows.timestamp.quantile([0.6, 0.8])
    return (
        rows[rows.timestamp < later],
        rows[rows.timestamp.between(later, last)],
        rows[rows.timestamp > last],
    )
