"""Feast: the views that a table needs, a repository that holds them, and vectors written and read online."""

from llmfeat.store.online import FeastVectors, OnlineSummary, write_online
from llmfeat.store.repo import apply_repo, init_repo, open_store
from llmfeat.store.views import feature_views, view_name

__all__ = [
    "FeastVectors",
    "OnlineSummary",
    "apply_repo",
    "feature_views",
    "init_repo",
    "open_store",
    "view_name",
    "write_online",
]
