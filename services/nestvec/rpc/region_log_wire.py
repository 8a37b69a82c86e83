"""A region's ingest log on the wire: what a copier reads of a store, message by message."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError

from nestvec.core.collection import Collection
from nestvec.core.document import check_id
from nestvec.core.errors import ConfigError, InvalidRequest, NestvecError
from nestvec.core.ports import LogBatch, StoredDocument, StoredVersion
from nestvec.rpc.region_checks import nonsense
from nestvec.rpc.wire import ids_from_bytes, ids_to_bytes
from nestvec.v1 import region_pb2

# As an internal id holds it.
_MOST_SEQUENCE = (1 << 48) - 1
# Of one part of a listing, unpacked: a thousand of the longest names, and more.
_MOST_LISTED_BYTES = 4 << 20


def record_to_bytes(collection: Collection) -> bytes:
    """A collection's record, JSON."""
    return json.dumps(collection.to_dict()).encode()


def record_from_bytes(data: bytes, region: str) -> Collection:
    """Reverse of `record_to_bytes`. Raises WorkerUnavailable where it is none, and ConfigError for
    one of another version.
    """
    try:
        read: Any = json.loads(data)
        return Collection.from_dict(read)
    except ConfigError:
        raise
    except (NestvecError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        nonsense(region, f"a record that cannot be read ({type(error).__name__})")


def batch_to_wire(batch: LogBatch) -> region_pb2.LogPart:
    """Consecutive changes of one partition."""
    return region_pb2.LogPart(
        partition=batch.partition,
        first=batch.first,
        last=batch.last,
        added=ids_to_bytes(batch.added),
        removed=ids_to_bytes(batch.removed),
        deletions=[
            region_pb2.NamedVersion(id=name, version=version) for name, version in batch.deletions
        ],
    )


def batch_from_wire(message: region_pb2.LogPart, region: str) -> LogBatch:
    """Reverse of `batch_to_wire`. Raises WorkerUnavailable where it cannot be one."""
    if not 0 < message.first <= message.last:
        nonsense(region, f"log entries from {message.first} to {message.last}")
    try:
        added = ids_from_bytes(message.added, "added")
        removed = ids_from_bytes(message.removed, "removed")
    except InvalidRequest as error:
        nonsense(region, str(error))
    deletions = [deletion_from_wire(one, region) for one in message.deletions]
    return LogBatch(message.partition, message.first, message.last, added, removed, deletions)


def versions_to_wire(entries: Sequence[StoredVersion]) -> list[region_pb2.NamedVersion]:
    """Live documents."""
    return [
        region_pb2.NamedVersion(id=one.external_id, version=one.version, sequence=one.sequence)
        for one in entries
    ]


def listing_to_wire(entries: Sequence[StoredVersion]) -> region_pb2.ListVersionsResponse:
    """Live documents, packed."""
    plain = region_pb2.ListVersionsResponse(versions=versions_to_wire(entries))
    return region_pb2.ListVersionsResponse(packed=zlib.compress(plain.SerializeToString()))


def listing_from_wire(message: region_pb2.ListVersionsResponse, region: str) -> list[StoredVersion]:
    """Reverse of `listing_to_wire`. Raises WorkerUnavailable where it cannot be one."""
    try:
        unpacking = zlib.decompressobj()
        data = unpacking.decompress(message.packed, _MOST_LISTED_BYTES)
        plain = region_pb2.ListVersionsResponse.FromString(data)
    except (zlib.error, DecodeError):
        nonsense(region, "a listing that cannot be unpacked")
    if not unpacking.eof:
        nonsense(region, f"a listing that is cut off, or of more than {_MOST_LISTED_BYTES:,} bytes")
    return [version_from_wire(one, region) for one in plain.versions]


def version_from_wire(message: region_pb2.NamedVersion, region: str) -> StoredVersion:
    """Reverse of `versions_to_wire`, of one. Raises WorkerUnavailable where it cannot be one."""
    _require_sound(message, region)
    if not 0 < message.sequence <= _MOST_SEQUENCE:
        nonsense(region, f"a document of sequence {message.sequence}")
    return StoredVersion(message.id, message.sequence, message.version)


def deletion_from_wire(message: region_pb2.NamedVersion, region: str) -> tuple[str, int]:
    """As `version_from_wire`, of what is deleted: external id and version."""
    _require_sound(message, region)
    return message.id, message.version


def _require_sound(
    message: region_pb2.NamedVersion | region_pb2.CopiedDocument, region: str
) -> None:
    """Nothing may be written here that no caller could have written."""
    try:
        check_id(message.id)
    except InvalidRequest as error:
        nonsense(region, str(error))
    if message.version < 0:
        nonsense(region, f"a document of version {message.version}")


def document_to_copy(
    document: StoredDocument | None, names_only: bool = False, is_row: bool = False
) -> region_pb2.CopiedDocument:
    """None: it is replaced, deleted or freed by now. is_row: of a tier; these are sent by the
    thousand over long ways, and the sequence is the one that was asked for.
    """
    if document is None:
        return region_pb2.CopiedDocument()
    return region_pb2.CopiedDocument(
        found=True,
        id=document.external_id,
        sequence=0 if is_row else document.sequence,
        version=document.version,
        vector=None if names_only else document.vector,
        payload=None if names_only else document.payload,
    )


def document_from_copy(
    message: region_pb2.CopiedDocument, sequence: int, region: str, header: bytes | None = None
) -> StoredDocument | None:
    """Reverse of `document_to_copy`. sequence: that was asked for. header: of rows, what each of
    them begins with where it is kept; None of whole documents. Raises WorkerUnavailable where it
    cannot be the one.
    """
    if not message.found:
        return None
    _require_sound(message, region)
    is_row = header is not None
    if not is_row and message.sequence != sequence:
        nonsense(region, "documents of other sequences than were asked for")
    vector = message.vector if message.HasField("vector") else None
    return StoredDocument(
        message.id,
        sequence,
        message.version,
        vector if vector is None or header is None else header + vector,
        message.payload if message.HasField("payload") else None,
    )
