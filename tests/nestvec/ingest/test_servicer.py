"""The stream of documents: every offset is acknowledged once, in order, whatever is in it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest

from nestvec.core.document import payload_from_bytes
from nestvec.core.errors import StoreUnavailable
from nestvec.core.watermark import Watermark
from nestvec.ingest import servicer as ingest_servicer
from nestvec.ingest.app import IngestApp
from nestvec.rpc.server import Server, ServerLimits
from nestvec.v1 import common_pb2, ingest_pb2, ingest_pb2_grpc
from nestvec.v1.ingest_pb2 import IngestDocumentsRequest as Request
from nestvec.v1.ingest_pb2 import IngestDocumentsResponse as Response
from tests.nestvec.core.synthetic import mrl_like
from tests.support.faults import PATIENT_S, eventually, raising, waiting_for
from tests.support.ingest_desk import QUICK, Desk, open_desk

INVALID = ingest_pb2.INGEST_ERROR_REASON_INVALID
UNAVAILABLE = ingest_pb2.INGEST_ERROR_REASON_UNAVAILABLE
SUPERSEDED = ingest_pb2.INGEST_ERROR_REASON_SUPERSEDED
STALE = ingest_pb2.INGEST_ERROR_REASON_STALE
STORED = ingest_pb2.ACK_LEVEL_STORED
PATIENT = replace(QUICK, patience_s=PATIENT_S)


@asynccontextmanager
async def serving(app: IngestApp) -> AsyncIterator[Any]:
    """A stub at a real socket."""
    server = Server([ingest_servicer.mount(app)], ServerLimits(drain_s=0.1))
    port = await server.start("127.0.0.1", 0)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    try:
        yield ingest_pb2_grpc.IngestServiceStub(channel)
    finally:
        await channel.close()
        await server.stop()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with open_desk(options=PATIENT) as opened:
        yield opened


@pytest.fixture
async def stub(desk: Desk) -> AsyncIterator[Any]:
    async with serving(desk.ingest) as opened:
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
    desk: Desk, stub: Any
) -> None:
    messages = [
        message(start, *["some text"] * size) for start, size in ((100, 3), (103, 1), (104, 7))
    ]
    responses = await answers(stub, messages)
    assert [one.acknowledged_offset for one in responses] == [102, 103, 110]
    assert [one.indexed for one in responses] == [3, 1, 7]
    assert not any(one.errors for one in responses)
    assert len(desk.texts) == 11
    assert desk.found() == await desk.live()


async def test_errors_carry_the_offset_and_never_end_the_stream(desk: Desk, stub: Any) -> None:
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
    desk: Desk, stub: Any
) -> None:
    vectors = mrl_like(2, 64, seed=1)
    first = message(0, "text of zero")
    first.vector_space.fingerprint = desk.docs.space.fingerprint
    first.vector_space.dim = 64
    first.documents[0].vector = vectors[0].tobytes()
    second = message(1, "text of one", "text of two")
    second.documents[0].vector = vectors[1].tobytes()
    second.documents[1].vector = vectors[1][:63].tobytes()
    responses = await answers(stub, [first, second])
    assert [one.indexed for one in responses] == [1, 1]
    assert errors(responses[1]) == [(2, "d2", INVALID)]
    (internal,) = await desk.store.find(desk.docs, ["d1"])
    (value,) = await desk.store.vectors(desk.docs, np.array([internal]))
    assert value == desk.docs.codec.encode(vectors[1:])[0]


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
    desk: Desk, stub: Any, second: int
) -> None:
    call = stub.IngestDocuments(
        iter([message(0, "good", "good", "good"), message(second, "bad")]), timeout=PATIENT_S
    )
    first = await call.read()
    assert (first.acknowledged_offset, first.indexed) == (2, 3)
    with pytest.raises(grpc.aio.AioRpcError, match="expected 3") as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_failure_of_the_store_is_reported_and_the_next_message_taken(
    desk: Desk, stub: Any
) -> None:
    desk.store.faults.before["put"] = [raising(StoreUnavailable("the store is down"))]
    responses = await answers(stub, [message(0, "a", "b"), message(2, "c")])
    assert [one.acknowledged_offset for one in responses] == [1, 2]
    assert errors(responses[0]) == [(0, "d0", UNAVAILABLE), (1, "d1", UNAVAILABLE)]
    assert responses[0].errors[0].message == "the store is down"
    assert [one.indexed for one in responses] == [0, 1]


async def test_messages_are_prepared_while_one_is_written_and_not_without_end(
    desk: Desk, stub: Any
) -> None:
    go = asyncio.Event()
    desk.store.faults.before["put"] = [waiting_for(go)]
    stream = [message(number, f"text {number}") for number in range(40)]
    call = stub.IngestDocuments(iter(stream), timeout=PATIENT_S)

    async def some_ahead() -> bool:
        return len(desk.encoder.asked) >= 3

    await eventually(some_ahead)
    await asyncio.sleep(0.05)
    assert len(desk.encoder.asked) <= 6, "bounded, however fast the client sends"
    go.set()
    acknowledged = [response.acknowledged_offset async for response in call]
    assert acknowledged == list(range(40))


async def test_messages_are_written_while_one_waits_for_shards_and_not_without_end(
    desk: Desk, stub: Any
) -> None:
    go = asyncio.Event()
    desk.shards[0].faults.before["reach"] = [waiting_for(go)] * 20
    stream = [message(number, f"text {number}") for number in range(40)]
    call = stub.IngestDocuments(iter(stream), timeout=PATIENT_S)

    async def some_behind() -> bool:
        return len(desk.texts) >= 3

    await eventually(some_behind)
    await asyncio.sleep(0.05)
    assert len(desk.texts) <= 5, "bounded, however slow the shards are"
    go.set()
    acknowledged = [response.acknowledged_offset async for response in call]
    assert acknowledged == list(range(40))
    assert desk.found() == await desk.live()


async def test_of_one_id_twice_in_a_stream_the_later_document_stays(desk: Desk, stub: Any) -> None:
    stream = [message(number, f"text {number}") for number in range(20)]
    for one in stream:
        one.documents[0].document.id = "same"
    responses = await answers(stub, stream)
    assert sum(one.indexed for one in responses) == 20
    assert desk.texts == {"same": "text 19"}


async def test_watermarks_grow_with_the_stream(desk: Desk, stub: Any) -> None:
    responses = await answers(stub, [message(number, "text") for number in range(9)])
    marks = [Watermark.from_bytes(one.watermark) for one in responses]
    for earlier, later in itertools.pairwise(marks):
        assert later.joined(earlier) == later != earlier
    assert marks[-1] == Watermark.of_ids(1, await desk.live())


async def test_stored_is_acknowledged_without_the_shards(desk: Desk, stub: Any) -> None:
    desk.shards[0].stalled = True
    one = message(0, "text")
    one.ack = STORED
    (response,) = await answers(stub, [one])
    assert (response.acknowledged_offset, response.indexed) == (0, 1)
    request = ingest_pb2.DeleteDocumentsRequest(collection="docs", ids=["d0"], ack=STORED)
    assert (await stub.DeleteDocuments(request, timeout=PATIENT_S)).deleted == 1


async def test_the_callers_deadline_ends_the_wait_for_a_shard(desk: Desk, stub: Any) -> None:
    desk.shards[0].stalled = True
    call = stub.IngestDocuments(iter([message(0, "text")]), timeout=1.0)
    (response,) = [one async for one in call]
    assert errors(response) == [(0, "d0", UNAVAILABLE)]
    assert desk.texts == {"d0": "text"}


async def test_an_unknown_level_of_acknowledgement_is_refused(stub: Any) -> None:
    one = message(0, "text")
    one.ack = 9  # type: ignore[assignment]
    with pytest.raises(grpc.aio.AioRpcError, match="ack: no level has number 9") as caught:
        await answers(stub, [one])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_versions_travel_and_a_stale_document_is_told(desk: Desk, stub: Any) -> None:
    first, second = message(0, "newer"), message(1, "older")
    first.documents[0].version, second.documents[0].version = 20, 10
    second.documents[0].document.id = "d0"
    responses = await answers(stub, [first, second])
    assert errors(responses[1]) == [(1, "d0", STALE)]
    request = ingest_pb2.DeleteDocumentsRequest(collection="docs", ids=["d0", "x"], version=15)
    response = await stub.DeleteDocuments(request, timeout=PATIENT_S)
    assert list(response.stale_ids) == ["d0"]
    assert list(response.missing_ids) == ["x"]
    assert desk.texts == {"d0": "newer"}


async def test_a_bug_while_reading_ends_the_stream_and_does_not_hang_it(
    desk: Desk, stub: Any, monkeypatch: pytest.MonkeyPatch
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
    desk: Desk, stub: Any
) -> None:
    desk.encoder.faults.before["encode"] = [raising(RuntimeError("a bug"))]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answers(stub, [message(0, "a"), message(1, "b")])
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert (await answers(stub, [message(0, "a")]))[0].indexed == 1


async def test_a_client_that_goes_away_leaves_nothing_half_applied(desk: Desk, stub: Any) -> None:
    call = stub.IngestDocuments(timeout=PATIENT_S)
    await call.write(message(0, "text", "text"))
    assert (await call.read()).acknowledged_offset == 1
    go = asyncio.Event()
    desk.store.faults.before["put"] = [waiting_for(go)]
    seen = desk.store.faults.calls.count("put")
    await call.write(message(2, "text", "text"))

    async def under_way() -> bool:
        return desk.store.faults.calls.count("put") > seen

    await eventually(under_way)
    call.cancel()
    await asyncio.sleep(0.02)
    go.set()

    async def finished() -> bool:
        return sorted(desk.texts) == ["d0", "d1", "d2", "d3"]

    await eventually(finished)
    assert (await answers(stub, [message(9, "text")]))[0].indexed == 1


async def test_two_streams_write_side_by_side(desk: Desk, stub: Any) -> None:
    def stream(prefix: str) -> list[Request]:
        return [message(number * 5, *["text"] * 5, prefix=prefix) for number in range(10)]

    both = await asyncio.gather(*(answers(stub, stream(prefix)) for prefix in "xy"))
    for responses in both:
        assert [one.acknowledged_offset for one in responses] == list(range(4, 50, 5))
    assert len(desk.texts) == 100
    assert desk.found() == await desk.live()


async def test_deleting_is_one_call_and_names_what_was_not_there(desk: Desk, stub: Any) -> None:
    await answers(stub, [message(0, "text", "text")])
    request = ingest_pb2.DeleteDocumentsRequest(collection="docs", ids=["d0", "nope"])
    response = await stub.DeleteDocuments(request, timeout=PATIENT_S)
    assert (response.deleted, list(response.missing_ids)) == (1, ["nope"])
    assert not response.stale_ids
    assert Watermark.from_bytes(response.watermark).reached_by(desk.shards[0].positions)
    assert list(desk.texts) == ["d1"]
    assert desk.found() == await desk.live()


async def test_documents_are_stored_with_the_types_of_their_fields(desk: Desk, stub: Any) -> None:
    one = message(0, "text")
    fields = one.documents[0].document.fields
    fields["s"].string_value, fields["i"].int_value = "x", 7
    fields["d"].double_value, fields["b"].bool_value = 0.5, True
    await answers(stub, [one])
    ids = await desk.store.find(desk.docs, ["d0"])
    (payload,) = await desk.store.payloads(desk.docs, ids)
    stored = payload_from_bytes(payload or b"", "d0")
    assert stored.fields == {"s": "x", "i": 7, "d": 0.5, "b": True}
    assert [type(stored.fields[key]) for key in "sidb"] == [str, int, float, bool]
