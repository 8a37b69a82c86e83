"""A document as callers know it, and its payload as the store keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from nestvec.core.errors import CorruptVector, InvalidRequest

FieldValue = str | int | float | bool
MAX_ID_BYTES = 512
# Holds the whole id of nearly every payload: more only where much of an id is escaped in JSON.
HEAD_BYTES = 600
_FORMAT = 1
_HEAD = b"[%d," % _FORMAT
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Document:
    """id: the caller's own key, 1 to 512 bytes of UTF-8. fields: typed metadata, kept as given."""

    id: str
    text: str
    fields: Mapping[str, FieldValue] = field(default_factory=dict)


def check_id(external_id: str, field_name: str = "id") -> str:
    """`external_id` when it can name a document."""
    length = _utf8_length(external_id, field_name)
    if not 1 <= length <= MAX_ID_BYTES:
        raise InvalidRequest(field_name, f"{length} bytes long, expected 1 to {MAX_ID_BYTES}")
    return external_id


def check_text(text: str, max_bytes: int, field_name: str = "text") -> str:
    """`text` when there is something in it to encode, and not too much."""
    if not text.strip():
        raise InvalidRequest(field_name, "empty or only white space; there is nothing to encode")
    length = _utf8_length(text, field_name)
    if length > max_bytes:
        raise InvalidRequest(
            field_name,
            f"{length:,} bytes long, at most {max_bytes:,} are accepted; split it into passages",
        )
    return text


def _utf8_length(text: str, field_name: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            field_name,
            f"half a character (a lone surrogate) at position {error.start}; send valid Unicode",
        ) from None


def payload_to_bytes(document: Document) -> bytes:
    """What the store keeps beside the vector: JSON, format first."""
    record = [_FORMAT, document.id, document.text, dict(document.fields)]
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


def external_id_at_head(head: bytes) -> str | None:
    """The id that a payload begins with. head: its first bytes, as many as there are at hand. None
    when it is not whole in them, or they are no beginning of a payload.
    """
    if not head.startswith(_HEAD):
        return None
    try:
        # The last character may be cut in half. One within the id is caught by `check_id`.
        found, _ = _DECODER.raw_decode(head.decode("utf-8", "surrogateescape"), len(_HEAD))
        return check_id(found) if isinstance(found, str) else None
    except (ValueError, RecursionError, InvalidRequest):
        return None


def payload_from_bytes(value: bytes, document: str) -> Document:
    """Reverse of `payload_to_bytes`. Raises CorruptVector naming `document` (an internal id)."""
    try:
        record_format, external_id, text, fields = json.loads(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise CorruptVector(document, f"payload cannot be read ({error})") from None
    if record_format != _FORMAT:
        raise CorruptVector(document, f"payload format {record_format}, expected {_FORMAT}")
    if not (
        isinstance(external_id, str)
        and isinstance(text, str)
        and isinstance(fields, dict)
        and all(isinstance(value, FieldValue) for value in fields.values())
    ):
        raise CorruptVector(document, "payload has values of other types than were written")
    return Document(external_id, text, fields)


def fields_within(payload: bytes | None, names: frozenset[str]) -> Mapping[str, FieldValue]:
    """Those of `names` that a payload has; none of one that is gone or damaged."""
    if payload is None:
        return {}
    try:
        fields = payload_from_bytes(payload, "").fields
    except CorruptVector:
        return {}
    return {name: value for name, value in fields.items() if name in names}
