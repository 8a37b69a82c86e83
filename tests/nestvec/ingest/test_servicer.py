"""The stream of documents: every offset is acknowledged once, in order, whatever is in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from nestvec.core.errors import StoreUnavailable
from nestvec.ingest import servicer as ingest_servicer
from nestvec.ingest.app import IngestApp
from nestvec.rpc.server import Server, ServerLimits
from nestvec.v1 import common_pb2, ingest_pb2, ingest_pb2_grpc
from nestvec.v1.ingest_pb2 import IngestDocumentsRequest as Request
from nestvec.v1.ingest_pb2 import IngestDocumentsResponse as Response
from tests.nestvec.core.synthetic import mrl_like
from tests.support.rooms import (
    PATIENT_S,
    FaultyStore,
    Rooms,
    SpyEncoder,
    eventually,
    open_rooms,
    raising,
    waiting_for,
)

INVALID = ingest_pb2.INGEST_ERROR_REASON_INVALID
UNAVAILABLE = ingest_pb2.INGEST_ERROR_REASON_UNAVAILABLE
SUPERSEDED = ingest_pb2.INGEST_ERROR_REASON_SUPERSEDED


@asynccontextmanager
async def streaming(rooms: Rooms) -> AsyncIterator[Any]:
    """A stub at a real socket."""
    server = Server([ingest_servicer.mount(rooms.ingest)], ServerLimits(drain_s=0.1))
    port = await server.start("127.0.0.1", 0)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    try:
        yield ingest_pb2_grpc.IngestServiceStub(channel)
    finally:
        await channel.close()
        await server.stop()


@pytest.fixture
async def rooms() -> AsyncIterator[Rooms]:
    async with open_rooms(wrap_encoder=SpyEncoder) as opened:
        await opened.create()
        yield opened


@pytest.fixture
async def stub(rooms: Rooms) -> AsyncIterator[Any]:
    async with streaming(rooms) as opened:
        yield opened


def message(first_offset: int, *texts: str, collection: str = "docs", prefix: str = "d") -> Request:
    """Documents named by their offsets."""
    documents = [
        ingest_pb2.IngestDocument(document=common_pb2.Document(id=f"{prefix}{offset}", text=text))
        for offset, text in enumerate(texts, first_offset)
    ]
    return Request(collection=collection, first_offset=first_offset, documents=documents)


async def answers(stub: Any, messages: Sequence[Request]) -> list[Response]:
    call = stub.IngestDocuments(iter(messages), timeout=PATIENT_S)
    return [response async for response in call]


def errors(response: Response) -> list[tuple[int, str, int]]:
    return [(error.offset, error.id, error.reason) for error in response.errors]


async def test_every_message_is_acknowledged_by_its_last_offset_in_order(
    rooms: Rooms, stub: Any
) -> None:
    messages = [
        message(start, *["some text"] * size) for start, size in ((100, 3), (103, 1), (104, 7))
    ]
    responses = await answers(stub, messages)
    assert [one.acknowledged_offset for one in responses] == [102, 103, 110]
    assert [one.indexed for one in responses] == [3, 1, 7]
    assert not any(one.errors for one in responses)
    assert len(await rooms.found("some text", k=50)) == 11


async def test_errors_carry_the_offset_and_never_end_the_stream(rooms: Rooms, stub: Any) -> None:
    first = message(10, "good", "", "good")
    first.documents[0].document.fields["odd"].SetInParent()
    second = message(13, "good", "good")
    second.documents[0].document.id = second.documents[1].document.id = "same"
    responses = await answers(stub, [first, second, message(15, "good")])
    assert [one.acknowledged_offset for one in responses] == [12, 14, 15]
    assert errors(responses[0]) == [(10, "d10", INVALID), (11, "d11", INVALID)]
    assert "document.fields.odd" in responses[0].errors[0].message
    assert errors(responses[1]) == [(13, "same", SUPERSEDED)]
    assert [one.indexed for one in responses] == [1, 1, 1]


async def test_a_message_without_documents_is_acknowledged_as_the_offset_before_it(
    stub: Any,
) -> None:
    responses = await answers(stub, [message(5), message(5, "good")])
    assert [one.acknowledged_offset for one in responses] == [4, 5]
    assert [one.indexed for one in responses] == [0, 1]


async def test_vectors_are_taken_in_the_space_that_the_first_message_names(
    rooms: Rooms, stub: Any
) -> None:
    vectors = mrl_like(2, 64, seed=1)
    first = message(0, "text of zero")
    first.vector_space.fingerprint = rooms.encoder.space.fingerprint
    first.vector_space.dim = 64
    first.documents[0].vector = vectors[0].tobytes()
    second = message(1, "text of one", "text of two")
    second.documents[0].vector = vectors[1].tobytes()
    second.documents[1].vector = vectors[1][:63].tobytes()
    responses = await answers(stub, [first, second])
    assert [one.indexed for one in responses] == [1, 1]
    assert errors(responses[1]) == [(2, "d2", INVALID)]
    assert await rooms.found(vectors[1], k=1) == ["d1"]


@pytest.mark.parametrize(
    ("messages", "code", "words"),
    [
        ([message(0, "a", collection="dox")], grpc.StatusCode.NOT_FOUND, "dox"),
        (
            [
                Request(
                    collection="docs", vector_space=common_pb2.SpaceRef(fingerprint="ff", dim=64)
                )
            ],
            grpc.StatusCode.FAILED_PRECONDITION,
            "ff",
        ),
    ],
)
async def test_a_stream_that_cannot_begin_ends_with_its_status(
    stub: Any, messages: list[Request], code: grpc.StatusCode, words: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=words) as caught:
        await answers(stub, messages)
    assert caught.value.code() is code


@pytest.mark.parametrize("second", [4, 2, 0])
async def test_a_gap_in_the_offsets_ends_the_stream_after_what_came_before(
    rooms: Rooms, stub: Any, second: int
) -> None:
    call = stub.IngestDocuments(
        iter([message(0, "good", "good", "good"), message(second, "bad")]), timeout=PATIENT_S
    )
    first = await call.read()
    assert (first.acknowledged_offset, first.indexed) == (2, 3)
    with pytest.raises(grpc.aio.AioRpcError, match="expected 3") as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_failure_of_the_store_is_reported_and_the_next_message_taken() -> None:
    store = FaultyStore()
    async with open_rooms(store) as rooms, streaming(rooms) as stub:
        await rooms.create()
        store.faults.before["put"] = [raising(StoreUnavailable("the store is down"))]
        responses = await answers(stub, [message(0, "a", "b"), message(2, "c")])
        assert [one.acknowledged_offset for one in responses] == [1, 2]
        assert errors(responses[0]) == [(0, "d0", UNAVAILABLE), (1, "d1", UNAVAILABLE)]
        assert responses[0].errors[0].message == "the store is down"
        assert [one.indexed for one in responses] == [0, 1]


async def test_messages_are_prepared_while_one_is_committed_and_not_without_end() -> None:
    store, go = FaultyStore(), asyncio.Event()
    async with open_rooms(store, wrap_encoder=SpyEncoder) as rooms, streaming(rooms) as stub:
        await rooms.create()
        encoder = rooms.encoder
        assert isinstance(encoder, SpyEncoder)
        store.faults.before["put"] = [waiting_for(go)]
        stream = [message(number, f"text {number}") for number in range(40)]
        call = stub.IngestDocuments(iter(stream), timeout=PATIENT_S)

        async def some_ahead() -> bool:
            return len(encoder.asked) >= 3

        await eventually(some_ahead)
        await asyncio.sleep(0.05)
        assert len(encoder.asked) <= 6, "bounded, however fast the client sends"
        go.set()
        acknowledged = [response.acknowledged_offset async for response in call]
        assert acknowledged == list(range(40))


async def test_a_bug_while_reading_ends_the_stream_and_does_not_hang_it(
    rooms: Rooms, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(IngestApp, "open", broken)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answers(stub, [message(0, "a")])
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    monkeypatch.undo()
    assert (await answers(stub, [message(0, "a")]))[0].indexed == 1


async def test_a_bug_while_preparing_ends_the_stream_and_does_not_hang_it(
    rooms: Rooms, stub: Any
) -> None:
    assert isinstance(rooms.encoder, SpyEncoder)
    rooms.encoder.faults.before["encode"] = [raising(RuntimeError("a bug"))]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answers(stub, [message(0, "a"), message(1, "b")])
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert (await answers(stub, [message(0, "a")]))[0].indexed == 1


async def test_a_client_that_goes_away_leaves_nothing_half_applied() -> None:
    store = FaultyStore()
    async with open_rooms(store) as rooms, streaming(rooms) as stub:
        docs = await rooms.create()
        call = stub.IngestDocuments(timeout=PATIENT_S)
        await call.write(message(0, "text", "text"))
        assert (await call.read()).acknowledged_offset == 1
        go = asyncio.Event()
        store.faults.before["put"] = [waiting_for(go)]
        seen = store.faults.calls.count("put")
        await call.write(message(2, "text", "text"))

        async def under_way() -> bool:
            return store.faults.calls.count("put") > seen

        await eventually(under_way)
        call.cancel()
        await asyncio.sleep(0.02)
        go.set()
        await rooms.ingest.close()
        stored = {int(one) for one in await store.find(docs, ["d0", "d1", "d2", "d3"])}
        assert stored == store.kept(docs)
        assert -1 not in stored, "what began is finished"
        assert sorted(await rooms.found("text", k=9)) == ["d0", "d1", "d2", "d3"]
        assert (await answers(stub, [message(9, "text")]))[0].indexed == 1


async def test_two_streams_write_side_by_side(rooms: Rooms, stub: Any) -> None:
    def stream(prefix: str) -> list[Request]:
        return [message(number * 5, *["text"] * 5, prefix=prefix) for number in range(10)]

    both = await asyncio.gather(*(answers(stub, stream(prefix)) for prefix in "xy"))
    for responses in both:
        assert [one.acknowledged_offset for one in responses] == list(range(4, 50, 5))
    assert len(await rooms.found("text", k=200)) == 100


async def test_deleting_is_one_call_and_names_what_was_not_there(rooms: Rooms, stub: Any) -> None:
    await answers(stub, [message(0, "text", "text")])
    request = ingest_pb2.DeleteDocumentsRequest(collection="docs", ids=["d0", "nope"])
    response = await stub.DeleteDocuments(request, timeout=PATIENT_S)
    assert (response.deleted, list(response.missing_ids)) == (1, ["nope"])
    assert await rooms.found("text", k=9) == ["d1"]


async def test_documents_come_back_with_the_types_of_their_fields(rooms: Rooms, stub: Any) -> None:
    one = message(0, "text")
    fields = one.documents[0].document.fields
    fields["s"].string_value, fields["i"].int_value = "x", 7
    fields["d"].double_value, fields["b"].bool_value = 0.5, True
    await answers(stub, [one])
    (hit,) = (await rooms.ask("text", k=1)).hits
    assert hit.document.fields == {"s": "x", "i": 7, "d": 0.5, "b": True}
    assert [type(hit.document.fields[key]) for key in "sidb"] == [str, int, float, bool]
    assert np.isclose(hit.score, 1.0, atol=1e-3)
