"""Rows to strings."""

from llmfeat.text._truncate import Truncate
from llmfeat.text.history import HistoryTemplate
from llmfeat.text.template import ItemTemplate

__all__ = ["HistoryTemplate", "ItemTemplate", "Truncate"]
