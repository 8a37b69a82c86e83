"""Around every call: its id, its status, its time. One place turns errors into statuses."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, NoReturn

import grpc
from google.rpc import status_pb2

from nestvec.core.errors import NestvecError
from nestvec.rpc.decoding import Refused, careful, sound
from nestvec.rpc.status import code_by_number, first_of, status_of, trailers_of
from nestvec.rpc.traced import Traced, traced
from nestvec.security.guard import Entered, Entry, Guard
from nestvec.telemetry import tracing
from nestvec.telemetry.logs import logger, request_id
from nestvec.telemetry.metrics import RPC_SECONDS, RPCS

Context = grpc.aio.ServicerContext[Any, Any]
REQUEST_ID_KEY = "x-request-id"
_LONGEST_ID = 128
# An id of our own: of this process, and counted. Asking the system for randomness on every call
# would cost more than all else that is done here.
_ID_PREFIX = uuid.uuid4().hex[:24]
_ID_NUMBERS = itertools.count()
_log = logger()


class GuardedServer:
    """Where generated code adds a servicer: every handler is wrapped once, as it is added.

    grpc.aio's own interceptors do the same with a coroutine and a look-up more for each call.
    guard: who may make which call; None where everybody may.
    """

    def __init__(self, server: grpc.aio.Server, guard: Guard | None = None) -> None:
        self._server = server
        self._guard = guard

    @property
    def unguarded(self) -> grpc.aio.Server:
        """For handlers that only pass on, and let calls in by `entry` themselves."""
        return self._server

    def entry(self, path: str) -> Entry | None:
        """Before each call of a method; None where everybody may. Raises LookupError for a method
        without a rule.
        """
        return None if self._guard is None else self._guard.entry(path)

    def add_generic_rpc_handlers(self, _handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Generated code says the same twice; the other call says it by method."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Called by generated code."""
        wrapped = {
            name: _wrap(
                handler, name, self.entry(f"/{service}/{name}"), traced(f"{service}/{name}")
            )
            for name, handler in handlers.items()
        }
        generic = grpc.method_handlers_generic_handler(service, wrapped)
        self._server.add_generic_rpc_handlers((generic,))


def _wrap(
    handler: grpc.RpcMethodHandler[Any, Any],
    name: str,
    entry: Entry | None,
    spans: Traced | None,
) -> grpc.RpcMethodHandler[Any, Any]:
    """spans: of its calls; None where they are never traced."""
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(
            _unary(_in_spans(handler.unary_unary, spans), name, entry),
            careful(handler.request_deserializer),
            handler.response_serializer,
        )
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(
            _answered_in_parts(_parts_in_spans(handler.unary_stream, spans), name, entry),
            careful(handler.request_deserializer),
            handler.response_serializer,
        )
    assert handler.stream_stream is not None, f"{name}: a kind of call that is not wrapped yet"
    return grpc.stream_stream_rpc_method_handler(
        _stream(_parts_in_spans(handler.stream_stream, spans), name, entry),
        careful(handler.request_deserializer),
        handler.response_serializer,
    )


def _in_spans(behaviour: Any, spans: Traced | None) -> Any:
    """The same, with what the guard has let in as third argument. Where traces are off, the one
    thing that is done for them is to see that.
    """

    def answer(request: Any, context: Context, entered: Entered | None) -> Any:
        answering = behaviour(request, context)
        if tracing.tracer is None or spans is None:
            return answering
        return spans.answer(answering, context, entered)

    return answer


def _parts_in_spans(behaviour: Any, spans: Traced | None) -> Any:
    """As `_in_spans`, of a call that is answered in parts."""

    def answers(asked: Any, context: Context, entered: Entered | None) -> Any:
        parts = behaviour(asked, context)
        if tracing.tracer is None or spans is None:
            return parts
        return spans.parts(parts, context, entered)

    return answers


