"""One open model for an estimator and its clones, none in pickles."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["opened", "share_opened"]

Model = TypeVar("Model")

# What an estimator and its clones opened last, by the parameters that it was opened with. Beside the estimators, not
# in them: a session is neither a parameter nor learned, and must not be pickled.
_OPENED: weakref.WeakKeyDictionary[Any, dict[tuple[str, ...], Any]] = weakref.WeakKeyDictionary()


def opened(estimator: Any, key: tuple[str, ...], make: Callable[[], Model]) -> Model:
    """Return what the estimator, or one that it shares with, opened under this key; opened now where it was not."""
    models = _OPENED.setdefault(estimator, {})
    if (model := models.get(key)) is None:
        model = make()
        models.clear()  # one model at a time, however many a grid search goes through
        models[key] = model
    found: Model = model
    return found


def share_opened(clone: Any, estimator: Any) -> None:
    """Let a clone use what the estimator opens: opening a model for each fold costs more than a fold's texts."""
    _OPENED[clone] = _OPENED.setdefault(estimator, {})
