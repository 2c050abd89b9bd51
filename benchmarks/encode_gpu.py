"""Encoding on an NVIDIA GPU, beside sentence-transformers in torch fp16 with SDPA attention.

For a machine without network. Take there this checkout and, per model, its artifact of precision fp16 and its folder of
sentence-transformers; then, naming the figures of each model after NAME::

    python benchmarks/encode_gpu.py --json encode-gpu.json --wheels WHEELS --model NAME=ARTIFACT=FOLDER [--model ...]

WHEELS is a folder with the wheels of what is not installed there, such as onnxruntime-gpu: they are unzipped, not
installed, and what is still lacking is said at once, by name. A wheel too large to travel may lie there in parts, as
``split -b 60M -d X.whl X.whl.part`` makes them. ``--quick`` takes a twentieth of the texts, two rounds and no sweep;
``--device cpu`` rehearses the script where there is no GPU, on few texts, and its figures are called so.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import _report

# What llmfeat imports on its way to the engine, what sentence-transformers needs, and onnxruntime. lmdb is for caches.
REQUIRED = (
    "narwhals",
    "numpy",
    "onnxruntime",
    "platformdirs",
    "pyarrow",
    "rich",
    "sentence_transformers",
    "tokenizers",
    "torch",
    "transformers",
)
N_ROUNDS, N_ROUNDS_QUICK = 5, 2
# So many times the texts of the benchmark on processors; a rehearsal shows that all steps work.
TIMES = {"cuda": 20.0, "cpu": 0.2}
QUICK = 20
ST_BATCH_SIZES = (32, 256, 1024)
SWEEP_TOKENS = (8192, 16_384, 32_768, 65_536, 131_072)
N_REFERENCE, N_INVARIANCE = 2000, 64
# The pipeline's own piece: a tokenizer is slower on less, and what it does on more does not help the engine.
TOKENIZE_TEXTS = 512
SEED = 11

Encode = Callable[[list[str]], Any]
Row = dict[str, Any]


def main() -> None:
    """Run the benchmark."""
    options = _arguments()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        if options.wheels:
            _unpack(options.wheels, Path(folder))
        _require()
        results = Results(options.json, machine=_machine(options.device), commit=options.commit or _commit())
        for model in options.model:
            _measure(model, options, results)
        results.save()
    width = max(map(len, results.figures))
    for name, value in results.figures.items():
        print(f"{name:{width}}  {value:.6g}")


@dataclass(frozen=True)
class Model:
    """A model as two folders: an artifact, and what sentence-transformers loads."""

    name: str
    artifact: Path
    reference: Path

    @classmethod
    def parse(cls, text: str) -> Model:
        """Read ``NAME=ARTIFACT=FOLDER``."""
        parts = text.split("=")
        if len(parts) != 3 or not all(parts):
            raise argparse.ArgumentTypeError(f"{text!r}, but NAME=ARTIFACT=FOLDER was expected")
        for folder, file in ((parts[1], "artifact.json"), (parts[2], "modules.json")):
            if not Path(folder, file).is_file():
                raise argparse.ArgumentTypeError(f"{folder} holds no {file}")
        return cls(parts[0], Path(parts[1]), Path(parts[2]))


@dataclass
class Results:
    """What was measured so far; written after every step, so that a run that is cut short keeps it."""

    path: Path
    machine: dict[str, Any]
    commit: str
    figures: dict[str, float] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Keep a row, and show it."""
        self.rows.append(row)
        print("  ".join(f"{name}={_shown(value)}" for name, value in row.items() if name != "seconds"), flush=True)
        self.save()

    def save(self) -> None:
        """Write the benchmarks' common form; the packages of such a machine are not all known to its metadata."""
        body = {
            "schema": 1,
            "machine": self.machine,
            "versions": _versions(),
            "commit": self.commit,
            "figures": self.figures,
            "rows": self.rows,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(body, indent=2, allow_nan=False) + "\n")


def _arguments() -> argparse.Namespace:
    understood = _report.parser(__doc__)
    understood.formatter_class = argparse.RawDescriptionHelpFormatter
    understood.add_argument("--model", type=Model.parse, action="append", required=True, metavar="NAME=ARTIFACT=FOLDER")
    understood.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is a rehearsal")
    understood.add_argument("--tensorrt", action="store_true", help="also onnxruntime-tensorrt")
    understood.add_argument("--wheels", type=Path, help="wheels of what is not installed here")
    understood.add_argument("--commit", help="of the checkout, where it is a copy that git does not know")
    options = understood.parse_args()
    if options.tensorrt and options.device == "cpu":
        understood.error("--tensorrt needs --device cuda")
    return options


