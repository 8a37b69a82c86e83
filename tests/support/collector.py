"""A real OTLP collector on a socket of its own, which keeps what it is sent."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from nestvec.telemetry import tracing
from nestvec.telemetry.opening import open_tracing
from nestvec.telemetry.otel import CollectorTracer
from nestvec.telemetry.settings import TracesSection

_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class SeenSpan:
    """As it came. parent_id: empty for the first of a trace."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    failed: bool
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    state: str


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """address: host:port. refuses: the status that it ends calls with. headers: of the last call.
    held: calls wait for it while it is not set.
    """

    address: str = ""
    refuses: grpc.StatusCode | None = None
    headers: dict[str, Any] = field(default_factory=dict)
    requests: list[trace_service_pb2.ExportTraceServiceRequest] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    calls: int = 0

    def __post_init__(self) -> None:
        self.held.set()

    def Export(self, request: Any, context: Any) -> Any:
        """See trace_service.proto of OpenTelemetry."""
        self.calls += 1
        self.headers = dict(context.invocation_metadata())
        self.held.wait(_PATIENCE_S)
        if self.refuses is not None:
            context.abort(self.refuses, "the test says so")
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self) -> list[SeenSpan]:
        """All of them, in the order they came."""
        return [
            SeenSpan(
                one.name,
                one.trace_id.hex(),
                one.span_id.hex(),
                one.parent_span_id.hex(),
                one.kind,
                one.status.code == one.status.STATUS_CODE_ERROR,
                _plain(one.attributes),
                _plain(group.resource.attributes),
                one.trace_state,
            )
            for request in list(self.requests)
            for group in request.resource_spans
            for scope in group.scope_spans
            for one in scope.spans
        ]

    def wait_for(self, calls: int) -> None:
        """Until it was called so often."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while self.calls < calls:
            assert time.monotonic() < deadline_s, f"{self.calls} calls, expected {calls}"
            time.sleep(0.005)


@contextmanager
def a_collector(credentials: grpc.ServerCredentials | None = None) -> Iterator[Collector]:
    """One that listens until the end of the block."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(collector, server)
    where = "127.0.0.1:0"
    if credentials is None:
        port = server.add_insecure_port(where)
    else:
        port = server.add_secure_port(where, credentials)
    collector.address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield collector
    finally:
        collector.held.set()
        server.stop(0.1).wait()


def traces_to(address: str, **more: Any) -> TracesSection:
    """The settings that send to a collector: everything is sampled unless told otherwise, and
    nothing is sent before it is asked for.
    """
    given = {"endpoint": f"http://{address}", "sample": 1.0, "every_s": 300.0, **more}
    return TracesSection.model_validate(given)


@contextmanager
def tracing_on(section: TracesSection) -> Iterator[CollectorTracer]:
    """This process's tracer. Ends without waiting for a collector that is silent for long."""
    stack = AsyncExitStack()
    open_tracing(section, stack, role="query")
    tracer = tracing.tracer
    assert isinstance(tracer, CollectorTracer)
    try:
        yield tracer
    finally:
        # Whether a loop runs in this thread or not.
        with ThreadPoolExecutor(1) as another:
            another.submit(asyncio.run, stack.aclose()).result()
        assert tracing.tracer is None


def flush() -> None:
    """Send what has ended by now."""
    tracer = tracing.tracer
    assert isinstance(tracer, CollectorTracer)
    tracer.flush()


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)
