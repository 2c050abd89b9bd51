"""Two complete ``lift.json``: what the report renders. The numbers are made up, of a usual size, and consistent."""

from __future__ import annotations

from typing import Any

import numpy as np

ARMS = ("popularity", "no_text", "random", "collab", "tfidf", "llm", "full_minus_llm", "hybrid")
COMPARISONS = (
    "hybrid_vs_full_minus_llm",
    "llm_vs_no_text",
    "llm_vs_random",
    "llm_vs_tfidf",
    "hybrid_vs_no_text",
    "random_vs_no_text",
    "collab_vs_no_text",
    "tfidf_vs_no_text",
)
_CLICK_LEVELS = {
    "auc": (0.6978, 0.7547, 0.7546, 0.7612, 0.7592, 0.7641, 0.7670, 0.7704),
    "user_auc": (0.6519, 0.6705, 0.6734, 0.6861, 0.6744, 0.6850, 0.6875, 0.6921),
    "ndcg@10": (0.7733, 0.7891, 0.7941, 0.7965, 0.7933, 0.7983, 0.7984, 0.8026),
    "logloss": (0.6238, 0.5787, 0.5787, 0.5696, 0.5739, 0.5709, 0.5671, 0.5642),
}
_NEXT_LEVELS = {
    "hr@3": (0.081, 0.121, 0.120, 0.129, 0.138, 0.134, 0.146, 0.151),
    "hr@5": (0.098, 0.142, 0.141, 0.150, 0.160, 0.156, 0.170, 0.176),
    "hr@10": (0.124, 0.171, 0.170, 0.179, 0.189, 0.184, 0.1962, 0.2038),
    "ndcg@3": (0.068, 0.104, 0.103, 0.110, 0.119, 0.116, 0.127, 0.131),
    "ndcg@5": (0.076, 0.113, 0.112, 0.119, 0.128, 0.125, 0.137, 0.142),
    "ndcg@10": (0.0842, 0.1224, 0.1219, 0.1291, 0.1375, 0.1341, 0.1467, 0.1521),
    "mrr": (0.074, 0.110, 0.109, 0.116, 0.124, 0.121, 0.132, 0.137),
}
# slice: by how much the level differs from that of all rows, half the width of an arm's interval, and of a difference.
_SLICES = {
    "all": (0.0, 0.012, 0.0018),
    "warm_item": (0.004, 0.013, 0.0019),
    "cold_item": (-0.06, 0.034, 0.0110),
    "cold_user": (-0.03, 0.029, 0.0090),
}


def click_lift() -> dict[str, Any]:
    """Return a lift of task click: a clear yes."""
    arms = _arms(_CLICK_LEVELS)
    # The later events arrive, the less a gain from histories is worth.
    lags = {lag_s: _lift(arms, kept) for lag_s, kept in {"0": 1.0, "3600": 0.6, "86400": 0.2}.items()}
    return {
        **_common("click", "auc", arms, lags["0"]),
        "data": {
            "name": "MovieLens-100K",
            "items": 1682,
            "users": 943,
            "train_rows": 79_999,
            "test_rows": 20_001,
            "test_users": 301,
            "test_rows_by_slice": {"all": 20_001, "warm_item": 19_652, "cold_item": 349, "cold_user": 1093},
            "test_positive_share": 0.565,
            "items_without_text": 3,
            "split": {"by": "time", "test_from": "1998-03-22T21:13:02Z", "test_fraction": 0.2},
            "sampled": {"train": {"used": 79_999, "of": 79_999}, "test": {"used": 20_001, "of": 20_001}},
        },
        "lags": lags,
        "candidates": None,
        "examples": None,
        "verdict": _verdict(
            "yes", "auc", lags["0"], "the encoder adds to everything else, words and co-ratings included"
        ),
    }


