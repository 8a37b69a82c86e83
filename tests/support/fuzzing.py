"""Requests of any kind of message: sound ones, sound ones that were damaged, and bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

# Messages in messages, and entries of a list.
_DEEPEST = 4
_LONGEST = 3
_ODD_TEXTS = (
    "",
    " ",
    "\x00",
    "a" * 600,
    "*",
    "../x",
    "{}",
    "docs@1",
    "docs~eu",
    "é\u202e😀",
    "NaN",
)
_INTEGERS = (0, 1, -1, 2, 10, 64, 128, 256, 768, 1 << 20, (1 << 31) - 1, -(1 << 31))
_LONG_INTEGERS = (*_INTEGERS, (1 << 63) - 1, -(1 << 63))
_NUMBERS = (0.0, 1.0, -1.0, 0.5, 0.999, 1e-300, 1e300, float("nan"), float("inf"), float("-inf"))

_KINDS: Mapping[int, type] = {
    FieldDescriptor.TYPE_STRING: str,
    FieldDescriptor.TYPE_BYTES: bytes,
    FieldDescriptor.TYPE_DOUBLE: float,
    FieldDescriptor.TYPE_FLOAT: float,
}
_INT32 = (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SFIXED32)
_INT64 = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_SINT64, FieldDescriptor.TYPE_SFIXED64)
_UNSIGNED = (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32)
_UNSIGNED_LONG = (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64)


class Requests:
    """likely: by the name of a field, what a request that gets somewhere has in it. needed: fields
    that hold messages, without which it gets nowhere.
    """

    def __init__(self, likely: Mapping[str, Sequence[Any]], needed: Sequence[str] = ()) -> None:
        self._likely = likely
        self._needed = frozenset(needed)

    def but(self, **likely: Sequence[Any]) -> Requests:
        """Others of some fields."""
        return Requests({**self._likely, **likely}, tuple(self._needed))

    def sound(self, kind: Descriptor) -> st.SearchStrategy[bytes]:
        """Messages of one kind, as they travel."""
        return self._message(kind).map(lambda one: one.SerializeToString())

    def damaged(self, kind: Descriptor) -> st.SearchStrategy[bytes]:
        """Sound ones with a few bytes changed, left out, or said twice."""
        return st.builds(_damage, self.sound(kind), st.lists(_DAMAGES, min_size=1, max_size=4))

    def any_kind(self, kind: Descriptor) -> st.SearchStrategy[bytes]:
        """Of all three."""
        sound = self.sound(kind)
        return st.one_of(sound, sound, self.damaged(kind), st.binary(max_size=200))

    def _message(self, kind: Descriptor) -> st.SearchStrategy[Message]:
        @st.composite
        def message(draw: st.DrawFn) -> Message:
            return _filled(kind, self._draw(draw, kind, 0))

        return message()

    def _draw(self, draw: st.DrawFn, kind: Descriptor, depth: int) -> dict[str, Any]:
        # Half of them have what they need and no more.
        more = draw(st.booleans())
        of_one = {one.name: draw(st.sampled_from(list(one.fields))).name for one in kind.oneofs}
        values = {}
        for field in kind.fields:
            oneof = field.containing_oneof
            if oneof is not None and len(oneof.fields) > 1:
                wanted = of_one[oneof.name] == field.name
            elif field.name in self._needed or self._fitting(field):
                wanted = draw(st.integers(0, 9)) > 0
            else:
                wanted = more and draw(st.booleans())
            if wanted and (field.message_type is None or depth < _DEEPEST):
                values[field.name] = self._draw_field(draw, field, depth)
        return values

    def _draw_field(self, draw: st.DrawFn, field: FieldDescriptor, depth: int) -> Any:
        if not _is_list(field):
            return self._draw_value(draw, field, depth)
        return [self._draw_value(draw, field, depth) for _ in range(draw(st.integers(0, _LONGEST)))]

    def _draw_value(self, draw: st.DrawFn, field: FieldDescriptor, depth: int) -> Any:
        if field.message_type is not None:
            return self._draw(draw, field.message_type, depth + 1)
        likely = self._fitting(field)
        if likely and draw(st.integers(0, 5)) > 0:
            return draw(st.sampled_from(likely))
        return draw(_of_type(field))

    def _fitting(self, field: FieldDescriptor) -> list[Any]:
        # One name may stand for a text here and for a number there.
        kind = bool if field.type == FieldDescriptor.TYPE_BOOL else _KINDS.get(field.type, int)
        return [one for one in self._likely.get(field.name, ()) if type(one) is kind]


def parsed(kind: Descriptor, data: bytes) -> Any:
    """The message in some bytes, or None."""
    try:
        return GetMessageClass(kind).FromString(data)
    except DecodeError:
        return None


def _of_type(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    kind = field.type
    if kind == FieldDescriptor.TYPE_STRING:
        texts = st.text(st.characters(codec="utf-8"), max_size=20)
        return st.one_of(st.sampled_from(_ODD_TEXTS), texts)
    if kind == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=64)
    if kind == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if kind == FieldDescriptor.TYPE_ENUM:
        known = [one.number for one in field.enum_type.values]
        return st.sampled_from([*known, max(known) + 1, -1])
    if kind in _INT32:
        return st.one_of(st.sampled_from(_INTEGERS), st.integers(-(1 << 31), (1 << 31) - 1))
    if kind in _INT64:
        return st.one_of(st.sampled_from(_LONG_INTEGERS), st.integers(-(1 << 63), (1 << 63) - 1))
    if kind in _UNSIGNED:
        return st.integers(0, (1 << 32) - 1)
    if kind in _UNSIGNED_LONG:
        return st.integers(0, (1 << 64) - 1)
    return st.one_of(st.sampled_from(_NUMBERS), st.floats(width=32))


def _is_list(field: FieldDescriptor) -> bool:
    """Maps too, as lists of entries."""
    return bool(field.default_value == [])


def _filled(kind: Descriptor, values: Mapping[str, Any]) -> Message:
    message: Any = GetMessageClass(kind)()
    for name, value in values.items():
        field = kind.fields_by_name[name]
        if field.message_type is None:
            if _is_list(field):
                getattr(message, name).extend(value)
            else:
                setattr(message, name, value)
        elif field.message_type.GetOptions().map_entry:
            _fill_map(getattr(message, name), field.message_type, value)
        elif _is_list(field):
            getattr(message, name).extend(_filled(field.message_type, one) for one in value)
        else:
            getattr(message, name).CopyFrom(_filled(field.message_type, value))
    found: Message = message
    return found


def _fill_map(held: Any, kind: Descriptor, entries: Sequence[Mapping[str, Any]]) -> None:
    value_field = kind.fields_by_name["value"]
    without = kind.fields_by_name["key"].default_value
    for entry in entries:
        if "value" not in entry:
            continue
        if value_field.message_type is None:
            held[entry.get("key", without)] = entry["value"]
        else:
            held[entry.get("key", without)].CopyFrom(
                _filled(value_field.message_type, entry["value"])
            )


# What is done where, as a share of the length, and with which byte.
_DAMAGES = st.tuples(
    st.sampled_from(("change", "leave out", "twice", "end")), st.floats(0, 1), st.integers(0, 255)
)


def _damage(data: bytes, damages: Sequence[tuple[str, float, int]]) -> bytes:
    for what, share, byte in damages:
        at = int(share * len(data))
        if what == "change":
            data = data[:at] + bytes([byte]) + data[at + 1 :]
        elif what == "leave out":
            data = data[:at] + data[at + 1 + byte % 4 :]
        elif what == "twice":
            data = data[:at] + data[max(0, at - byte % 16) :]
        else:
            data = data[:at]
    return data
