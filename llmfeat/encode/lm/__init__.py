"""Prompts to the log-probabilities of answers, by a causal language model; a prefix that prompts share is run once."""

from llmfeat.encode.lm.answers import Answers
from llmfeat.encode.lm.scorer import PromptScorer, PromptTally

__all__ = ["Answers", "PromptScorer", "PromptTally"]
