"""Next-item ranking over a whole catalogue: what was known when, candidates, their columns, metrics."""

from llmfeat.evaluate.next_item.metrics import (
    NEXT_ITEM_METRICS,
    TargetRanks,
    measure_next_item,
    metrics_per_query,
    scorer_ranks,
    target_ranks,
)

__all__ = [
    "NEXT_ITEM_METRICS",
    "TargetRanks",
    "measure_next_item",
    "metrics_per_query",
    "scorer_ranks",
    "target_ranks",
]
