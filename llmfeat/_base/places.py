"""The place of each row in its group."""

from __future__ import annotations

import numpy as np

from llmfeat.types import Int64Array

__all__ = ["places_in_groups"]


def places_in_groups(group: Int64Array) -> Int64Array:
    """Return the place of each row among those of its group, from 0; groups ascend.

    Examples
    --------
    >>> import numpy as np
    >>> places_in_groups(np.array([3, 3, 3, 5, 8, 8])).tolist()
    [0, 1, 2, 0, 0, 1]
    """
    places: Int64Array = np.arange(len(group)) - np.searchsorted(group, group)
    return places
