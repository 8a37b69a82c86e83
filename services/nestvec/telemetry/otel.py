"""The tracer that OpenTelemetry's SDK stands behind, and the way to a collector.

Imported only where traces are on (extra: tracing). Which calls are traced is decided before any of
it is called (telemetry/sampling.py), so the SDK keeps every span that it is given. Ended spans wait
in a queue with a bound, which a thread empties; nobody who answers a call waits for a collector.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import Tracer as OtelTracer
from opentelemetry.trace.status import Status, StatusCode

import nestvec
from nestvec.security.files import Reloaded
from nestvec.telemetry import metrics
from nestvec.telemetry.logs import logger
from nestvec.telemetry.sampling import Sampler
from nestvec.telemetry.traceparent import Remote, written
from nestvec.telemetry.tracing import Attributes, Kind, Span

# Of one call in one process: a stream that writes for hours must not fill a trace without end.
_MOST_PARTS = 1000
_LONGEST_ATTRIBUTE = 256
_MOST_ATTRIBUTES = 64
_IN_ONE_SENDING = 512
# Of what is still in the queue when the process ends, for it to be sent.
_AT_THE_END_S = 2.0
_KINDS = {
    Kind.INTERNAL: SpanKind.INTERNAL,
    Kind.SERVER: SpanKind.SERVER,
    Kind.CLIENT: SpanKind.CLIENT,
}
_SENT, _LOST = map(metrics.TRACE_SPANS.labels, ("sent", "lost"))
_log = logger()


@dataclass(frozen=True, slots=True)
class Collector:
    """Where spans go. address: host:port. credentials: None for a plain way. headers: secrets; both
    as they stand at any time. every_s: between two sendings. timeout_s: of one. queue_spans: that
    wait at most.
    """

    address: str
    credentials: Reloaded[grpc.ChannelCredentials | None]
    headers: Reloaded[Sequence[tuple[str, str]]]
    every_s: float
    timeout_s: float
    queue_spans: int

    def versions(self) -> tuple[int, int]:
        """Other ones when credentials or headers have changed."""
        found = []
        for one in (self.credentials, self.headers):
            # Asking for the value has the files looked at.
            _ = one.value
            found.append(one.version)
        return found[0], found[1]


class CollectorTracer:
    """Fills tracing.Tracer. resource: what this process is, by OpenTelemetry's names."""

    def __init__(self, sampler: Sampler, collector: Collector, resource: Mapping[str, str]) -> None:
        self.sampler = sampler
        # The SDK writes to Python's own logging, in its own form; what matters is told by _Sending.
        library = logging.getLogger("opentelemetry")
        library.addHandler(logging.NullHandler())
        library.propagate = False
        self._sending = _Sending(collector)
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            # What the environment says of the process (OTEL_RESOURCE_ATTRIBUTES) comes first.
            resource=Resource.create(dict(resource)),
            shutdown_on_exit=False,
            span_limits=SpanLimits(
                max_span_attributes=_MOST_ATTRIBUTES,
                max_events=0,
                max_links=0,
                max_span_attribute_length=_LONGEST_ATTRIBUTE,
            ),
        )
        self._provider.add_span_processor(_Queue(self._sending, collector))
        self._tracer = self._provider.get_tracer("nestvec", nestvec.__version__)

    def begin(
        self, name: str, kind: Kind, attributes: Attributes, remote: Remote | None
    ) -> Span | None:
        """See tracing.Tracer."""
        context = Context() if remote is None else _context_of(remote)
        span = self._tracer.start_span(name, context, _KINDS[kind], dict(attributes))
        # Where OTEL_SDK_DISABLED has switched the library off.
        return _Span(self._tracer, span, _Root()) if span.is_recording() else None

    def flush(self) -> None:
        """Send what waits, now. Blocks."""
        self._provider.force_flush()

    def close(self) -> None:
        """Send what waits for a moment, then give the rest up. Blocks for so long at most."""
        giving_up = threading.Timer(_AT_THE_END_S, self._sending.give_up)
        giving_up.daemon = True
        giving_up.start()
        try:
            self._provider.shutdown()
        finally:
            giving_up.cancel()


@dataclass(slots=True)
class _Root:
    """What the spans of one call in this process share."""

    parts: int = 0
    left_out: int = 0


