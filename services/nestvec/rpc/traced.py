"""Traces at gRPC's edges: a span for each call that is answered, and one for each that is made.

Only calls that were let in are traced. A trace begins at the public services alone, so that one
search is drawn once: what nestvec's processes ask each other goes on with the trace that it came
in, or has none. Source of the attributes' names: OpenTelemetry's semantic conventions for RPC.
"""

from __future__ import annotations

import functools
import random
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractContextManager
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from nestvec.rpc.status import code_of_end, first_of
from nestvec.security.guard import Entered
from nestvec.telemetry import tracing
from nestvec.telemetry.logs import request_id
from nestvec.telemetry.traceparent import (
    TRACEPARENT,
    TRACESTATE,
    Remote,
    read_remote,
    remote_of,
)
from nestvec.telemetry.tracing import Attributes, Kind, Span

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = tuple[tuple[str, str | bytes], ...]

_PACKAGE = "nestvec.v1."
# Where callers come in who are no process of nestvec's.
_PUBLIC = frozenset(
    f"{_PACKAGE}{name}Service"
    for name in ("Query", "Quality", "Ingest", "Admin", "Migration", "RegionAdmin")
)
# Called by both.
_ENCODER = f"{_PACKAGE}EncoderService"
# Its calls are traced one by one (answer_stream); the stream itself stands for none of them.
_UNTRACED = frozenset({f"{_PACKAGE}CoarseService/StreamSearches"})
# Of a server's span; other statuses tell of the caller, and are no failure of this process.
_FAILURES = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


class Traced:
    """One method of a server. name: SERVICE/METHOD."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._service, _, method = name.partition("/")
        self._attributes: Attributes = {
            "rpc.system": "grpc",
            "rpc.service": self._service,
            "rpc.method": method,
        }
        self._begins = self._service in _PUBLIC

    # --- answering ------------------------------------------------------------------------------

    def answer(
        self, answering: Awaitable[Any], context: Context, entered: Entered | None
    ) -> Awaitable[Any]:
        """A call of one request and one response, in its span where it is traced."""
        span = self.begin(context, entered)
        return answering if span is None else _answered(span, answering)

    def parts(
        self, answers: AsyncIterator[Any], context: Context, entered: Entered | None
    ) -> AsyncIterator[Any]:
        """As `answer`, of one that is answered in parts."""
        span = self.begin(context, entered)
        return answers if span is None else _answered_in_parts(span, answers)

    def framed(
        self, answering: Awaitable[bytes], traceparent: str, tracestate: str
    ) -> Awaitable[bytes]:
        """As `answer`, of one that came over a stream of calls."""
        remote = read_remote(traceparent, tracestate) if traceparent else None
        span = self._begin(remote, trusted=True)
        return answering if span is None else _answered(span, answering)

    def begin(self, context: Context, entered: Entered | None) -> Span | None:
        """The call's span, to be made the current one and ended; None where it is not traced."""
        given: Any = context.invocation_metadata() or ()
        return self._begin(remote_of(given), self._trusts(entered))

    def _begin(self, remote: Remote | None, trusted: bool) -> Span | None:
        tracer = tracing.tracer
        if tracer is None or not tracer.sampler.wants(remote, self._begins, trusted):
            return None
        attributes = {**self._attributes, "nestvec.request_id": request_id.get()}
        return tracer.begin(self._name, Kind.SERVER, attributes, remote)

    def _trusts(self, entered: Entered | None) -> bool:
        """Whether the caller is a process of nestvec's, as far as that is known."""
        if self._service in _PUBLIC or self._service == _ENCODER:
            if entered is not None:
                return entered.internal
            return self._service == _ENCODER
        # Nobody else is let in.
        return True


def traced(name: str) -> Traced | None:
    """For a method of a server; None for one that is never traced."""
    return Traced(name) if name.startswith(_PACKAGE) and name not in _UNTRACED else None


async def _answered(span: Span, answering: Awaitable[Any]) -> Any:
    # Not taken back: the call's task ends with the call.
    tracing.current_span.set(span)
    try:
        response = await answering
    except BaseException as error:
        end_of_call(span, error)
        raise
    end_of_call(span, None)
    return response


async def _answered_in_parts(span: Span, answers: AsyncIterator[Any]) -> AsyncIterator[Any]:
    tracing.current_span.set(span)
    try:
        async for one in answers:
            yield one
    except BaseException as error:
        # Also where nobody takes the rest.
        end_of_call(span, error)
        raise
    end_of_call(span, None)


def end_of_call(span: Span, error: BaseException | None) -> None:
    """End a server's span with the call's status."""
    code = grpc.StatusCode.OK if error is None else code_of_end(error)
    span.set({"rpc.grpc.status_code": code.value[0]})
    if code in _FAILURES and error is not None:
        span.fail(type(first_of(error)).__name__)
    span.end()


# --- calling --------------------------------------------------------------------------------------


def calling(request: Message, peer: str) -> AbstractContextManager[Span | None]:
    """Around a call that sends `request` to another process."""
    if tracing.current() is None:
        return tracing.NOTHING
    return calling_method(_method_of(request.DESCRIPTOR), peer)


def calling_method(name: str, peer: str) -> AbstractContextManager[Span | None]:
    """As `calling`, of a method by its name, SERVICE/METHOD."""
    service, _, method = name.partition("/")
    attributes = {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": method,
        "nestvec.peer": peer,
    }
    return tracing.part(name, attributes, Kind.CLIENT)


@functools.cache
def _method_of(kind: Descriptor) -> str:
    """Every RPC has a request of its own, so a message names it."""
    for service in kind.file.services_by_name.values():
        for method in service.methods:
            if method.input_type.full_name == kind.full_name:
                return f"{service.full_name}/{method.name}"
    return str(kind.full_name)


# --- passing on -----------------------------------------------------------------------------------


def passed_on(metadata: Metadata, span: Span | None) -> Metadata:
    """Metadata of a call that goes on to another process. span: of the call in this one; None where
    it is not traced, which the other process must not decide anew.
    """
    kept = tuple(pair for pair in metadata if pair[0] not in (TRACEPARENT, TRACESTATE))
    if span is not None:
        return (*kept, *tracing.headers(span))
    nobody = Remote(random.getrandbits(128) | 1, random.getrandbits(64) | 1, sampled=False)
    return (*kept, (TRACEPARENT, nobody.header))
