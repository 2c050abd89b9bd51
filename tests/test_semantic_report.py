from __future__ import annotations

import numpy as np
import pytest

from llmfeat.features.semantic import SemanticIds
from llmfeat.features.semantic.report import level_use
from tests.test_semantic_residual import LINE


class TestReport:
    def test_by_hand(self):
        report = SemanticIds(levels=(2, 2), normalize=False).fit(np.vstack([LINE, [[np.nan]]])).report_
        assert (report.n_items, report.n_missing, report.n_distinct) == (4, 1, 4)
        assert (report.collision_rate, report.largest_collision) == (0, 1)
        first, second = report.levels
        assert (first.n_codes, first.n_used) == (2, 2)
        assert first.perplexity == pytest.approx(2)
        assert first.balance == pytest.approx(1)
        assert first.unexplained == pytest.approx(0.25 / 25.25)
        assert second.unexplained == 0
        assert {type(value) for value in (first.perplexity, first.balance, first.unexplained)} == {float}

    def test_collisions_and_use_of_other_items(self):
        ids = SemanticIds(levels=(2, 2), normalize=False).fit(LINE)
        report = ids.report(np.array([[0], [0.1], [0.2], [1]], dtype=np.float32))
        assert (report.n_items, report.n_distinct, report.largest_collision) == (4, 2, 3)
        assert report.collision_rate == 0.75
        assert (report.levels[0].n_used, report.levels[0].perplexity, report.levels[0].balance) == (1, 1, 0)
        assert report.levels[1].balance == pytest.approx(-(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75)))

    def test_of_nothing_but_missing_items(self):
        report = SemanticIds(levels=(2, 2), normalize=False).fit(LINE).report([[np.nan], [np.nan]])
        assert (report.n_items, report.n_missing, report.collision_rate, report.largest_collision) == (0, 2, 0, 0)

    def test_one_code_explains_nothing(self):
        use = level_use(np.zeros(4, dtype=np.int32), 1, error=2.0, variance=2.0)
        assert (use.perplexity, use.balance, use.unexplained) == (1, 1, 1)
