"""A caller of a real engine that sends what it should not, and then looks whether it still serves.

Generated stubs over a real socket, not the SDK: the SDK would refuse much of this by itself.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from nestvec.core.arrays import Floats
from nestvec.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    common_pb2,
    encoder_pb2,
    encoder_pb2_grpc,
    ingest_pb2,
    ingest_pb2_grpc,
    query_pb2,
    query_pb2_grpc,
)

TEXTS = {
    "cat": "The cat sat on the mat.",
    "bread": "A recipe for bread with sourdough.",
    "bicycle": "How to repair the brakes of a bicycle.",
    "stars": "Stars and planets seen through a telescope.",
    "tax": "Filling in a tax return before the end of the year.",
    "chess": "Opening moves in a game of chess.",
}
# What every good search asks, and what must then stand first.
QUESTION, RIGHT = "my bike needs repair", "bicycle"
# A call that takes so long hangs.
PATIENCE_S = 20.0
ANOTHER_SPACE = "0123456789abcdef"


class Caller:
    """One collection, filled with TEXTS, and one channel."""

    def __init__(self, address: str, collection: str) -> None:
        self.collection = collection
        self.channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_send_message_length", -1),
                # Two callers of one process share connections otherwise.
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self.query = query_pb2_grpc.QueryServiceStub(self.channel)
        self.documents = ingest_pb2_grpc.IngestServiceStub(self.channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(self.channel)
        self.encoder = encoder_pb2_grpc.EncoderServiceStub(self.channel)

    def at(self, collection: str) -> Caller:
        """The same channel, another collection."""
        other = copy.copy(self)
        other.collection = collection
        return other

    # --- good calls -----------------------------------------------------------------------------

    def create(self, **named: Any) -> admin_pb2.CollectionDescription:
        request = admin_pb2.CreateCollectionRequest(**{"name": self.collection} | named)
        return self.admin.CreateCollection(request, timeout=PATIENCE_S).collection

    def fill(self) -> None:
        """Index TEXTS."""
        stream = self.stream()
        assert stream.send(*(document(name, text) for name, text in TEXTS.items())).indexed
        stream.finish()

    def search(self, text: str = QUESTION, **options: Any) -> query_pb2.SearchResponse:
        timeout_s = options.pop("timeout_s", PATIENCE_S)
        request = query_pb2.SearchRequest(
            collection=options.pop("collection", self.collection),
            text=text,
            options=query_pb2.SearchOptions(**options),
        )
        return self.query.Search(request, timeout=timeout_s)

    def search_by(self, vector: query_pb2.QueryVector) -> query_pb2.SearchResponse:
        request = query_pb2.SearchRequest(collection=self.collection, vector=vector)
        return self.query.Search(request, timeout=PATIENCE_S)

    def batch(self, **named: Any) -> query_pb2.BatchSearchResponse:
        request = query_pb2.BatchSearchRequest(collection=self.collection, **named)
        return self.query.BatchSearch(request, timeout=PATIENCE_S)

    def get(self, *ids: str, **named: Any) -> query_pb2.GetDocumentsResponse:
        request = query_pb2.GetDocumentsRequest(collection=self.collection, ids=ids, **named)
        return self.query.GetDocuments(request, timeout=PATIENCE_S)

    def delete(self, *ids: str) -> ingest_pb2.DeleteDocumentsResponse:
        request = ingest_pb2.DeleteDocumentsRequest(collection=self.collection, ids=ids)
        return self.documents.DeleteDocuments(request, timeout=PATIENCE_S)

    def describe(self) -> admin_pb2.DescribeCollectionResponse:
        request = admin_pb2.DescribeCollectionRequest(name=self.collection)
        return self.admin.DescribeCollection(request, timeout=PATIENCE_S)

    def encode(self, text: str) -> query_pb2.QueryVector:
        """Its vector as the server's model makes it, in its space."""
        request = encoder_pb2.EncodeRequest(texts=[text], role=encoder_pb2.TEXT_ROLE_QUERY)
        response = self.encoder.Encode(request, timeout=PATIENCE_S)
        return query_pb2.QueryVector(values=response.vectors, space=response.space)

    def drop(self) -> None:
        request = admin_pb2.DropCollectionRequest(name=self.collection)
        self.admin.DropCollection(request, timeout=PATIENCE_S)

    def stream(self, space: common_pb2.SpaceRef | None = None) -> IngestStream:
        return IngestStream(self.documents, self.collection, space)

    def found(self, text: str = QUESTION) -> list[str]:
        """Ids, best first."""
        return [hit.id for hit in self.search(text).hits]

    def held(self) -> set[int]:
        """How many documents the store and each tier of each shard hold: one number when all is
        whole.
        """
        described = self.describe()
        return {described.store.documents, *(tier.documents for tier in described.tiers)}

    def check_serves(self) -> None:
        """The next good request is answered, and rightly."""
        response = self.search()
        assert response.hits, "no hits"
        assert response.hits[0].id == RIGHT
        assert not response.degradations

    # --- bad calls ------------------------------------------------------------------------------

    def raw(self, method: str, data: bytes) -> Any:
        """Send bytes as they are to `Service/Method`."""
        call: Any = self.channel.unary_unary(f"/nestvec.v1.{method}")
        return call(data, timeout=PATIENCE_S)

    def raw_stream(self, *messages: bytes) -> list[ingest_pb2.IngestDocumentsResponse]:
        """Send bytes as they are, as the messages of one ingest stream."""
        call: Any = self.channel.stream_stream("/nestvec.v1.IngestService/IngestDocuments")
        read = ingest_pb2.IngestDocumentsResponse.FromString
        return [read(answer) for answer in call(iter(messages), timeout=PATIENCE_S)]

    @contextmanager
    def refuses(
        self, code: grpc.StatusCode, message: str, field: str | None = None
    ) -> Iterator[None]:
        """What is called within fails with this status, a message that this pattern is found in,
        and this field in its BadRequest. Then a good search is answered.
        """
        with pytest.raises(grpc.RpcError) as caught:
            yield
        refusal = caught.value
        details = refusal.details() or ""
        assert refusal.code() is code, details
        assert re.search(message, details), details
        assert "Traceback" not in details
        assert field_of(refusal) == field
        self.check_serves()

    def close(self) -> None:
        self.channel.close()


