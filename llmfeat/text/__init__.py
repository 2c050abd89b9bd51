"""Rows to strings."""

from llmfeat.text.template import ItemTemplate

__all__ = ["ItemTemplate"]
