"""How much the features add: inputs, splits, control arms, metrics, lift with intervals, the report."""

from llmfeat.evaluate.inputs import InputSpec, read_inputs
from llmfeat.evaluate.lift import LiftResult, measure_lift
from llmfeat.evaluate.split import TimeSplit, split_by_time
from llmfeat.evaluate.task import LiftConfig, LiftData

__all__ = [
    "InputSpec",
    "LiftConfig",
    "LiftData",
    "LiftResult",
    "TimeSplit",
    "measure_lift",
    "read_inputs",
    "split_by_time",
]
