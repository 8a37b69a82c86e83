"""IngestService over IngestApp: prepared side by side, committed in order, acked by offset."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc

from nestvec.core.arrays import Floats
from nestvec.core.codec import floats_from_bytes
from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest
from nestvec.ingest.app import IngestApp
from nestvec.ingest.batch import Failure, Item, Prepared, Refusal
from nestvec.rpc.decoding import require_known
from nestvec.rpc.server import Mounted
from nestvec.rpc.wire import document_from_wire
from nestvec.telemetry import metrics
from nestvec.telemetry.logs import logger
from nestvec.v1 import ingest_pb2, ingest_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
_log = logger()

# Messages of one stream that may be in preparation while an earlier one commits. gRPC's flow
# control holds the rest with the client.
_AHEAD = 3
_REASON = {
    Refusal.INVALID: ingest_pb2.INGEST_ERROR_REASON_INVALID,
    Refusal.SUPERSEDED: ingest_pb2.INGEST_ERROR_REASON_SUPERSEDED,
    Refusal.UNAVAILABLE: ingest_pb2.INGEST_ERROR_REASON_UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class _Batch:
    """One message under way. failures: documents that could not even be read."""

    first_offset: int
    count: int
    offsets: list[int]
    failures: list[ingest_pb2.IngestError]
    prepared: asyncio.Task[Prepared]


class IngestServicer(ingest_pb2_grpc.IngestServiceServicer):
    """Streams documents in, and deletes."""

    def __init__(self, app: IngestApp) -> None:
        self._app = app

    async def IngestDocuments(
        self,
        requests: AsyncIterator[ingest_pb2.IngestDocumentsRequest],
        context: Context,
    ) -> AsyncIterator[ingest_pb2.IngestDocumentsResponse]:
        """See ingest.proto."""
        batches: asyncio.Queue[_Batch | Exception | None] = asyncio.Queue(_AHEAD)
        reader = asyncio.create_task(self._read(requests, batches))
        try:
            while (batch := await batches.get()) is not None:
                if isinstance(batch, Exception):
                    raise batch
                yield await self._commit(batch)
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            _cancel_rest(batches)

    async def _read(
        self,
        requests: AsyncIterator[ingest_pb2.IngestDocumentsRequest],
        batches: asyncio.Queue[_Batch | Exception | None],
    ) -> None:
        try:
            collection: Collection | None = None
            has_space = False
            dim = 0
            expected: int | None = None
            async for request in requests:
                if collection is None:
                    has_space = request.HasField("vector_space")
                    dim = request.vector_space.dim
                    collection = await self._app.open(
                        request.collection,
                        request.vector_space.fingerprint if has_space else None,
                    )
                if expected is not None and request.first_offset != expected:
                    raise InvalidRequest(
                        "first_offset",
                        f"{request.first_offset}, expected {expected}: offsets count up without "
                        f"gaps; open a new stream to start elsewhere",
                    )
                expected = request.first_offset + len(request.documents)
                await batches.put(self._begin(collection, request, has_space, dim))
        except Exception as error:  # noqa: BLE001  raised where the stream is answered
            await batches.put(error)
        else:
            await batches.put(None)

    def _begin(
        self,
        collection: Collection,
        request: ingest_pb2.IngestDocumentsRequest,
        has_space: bool,
        dim: int,
    ) -> _Batch:
        items: list[Item] = []
        offsets: list[int] = []
        failures: list[ingest_pb2.IngestError] = []
        for offset, message in enumerate(request.documents, request.first_offset):
            try:
                require_known(message, "")
                require_known(message.document, "document.")
                document = document_from_wire(message.document)
                items.append(Item(document, _vector(message.vector, dim)))
                offsets.append(offset)
            except InvalidRequest as error:
                failures.append(_error(offset, message.document.id, Refusal.INVALID, str(error)))
        prepared = asyncio.create_task(self._app.prepare(collection, items, has_space))
        return _Batch(request.first_offset, len(request.documents), offsets, failures, prepared)

    async def _commit(self, batch: _Batch) -> ingest_pb2.IngestDocumentsResponse:
        outcome = await self._app.commit(await batch.prepared)
        errors = batch.failures + [_failure(batch, failure) for failure in outcome.failures]
        metrics.INGESTED.inc(outcome.indexed)
        for failure in outcome.failures:
            metrics.REFUSED.labels(failure.refusal.value).inc()
        metrics.REFUSED.labels(Refusal.INVALID.value).inc(len(batch.failures))
        return ingest_pb2.IngestDocumentsResponse(
            acknowledged_offset=batch.first_offset + batch.count - 1,
            errors=sorted(errors, key=lambda error: error.offset),
            indexed=outcome.indexed,
        )

    async def DeleteDocuments(
        self,
        request: ingest_pb2.DeleteDocumentsRequest,
        context: Context,
    ) -> ingest_pb2.DeleteDocumentsResponse:
        """See ingest.proto."""
        deleted, missing = await self._app.delete(request.collection, list(request.ids))
        metrics.DELETED.inc(deleted)
        _log.info("documents.deleted", collection=request.collection, deleted=deleted)
        return ingest_pb2.DeleteDocumentsResponse(deleted=deleted, missing_ids=missing)


def mount(app: IngestApp) -> Mounted:
    """For a server."""
    return Mounted(
        ingest_pb2.DESCRIPTOR,
        "IngestService",
        IngestServicer(app),
        ingest_pb2_grpc.add_IngestServiceServicer_to_server,
    )


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


def _failure(batch: _Batch, failure: Failure) -> ingest_pb2.IngestError:
    return _error(batch.offsets[failure.position], failure.id, failure.refusal, failure.message)


def _error(offset: int, external_id: str, refusal: Refusal, message: str) -> ingest_pb2.IngestError:
    return ingest_pb2.IngestError(
        offset=offset, id=external_id, reason=_REASON[refusal], message=message
    )


def _cancel_rest(batches: asyncio.Queue[_Batch | Exception | None]) -> None:
    """A client that went away: what was prepared and not committed is dropped, unacknowledged."""
    while not batches.empty():
        batch = batches.get_nowait()
        if isinstance(batch, _Batch):
            batch.prepared.cancel()
