"""Templates of item texts: a string with field names, and sections that vanish when a field is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from llmfeat._base.files import canonical_json, text_sha256
from llmfeat._base.frames import column, require_columns, to_frame
from llmfeat.errors import TemplateError
from llmfeat.text._cells import TEXT, text_cells
from llmfeat.text._file import load_template
from llmfeat.text._join import collapse, compact, join_sections
from llmfeat.text._parse import Section, is_plain_name, parse_sections
from llmfeat.text._truncate import Truncate, cut_distinct, require_truncate

__all__ = ["ItemTemplate"]

# Bumped when the same template and row give another text: it is a part of the fingerprint.
_RENDERING = 1
_WHAT = "the item catalogue"


@dataclass(frozen=True)
class ItemTemplate:
    """A text per item, from its columns.

    ``{name}`` stands for a column. A section in square brackets is left out when one of its fields is missing (null,
    NaN, or only spaces). A field outside of brackets is required: an item without it has no text, and is rendered as
    None, never as an empty string that would be encoded into a vector that looks real. Double a bracket to mean
    itself. Runs of white space become one space; lists are joined by commas.

    ``{name:128}`` is at most 128 tokens of a column, so that a long description never pushes out what stands after
    it. Only digits after the last colon are a limit: ``{16:9 cut}`` is the column ``16:9 cut``, and ``{cut 16:9:64}``
    is 64 tokens of the column ``cut 16:9``. Nothing else in braces means anything: ``{x.y}`` and ``{0}`` are columns
    of those names.

    Parameters
    ----------
    template : str
        Such as ``"{title}[ ({year})][. Genres: {genres}][. {description:128}]"``.

    Raises
    ------
    TemplateError
        When brackets do not match, sections nest, there is no field, or a field has two limits or one of zero.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from llmfeat.text import ItemTemplate
    >>> template = ItemTemplate("{title}[ ({year})]")
    >>> template.render(pa.table({"title": ["Heat", "Alien", None], "year": [1995, None, 2000]}))
    ['Heat (1995)', 'Alien', None]
    """

    template: str

    def __post_init__(self) -> None:
        if not self.fields:
            raise TemplateError(f"the template {self.template!r} names no field: write one as {{column}}")

    @classmethod
    def of_columns(cls, columns: Sequence[str]) -> Self:
        """Return the template that a list of columns stands for: the first is required, the others are optional.

        Raises
        ------
        TemplateError
            When there is no column, one comes twice, or a name has a meaning in templates.

        Examples
        --------
        >>> ItemTemplate.of_columns(["title", "description"])
        ItemTemplate(template='{title}[. {description}]')
        """
        names = [columns] if isinstance(columns, str) else list(columns)
        if isinstance(columns, str) or not names or len(set(names)) < len(names):
            raise TemplateError(
                f"columns={columns!r}, but a list of one or more distinct columns was expected: pass ['title', ...]"
            )
        special = [name for name in names if not (isinstance(name, str) and is_plain_name(name))]
        if special:
            raise TemplateError(
                f"columns={columns!r} has {special}, but names without braces, brackets, outer spaces or a ':128' at "
                "the end were expected: write the template, ItemTemplate('{title}[. {...}]'), or rename the column"
            )
        return cls(f"{{{names[0]}}}" + "".join(f"[. {{{name}}}]" for name in names[1:]))

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Return the template in the table ``[item]`` of a TOML file: ``template = "{title}[ ({year})]"``.

        Raises
        ------
        TemplateError
            When there is no such file or table, or it holds anything else.
        """
        return load_template(cls, path, "item")

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The columns that the template needs, in order of appearance."""
        names = (text for section in self._sections for text, is_field in section.pieces if is_field)
        return tuple(dict.fromkeys(names))

    @property
    def limits(self) -> Mapping[str, int]:
        """How many tokens of a field are rendered at most, for those that have a limit."""
        return dict(self._parsed[1])

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of everything that can change a rendered text, in hex."""
        return text_sha256(canonical_json({"template": self.template, "rendering": _RENDERING}))

    def render(self, items: Any, *, truncate: Truncate | None = None) -> list[str | None]:
        """Return a text for each row of a pandas, polars or Arrow frame, None where it has none.

        Parameters
        ----------
        items : data frame
            One row per item.
        truncate : callable, optional
            Takes texts and a number of tokens, and returns the texts cut to it; needed by a template with limits. It
            is called at most once per limited field, on distinct texts.

        Raises
        ------
        MissingColumnError
            When `items` lacks a column that the template names.
        InputError
            When such a column holds bytes or structures.
        TemplateError
            When the template has limits and `truncate` is not passed.
        """
        texts: list[str | None] = self.render_arrow(items, truncate=truncate).to_pylist()
        return texts

    def render_arrow(self, items: Any, *, truncate: Truncate | None = None) -> pa.StringArray | pa.LargeStringArray:
        """Return what `render` does as an Arrow array, null where a row has no text; a large one from 2 GB on."""
        if self.limits:
            require_truncate(truncate, what=f"the template {self.template!r} limits {list(self.limits)}")
        require_columns(to_frame(items, what=_WHAT), self.fields, what=_WHAT)
        return compact(
            join_sections(self._sections, {name: self._cells(items, name, truncate) for name in self.fields})
        )

    def _cells(self, items: Any, name: str, truncate: Truncate | None) -> pa.LargeStringArray:
        cells = text_cells(column(items, name, what=_WHAT), what=f"the column {name!r} of {_WHAT}")
        if truncate is None or name not in self.limits:
            return cells
        # White space is collapsed first, since it would count as tokens that are not rendered.
        distinct = collapse(cells).dictionary_encode()
        texts = distinct.dictionary.to_pylist()
        cut = cut_distinct(texts, self.limits[name], truncate)
        return pa.array([cut.get(text, text) or None for text in texts], TEXT).take(distinct.indices)

    @property
    def _sections(self) -> tuple[Section, ...]:
        return self._parsed[0]

    @cached_property
    def _parsed(self) -> tuple[tuple[Section, ...], dict[str, int]]:
        return parse_sections(self.template)
