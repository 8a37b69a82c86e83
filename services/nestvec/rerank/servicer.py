"""RerankService over a reranker."""

from __future__ import annotations

from typing import Any

import grpc

from nestvec.core.codec import floats_from_bytes
from nestvec.core.errors import InvalidRequest
from nestvec.core.ports import Catalogue, Reranker, RerankQuery
from nestvec.rpc.references import named
from nestvec.rpc.server import Mounted, time_left_s
from nestvec.rpc.wire import certificate_to_wire, hits_from_wire, ids_to_bytes
from nestvec.telemetry import tracing
from nestvec.v1 import rerank_pb2, rerank_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class RerankServicer(rerank_pb2_grpc.RerankServiceServicer):
    """Puts candidates into full-dimension order."""

    def __init__(self, app: Reranker, catalogue: Catalogue, cap_s: float) -> None:
        self._app = app
        self._catalogue = catalogue
        self._cap_s = cap_s

    async def Rerank(
        self, request: rerank_pb2.RerankRequest, context: Context
    ) -> rerank_pb2.RerankResponse:
        """See rerank.proto."""
        collection = await named(self._catalogue, request.collection)
        vectors = floats_from_bytes(request.query, collection.store_dim, "query")
        if len(vectors) != 1:
            raise InvalidRequest("query", f"{len(vectors)} vectors, expected 1")
        if request.k < 1:
            raise InvalidRequest("k", f"{request.k}, expected 1 or more")
        if not request.bound_z > 0.0:
            raise InvalidRequest("bound_z", f"{request.bound_z}, expected more than 0")
        query = RerankQuery(
            vectors[0],
            hits_from_wire(request.candidates),
            request.k,
            request.bound_z,
            request.exhaustive,
        )
        answer = await self._app.rerank(collection, query, time_left_s(context, self._cap_s))
        if (span := tracing.current()) is not None:
            span.set(
                {
                    "nestvec.collection": collection.name,
                    "nestvec.candidates": answer.considered,
                    "nestvec.fetched": answer.fetched,
                    "nestvec.certificate": answer.certificate.value,
                }
            )
        return rerank_pb2.RerankResponse(
            ids=ids_to_bytes(answer.ids),
            scores=answer.scores.astype("<f4", copy=False).tobytes(),
            considered=answer.considered,
            fetched=answer.fetched,
            certificate=certificate_to_wire(answer.certificate),
            failure_probability=answer.failure_probability,
            missing_ids=ids_to_bytes(answer.missing),
            corrupt_ids=ids_to_bytes(answer.corrupt),
        )


def mount(app: Reranker, catalogue: Catalogue, cap_s: float) -> Mounted:
    """For a server."""
    return Mounted(
        rerank_pb2.DESCRIPTOR,
        "RerankService",
        RerankServicer(app, catalogue, cap_s),
        rerank_pb2_grpc.add_RerankServiceServicer_to_server,
    )
