"""The caller's own trace, passed on to the server: where the caller uses OpenTelemetry."""

from __future__ import annotations

import sys
from typing import Any

from nestvec.telemetry.traceparent import TRACEPARENT, TRACESTATE

# Imported by whoever has a span; never from here, so that nobody else needs the library.
_LIBRARY = "opentelemetry.trace"


def trace_headers() -> tuple[tuple[str, str], ...]:
    """Metadata that names the active span; empty where there is none."""
    library: Any = sys.modules.get(_LIBRARY)
    if library is None:
        return ()
    context = library.get_current_span().get_span_context()
    if not context.is_valid:
        return ()
    flags = int(context.trace_flags)
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"
    state = context.trace_state.to_header()
    return ((TRACEPARENT, parent), (TRACESTATE, state)) if state else ((TRACEPARENT, parent),)
