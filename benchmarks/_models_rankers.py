"""Rankers of rows: LightGBM, XGBoost, CatBoost, and DCN-v2 and DeepFM of torch-rechub.

Each chooses its number of trees or epochs on the rows of one fold of users, or of the last time, and is then fitted on
all rows; the CTR models keep the epoch that was best.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from _models_data import FAMILIES, Data
from sklearn.compose import make_column_transformer

from llmfeat._base.places import places_in_groups
from llmfeat.evaluate.columns import TaughtRows
from llmfeat.evaluate.fitting import fit_arm

_MOST_TREES, _PATIENCE = 600, 30
_LEAST_TREES = 20
# Of a query's rows beside its targets CatBoost and the CTR models, which are slow, are taught so many, drawn anew for
# each seed.
_CATBOOST_NEGATIVES, _CTR_NEGATIVES = 100, 50
_MOST_CATBOOST_TREES = 400
_MOST_EPOCHS, _PATIENCE_EPOCHS = 8, 1
_BATCH_ROWS = 1024
_EVAL_ROWS = 1 << 15

Ranker = Callable[[Data, str, int], np.ndarray[Any, Any]]


def lightgbm(data: Data, arm: str, seed: int) -> np.ndarray[Any, Any]:
    """Return the scores of the ranker of ``llmfeat lift``, one of its bag."""
    fitted = fit_arm(data.taught.taught, FAMILIES[arm], data.learner, seed=seed, bag=1)
    return fitted.scores(data.tested.taught.columns.matrix(FAMILIES[arm]))[0]


def xgboost(data: Data, arm: str, seed: int) -> np.ndarray[Any, Any]:
    """Return the scores of XGBoost."""
    import xgboost as library

    rows, families = data.taught.taught, FAMILIES[arm]
    matrix = rows.columns.matrix(families)
    is_ranked = rows.sizes is not None
    parameters: dict[str, Any] = {
        "objective": "rank:ndcg" if is_ranked else "binary:logistic",
        "eval_metric": "ndcg@10" if is_ranked else "logloss",
        "eta": 0.1 if is_ranked else 0.04,
        "max_depth": 5,
        "min_child_weight": 10,
        "subsample": 0.8,
        "colsample_bytree": 0.5,
        "lambda": 5.0,
        "seed": seed,
        "nthread": 2,
    }
    if is_ranked:
        parameters |= {"lambdarank_pair_method": "topk", "lambdarank_num_pair_per_sample": 20}
    groups = _groups(rows.sizes)

    def part(some: Any) -> Any:
        return library.DMatrix(matrix[some], rows.labels[some], qid=None if groups is None else groups[some])

    fit, valid = rows.folds()[0]
    stopped = library.train(
        parameters,
        part(fit),
        _MOST_TREES,
        evals=[(part(valid), "valid")],
        early_stopping_rounds=_PATIENCE,
        verbose_eval=False,
    )
    n_trees = max(stopped.best_iteration + 1, _LEAST_TREES)
    booster = library.train(parameters, part(slice(None)), n_trees)
    return booster.predict(library.DMatrix(data.tested.taught.columns.matrix(families)))


def catboost(data: Data, arm: str, seed: int) -> np.ndarray[Any, Any]:
    """Return the scores of CatBoost."""
    from catboost import CatBoost, Pool

    rows, families = data.taught.taught, FAMILIES[arm]
    matrix = rows.columns.matrix(families)
    is_ranked = rows.sizes is not None
    parameters: dict[str, Any] = {
        # As many times faster as a query has rows, and as good where it has one target.
        "loss_function": "QuerySoftMax" if is_ranked else "Logloss",
        "eval_metric": "NDCG:top=10" if is_ranked else "Logloss",
        "learning_rate": 0.2 if is_ranked else 0.06,
        "depth": 5,
        "border_count": 64,
        "random_seed": seed,
        "thread_count": 2,
        "allow_writing_files": False,
        "verbose": False,
    }
    groups = _groups(rows.sizes)

    def part(some: Any) -> Any:
        return Pool(matrix[some], rows.labels[some], group_id=None if groups is None else groups[some])

    drawn = _drawn(rows, _CATBOOST_NEGATIVES, seed)
    fit, valid = (np.intersect1d(some, drawn) for some in rows.folds()[0])
    stopped = CatBoost({**parameters, "iterations": _MOST_CATBOOST_TREES, "od_type": "Iter", "od_wait": _PATIENCE})
    stopped.fit(part(fit), eval_set=part(valid))
    n_trees = max(stopped.tree_count_, _LEAST_TREES)
    model = CatBoost({**parameters, "iterations": n_trees}).fit(part(drawn))
    return np.asarray(model.predict(data.tested.taught.columns.matrix(families)))


def ctr(name: str) -> Ranker:
    """Return what fits a model of torch-rechub: ids, dense features, and, with ours, the vector of the item."""

    def scored(data: Data, arm: str, seed: int) -> np.ndarray[Any, Any]:
        import torch
        from torch_rechub.trainers import CTRTrainer

        from llmfeat.rank.adapters.rechub import RechubData, VectorColumn

        torch.manual_seed(seed)
        families, rows = FAMILIES[arm], data.taught
        frame, names = rows.frame(families)
        labels = rows.taught.labels
        inputs = RechubData(
            make_column_transformer(("passthrough", names)),
            sparse=["user_id", "item_id"],
            vectors={"text": VectorColumn("item_id", data.vectors["llm"])} if arm == "with" else None,
        )
        drawn = _drawn(rows.taught, _CTR_NEGATIVES, seed)
        fit, valid = (drawn[(rows.taught.fold[drawn] == 0) == is_valid] for is_valid in (False, True))
        inputs.fit(frame.iloc[fit])
        model = _model(name, inputs)
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            for stream in (contextlib.redirect_stdout, contextlib.redirect_stderr):
                stack.enter_context(stream(io.StringIO()))
            trainer = CTRTrainer(
                model,
                optimizer_params={"lr": 1e-3, "weight_decay": 1e-5},
                n_epoch=_MOST_EPOCHS,
                earlystop_patience=_PATIENCE_EPOCHS,
                model_path=folder,
            )
            trainer.fit(
                inputs.loader(frame.iloc[fit], labels[fit], batch_rows=_BATCH_ROWS, shuffle=True, seed=seed),
                inputs.loader(frame.iloc[valid], labels[valid], batch_rows=_BATCH_ROWS),
            )
        model.load_state_dict(trainer.early_stopper.best_weights)
        return _predicted(model, inputs, data.tested.frame(families)[0])

    return scored


def _model(name: str, inputs: Any) -> Any:
    from torch_rechub.models.ranking import DCNv2, DeepFM

    mlp = {"dims": [256, 128], "activation": "relu", "dropout": 0.2}
    if name == "dcn_v2":
        return DCNv2(inputs.features_, n_cross_layers=2, mlp_params=mlp)
    return DeepFM(deep_features=inputs.features_, fm_features=inputs.sparse_features_, mlp_params=mlp)


def _predicted(model: Any, inputs: Any, frame: Any) -> np.ndarray[Any, Any]:
    import torch

    model.eval()
    found = []
    with torch.inference_mode():
        for first in range(0, len(frame), _EVAL_ROWS):
            fed = inputs.inputs(frame.iloc[first : first + _EVAL_ROWS])
            found.append(model({name: torch.from_numpy(values) for name, values in fed.items()}).numpy())
    return np.concatenate(found).ravel()


def _drawn(rows: TaughtRows, n_negatives: int, seed: int) -> Any:
    """Return all rows, ascending, or, of those that are ranked together, all targets and some of the others."""
    if rows.sizes is None:
        return np.arange(len(rows.labels))
    groups = _groups(rows.sizes)
    others = np.flatnonzero(rows.labels == 0)
    others = others[np.lexsort((np.random.default_rng(seed).random(len(others)), groups[others]))]
    drawn = others[places_in_groups(groups[others]) < n_negatives]
    return np.sort(np.concatenate([np.flatnonzero(rows.labels > 0), drawn]))


def _groups(sizes: Any) -> Any:
    return None if sizes is None else np.repeat(np.arange(len(sizes)), sizes)


RANKERS: Mapping[str, Ranker] = {
    "lightgbm": lightgbm,
    "xgboost": xgboost,
    "catboost": catboost,
    "dcn_v2": ctr("dcn_v2"),
    "deepfm": ctr("deepfm"),
}