def next_item_lift() -> dict[str, Any]:
    """Return a lift of task next-item, with examples."""
    arms = _arms(_NEXT_LEVELS)
    lift = _lift(arms, 1.0)
    return {
        **_common("next-item", "ndcg@10", arms, lift),
        "data": {
            "name": "Office Products",
            "items": 27_965,
            "users": 101_501,
            "train_rows": 1_000_000,
            "test_rows": 10_000,
            "test_users": 8_412,
            "test_rows_by_slice": {"all": 10_000, "warm_item": 9_204, "cold_item": 796, "cold_user": 1_420},
            "test_positive_share": None,
            "items_without_text": 0,
            "split": {"by": "own histories", "test_from": None, "test_fraction": None},
            "sampled": {"train": {"used": 1_000_000, "of": 3_482_111}, "test": {"used": 10_000, "of": 44_871}},
        },
        "lags": {},
        "candidates": {
            "recall": 0.4702,
            "recall_ci95": [0.4604, 0.4799],
            "per_query": 412.6,
            "k_per_generator": 200,
            "by_generator": {"co-occurrence": 0.3921, "popularity": 0.1688, "text": 0.2817, "repeat": 0.0412},
            "given_recall": {
                arm: {"hr@10": arms[arm]["all"]["hr@10"] / 0.4702, "ndcg@10": arms[arm]["all"]["ndcg@10"] / 0.4702}
                for arm in ARMS
            },
        },
        "examples": [_example("A1F2", at=0), _example("A9C7", at=3)],
        "verdict": _verdict("yes", "ndcg@10", lift, "the encoder adds to everything else, words included"),
    }


def no_lift() -> dict[str, Any]:
    """Return `click_lift` with a verdict of no."""
    return _with_headline(click_lift(), "no", -0.0006, [-0.0021, 0.0008], "the encoder adds less than 0.001")


def underpowered_lift() -> dict[str, Any]:
    """Return `click_lift` with a verdict of underpowered."""
    return _with_headline(
        click_lift(),
        "underpowered",
        0.0021,
        [-0.0034, 0.0077],
        "these rows cannot tell: auc +0.0021 [-0.0034, +0.0077]",
    )


def _with_headline(lift: dict[str, Any], adopt: str, diff: float, ends: list[float], because: str) -> dict[str, Any]:
    lift["lift"]["hybrid_vs_full_minus_llm"]["all"]["auc"] = {"diff": diff, "ci95": ends}
    ours = lift["arms"]["hybrid"]["all"]
    ours["auc"] = lift["arms"]["full_minus_llm"]["all"]["auc"] + diff
    ours["ci95"]["auc"] = [ours["auc"] - 0.012, ours["auc"] + 0.012]
    lift["verdict"] |= {"adopt": adopt, "diff": diff, "ci95": ends, "because": because}
    lift["verdict"]["minimum_detectable_effect"] = 1.4 * (ends[1] - ends[0]) / 2
    return lift


def _arms(levels: dict[str, tuple[float, ...]]) -> dict[str, Any]:
    arms: dict[str, Any] = {}
    for at, arm in enumerate(ARMS):
        arms[arm] = {}
        for part, (shift, half, _) in _SLICES.items():
            found = {name: round(values[at] + shift * values[at], 5) for name, values in levels.items()}
            ends = {name: [round(value - half, 5), round(value + half, 5)] for name, value in found.items()}
            arms[arm][part] = {**found, "ci95": ends}
    # A slice without a single pair to compare.
    first = next(iter(levels))
    arms["popularity"]["cold_user"][first] = None
    arms["popularity"]["cold_user"]["ci95"][first] = [None, None]
    return arms


def _lift(arms: dict[str, Any], kept: float) -> dict[str, Any]:
    return {name: {part: _gains(arms, name, part, kept) for part in _SLICES} for name in COMPARISONS}


def _gains(arms: dict[str, Any], comparison: str, part: str, kept: float) -> dict[str, Any]:
    ours, theirs = (arms[arm][part] for arm in comparison.split("_vs_"))
    half = _SLICES[part][2]
    gains = {}
    for metric in (name for name in ours if name != "ci95"):
        if ours[metric] is None or theirs[metric] is None:
            gains[metric] = {"diff": None, "ci95": [None, None]}
            continue
        diff = round(kept * (ours[metric] - theirs[metric]), 5)
        gains[metric] = {"diff": diff, "ci95": [round(diff - half, 5), round(diff + half, 5)]}
    return gains