def _unary(behaviour: Any, name: str, entry: Entry | None) -> Any:
    seconds = RPC_SECONDS.labels(name)
    ok = RPCS.labels(name, "OK")

    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        started = time.perf_counter()
        soon = asyncio.get_running_loop().call_soon
        _begin(context)
        entered: Entered | None = None
        try:
            if entry is not None:
                entered = entry.enter(context)
            if isinstance(request, Refused):
                raise request.error
            if entered is None:
                response = await behaviour(request, context, None)
            else:
                entered.require(request)
                response = entered.shown(await behaviour(request, context, entered))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  every failure gets a status
            await _fail(context, name, error)
        else:
            soon(ok.inc)
            return response
        finally:
            if entered is not None:
                entered.leave()
            # Once the response is on its way: nobody waits for a metric.
            soon(seconds.observe, time.perf_counter() - started)

    return call


def _answered_in_parts(behaviour: Any, name: str, entry: Entry | None) -> Any:
    def parts(request: Any, context: Context, entered: Entered | None) -> AsyncIterator[Any]:
        if isinstance(request, Refused):
            raise request.error
        if entered is None:
            answered: AsyncIterator[Any] = behaviour(request, context, None)
            return answered
        entered.require(request)
        return entered.lasting(behaviour(request, context, entered))

    return _guarded(parts, name, entry)


def _stream(behaviour: Any, name: str, entry: Entry | None) -> Any:
    def answers(
        requests: AsyncIterator[Any], context: Context, entered: Entered | None
    ) -> AsyncIterator[Any]:
        read = sound(requests)
        if entered is not None:
            read = entered.checked(read)
        answered: AsyncIterator[Any] = behaviour(read, context, entered)
        return answered

    return _guarded(answers, name, entry)


def _guarded(
    answers: Callable[[Any, Context, Entered | None], AsyncIterator[Any]],
    name: str,
    entry: Entry | None,
) -> Any:
    async def call(asked: Any, context: Context) -> AsyncIterator[Any]:
        started = time.perf_counter()
        _begin(context)
        entered: Entered | None = None
        try:
            if entry is not None:
                entered = entry.enter(context)
            async for response in answers(asked, context, entered):
                yield response
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001
            await _fail(context, name, error)
        else:
            RPCS.labels(name, "OK").inc()
        finally:
            if entered is not None:
                entered.leave()
            RPC_SECONDS.labels(name).observe(time.perf_counter() - started)

    return call


def _begin(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Keep the call's id for its logs, and send it back with whatever the call ends in."""
    current = _id_of(context)
    request_id.set(current)
    context.set_trailing_metadata(((REQUEST_ID_KEY, current),))


def _id_of(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY and isinstance(value, str) and value:
            return value[:_LONGEST_ID]
    return new_id()


def new_id() -> str:
    """For a call that came without one."""
    return f"{_ID_PREFIX}{next(_ID_NUMBERS):08x}"


async def _fail(
    context: grpc.aio.ServicerContext[Any, Any], name: str, error: BaseException
) -> NoReturn:
    """End the call with the error's status.

    A bug's text stays in the log: the caller gets the id to quote.
    """
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, asyncio.CancelledError):
        # The caller went away, or its deadline passed: nobody is left to tell.
        RPCS.labels(name, "CANCELLED").inc()
        raise error
    status = told(name, error)
    trailers: tuple[tuple[str, str | bytes], ...] = ((REQUEST_ID_KEY, request_id.get()),)
    error = first_of(error)
    if isinstance(error, NestvecError):
        trailers = (*trailers, *trailers_of(error, status))
    await context.abort(code_by_number(status.code), status.message, trailers)
    raise AssertionError("abort raises")


def told(name: str, error: BaseException) -> status_pb2.Status:
    """What the caller of a call that failed is told; it is logged and counted."""
    error = first_of(error)
    if isinstance(error, NestvecError):
        status = status_of(error)
        code = code_by_number(status.code)
        _log.info("rpc.refused", method=name, status=code.name, message=status.message)
    else:
        code = grpc.StatusCode.INTERNAL
        message = f"internal error; quote request id {request_id.get()}"
        status = status_pb2.Status(code=code.value[0], message=message)
        _log.error("rpc.failed", method=name, exc_info=error)
    RPCS.labels(name, code.name).inc()
    return status
