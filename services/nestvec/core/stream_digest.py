"""A few bytes of each document of a resumable stream, so that a replay can be told from another.

The digest is made from what a document says, not from its bytes on the wire: it is the same in
every version of nestvec and for a client in any language.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping

from nestvec.core.document import FieldValue

DIGEST_BYTES = 4
# Of another meaning in the store: nothing is kept.
_NOTHING = bytes(DIGEST_BYTES)
_STAND_IN = b"\x01" + bytes(DIGEST_BYTES - 1)


def document_digest(
    external_id: str,
    text: str,
    fields: Mapping[str, FieldValue | None],
    vector: bytes = b"",
    version: int = 0,
) -> bytes:
    """DIGEST_BYTES that are never all zero. A field without a value is None.

    Two documents that differ have the same digest once in four billion: enough to notice a stream
    id that is used for something else, not a proof against someone who wants to collide.
    """
    parts = [external_id.encode(), text.encode(), vector, struct.pack("<q", version)]
    for name in sorted(fields):
        parts += [name.encode(), _value_bytes(fields[name])]
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        # Lengths keep "ab", "c" apart from "a", "bc".
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)
    made = digest.digest()
    return _STAND_IN if made == _NOTHING else made


def first_difference(kept: bytes, given: bytes) -> int | None:
    """The number of the first digest that differs, where one is kept at all. None: none does."""
    for number in range(min(len(kept), len(given)) // DIGEST_BYTES):
        here = slice(number * DIGEST_BYTES, (number + 1) * DIGEST_BYTES)
        if kept[here] not in (given[here], _NOTHING):
            return number
    return None


def _value_bytes(value: FieldValue | None) -> bytes:
    """With the type in front: 1, 1.0, true and "1" are four values."""
    match value:
        case None:
            return b"n"
        case bool():
            return b"b1" if value else b"b0"
        case int():
            return b"i" + struct.pack("<q", value)
        case float():
            return b"d" + struct.pack("<d", value)
        case _:
            return b"s" + value.encode()