# --- What this machine has -------------------------------------------------------------------------------------------


def _unpack(wheels: Path, folder: Path) -> None:
    """Unzip wheels, joined where they come in parts, and let Python find them before what is installed."""
    found = sorted(wheels.glob("*.whl"))
    for first in sorted(wheels.glob("*.whl.part00")):
        whole = folder / first.name.removesuffix(".part00")
        parts = sorted(wheels.glob(f"{whole.name}.part*"))
        if [part.suffix for part in parts] != [f".part{at:02}" for at in range(len(parts))]:
            _stop(f"of {whole.name} only {[part.suffix for part in parts]} are there")
        with open(whole, "wb") as joined:
            for part in parts:
                with open(part, "rb") as file:
                    shutil.copyfileobj(file, joined)
        found.append(whole)
    if not found:
        _stop(f"{wheels} holds no wheel")
    here = f"cp{sys.version_info.major}{sys.version_info.minor}"
    for wheel in found:
        python, abi, _ = wheel.stem.split("-")[-3:]
        if here not in python.split(".") and abi not in ("none", "abi3"):
            _stop(f"{wheel.name} is for another Python than {here}")
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder / "site")
        except zipfile.BadZipFile:
            _stop(f"{wheel.name} is not a whole wheel: {wheel.stat().st_size} bytes; are all its parts there?")
    sys.path.insert(0, str(folder / "site"))
    importlib.invalidate_caches()


