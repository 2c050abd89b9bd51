"""The arms of a comparison: one ranker, one tuning budget, one set of rows; only the columns differ."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ARMS", "COMPARISONS", "HEADLINE", "SLICES", "arms_of", "comparisons_of"]

# The families of columns of each arm. Those beside `popularity` are no_text, with the user's own columns where there
# are any, and the very same columns over other vectors: as they are, and in the projection that events teach. The
# latter is in the hybrid once, of words: on validation windows a second one, of the encoder's vectors, added nothing
# to MovieLens-100K and cost Office Products .001 of NDCG@10.
_OWN = ("no_text", "own")
ARMS: Mapping[str, tuple[str, ...]] = {
    "popularity": ("popularity",),
    "no_text": _OWN,
    "random": (*_OWN, "random", "random_learned"),
    "collab": (*_OWN, "collab"),
    "tfidf": (*_OWN, "tfidf", "tfidf_learned"),
    "llm": (*_OWN, "llm", "llm_learned"),
    "full_minus_llm": (*_OWN, "collab", "tfidf", "tfidf_learned"),
    "hybrid": (*_OWN, "collab", "tfidf", "tfidf_learned", "llm"),
}

# What is printed, the headline first: the encoder on top of everything else.
HEADLINE = "hybrid_vs_full_minus_llm"
COMPARISONS: Mapping[str, tuple[str, str]] = {
    HEADLINE: ("hybrid", "full_minus_llm"),
    "llm_vs_no_text": ("llm", "no_text"),
    "llm_vs_random": ("llm", "random"),
    "llm_vs_tfidf": ("llm", "tfidf"),
    "hybrid_vs_no_text": ("hybrid", "no_text"),
    "random_vs_no_text": ("random", "no_text"),
    "collab_vs_no_text": ("collab", "no_text"),
    "tfidf_vs_no_text": ("tfidf", "no_text"),
}
_WITH_BASELINE: Mapping[str, tuple[str, str]] = {
    **COMPARISONS,
    "hybrid_vs_baseline": ("hybrid", "baseline"),
    "no_text_vs_baseline": ("no_text", "baseline"),
}
# Test rows of all kinds; of items, and of users, with few events before them.
SLICES = ("all", "warm_item", "cold_item", "cold_user")


def arms_of(*, has_baseline: bool) -> tuple[str, ...]:
    """Return the arms that are measured: `baseline` is the user's own score, as it is."""
    return (*(["baseline"] if has_baseline else []), *ARMS)


def comparisons_of(*, has_baseline: bool) -> Mapping[str, tuple[str, str]]:
    """Return what is compared: ours, then theirs."""
    return _WITH_BASELINE if has_baseline else COMPARISONS
