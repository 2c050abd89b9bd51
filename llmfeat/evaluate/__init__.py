"""How much the features add: splits, metrics, control arms, lift with intervals, the report."""

from llmfeat.evaluate.lift import LiftConfig, LiftData, measure_lift
from llmfeat.evaluate.split import TimeSplit, split_by_time

__all__ = ["LiftConfig", "LiftData", "TimeSplit", "measure_lift", "split_by_time"]
