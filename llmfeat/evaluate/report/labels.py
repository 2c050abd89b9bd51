"""What arms, comparisons, slices and metrics are called, and what each means in a sentence."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ARM_LABELS",
    "ARM_NOTES",
    "COMPARISON_LABELS",
    "COMPARISON_NOTES",
    "FAMILY_LABELS",
    "LLM_ARMS",
    "METRICS",
    "SLICE_LABELS",
    "Metric",
    "lag_label",
    "metric_of",
]

ARM_LABELS = {
    "baseline": "your own score",
    "popularity": "popularity",
    "no_text": "no text",
    "random": "no text + random vectors",
    "collab": "no text + collaborative vectors",
    "tfidf": "no text + TF-IDF",
    "llm": "no text + LLM",
    "full_minus_llm": "everything but the LLM",
    "hybrid": "everything, with the LLM",
}
ARM_NOTES = {
    "baseline": "the score column of your own data, as it is",
    "popularity": "counts and rates of items alone",
    "no_text": "counts, rates, recency and sessions: what a good team has without text",
    "random": "the placebo: the same similarities over vectors that mean nothing",
    "collab": "vectors of what is used together, without text",
    "tfidf": "the words of the same texts, without a language model",
    "llm": "the encoder's vectors of the same texts",
    "full_minus_llm": "no text, collaborative vectors and TF-IDF: what the LLM has to beat",
    "hybrid": "the same, and the encoder's vectors",
}
# Families of columns, where a name alone would not say it.
FAMILY_LABELS = {
    "no_text": "no text",
    "own": "your own columns",
    "collab": "collaborative vectors",
    "tfidf": "TF-IDF",
    "llm": "LLM",
    "random": "random vectors",
}
LLM_ARMS = frozenset({"llm", "hybrid"})

COMPARISON_LABELS = {
    "hybrid_vs_full_minus_llm": "LLM over everything else",
    "hybrid_vs_baseline": "everything over your own score",
    "no_text_vs_baseline": "no text over your own score",
    "llm_vs_no_text": "LLM over no text",
    "llm_vs_random": "LLM over random vectors",
    "llm_vs_tfidf": "LLM over TF-IDF",
    "hybrid_vs_no_text": "everything over no text",
    "random_vs_no_text": "random vectors over no text",
    "collab_vs_no_text": "collaborative vectors over no text",
    "tfidf_vs_no_text": "TF-IDF over no text",
}
COMPARISON_NOTES = {
    "hybrid_vs_full_minus_llm": "what the answer above rests on",
    "llm_vs_random": "the part that is meaning",
    "llm_vs_tfidf": "the part that is more than words",
    "random_vs_no_text": "the placebo: what mere similarities add",
}

SLICE_LABELS = {
    "all": "All test rows",
    "warm_item": "Known items",
    "cold_item": "New items",
    "cold_user": "New users",
}


@dataclass(frozen=True)
class Metric:
    """How a metric is read.

    Attributes
    ----------
    label : str
        What it is called.
    meaning : str
        One sentence, without its full stop.
    chance : float
        What a ranker that knows nothing gets: where its bars begin.
    as_percent : bool
        Whether it is a share that reads best in percent.
    lower_is_better : bool
        Whether less of it is better.
    """

    label: str
    meaning: str
    chance: float = 0.0
    as_percent: bool = False
    lower_is_better: bool = False


METRICS = {
    "auc": Metric(
        "AUC",
        "of a positive and a negative row, how often the positive one is ranked first: 0.5 is chance, 1 is perfect",
        chance=0.5,
    ),
    "user_auc": Metric("AUC within users", "the same among the rows of one user, averaged over users", chance=0.5),
    "logloss": Metric("log loss", "how far the probabilities are from what happened", lower_is_better=True),
    "mrr": Metric("MRR", "one divided by the rank of the next item, on average"),
    **{
        f"hr@{k}": Metric(f"HR@{k}", f"how often the next item is among the {word} best", as_percent=True)
        for k, word in ((3, "three"), (5, "five"), (10, "ten"))
    },
    **{
        f"ndcg@{k}": Metric(
            f"NDCG@{k}",
            f"how near the top the right items stand among the {word} best: 1 when they lead, 0 when absent",
        )
        for k, word in ((3, "three"), (5, "five"), (10, "ten"))
    },
}


def metric_of(name: str) -> Metric:
    """Return how a metric is read; one that is not known keeps its own name."""
    return METRICS.get(name, Metric(name, name))


def lag_label(lag_s: str | int) -> str:
    """Return how late events are seen, in words.

    Examples
    --------
    >>> lag_label("0"), lag_label(90), lag_label("86400")
    ('at once', '90 s late', '24 h late')
    """
    seconds = int(lag_s)
    if seconds == 0:
        return "at once"
    return f"{seconds / 3600:g} h late" if seconds >= 3600 else f"{seconds} s late"
