"""Ports over gRPC: an application that is mounted elsewhere, seen through the same face."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from nestvec.core.arrays import Floats, Ids
from nestvec.core.codec import floats_from_bytes, floats_to_bytes
from nestvec.core.collection import Collection
from nestvec.core.errors import WorkerUnavailable
from nestvec.core.inspection import Inspection, InspectionRequest
from nestvec.core.ports import (
    CoarseAnswer,
    CoarseQuery,
    RerankAnswer,
    RerankQuery,
    ShardVerification,
    SnapshotInfo,
    TierStatus,
)
from nestvec.core.space import Role, Space
from nestvec.core.watermark import Watermark
from nestvec.rpc.call_stream import CallStream
from nestvec.rpc.channels import PLAIN, ChannelSecurity, open_channel
from nestvec.rpc.field_wire import filter_to_wire
from nestvec.rpc.inspection_wire import inspection_from_wire, request_to_wire
from nestvec.rpc.interceptors import REQUEST_ID_KEY
from nestvec.rpc.status import error_from
from nestvec.rpc.traced import calling
from nestvec.rpc.wire import (
    certificate_from_wire,
    collection_ref,
    column_from_bytes,
    hits_from_wire,
    hits_to_wire,
    ids_from_bytes,
    ids_to_bytes,
    role_to_wire,
    space_from_wire,
    tier_from_wire,
    verification_from_wire,
)
from nestvec.telemetry import tracing
from nestvec.telemetry.logs import request_id
from nestvec.v1 import (
    coarse_pb2,
    coarse_pb2_grpc,
    common_pb2,
    cross_encoder_pb2,
    cross_encoder_pb2_grpc,
    encoder_pb2,
    encoder_pb2_grpc,
    rerank_pb2,
    rerank_pb2_grpc,
)

Response = TypeVar("Response")

# Building and reading a whole collection may take long; nobody waits for these on a query's path.
_MANAGE_TIMEOUT_S = 600.0
# A look-up in memory. Whoever cannot wait so long cancels the call.
_NAMES_TIMEOUT_S = 5.0
# What is larger, or whose answer may be, has a call of its own: in a stream it would hold up those
# behind it, and a message over the limit would end all of them. The least limit is twice as much.
_MOST_STREAMED_BYTES = 32 * 1024
# Of each in an answer, at most.
_CANDIDATE_BYTES = 16


def internal_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """Of a channel between two processes of nestvec."""
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # Who calls decides what is tried again, and where; nobody compresses vectors. Each of these
        # would look at every call.
        ("grpc.enable_retries", 0),
        ("grpc.per_message_compression", 0),
        ("grpc.per_message_decompression", 0),
    ]


# A peer that comes back is found at once; gRPC's own pause grows to two minutes.
RECONNECT_MS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Without this, a connection to the same address inherits the pauses of the one before.
    ("grpc.use_local_subchannel_pool", 1),
)


# Where a name stands for several processes (a headless service of Kubernetes), each takes its turn;
# gRPC's own choice is one of them for as long as it lives.
_IN_TURN = ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}')


def channel_to(
    address: str,
    max_message_bytes: int,
    security: ChannelSecurity = PLAIN,
    more: Sequence[tuple[str, int]] = (),
) -> grpc.aio.Channel:
    """A channel to an internal peer, or to several of a kind behind one name.

    more: further options, as RECONNECT_MS.
    """
    return open_channel(address, [*internal_options(max_message_bytes), _IN_TURN, *more], security)


async def ask(
    method: Callable[..., Awaitable[Response]],
    request: Message,
    timeout_s: float,
    peer: str,
    wait_for_ready: bool = False,
) -> Response:
    """One call, under the id of the call that it serves, and in its trace. Raises the error that
    the peer raised.
    """
    current = request_id.get()
    metadata: tuple[tuple[str, str], ...] = ((REQUEST_ID_KEY, current),) if current else ()
    with calling(request, peer) as span:
        if span is not None:
            metadata = (*metadata, *tracing.headers(span))
        try:
            response = await method(
                request, timeout=timeout_s, metadata=metadata or None, wait_for_ready=wait_for_ready
            )
        except grpc.aio.AioRpcError as error:
            raise error_from(error, peer) from None
        if response is None:
            # What gRPC gives for bytes that are none of its messages.
            raise unreadable(peer)
        return response


def unreadable(peer: str) -> WorkerUnavailable:
    """Of a peer whose answers are no messages: whatever listens there, it is not what was meant."""
    return WorkerUnavailable(f"{peer} answers bytes that are no message of nestvec's")


class RemoteEncoder:
    """An encoder behind gRPC. Fills ports.Encoder. Made by `connect`, which learns the space."""

    def __init__(self, channel: grpc.aio.Channel, space: Space) -> None:
        self._stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        self.space = space

    @classmethod
    async def connect(cls, channel: grpc.aio.Channel, timeout_s: float = 30.0) -> RemoteEncoder:
        """Wait until the encoder answers. Raises WorkerUnavailable."""
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        request = encoder_pb2.DescribeEncoderRequest()
        response = await ask(
            stub.DescribeEncoder, request, timeout_s, "encoder", wait_for_ready=True
        )
        return cls(channel, space_from_wire(response.space))

    async def encode(self, texts: Sequence[str], role: Role, timeout_s: float) -> Floats:
        """See ports.Encoder."""
        request = encoder_pb2.EncodeRequest(
            texts=texts, role=role_to_wire(role), fingerprint=self.space.fingerprint
        )
        response = await ask(self._stub.Encode, request, timeout_s, "encoder")
        self.space.require_same(response.space.fingerprint, "the encoder's answer")
        return floats_from_bytes(response.vectors, self.space.dim, "vectors")


class RemotePairScorer:
    """A cross-encoder behind gRPC. Fills ports.PairScorer. Made by `connect`, which learns its
    name.
    """

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self._stub = cross_encoder_pb2_grpc.CrossEncoderServiceStub(channel)
        self.name = name

    @classmethod
    async def connect(cls, channel: grpc.aio.Channel, timeout_s: float = 30.0) -> RemotePairScorer:
        """Wait until it answers. Raises WorkerUnavailable."""
        stub = cross_encoder_pb2_grpc.CrossEncoderServiceStub(channel)
        request = cross_encoder_pb2.DescribeCrossEncoderRequest()
        response = await ask(
            stub.DescribeCrossEncoder, request, timeout_s, "cross-encoder", wait_for_ready=True
        )
        return cls(channel, response.model)

    async def score(self, query: str, texts: Sequence[str], timeout_s: float) -> Floats:
        """See ports.PairScorer."""
        request = cross_encoder_pb2.ScorePairsRequest(query=query, texts=texts)
        response = await ask(self._stub.ScorePairs, request, timeout_s, "cross-encoder")
        # Another one may have been started at the address; an answer bears one name.
        self.name = response.model
        return column_from_bytes(response.scores, len(texts), "scores")


class RemoteCoarse:
    """One shard behind gRPC. Fills ports.CoarseSearcher.

    name: for messages. incarnation: the only one of the worker that may answer; 0 takes any.
    Searches share one stream, which ends with the channel, or with `close`.
    """

    def __init__(
        self, channel: grpc.aio.Channel, name: str = "coarse", incarnation: int = 0
    ) -> None:
        self._stub = coarse_pb2_grpc.CoarseServiceStub(channel)
        self._name = name
        self._incarnation = incarnation
        self._searches = CallStream(self._stub.StreamSearches, name)

    async def close(self, grace_s: float) -> None:
        """Let searches under way finish for so long; then they fail. Safe to repeat."""
        await self._searches.close(grace_s)

    async def search(self, query: CoarseQuery, timeout_s: float) -> CoarseAnswer:
        """See ports.CoarseSearcher."""
        space = common_pb2.SpaceRef(fingerprint=query.fingerprint, dim=query.queries.shape[1])
        request = coarse_pb2.SearchCoarseRequest(
            collection=coarse_pb2.CollectionRef(
                name=query.collection,
                generation=query.generation,
                space=space,
                incarnation=self._incarnation,
            ),
            queries=floats_to_bytes(query.queries),
            coarse_dim=query.coarse_dim,
            count=query.count,
            bound_z=query.bound_z,
            filter=None if query.filter is None else filter_to_wire(query.filter),
            watermark=b"" if query.watermark is None else query.watermark.to_bytes(),
            certified_k=query.certified_k,
        )
        data = request.SerializeToString()
        most_answered = _CANDIDATE_BYTES * query.count * len(query.queries)
        if max(len(data), most_answered) > _MOST_STREAMED_BYTES:
            response = await ask(self._stub.SearchCoarse, request, timeout_s, self._name)
        else:
            answered = await self._searches.call(data, timeout_s)
            response = coarse_pb2.SearchCoarseResponse.FromString(answered)
        hits = [hits_from_wire(columns) for columns in response.columns]
        return CoarseAnswer(hits, response.documents, response.matching)

    async def open(self, collection: Collection) -> int:
        """See ports.CoarseSearcher."""
        request = coarse_pb2.OpenCollectionRequest(collection=self._ref(collection))
        response = await ask(self._stub.OpenCollection, request, _MANAGE_TIMEOUT_S, self._name)
        return response.documents

    async def reach(self, collection: Collection, watermark: Watermark, timeout_s: float) -> None:
        """See ports.CoarseSearcher."""
        request = coarse_pb2.ReachWatermarkRequest(
            collection=self._ref(collection), watermark=watermark.to_bytes()
        )
        await ask(self._stub.ReachWatermark, request, timeout_s, self._name)

    async def progress(self, collection: Collection) -> Watermark:
        """See ports.CoarseSearcher."""
        request = coarse_pb2.DescribeProgressRequest(collection=self._ref(collection))
        response = await ask(self._stub.DescribeProgress, request, _MANAGE_TIMEOUT_S, self._name)
        return Watermark.from_bytes(response.watermark)

    async def snapshot(self, collection: Collection) -> SnapshotInfo:
        """See ports.CoarseSearcher."""
        request = coarse_pb2.SnapshotShardRequest(collection=self._ref(collection))
        response = await ask(self._stub.SnapshotShard, request, _MANAGE_TIMEOUT_S, self._name)
        return SnapshotInfo(response.location, response.documents, response.bytes)

    async def verify(self, collection: Collection, repair: bool, sample: int) -> ShardVerification:
        """See ports.CoarseSearcher."""
        request = coarse_pb2.VerifyShardRequest(
            collection=self._ref(collection), repair=repair, sample=sample
        )
        response = await ask(self._stub.VerifyShard, request, _MANAGE_TIMEOUT_S, self._name)
        return verification_from_wire(response)

    async def settle(self, collection: Collection) -> None:
        """See ports.CoarseSearcher."""
        request = coarse_pb2.SettleCollectionRequest(collection=self._ref(collection))
        await ask(self._stub.SettleCollection, request, _MANAGE_TIMEOUT_S, self._name)

    async def drop(self, name: str, generation: int) -> None:
        """See ports.CoarseSearcher."""
        ref = coarse_pb2.CollectionRef(
            name=name, generation=generation, incarnation=self._incarnation
        )
        request = coarse_pb2.CloseCollectionRequest(collection=ref)
        await ask(self._stub.CloseCollection, request, _MANAGE_TIMEOUT_S, self._name)

    async def status(self, collection: Collection) -> list[TierStatus]:
        """See ports.CoarseSearcher."""
        request = coarse_pb2.DescribeTiersRequest(collection=self._ref(collection))
        response = await ask(self._stub.DescribeTiers, request, _MANAGE_TIMEOUT_S, self._name)
        return [tier_from_wire(tier) for tier in response.tiers]

    async def names(self, collection: Collection, ids: Ids) -> list[str | None]:
        """See ports.CoarseSearcher."""
        request = coarse_pb2.NameDocumentsRequest(
            collection=self._ref(collection), ids=ids_to_bytes(ids)
        )
        response = await ask(self._stub.NameDocuments, request, _NAMES_TIMEOUT_S, self._name)
        return [name or None for name in response.names]

    async def inspect(self, collection: Collection, request: InspectionRequest) -> Inspection:
        """See ports.CoarseSearcher."""
        message = request_to_wire(self._ref(collection), request)
        response = await ask(self._stub.InspectDocuments, message, _MANAGE_TIMEOUT_S, self._name)
        return inspection_from_wire(response, len(request.ids))

    def _ref(self, collection: Collection) -> coarse_pb2.CollectionRef:
        ref = collection_ref(collection)
        ref.incarnation = self._incarnation
        return ref


class RemoteReranker:
    """A reranker behind gRPC. Fills ports.Reranker."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = rerank_pb2_grpc.RerankServiceStub(channel)

    async def rerank(
        self, collection: Collection, query: RerankQuery, timeout_s: float
    ) -> RerankAnswer:
        """See ports.Reranker."""
        request = rerank_pb2.RerankRequest(
            collection=collection_ref(collection),
            query=floats_to_bytes(query.query),
            candidates=hits_to_wire(query.candidates, bounded=True),
            k=query.k,
            bound_z=query.bound_z,
            exhaustive=query.exhaustive,
        )
        response = await ask(self._stub.Rerank, request, timeout_s, "rerank")
        ids = ids_from_bytes(response.ids, "ids")
        return RerankAnswer(
            ids=ids,
            scores=column_from_bytes(response.scores, len(ids), "scores"),
            considered=response.considered,
            fetched=response.fetched,
            certificate=certificate_from_wire(response.certificate),
            failure_probability=response.failure_probability,
            missing=ids_from_bytes(response.missing_ids, "missing_ids"),
            corrupt=ids_from_bytes(response.corrupt_ids, "corrupt_ids"),
        )