def _verdict(adopt: str, metric: str, lift: dict[str, Any], because: str) -> dict[str, Any]:
    found = lift["hybrid_vs_full_minus_llm"]["all"][metric]
    return {
        "adopt": adopt,
        "because": because,
        "comparison": "hybrid_vs_full_minus_llm",
        "metric": metric,
        "diff": found["diff"],
        "ci95": found["ci95"],
        "minimum_detectable_effect": 0.0026,
        "least_worth": 0.001,
    }


def _common(task: str, metric: str, arms: dict[str, Any], lift: dict[str, Any]) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    gain = lift["hybrid_vs_full_minus_llm"]["all"][metric]["diff"]
    families = {"no_text": 0.52, "collab": 0.19, "tfidf": 0.11, "llm": 0.18}
    without = {"no_text": 0.60, "collab": 0.23, "tfidf": 0.17}
    space = [{"num_leaves": leaves, "min_child_samples": rows} for leaves in (8, 31) for rows in (20, 100)]
    return {
        "schema": 1,
        "task": task,
        "primary_metric": metric,
        "preflight": [
            {
                "code": "text_missing",
                "severity": "note",
                "count": 3,
                "of": 1682,
                "what": "3 of 1,682 items have no text",
                "handling": "their similarities are missing values, which the ranker splits on",
            },
            {
                "code": "ties",
                "severity": "warning",
                "count": 61_204,
                "of": 100_000,
                "what": "61,204 of 100,000 rows share user and time with another row",
                "handling": "only strictly earlier events are seen, so the rows of one moment do not see each other",
            },
        ],
        "encoder": {
            "model": "bundled:minilm",
            "fingerprint": "58b2c6934b0e5f938e7fcca0c9812952120b541821dd48bd8596e62b22cbc80c",
            "dim": 384,
            "backend": "onnxruntime-cpu-fp32",
            "template": "{title}[ ({year})][. Genres: {genres}]",
            "table_fingerprint": "2ee5a43ea8143a056e14d02a9e8d2c4ff6abf1eca7128b2dcfe81c7b0a6625c8",
            "parity": {"cosine_min": 0.9999998, "n_texts": 200, "reference": "sentence-transformers 5.7.0, torch fp32"},
        },
        "arms": arms,
        "lift": lift,
        "by_popularity": [_decile(decile, gain) for decile in range(1, 11)],
        "importance": {
            "hybrid": {
                "families": families,
                "columns": [
                    {
                        "name": f"{family}_{('pos_mean', 'label_t0.05', 'max', 'decay5', 'n')[at % 5]}",
                        "family": family,
                        "share": round(0.17 * 0.83**at, 4),
                    }
                    for at, family in enumerate([*families, "no_text"] * 4)
                ],
            },
            "full_minus_llm": {"families": without, "columns": []},
        },
        "cost": {
            "texts": 1682,
            "encode_s": 3.71,
            "texts_per_s": 454.5,
            "fit_s": 103.5,
            "peak_rss_mb": 1006.3,
            "total_s": 171.2,
        },
        "checks": {"online_equals_offline": True, "rows_compared": 1000, "columns_compared": 54, "requests": 50},
        "tuning": {
            "space": space,
            "chosen_by": "log loss on the last tenth of the training time, early stopping",
            "bag": 3,
            "parameters": {"objective": "binary", "learning_rate": 0.04, "colsample_bytree": 0.5},
            "arms": {
                arm: {
                    "columns": 40 + 14 * at,
                    "chosen": {**space[at % 4], "n_estimators": 167 + 12 * at},
                    "trials": [
                        {
                            "parameters": tried,
                            "n_trees": 150 + 9 * nth,
                            "valid_logloss": 0.62 - 0.004 * at - 0.001 * nth,
                        }
                        for nth, tried in enumerate(space)
                    ],
                }
                for at, arm in enumerate(ARMS)
            },
        },
        "method": {
            "seed": 0,
            "seeds": 3,
            "origins": 2,
            "history_lag_s": 0,
            "freeze_at_test_start": False,
            "n_resamples": 1000,
            "intervals": "95 %, paired bootstrap over test users, seeds and origins pooled",
            "command": "llmfeat lift --items items.parquet --interactions ratings.parquet --text title --text genres "
            "--rating rating --like-threshold 4 --seeds 3 --origins 2 --out out/lift",
        },
        "runs": [
            {"origin": origin, "seed": seed, "diff": round(gain + 0.0008 * float(draw.standard_normal()), 5)}
            for origin in range(2)
            for seed in range(3)
        ],
        "environment": {
            "llmfeat": "0.1.0",
            "python": "3.11.7",
            "machine": "Linux x86_64",
            "cores": 2,
            "processor": "AMD EPYC 9B14 96-Core Processor",
            "lightgbm": "4.7.0",
            "numpy": "2.4.6",
            "onnxruntime": "1.32.0",
            "scikit-learn": "1.9.1",
        },
    }


