"""RegionService over RegionApp and RegionLog: only for regions of the map, and what it shares."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest, WouldNotFit
from nestvec.core.ports import Catalogue, StoredVersion
from nestvec.regions.app import RegionApp
from nestvec.regions.log import RegionLog
from nestvec.rpc.references import generation_of
from nestvec.rpc.region_log_wire import (
    batch_to_wire,
    document_to_copy,
    listing_to_wire,
    record_to_bytes,
    versions_to_wire,
)
from nestvec.rpc.region_wire import (
    answer_to_wire,
    description_to_wire,
    query_from_wire,
    region_hits_to_wire,
    rerank_from_wire,
)
from nestvec.rpc.server import Mounted, time_left_s
from nestvec.rpc.wire import document_to_wire, ids_from_bytes
from nestvec.v1 import coarse_pb2, common_pb2, region_pb2, region_pb2_grpc
from nestvec.wall_clock import wall_clock_ms

Context = grpc.aio.ServicerContext[Any, Any]
# Of an asset, or of documents, in one message.
_PART_BYTES = 1 << 20
# What the way can take at most; more is no measurement.
_LONGEST_WAY_S = 60.0


class RegionServicer(region_pb2_grpc.RegionServiceServicer):
    """cap_s: the deadline of a call that brings none, and the longest one."""

    def __init__(self, app: RegionApp, log: RegionLog, catalogue: Catalogue, cap_s: float) -> None:
        self._app = app
        self._log = log
        self._catalogue = catalogue
        self._cap_s = cap_s

    # --- searching ------------------------------------------------------------------------------

    async def DescribeRegion(
        self, request: region_pb2.DescribeRegionRequest, context: Context
    ) -> region_pb2.DescribeRegionResponse:
        """See region.proto."""
        self._app.require_caller(request.caller)
        return description_to_wire(await self._app.describe(time_left_s(context, self._cap_s)))

    async def SearchRegion(
        self, request: region_pb2.SearchRegionRequest, context: Context
    ) -> region_pb2.SearchRegionResponse:
        """See region.proto."""
        self._app.require_caller(request.caller)
        timeout_s = self._work_s(context, request.round_trip_ms)
        return answer_to_wire(await self._app.search(query_from_wire(request), timeout_s))

    async def RerankRegion(
        self, request: region_pb2.RerankRegionRequest, context: Context
    ) -> region_pb2.RerankRegionResponse:
        """See region.proto."""
        began_s = time.monotonic()
        self._app.require_caller(request.caller)
        timeout_s = self._work_s(context, request.round_trip_ms)
        query = rerank_from_wire(request)
        hits = await self._app.rerank(query, timeout_s)
        collection = await self._app.shared(query.collection)
        return region_pb2.RerankRegionResponse(
            region=self._app.name,
            generation=collection.generation,
            scoring_space=common_pb2.SpaceRef(
                fingerprint=query.fingerprint, dim=collection.store_dim
            ),
            hits=region_hits_to_wire(hits),
            milliseconds=(time.monotonic() - began_s) * 1e3,
        )

    async def FetchDocuments(
        self, request: region_pb2.FetchDocumentsRequest, context: Context
    ) -> region_pb2.FetchDocumentsResponse:
        """See region.proto."""
        self._app.require_caller(request.caller)
        timeout_s = self._work_s(context, request.round_trip_ms)
        documents = await self._app.documents(request.collection, list(request.ids), timeout_s)
        return region_pb2.FetchDocumentsResponse(documents=map(document_to_wire, documents))

    def _work_s(self, context: Context, round_trip_ms: float) -> float:
        """Seconds until the answer must leave. gRPC's deadline counts from when the call arrived,
        half a round trip after it was made, and the answer takes the other half.
        """
        if not 0.0 <= round_trip_ms <= _LONGEST_WAY_S * 1e3:
            raise InvalidRequest(
                "round_trip_ms", f"{round_trip_ms}, expected 0 to {_LONGEST_WAY_S * 1e3:.0f}"
            )
        left_s, way_s = time_left_s(context, self._cap_s), round_trip_ms / 1e3
        if left_s <= way_s:
            raise WouldNotFit(f"the way to region {self._app.name!r}", way_s, left_s)
        return left_s - way_s

    # --- the log --------------------------------------------------------------------------------

    async def ReadRecord(
        self,
        request: region_pb2.ReadRecordRequest,
        context: Context,
    ) -> AsyncIterator[region_pb2.ReadRecordResponse]:
        """See region.proto."""
        self._app.require_caller(request.caller)
        collection = await self._app.shared(request.collection)
        yield region_pb2.ReadRecordResponse(record=record_to_bytes(collection))
        if not request.with_assets:
            return
        async for name, data in self._log.assets(collection):
            for start in range(0, len(data), _PART_BYTES):
                part = data[start : start + _PART_BYTES]
                yield region_pb2.ReadRecordResponse(asset=name, data=part)

    async def ReadPositions(
        self, request: region_pb2.ReadPositionsRequest, context: Context
    ) -> region_pb2.ReadPositionsResponse:
        """See region.proto."""
        collection = await self._followed(request.caller, request.collection)
        # Before they are read: what is written while they are is not known to be in them.
        now_ms = wall_clock_ms()
        positions = await self._log.positions(
            collection, request.first_partition, request.end_partition
        )
        return region_pb2.ReadPositionsResponse(positions=positions, now_ms=now_ms)

    async def ReadLog(
        self, request: region_pb2.ReadLogRequest, context: Context
    ) -> region_pb2.ReadLogResponse:
        """See region.proto."""
        collection = await self._followed(request.caller, request.collection)
        batches = await self._log.read(collection, dict(request.after), request.limit)
        return region_pb2.ReadLogResponse(parts=map(batch_to_wire, batches))

    async def ListVersions(
        self,
        request: region_pb2.ListVersionsRequest,
        context: Context,
    ) -> AsyncIterator[region_pb2.ListVersionsResponse]:
        """See region.proto."""
        collection = await self._followed(request.caller, request.collection)
        async for entries in self._log.entries(collection, request.partition):
            yield listing_to_wire(entries)

    async def ListTombstones(
        self,
        request: region_pb2.ListTombstonesRequest,
        context: Context,
    ) -> AsyncIterator[region_pb2.ListTombstonesResponse]:
        """See region.proto."""
        collection = await self._followed(request.caller, request.collection)
        async for buried in self._log.tombstones(collection, request.partition):
            named = [region_pb2.NamedVersion(id=name, version=version) for name, version in buried]
            yield region_pb2.ListTombstonesResponse(tombstones=named)

    async def ReadVersions(
        self, request: region_pb2.ReadVersionsRequest, context: Context
    ) -> region_pb2.ReadVersionsResponse:
        """See region.proto."""
        collection = await self._followed(request.caller, request.collection)
        found = await self._log.versions(collection, list(request.ids))
        stands = [
            one or StoredVersion(name, 0, 0) for name, one in zip(request.ids, found, strict=True)
        ]
        return region_pb2.ReadVersionsResponse(versions=versions_to_wire(stands))

    async def ReadDocuments(
        self,
        request: region_pb2.ReadDocumentsRequest,
        context: Context,
    ) -> AsyncIterator[region_pb2.ReadDocumentsResponse]:
        """See region.proto."""
        collection = await self._followed(request.caller, request.collection)
        ids = ids_from_bytes(request.ids, "ids")
        size = 0
        response = region_pb2.ReadDocumentsResponse()
        async for header, documents in self._log.documents(
            collection, ids, request.with_vectors, request.prefix_dim
        ):
            for document in documents:
                copied = document_to_copy(document, request.names_only, bool(request.prefix_dim))
                size += copied.ByteSize()
                response.documents.append(copied)
                response.row_header = header
                if size >= _PART_BYTES:
                    yield response
                    response, size = region_pb2.ReadDocumentsResponse(), 0
        if response.documents:
            yield response

    async def _followed(self, caller: str, ref: coarse_pb2.CollectionRef) -> Collection:
        """The generation of a shared collection that a copier follows. Raises NotFound once it is
        gone: the copier's positions are none of another one's.
        """
        self._app.require_caller(caller)
        self._app.require_shared(ref.name)
        return await generation_of(self._catalogue, ref)


def mount(app: RegionApp, log: RegionLog, catalogue: Catalogue, cap_s: float) -> Mounted:
    """For a server."""
    return Mounted(
        region_pb2.DESCRIPTOR,
        "RegionService",
        RegionServicer(app, log, catalogue, cap_s),
        region_pb2_grpc.add_RegionServiceServicer_to_server,
    )
