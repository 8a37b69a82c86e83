"""A server on a real socket: ids, statuses, deadlines, limits, health, and the way it stops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from nestvec.core.errors import ConfigError, NotFound
from nestvec.rpc import interceptors
from nestvec.rpc.server import Mounted, Server, ServerLimits, time_left_s
from nestvec.rpc.status import error_from
from nestvec.telemetry.logs import request_id
from nestvec.v1 import ingest_pb2, ingest_pb2_grpc, query_pb2, query_pb2_grpc
from tests.support.rooms import SpyLog, eventually

PATIENT_S = 30.0
Behaviour = Callable[[Any, Any], Awaitable[Any]]


class Query(query_pb2_grpc.QueryServiceServicer):
    """Does what the test says."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour

    async def Search(self, request: Any, context: Any) -> Any:
        return await self.behaviour(request, context)

    async def BatchSearch(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def GetDocuments(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def ListDocumentIds(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


class Ingest(ingest_pb2_grpc.IngestServiceServicer):
    """Acknowledges each message; an offset of 13 fails as the test says."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.ended = asyncio.Event()

    async def IngestDocuments(self, requests: Any, context: Any) -> Any:
        try:
            async for request in requests:
                if request.first_offset == 13 and self.error is not None:
                    raise self.error
                yield ingest_pb2.IngestDocumentsResponse(acknowledged_offset=request.first_offset)
        finally:
            self.ended.set()

    async def DeleteDocuments(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


async def echo(request: Any, context: Any) -> Any:
    return query_pb2.SearchResponse(search_class=request.text)


def mounted(behaviour: Behaviour = echo, ingest: Ingest | None = None) -> list[Mounted]:
    services = [
        Mounted(
            query_pb2.DESCRIPTOR,
            "QueryService",
            Query(behaviour),
            query_pb2_grpc.add_QueryServiceServicer_to_server,
        )
    ]
    if ingest is not None:
        services.append(
            Mounted(
                ingest_pb2.DESCRIPTOR,
                "IngestService",
                ingest,
                ingest_pb2_grpc.add_IngestServiceServicer_to_server,
            )
        )
    return services


@asynccontextmanager
async def serving(
    behaviour: Behaviour = echo,
    ingest: Ingest | None = None,
    limits: ServerLimits | None = None,
) -> AsyncIterator[tuple[Server, grpc.aio.Channel]]:
    server = Server(mounted(behaviour, ingest), limits or ServerLimits(drain_s=5.0))
    port = await server.start("127.0.0.1", 0)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    try:
        yield server, channel
    finally:
        await channel.close()
        await server.stop()


def search(channel: grpc.aio.Channel, text: str = "hello", **call: Any) -> Any:
    stub = query_pb2_grpc.QueryServiceStub(channel)
    return stub.Search(query_pb2.SearchRequest(text=text), **{"timeout": PATIENT_S, **call})


async def failing(channel: grpc.aio.Channel, text: str = "x", **call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await search(channel, text, **call)
    return caught.value


def as_any(channel: grpc.aio.Channel) -> Any:
    """For stubs whose types know synchronous channels only."""
    return channel


def health_stub(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(as_any(channel))


def trailers(metadata: Any) -> dict[str, str | bytes]:
    return dict(metadata)


# --- ids ------------------------------------------------------------------------------------------


async def test_a_callers_id_is_echoed_and_known_inside_the_call() -> None:
    seen = []

    async def note(request: Any, context: Any) -> Any:
        seen.append(request_id.get())
        return query_pb2.SearchResponse()

    async with serving(note) as (_, channel):
        call = search(channel, metadata=(("x-request-id", "my-id-1"),))
        await call
        assert trailers(await call.trailing_metadata())["x-request-id"] == "my-id-1"
    assert seen == ["my-id-1"]


async def test_a_call_without_an_id_is_given_one_of_its_own() -> None:
    async with serving() as (_, channel):
        ids = []
        for _ in range(2):
            call = search(channel)
            await call
            ids.append(trailers(await call.trailing_metadata())["x-request-id"])
    assert all(ids)
    assert ids[0] != ids[1]


async def test_concurrent_calls_keep_their_own_ids() -> None:
    async def late(request: Any, context: Any) -> Any:
        before = request_id.get()
        await asyncio.sleep(0.01)
        assert request_id.get() == before
        return query_pb2.SearchResponse(search_class=before)

    async with serving(late) as (_, channel):
        calls = [search(channel, metadata=(("x-request-id", f"id-{n}"),)) for n in range(20)]
        answers = await asyncio.gather(*calls)
    assert [answer.search_class for answer in answers] == [f"id-{n}" for n in range(20)]


async def test_a_long_id_is_cut() -> None:
    async with serving() as (_, channel):
        call = search(channel, metadata=(("x-request-id", "i" * 1000),))
        await call
        assert trailers(await call.trailing_metadata())["x-request-id"] == "i" * 128


# --- failures -------------------------------------------------------------------------------------


async def test_an_error_of_the_tree_reaches_the_caller_whole() -> None:
    async def refuse(request: Any, context: Any) -> Any:
        raise NotFound("collection", "dox", "collections here: docs")

    async with serving(refuse) as (_, channel):
        error = await failing(channel, metadata=(("x-request-id", "my-id-2"),))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "collection 'dox' does not exist; collections here: docs"
    assert trailers(error.trailing_metadata())["x-request-id"] == "my-id-2"
    back = error_from(error, "server")
    assert isinstance(back, NotFound)
    assert (back.kind, back.name) == ("collection", "dox")


async def test_a_bug_is_internal_with_the_id_to_quote_and_nothing_of_its_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = SpyLog()
    monkeypatch.setattr(interceptors, "_log", log)

    async def break_down(request: Any, context: Any) -> Any:
        secret = "password-1234"
        raise RuntimeError(f"no {secret}")

    async with serving(break_down) as (_, channel):
        error = await failing(channel, metadata=(("x-request-id", "my-id-3"),))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "internal error; quote request id my-id-3"
    everything = repr(error.trailing_metadata()) + f"{error.details()} {error.debug_error_string()}"
    for leak in ("password", "RuntimeError", "Traceback", ".py"):
        assert leak not in everything.replace("test_server.py", "")
    (logged,) = log.named("rpc.failed")
    assert str(logged["exc_info"]) == "no password-1234"


async def test_of_a_group_of_errors_the_first_says_why() -> None:
    async def together(request: Any, context: Any) -> Any:
        async def fail() -> None:
            raise NotFound("collection", "dox")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())

    async with serving(together) as (_, channel):
        assert (await failing(channel)).code() is grpc.StatusCode.NOT_FOUND


async def test_a_message_that_quotes_a_megabyte_still_reaches_the_caller() -> None:
    async def refuse(request: Any, context: Any) -> Any:
        raise NotFound("collection", request.text)

    async with serving(refuse) as (_, channel):
        error = await failing(channel, "ü" * 500_000)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert str(error.details()).startswith("collection 'üüü")


async def test_after_any_failure_the_next_good_call_is_answered() -> None:
    async def sometimes(request: Any, context: Any) -> Any:
        if request.text == "bad":
            raise ValueError("bug")
        return await echo(request, context)

    async with serving(sometimes) as (_, channel):
        for _ in range(3):
            await failing(channel, "bad")
            assert (await search(channel, "good")).search_class == "good"


async def test_an_unknown_method_is_unimplemented() -> None:
    async with serving() as (_, channel):
        unknown: Any = channel.unary_unary("/nestvec.v1.QueryService/Guess")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unknown(b"", timeout=PATIENT_S)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# --- deadlines and limits -------------------------------------------------------------------------


async def test_a_call_without_a_deadline_gets_the_servers_cap_and_a_longer_one_is_cut_to_it() -> (
    None
):
    left = []

    async def note(request: Any, context: Any) -> Any:
        left.append(time_left_s(context, 5.0))
        return query_pb2.SearchResponse()

    async with serving(note) as (_, channel):
        await search(channel, timeout=None)
        await search(channel, timeout=60.0)
        await search(channel, timeout=4.0)
    assert left[0] == left[1] == 5.0
    assert 0.0 < left[2] < 5.0, "the shorter of the two"


async def test_a_deadline_that_passes_ends_the_call_here_and_there() -> None:
    ended = asyncio.Event()

    async def sleep(request: Any, context: Any) -> Any:
        if request.text == "connect":
            return await echo(request, context)
        try:
            await asyncio.sleep(PATIENT_S)
        finally:
            ended.set()

    async with serving(sleep) as (_, channel):
        await search(channel, "connect")
        error = await failing(channel, timeout=1.0)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(ended.wait(), PATIENT_S)


async def test_a_caller_that_goes_away_ends_its_call_and_no_other() -> None:
    ended, begun, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait(request: Any, context: Any) -> Any:
        if request.text == "stays":
            await go.wait()
            return await echo(request, context)
        begun.set()
        try:
            await asyncio.sleep(PATIENT_S)
        finally:
            ended.set()

    async with serving(wait) as (_, channel):
        stays = search(channel, "stays")
        leaves = search(channel, "leaves")
        await begun.wait()
        leaves.cancel()
        await asyncio.wait_for(ended.wait(), PATIENT_S)
        go.set()
        assert (await stays).search_class == "stays"


async def test_a_message_over_the_limit_is_refused_and_the_next_one_answered() -> None:
    seen = []

    async def measure(request: Any, context: Any) -> Any:
        seen.append(len(request.text))
        return query_pb2.SearchResponse()

    limits = ServerLimits(max_message_bytes=64 * 1024)
    async with serving(measure, limits=limits) as (_, channel):
        error = await failing(channel, "x" * 70_000)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "65536" in str(error.details())
        await search(channel, "x" * 60_000)
    assert seen == [60_000]


async def test_too_many_calls_at_once_are_refused_and_the_others_answered() -> None:
    go = asyncio.Event()

    async def wait(request: Any, context: Any) -> Any:
        await go.wait()
        return await echo(request, context)

    async with serving(wait, limits=ServerLimits(max_concurrent_calls=3)) as (_, channel):
        calls = [search(channel, str(number)) for number in range(6)]
        # All six are there once three have been refused: none comes when another has gone.
        refused = asyncio.as_completed([call.code() for call in calls], timeout=PATIENT_S)
        for _, code in zip(range(3), refused, strict=False):
            assert await code is grpc.StatusCode.RESOURCE_EXHAUSTED
        go.set()
        codes = [await call.code() for call in calls]
    assert codes.count(grpc.StatusCode.OK) == 3
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 3


# --- streams --------------------------------------------------------------------------------------


def messages(*offsets: int) -> list[ingest_pb2.IngestDocumentsRequest]:
    return [ingest_pb2.IngestDocumentsRequest(first_offset=offset) for offset in offsets]


async def test_a_stream_echoes_its_id_and_answers_in_order() -> None:
    async with serving(ingest=Ingest()) as (_, channel):
        stub = ingest_pb2_grpc.IngestServiceStub(channel)
        call = stub.IngestDocuments(
            iter(messages(1, 2, 3)), timeout=PATIENT_S, metadata=(("x-request-id", "s-1"),)
        )
        answers = [answer.acknowledged_offset async for answer in call]
        assert trailers(await call.trailing_metadata())["x-request-id"] == "s-1"
    assert answers == [1, 2, 3]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("collection", "dox"), grpc.StatusCode.NOT_FOUND),
        (KeyError("bug"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_a_stream_that_fails_half_way_answers_what_it_had_and_ends_with_a_status(
    error: Exception, code: grpc.StatusCode
) -> None:
    async with serving(ingest=Ingest(error)) as (_, channel):
        stub = ingest_pb2_grpc.IngestServiceStub(channel)
        call = stub.IngestDocuments(iter(messages(1, 13, 2)), timeout=PATIENT_S)
        first = await call.read()
        assert isinstance(first, ingest_pb2.IngestDocumentsResponse)
        assert first.acknowledged_offset == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is code
    assert "bug" not in str(caught.value.details())


async def test_a_caller_that_leaves_its_stream_ends_it() -> None:
    ingest = Ingest()
    async with serving(ingest=ingest) as (_, channel):
        stub = ingest_pb2_grpc.IngestServiceStub(channel)
        call = stub.IngestDocuments(timeout=PATIENT_S)
        await call.write(messages(1)[0])
        await call.read()
        call.cancel()
        await asyncio.wait_for(ingest.ended.wait(), PATIENT_S)
        assert (await search(channel, "next")).search_class == "next"


# --- health, reflection, start, stop --------------------------------------------------------------


async def test_health_is_told_for_the_server_and_for_each_service() -> None:
    async with serving(ingest=Ingest()) as (_, channel):
        stub = health_stub(channel)
        for name in ("", "nestvec.v1.QueryService", "nestvec.v1.IngestService"):
            answer = await stub.Check(
                health_pb2.HealthCheckRequest(service=name), timeout=PATIENT_S
            )
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=PATIENT_S)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services_and_describes_their_messages() -> None:
    async with serving() as (_, channel):
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(as_any(channel))
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(
                file_containing_symbol="nestvec.v1.QueryService"
            ),
        ]
        call = stub.ServerReflectionInfo(iter(requests), timeout=PATIENT_S)
        listed, described = [answer async for answer in call]
    names = {service.name for service in listed.list_services_response.service}
    assert {"nestvec.v1.QueryService", "grpc.health.v1.Health"} <= names
    files = described.file_descriptor_response.file_descriptor_proto
    assert any(b"BatchSearch" in file for file in files)


async def test_a_port_in_use_is_a_config_error_that_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = Server(mounted(), ServerLimits())
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}.*in use"):
            await server.start("127.0.0.1", port)


async def test_two_servers_do_not_share_a_port() -> None:
    """With SO_REUSEPORT the second would take half of the calls, unnoticed."""
    async with serving() as (first, _):
        second = Server(mounted(), ServerLimits())
        with pytest.raises(ConfigError, match="in use"):
            await second.start("127.0.0.1", first.port)


async def test_a_host_that_is_not_this_machines_is_a_config_error() -> None:
    server = Server(mounted(), ServerLimits())
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:0"):
        await server.start("192.0.2.1", 0)


async def test_stopping_lets_a_call_in_flight_finish_and_takes_no_new_one() -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def wait(request: Any, context: Any) -> Any:
        begun.set()
        await go.wait()
        return await echo(request, context)

    async with serving(wait) as (server, channel):
        in_flight = search(channel, "in flight")
        await begun.wait()
        stopping = asyncio.create_task(server.stop())

        async def refused() -> bool:
            # One that came before it had begun to stop waits in vain.
            error = await failing(channel, "too late", timeout=0.5)
            return error.code() is grpc.StatusCode.UNAVAILABLE

        await eventually(refused)
        assert not stopping.done()
        go.set()
        assert (await in_flight).search_class == "in flight"
        await asyncio.wait_for(stopping, PATIENT_S)


async def test_stopping_reports_not_serving_first() -> None:
    go = asyncio.Event()

    async def wait(request: Any, context: Any) -> Any:
        await go.wait()
        return await echo(request, context)

    async with serving(wait) as (server, channel):
        watch = health_stub(channel).Watch(
            health_pb2.HealthCheckRequest(service=""), timeout=PATIENT_S
        )
        statuses = [(await watch.read()).status]
        in_flight = search(channel)
        await asyncio.sleep(0.02)
        stopping = asyncio.create_task(server.stop())
        statuses.append((await watch.read()).status)
        watch.cancel()
        go.set()
        await in_flight
        await stopping
    serving_, not_serving = (
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    )
    assert statuses == [serving_, not_serving]


async def test_what_does_not_finish_in_time_is_cut_off() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def forever(request: Any, context: Any) -> Any:
        begun.set()
        try:
            await asyncio.sleep(PATIENT_S * 10)
        finally:
            ended.set()

    async with serving(forever, limits=ServerLimits(drain_s=0.05)) as (server, channel):
        call = search(channel)
        await begun.wait()
        await asyncio.wait_for(server.stop(), PATIENT_S)
        assert await call.code() is not grpc.StatusCode.OK
        await asyncio.wait_for(ended.wait(), PATIENT_S)
