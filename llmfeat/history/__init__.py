"""The interaction log, asked what was known at a moment."""

from llmfeat.history.log import AsOfIndex, InteractionLog

__all__ = ["AsOfIndex", "InteractionLog"]
