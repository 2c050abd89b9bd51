"""Into rankers: groups, pipelines that end in a ranker, candidates from scorers of the whole catalogue."""

from llmfeat.rank.candidates import Candidates, generate_candidates, iter_candidates
from llmfeat.rank.groups import Groups, group_sizes, mean_ndcg
from llmfeat.rank.pipeline import RankingPipeline
from llmfeat.rank.preranker import PreRanker

__all__ = [
    "Candidates",
    "Groups",
    "PreRanker",
    "RankingPipeline",
    "generate_candidates",
    "group_sizes",
    "iter_candidates",
    "mean_ndcg",
]
