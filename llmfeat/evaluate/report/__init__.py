"""``report.html``: the content of ``lift.json`` on one page that needs nothing else."""

from llmfeat.evaluate.report.labels import ARM_LABELS
from llmfeat.evaluate.report.page import render_report

__all__ = ["ARM_LABELS", "render_report"]
