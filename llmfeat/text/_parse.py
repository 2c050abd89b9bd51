"""Template strings to their parts: literal text, fields, limits, sections. Nothing in a template is ever executed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from llmfeat.errors import TemplateError

__all__ = ["Section", "is_plain_name", "parse_frame", "parse_sections"]

# The name of a group is the kind of the token; the longest alternative comes first.
_FIELD = r"\{(?P<field>[^{}]*)\}|(?P<stray>[{}])"
_FRAME_TOKEN = re.compile(rf"(?P<doubled>\{{\{{|\}}\}})|{_FIELD}")
_SECTION_TOKEN = re.compile(rf"(?P<doubled>\{{\{{|\}}\}}|\[\[|\]\])|(?P<bracket>[\[\]])|{_FIELD}")
_LIMITED = re.compile(r"(?P<name>.*):(?P<n_tokens>[0-9]+)", re.DOTALL)
_MAX_LIMIT = 10**9

# A piece of a template: literal text, or the name of a field.
_Piece: TypeAlias = tuple[str, bool]


@dataclass(frozen=True)
class Section:
    """Pieces that are rendered together; an optional one is left out when one of its fields is missing."""

    pieces: tuple[_Piece, ...]
    optional: bool


def parse_sections(template: str) -> tuple[tuple[Section, ...], dict[str, int]]:
    """Return the sections of an item template, and the limits of its fields in tokens."""
    sections: list[Section] = []
    limits: dict[str, int | None] = {}
    pieces: list[_Piece] = []
    in_section = False
    for kind, text in _tokens(template, _SECTION_TOKEN):
        if kind == "bracket":
            if (text == "[") == in_section:
                problem = "a section within a section" if in_section else "a ']' without its '['"
                raise TemplateError(f"the template {template!r} has {problem}: double a bracket to mean itself")
            sections.append(Section(tuple(pieces), optional=in_section))
            pieces, in_section = [], not in_section
        elif kind == "field":
            name, limit = _name_and_limit(template, text)
            if limits.setdefault(name, limit) != limit:
                raise TemplateError(
                    f"the template {template!r} limits {name!r} to {limits[name] or 'no'} tokens and to {limit or 'no'}"
                    " tokens, but a field has one limit: write the same one in both places"
                )
            pieces.append((name, True))
        else:
            pieces.append((text, False))
    if in_section:
        raise TemplateError(f"the template {template!r} has a '[' without its ']': close it, or double it")
    sections.append(Section(tuple(pieces), optional=False))
    return tuple(sections), {name: limit for name, limit in limits.items() if limit is not None}


def parse_frame(template: str, field: str) -> tuple[str, str]:
    """Return the literal text before and after the one field of a template."""
    parts = [""]
    for kind, text in _tokens(template, _FRAME_TOKEN):
        if kind == "text":
            parts[-1] += text
        elif text.strip() == field:
            parts.append("")
        else:
            raise TemplateError(
                f"the template {template!r} has the field {text!r}, but only {{{field}}} was expected: "
                "double a brace to mean itself"
            )
    if len(parts) != 2:
        raise TemplateError(
            f"the template {template!r} has {{{field}}} {len(parts) - 1} times, but once was expected: write it once"
        )
    return parts[0], parts[1]


def is_plain_name(name: str) -> bool:
    """Return whether a column name, put in braces, stands for that column and nothing else."""
    return bool(name) and name == name.strip() and not set(name) & set("{}[]") and not _LIMITED.fullmatch(name)


def _tokens(template: str, pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Yield (kind, text), where the kind is text, field or bracket."""
    if not isinstance(template, str):
        raise TemplateError(f"template={template!r}, but a str was expected: pass one that names fields, {{column}}")
    end = 0
    for match in pattern.finditer(template):
        if end < match.start():
            yield "text", template[end : match.start()]
        end = match.end()
        kind = str(match.lastgroup)
        if kind == "stray":
            raise TemplateError(f"the template {template!r} has a lone {match[0]!r}: double it to mean itself")
        yield ("text", match[0][0]) if kind == "doubled" else (kind, match[kind])
    if end < len(template):
        yield "text", template[end:]


def _name_and_limit(template: str, field: str) -> tuple[str, int | None]:
    limited = _LIMITED.fullmatch(field.strip())
    name = (limited["name"] if limited else field).strip()
    if not name:
        raise TemplateError(f"the template {template!r} has a field without a name: write {{column}}")
    if not limited:
        return name, None
    # Python refuses to read an integer of thousands of digits, so only the first are read.
    limit = int(limited["n_tokens"][:10])
    if not 0 < limit < _MAX_LIMIT:
        raise TemplateError(
            f"the template {template!r} limits {name!r} to {limited['n_tokens'][:10]} tokens, but 1 to {_MAX_LIMIT - 1}"
            " were expected: write such a limit, or leave the field out"
        )
    return name, limit
