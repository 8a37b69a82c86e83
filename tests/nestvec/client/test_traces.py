"""The SDK passes on the trace of whoever calls it."""

from __future__ import annotations

import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from nestvec.client.connection import Connection
from nestvec.client.traces import trace_headers
from nestvec.telemetry.traceparent import remote_of


def a_connection() -> Connection:
    return Connection("127.0.0.1:7700", 1.0, False, 1 << 20, lambda: "id-7")


def test_the_active_span_goes_with_every_call() -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("caller")
    with tracer.start_as_current_span("work") as span:
        context = span.get_span_context()
        remote = remote_of(a_connection().metadata())
    assert remote is not None
    assert (remote.trace_id, remote.span_id) == (context.trace_id, context.span_id)
    assert remote.sampled


def test_what_the_caller_does_not_sample_is_passed_on_as_such() -> None:
    state = TraceState([("vendor", "1")])
    context = SpanContext(5, 6, is_remote=False, trace_flags=TraceFlags(0), trace_state=state)
    with trace.use_span(NonRecordingSpan(context)):
        remote = remote_of(trace_headers())
    assert remote is not None
    assert (remote.sampled, remote.state) == (False, "vendor=1")


def test_without_a_span_or_without_the_library_nothing_is_added(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = (("x-request-id", "id-7"),)
    assert a_connection().metadata() == alone
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    assert a_connection().metadata() == alone
    assert "opentelemetry.trace" not in sys.modules
