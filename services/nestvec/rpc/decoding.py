"""Requests as they come off the wire: what cannot be read, or is not known, is refused by name.

gRPC answers bytes that are no message with UNKNOWN or INTERNAL, and protobuf passes over a field
that a newer client knows and this server does not: an option would be dropped without a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

import nestvec
from nestvec.core.errors import InvalidRequest

Deserializer = Callable[[bytes], Message]

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}


@dataclass(frozen=True, slots=True)
class Refused:
    """Stands where a request would: only inside the call can its error become a status."""

    error: InvalidRequest


# A field that holds one message: its name, and such fields of that message in turn. A list, since a
# message may hold one of its own kind.
_Parts = list[tuple[str, "_Parts"]]


def careful(deserializer: Deserializer | None) -> Callable[[bytes], Any]:
    """`deserializer`, giving Refused for bytes that are no such message, and for a field that this
    version does not know: in the message itself or in one that it holds, lists aside.
    """
    assert deserializer is not None, "generated handlers have one"
    kind: Any = deserializer(b"").DESCRIPTOR
    parts = _parts(kind, {})

    def read(data: bytes) -> Message | Refused:
        try:
            message = deserializer(data)
        except DecodeError:
            return Refused(_unreadable(data, kind))
        # 3 µs for a search; only a message that is refused is looked through for where.
        if _is_known(message, parts):
            return message
        return Refused(next(_unknown_fields(message, parts, "")))

    return read


async def sound(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """The requests of a stream, up to the first that was refused: its error is raised."""
    async for request in requests:
        if isinstance(request, Refused):
            raise request.error
        yield request


def require_known(message: Message, path: str) -> None:
    """Raise InvalidRequest for a field of `message` itself that this version does not know."""
    if UnknownFieldSet(message):
        raise next(_unknown_fields(message, [], path))


def _parts(kind: Descriptor, known: dict[str, _Parts]) -> _Parts:
    """known: what was made on the way here, by the message's full name."""
    if kind.full_name in known:
        return known[kind.full_name]
    parts = known[kind.full_name] = []
    parts.extend(
        (field.name, _parts(field.message_type, known))
        for field in kind.fields
        if field.message_type is not None and not _is_list(field)
    )
    return parts


def _is_list(field: FieldDescriptor) -> bool:
    """Maps too: lists of entries. (`is_repeated` is younger than the oldest protobuf allowed)."""
    return bool(field.default_value == [])


def _is_known(message: Message, parts: _Parts) -> bool:
    if UnknownFieldSet(message):
        return False
    for name, deeper in parts:
        if message.HasField(name) and not _is_known(getattr(message, name), deeper):
            return False
    return True


def _unknown_fields(message: Message, parts: _Parts, path: str) -> Iterator[InvalidRequest]:
    kind = message.DESCRIPTOR.full_name
    for unknown in UnknownFieldSet(message):
        yield InvalidRequest(
            f"{path}{unknown.field_number}",
            f"nestvec {nestvec.__version__}, which serves here, knows no such field of {kind}; "
            f"leave it out, or ask a server as new as the client",
        )
    for name, deeper in parts:
        if message.HasField(name):
            yield from _unknown_fields(getattr(message, name), deeper, f"{path}{name}.")


# --- bytes that are no message --------------------------------------------------------------------


def _unreadable(data: bytes, kind: Descriptor) -> InvalidRequest:
    try:
        bad = next(_bad_texts(memoryview(data), kind, ""), None)
    except (IndexError, ValueError, RecursionError):
        # The last: a filter in a filter, deeper than protobuf itself reads.
        bad = None
    if bad is None:
        return InvalidRequest(
            "",
            f"these {len(data):,} bytes are not a {kind.full_name} message; send what code "
            f"generated from nestvec's own .proto files makes",
        )
    path, error = bad
    return InvalidRequest(
        path,
        f"byte 0x{error.object[error.start]:02x} at position {error.start} is not UTF-8; "
        f"decode the text with its own encoding and send it as UTF-8",
    )


def _bad_texts(
    data: memoryview, kind: Descriptor, path: str
) -> Iterator[tuple[str, UnicodeDecodeError]]:
    """(path, error) of each string that is not UTF-8. Raises IndexError or ValueError where the
    bytes are damaged otherwise.
    """
    seen: Counter[int] = Counter()
    for number, value in _delimited(data):
        field = kind.fields_by_number.get(number)
        if field is None:
            continue
        here = f"{path}{field.name}"
        if _is_list(field):
            here += f".{seen[number]}"
            seen[number] += 1
        if field.message_type is not None:
            yield from _bad_texts(value, field.message_type, f"{here}.")
        elif field.type == FieldDescriptor.TYPE_STRING:
            try:
                str(value, "utf-8")
            except UnicodeDecodeError as error:
                yield here, error


def _delimited(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, bytes) of the strings, bytes and messages that a message holds.

    Source: Protocol Buffers documentation, "Encoding".
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            _, at = _varint(data, at)
        elif wire_type == _DELIMITED:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("truncated")
            yield number, data[at : at + length]
            at += length
        else:
            at += _fixed_bytes(wire_type)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fixed_bytes(wire_type: int) -> int:
    if wire_type not in _FIXED_BYTES:
        raise ValueError("a group, which nothing of nestvec's is")
    return _FIXED_BYTES[wire_type]
