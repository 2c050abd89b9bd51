"""What people have, read and looked at: files of any kind to clean columns, with a finding for all that is not."""

from llmfeat.evaluate.inputs.base import BaseFeatures
from llmfeat.evaluate.inputs.finding import Finding
from llmfeat.evaluate.inputs.preflight import preflight
from llmfeat.evaluate.inputs.read import LiftInputs, read_inputs
from llmfeat.evaluate.inputs.spec import InputSpec

__all__ = ["BaseFeatures", "Finding", "InputSpec", "LiftInputs", "preflight", "read_inputs"]
