"""The items: their ids, and texts that are clean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmfeat._base.frames import require_rows
from llmfeat._base.rows import open_rows
from llmfeat.errors import InputError, MissingColumnError
from llmfeat.evaluate.inputs.cells import filled, id_cells, joined, whole_ids
from llmfeat.evaluate.inputs.finding import Finding, said_share
from llmfeat.evaluate.inputs.html import plain_texts
from llmfeat.evaluate.inputs.names import closest_name, missing_column
from llmfeat.evaluate.inputs.spec import InputSpec
from llmfeat.text._cells import TEXT, text_cells
from llmfeat.types import BoolArray

__all__ = ["Catalogue", "read_catalogue", "with_items"]

_WHAT = "the item catalogue"


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Distinct ids, their texts, what was noticed; `items` has a row for each id, in order."""

    item_ids: pa.StringArray
    items: pa.Table
    findings: tuple[Finding, ...]


def read_catalogue(spec: InputSpec) -> Catalogue:
    """Return the items of the catalogue, the first of each id, with the columns of their texts.

    Raises
    ------
    MissingColumnError, EmptyInputError, InputError
        When a column is not there, there is no item, half of the ids are null, or no item has a text.
    """
    names = spec.item_template.fields
    ids, texts = _read(spec, names)
    n_rows = len(ids)
    require_rows(n_rows, what=_WHAT)
    ids, n_whole = whole_ids(ids)
    has_id = filled(ids)
    _require_ids(has_id, spec)
    kept = has_id & _first(ids)
    findings = [
        *_note("item_ids_whole", n_whole, n_rows, "item ids of the catalogue are whole floats", "7.0 is read as 7"),
        *_note("items_without_id", int((~has_id).sum()), n_rows, "rows of the catalogue have no id", "left out"),
        *_note(
            "duplicate_items", int((has_id & ~kept).sum()), n_rows, "items of the catalogue repeat an id", "first kept"
        ),
    ]
    rows = pa.array(np.flatnonzero(kept))
    plain, changed = {}, np.zeros(int(kept.sum()), dtype=np.bool_)
    for name, cells in texts.items():
        plain[name], hit = plain_texts(cells.take(rows))
        changed |= hit
    if not any(len(column) - column.null_count for column in plain.values()):
        raise InputError(
            f"{_WHAT} has no text in {list(names)} of {n_rows:,} rows, but some were expected: name other columns with "
            "--text"
        )
    n_html = int(changed.sum())
    findings += _note("html", n_html, len(changed), "items have HTML in their text", "read as plain text")
    kept_ids = ids.take(rows)
    # A template may name the column of ids, too.
    items = pa.table({**plain, spec.item_id: kept_ids})
    return Catalogue(kept_ids, items.select(list(dict.fromkeys((spec.item_id, *names)))), tuple(findings))


def with_items(catalogue: Catalogue, ids: pa.StringArray, spec: InputSpec) -> Catalogue:
    """Return the catalogue, followed by those of the ids that it lacks, in order and without text."""
    seen = pc.unique(ids)
    lacking = seen.filter(pc.invert(pc.is_in(seen, catalogue.item_ids)))
    if not len(lacking):
        return catalogue
    if len(lacking) == len(seen):
        raise InputError(
            f"none of the {len(seen):,} items of the interaction log, such as {seen[0].as_py()!r}, is among the "
            f"{len(catalogue.item_ids):,} of the catalogue, such as {catalogue.item_ids[0].as_py()!r}, but one set of "
            "ids was expected: name the column that holds it in both files with --item-id"
        )
    rows = pa.table({spec.item_id: lacking})
    items = pa.concat_tables([catalogue.items, rows], promote_options="default").combine_chunks()
    said = f"{said_share(len(lacking), len(seen))} items of the log are not in the catalogue"
    finding = Finding(
        "items_not_in_catalogue",
        "warning" if 10 * len(lacking) > len(seen) else "note",
        len(lacking),
        len(seen),
        said,
        "kept as items without text",
    )
    return Catalogue(pa.concat_arrays([catalogue.item_ids, lacking]), items, (*catalogue.findings, finding))


def _read(spec: InputSpec, names: tuple[str, ...]) -> tuple[pa.StringArray, dict[str, pa.LargeStringArray]]:
    source = open_rows(spec.items, what=_WHAT, strings=(spec.item_id, *names))
    try:
        batches = source.batches([spec.item_id, *names])
    except MissingColumnError:
        raise _missing(spec, names, source.columns) from None
    ids: list[pa.Array] = [pa.array([], pa.string())]
    texts: dict[str, list[pa.Array]] = {name: [pa.array([], TEXT)] for name in names}
    for batch in batches:
        ids.append(id_cells(batch.table.column(spec.item_id), what=f"the column {spec.item_id!r} of {_WHAT}"))
        for name in names:
            what = f"the column {name!r} of {_WHAT}"
            cells = joined([batch.table.column(name)], what=what)
            texts[name].append(cells.cast(TEXT) if pa.types.is_null(cells.type) else text_cells(cells, what=what))
    return pa.concat_arrays(ids), {name: pa.concat_arrays(chunks) for name, chunks in texts.items()}


def _missing(spec: InputSpec, names: tuple[str, ...], columns: tuple[str, ...]) -> MissingColumnError:
    """Return the error for columns that the catalogue lacks."""
    log_has_it = spec.item_id in open_rows(spec.interactions, what="the interaction log").columns
    if spec.item_id not in columns and log_has_it:
        free = [name for name in columns if name not in names]
        likely = (closest_name(name, free, option="--item-id") for name in (spec.item_id, "item_id"))
        found = next(filter(None, likely), None)
        rename = f"rename {found!r} to it" if found else "rename the column that holds them"
        return MissingColumnError(
            f"{_WHAT} has the columns {list(columns)} but {spec.item_id!r} is needed, as in the interaction log: "
            f"{rename}"
        )
    asked = [("--item-id", spec.item_id), *(("--text" if spec.text else "--template", name) for name in names)]
    missing = [(option, name) for option, name in asked if name not in columns]
    return missing_column(missing, columns, what=_WHAT, taken=(spec.item_id, *names))


def _require_ids(has_id: BoolArray, spec: InputSpec) -> None:
    n_null = int((~has_id).sum())
    if 2 * n_null > len(has_id):
        raise InputError(
            f"the column {spec.item_id!r} of {_WHAT} is null in {said_share(n_null, len(has_id))} rows, but most were "
            "expected to have an id: fill it, or name another column with --item-id"
        )


def _first(ids: pa.StringArray) -> BoolArray:
    """Return which ids did not come before."""
    codes = ids.dictionary_encode().indices.fill_null(-1).to_numpy()
    first = np.zeros(len(codes), dtype=np.bool_)
    first[np.unique(codes, return_index=True)[1]] = True
    return first


def _note(code: str, count: int, of: int, what: str, handling: str) -> list[Finding]:
    return [Finding(code, "note", count, of, f"{said_share(count, of)} {what}", handling)] if count else []
