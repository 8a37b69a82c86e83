"""Which documents may be found: a small tree over declared fields.

A document without a field matches none of equals, any_of and range on it, and so matches their
negation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from nestvec.core.document import FieldValue
from nestvec.core.errors import InvalidRequest
from nestvec.core.fields import RANGED, FieldSchema, column_value, declared

MAX_DEPTH = 16
MAX_NODES = 1024
MAX_VALUES = 10_000
# Of a range, as its attributes and the fields of its message are called.
BOUNDS = ("greater_than", "at_least", "less_than", "at_most")


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part matches; true without any."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class OneOf:
    """Some part matches; false without any."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not match."""

    filter: Filter


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The field has one of these values."""

    field: str
    values: tuple[FieldValue, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """The field is within these bounds; None is no bound."""

    field: str
    greater_than: FieldValue | None = None
    at_least: FieldValue | None = None
    less_than: FieldValue | None = None
    at_most: FieldValue | None = None

    def bounds(self) -> dict[str, FieldValue]:
        """Those that there are, by name."""
        return {name: bound for name in BOUNDS if (bound := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True)
class Exists:
    """The document has the field."""

    field: str


Filter = AllOf | OneOf | Not | AnyOf | Range | Exists


@dataclass(frozen=True, slots=True)
class CheckedFilter:
    """A filter that fits a collection's fields.

    root: with column values (core.fields) in place of what the caller gave. key: a digest of it,
    so that what is kept for a filter does not keep its ten thousand values too.
    """

    root: Filter
    key: bytes


class FilterSize:
    """Counts a filter while it is read, so that none can cost more than its limits."""

    def __init__(self) -> None:
        self._nodes = self._values = 0

    def count(self, depth: int, values: int, path: str) -> None:
        """One more node at `depth` (the root's is 1), with its values. Raises InvalidRequest."""
        self._nodes += 1
        self._values += values
        for got, most, what in (
            (depth, MAX_DEPTH, "levels deep"),
            (self._nodes, MAX_NODES, "parts"),
            (self._values, MAX_VALUES, "values"),
        ):
            if got > most:
                raise InvalidRequest(path, f"the filter has more than {most:,} {what}")


def validate(
    wanted: Filter, fields: Sequence[FieldSchema], field_name: str = "options.filter"
) -> CheckedFilter:
    """`wanted` with its values as columns hold them.

    Raises InvalidRequest, naming the part: an unknown field, a value of another type than is
    declared, a range over what has no order, no value or bound at all, or more than the limits.
    """
    root = _Checker(fields).check(wanted, field_name, 1)
    return CheckedFilter(root, hashlib.blake2b(repr(root).encode(), digest_size=16).digest())


class _Checker:
    def __init__(self, fields: Sequence[FieldSchema]) -> None:
        self._fields = fields
        self._size = FilterSize()

    def check(self, wanted: Filter, path: str, depth: int) -> Filter:
        values = len(wanted.values) if isinstance(wanted, AnyOf) else 0
        self._size.count(depth, values, path)
        match wanted:
            case AllOf(parts):
                return AllOf(self._all(parts, f"{path}.all_of", depth))
            case OneOf(parts):
                return OneOf(self._all(parts, f"{path}.one_of", depth))
            case Not(part):
                return Not(self.check(part, f"{path}.not", depth + 1))
            case AnyOf():
                return self._any_of(wanted, f"{path}.any_of")
            case Range():
                return self._range(wanted, f"{path}.range")
            case Exists(name):
                declared(name, self._fields, f"{path}.exists")
                return wanted
        raise InvalidRequest(path, f"a {type(wanted).__name__} is no part of a filter")

    def _all(self, parts: tuple[Filter, ...], path: str, depth: int) -> tuple[Filter, ...]:
        return tuple(
            self.check(part, f"{path}.filters.{number}", depth + 1)
            for number, part in enumerate(parts)
        )

    def _any_of(self, wanted: AnyOf, path: str) -> AnyOf:
        schema = declared(wanted.field, self._fields, f"{path}.field")
        if not wanted.values:
            raise InvalidRequest(
                f"{path}.values",
                f"no value of field {wanted.field!r}: nothing would match; name one or more, or "
                f"leave this part out",
            )
        values = (
            column_value(schema, value, f"{path}.values.{number}")
            for number, value in enumerate(wanted.values)
        )
        return AnyOf(wanted.field, tuple(values))

    def _range(self, wanted: Range, path: str) -> Range:
        schema = declared(wanted.field, self._fields, f"{path}.field")
        if schema.type not in RANGED:
            ranged = ", ".join(one.value for one in RANGED)
            raise InvalidRequest(
                f"{path}.field",
                f"field {schema.name!r} is a {schema.type.value}, which has no order; ranges are "
                f"over {ranged}; compare with == or any_of",
            )
        bounds = {
            name: column_value(schema, bound, f"{path}.{name}")
            for name, bound in wanted.bounds().items()
        }
        if not bounds:
            raise InvalidRequest(path, f"no bound for field {schema.name!r}; give one or more")
        return Range(wanted.field, **bounds)
