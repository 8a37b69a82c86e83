"""Clients that behave badly, on real sockets: others are served meanwhile."""

from __future__ import annotations

import asyncio
import resource
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nestvec.rpc.server import HealthPort, Server, ServerLimits
from nestvec.v1 import query_pb2
from tests.support.long_runs import takes_long
from tests.support.secured import (
    PATIENT_S,
    call,
    connected,
    every_service,
    message,
    methods,
    secured_server,
    stub_of,
)

SEARCH = methods()["/nestvec.v1.QueryService/Search"]
ASKED = message(SEARCH, collection="docs")
OK = grpc.StatusCode.OK
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7


def frame(kind: int, payload: bytes = b"") -> bytes:
    """HTTP/2 (RFC 9113, 4.1), of the connection itself."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, 0]) + bytes(4) + payload


@asynccontextmanager
async def raw(address: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


async def served(address: str) -> bool:
    async with connected(address) as channel:
        return (await call(channel, SEARCH, ASKED))[0] is OK


async def test_metadata_beyond_the_limit_is_refused_and_the_connection_goes_on() -> None:
    async with secured_server({}) as address, connected(address) as channel:
        metadata = (("x-large", "a" * 40_000),)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub_of(channel, SEARCH)(ASKED, metadata=metadata, timeout=PATIENT_S)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await call(channel, SEARCH, ASKED))[0] is OK


async def test_connections_beyond_the_limit_are_refused_until_one_ends() -> None:
    async with (
        secured_server({}, limits=ServerLimits(max_connections=3, drain_s=0.5)) as address,
        AsyncExitStack() as stack,
    ):
        held = [await stack.enter_async_context(raw(address)) for _ in range(3)]
        for reader, writer in held:
            writer.write(PREFACE + frame(SETTINGS))
            assert await reader.read(9)
        async with connected(address) as channel:
            assert (await call(channel, SEARCH, ASKED))[0] is grpc.StatusCode.UNAVAILABLE
        held[0][1].close()
        for _ in range(200):
            if await served(address):
                return
            await asyncio.sleep(0.02)
        pytest.fail("nobody is let in although one has left")


async def test_a_connection_that_dawdles_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slowloris: many connections that never finish saying what they are."""
    monkeypatch.setattr("nestvec.rpc.server._HANDSHAKE_MS", 300)
    async with secured_server({}) as address, AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(raw(address)) for _ in range(50)]
        for _, writer in slow:
            writer.write(PREFACE[:7])
        assert await served(address)
        for reader, _ in slow:
            async with asyncio.timeout(PATIENT_S):
                while await reader.read(1024):
                    pass


async def test_who_pings_without_end_is_sent_away() -> None:
    async with secured_server({}) as address, raw(address) as (reader, writer):
        writer.write(PREFACE + frame(SETTINGS) + frame(PING, bytes(8)) * 50)
        seen = b""
        async with asyncio.timeout(PATIENT_S):
            while data := await reader.read(1024):
                seen += data
        assert b"too_many_pings" in seen
        assert await served(address)


async def test_a_flood_over_one_connection_leaves_room_for_others() -> None:
    entered, full, leave = [], asyncio.Event(), asyncio.Event()

    async def slow(request: Any, context: Any) -> Any:
        if request.text == "flood":
            entered.append(request)
            if len(entered) == 4:
                full.set()
            await leave.wait()
        return query_pb2.SearchResponse()

    limits = ServerLimits(max_streams=4, max_concurrent_calls=8, drain_s=0.5)
    mounted = every_service({"/nestvec.v1.QueryService/Search": slow})
    async with (
        secured_server({}, mounted, limits) as address,
        connected(address) as flood,
    ):
        asked = message(SEARCH, text="flood")
        calls = [asyncio.create_task(call(flood, SEARCH, asked)) for _ in range(40)]
        await full.wait()
        for _ in range(5):
            assert await served(address)
        assert len(entered) == 4
        leave.set()
        statuses = [status for status, _ in await asyncio.gather(*calls)]
        # What did not wait its turn was refused before it began.
        assert set(statuses) <= {OK, grpc.StatusCode.UNAVAILABLE}
        assert len(entered) == statuses.count(OK)


async def test_probes_may_ask_at_a_plain_port_of_its_own() -> None:
    server = Server(every_service(), ServerLimits(drain_s=0.2))
    await server.start("127.0.0.1", 0, serving=False)
    probes = HealthPort(server)
    port = await probes.start("127.0.0.1", 0)
    try:
        async with connected(f"127.0.0.1:{port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest()
            states = [(await stub.Check(request, timeout=PATIENT_S)).status]
            await server.tell_health(serving=True)
            states.append((await stub.Check(request, timeout=PATIENT_S)).status)
            assert states == [
                health_pb2.HealthCheckResponse.NOT_SERVING,
                health_pb2.HealthCheckResponse.SERVING,
            ]
            assert (await call(channel, SEARCH, ASKED))[0] is grpc.StatusCode.UNIMPLEMENTED
    finally:
        await probes.stop()
        await server.stop()


# In a process of its own: both ends of so many would be more files than one may have open.
HOLD = """
import resource, socket, sys
port, count, hello = int(sys.argv[1]), int(sys.argv[2]), bytes.fromhex(sys.argv[3])
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held = []
for _ in range(count):
    held.append(socket.create_connection(("127.0.0.1", port), 30))
    held[-1].sendall(hello)
print("held", flush=True)
sys.stdin.read()
"""


@takes_long
async def test_ten_thousand_connections_that_say_nothing_leave_others_served() -> None:
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 10_000
    if most < wanted + 1000:
        pytest.skip(f"a process may have {most} files open here; {wanted} connections need more")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        async with secured_server({}) as address:
            hello = (PREFACE + frame(SETTINGS)).hex()
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", HOLD, address.rpartition(":")[2], str(wanted), hello),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert child.stdout is not None
            assert await child.stdout.readline() == b"held\n"
            assert await served(address)
            await child.communicate(b"")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
