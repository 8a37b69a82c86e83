"""Another region over gRPC: what it answers, and its log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.document import Document
from nestvec.core.errors import NestvecError
from nestvec.core.placement import split_ids
from nestvec.core.ports import (
    LogBatch,
    RegionAnswer,
    RegionHits,
    RegionQuery,
    RegionRerank,
    StoredDocument,
    StoredVersion,
)
from nestvec.core.regions import RegionDescription
from nestvec.core.round_trip import RoundTrip
from nestvec.rpc.clients import ask
from nestvec.rpc.region_checks import nonsense, require_region
from nestvec.rpc.region_endpoints import Endpoints, passed_on
from nestvec.rpc.region_log_wire import (
    batch_from_wire,
    deletion_from_wire,
    document_from_copy,
    listing_from_wire,
    record_from_bytes,
    version_from_wire,
)
from nestvec.rpc.region_wire import (
    answer_from_wire,
    description_from_wire,
    documents_from_wire,
    query_to_wire,
    region_hits_from_wire,
    rerank_to_wire,
)
from nestvec.rpc.wire import collection_ref, ids_to_bytes
from nestvec.v1 import region_pb2, region_pb2_grpc

Response = TypeVar("Response", bound=Message)
# Ids in one request; the server's own bound is as high.
_IDS = 1000
# Whole documents in one request.
_DOCUMENTS = 256
# What a record may take with all that it drew.
_MOST_RECORD_BYTES = 1 << 30


class RemoteRegion:
    """Another region at one endpoint. Fills ports.Region.

    caller: this region. way: what is known of the way there; only read here.
    """

    def __init__(
        self, channel: grpc.aio.Channel, name: str, caller: str, way: RoundTrip | None = None
    ) -> None:
        self.name = name
        self._stub = region_pb2_grpc.RegionServiceStub(channel)
        self._caller = caller
        self._way = way or RoundTrip()

    async def describe(self, timeout_s: float) -> RegionDescription:
        """See ports.Region."""
        request = region_pb2.DescribeRegionRequest(caller=self._caller)
        response = await self._ask(self._stub.DescribeRegion, request, timeout_s)
        return description_from_wire(response, self.name)

    async def search(self, query: RegionQuery, timeout_s: float) -> RegionAnswer:
        """See ports.Region. timeout_s: until the answer is here."""
        request = query_to_wire(query, self._caller, self._way.seconds)
        response = await self._ask(self._stub.SearchRegion, request, timeout_s)
        return answer_from_wire(response, query, self.name)

    async def rerank(self, query: RegionRerank, timeout_s: float) -> RegionHits:
        """See ports.Region."""
        request = rerank_to_wire(query, self._caller, self._way.seconds)
        response = await self._ask(self._stub.RerankRegion, request, timeout_s)
        require_region(response.region, self.name)
        if response.scoring_space.fingerprint != query.fingerprint:
            nonsense(self.name, "an order of vectors of another space")
        hits = region_hits_from_wire(response.hits, query.k, False, self.name)
        if not set(hits.ids) <= set(query.ids):
            nonsense(self.name, "documents that it was not asked to put in order")
        return hits

    async def documents(
        self, collection: str, ids: Sequence[str], timeout_s: float
    ) -> list[Document]:
        """See ports.Region."""
        request = region_pb2.FetchDocumentsRequest(
            caller=self._caller,
            collection=collection,
            ids=ids,
            round_trip_ms=self._way.seconds * 1e3,
        )
        response = await self._ask(self._stub.FetchDocuments, request, timeout_s)
        return documents_from_wire(response.documents, ids, self.name)

    async def _ask(
        self, method: Callable[..., Awaitable[Response]], request: Message, timeout_s: float
    ) -> Response:
        try:
            return await ask(method, request, timeout_s, f"region {self.name!r}")
        except NestvecError as error:
            raise passed_on(error, self.name) from None


class RemoteSource:
    """The log of another region's collections. Fills the CopySource of replication.copy_ends.

    channels: one an endpoint. `collection` is everywhere that region's own record of it.
    prefix_dim: of a reader of rows, their tier; 0 reads whole documents.
    """

    def __init__(
        self, channels: Sequence[grpc.aio.Channel], name: str, caller: str, prefix_dim: int = 0
    ) -> None:
        self.name = name
        self._prefix_dim = prefix_dim
        self._caller = caller
        self._endpoints = Endpoints(channels, name, caller)

    @property
    def received_bytes(self) -> int:
        """Of messages, since the start."""
        return self._endpoints.received_bytes

    async def record(
        self, collection: str, with_assets: bool = False
    ) -> tuple[Collection, dict[str, bytes]]:
        """A shared collection as its record stands there, and what its tiers drew, by name. Raises
        NotFound.
        """
        request = region_pb2.ReadRecordRequest(
            caller=self._caller, collection=collection, with_assets=with_assets
        )
        record, parts, size = b"", dict[str, list[bytes]](), 0
        async for response in self._endpoints.stream("ReadRecord", request):
            record = record or response.record
            if response.asset:
                parts.setdefault(response.asset, []).append(response.data)
            size += response.ByteSize()
            if size > _MOST_RECORD_BYTES:
                nonsense(self.name, f"a record of more than {_MOST_RECORD_BYTES:,} bytes")
        found = record_from_bytes(record, self.name)
        if found.name != collection:
            nonsense(self.name, f"the record of {found.name!r} where {collection!r} was asked for")
        return found, {name: b"".join(data) for name, data in parts.items()}

    async def positions(self, collection: Collection, partitions: range) -> dict[int, int]:
        """See ports.VectorStore."""
        request = region_pb2.ReadPositionsRequest(
            caller=self._caller,
            collection=collection_ref(collection),
            first_partition=partitions.start,
            end_partition=partitions.stop,
        )
        response = await self._endpoints.ask("ReadPositions", request)
        found = dict(response.positions)
        if found.keys() != set(partitions) or min(found.values(), default=0) < 0:
            nonsense(self.name, f"positions of other partitions than {partitions}")
        return found

    async def read_log(
        self, collection: Collection, after: Mapping[int, int], limit: int
    ) -> list[LogBatch]:
        """See ports.VectorStore."""
        request = region_pb2.ReadLogRequest(
            caller=self._caller, collection=collection_ref(collection), after=after, limit=limit
        )
        response = await self._endpoints.ask("ReadLog", request)
        batches = [batch_from_wire(part, self.name) for part in response.parts]
        told_of = [one.partition for one in batches]
        if len(set(told_of)) < len(told_of) or not set(told_of) <= after.keys():
            nonsense(self.name, "log entries of partitions that were not asked for")
        if any(one.last <= after[one.partition] for one in batches):
            nonsense(self.name, "log entries from before where it was to begin")
        return batches

    async def entries(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[list[StoredVersion]]:
        """See ports.VectorStore."""
        request = region_pb2.ListVersionsRequest(
            caller=self._caller, collection=collection_ref(collection), partition=partition
        )
        async for response in self._endpoints.stream("ListVersions", request):
            yield listing_from_wire(response, self.name)

    async def tombstones(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[list[tuple[str, int]]]:
        """See ports.VectorStore."""
        request = region_pb2.ListTombstonesRequest(
            caller=self._caller, collection=collection_ref(collection), partition=partition
        )
        async for response in self._endpoints.stream("ListTombstones", request):
            yield [deletion_from_wire(one, self.name) for one in response.tombstones]

    async def versions(
        self, collection: Collection, external_ids: Sequence[str]
    ) -> list[StoredVersion | None]:
        """See ports.VectorStore."""
        found: list[StoredVersion | None] = []
        for start in range(0, len(external_ids), _IDS):
            some = external_ids[start : start + _IDS]
            request = region_pb2.ReadVersionsRequest(
                caller=self._caller, collection=collection_ref(collection), ids=some
            )
            response = await self._endpoints.ask("ReadVersions", request)
            if [one.id for one in response.versions] != list(some):
                nonsense(self.name, "versions of other documents than were asked for")
            found += [
                version_from_wire(one, self.name) if one.sequence else None
                for one in response.versions
            ]
        return found

    async def live_documents(
        self, collection: Collection, ids: Ids, with_vectors: bool
    ) -> list[StoredDocument | None]:
        """See ports.VectorStore. Of a reader of rows: each as a copy keeps it, header included, in
        place of its vector, with a payload that has the declared fields alone.
        """
        return await self._documents(collection, ids, with_vectors, names_only=False)

    async def names(self, collection: Collection, ids: Ids) -> list[StoredVersion | None]:
        """As live_documents, without values."""
        found = await self._documents(collection, ids, with_vectors=False, names_only=True)
        return [
            None if one is None else StoredVersion(one.external_id, one.sequence, one.version)
            for one in found
        ]

    async def _documents(
        self, collection: Collection, ids: Ids, with_vectors: bool, names_only: bool
    ) -> list[StoredDocument | None]:
        rows = self._prefix_dim if with_vectors else 0
        found: list[StoredDocument | None] = []
        for start in range(0, len(ids), _DOCUMENTS):
            some = ids[start : start + _DOCUMENTS]
            request = region_pb2.ReadDocumentsRequest(
                caller=self._caller,
                collection=collection_ref(collection),
                ids=ids_to_bytes(some),
                with_vectors=with_vectors,
                names_only=names_only,
                prefix_dim=rows,
            )
            read: list[StoredDocument | None] = []
            sequences = split_ids(some)[1].tolist()
            async for response in self._endpoints.stream("ReadDocuments", request):
                read += self._read(response, sequences[len(read) :], bool(rows))
            if len(read) < len(some):
                nonsense(self.name, f"{len(read)} documents where {len(some)} were asked for")
            found += read
        return found

    def _read(
        self,
        response: region_pb2.ReadDocumentsResponse,
        sequences: Sequence[int],
        rows: bool,
    ) -> list[StoredDocument | None]:
        """One part of an answer. sequences: of the documents that have not come yet."""
        if len(response.documents) > len(sequences):
            nonsense(self.name, "more documents than were asked for")
        header = response.row_header if rows else None
        return [
            document_from_copy(one, sequence, self.name, header)
            for one, sequence in zip(response.documents, sequences, strict=False)
        ]
