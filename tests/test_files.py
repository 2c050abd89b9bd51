"""Folders that are replaced as a whole, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llmfeat._base import files
from llmfeat._base.files import atomic_folder, replace_folder


def write(path: Path, text: str) -> None:
    with atomic_folder(path) as staging:
        (staging / "one").write_text(text)
        (staging / "two").write_text(text)


def test_a_block_that_fails_leaves_the_old_folder(tmp_path):
    path = tmp_path / "artifact"
    write(path, "old")
    with contextlib.suppress(KeyError), atomic_folder(path) as staging:
        (staging / "one").write_text("new")
        raise KeyError
    assert {entry.name: entry.read_text() for entry in path.iterdir()} == {"one": "old", "two": "old"}
    with atomic_folder(path) as staging:
        (staging / "three").write_text("3")
    assert [entry.name for entry in path.iterdir()] == ["three"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["artifact"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names are exchanged in one step on Linux")
def test_a_reader_never_misses_the_folder(tmp_path):
    path = tmp_path / "artifact"
    write(path, "0")
    missed: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            if not (path / "one").exists():
                missed.append(FileNotFoundError(str(path)))

    reader = threading.Thread(target=read)
    reader.start()
    for at in range(200):
        write(path, str(at))
    done.set()
    reader.join()
    assert missed == []


def test_where_names_cannot_be_exchanged_they_are_moved(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda one, two: False)
    path = tmp_path / "artifact"
    write(path, "old")
    write(path, "new")
    assert (path / "one").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["artifact"]
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "nothing", path)
    assert (path / "one").read_text() == "new"


def test_a_killed_process_leaves_the_old_folder_and_the_next_one_cleans_up(tmp_path, monkeypatch):
    path = tmp_path / "artifact"
    write(path, "old")
    code = (
        "import sys, time; from pathlib import Path; from llmfeat._base.files import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as staging:\n"
        "    (staging / 'one').write_text('new'); print(staging, flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    staging = Path(process.stdout.readline().strip())
    monkeypatch.setattr(files, "_NEW_S", -1)
    write(path, "meanwhile")
    assert staging.exists(), "it belongs to a process that lives"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert (path / "two").read_text() == "meanwhile"
    assert staging.exists()
    write(path, "after")
    assert [entry.name for entry in tmp_path.iterdir()] == ["artifact"]


def test_an_old_folder_that_was_moved_aside_comes_back(tmp_path, monkeypatch):
    """Killed between the two renames, where names cannot be exchanged in one step."""
    path = tmp_path / "artifact"
    write(path, "old")
    path.rename(tmp_path / ".artifact.abc.staging.old")
    monkeypatch.setattr(files, "_NEW_S", -1)
    with contextlib.suppress(KeyError), atomic_folder(path):
        assert (path / "one").read_text() == "old"
        raise KeyError
    (tmp_path / ".artifact.def.staging.old").mkdir()
    write(path, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["artifact"]


def test_a_folder_that_was_just_made_is_left_to_its_maker(tmp_path):
    young = tmp_path / ".artifact.abc.staging"
    young.mkdir()
    write(tmp_path / "artifact", "x")
    assert young.exists()
    os.utime(young, (time.time() - 3600,) * 2)
    write(tmp_path / "artifact", "y")
    assert not young.exists()
