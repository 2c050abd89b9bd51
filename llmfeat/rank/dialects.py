"""How the rankers of LightGBM, XGBoost and CatBoost are told the groups of rows, each in its own way."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llmfeat.errors import InputError
from llmfeat.rank.groups import Groups
from llmfeat.types import Float32Array

__all__ = ["BY_DEGREE", "BY_ROW", "FitRanker", "SortedRows", "dialect_of", "fit_sizes"]

# Arguments of the rankers' fit with a value for each row or group, which the pipeline sorts, or would leave unsorted.
_GROUPS = {"group", "qid", "group_id", "subgroup_id"}
_VALUES = {"sample_weight", "group_weight", "init_score", "base_margin", "baseline", "pairs", "pairs_weight", "graph"}
_HELD_OUT = {"eval_set", "eval_X", "eval_y", "eval_group", "eval_qid", "eval_sample_weight", "eval_init_score"}
BY_ROW = frozenset(_GROUPS | _VALUES | _HELD_OUT | {"sample_weight_eval_set", "base_margin_eval_set"})
# Objectives whose gain is a table of relevance degrees. None is what LGBMRanker takes for lambdarank.
BY_DEGREE = frozenset([None, "lambdarank", "rank_xendcg", "rank:ndcg"])
_PAIRWISE = ("YetiRank", "PairLogit")


@dataclass(frozen=True, eq=False)
class SortedRows:
    """Rows sorted by group, as a ranker takes them."""

    groups: Groups
    labels: Float32Array
    weights: Float32Array | None = None
    matrix: Any = None

    def with_matrix(self, unsorted: Any) -> SortedRows:
        """Return the rows with their features."""
        return replace(self, matrix=self.groups.sort(unsorted))

    def weights_of_groups(self) -> Float32Array | None:
        """Return the weight of each group, None where weights differ within a group."""
        assert self.weights is not None, "the caller checked it"
        first = self.weights[self.groups.starts]
        return first if np.array_equal(np.repeat(first, self.groups.sizes), self.weights) else None


FitRanker = Callable[[Any, SortedRows, Sequence[SortedRows], "list[str] | None", Mapping[str, Any]], None]


def dialect_of(ranker: Any) -> FitRanker:
    """Return how the ranker is told the groups, by the arguments of its `fit`."""
    arguments = inspect.signature(ranker.fit).parameters if hasattr(ranker, "fit") else {}
    # XGBoost's fit takes group= as well.
    for name, fit in (("qid", _fit_qid), ("group_id", _fit_group_id), ("group", fit_sizes)):
        if name in arguments:
            return fit
    raise InputError(
        f"the last step is a {type(ranker).__name__}, but a ranker was expected, whose fit takes group=, qid= or "
        "group_id=: take LGBMRanker, XGBRanker or CatBoostRanker, or give yours a fit(X, y, *, group, "
        "sample_weight=None, eval_set=None, eval_group=None), where group is the sizes of the groups"
    )


def fit_sizes(
    ranker: Any, train: SortedRows, evals: Sequence[SortedRows], names: list[str] | None, options: Mapping[str, Any]
) -> None:
    """Fit as LightGBM does: by the sizes of the groups."""
    known = inspect.signature(ranker.fit).parameters
    arguments: dict[str, Any] = {"group": train.groups.sizes}
    if train.weights is not None:
        arguments["sample_weight"] = train.weights
    if evals:
        arguments["eval_group"] = [each.groups.sizes for each in evals]
        if "eval_X" in known:  # since LightGBM 4.7, which warns of eval_set
            arguments["eval_X"] = tuple(each.matrix for each in evals)
            arguments["eval_y"] = tuple(each.labels for each in evals)
        else:
            arguments["eval_set"] = [(each.matrix, each.labels) for each in evals]
    if names is not None and "feature_name" in known:
        arguments["feature_name"] = names
    ranker.fit(train.matrix, train.labels, **{**arguments, **options})


def _fit_qid(
    ranker: Any, train: SortedRows, evals: Sequence[SortedRows], names: list[str] | None, options: Mapping[str, Any]
) -> None:
    """Fit as XGBoost does: by the id of each row's group, with one weight a group."""
    arguments: dict[str, Any] = {"qid": train.groups.ids}
    if train.weights is not None:
        arguments["sample_weight"] = train.weights_of_groups()
        if arguments["sample_weight"] is None:
            raise _uneven("XGBoost weighs groups, not rows")
    if evals:
        arguments["eval_set"] = [(each.matrix, each.labels) for each in evals]
        arguments["eval_qid"] = [each.groups.ids for each in evals]
    ranker.fit(train.matrix, train.labels, **arguments, **options)
    if names is not None and hasattr(ranker, "get_booster"):
        ranker.get_booster().feature_names = names


def _fit_group_id(
    ranker: Any, train: SortedRows, evals: Sequence[SortedRows], names: list[str] | None, options: Mapping[str, Any]
) -> None:
    """Fit as CatBoost does: by pools, since its `eval_set` has no other way to say groups."""
    catboost = importlib.import_module("catboost")  # it is there: the ranker is its own
    given = {**ranker.get_params(), **options}
    columns = {key: given.get(key) for key in ("cat_features", "text_features", "embedding_features")}
    weights: dict[str, Any] = {}
    if train.weights is not None and train.weights_of_groups() is not None:
        weights = {"group_weight": train.weights}
    elif train.weights is not None:
        if str(given.get("loss_function")).startswith(_PAIRWISE):
            raise _uneven("CatBoost's pairwise losses weigh groups, not rows")
        weights = {"weight": train.weights}

    def pool(rows: SortedRows, **more: Any) -> Any:
        return catboost.Pool(rows.matrix, rows.labels, group_id=rows.groups.ids, feature_names=names, **columns, **more)

    others = {key: options[key] for key in options if key not in columns}
    ranker.fit(pool(train, **weights), eval_set=[pool(each) for each in evals] or None, **others)


def _uneven(reason: str) -> InputError:
    return InputError(f"sample_weight differs within groups, but {reason}: give the rows of a group one weight")
