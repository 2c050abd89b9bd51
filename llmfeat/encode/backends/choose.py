"""Which backend runs a model: the one that is asked for, or the fastest that works here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import warnings

import numpy as np

from llmfeat._base.optional import import_optional
from llmfeat.artifact import ModelArtifact
from llmfeat.encode.backends.base import Backend, first_line
from llmfeat.encode.backends.onnxruntime_cpu import OnnxRuntimeCpu
from llmfeat.encode.backends.onnxruntime_gpu import OnnxRuntimeGpu
from llmfeat.encode.backends.openvino import OpenVino, native_precision
from llmfeat.errors import BackendError, InputError, LLMFeatWarning

__all__ = ["AGREE", "BACKENDS", "open_backend", "unavailable"]

# Two classes whose vectors have at least this cosine may stand in for each other.
AGREE = 0.9999

# Fastest first; TensorRT is not tried by itself, since it spends minutes on building an engine.
_AUTO = ("onnxruntime-cuda", "openvino-bf16", "openvino-f32", "onnxruntime-cpu")
BACKENDS = (*_AUTO, "onnxruntime-tensorrt")
_PROVIDER = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider", "cpu": "CPUExecutionProvider"}
_EXTRA = {"cuda": "gpu", "tensorrt": "gpu", "cpu": "cpu"}


def open_backend(
    artifact: ModelArtifact, name: str = "auto", *, threads: int | None = None, streams: int | None = None
) -> Backend:
    """Return an open backend.

    Parameters
    ----------
    artifact : ModelArtifact
        The model.
    name : str, default="auto"
        One of `BACKENDS`; or ``auto``, which is the environment's ``LLMFEAT_BACKEND`` where that is set, else the
        fastest that is installed, runs the model, and is not said to disagree by the artifact's certificate.
    threads, streams : int, optional
        See the backends.

    Raises
    ------
    InputError
        When there is no such backend.
    BackendError
        When it cannot be used here; another one is never taken in its place, unless `name` is ``auto``.
    """
    asked = f"backend={name!r}"
    if name == "auto" and os.environ.get("LLMFEAT_BACKEND"):
        name = os.environ["LLMFEAT_BACKEND"]
        asked = f"LLMFEAT_BACKEND={name!r}"
    if name not in (*BACKENDS, "auto"):
        raise InputError(f"{asked}, but one of {['auto', *BACKENDS]} was expected")
    if name != "auto":
        if reason := unavailable(name):
            raise BackendError(f"{name} was asked for, but {reason}")
        return _open(artifact, name, threads, streams)
    reasons = []
    for candidate in _AUTO:
        if reason := unavailable(candidate):
            reasons.append(f"{candidate}: {reason}")
            continue
        if _disagrees(artifact, candidate):
            reasons.append(f"{candidate}: by the artifact's certificate its vectors are others")
            continue
        try:
            backend = _open(artifact, candidate, threads, streams)
            _try(backend, artifact)
        except BackendError as error:
            reasons.append(str(error))
            warnings.warn(f"{error}; the next best backend is taken", LLMFeatWarning, stacklevel=2)
            continue
        if candidate != "onnxruntime-cuda" and _has_gpu_package():
            warnings.warn(f"onnxruntime-gpu is installed, but {reasons[0]}: {candidate} is taken", LLMFeatWarning, 2)
        return backend
    raise BackendError(f"nothing here runs {artifact.path}: {'; '.join(reasons)}")


def unavailable(name: str) -> str:
    """Return why a backend cannot be had here, empty where it can."""
    package, _, kind = name.partition("-")
    if importlib.util.find_spec(package) is None:
        extra = _EXTRA.get(kind, "openvino")
        return f"{package} is not installed: pip install 'llmfeat[{extra}]'"
    try:
        return _lacking(package, kind)
    except Exception as error:  # a package that is broken: libraries that are missing, versions that do not fit
        return f"{package} is installed and cannot be used ({first_line(error)}): install it again"


def _lacking(package: str, kind: str) -> str:
    if package == "onnxruntime":
        providers = import_optional("onnxruntime", purpose="encoding").get_available_providers()
        if _PROVIDER[kind] not in providers:
            return (
                f"the onnxruntime that is installed has {providers}: pip uninstall onnxruntime, then "
                f"pip install 'llmfeat[{_EXTRA[kind]}]'"
            )
    elif kind == "bf16" and native_precision() != "bf16":
        return "this processor does not multiply bf16: take openvino-f32"
    return ""


def _open(artifact: ModelArtifact, name: str, threads: int | None, streams: int | None) -> Backend:
    path = artifact.graph_path
    if name == OnnxRuntimeCpu.numerics:
        return OnnxRuntimeCpu(path, threads=threads)
    package, _, kind = name.partition("-")
    if package == "openvino":
        return OpenVino(path, precision=kind, threads=threads, streams=streams)
    return OnnxRuntimeGpu(path, numerics=name, engine=artifact.fingerprint[:16], streams=streams)


def _try(backend: Backend, artifact: ModelArtifact) -> None:
    """Run a smallest batch: what opens does not always run."""
    ids = np.full((2, 4), artifact.spec.pad_token_id, dtype=np.int64)
    try:
        vectors = backend.run(ids, np.ones_like(ids), 0)
    except Exception as error:  # each runtime has kinds of its own
        raise BackendError(f"{backend.numerics} does not run {artifact.path}: {first_line(error)}") from error
    if vectors.shape != (2, artifact.spec.dim):
        raise BackendError(f"{backend.numerics} gives vectors of {vectors.shape}, not of (2, {artifact.spec.dim})")


def _disagrees(artifact: ModelArtifact, numerics: str) -> bool:
    cosine = artifact.spec.agreement(numerics)
    return cosine is not None and not cosine >= AGREE


def _has_gpu_package() -> bool:
    try:
        importlib.metadata.distribution("onnxruntime-gpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
