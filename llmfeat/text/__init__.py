"""Rows to strings."""

from llmfeat.text._truncate import Truncate
from llmfeat.text.chat import ChatFrame
from llmfeat.text.history import HistoryTemplate
from llmfeat.text.preference import PreferencePrompt
from llmfeat.text.template import ItemTemplate

__all__ = ["ChatFrame", "HistoryTemplate", "ItemTemplate", "PreferencePrompt", "Truncate"]
