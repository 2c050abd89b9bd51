"""Scores for rows that are part of the statistics themselves: each user's from a fit without that user."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.frames import id_array
from llmfeat.errors import InputError
from llmfeat.history.sequences import Sequences
from llmfeat.rank.scorers.base import FittableScorer, check_at_least, check_catalogue
from llmfeat.types import Float32Array, Int64Array

__all__ = ["CrossFitted", "user_folds"]


@dataclass(eq=False)
class CrossFitted:
    """A scorer whose scores of a user never come from that user's own events.

    A ranker that trains on scores to which its own targets contributed trusts them too much. Users are parted into
    folds; a user who was fitted on is scored by the fit without their fold, then and later, so that the scores of
    training and of test rows are of one kind. A user who was not fitted on is in no statistics, and is scored by the
    fit on all users. Folds are of users, not of time: what other users did later than a row is for the caller to cut.

    What learns nothing from events, such as `TextNeighbours`, needs no folds.

    Parameters
    ----------
    make_scorer : callable
        Returns a new scorer to fit, such as the class itself or a lambda with parameters.
    n_folds : int, default=10
        How many folds; there is one fit for each, and one on all.
    seed : int, default=0
        Which of the partitions; within one it depends on the user's id alone, on every machine.

    Attributes
    ----------
    scorers_ : list of FittableScorer of length n_folds + 1
        Entry ``f`` was fitted without the users of fold ``f``; the last on all.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat.history.sequences import Sequences
    >>> from llmfeat.rank.scorers import CrossFitted, Popularity
    >>> rows = pa.table({"user_id": ["u", "v"], "history": [["a", "a"], ["b"]]})
    >>> sequences = Sequences.from_lists(rows, "history", user_id="user_id")
    >>> CrossFitted(Popularity, n_folds=2).fit(sequences).scores(sequences)
    array([[0., 1.],
           [1., 0.]], dtype=float32)
    """

    make_scorer: Callable[[], FittableScorer]
    n_folds: int = 10
    seed: int = 0
    item_ids_: pa.StringArray | None = field(default=None, init=False, repr=False)
    users_: pa.StringArray = field(init=False, repr=False)
    scorers_: list[FittableScorer] = field(init=False, repr=False)

    @property
    def name(self) -> str:
        """The name of the scorer that is fitted."""
        return self.make_scorer().name

    def fit(self, sequences: Sequences, users: Any = None) -> Self:
        """Fit one scorer without each fold, and one on all.

        Parameters
        ----------
        sequences : Sequences
            What happened.
        users : sequence of ids, optional
            Whose each row is, where the sequences do not say so themselves.
        """
        check_at_least(2, n_folds=self.n_folds)
        sequences = _with_users(sequences, users)
        folds = user_folds(sequences.users, n_folds=self.n_folds, seed=self.seed)
        self.scorers_ = [
            self.make_scorer().fit(sequences.take(np.flatnonzero(folds != fold))) for fold in range(self.n_folds)
        ]
        self.scorers_.append(self.make_scorer().fit(sequences))
        self.users_ = pc.unique(sequences.users)
        self.item_ids_ = sequences.item_ids
        return self

    def scores(self, histories: Sequences, users: Any = None) -> Float32Array:
        """Return the scores, float32 of shape ``(n_queries, n_items)``, each from the fit that has not seen the user.

        Parameters
        ----------
        histories : Sequences
            What each query saw.
        users : sequence of ids, optional
            Whose each query is, where the histories do not say so themselves.
        """
        check_catalogue(self.item_ids_, histories, name=self.name)
        histories = _with_users(histories, users)
        fit_of_row = self._fit_of(histories.users)
        out = np.empty((len(histories), histories.n_items), dtype=np.float32)
        for fit in np.unique(fit_of_row).tolist():
            rows = np.flatnonzero(fit_of_row == fit)
            out[rows] = self.scorers_[fit].scores(histories.take(rows))
        return out

    def _fit_of(self, users: pa.StringArray) -> Int64Array:
        """Return which entry of `scorers_` each user is scored by."""
        fitted = pc.is_in(users, value_set=self.users_).to_numpy(zero_copy_only=False)
        return np.where(fitted, user_folds(users, n_folds=self.n_folds, seed=self.seed), self.n_folds)


def user_folds(users: pa.StringArray, *, n_folds: int, seed: int = 0) -> Int64Array:
    """Return the fold of each user, int64 from 0 to ``n_folds - 1``, by the BLAKE2 hash of seed and id."""
    distinct = users.dictionary_encode()
    hashes = (
        hashlib.blake2b(f"{seed}:{user}".encode(), digest_size=8).digest() for user in distinct.dictionary.to_pylist()
    )
    folds = np.fromiter((int.from_bytes(each, "little") % n_folds for each in hashes), np.int64)
    folds_of_rows: Int64Array = folds[distinct.indices.to_numpy()]
    return folds_of_rows


def _with_users(sequences: Sequences, users: Any) -> Sequences:
    if users is not None:
        return sequences.with_users(id_array(users, what="the users"))
    if sequences.users is None:
        raise InputError("the sequences do not say whose they are, but folds are of users: pass users=, one id per row")
    return sequences
