"""What is wrong with the parameters of two towers, said before an hour is spent on training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat.errors import DuplicateIdError, InputError
from llmfeat.rank.scorers.base import check_at_least, check_whole
from llmfeat.rank.two_tower.inputs import sources_of

if TYPE_CHECKING:
    from llmfeat.rank.two_tower.estimator import TwoTower

__all__ = ["check_parameters", "check_sizes"]

_WHOLE = ("dim", "max_events", "epochs", "patience", "batch_rows")
_SHARES = ("held_out", "dropout", "id_dropout", "history_dropout")
_LEAST = 1e-9
_MOST_BYTES = 1 << 30  # of embeddings in a graph; a message of protobuf ends at 2 GiB


def check_parameters(towers: TwoTower) -> None:
    """Raise `InputError` for the first parameter that makes no sense."""
    sources_of(towers.vectors)
    check_whole(1, **{name: getattr(towers, name) for name in _WHOLE})
    check_whole(0, **{name: getattr(towers, name) for name in ("hidden", "n_sampled", "random_state")})
    if towers.threads is not None:
        check_whole(1, threads=towers.threads)
    check_at_least(0, weight_decay=towers.weight_decay)
    check_at_least(_LEAST, learning_rate=towers.learning_rate, temperature=towers.temperature)
    for name in _SHARES:
        value = getattr(towers, name)
        if not (isinstance(value, int | float | np.number) and 0 <= value < 1):
            raise InputError(f"{name}={value!r}, but a share from 0 to under 1 was expected")


def check_sizes(dim: int, item_ids: pa.StringArray, user_ids: pa.StringArray | None) -> None:
    """Raise where the graphs would be too large, or an item has two rows; users have rows where they are given."""
    n_twice = len(item_ids) - len(pc.unique(item_ids))
    if n_twice:
        raise DuplicateIdError(f"{n_twice} of {len(item_ids)} items of the catalogue come more than once: keep one")
    for what, n_rows in (("items", len(item_ids)), ("users", 0 if user_ids is None else len(user_ids))):
        size_bytes = 4 * dim * n_rows
        if size_bytes > _MOST_BYTES:
            raise InputError(
                f"{n_rows} {what} with {dim} dimensions are {size_bytes} bytes of embeddings, but a graph holds "
                f"{_MOST_BYTES}: lower dim, leave out {what} of few events, or take user_embeddings=False"
            )
