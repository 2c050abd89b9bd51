"""The interaction log, asked what was known at a moment; the sequences that models learn from."""

from llmfeat.history.histories import HISTORY_AS_OF_US
from llmfeat.history.index import AsOfIndex, LabelDelay
from llmfeat.history.log import InteractionLog
from llmfeat.history.sequences import Sequences
from llmfeat.history.user import UserHistory

__all__ = ["HISTORY_AS_OF_US", "AsOfIndex", "InteractionLog", "LabelDelay", "Sequences", "UserHistory"]
