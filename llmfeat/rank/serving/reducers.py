"""Fitted reducers as a file of arrays and plain values: no pickle, so that to open a bundle runs nobody's code."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from llmfeat.errors import BundleError
from llmfeat.features.learned import LearnedSimilarity
from llmfeat.features.reduce import Matryoshka, Whitening

__all__ = ["reducer_bytes", "reducer_of"]

_KINDS = {kind.__name__: kind for kind in (LearnedSimilarity, Matryoshka, Whitening)}
_ABOUT = "about"


def reducer_bytes(reducer: Any) -> bytes:
    """Return a fitted reducer as the bytes of an ``.npz`` file.

    Raises
    ------
    BundleError
        When it is of a kind that cannot be kept without pickle.
    """
    kind = type(reducer).__name__
    if _KINDS.get(kind) is not type(reducer):
        raise BundleError(
            f"the vectors are reduced by a {kind}, but a bundle keeps {sorted(_KINDS)} only: take one of these, or "
            "serve the pipeline itself"
        )
    arrays, plain = {}, {}
    for name, value in vars(reducer).items():
        if name.startswith("_"):  # of scikit-learn's own, such as what set_output says
            continue
        if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.dtype != object):
            arrays[name] = value
        elif isinstance(value, np.ndarray):
            plain[name] = {"names": [str(each) for each in value]}
        else:
            plain[name] = value
    about = json.dumps({"kind": kind, "plain": plain}, sort_keys=True).encode()
    file = io.BytesIO()
    np.savez(file, **{_ABOUT: np.frombuffer(about, dtype=np.uint8)}, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def reducer_of(data: bytes) -> Any:
    """Return the reducer that `reducer_bytes` wrote.

    Raises
    ------
    BundleError
        When it is something else.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            about = json.loads(arrays[_ABOUT].tobytes())
            reducer: Any = _KINDS[about["kind"]]()
            for name, value in about["plain"].items():
                setattr(reducer, name, np.array(value["names"], dtype=object) if isinstance(value, dict) else value)
            for name in arrays.files:
                if name != _ABOUT:
                    setattr(reducer, name, arrays[name][()])  # a number of numpy's is an array without dimensions
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise BundleError(f"a reducer of the bundle cannot be read ({error!r}): save the bundle again") from error
    return reducer
