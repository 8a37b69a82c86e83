"""Structured logs: events with fields, one line each, on stderr. Vectors and texts never enter."""

from __future__ import annotations

import contextvars
import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Literal

import structlog

from nestvec.security.identity import current_identity
from nestvec.telemetry import tracing

# Set by the gRPC interceptor for the length of a call; every line within carries it.
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")

LogFormat = Literal["json", "console"]


class _Stderr:
    """Standard error as it is when a line is written: it may have been put in another's place
    since. One that is closed, or that nobody reads any more, loses the line; a call must not fail
    for it.
    """

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()


def configure_logs(level: str = "info", log_format: LogFormat = "console") -> None:
    """Set up once, in main: `level` is a name that logging knows."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            _add_call,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(file=_Stderr()),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )


def logger() -> structlog.typing.FilteringBoundLogger:
    """The logger of the caller: `log.info("search.completed", coarse_dim=256)`."""
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return bound


def _add_call(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    if current := request_id.get():
        event["request_id"] = current
    if (span := tracing.current()) is not None:
        event["trace_id"] = span.trace_id
    if (identity := current_identity.get()) is not None:
        event["caller"] = identity.name
    return event
