"""Every example runs, and shows what it says."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("*_ranker.py"))
# Others that print a score without and with history, and by how much it grows at least.
SHOWN = {"deepfm": 0.02, "skrecsys_cascade": 0.01}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_history_adds_to_the_ranker(path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.delitem(sys.modules, "_made_up", raising=False)
    runpy.run_path(str(path), run_name="__main__")
    without, with_history = (
        float(score) for score in re.findall(r"history: NDCG@10 (0\.\d+)", capsys.readouterr().out)
    )
    assert with_history > without + 0.02


def test_there_is_an_example_for_each_library():
    assert {path.stem for path in EXAMPLES} >= {"catboost_ranker", "lightgbm_ranker", "xgboost_ranker"}
    assert {path.stem for path in FOLDER.glob("[!_]*.py")} == {path.stem for path in EXAMPLES} | {
        *SHOWN,
        "two_tower",
        "embedding_matrix",
    }


@pytest.mark.parametrize("name", SHOWN)
def test_history_adds_to_what_is_no_pipeline(name, capsys, monkeypatch):
    said = shown(name, capsys, monkeypatch)
    without, with_history = (float(score) for score in re.findall(r"history: (?:AUC )?(0\.\d+)", said))
    assert with_history > without + SHOWN[name]


def test_two_towers_find_what_comes_next(capsys, monkeypatch):
    said = shown("two_tower", capsys, monkeypatch)
    recall, chance = (float(share) for share in re.findall(r"(?:items:|chance) (0\.\d+)", said))
    assert recall > 2 * chance
    assert float(re.findall(r"(0\.\d+) are of the topic", said)[0]) > 0.6  # by chance 0.2
    assert float(re.findall(r"torch: (\S+)", said)[0]) < 1e-6


def test_vectors_tell_of_items_that_a_model_never_saw(capsys, monkeypatch):
    said = shown("embedding_matrix", capsys, monkeypatch)
    without, with_vectors = (float(score) for score in re.findall(r"vectors: AUC (0\.\d+)", said))
    assert abs(without - 0.5) < 0.15
    assert with_vectors > without + 0.1
    assert "60 of 61 rows have a vector, 0 the mean" in said


def shown(name, capsys, monkeypatch):
    """Run an example, and return what it printed."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "_made_up", raising=False)
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_a_double_whose_users_have_no_taste_fails_that_check(tmp_path, capsys, monkeypatch):
    """The gain is the planted one: without it, the history has nothing to add."""
    planted = "(taste[user] * vectors[item]).sum(axis=1)"
    for path in FOLDER.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert (planted in text) == (path.stem == "_made_up")
        (tmp_path / path.name).write_text(text.replace(planted, f"0 * {planted}"), encoding="utf-8")
    with pytest.raises(AssertionError):
        test_history_adds_to_the_ranker(tmp_path / "lightgbm_ranker.py", capsys, monkeypatch)
