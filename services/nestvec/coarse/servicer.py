"""CoarseService over one shard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from nestvec.core.codec import floats_from_bytes
from nestvec.core.ports import Catalogue, CoarseQuery, CoarseSearcher
from nestvec.core.watermark import Watermark
from nestvec.membership.measures import Load
from nestvec.rpc.answer_stream import AnswerStreams, Frames
from nestvec.rpc.decoding import Refused, careful
from nestvec.rpc.field_wire import filter_from_wire
from nestvec.rpc.inspection_wire import inspection_to_wire, request_from_wire
from nestvec.rpc.references import named
from nestvec.rpc.server import Mounted, time_left_s
from nestvec.rpc.wire import (
    hits_to_wire,
    ids_from_bytes,
    tier_to_wire,
    verification_to_wire,
)
from nestvec.telemetry import tracing
from nestvec.v1 import coarse_pb2, coarse_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
_SERVICE = coarse_pb2.DESCRIPTOR.services_by_name["CoarseService"]
_SEARCHING = ("SearchCoarse", "StreamSearches")
_read_search = careful(coarse_pb2.SearchCoarseRequest.FromString)


class CoarseServicer(coarse_pb2_grpc.CoarseServiceServicer):
    """One shard. The catalogue turns a reference into the collection it names.

    require: raises LeaseLost where a call for that incarnation may not be answered; see
    membership.Lease. load: of searches.
    """

    def __init__(
        self,
        app: CoarseSearcher,
        catalogue: Catalogue,
        cap_s: float,
        require: Callable[[int], None] | None = None,
        load: Load | None = None,
    ) -> None:
        self._app = app
        self._catalogue = catalogue
        self._cap_s = cap_s
        self._load = load or Load(1)
        self.streams = AnswerStreams("SearchCoarse", self._streamed)
        if require is not None:
            self._searched = _requiring(require, self._searched)  # type: ignore[method-assign]
            for method in _SERVICE.methods:
                if method.name not in _SEARCHING:
                    setattr(self, method.name, _requiring(require, getattr(self, method.name)))

    async def SearchCoarse(
        self, request: coarse_pb2.SearchCoarseRequest, context: Context
    ) -> coarse_pb2.SearchCoarseResponse:
        """See coarse.proto."""
        return await self._searched(request, time_left_s(context, self._cap_s))

    def StreamSearches(
        self, requests: Frames, context: Context
    ) -> AsyncIterator[coarse_pb2.StreamSearchesResponse]:
        """See coarse.proto."""
        return self.streams.answers(requests)

    async def _streamed(self, data: bytes, timeout_s: float) -> bytes:
        request = _read_search(data)
        if isinstance(request, Refused):
            raise request.error
        response = await self._searched(request, min(timeout_s, self._cap_s))
        return response.SerializeToString()

    async def _searched(
        self, request: coarse_pb2.SearchCoarseRequest, timeout_s: float
    ) -> coarse_pb2.SearchCoarseResponse:
        ref = request.collection
        bounded = request.HasField("bound_z")
        query = CoarseQuery(
            collection=ref.name,
            generation=ref.generation,
            fingerprint=ref.space.fingerprint,
            queries=floats_from_bytes(request.queries, ref.space.dim, "queries"),
            coarse_dim=request.coarse_dim,
            count=request.count,
            bound_z=request.bound_z if bounded else None,
            # Of this process: a search that nobody waits behind needs no thread of its own.
            alone=self._load.idle,
            filter=filter_from_wire(request.filter) if request.HasField("filter") else None,
            watermark=Watermark.from_bytes(request.watermark) if request.watermark else None,
            certified_k=request.certified_k,
        )
        with self._load.one():
            answer = await self._app.search(query, timeout_s)
        if (span := tracing.current()) is not None:
            span.set(
                {
                    "nestvec.collection": ref.name,
                    "nestvec.coarse_dim": query.coarse_dim,
                    "nestvec.count": query.count,
                    "nestvec.documents": answer.documents,
                    "nestvec.matching": answer.matching,
                }
            )
        return coarse_pb2.SearchCoarseResponse(
            columns=[hits_to_wire(hits, bounded) for hits in answer.hits],
            documents=answer.documents,
            matching=answer.matching,
        )

    async def OpenCollection(
        self,
        request: coarse_pb2.OpenCollectionRequest,
        context: Context,
    ) -> coarse_pb2.OpenCollectionResponse:
        """See coarse.proto."""
        # Its tiers may have changed, and that is why it is opened again.
        self._catalogue.forget(request.collection.name)
        documents = await self._app.open(await named(self._catalogue, request.collection))
        return coarse_pb2.OpenCollectionResponse(documents=documents)

    async def ReachWatermark(
        self,
        request: coarse_pb2.ReachWatermarkRequest,
        context: Context,
    ) -> coarse_pb2.ReachWatermarkResponse:
        """See coarse.proto."""
        collection = await named(self._catalogue, request.collection)
        watermark = Watermark.from_bytes(request.watermark)
        await self._app.reach(collection, watermark, time_left_s(context, self._cap_s))
        return coarse_pb2.ReachWatermarkResponse()

    async def DescribeProgress(
        self,
        request: coarse_pb2.DescribeProgressRequest,
        context: Context,
    ) -> coarse_pb2.DescribeProgressResponse:
        """See coarse.proto."""
        watermark = await self._app.progress(await named(self._catalogue, request.collection))
        return coarse_pb2.DescribeProgressResponse(watermark=watermark.to_bytes())

    async def SnapshotShard(
        self,
        request: coarse_pb2.SnapshotShardRequest,
        context: Context,
    ) -> coarse_pb2.SnapshotShardResponse:
        """See coarse.proto."""
        info = await self._app.snapshot(await named(self._catalogue, request.collection))
        return coarse_pb2.SnapshotShardResponse(
            location=info.location, documents=info.documents, bytes=info.nbytes
        )

    async def VerifyShard(
        self,
        request: coarse_pb2.VerifyShardRequest,
        context: Context,
    ) -> coarse_pb2.VerifyShardResponse:
        """See coarse.proto."""
        collection = await named(self._catalogue, request.collection)
        found = await self._app.verify(collection, request.repair, request.sample)
        return verification_to_wire(found)

    async def SettleCollection(
        self,
        request: coarse_pb2.SettleCollectionRequest,
        context: Context,
    ) -> coarse_pb2.SettleCollectionResponse:
        """See coarse.proto."""
        await self._app.settle(await named(self._catalogue, request.collection))
        return coarse_pb2.SettleCollectionResponse()

    async def CloseCollection(
        self,
        request: coarse_pb2.CloseCollectionRequest,
        context: Context,
    ) -> coarse_pb2.CloseCollectionResponse:
        """See coarse.proto. The catalogue has forgotten it by now: only its name matters."""
        await self._app.drop(request.collection.name, request.collection.generation)
        return coarse_pb2.CloseCollectionResponse()

    async def DescribeTiers(
        self,
        request: coarse_pb2.DescribeTiersRequest,
        context: Context,
    ) -> coarse_pb2.DescribeTiersResponse:
        """See coarse.proto."""
        tiers = await self._app.status(await named(self._catalogue, request.collection))
        return coarse_pb2.DescribeTiersResponse(tiers=[tier_to_wire(tier) for tier in tiers])

    async def NameDocuments(
        self,
        request: coarse_pb2.NameDocumentsRequest,
        context: Context,
    ) -> coarse_pb2.NameDocumentsResponse:
        """See coarse.proto."""
        collection = await named(self._catalogue, request.collection)
        names = await self._app.names(collection, ids_from_bytes(request.ids, "ids"))
        return coarse_pb2.NameDocumentsResponse(names=[name or "" for name in names])

    async def InspectDocuments(
        self,
        request: coarse_pb2.InspectDocumentsRequest,
        context: Context,
    ) -> coarse_pb2.InspectDocumentsResponse:
        """See coarse.proto."""
        collection = await named(self._catalogue, request.collection)
        asked = request_from_wire(request, collection.store_dim)
        return inspection_to_wire(await self._app.inspect(collection, asked))


def _requiring(require: Callable[[int], None], behaviour: Any) -> Any:
    async def call(request: Any, more: Any) -> Any:
        require(request.collection.incarnation)
        response = await behaviour(request, more)
        # Once more: a process that was stopped in the middle must not answer from before.
        require(request.collection.incarnation)
        return response

    return call


def mount(
    app: CoarseSearcher,
    catalogue: Catalogue,
    cap_s: float,
    require: Callable[[int], None] | None = None,
    load: Load | None = None,
) -> Mounted:
    """For a server. See CoarseServicer."""
    mounted = CoarseServicer(app, catalogue, cap_s, require, load)
    return Mounted(
        coarse_pb2.DESCRIPTOR,
        _SERVICE.name,
        mounted,
        coarse_pb2_grpc.add_CoarseServiceServicer_to_server,
        mounted.streams.leave,
    )
