"""A trained ranker in production: its bundle, the requests that it answers, and the proof that both are one."""

from llmfeat.rank.serving.bundle import RankerBundle
from llmfeat.rank.serving.online import OnlineRanker
from llmfeat.rank.serving.ranking import DEGRADATION, Ranking
from llmfeat.rank.serving.registry import register_ranker, unregister_ranker
from llmfeat.rank.serving.replay import ReplayReport, replay
from llmfeat.rank.serving.request_log import RequestLog

__all__ = [
    "DEGRADATION",
    "OnlineRanker",
    "RankerBundle",
    "Ranking",
    "ReplayReport",
    "RequestLog",
    "register_ranker",
    "replay",
    "unregister_ranker",
]
