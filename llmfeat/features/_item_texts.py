"""The texts of a catalogue's items, from a frame and its template, or as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.frames import id_array, id_column, require_rows
from llmfeat.errors import DuplicateIdError, InputError
from llmfeat.features._columns import text_array
from llmfeat.text import ItemTemplate, Truncate

__all__ = ["as_item_template", "item_texts"]

_TEXT = ItemTemplate("{text}")


def item_texts(
    items: Any, template: ItemTemplate | str | None, *, item_id: str, truncate: Truncate | None = None
) -> tuple[pa.StringArray, pa.Array]:
    """Return ids and texts of the items, null where one has none.

    Parameters
    ----------
    items : data frame or mapping of ids to texts
        A frame with the column `item_id`, one row per item, for `template`; or a mapping, where None is no text.
    template : ItemTemplate, str or None
        How a row becomes a text.
    item_id : str
        The column of the ids.
    truncate : callable, optional
        See `ItemTemplate.render`.

    Raises
    ------
    InputError
        When the two do not fit, or there is no item.
    DuplicateIdError
        When an id comes twice.
    """
    what = "items"
    if isinstance(items, Mapping):
        if template is not None:
            raise InputError(
                "items is a mapping of texts and item_template was passed too, but a template needs columns: pass "
                "a data frame, or leave the template out"
            )
        ids = id_array(list(items), what="the ids of items")
        texts = _TEXT.render_arrow(pa.table({"text": text_array(items.values())}))
    elif items is None or template is None:
        raise InputError(
            f"items is a {type(items).__name__} and item_template={template!r}, but a mapping of "
            "ids to texts, or a data frame and its template, was expected"
        )
    else:
        ids = id_column(items, item_id, what=what)
        texts = as_item_template(template).render_arrow(items, truncate=truncate)
    require_rows(len(ids), what=what)
    n_twice = len(ids) - len(pc.unique(ids))
    if n_twice:
        raise DuplicateIdError(f"{n_twice} of {len(ids)} ids of items come more than once: keep one text per item")
    return ids, texts


def as_item_template(template: ItemTemplate | str) -> ItemTemplate:
    """Return a template, made of its string where it is one."""
    return template if isinstance(template, ItemTemplate) else ItemTemplate(template)
