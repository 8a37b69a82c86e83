"""Calls over one stream are answered, refused and ended as calls of their own would be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from nestvec.core.errors import BudgetSpent, NotFound, Overloaded, WorkerUnavailable
from nestvec.rpc import interceptors
from nestvec.rpc.answer_stream import AnswerStreams, Handle
from nestvec.rpc.call_stream import CallStream
from nestvec.rpc.clients import channel_to
from nestvec.rpc.server import Mounted, Server, ServerLimits
from nestvec.telemetry.logs import request_id
from nestvec.telemetry.metrics import RPCS
from nestvec.v1 import coarse_pb2, coarse_pb2_grpc
from tests.support.faults import PATIENT_S, eventually
from tests.support.rooms import SpyLog

NEVER_S = 1000.0


class Peer:
    """A server whose calls do what the test says, and a stream of calls to it."""

    def __init__(self, stack: AsyncExitStack, most: int) -> None:
        self.stack = stack
        self.most = most
        self.opened = 0
        self.began: list[bytes] = []
        self.cancelled: list[bytes] = []
        self.go = asyncio.Event()
        self.handle: Handle = self.echo
        self.calls: CallStream
        self.stub: Any

    async def echo(self, request: bytes, timeout_s: float) -> bytes:
        return request

    async def slow(self, request: bytes, timeout_s: float) -> bytes:
        """A request that begins with `wait` is answered once the test says so."""
        self.began.append(request)
        if request.startswith(b"wait"):
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled.append(request)
                raise
        return request

    async def start(self, port: int = 0, drain_s: float = 0.0) -> Server:
        """Another server of it."""

        async def handled(request: bytes, timeout_s: float) -> bytes:
            return await self.handle(request, timeout_s)

        streams = AnswerStreams("SearchCoarse", handled, self.most)

        async def answer(requests: Any, context: Any) -> AsyncIterator[Any]:
            self.opened += 1
            async for frame in streams.answers(requests):
                yield frame

        def add(_: object, server: Any) -> None:
            handler = grpc.stream_stream_rpc_method_handler(
                answer,
                coarse_pb2.StreamSearchesRequest.FromString,
                coarse_pb2.StreamSearchesResponse.SerializeToString,
            )
            server.add_registered_method_handlers(
                "nestvec.v1.CoarseService", {"StreamSearches": handler}
            )

        mounted = Mounted(coarse_pb2.DESCRIPTOR, "CoarseService", None, add, streams.leave)
        server = Server([mounted], ServerLimits(drain_s=drain_s))
        await server.start("127.0.0.1", port)
        self.stack.push_async_callback(server.stop)
        return server

    async def connect(self, port: int) -> None:
        channel = channel_to(f"127.0.0.1:{port}", 1 << 20)
        self.stack.push_async_callback(channel.close)
        self.stub = stub = coarse_pb2_grpc.CoarseServiceStub(channel)
        self.calls = CallStream(stub.StreamSearches, "peer")

    def ask(self, request: bytes, timeout_s: float = PATIENT_S) -> asyncio.Task[bytes]:
        return asyncio.create_task(self.calls.call(request, timeout_s))

    async def has_begun(self, *requests: bytes) -> None:
        await eventually(lambda: _true(set(requests) <= set(self.began)))


async def _true(holds: bool) -> bool:
    return holds


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Awaitable[tuple[Peer, Server]]]]:
    async with AsyncExitStack() as stack:

        async def started(most: int = 1024, drain_s: float = 0.0) -> tuple[Peer, Server]:
            peer = Peer(stack, most)
            server = await peer.start(drain_s=drain_s)
            await peer.connect(server.port)
            return peer, server

        yield started


Start = Callable[..., Awaitable[tuple[Peer, Server]]]


async def test_many_calls_share_one_stream_and_each_gets_its_own_answer(start: Start) -> None:
    peer, _ = await start()
    asked = [f"{number}".encode() * number for number in range(200)]
    assert await asyncio.gather(*map(peer.ask, asked)) == asked
    assert peer.opened == 1


async def test_an_answer_does_not_wait_for_those_asked_before(start: Start) -> None:
    peer, _ = await start()
    peer.handle = peer.slow
    first = peer.ask(b"wait")
    await peer.has_begun(b"wait")
    assert await peer.ask(b"quick") == b"quick"
    assert not first.done()
    peer.go.set()
    assert await first == b"wait"


async def test_an_error_of_the_tree_reaches_its_caller_whole_and_no_other(start: Start) -> None:
    peer, _ = await start()

    async def handle(request: bytes, timeout_s: float) -> bytes:
        if request == b"bad":
            raise NotFound("tier", "64", "shard 0 serves tiers 128")
        return request

    peer.handle = handle
    bad, good = await asyncio.gather(peer.ask(b"bad"), peer.ask(b"good"), return_exceptions=True)
    assert good == b"good"
    assert isinstance(bad, NotFound)
    assert (bad.kind, bad.name, "serves tiers 128" in str(bad)) == ("tier", "64", True)


async def test_a_bug_tells_the_id_to_quote_and_nothing_of_its_text(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SpyLog()
    monkeypatch.setattr(interceptors, "_log", log)
    peer, _ = await start()
    before = RPCS.labels("SearchCoarse", "INTERNAL")._value.get()

    async def handle(request: bytes, timeout_s: float) -> bytes:
        raise ValueError("a secret")

    peer.handle = handle
    request_id.set("the-id")
    with pytest.raises(WorkerUnavailable, match=r"peer answered INTERNAL.*the-id") as caught:
        await peer.ask(b"")
    assert "secret" not in str(caught.value)
    assert RPCS.labels("SearchCoarse", "INTERNAL")._value.get() == before + 1


async def test_each_call_has_its_callers_id_and_the_time_that_it_has_left(start: Start) -> None:
    peer, _ = await start()

    async def handle(request: bytes, timeout_s: float) -> bytes:
        await asyncio.sleep(0)
        return f"{request_id.get()} {timeout_s:g}".encode()

    async def ask(name: str, timeout_s: float) -> bytes:
        request_id.set(name)
        return await peer.calls.call(b"", timeout_s)

    peer.handle = handle
    one, two, none = await asyncio.gather(ask("one", 20), ask("two", 30), ask("", 40))
    assert (one, two) == (b"one 20", b"two 30")
    made, left = none.split()
    assert len(made) >= 32
    assert left == b"40"


# --- who gives up ---------------------------------------------------------------------------------


async def test_a_caller_that_goes_away_ends_its_call_there_and_no_other(start: Start) -> None:
    peer, _ = await start()
    peer.handle = peer.slow
    gone, other = peer.ask(b"wait 1"), peer.ask(b"wait 2")
    await peer.has_begun(b"wait 1", b"wait 2")
    gone.cancel()
    await eventually(lambda: _true(peer.cancelled == [b"wait 1"]))
    peer.go.set()
    assert await other == b"wait 2"
    assert peer.opened == 1


async def test_a_deadline_ends_the_call_here_and_there(start: Start) -> None:
    peer, _ = await start()
    peer.handle = peer.slow
    assert await peer.ask(b"") == b""
    with pytest.raises(BudgetSpent):
        await peer.ask(b"wait", 0.05)
    await eventually(lambda: _true(peer.cancelled == [b"wait"]))
    assert await peer.ask(b"next") == b"next"
    assert peer.opened == 1


async def test_what_is_given_up_before_it_is_sent_is_never_asked(start: Start) -> None:
    peer, _ = await start()
    peer.handle = peer.slow
    with pytest.raises(BudgetSpent):
        await peer.calls.call(b"never", 0.0)
    gone = peer.ask(b"not this")
    gone.cancel()
    assert await peer.ask(b"this") == b"this"
    assert peer.began == [b"this"]


async def test_an_answer_that_nobody_waits_for_any_more_is_dropped(start: Start) -> None:
    peer, _ = await start()

    async def handle(request: bytes, timeout_s: float) -> bytes:
        peer.began.append(request)
        if request == b"stubborn":
            try:
                await peer.go.wait()
            except asyncio.CancelledError:
                return b"late"
        return request

    peer.handle = handle
    stubborn = peer.ask(b"stubborn")
    await peer.has_begun(b"stubborn")
    stubborn.cancel()
    assert await asyncio.gather(*(peer.ask(b"%d" % n) for n in range(20))) == [
        b"%d" % n for n in range(20)
    ]


async def test_beyond_what_one_caller_may_have_under_way_it_is_refused(start: Start) -> None:
    peer, _ = await start(most=3)
    peer.handle = peer.slow
    waiting = [peer.ask(b"wait %d" % number) for number in range(3)]
    await peer.has_begun(b"wait 0", b"wait 1", b"wait 2")
    with pytest.raises(Overloaded, match="3 calls") as caught:
        await peer.ask(b"one more")
    assert caught.value.retry_after_s > 0
    peer.go.set()
    assert len(await asyncio.gather(*waiting)) == 3
    assert await peer.ask(b"again") == b"again"


# --- the stream's end -----------------------------------------------------------------------------


async def test_a_stream_that_breaks_fails_the_calls_in_flight_and_the_next_one_opens_it_again(
    start: Start,
) -> None:
    peer, server = await start()
    peer.handle = peer.slow
    waiting = [peer.ask(b"wait 0"), peer.ask(b"wait 1")]
    await peer.has_begun(b"wait 0", b"wait 1")
    await server.stop()
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, WorkerUnavailable), outcome
    with pytest.raises(WorkerUnavailable, match="peer"):
        await peer.ask(b"nobody is there")
    await peer.start(server.port)

    async def answers() -> bool:
        try:
            return await peer.ask(b"again") == b"again"
        except WorkerUnavailable:
            return False

    await eventually(answers)


async def test_a_server_that_leaves_answers_what_is_under_way_and_takes_no_more(
    start: Start,
) -> None:
    """Its drain would last for ever if the open stream were waited for."""
    peer, server = await start(drain_s=NEVER_S)
    peer.handle = peer.slow
    waiting = peer.ask(b"wait")
    await peer.has_begun(b"wait")
    stopping = asyncio.create_task(server.stop())

    async def refused() -> bool:
        try:
            await peer.ask(b"one more")
        except WorkerUnavailable as error:
            return "leaving" in str(error)
        return False

    await eventually(refused)
    assert not waiting.done()
    peer.go.set()
    assert await waiting == b"wait"
    await stopping


async def test_hanging_up_lets_calls_finish_for_a_while(start: Start) -> None:
    peer, _ = await start()
    peer.handle = peer.slow
    waiting = peer.ask(b"wait")
    await peer.has_begun(b"wait")
    closing = asyncio.create_task(peer.calls.close(NEVER_S))
    await asyncio.sleep(0)
    peer.go.set()
    assert await waiting == b"wait"
    await closing


async def test_hanging_up_fails_what_does_not_finish(start: Start) -> None:
    peer, _ = await start()
    peer.handle = peer.slow
    waiting = peer.ask(b"wait")
    await peer.has_begun(b"wait")
    await peer.calls.close(0.01)
    with pytest.raises(WorkerUnavailable, match="closed"):
        await waiting
    await eventually(lambda: _true(peer.cancelled == [b"wait"]))
    await peer.calls.close(0.01)


async def test_a_number_that_is_under_way_is_not_taken_again(start: Start) -> None:
    """Such calls would not count, and the first one could not be given up any more."""
    peer, _ = await start()
    peer.handle = peer.slow
    stream = peer.stub.StreamSearches(timeout=PATIENT_S)
    for request in (b"wait 1", b"wait 2"):
        await stream.write(coarse_pb2.StreamSearchesRequest(id=7, request=request, timeout_s=9.0))
    refused = await stream.read()
    status = status_pb2.Status.FromString(refused.status)
    assert (refused.id, status.code) == (7, grpc.StatusCode.INVALID_ARGUMENT.value[0])
    assert "call 7 is under way" in status.message
    await stream.write(coarse_pb2.StreamSearchesRequest(id=7))
    await eventually(lambda: _true(peer.cancelled == [b"wait 1"]))
    assert peer.began == [b"wait 1"]
    await stream.write(coarse_pb2.StreamSearchesRequest(id=7, request=b"again", timeout_s=9.0))
    assert (await stream.read()).response == b"again"
    stream.cancel()