class IngestStream:
    """One stream, a message and its answer at a time."""

    def __init__(
        self,
        stub: ingest_pb2_grpc.IngestServiceStub,
        collection: str,
        space: common_pb2.SpaceRef | None,
    ) -> None:
        self._first = ingest_pb2.IngestDocumentsRequest(collection=collection, vector_space=space)
        self._requests: SimpleQueue[ingest_pb2.IngestDocumentsRequest | None] = SimpleQueue()
        self.offset = 0
        # The stub's own type leaves out that it is also a call.
        self.responses: Any = stub.IngestDocuments(
            iter(self._requests.get, None), timeout=PATIENCE_S
        )

    def put(self, documents: Iterable[ingest_pb2.IngestDocument], skip: int = 0) -> None:
        """Send one message, and wait for nothing. skip: offsets left out before it."""
        request = ingest_pb2.IngestDocumentsRequest(
            first_offset=self.offset + skip, documents=documents
        )
        request.MergeFrom(self._first)
        self._first = ingest_pb2.IngestDocumentsRequest()
        self.offset += skip + len(request.documents)
        self._requests.put(request)

    def send(
        self, *documents: ingest_pb2.IngestDocument, skip: int = 0
    ) -> ingest_pb2.IngestDocumentsResponse:
        """One message's answer."""
        self.put(documents, skip)
        response: ingest_pb2.IngestDocumentsResponse = next(self.responses)
        assert response.acknowledged_offset == self.offset - 1
        return response

    def finish(self) -> None:
        """End it. It must have nothing more to say."""
        self._requests.put(None)
        assert list(self.responses) == []

    def cancel(self) -> None:
        """Go away in the middle of it."""
        self.responses.cancel()
        self._requests.put(None)


def document(
    name: str, text: str = "", vector: Floats | None = None, **fields: Any
) -> ingest_pb2.IngestDocument:
    return ingest_pb2.IngestDocument(
        document=common_pb2.Document(id=name, text=text, fields=fields),
        vector=b"" if vector is None else vector.astype("<f4").tobytes(),
    )


def floats_of(vector: query_pb2.QueryVector) -> Floats:
    """(dim,) float32, writable."""
    return np.frombuffer(vector.values, "<f4").copy()


def field_of(error: grpc.RpcError) -> str | None:
    """What BadRequest names; None without one."""
    # A status that came over the wire is a call too; the stubs do not say so.
    call: Any = error
    status = rpc_status.from_call(call)
    for packed in status.details if status else ():
        violations = error_details_pb2.BadRequest()
        if packed.Unpack(violations):
            return str(violations.field_violations[0].field)
    return None


def facts_of(error: grpc.RpcError) -> dict[str, str]:
    """What ErrorInfo tells besides the message."""
    call: Any = error
    status = rpc_status.from_call(call)
    for packed in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if packed.Unpack(info):
            return dict(info.metadata)
    return {}


# --- bytes that no generated code would write ----------------------------------------------------

# Field 99, the number 1: no message of nestvec.v1 has so many fields.
UNKNOWN_FIELD = b"\x98\x06\x01"
UNKNOWN_NUMBER = 99


def delimited(number: int, data: bytes) -> bytes:
    """Field `number`, holding a string, bytes or a message."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
