"""Fields that a collection declares, so that they can be filtered on: names, types, values.

A declared field's value has one type in all documents, and a form in which it is compared: its
column value. What is not declared is kept with the document as given, and never compared.
"""

from __future__ import annotations

import difflib
import enum
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from nestvec.core.document import FieldValue
from nestvec.core.errors import InvalidRequest

MAX_FIELDS = 64
# The least int64 stands for "missing" in a column.
MISSING_INTEGER = -(2**63)
_LARGEST_INTEGER = 2**63 - 1
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
# RFC 3339, section 5.6; `datetime.fromisoformat` takes more than that.
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class FieldType(enum.StrEnum):
    """What a declared field holds."""

    KEYWORD = "keyword"
    INTEGER = "integer"
    FLOAT = "float"
    BOOL = "bool"
    TIME = "time"


# Those that have an order.
RANGED = (FieldType.INTEGER, FieldType.FLOAT, FieldType.TIME)
_EXPECTED = {
    FieldType.KEYWORD: "a string",
    FieldType.INTEGER: "an integer",
    FieldType.FLOAT: "a number",
    FieldType.BOOL: "true or false",
    FieldType.TIME: "a time as RFC 3339 writes it, with an offset, such as 2026-11-24T09:30:00Z",
}


@dataclass(frozen=True, slots=True)
class FieldSchema:
    """One declared field."""

    name: str
    type: FieldType


def check_fields(fields: Sequence[FieldSchema], field_name: str = "fields") -> None:
    """Raise InvalidRequest unless a collection can declare these."""
    if len(fields) > MAX_FIELDS:
        raise InvalidRequest(field_name, f"{len(fields)} fields, at most {MAX_FIELDS}")
    seen: set[str] = set()
    for number, one in enumerate(fields):
        if not _NAME.fullmatch(one.name):
            raise InvalidRequest(
                f"{field_name}.{number}.name",
                f"{one.name!r} cannot name a field that is filtered on; expected 1 to 63 of a-z, "
                f"0-9, '_', beginning with a letter",
            )
        if one.name in seen:
            raise InvalidRequest(f"{field_name}.{number}.name", f"{one.name!r} is declared twice")
        seen.add(one.name)


def parse_field(text: str, field_name: str = "fields") -> FieldSchema:
    """`year:integer` as a field. Raises InvalidRequest."""
    name, colon, kind = text.partition(":")
    if not colon:
        raise InvalidRequest(
            f"{field_name}.{name.strip()}",
            f"{text!r} has no type; write NAME:TYPE, such as {name.strip()}:keyword; expected one "
            f"of {', '.join(FieldType)}",
        )
    return FieldSchema(name.strip(), field_type(kind.strip(), f"{field_name}.{name.strip()}"))


def field_type(kind: str, field_name: str) -> FieldType:
    """A type by its name. Raises InvalidRequest, naming what there is."""
    try:
        return FieldType(kind)
    except ValueError:
        known = ", ".join(one.value for one in FieldType)
        raise InvalidRequest(field_name, f"type {kind!r}, expected one of {known}") from None


def declared(name: str, fields: Sequence[FieldSchema], field_name: str) -> FieldSchema:
    """The field of that name. Raises InvalidRequest, naming what is declared."""
    for one in fields:
        if one.name == name:
            return one
    names = [one.name for one in fields]
    if not names:
        raise InvalidRequest(
            field_name,
            f"field {name!r} is not declared: this collection declares none, so nothing can be "
            f"filtered on; create a collection with `fields`",
        )
    close = difflib.get_close_matches(name, names, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise InvalidRequest(
        field_name,
        f"field {name!r} is not declared; this collection declares {', '.join(names)}{hint}",
    )


def column_value(schema: FieldSchema, value: object, field_name: str) -> FieldValue:
    """`value` as it is compared: a time as microseconds since 1970, the others as themselves.

    Raises InvalidRequest when it is not of the declared type. A bool is no integer, and an integer
    is taken for a float.
    """
    match schema.type, value:
        case FieldType.KEYWORD, str():
            return value
        case FieldType.BOOL, bool():
            return value
        case FieldType.INTEGER | FieldType.FLOAT, bool():
            pass
        case FieldType.INTEGER, int():
            return _integer(schema, value, field_name)
        case FieldType.FLOAT, int() | float():
            return _finite(schema, value, field_name)
        case FieldType.TIME, str():
            return _microseconds(schema, value, field_name)
    raise _ill_typed(schema, value, field_name)


def check_values(fields: Sequence[FieldSchema], values: Mapping[str, FieldValue]) -> None:
    """Raise InvalidRequest unless what a document says of declared fields is of their types."""
    for one in fields:
        if (value := values.get(one.name)) is not None:
            column_value(one, value, f"document.fields.{one.name}")


def _ill_typed(schema: FieldSchema, value: object, field_name: str) -> InvalidRequest:
    return InvalidRequest(
        field_name,
        f"{_shown(value)} in field {schema.name!r}, which is declared {schema.type.value}; "
        f"expected {_EXPECTED[schema.type]}",
    )


def _shown(value: object) -> str:
    """A type and a value, cut short. Python itself refuses to print very long integers."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "an integer of more than 64 bits"
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:60] + '...'}"


def _integer(schema: FieldSchema, value: int, field_name: str) -> int:
    if not MISSING_INTEGER < value <= _LARGEST_INTEGER:
        raise InvalidRequest(
            field_name,
            f"{_shown(value)} in field {schema.name!r}; expected {MISSING_INTEGER + 1} to "
            f"{_LARGEST_INTEGER}",
        )
    return value


def _finite(schema: FieldSchema, value: float, field_name: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidRequest(
            field_name, f"{number} in field {schema.name!r}; expected a finite number"
        )
    return number


def _microseconds(schema: FieldSchema, value: str, field_name: str) -> int:
    upper = value.upper()
    if not _TIME.fullmatch(upper):
        raise _ill_typed(schema, value, field_name)
    try:
        # More than six digits of a second are cut off.
        moment = datetime.fromisoformat(upper)
    except ValueError as error:
        raise InvalidRequest(
            field_name, f"{value!r} in field {schema.name!r} is no time: {error}"
        ) from None
    return (moment - _EPOCH) // _MICROSECOND
