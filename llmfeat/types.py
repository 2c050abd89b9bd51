"""The array types that pass between the stages."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = ["BoolArray", "Float32Array", "Float64Array", "Int32Array", "Int64Array", "VectorSource"]

BoolArray: TypeAlias = npt.NDArray[np.bool_]
Float32Array: TypeAlias = npt.NDArray[np.float32]
Float64Array: TypeAlias = npt.NDArray[np.float64]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]


@runtime_checkable
class VectorSource(Protocol):
    """Anything that gives vectors for ids: a table on disk, a feature store, vectors in memory."""

    @property
    def fingerprint(self) -> str:
        """What identifies the vectors: two sources of one fingerprint may be exchanged."""
        ...

    @property
    def dim(self) -> int:
        """The number of dimensions of each vector."""
        ...

    def lookup(self, ids: Any) -> Float32Array:
        """Return vectors of shape ``(len(ids), dim)``, float32; a row of NaN where an id has none."""
        ...