class _Span:
    """Fills tracing.Span."""

    __slots__ = ("_ended", "_root", "_span", "_tracer", "trace_id", "traceparent", "tracestate")

    def __init__(self, tracer: OtelTracer, span: OtelSpan, root: _Root) -> None:
        self._tracer = tracer
        self._span = span
        self._root = root
        self._ended = False
        context = span.get_span_context()
        self.trace_id = f"{context.trace_id:032x}"
        self.traceparent = written(context.trace_id, context.span_id, context.trace_flags)
        self.tracestate = context.trace_state.to_header()

    def child(self, name: str, kind: Kind, attributes: Attributes) -> Span | None:
        """See tracing.Span. What outlives a call (a probe, a shadow query) is no part of it."""
        if self._ended:
            return None
        root = self._root
        if root.parts >= _MOST_PARTS:
            root.left_out += 1
            return None
        root.parts += 1
        context = set_span_in_context(self._span, Context())
        span = self._tracer.start_span(name, context, _KINDS[kind], dict(attributes))
        return _Span(self._tracer, span, root)

    def set(self, attributes: Attributes) -> None:
        """See tracing.Span."""
        if not self._ended:
            self._span.set_attributes(dict(attributes))

    def fail(self, why: str) -> None:
        """See tracing.Span."""
        if not self._ended:
            self._span.set_attribute("error.type", why)
            self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        """See tracing.Span."""
        if self._ended:
            return
        self._ended = True
        if self._root.left_out:
            self._span.set_attribute("nestvec.parts_left_out", self._root.left_out)
        self._span.end()


def _context_of(remote: Remote) -> Context:
    parent = SpanContext(
        remote.trace_id,
        remote.span_id,
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=TraceState.from_header([remote.state]) if remote.state else TraceState(),
    )
    return set_span_in_context(NonRecordingSpan(parent), Context())


class _Sending(SpanExporter):
    """Sends spans, counts them, and says once that it cannot, and once that it can again."""

    def __init__(self, collector: Collector) -> None:
        self._address = collector.address
        self._collector = collector
        self._versions = collector.versions()
        self._exporter = self._opened()
        self._room = collector.queue_spans
        # Calls end on the event loop, and are sent by a thread.
        self._lock = threading.Lock()
        self._works = True
        self._given_up = False

    def _opened(self) -> OTLPSpanExporter:
        collector = self._collector
        credentials = collector.credentials.value
        return OTLPSpanExporter(
            # Without a scheme the library goes by what it is told beside.
            endpoint=collector.address,
            insecure=credentials is None,
            credentials=credentials,
            headers=tuple(collector.headers.value) or None,
            timeout=collector.timeout_s,
        )

    def _renew(self) -> None:
        """The library keeps what it was given: once that has changed another one sends."""
        versions = self._collector.versions()
        if versions == self._versions:
            return
        fresh, self._versions = self._opened(), versions
        with self._lock:
            old, self._exporter = self._exporter, fresh
            given_up = self._given_up
        old.shutdown()
        if given_up:
            fresh.shutdown()

    def has_room(self) -> bool:
        """Whether one more span may wait; then it counts until it is being sent."""
        with self._lock:
            if self._room == 0:
                return False
            self._room -= 1
            return True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """On the thread that empties the queue."""
        with self._lock:
            self._room += len(spans)
        why = "the collector did not take them"
        try:
            self._renew()
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001  whatever it was, the thread must go on
            result, why = SpanExportResult.FAILURE, type(error).__name__
        sent = result is SpanExportResult.SUCCESS
        (_SENT if sent else _LOST).inc(len(spans))
        if sent != self._works and not self._given_up:
            self._works = sent
            if sent:
                _log.info("traces.sent_again", collector=self._address)
            else:
                _log.warning("traces.not_sent", collector=self._address, why=why, spans=len(spans))
        return result

    def give_up(self) -> None:
        """End what is being sent; nothing more will be."""
        with self._lock:
            self._given_up = True
            exporter = self._exporter
        exporter.shutdown()

    def shutdown(self) -> None:
        """See SpanExporter."""
        if not self._given_up:
            self.give_up()


class _Queue(BatchSpanProcessor):
    """Of spans that are to be sent. One that finds it full is lost, and counted."""

    def __init__(self, sending: _Sending, collector: Collector) -> None:
        super().__init__(
            sending,
            max_queue_size=collector.queue_spans,
            schedule_delay_millis=collector.every_s * 1e3,
            max_export_batch_size=min(_IN_ONE_SENDING, collector.queue_spans),
        )
        self._sending = sending

    def on_end(self, span: ReadableSpan) -> None:
        """See SpanProcessor."""
        if self._sending.has_room():
            super().on_end(span)
        else:
            _LOST.inc()
