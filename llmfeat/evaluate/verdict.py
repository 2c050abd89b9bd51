"""One word on whether to adopt, and why, from one comparison on one metric that was chosen beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmfeat.evaluate.arms import HEADLINE
from llmfeat.evaluate.metrics import Estimate, interval
from llmfeat.evaluate.numbers import number

__all__ = ["LEAST_WORTH", "detectable_effect", "judge"]

# A lift below this is not worth a model in production: an interval that ends below it says "no", not "underpowered".
LEAST_WORTH = 0.001
LEAST_USERS = 10
# A normal test at 5 %, two-sided, finds an effect of this many standard errors in 80 % of samples.
_ERRORS_AT_80 = 2.8


def detectable_effect(gain: Estimate) -> float:
    """Return the effect that rows such as these find in four samples of five."""
    return _ERRORS_AT_80 * float(np.nanstd(gain.resampled)) if np.isfinite(gain.resampled).any() else float("nan")


def judge(gains: Mapping[int, Estimate], *, metric: str, n_users: int) -> dict[str, Any]:
    """Return ``verdict`` of ``lift.json``.

    Parameters
    ----------
    gains : mapping of int to Estimate
        What the encoder adds to everything else on all test rows, by lag in seconds; the first decides.
    metric : str
        The metric that it is in.
    n_users : int
        How many users the test is of: of too few there is no saying how others differ.
    """
    lags_s = list(gains)
    gain = gains[lags_s[0]]
    low, high = interval(gain)
    detectable = detectable_effect(gain)
    few = n_users < LEAST_USERS
    adopt = (
        "underpowered"
        if few
        else "yes"
        if low > 0 and gain.point >= LEAST_WORTH
        else "no"
        if high < LEAST_WORTH
        else "underpowered"
    )
    measured = f"{metric} {gain.point:+.4f} [{low:+.4f}, {high:+.4f}]"
    said = {
        "yes": "the encoder adds to everything else, words and co-occurrence included",
        "no": f"the encoder adds less than {LEAST_WORTH:g} to words and co-occurrence",
        "underpowered": f"these rows cannot tell: they find lifts from {detectable:.4f} on",
    }[adopt]
    if few:
        said = f"{n_users} test users cannot tell what others are like, {LEAST_USERS} at least are needed"
    later = ", ".join(
        f"{found.point:+.4f} [{interval(found)[0]:+.4f}, {interval(found)[1]:+.4f}] when events arrive "
        f"{lag_s / 3600:g} h late"
        for lag_s, found in gains.items()
        if lag_s != lags_s[0]
    )
    return {
        "adopt": adopt,
        "because": f"{said}: {measured}" + (f"; {later}" if later else ""),
        "comparison": HEADLINE,
        "metric": metric,
        "diff": number(gain.point),
        "ci95": [number(low), number(high)],
        "minimum_detectable_effect": number(detectable),
        "least_worth": LEAST_WORTH,
    }
