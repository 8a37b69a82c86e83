"""The caller's own trace, passed on to the server: where the caller uses OpenTelemetry."""

from __future__ import annotations

import sys
from typing import Any

from nestvec.telemetry.traceparent import as_metadata, written

# Imported by whoever has a span; never from here, so that nobody else needs the library.
_LIBRARY = "opentelemetry.trace"


def trace_headers() -> tuple[tuple[str, str], ...]:
    """Metadata that names the active span; empty where there is none."""
    # None of it where another thread is importing it.
    current: Any = getattr(sys.modules.get(_LIBRARY), "get_current_span", None)
    if current is None:
        return ()
    context = current().get_span_context()
    if not context.is_valid:
        return ()
    parent = written(context.trace_id, context.span_id, int(context.trace_flags))
    return as_metadata(parent, context.trace_state.to_header())
