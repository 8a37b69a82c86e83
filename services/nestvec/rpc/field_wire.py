"""Fields and filters: messages to core types and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from google.protobuf.message import Message

from nestvec.core.document import FieldValue
from nestvec.core.errors import InvalidRequest
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.filters import (
    BOUNDS,
    AllOf,
    AnyOf,
    Exists,
    Filter,
    FilterSize,
    Not,
    OneOf,
    Range,
)
from nestvec.rpc.decoding import require_known
from nestvec.v1 import common_pb2

# --- values ---------------------------------------------------------------------------------------


def value_to_wire(value: FieldValue) -> common_pb2.FieldValue:
    """Bool before int: in Python a bool is an int too. Raises ValueError beyond 64 bits."""
    match value:
        case bool():
            return common_pb2.FieldValue(bool_value=value)
        case int():
            return common_pb2.FieldValue(int_value=value)
        case float():
            return common_pb2.FieldValue(double_value=value)
        case _:
            return common_pb2.FieldValue(string_value=value)


def value_from_wire(message: common_pb2.FieldValue, path: str) -> FieldValue:
    """Raises InvalidRequest for a value with no kind."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest(path, "no value; expected a string, integer, double or bool")
    value: FieldValue = getattr(message, kind)
    return value


def fields_to_wire(fields: Mapping[str, FieldValue]) -> dict[str, common_pb2.FieldValue]:
    """What a document says, by name."""
    return {name: value_to_wire(value) for name, value in fields.items()}


def fields_from_wire(message: Mapping[str, common_pb2.FieldValue]) -> dict[str, FieldValue]:
    """Raises InvalidRequest for a value with no kind."""
    return {
        name: value_from_wire(value, f"document.fields.{name}") for name, value in message.items()
    }


# --- declared fields ------------------------------------------------------------------------------

_TYPE_TO_WIRE = {one: common_pb2.FieldType.Value(f"FIELD_TYPE_{one.name}") for one in FieldType}
_TYPE_FROM_WIRE = {wire: one for one, wire in _TYPE_TO_WIRE.items()}


def schema_to_wire(fields: Iterable[FieldSchema]) -> list[common_pb2.FieldSchema]:
    """In their order."""
    return [common_pb2.FieldSchema(name=one.name, type=_TYPE_TO_WIRE[one.type]) for one in fields]


def schema_from_wire(
    messages: Iterable[common_pb2.FieldSchema], path: str = "fields"
) -> tuple[FieldSchema, ...]:
    """Raises InvalidRequest for a type that is unspecified, or that this version does not know."""
    fields = []
    for number, message in enumerate(messages):
        require_known(message, f"{path}.{number}.")
        if message.type not in _TYPE_FROM_WIRE:
            known = ", ".join(one.value for one in FieldType)
            raise InvalidRequest(
                f"{path}.{number}.type",
                f"no type has number {message.type} here; field {message.name!r} is one of {known}",
            )
        fields.append(FieldSchema(message.name, _TYPE_FROM_WIRE[message.type]))
    return tuple(fields)


# --- filters --------------------------------------------------------------------------------------


def filter_to_wire(wanted: Filter, path: str = "options.filter") -> common_pb2.Filter:
    """Raises InvalidRequest where it is larger than any may be, ValueError for an integer beyond
    64 bits.
    """
    return _to_wire(wanted, path, 1, FilterSize())


def filter_from_wire(message: common_pb2.Filter, path: str = "options.filter") -> Filter:
    """Reverse of `filter_to_wire`. Raises InvalidRequest for what is empty, too large, or not known
    to this version: a part that was passed over would let the wrong documents through.
    """
    return _from_wire(message, path, 1, FilterSize())


def _to_wire(wanted: Filter, path: str, depth: int, size: FilterSize) -> common_pb2.Filter:
    size.count(depth, len(wanted.values) if isinstance(wanted, AnyOf) else 0, path)

    def listed(parts: tuple[Filter, ...]) -> common_pb2.FilterList:
        filters = [
            _to_wire(part, f"{path}.filters.{number}", depth + 1, size)
            for number, part in enumerate(parts)
        ]
        return common_pb2.FilterList(filters=filters)

    match wanted:
        case AllOf(parts):
            return common_pb2.Filter(all_of=listed(parts))
        case OneOf(parts):
            return common_pb2.Filter(one_of=listed(parts))
        case Not(part):
            negation = common_pb2.Filter()
            # `not` is a word of Python's.
            getattr(negation, "not").CopyFrom(_to_wire(part, f"{path}.not", depth + 1, size))
            return negation
        case AnyOf(field, values):
            any_of = common_pb2.FieldAnyOf(field=field, values=map(value_to_wire, values))
            return common_pb2.Filter(any_of=any_of)
        case Range():
            bounds = {name: value_to_wire(bound) for name, bound in wanted.bounds().items()}
            return common_pb2.Filter(range=common_pb2.FieldRange(field=wanted.field, **bounds))
        case Exists(field):
            return common_pb2.Filter(exists=field)
    raise TypeError(f"{path}: a {type(wanted).__name__} is no filter")


def _from_wire(message: common_pb2.Filter, path: str, depth: int, size: FilterSize) -> Filter:
    _require_sound(message, path)
    kind = message.WhichOneof("kind")
    size.count(depth, len(message.any_of.values) if kind == "any_of" else 0, path)
    match kind:
        case "all_of":
            return AllOf(_listed(message.all_of, f"{path}.all_of", depth, size))
        case "one_of":
            return OneOf(_listed(message.one_of, f"{path}.one_of", depth, size))
        case "not":
            return Not(_from_wire(getattr(message, "not"), f"{path}.not", depth + 1, size))
        case "equals":
            _require_sound(message.equals, f"{path}.equals")
            value = value_from_wire(message.equals.value, f"{path}.equals.value")
            return AnyOf(message.equals.field, (value,))
        case "any_of":
            _require_sound(message.any_of, f"{path}.any_of")
            return AnyOf(
                message.any_of.field,
                tuple(
                    value_from_wire(value, f"{path}.any_of.values.{number}")
                    for number, value in enumerate(message.any_of.values)
                ),
            )
        case "range":
            return _range(message.range, f"{path}.range")
        case "exists":
            return Exists(message.exists)
    raise InvalidRequest(
        path,
        "an empty part; expected one of all_of, one_of, not, equals, any_of, range, exists",
    )


def _listed(
    message: common_pb2.FilterList, path: str, depth: int, size: FilterSize
) -> tuple[Filter, ...]:
    _require_sound(message, path)
    return tuple(
        _from_wire(part, f"{path}.filters.{number}", depth + 1, size)
        for number, part in enumerate(message.filters)
    )


def _range(message: common_pb2.FieldRange, path: str) -> Range:
    _require_sound(message, path)
    bounds = {
        name: value_from_wire(getattr(message, name), f"{path}.{name}")
        for name in BOUNDS
        if message.HasField(name)  # type: ignore[arg-type]
    }
    return Range(message.field, **bounds)


def _require_sound(message: Message, path: str) -> None:
    require_known(message, f"{path}.")
