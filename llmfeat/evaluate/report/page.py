"""The page: sections that have something to show, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import jinja2

from llmfeat.errors import InputError
from llmfeat.evaluate.report import record, results
from llmfeat.evaluate.report.words import answer_of

__all__ = ["render_report"]

_SCHEMA = 1
_NEEDED = ("task", "data", "arms", "lift", "verdict")


class _Section(NamedTuple):
    """A part of the page; `view` gives what its template of the same name shows, or nothing to leave it out."""

    name: str
    title: str
    view: Callable[[Mapping[str, Any]], Any]


_SECTIONS = (
    _Section("arms", "How well each arm ranks", results.arms_of),
    _Section("adds", "What each part adds", results.adds_of),
    _Section("popularity", "Where the gain is", results.popularity_of),
    _Section("importance", "What the model uses", results.importance_of),
    _Section("candidates", "Finding and ranking, apart", results.candidates_of),
    _Section("examples", "Examples", record.examples_of),
    _Section("cost", "What it costs", record.cost_of),
    _Section("serving", "As it would serve", record.serving_of),
    _Section("preflight", "What the data are like", record.preflight_of),
    _Section("method", "To repeat it", record.method_of),
    _Section("metrics", "All metrics", record.metrics_of),
)


def render_report(lift: Mapping[str, Any]) -> str:
    """Return the page for the content of ``lift.json``: HTML that fetches nothing and runs no script.

    Parameters
    ----------
    lift : mapping
        The content of ``lift.json``, schema 1. Parts that it lacks have no section.

    Raises
    ------
    InputError
        When `lift` is of another schema, or lacks what every report rests on.
    """
    if lift.get("schema", _SCHEMA) != _SCHEMA:
        raise InputError(
            f"lift has schema {lift['schema']!r} but this version reads {_SCHEMA}: "
            "render it with the version of llmfeat that wrote it"
        )
    missing = [name for name in _NEEDED if name not in lift]
    if missing:
        raise InputError(f"lift has the keys {sorted(lift)} but {missing} is needed: pass all that lift.json holds")
    shown = [(section, view) for section in _SECTIONS if (view := section.view(lift)) is not None]
    return _environment().get_template("page.html.j2").render(lift=lift, answer=answer_of(lift), sections=shown)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("llmfeat.evaluate.report", "templates"),
        # Names of data, columns and texts come from others: nothing of them is taken as markup.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
