"""Calls of a service that another process serves, passed on as they are.

So that a caller needs one address: a front end answers searches itself, and passes writing and
administration on to those who do that. Messages are not looked into; the deadline, the caller's
metadata, the status and its details travel with them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor

from nestvec.core.errors import NestvecError
from nestvec.rpc.interceptors import REQUEST_ID_KEY
from nestvec.rpc.server import Mounted
from nestvec.rpc.status import code_of, message_of, trailers_of
from nestvec.telemetry.logs import logger

Context = grpc.aio.ServicerContext[Any, Any]
# What belongs to one hop, and is made anew for the next.
_OF_THE_HOP = ("user-agent", "content-type", "te")
_log = logger()


class Forwarder:
    """Passes every method of one service on. channel: where to, asked for each call; raises
    WorkerUnavailable where nobody serves it.
    """

    def __init__(
        self, file: FileDescriptor, service: str, channel: Callable[[], grpc.aio.Channel]
    ) -> None:
        self._service = file.services_by_name[service]
        self._channel = channel

    def add_to(self, server: grpc.aio.Server) -> None:
        """Have a server take the calls."""
        handlers = {method.name: self._handler(method) for method in self._service.methods}
        generic = grpc.method_handlers_generic_handler(self._service.full_name, handlers)
        server.add_generic_rpc_handlers((generic,))

    def _handler(self, method: MethodDescriptor) -> grpc.RpcMethodHandler[Any, Any]:
        path = f"/{self._service.full_name}/{method.name}"

        async def unary(request: bytes, context: Context) -> bytes:
            try:
                channel: Any = self._channel()
                call = channel.unary_unary(path)(
                    request, timeout=context.time_remaining(), metadata=_metadata(context)
                )
                response: bytes = await call
            except (grpc.aio.AioRpcError, NestvecError) as error:
                await _end(context, path, error)
                raise
            context.set_trailing_metadata(await call.trailing_metadata())
            return response

        async def stream(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            try:
                channel: Any = self._channel()
                call = channel.stream_stream(path)(
                    requests, timeout=context.time_remaining(), metadata=_metadata(context)
                )
                async for response in call:
                    yield response
            except (grpc.aio.AioRpcError, NestvecError) as error:
                await _end(context, path, error)

        assert method.client_streaming == method.server_streaming, f"{path}: not passed on yet"
        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


def forwarded(
    file: FileDescriptor, service: str, channel: Callable[[], grpc.aio.Channel]
) -> Mounted:
    """For a server."""
    forwarder = Forwarder(file, service, channel)
    return Mounted(file, service, forwarder, lambda one, guarded: one.add_to(guarded.unguarded))


def _metadata(context: Context) -> tuple[tuple[str, str | bytes], ...]:
    given: Any = context.invocation_metadata() or ()
    return tuple(
        (key, value)
        for key, value in given
        if key not in _OF_THE_HOP and not key.startswith("grpc-")
    )


async def _end(context: Context, path: str, error: grpc.aio.AioRpcError | NestvecError) -> None:
    """End the call as its server ended it."""
    if isinstance(error, NestvecError):
        _log.info("rpc.refused", method=path, status=code_of(error).name, message=str(error))
        await context.abort(code_of(error), message_of(error), trailers_of(error))
    assert isinstance(error, grpc.aio.AioRpcError)
    trailers = tuple(
        (key, value)
        for key, value in error.trailing_metadata() or ()
        if key == REQUEST_ID_KEY or key.startswith("grpc-")
    )
    await context.abort(error.code(), error.details() or "", trailers)
