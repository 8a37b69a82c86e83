"""IngestService over IngestApp: messages to documents, acknowledgements and errors to messages."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc

from nestvec.core.arrays import Floats
from nestvec.core.codec import floats_from_bytes
from nestvec.core.document import FieldValue
from nestvec.core.errors import InvalidRequest
from nestvec.core.stream_digest import document_digest
from nestvec.core.watermark import Watermark
from nestvec.ingest.app import IngestApp
from nestvec.ingest.batch import Ack, Failure, Item, Refusal
from nestvec.ingest.pipeline import (
    Acknowledgement,
    IngestStream,
    Message,
    StreamWish,
    Unreadable,
)
from nestvec.ingest.streams import check_stream_id
from nestvec.rpc.decoding import require_known
from nestvec.rpc.server import Mounted
from nestvec.rpc.wire import document_from_wire
from nestvec.telemetry import metrics
from nestvec.telemetry.logs import logger
from nestvec.v1 import ingest_pb2, ingest_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
Requests = AsyncIterator[ingest_pb2.IngestDocumentsRequest]
_log = logger()

# Of the caller's time, so that what did not get there in time can still be told.
_SHARE_OF_DEADLINE = 0.9
_REASON = {
    Refusal.INVALID: ingest_pb2.INGEST_ERROR_REASON_INVALID,
    Refusal.SUPERSEDED: ingest_pb2.INGEST_ERROR_REASON_SUPERSEDED,
    Refusal.STALE: ingest_pb2.INGEST_ERROR_REASON_STALE,
    Refusal.UNAVAILABLE: ingest_pb2.INGEST_ERROR_REASON_UNAVAILABLE,
}
_ACK = {
    ingest_pb2.ACK_LEVEL_UNSPECIFIED: Ack.SEARCHABLE,
    ingest_pb2.ACK_LEVEL_SEARCHABLE: Ack.SEARCHABLE,
    ingest_pb2.ACK_LEVEL_STORED: Ack.STORED,
}


class IngestServicer(ingest_pb2_grpc.IngestServiceServicer):
    """Streams documents in, and deletes."""

    def __init__(self, app: IngestApp) -> None:
        self._app = app

    async def IngestDocuments(
        self, requests: Requests, context: Context
    ) -> AsyncIterator[ingest_pb2.IngestDocumentsResponse]:
        """See ingest.proto."""
        first = await anext(requests, None)
        if first is None:
            return
        wish = _wish(first)
        stream = IngestStream(self._app, wish, lambda: _patience_s(context))
        async for one in stream.acknowledgements(_messages(first, requests)):
            _count(one)
            yield ingest_pb2.IngestDocumentsResponse(
                acknowledged_offset=one.offset,
                errors=[_error(failure) for failure in one.failures],
                indexed=one.indexed,
                watermark=self._marked(one.watermark),
            )

    async def DeleteDocuments(
        self,
        request: ingest_pb2.DeleteDocumentsRequest,
        context: Context,
    ) -> ingest_pb2.DeleteDocumentsResponse:
        """See ingest.proto."""
        deletion = await self._app.delete(
            request.collection,
            list(request.ids),
            request.version,
            _ack(request.ack),
            _patience_s(context),
        )
        metrics.DELETED.inc(deletion.deleted)
        _log.info("documents.deleted", collection=request.collection, deleted=deletion.deleted)
        return ingest_pb2.DeleteDocumentsResponse(
            deleted=deletion.deleted,
            missing_ids=deletion.missing,
            stale_ids=deletion.stale,
            watermark=self._marked(deletion.watermark),
        )

    def _marked(self, watermark: Watermark) -> bytes:
        """With this region's number: it may come back to another one."""
        return replace(watermark, region=self._app.options.region).to_bytes()


def mount(app: IngestApp) -> Mounted:
    """For a server."""
    return Mounted(
        ingest_pb2.DESCRIPTOR,
        "IngestService",
        IngestServicer(app),
        ingest_pb2_grpc.add_IngestServiceServicer_to_server,
    )


def _wish(first: ingest_pb2.IngestDocumentsRequest) -> StreamWish:
    return StreamWish(
        first.collection,
        first.vector_space.fingerprint if first.HasField("vector_space") else None,
        check_stream_id(first.stream_id) if first.stream_id else "",
        _ack(first.ack),
    )


def _ack(level: ingest_pb2.AckLevel.ValueType) -> Ack:
    if level not in _ACK:
        raise InvalidRequest("ack", f"no level has number {level} here; known: stored, searchable")
    return _ACK[level]


def _patience_s(context: Context) -> float:
    # The stubs say it always is a number; without a deadline it is None.
    left: Any = context.time_remaining()
    return math.inf if left is None else max(0.0, _SHARE_OF_DEADLINE * float(left))


async def _messages(
    first: ingest_pb2.IngestDocumentsRequest, rest: Requests
) -> AsyncIterator[Message]:
    dim, with_digests = first.vector_space.dim, bool(first.stream_id)
    yield _message(first, dim, with_digests)
    async for request in rest:
        yield _message(request, dim, with_digests)


def _message(request: ingest_pb2.IngestDocumentsRequest, dim: int, with_digests: bool) -> Message:
    return Message(
        request.first_offset,
        [_item(one, dim) for one in request.documents],
        b"".join(map(_digest, request.documents)) if with_digests else b"",
    )


def _item(message: ingest_pb2.IngestDocument, dim: int) -> Item | Unreadable:
    try:
        require_known(message, "")
        require_known(message.document, "document.")
        document = document_from_wire(message.document)
        return Item(document, _vector(message.vector, dim), message.version)
    except InvalidRequest as error:
        return Unreadable(message.document.id, str(error))


def _digest(message: ingest_pb2.IngestDocument) -> bytes:
    """Also of a document that cannot be read."""
    document = message.document
    fields: dict[str, FieldValue | None] = {}
    for name, value in document.fields.items():
        kind = value.WhichOneof("kind")
        fields[name] = None if kind is None else getattr(value, kind)
    return document_digest(document.id, document.text, fields, message.vector, message.version)


def _vector(data: bytes, dim: int) -> Floats | None:
    if not data:
        return None
    if len(data) % 4 or (dim and len(data) != 4 * dim):
        raise InvalidRequest(
            "document.vector",
            f"{len(data)} bytes, expected {4 * dim or 'a multiple of 4'}: little-endian float32 "
            f"in vector_space.dim dimensions",
        )
    vector: Floats = floats_from_bytes(data, len(data) // 4, "document.vector")[0]
    return vector


def _count(one: Acknowledgement) -> None:
    metrics.INGESTED.inc(one.indexed)
    for failure in one.failures:
        metrics.REFUSED.labels(failure.refusal.value).inc()


def _error(failure: Failure) -> ingest_pb2.IngestError:
    return ingest_pb2.IngestError(
        offset=failure.position,
        id=failure.id,
        reason=_REASON[failure.refusal],
        message=failure.message,
    )
