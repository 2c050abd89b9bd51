"""Every example runs, and shows what it says."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*_ranker.py"))


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


def test_a_double_whose_users_have_no_taste_fails_that_check(tmp_path, capsys, monkeypatch):
    """The gain is the planted one: without it, the history has nothing to add."""
    planted = "(taste[user] * vectors[item]).sum(axis=1)"
    for path in EXAMPLES[0].parent.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert (planted in text) == (path.stem == "_made_up")
        (tmp_path / path.name).write_text(text.replace(planted, f"0 * {planted}"), encoding="utf-8")
    with pytest.raises(AssertionError):
        test_history_adds_to_the_ranker(tmp_path / "lightgbm_ranker.py", capsys, monkeypatch)
