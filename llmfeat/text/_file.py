"""Templates from a TOML file, which holds values and never code."""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, cast

from llmfeat.errors import TemplateError

__all__ = ["load_template"]

_TABLES = ("item", "history", "prompt")
_T = TypeVar("_T")


def load_template(kind: type[_T], path: str | Path, table: str) -> _T:
    """Return the template of class `kind` that a table of a TOML file describes.

    Raises
    ------
    TemplateError
        When there is no such file or table, it is no TOML, or a key or value is not one of `kind`.
    """
    document = _read(Path(path))
    unknown = sorted(set(document) - set(_TABLES))
    if unknown:
        raise TemplateError(
            f"{path} has {unknown}, but the tables [item], [history] and [prompt] were expected: remove the rest"
        )
    values = document.get(table)
    if not isinstance(values, dict):
        raise TemplateError(f"{path} has no table [{table}], but one was expected: add it, with its template = '...'")
    parameters = fields(cast(Any, kind))
    known = [field.name for field in parameters]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise TemplateError(f"[{table}] of {path} has the keys {unknown}, but only {known} are known: remove the rest")
    missing = [field.name for field in parameters if field.default is MISSING and field.name not in values]
    if missing:
        raise TemplateError(f"[{table}] of {path} lacks {missing}, which it needs: add the key")
    try:
        return kind(**values)
    except TemplateError as error:
        raise TemplateError(f"[{table}] of {path}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise TemplateError(
            f"{path} cannot be read ({error.strerror}), but a TOML file with [item] or [history] was expected: "
            "check the path"
        ) from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, bytes that are no UTF-8, nesting without end
        raise TemplateError(f"{path} is no TOML ({error}), but a TOML file was expected: mend it there") from error
