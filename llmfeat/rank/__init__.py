"""Into rankers."""

from llmfeat.rank.groups import group_sizes

__all__ = ["group_sizes"]
