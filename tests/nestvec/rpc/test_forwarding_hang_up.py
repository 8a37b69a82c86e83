"""A front end that hangs up on a process that is gone tells those whose calls it had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import grpc
import pytest

from nestvec.rpc.clients import channel_to
from nestvec.rpc.forwarding import forwarded
from nestvec.rpc.server import Server, ServerLimits
from nestvec.v1 import admin_pb2, admin_pb2_grpc, ingest_pb2, ingest_pb2_grpc
from tests.support.faults import PATIENT_S

MESSAGE_BYTES = 1 << 20


class Silent(grpc.GenericRpcHandler):
    """Takes every call and answers none. taken: set by each."""

    def __init__(self) -> None:
        self.taken = asyncio.Event()

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        if details.method.endswith("IngestDocuments"):
            return grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.unary_unary_rpc_method_handler(self._unary)

    async def _unary(self, request: bytes, context: object) -> bytes:
        self.taken.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def _stream(self, requests: object, context: object) -> AsyncIterator[bytes]:
        self.taken.set()
        await asyncio.Event().wait()
        yield b""


@pytest.mark.parametrize("streaming", [False, True])
async def test_whoever_waits_for_a_process_that_is_hung_up_on_is_told(streaming: bool) -> None:
    async with AsyncExitStack() as stack:
        silent = Silent()
        behind = grpc.aio.server()
        behind.add_generic_rpc_handlers((silent,))
        port = behind.add_insecure_port("127.0.0.1:0")
        await behind.start()
        stack.push_async_callback(behind.stop, None)
        passing = channel_to(f"127.0.0.1:{port}", MESSAGE_BYTES)
        mounted = [
            forwarded(admin_pb2.DESCRIPTOR, "AdminService", lambda: passing),
            forwarded(ingest_pb2.DESCRIPTOR, "IngestService", lambda: passing),
        ]
        front = Server(mounted, ServerLimits(MESSAGE_BYTES, drain_s=0.2))
        port = await front.start("127.0.0.1", 0)
        stack.push_async_callback(front.stop)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        asking = asyncio.create_task(ask(channel, streaming))
        await asyncio.wait_for(silent.taken.wait(), PATIENT_S)
        await passing.close()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await asking
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "has left the cluster" in (raised.value.details() or "")


async def ask(channel: grpc.aio.Channel, streaming: bool) -> object:
    if not streaming:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        return await admin.DescribeServer(admin_pb2.DescribeServerRequest(), timeout=PATIENT_S)
    ingest = ingest_pb2_grpc.IngestServiceStub(channel)
    requests = [ingest_pb2.IngestDocumentsRequest(collection="docs")]
    return [one async for one in ingest.IngestDocuments(iter(requests), timeout=PATIENT_S)]
