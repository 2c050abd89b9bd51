"""How near a backend comes to the one that an artifact was certified with: measured here, and kept in the artifact."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from llmfeat._base.files import atomic_write
from llmfeat._base.progress import bar
from llmfeat.artifact import REFERENCE_NUMERICS, SPEC_FILE, ModelArtifact
from llmfeat.encode.backends import BACKENDS, unavailable
from llmfeat.encode.engine import TextEncoder, finite
from llmfeat.errors import ArtifactCorruptError, ArtifactError, BackendError
from llmfeat.export.sample import AWKWARD_TEXTS, sample_texts
from llmfeat.types import Float32Array, Float64Array

__all__ = ["certify_backend", "here"]

_N_TEXTS = 200
_N_ALONE = 48


def here() -> list[str]:
    """Return the backends of this machine that can be compared with the reference, which is not among them."""
    # TensorRT spends minutes on building an engine: it is compared when it is named.
    candidates = [name for name in BACKENDS if name not in (REFERENCE_NUMERICS, "onnxruntime-tensorrt")]
    return [name for name in candidates if not unavailable(name)]


def certify_backend(artifact: ModelArtifact, backend: str, *, progress: bool = False) -> tuple[ModelArtifact, Any]:
    """Compare a backend with ONNX Runtime on the processor, and add what was found to the artifact's certificate.

    Catalogue texts, awkward ones, and one beyond the model's limit are encoded by both; then by the backend alone, in
    batches, and in another order. The fingerprint does not change.

    Parameters
    ----------
    artifact : ModelArtifact
        An encoder.
    backend : str
        The backend's name.
    progress : bool, default=False
        Whether to show a bar on standard error.

    Returns
    -------
    ModelArtifact, dict
        The artifact with the new certificate; ``n_texts``, ``cosine_min``, ``cosine_mean``, and ``batch_distance_max``,
        the largest difference between a text's vectors alone and among others, 0 where the bits are the same.

    Raises
    ------
    BackendError
        When the backend, or the reference, does not work here, or gives vectors that are not finite.
    """
    texts = [*AWKWARD_TEXTS, *sample_texts(_N_TEXTS, seed=11)]
    texts.append(" ".join(texts))
    tried = TextEncoder(artifact, backend=backend)
    with bar(2 * len(texts) + _N_ALONE, what=f"comparing {backend}", unit="texts", shown=progress) as advance:
        got = tried.encode_raw(texts, done=lambda rows: advance(len(rows)))
        if not finite(got).all():
            raise BackendError(
                f"{backend} gives {np.count_nonzero(~finite(got))} of {len(texts)} vectors that are not finite: "
                "take another precision or another backend"
            )
        wanted = TextEncoder(artifact, backend=REFERENCE_NUMERICS).encode(texts)
        advance(len(texts))
        order = np.random.default_rng(0).permutation(len(texts))
        shuffled = tried.encode([texts[at] for at in order])
        alone = [tried.encode([texts[at]])[0] for at in order[:_N_ALONE]]
        advance(_N_ALONE)
    distance = max(np.abs(shuffled - got[order]).max(), np.abs(np.stack(alone) - got[order[:_N_ALONE]]).max())
    cosines = _cosines(got, wanted)
    if not np.isfinite(cosines).all():
        raise BackendError(f"{backend} gives vectors without a length: take another precision or another backend")
    found = {
        "n_texts": len(texts),
        "cosine_min": float(cosines.min()),
        "cosine_mean": float(cosines.mean()),
        "batch_distance_max": float(distance),
    }
    return _add(artifact, tried.numerics, found), found


def _add(artifact: ModelArtifact, numerics: str, found: dict[str, Any]) -> ModelArtifact:
    # As it is now: another machine may have added its own meanwhile.
    now = ModelArtifact.load(artifact.path)
    if now.fingerprint != artifact.fingerprint:
        raise ArtifactCorruptError(f"{artifact.path} was exported again meanwhile: certify it again")
    parity = {**now.spec.parity, "numerics": {**now.spec.parity.get("numerics", {}), numerics: found}}
    spec = dataclasses.replace(now.spec, parity=parity)
    try:
        atomic_write(artifact.path / SPEC_FILE, spec.to_json().encode())
    except OSError as error:
        raise ArtifactError(
            f"{artifact.path} cannot be written ({error.strerror or error}), make it writable, then certify it again"
        ) from error
    return ModelArtifact.load(artifact.path)


def _cosines(one: Float32Array, other: Float32Array) -> Float64Array:
    wide = [vectors.astype(np.float64) for vectors in (one, other)]
    lengths = np.linalg.norm(wide[0], axis=1) * np.linalg.norm(wide[1], axis=1)
    cosines: Float64Array = np.clip(np.einsum("ij,ij->i", *wide) / lengths, -1.0, 1.0)
    return cosines
