"""A language model that is asked whether a user would like an item: as a ranker, and as a feature."""

from llmfeat.rank.llm.budget import LLMRanking
from llmfeat.rank.llm.calibrate import Calibrator
from llmfeat.rank.llm.features import LLMScoreFeatures
from llmfeat.rank.llm.prompts import usual_prompt
from llmfeat.rank.llm.scorer import LLMScorer

__all__ = ["Calibrator", "LLMRanking", "LLMScoreFeatures", "LLMScorer", "usual_prompt"]