def _require() -> None:
    lacking = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if lacking:
        _stop(f"{', '.join(lacking)} cannot be imported: put the wheels into a folder, and name it with --wheels")
    sys.path.insert(0, str(_report.ROOT))
    # torch first: it loads CUDA's libraries, which onnxruntime then finds wherever it lies itself.
    for name in ("torch", "llmfeat.encode", "onnxruntime", "sentence_transformers"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            _stop(f"{name} cannot be imported: {error}")


def _machine(device: str) -> dict[str, Any]:
    """Return the machine in words, or stop where it has not the device that was asked for."""
    import onnxruntime
    import torch

    if device == "cpu":
        return _report.machine() | {"device": "cpu", "rehearsal": True}
    if not torch.cuda.is_available():
        _stop(
            f"--device cuda, but torch {torch.__version__} sees no CUDA device: check nvidia-smi, or rehearse with "
            "--device cpu"
        )
    providers = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" not in providers:
        _stop(
            f"--device cuda, but {onnxruntime.package_name} {onnxruntime.__version__} from {onnxruntime.__file__} has "
            f"{providers}: give the wheel of onnxruntime-gpu with --wheels"
        )
    gpu = torch.cuda.get_device_properties(0)
    return _report.machine() | {
        "device": "cuda",
        "gpu": gpu.name,
        "gpu_memory_mb": gpu.total_memory // 2**20,
        "driver": _driver(),
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.partition("\n")[0].strip() or "unknown"


def _commit() -> str:
    try:
        return _report.commit()
    except OSError:  # no git
        return "unknown"


def _versions() -> dict[str, str]:
    import onnxruntime
    import torch

    import llmfeat

    found = {"llmfeat": llmfeat.__version__, onnxruntime.package_name: onnxruntime.__version__}
    for name in ("numpy", "pyarrow", "sentence-transformers", "tokenizers", "torch", "transformers"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "unknown"
    if torch.version.cuda:
        found |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
    return found


def _stop(why: str) -> NoReturn:
    print(f"encode_gpu: {why}", file=sys.stderr)
    raise SystemExit(2)


# --- What is compared ------------------------------------------------------------------------------------------------


def _measure(model: Model, options: argparse.Namespace, results: Results) -> None:
    import torch

    from llmfeat import ModelArtifact

    artifact = ModelArtifact.load(model.artifact)
    on_gpu = options.device == "cuda"
    torch_name = "st_torch_fp16" if on_gpu else "st_torch_fp32"
    backends = ["onnxruntime-cuda" if on_gpu else "onnxruntime-cpu"] + ["onnxruntime-tensorrt"] * options.tensorrt
    encoders = {name: _encoder(artifact, name) for name in backends}
    theirs = _sentence_transformers(model, artifact, options.device, torch.float16 if on_gpu else torch.float32)
    reference = _sentence_transformers(model, artifact, options.device, torch.float32) if on_gpu else theirs
    about = {"model": model.name, "precision": artifact.spec.precision, "max_tokens": artifact.spec.max_tokens}
    n_rounds = N_ROUNDS_QUICK if options.quick else N_ROUNDS
    workloads = _workloads(artifact, device=options.device, quick=options.quick)
    measured: dict[str, dict[str, Row]] = {}
    for kind, texts in workloads.items():
        batch_size, tried = _best_batch_size(theirs, texts)
        systems: dict[str, Encode] = {torch_name: partial(_encode_theirs, theirs, batch_size=batch_size)}
        systems |= {name: encoder.encode for name, encoder in encoders.items()}
        vectors, seconds = _in_turn(systems, texts, n_rounds)
        n_tokens = encoders[backends[0]].count_tokens(texts)
        sample = _spread(len(texts), N_REFERENCE)
        wanted = _encode_theirs(reference, [texts[at] for at in sample], batch_size=min(ST_BATCH_SIZES))
        measured[kind] = {}
        for name in systems:
            row = _row(name, n_tokens, seconds[name]) | {"cosine_min": _least_cosine(vectors[name][sample], wanted)}
            if name in encoders:
                row |= _inside(encoders[name], texts, row["texts_per_s"])
            else:
                share = _their_real_token_share(texts, n_tokens, batch_size)
                row |= {"real_token_share": share, "batch_size": batch_size, "texts_per_s_by_batch_size": tried}
            measured[kind][name] = row
            results.add({"what": "speed", **about, "workload": kind, **row})
    for name, encoder in encoders.items():
        results.add({"what": "batch invariance", **about, "system": name, **_invariance(encoder, workloads)})
    results.figures |= _figures(model, measured, torch_name, backends, rehearsal=not on_gpu)
    results.save()
    if not options.quick:
        _sweep(artifact, backends[0], workloads, (1, 2, 3) if on_gpu else (1,), about, results)


def _encoder(artifact: Any, backend: str) -> Any:
    """Return an encoder that has run once, or stop: a backend that cannot be had is nothing to work around."""
    from llmfeat import TextEncoder
    from llmfeat.errors import BackendError

    encoder = TextEncoder(artifact, backend=backend)
    try:
        encoder.encode(["heat", "alien"])
    except BackendError as error:
        _stop(str(error))
    return encoder


def _sentence_transformers(model: Model, artifact: Any, device: str, dtype: Any) -> Any:
    """Return the model in torch, having checked that it is where, and what, it was asked to be."""
    import transformers
    from sentence_transformers import SentenceTransformer

    version = tuple(map(int, transformers.__version__.split(".")[:2]))
    kwargs = {"attn_implementation": "sdpa", "dtype" if version >= (4, 56) else "torch_dtype": dtype}
    loaded = SentenceTransformer(str(model.reference), device=device, model_kwargs=kwargs, local_files_only=True)
    loaded.max_seq_length = artifact.spec.max_tokens  # both cut where the artifact does
    parameters = list(loaded.parameters())
    inner = next(part for part in loaded.modules() if isinstance(part, transformers.PreTrainedModel))
    found = {parameter.device.type for parameter in parameters}, {parameter.dtype for parameter in parameters}
    attention = inner.config._attn_implementation
    if found != ({device}, {dtype}) or attention != "sdpa":
        _stop(
            f"{model.reference} came as {found} with attention {attention!r}, {device}, {dtype}, 'sdpa' was asked for"
        )
    return loaded


def _encode_theirs(loaded: Any, texts: list[str], *, batch_size: int) -> Any:
    return loaded.encode(texts, batch_size=batch_size, convert_to_numpy=True, show_progress_bar=False)


def _workloads(artifact: Any, *, device: str, quick: bool) -> dict[str, list[str]]:
    from _texts import WORKLOADS, make_texts

    times = TIMES[device] / (QUICK if quick else 1)
    return {
        kind: make_texts(artifact.tokenizer_path, n_texts=max(8, round(n_texts * times)), mean_tokens=mean, seed=SEED)
        for kind, (n_texts, mean) in WORKLOADS.items()
    }


def _best_batch_size(loaded: Any, texts: list[str]) -> tuple[int, dict[str, float]]:
    """Return sentence-transformers' best batch size for such texts, and the texts/s of each."""
    speeds = {}
    for size in ST_BATCH_SIZES:
        encode = partial(_encode_theirs, loaded, batch_size=size)
        encode(texts)
        speeds[size] = len(texts) / min(_seconds(encode, texts) for _ in range(2))
    return max(speeds, key=speeds.__getitem__), {str(size): speed for size, speed in speeds.items()}


def _in_turn(systems: dict[str, Encode], texts: list[str], n_rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the vectors of a warm-up round, and the seconds of `n_rounds` more, A B A B."""
    vectors = {name: encode(texts) for name, encode in systems.items()}
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for _ in range(n_rounds):
        for name, encode in systems.items():
            seconds[name].append(_seconds(encode, texts))
    return vectors, seconds


def _row(system: str, n_tokens: Any, seconds: list[float]) -> Row:
    median = statistics.median(seconds)
    return {
        "system": system,
        "n_texts": len(n_tokens),
        "mean_tokens": float(n_tokens.mean()),
        "texts_per_s": len(n_tokens) / median,
        "tokens_per_s": float(n_tokens.sum()) / median,
        "seconds": seconds,
    }


def _inside(encoder: Any, texts: list[str], texts_per_s: float) -> Row:
    """Return what goes on within: padding, how fast tokens come, and how long the model waits for them."""
    before = encoder.tally.tokens, encoder.tally.positions
    backend = encoder._backend
    encoder._backend = _Watched(backend)
    try:
        wall_s = _seconds(encoder.encode, texts)
        busy_s = encoder._backend.busy_s()
    finally:
        encoder._backend = backend
    tokenize = statistics.median(_seconds(partial(_tokenize, encoder._tokenizer), texts) for _ in range(3))
    return {
        "real_token_share": (encoder.tally.tokens - before[0]) / (encoder.tally.positions - before[1]),
        "tokenize_texts_per_s": len(texts) / tokenize,
        "tokenize_headroom": len(texts) / tokenize / texts_per_s,
        "model_idle_share": 1 - busy_s / wall_s,
        "batch_tokens": encoder.batch_tokens or backend.batch_tokens,
        "streams": backend.n_streams,
    }


class _Watched:
    """A backend that remembers when it ran."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._spans: list[tuple[float, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def run(self, *batch: Any) -> Any:
        started = time.perf_counter()
        vectors = self._backend.run(*batch)
        self._spans.append((started, time.perf_counter()))
        return vectors

    def busy_s(self) -> float:
        """Return for how long at least one batch ran."""
        total = reached = 0.0
        for start, stop in sorted(self._spans):
            total += max(0.0, stop - max(start, reached))
            reached = max(reached, stop)
        return total


def _tokenize(tokenizer: Any, texts: list[str]) -> None:
    for begin in range(0, len(texts), TOKENIZE_TEXTS):
        tokenizer.flat_ids(texts[begin : begin + TOKENIZE_TEXTS])


def _their_real_token_share(texts: list[str], n_tokens: Any, batch_size: int) -> float:
    """Return the share for batches of that many texts, sorted by characters, each padded to its longest."""
    ordered = n_tokens[sorted(range(len(texts)), key=lambda row: -len(texts[row]))]
    batches = [ordered[begin : begin + batch_size] for begin in range(0, len(ordered), batch_size)]
    return float(n_tokens.sum()) / sum(len(batch) * int(batch.max()) for batch in batches)


def _invariance(encoder: Any, workloads: dict[str, list[str]]) -> Row:
    """Return the largest difference between a text's vector alone and beside others, and how many are the same bits."""
    import numpy as np

    each = -(-N_INVARIANCE // len(workloads))
    texts = [texts[at] for texts in workloads.values() for at in _spread(len(texts), each)][:N_INVARIANCE]
    order = np.random.default_rng(SEED).permutation(len(texts))
    shuffled = np.empty((len(texts), encoder.dim), np.float32)
    shuffled[order] = encoder.encode([texts[row] for row in order])
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    others = {
        "batch": encoder.encode(texts),
        "shuffled": shuffled,
        "crowd": np.concatenate([_among(encoder, texts, crowd) for crowd in workloads.values()]),
    }
    found: Row = {"n_texts": len(texts)}
    for name, vectors in others.items():
        wanted = alone[np.arange(len(vectors)) % len(alone)]
        found[f"difference_max_{name}"] = float(np.abs(vectors - wanted).max())
        found[f"bit_equal_share_{name}"] = float((vectors == wanted).all(axis=1).mean())
    # Batches of one shape: what is left of it where a backend would pad the number of texts as well.
    found["difference_max_one_shape"] = _one_shape_difference(encoder, max(workloads.values(), key=len))
    return found


def _among(encoder: Any, texts: list[str], crowd: list[str]) -> Any:
    """Return the vectors of `texts`, encoded together with all others of a workload."""
    return encoder.encode([*crowd, *texts])[len(crowd) :]


def _one_shape_difference(encoder: Any, texts: list[str], n_rows: int = 32) -> float:
    """Return the largest difference of texts' vectors between two batches of one shape: other places, other texts."""
    import numpy as np

    from llmfeat.encode.batching import bucket_lengths

    backend, tokenizer = encoder._backend, encoder._tokenizer
    ids = tokenizer.batch_ids(texts)
    own = np.array([len(one) for one in ids])
    padded = bucket_lengths(own, buckets=backend.buckets, max_tokens=tokenizer.max_tokens)
    length = int(np.bincount(padded).argmax())
    rows = np.flatnonzero(padded == length)
    rows = np.resize(rows, max(3, len(rows)))  # of few texts, some twice
    n_rows = min(n_rows, len(rows) // 3 * 2)

    def run(chosen: Any) -> Any:
        batch = np.full((len(chosen), length), tokenizer.pad_id, np.int64)
        for place, row in enumerate(chosen):
            batch[place, : own[row]] = ids[row]
        mask = (np.arange(length) < own[chosen][:, None]).astype(np.int64)
        return backend.run(batch, mask, 0)

    half = n_rows // 2
    first = run(rows[:n_rows])
    second = run(rows[half : half + n_rows][::-1])[::-1]
    return float(np.abs(first[half:n_rows] - second[: n_rows - half]).max())


def _figures(
    model: Model, measured: dict[str, dict[str, Row]], torch_name: str, backends: list[str], *, rehearsal: bool
) -> dict[str, float]:
    figures = {}
    for backend in backends:
        name = "_".join(["rehearsal"] * rehearsal + [model.name] + ["tensorrt"] * (backend == "onnxruntime-tensorrt"))
        ratios = [
            measured[kind][backend]["texts_per_s"] / measured[kind][torch_name]["texts_per_s"]
            for kind in ("titles", "histories")
        ]
        rows = [systems[backend] for systems in measured.values()]
        figures[f"{name}_vs_{torch_name}"] = math.prod(ratios) ** (1 / len(ratios))
        figures[f"{name}_tokenize_headroom"] = min(row["tokenize_headroom"] for row in rows)
        figures[f"{name}_cosine_min"] = min(row["cosine_min"] for row in rows)
    return {name.replace("-", "_").replace(".", "_"): value for name, value in figures.items()}


def _sweep(
    artifact: Any,
    backend: str,
    workloads: dict[str, list[str]],
    streams: Sequence[int],
    about: Row,
    results: Results,
) -> None:
    """Measure other settings than the backend's own."""
    from llmfeat import TextEncoder

    for n_streams in streams:
        encoder = TextEncoder(artifact, backend=backend, streams=n_streams)
        for batch_tokens in SWEEP_TOKENS:
            encoder.batch_tokens = batch_tokens
            for kind in ("titles", "histories"):
                setting = {"streams": n_streams, "batch_tokens": batch_tokens}
                outcome = _outcome(encoder, workloads[kind])
                results.add({"what": "sweep", **about, "workload": kind, "system": backend, **setting, **outcome})


def _outcome(encoder: Any, texts: list[str]) -> Row:
    try:
        encoder.encode(texts)
        return {"texts_per_s": len(texts) / statistics.median(_seconds(encoder.encode, texts) for _ in range(3))}
    except Exception as error:  # a setting that takes more memory than there is: its row says so
        return {"error": f"{type(error).__name__}: {str(error)[:200]}"}


# --- Small things ----------------------------------------------------------------------------------------------------


def _seconds(encode: Callable[[list[str]], object], texts: list[str]) -> float:
    started = time.perf_counter()
    encode(texts)
    return time.perf_counter() - started


def _spread(n_texts: int, at_most: int) -> list[int]:
    """Return so many rows, evenly spread, or all where there are fewer."""
    n_rows = min(n_texts, at_most)
    return [at * n_texts // n_rows for at in range(n_rows)]


def _least_cosine(vectors: Any, wanted: Any) -> float:
    import numpy as np

    left, right = vectors.astype(np.float64), wanted.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float((np.einsum("ij,ij->i", left, right) / lengths).min())


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
