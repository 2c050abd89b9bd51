"""Feast: the views that a table needs, a repository that holds them, and what is written and read online."""

from llmfeat.store.config import RepoSources
from llmfeat.store.definitions import repo_objects
from llmfeat.store.feast_features import FeastFeatures
from llmfeat.store.item_cache import ItemCache
from llmfeat.store.materialize import MaterializeSummary, OnlineSummary, materialize, write_online
from llmfeat.store.online import FeastVectors
from llmfeat.store.probe import OfflineProbe, probe_offline
from llmfeat.store.repo import apply_repo, init_repo, open_store
from llmfeat.store.status import RepoStatus, status
from llmfeat.store.stream import EventPusher, FeastHistories
from llmfeat.store.verify import ViewCheck, verify
from llmfeat.store.views import feature_views, view_name

__all__ = [
    "EventPusher",
    "FeastFeatures",
    "FeastHistories",
    "FeastVectors",
    "ItemCache",
    "MaterializeSummary",
    "OfflineProbe",
    "OnlineSummary",
    "RepoSources",
    "RepoStatus",
    "ViewCheck",
    "apply_repo",
    "feature_views",
    "init_repo",
    "materialize",
    "open_store",
    "probe_offline",
    "repo_objects",
    "status",
    "verify",
    "view_name",
    "write_online",
]
