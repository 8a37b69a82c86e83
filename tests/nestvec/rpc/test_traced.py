"""Calls over real sockets in their traces: who begins one, who goes on with one, who is heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FileDescriptor

from nestvec.core.errors import NotFound, WorkerUnavailable
from nestvec.rpc.answer_stream import AnswerStreams
from nestvec.rpc.call_stream import CallStream
from nestvec.rpc.clients import ask, channel_to
from nestvec.rpc.forwarding import forwarded
from nestvec.rpc.server import Mounted, Server, ServerLimits
from nestvec.rpc.traced import Traced
from nestvec.telemetry import tracing
from nestvec.telemetry.tracing import Kind
from nestvec.v1 import (
    coarse_pb2,
    coarse_pb2_grpc,
    encoder_pb2,
    encoder_pb2_grpc,
    ingest_pb2,
    ingest_pb2_grpc,
    query_pb2,
    query_pb2_grpc,
)
from tests.support.collector import Collector, SeenSpan, a_collector, flush, traces_to, tracing_on

PATIENT_S = 30.0
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
SERVER, CLIENT = 2, 3
SEARCH = "nestvec.v1.QueryService/Search"


@pytest.fixture(scope="module")
def collecting() -> Iterator[Collector]:
    with a_collector() as running:
        yield running


@pytest.fixture
def collector(collecting: Collector) -> Collector:
    collecting.requests.clear()
    return collecting


def a_service(
    file: FileDescriptor, service: str, method: str, handler: grpc.RpcMethodHandler[Any, Any]
) -> Mounted:
    """One method of a service."""

    def add(_: object, server: Any) -> None:
        server.add_registered_method_handlers(f"nestvec.v1.{service}", {method: handler})

    return Mounted(file, service, None, add)


async def _search(request: query_pb2.SearchRequest, context: Any) -> query_pb2.SearchResponse:
    """Answers, or fails as the collection's name says."""
    if request.collection == "missing":
        raise NotFound("collection", "missing", "the test says so")
    if request.collection == "bug":
        raise RuntimeError("a bug that quotes the words of a query")
    return query_pb2.SearchResponse()


async def _acknowledge(requests: Any, context: Any) -> Any:
    async for request in requests:
        yield ingest_pb2.IngestDocumentsResponse(acknowledged_offset=request.first_offset)


async def _encode(request: Any, context: Any) -> encoder_pb2.EncodeResponse:
    return encoder_pb2.EncodeResponse()


QUERY = a_service(
    query_pb2.DESCRIPTOR,
    "QueryService",
    "Search",
    grpc.unary_unary_rpc_method_handler(
        _search,
        query_pb2.SearchRequest.FromString,
        query_pb2.SearchResponse.SerializeToString,
    ),
)
INGEST = a_service(
    ingest_pb2.DESCRIPTOR,
    "IngestService",
    "IngestDocuments",
    grpc.stream_stream_rpc_method_handler(
        _acknowledge,
        ingest_pb2.IngestDocumentsRequest.FromString,
        ingest_pb2.IngestDocumentsResponse.SerializeToString,
    ),
)
ENCODER = a_service(
    encoder_pb2.DESCRIPTOR,
    "EncoderService",
    "Encode",
    grpc.unary_unary_rpc_method_handler(
        _encode,
        encoder_pb2.EncodeRequest.FromString,
        encoder_pb2.EncodeResponse.SerializeToString,
    ),
)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


async def serving(stack: AsyncExitStack, *mounted: Mounted) -> grpc.aio.Channel:
    """A channel to a server of these."""
    server = Server(mounted, ServerLimits(drain_s=0.0))
    port = await server.start("127.0.0.1", 0)
    stack.push_async_callback(server.stop)
    channel = channel_to(f"127.0.0.1:{port}", 1 << 20)
    stack.push_async_callback(channel.close)
    return channel


async def search(channel: grpc.aio.Channel, parent: str = "", name: str = "docs") -> None:
    stub = query_pb2_grpc.QueryServiceStub(channel)
    metadata = (("traceparent", parent),) if parent else ()
    request = query_pb2.SearchRequest(collection=name, text="secret words")
    await stub.Search(request, timeout=PATIENT_S, metadata=metadata)


async def sent(collector: Collector) -> list[SeenSpan]:
    """What the process has told the collector."""
    await asyncio.to_thread(flush)
    return collector.spans()


# --- who begins a trace ---------------------------------------------------------------------------


