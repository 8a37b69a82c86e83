"""Calls of a service that another process serves, passed on as they are.

So that a caller needs one address: a front end answers searches itself, and passes writing and
administration on to those who do that. Messages are not looked into, unless callers need rights:
then only calls that may be made are passed on. The deadline, the caller's metadata, the status and
its details travel with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, FileDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from nestvec.core.errors import NestvecError, WorkerUnavailable
from nestvec.rpc.decoding import Refused, careful
from nestvec.rpc.interceptors import REQUEST_ID_KEY, GuardedServer
from nestvec.rpc.server import Mounted
from nestvec.rpc.status import code_of, message_of, trailers_of
from nestvec.rpc.traced import Metadata, Traced, end_of_call, passed_on
from nestvec.security.guard import Entered, Entry
from nestvec.telemetry import tracing
from nestvec.telemetry.logs import logger
from nestvec.telemetry.tracing import Span

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

    def add_to(self, server: GuardedServer) -> None:
        """Have a server take the calls."""
        handlers = {method.name: self._handler(method, server) for method in self._service.methods}
        generic = grpc.method_handlers_generic_handler(self._service.full_name, handlers)
        server.unguarded.add_generic_rpc_handlers((generic,))

    def _handler(
        self, method: MethodDescriptor, server: GuardedServer
    ) -> grpc.RpcMethodHandler[Any, Any]:
        path = f"/{self._service.full_name}/{method.name}"
        gate = _Gate(server.entry(path), method)
        spans = Traced(path.removeprefix("/"))

        async def unary(request: bytes, context: Context) -> bytes:
            entered: Entered | None = None
            try:
                entered = gate.enter(context, request)
                with _Passing(spans, context, entered) as passing:
                    channel: Any = self._channel()
                    call = channel.unary_unary(path)(
                        request, timeout=context.time_remaining(), metadata=passing.metadata
                    )
                    response = await _answer(call)
            except (grpc.aio.AioRpcError, NestvecError) as error:
                await _end(context, path, error)
                raise
            finally:
                gate.leave(entered)
            context.set_trailing_metadata(await call.trailing_metadata())
            return gate.shown(entered, response)

        async def stream(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
            entered: Entered | None = None
            refused: list[NestvecError] = []
            try:
                entered = gate.enter(context)
                requests = await gate.checked(entered, requests, refused)
                with _Passing(spans, context, entered) as passing:
                    channel: Any = self._channel()
                    call = channel.stream_stream(path)(
                        requests, timeout=context.time_remaining(), metadata=passing.metadata
                    )
                    lasting = call if entered is None else entered.lasting(call)
                    async for response in _answers(lasting):
                        yield response
            except (grpc.aio.AioRpcError, NestvecError) as error:
                await _end(context, path, refused[0] if refused else error)
            finally:
                gate.leave(entered)

        assert method.client_streaming == method.server_streaming, f"{path}: not passed on yet"
        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


def forwarded(
    file: FileDescriptor, service: str, channel: Callable[[], grpc.aio.Channel]
) -> Mounted:
    """For a server."""
    forwarder = Forwarder(file, service, channel)
    return Mounted(file, service, forwarder, lambda one, guarded: one.add_to(guarded))


class _Passing:
    """One call while it is passed on, and its span here, where it is traced. metadata: to pass on;
    where traces are off here, they may be on there.
    """

    def __init__(self, spans: Traced, context: Context, entered: Entered | None) -> None:
        self.metadata = _metadata(context)
        self._span: Span | None = None
        if tracing.tracer is not None:
            self._span = spans.begin(context, entered)
            self.metadata = passed_on(self.metadata, self._span)

    def __enter__(self) -> _Passing:
        if self._span is not None:
            self._span.set({"nestvec.passed_on": True})
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._span is not None:
            end_of_call(self._span, error)


class _Gate:
    """Before a call that is passed on. entry: None where everybody may call."""

    def __init__(self, entry: Entry | None, method: MethodDescriptor) -> None:
        self._entry = entry
        self._request = _reader(method.input_type)
        self._response = _reader(method.output_type)

    def enter(self, context: Context, request: bytes | None = None) -> Entered | None:
        """Raises what the guard refuses, for a call of one request with regard to it."""
        if self._entry is None:
            return None
        entered = self._entry.enter(context)
        if request is not None:
            try:
                self._require(entered, request)
            except NestvecError:
                entered.leave()
                raise
        return entered

    def leave(self, entered: Entered | None) -> None:
        """The call is over."""
        if entered is not None:
            entered.leave()

    def shown(self, entered: Entered | None, response: bytes) -> bytes:
        """Without what the caller may not know of."""
        if entered is None or not entered.filters:
            return response
        shown: bytes = entered.shown(self._response(response)).SerializeToString()
        return shown

    async def checked(
        self, entered: Entered | None, requests: AsyncIterator[bytes], refused: list[NestvecError]
    ) -> AsyncIterator[bytes]:
        """A stream's messages, once the first one may be passed on. refused: gets what a later one
        is refused with: gRPC hangs up then, and tells nobody why.
        """
        if entered is None:
            return requests
        entered.lasts()
        async for first in requests:
            self._require(entered, first)
            # The caller may have taken its time.
            entered.require_current()
            return _followed_by(first, requests, entered, refused)
        return requests

    def _require(self, entered: Entered, data: bytes) -> None:
        request = self._request(data)
        if isinstance(request, Refused):
            raise request.error
        entered.require(request)


def _reader(kind: Descriptor) -> Callable[[bytes], Any]:
    return careful(GetMessageClass(kind).FromString)


async def _followed_by(
    first: bytes, rest: AsyncIterator[bytes], entered: Entered, refused: list[NestvecError]
) -> AsyncIterator[bytes]:
    yield first
    async for one in rest:
        try:
            entered.require_current()
        except NestvecError as error:
            refused.append(error)
            raise
        yield one


def _metadata(context: Context) -> Metadata:
    given: Any = context.invocation_metadata() or ()
    return tuple(
        (key, value)
        for key, value in given
        if key not in _OF_THE_HOP and not key.startswith("grpc-")
    )


async def _answer(call: Awaitable[bytes]) -> bytes:
    """As the call itself, but for one that was hung up on here: see `_hung_up`."""
    try:
        return await call
    except asyncio.CancelledError:
        _hung_up()
        raise


async def _answers(call: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """As `_answer`, of a stream."""
    try:
        async for response in call:
            yield response
    except asyncio.CancelledError:
        _hung_up()
        raise


def _hung_up() -> None:
    """Raise WorkerUnavailable where it is not the caller who has gone away: the channel was closed,
    since its process has left the cluster. A call that just ends as cancelled would never be
    answered.
    """
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        raise WorkerUnavailable(
            "the process that this call was passed on to has left the cluster; what became of it "
            "is not known: look, and call again"
        ) from None


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