def _decile(decile: int, gain: float) -> dict[str, Any]:
    """The gain falls as items become known; its interval is widest where there are few events."""
    half = 0.0024 + 0.006 / decile
    gains = {
        "hybrid_vs_full_minus_llm": round(gain * 3.2 / decile**0.9, 5),
        "hybrid_vs_no_text": round(gain * 7.5 / decile**0.7, 5),
    }
    return {
        "decile": decile,
        "events": [0 if decile == 1 else 4 * decile**2 - 15, 4 * (decile + 1) ** 2 - 16],
        "rows": 2001 - 7 * decile,
        "gain": {
            name: {"diff": value, "ci95": [round(value - half, 5), round(value + half, 5)]}
            for name, value in gains.items()
        },
    }


_TEXTS = (
    "Avery Heavy-Duty View 3 Ring Binder, 2 Inch, White",
    "Sharpie Permanent Markers, Fine Point, Black, 12 Count",
    "Post-it Super Sticky Notes, 3x3 in, 24 Pads, Canary Yellow",
    "BIC Round Stic Xtra Life Ballpoint Pen, Medium Point (1.0mm), Blue, 60-Count",
    "Swingline Stapler, Optima 40, Full Size Desktop, 40 Sheet Capacity",
    "Scotch Magic Tape, 6 Rolls with Dispenser",
    "Oxford Spiral Notebook 6 Pack, College Ruled Paper",
    "Expo Low-Odor Dry Erase Markers, Chisel Tip, Assorted Colors, 8 Count",
    "Canon PG-245XL Black Ink Cartridge",
    "Fellowes Powershred 79Ci Cross-Cut Shredder",
    "Pilot G2 Premium Refillable Gel Pens, Fine Point",
    "Amazon Basics Hanging File Folders, Letter Size, Green, 25-Pack",
    "Zebra Mildliner Double Ended Highlighter, Assorted Pastel",
    "Texas Instruments TI-84 Plus CE Graphing Calculator",
)


def _item(at: int) -> dict[str, Any]:
    at %= len(_TEXTS)
    return {"item_id": f"B00{at:04d}", "text": _TEXTS[at]}


def _example(user: str, *, at: int) -> dict[str, Any]:
    target = _item(at + 10)
    plain = [{**_item(at + 4 + 3 * rank), "is_target": _item(at + 4 + 3 * rank) == target} for rank in range(10)]
    ours = [
        {
            **_item(at + 11 - rank),
            "is_target": _item(at + 11 - rank) == target,
            "because": {**_item(at + rank % 3), "similarity": 0.84 - 0.04 * rank} if rank % 4 != 3 else None,
        }
        for rank in range(10)
    ]
    return {
        "user_id": user,
        "history": [_item(at + back) for back in range(5)],
        "target": target,
        "without_text": plain,
        "with_text": ours,
    }
