"""One row of an input as a document: which columns make it, and why a row makes none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nestvec.client.values import IngestDocument
from nestvec.core.document import FieldValue
from nestvec.core.errors import NestvecError
from nestvec.core.fields import FieldType


class UnreadableInput(NestvecError):
    """An input that is not what it was said to be, as a whole."""


class _Unfit(Exception):
    """A row that makes no document."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns, or JSON keys, make a document.

    id: None for `id` where there is one, else `file:line`. fields: None for all that are left.
    types: of fields that the collection declares, for formats that know only text.
    """

    id: str | None = None
    text: str = "text"
    fields: tuple[str, ...] | None = None
    types: Mapping[str, FieldType] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """A document, or why there is none. where: `file:line`, the line counted from 1."""

    where: str
    document: IngestDocument | None
    problem: str = ""


def entry_of(name: str, line: int, row: Mapping[str, object], columns: Columns) -> Entry:
    """A row, by its column names, as a document."""
    where = f"{name}:{line}"
    try:
        document = IngestDocument(
            _id_of(row, columns, where), _text_of(row, columns), _fields_of(row, columns)
        )
    except _Unfit as error:
        return Entry(where, None, str(error))
    return Entry(where, document)


def typed(row: Mapping[str, str], columns: Columns) -> Mapping[str, object]:
    """A row of a format that knows only text, with declared fields as their types have them."""
    if not columns.types:
        return row
    values: dict[str, object] = dict(row)
    for name, kind in columns.types.items():
        if name in row and name not in (columns.id or "id", columns.text):
            values[name] = _as_type(row[name], kind)
    return values


def _as_type(text: str, kind: FieldType) -> FieldValue | None:
    """Empty is no value, except as a keyword. What does not fit stays text: the server says why."""
    stripped = text.strip()
    if kind in (FieldType.KEYWORD, FieldType.TIME):
        return text if text or kind is FieldType.KEYWORD else None
    if not stripped:
        return None
    if kind is FieldType.BOOL:
        return {"true": True, "1": True, "false": False, "0": False}.get(stripped.lower(), text)
    try:
        return int(stripped) if kind is FieldType.INTEGER else float(stripped)
    except ValueError:
        return text


def _id_of(row: Mapping[str, object], columns: Columns, where: str) -> str:
    value = row.get(columns.id or "id")
    if value is None:
        if columns.id is None:
            return where
        raise _Unfit(f"no {columns.id!r}, which was to be the id")
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise _Unfit(f"{columns.id or 'id'!r} is a {type(value).__name__}, expected a string")


def _text_of(row: Mapping[str, object], columns: Columns) -> str:
    value = row.get(columns.text)
    if value is None:
        known = ", ".join(list(row)[:12]) or "nothing"
        raise _Unfit(f"no {columns.text!r}, which was to be the text; it has {known}")
    if not isinstance(value, str):
        raise _Unfit(f"{columns.text!r} is a {type(value).__name__}, expected a string")
    return value


def _fields_of(row: Mapping[str, object], columns: Columns) -> dict[str, FieldValue]:
    names: Sequence[str]
    if columns.fields is None:
        names = [name for name in row if name not in (columns.id or "id", columns.text)]
    else:
        names = columns.fields
    values = ((name, row.get(name)) for name in names)
    return {name: _field_value(value) for name, value in values if value is not None}


def _field_value(value: object) -> FieldValue:
    """Scalars as they are; lists and objects as JSON; dates and the like as they print."""
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def require_columns(name: str, known: Sequence[str], columns: Columns) -> None:
    """Raise UnreadableInput unless a table with columns `known` has the ones asked for."""
    wanted = [("--text-column", columns.text)]
    wanted += [("--id-column", columns.id)] if columns.id else []
    wanted += [("--field-columns", column) for column in columns.fields or ()]
    for option, column in wanted:
        if column not in known:
            raise UnreadableInput(
                f"{name}: no column {column!r}; its columns: {', '.join(known) or 'none'}; "
                f"name another with {option}"
            )
