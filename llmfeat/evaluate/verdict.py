"""One word on whether to adopt, and why, from one comparison on one metric that was chosen beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llmfeat.evaluate.lift import COMPARISONS, Estimates, number
from llmfeat.evaluate.metrics import interval

__all__ = ["judge"]

_COMPARISON = "hybrid_vs_full_minus_llm"
_METRIC = "auc"
# A lift below this is not worth a model in production: an interval that ends below it says "no", not "underpowered".
_LEAST_WORTH = 0.001
# A normal test at 5 %, two-sided, finds an effect of this many standard errors in 80 % of samples.
_ERRORS_AT_80 = 2.8


def judge(estimates: Estimates, *, lags_s: Sequence[int]) -> dict[str, Any]:
    """Return ``verdict`` of ``lift.json``, on all test rows at the first lag."""
    ours, theirs = COMPARISONS[_COMPARISON]
    gains = {
        lag_s: estimates[lag_s][ours]["all"][_METRIC] - estimates[lag_s][theirs]["all"][_METRIC] for lag_s in lags_s
    }
    gain = gains[lags_s[0]]
    low, high = interval(gain)
    detectable = _ERRORS_AT_80 * float(np.nanstd(gain.resampled))
    adopt = "yes" if low > 0 else "no" if high < _LEAST_WORTH else "underpowered"
    said = {
        "yes": "the encoder adds to everything else, words and co-ratings included",
        "no": f"the encoder adds less than {_LEAST_WORTH:g} to words and co-ratings",
        "underpowered": f"these rows cannot tell: they find lifts from {detectable:.4f} on",
    }[adopt]
    later = ", ".join(
        f"{found.point:+.4f} [{interval(found)[0]:+.4f}, {interval(found)[1]:+.4f}] when events arrive "
        f"{lag_s / 3600:g} h late"
        for lag_s, found in gains.items()
        if lag_s != lags_s[0]
    )
    because = f"{said}: {_METRIC} {gain.point:+.4f} [{low:+.4f}, {high:+.4f}]" + (f"; {later}" if later else "")
    return {
        "adopt": adopt,
        "because": because,
        "comparison": _COMPARISON,
        "metric": _METRIC,
        "minimum_detectable_effect": number(detectable),
    }