async def test_a_call_that_is_drawn_has_a_span_with_its_status(
    stack: AsyncExitStack, collector: Collector
) -> None:
    with tracing_on(traces_to(collector.address)):
        channel = await serving(stack, QUERY)
        await search(channel)
        for name in ("missing", "bug"):
            with pytest.raises(grpc.aio.AioRpcError):
                await search(channel, name=name)
        good, missing, bug = await sent(collector)
    assert {one.name for one in (good, missing, bug)} == {SEARCH}
    assert {one.kind for one in (good, missing, bug)} == {SERVER}
    assert [one.attributes["rpc.grpc.status_code"] for one in (good, missing, bug)] == [0, 5, 13]
    # What is the caller's mistake is no failure of this server.
    assert [one.failed for one in (good, missing, bug)] == [False, False, True]
    assert good.attributes["nestvec.request_id"]
    assert len({one.trace_id for one in (good, missing, bug)}) == 3
    assert b"words" not in b"".join(one.SerializeToString() for one in collector.requests)


async def test_a_call_that_is_not_drawn_has_none_and_inner_services_never_draw(
    stack: AsyncExitStack, collector: Collector
) -> None:
    with tracing_on(traces_to(collector.address, sample=0.0)):
        await search(await serving(stack, QUERY))
        assert await sent(collector) == []
    with tracing_on(traces_to(collector.address, sample=1.0)):
        stub = encoder_pb2_grpc.EncoderServiceStub(await serving(stack, ENCODER))
        await ask(stub.Encode, encoder_pb2.EncodeRequest(), PATIENT_S, "encoder")
        assert await sent(collector) == []


async def test_a_callers_trace_goes_on_and_what_it_leaves_out_is_left_out(
    stack: AsyncExitStack, collector: Collector
) -> None:
    with tracing_on(traces_to(collector.address)):
        channel = await serving(stack, QUERY)
        await search(channel, SAMPLED)
        await search(channel, UNSAMPLED)
        (seen,) = await sent(collector)
    assert (seen.trace_id, seen.parent_id) == (TRACE, SPAN)


async def test_hostile_values_begin_a_new_trace_or_none(
    stack: AsyncExitStack, collector: Collector
) -> None:
    hostile = ("garbage", SAMPLED.upper(), f"ff{SAMPLED[2:]}", f"00-{'0' * 32}-{SPAN}-01")
    with tracing_on(traces_to(collector.address)):
        channel = await serving(stack, QUERY)
        for one in hostile:
            await search(channel, one)
        spans = await sent(collector)
    assert len(spans) == len(hostile)
    assert {one.parent_id for one in spans} == {""}
    assert TRACE not in {one.trace_id for one in spans}


async def test_strangers_cannot_have_everything_traced(
    stack: AsyncExitStack, collector: Collector
) -> None:
    # So seldom that the clock gives nothing back meanwhile.
    with tracing_on(traces_to(collector.address, sample=0.0, callers_per_s=0.001)):
        channel = await serving(stack, QUERY)
        for _ in range(20):
            await search(channel, SAMPLED)
        assert len(await sent(collector)) == 1


def test_who_is_trusted_to_have_decided() -> None:
    """With a guard, whoever was let in as a process of nestvec's; without one, whoever asks what
    only they ask.
    """

    def entered(internal: bool) -> Any:
        return SimpleNamespace(internal=internal)

    def trusts(service: str, who: Any) -> bool:
        return Traced(f"nestvec.v1.{service}/Method")._trusts(who)

    for service in ("QueryService", "IngestService", "EncoderService"):
        assert trusts(service, entered(True))
        assert not trusts(service, entered(False))
    assert not trusts("QueryService", None)
    for service in ("EncoderService", "CoarseService", "RegionService"):
        assert trusts(service, None)
    assert trusts("RegionService", entered(False))


# --- from process to process ----------------------------------------------------------------------


async def test_a_call_to_another_process_is_a_part_of_the_call_that_makes_it(
    stack: AsyncExitStack, collector: Collector
) -> None:
    stub = encoder_pb2_grpc.EncoderServiceStub(await serving(stack, ENCODER))
    with tracing_on(traces_to(collector.address)) as tracer:
        outer = tracer.begin("outer", Kind.INTERNAL, {}, None)
        assert outer is not None
        with tracing.Entered(outer):
            await ask(stub.Encode, encoder_pb2.EncodeRequest(), PATIENT_S, "encoder")
        there, calling, first = await sent(collector)
    assert there.name == calling.name == "nestvec.v1.EncoderService/Encode"
    assert (there.kind, calling.kind) == (SERVER, CLIENT)
    assert (there.parent_id, calling.parent_id) == (calling.span_id, first.span_id)
    assert calling.attributes["nestvec.peer"] == "encoder"


