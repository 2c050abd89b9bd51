"""Which generation of a table an encoder writes to; removing those that are no longer needed."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llmfeat._base.files import atomic_write, claimed
from llmfeat.artifact import ArtifactSpec
from llmfeat.encode.backends import AGREE
from llmfeat.encode.engine import TextEncoder
from llmfeat.encode.manifest import MANIFEST_FILE, Generation, Manifest
from llmfeat.encode.parts import part_folder
from llmfeat.errors import InputError, LLMFeatError, LLMFeatWarning, TableFingerprintError, TableWriteError
from llmfeat.text import ItemTemplate

__all__ = [
    "PruneSummary",
    "agreement",
    "choose_generation",
    "held_generations",
    "hold_generation",
    "locked",
    "prune_table",
    "read_manifest",
    "release_generation",
    "writing",
]

_HOLDS = "holds"


@dataclass(frozen=True)
class PruneSummary:
    """What `prune_table` removed.

    Attributes
    ----------
    generations : int
        Generations but the current one.
    parts : int
        Their parts.
    size_bytes : int
        The size of these.
    held : dict of str to tuple of str
        Generations that stay, though they are not current, and who holds them.
    """

    generations: int
    parts: int
    size_bytes: int
    held: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read_manifest(folder: Path) -> Manifest:
    """Return a folder's manifest, an empty one where there is none yet."""
    return Manifest.read(folder) if (folder / MANIFEST_FILE).exists() else Manifest()


def choose_generation(manifest: Manifest, encoder: TextEncoder, template: ItemTemplate, *, share: bool) -> Generation:
    """Return the generation that `encoder` continues, or a new one.

    Raises
    ------
    TableFingerprintError
        When `share` is asked for and the artifact's certificate does not say that the two numerics classes agree.
    """
    fingerprint = encoder.table_fingerprint(template)
    made_of = (encoder.artifact.fingerprint, encoder.numerics, template.fingerprint)
    if fingerprint in manifest.generations:
        return manifest.generations[fingerprint]
    new = Generation(fingerprint, *made_of, encoder.dim)
    related = [
        generation
        for generation in manifest.generations.values()
        if (generation.artifact, generation.template_sha256) == (made_of[0], made_of[2])
    ]
    if not related:
        return new
    # The current one if it is among them: it is what readers see.
    held = next((one for one in related if one.fingerprint == manifest.current), related[-1])
    if not share:
        warnings.warn(
            f"the table holds these texts' vectors of {held.numerics}; {encoder.numerics} begins a generation of its "
            "own and encodes all of them: pass share=True (--share) to go on with the old one",
            LLMFeatWarning,
            stacklevel=3,
        )
        return new
    # Each that wrote a part: two that agree with a third need not agree with each other.
    for numerics in sorted({held.numerics, *(part.numerics for part in held.parts)}):
        cosine = agreement(encoder.artifact.spec, numerics, encoder.numerics)
        if cosine is None or not cosine >= AGREE:
            measured = (
                "are not compared in its certificate" if cosine is None else f"have a cosine of {cosine:.6f} only"
            )
            raise TableFingerprintError(
                f"the table holds vectors of {numerics}, and {encoder.numerics} is to add to them, but for "
                f"{encoder.artifact.path} the two {measured}, at least {AGREE} is needed: run `llmfeat certify "
                f"{encoder.artifact.path}` where each of them works, take backend={numerics!r}, or do not share"
            )
    return held


def agreement(spec: ArtifactSpec, one: str, other: str) -> float | None:
    """Return the least cosine that two numerics classes can have by the certificate, None where it does not say.

    Each was compared with the reference; the angle between two vectors is at most the sum of theirs with a third.
    """
    if one == other:
        return 1.0
    cosines = (spec.agreement(one), spec.agreement(other))
    if cosines[0] is None or cosines[1] is None:
        return None
    return math.cos(
        sum(
            math.acos(cosine if cosine < 1 else 1.0) if cosine == cosine else math.nan
            for cosine in cosines
            if cosine is not None
        )
    )


def prune_table(table: str | Path) -> PruneSummary:
    """Remove every generation of a table but the current one and those that something holds, and say what went.

    A ranker that is registered holds the vectors that it serves: see `hold_generation`.

    Raises
    ------
    TableNotFoundError, TableFingerprintError
        When there is no table, or no generation of it was completed.
    TableWriteError
        When another process writes to it, or it cannot be written.
    """
    folder = Path(table)
    with locked(folder):
        manifest = Manifest.read(folder)
        current = manifest.generation(where=folder)
        holders = held_generations(folder)
        kept = {current.fingerprint, *holders}
        old = [one for name, one in manifest.generations.items() if name not in kept]
        with writing(folder):
            if old:
                # The manifest first: what it names is always there.
                manifest.only(*(name for name in manifest.generations if name in kept)).write(folder)
            for generation in old:
                shutil.rmtree(folder / part_folder(generation.fingerprint), ignore_errors=True)
    parts = [part for generation in old for part in generation.parts]
    held = {name: by for name, by in holders.items() if name in manifest.generations and name != current.fingerprint}
    return PruneSummary(len(old), len(parts), sum(part.size_bytes for part in parts), held)


def hold_generation(table: str | Path, fingerprint: str, *, by: str) -> None:
    """Keep a generation from being pruned, in the name of what serves it; one name may hold several.

    Raises
    ------
    TableNotFoundError, TableFingerprintError
        When there is no table, or no such generation.
    """
    folder = Path(table)
    Manifest.read(folder).generation(fingerprint, where=folder)
    if not by.isidentifier():
        raise InputError(f"by={by!r}, but letters, digits and _ were expected: it is the name of a file")
    path = folder / _HOLDS / f"{by}.json"
    names = sorted({fingerprint, *(json.loads(path.read_text(encoding="utf-8")) if path.is_file() else [])})
    atomic_write(path, (json.dumps(names) + "\n").encode())


def release_generation(table: str | Path, *, by: str, but: Iterable[str] = ()) -> None:
    """Let go of what a name holds, if it holds any, but for some of it."""
    path = Path(table) / _HOLDS / f"{by}.json"
    kept = sorted(set(but) & set(json.loads(path.read_text(encoding="utf-8")))) if path.is_file() else []
    if kept:
        atomic_write(path, (json.dumps(kept) + "\n").encode())
    else:
        path.unlink(missing_ok=True)


def held_generations(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the generations that are held, and the names that hold each."""
    held: dict[str, tuple[str, ...]] = {}
    for path in sorted((folder / _HOLDS).glob("*.json")):
        for fingerprint in json.loads(path.read_text(encoding="utf-8")):
            held[fingerprint] = (*held.get(fingerprint, ()), path.stem)
    return held


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a table's folder, made if need be, against other writers; a process that dies lets go."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(claimed(folder))
        except BlockingIOError as error:
            raise TableWriteError(
                f"another process writes to {folder}: wait for it to end, then run again; what it writes will be kept"
            ) from error
        except OSError as error:
            raise TableWriteError(
                f"{folder} cannot be locked ({error.strerror or error}): put the table on a disk that knows locks"
            ) from error
        yield


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say what to do when a table's folder cannot be written."""
    try:
        yield
    except LLMFeatError:
        raise
    except OSError as error:
        raise TableWriteError(
            f"{folder} cannot be written ({error.strerror or error}): free some space, or make it writable, then run "
            "again; what was written before is kept"
        ) from error
