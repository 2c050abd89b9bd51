"""Groups for learning to rank: the sizes that LightGBM's, XGBoost's and CatBoost's rankers ask for."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmfeat._base.frames import id_array
from llmfeat.errors import InputError
from llmfeat.types import Int64Array

__all__ = ["group_sizes"]


def group_sizes(groups: Any) -> Int64Array:
    """Return the sizes of the runs of equal ids, for ``LGBMRanker.fit(..., group=sizes)``.

    Parameters
    ----------
    groups : sequence, array or column of ids
        The group of each row, such as its user or its request; rows of one group stand together.

    Returns
    -------
    ndarray of shape (n_groups,), int64
        In the order of the rows; they add up to the number of rows.

    Raises
    ------
    InputError
        When a group's rows do not stand together: a ranker would silently take them for two groups.

    Examples
    --------
    >>> group_sizes(["u1", "u1", "u2"]).tolist()
    [2, 1]
    """
    ids = id_array(groups, what="the groups").dictionary_encode()
    codes = ids.indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    if len(starts) != len(ids.dictionary):
        raise InputError(
            f"{len(ids.dictionary)} groups come in {len(starts)} runs of rows, but each group's rows must stand "
            "together: sort the rows by group first"
        )
    return np.diff(starts, append=len(codes)).astype(np.int64)