async def test_a_call_that_fails_there_is_a_failure_here(
    stack: AsyncExitStack, collector: Collector
) -> None:
    channel = channel_to("127.0.0.1:1", 1 << 20)
    stack.push_async_callback(channel.close)
    stub = encoder_pb2_grpc.EncoderServiceStub(channel)
    with tracing_on(traces_to(collector.address)) as tracer:
        outer = tracer.begin("outer", Kind.INTERNAL, {}, None)
        assert outer is not None
        with tracing.Entered(outer), pytest.raises(WorkerUnavailable):
            await ask(stub.Encode, encoder_pb2.EncodeRequest(), PATIENT_S, "encoder")
        calling, _ = await sent(collector)
    assert (calling.failed, calling.attributes["error.type"]) == (True, "WorkerUnavailable")


async def test_calls_over_one_stream_are_each_in_their_own_trace(
    stack: AsyncExitStack, collector: Collector
) -> None:
    async def handled(request: bytes, timeout_s: float) -> bytes:
        return b"traced" if tracing.current() is not None else b"not traced"

    streams = AnswerStreams("SearchCoarse", handled)

    async def answers(requests: Any, context: Any) -> Any:
        async for frame in streams.answers(requests):
            yield frame

    handler = grpc.stream_stream_rpc_method_handler(
        answers,
        coarse_pb2.StreamSearchesRequest.FromString,
        coarse_pb2.StreamSearchesResponse.SerializeToString,
    )
    mounted = a_service(coarse_pb2.DESCRIPTOR, "CoarseService", "StreamSearches", handler)
    stub = coarse_pb2_grpc.CoarseServiceStub(await serving(stack, mounted))
    calls = CallStream(stub.StreamSearches, "shard 0")
    stack.push_async_callback(calls.close, 0.0)

    async def asked(name: str) -> bytes:
        assert tracing.tracer is not None
        outer = tracing.tracer.begin(name, Kind.INTERNAL, {}, None)
        assert outer is not None
        with tracing.Entered(outer):
            return await calls.call(b"", PATIENT_S)

    with tracing_on(traces_to(collector.address)):
        assert await calls.call(b"", PATIENT_S) == b"not traced"
        for answer in await asyncio.gather(asked("one"), asked("two")):
            assert answer == b"traced"
        assert await calls.call(b"", PATIENT_S) == b"not traced"
        spans = await sent(collector)
    assert len(spans) == 6
    assert {one.name for one in spans} == {"one", "two", "nestvec.v1.CoarseService/SearchCoarse"}
    for outer in (one for one in spans if one.name in ("one", "two")):
        mine = [one for one in spans if one.trace_id == outer.trace_id]
        calling = next(one for one in mine if one.kind == CLIENT)
        there = next(one for one in mine if one.kind == SERVER)
        assert (calling.parent_id, there.parent_id) == (outer.span_id, calling.span_id)


async def test_what_a_front_end_passes_on_is_decided_there_once(
    stack: AsyncExitStack, collector: Collector
) -> None:
    behind = await serving(stack, INGEST, QUERY)
    front = await serving(
        stack,
        forwarded(ingest_pb2.DESCRIPTOR, "IngestService", lambda: behind),
        forwarded(query_pb2.DESCRIPTOR, "QueryService", lambda: behind),
    )

    async def written() -> None:
        call = ingest_pb2_grpc.IngestServiceStub(front).IngestDocuments(
            iter([ingest_pb2.IngestDocumentsRequest(first_offset=n) for n in (1, 2)]),
            timeout=PATIENT_S,
            metadata=(("traceparent", SAMPLED),),
        )
        assert [one.acknowledged_offset async for one in call] == [1, 2]

    with tracing_on(traces_to(collector.address)):
        await written()
        await search(front, SAMPLED)
        spans = await sent(collector)
    assert len(spans) == 4
    for name in ("nestvec.v1.IngestService/IngestDocuments", SEARCH):
        mine = {one.span_id: one for one in spans if one.name == name}
        here = next(one for one in mine.values() if "nestvec.passed_on" in one.attributes)
        there = next(one for one in mine.values() if one is not here)
        assert (here.trace_id, here.parent_id) == (TRACE, SPAN)
        assert there.parent_id == here.span_id
    collector.requests.clear()
    # Nobody decided, and the front end draws no: whoever is behind it does not draw again.
    with tracing_on(traces_to(collector.address, sample=1.0)) as tracer:
        tracer.sampler._share = 0.0
        tracer.sampler._draw = _once_then(0.5, tracer)
        await search(front)
        assert await sent(collector) == []


def _once_then(first: float, tracer: Any) -> Any:
    """A draw that is lost, after which every other one would be won."""

    def draw() -> float:
        tracer.sampler._draw = lambda: -1.0
        return first

    return draw
