"""A name may stand for several processes: calls go to each in turn, and past one that is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from nestvec.rpc.clients import RECONNECT_MS, channel_to

_METHOD = "/tests.Service/Who"


async def a_server(name: bytes, stack: AsyncExitStack) -> tuple[grpc.aio.Server, int]:
    """One that says its name."""

    async def who(_: bytes, __: Any) -> bytes:
        return name

    server = grpc.aio.server()
    handlers: Any = {"Who": grpc.unary_unary_rpc_method_handler(who)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("tests.Service", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stack.push_async_callback(server.stop, None)
    return server, port


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as entered:
        yield entered


async def test_each_takes_its_turn(stack: AsyncExitStack) -> None:
    first, one = await a_server(b"first", stack)
    _, two = await a_server(b"second", stack)
    # As a resolver gives a headless service: all addresses at once.
    channel = channel_to(f"ipv4:127.0.0.1:{one},127.0.0.1:{two}", 1 << 20, more=RECONNECT_MS)
    stack.push_async_callback(channel.close)
    call: Any = channel.unary_unary(_METHOD)

    async def asked(times: int) -> Counter[bytes]:
        return Counter([await call(b"", timeout=10.0, wait_for_ready=True) for _ in range(times)])

    # Once both connections stand; the first calls go to the one that stood first.
    for _ in range(100):
        counted = await asked(20)
        if len(counted) == 2:
            break
    assert (await asked(20)) == {b"first": 10, b"second": 10}
    await first.stop(None)
    assert (await asked(20))[b"second"] >= 19
