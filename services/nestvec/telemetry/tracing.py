"""Traces behind one small face: spans of the calls that are sampled, and nothing for the others.

`tracer` is None where traces are off; the current span is None where they are off or this call was
not sampled. So a call that nobody traces pays for looking at None. OpenTelemetry stands behind the
face (`telemetry/otel.py`), and is imported only where traces are on.

No text, vector or id of a document enters a span, and no message of an error, which may quote one.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from types import TracebackType
from typing import Protocol, TypeAlias, TypeVar

from nestvec.telemetry.sampling import Sampler
from nestvec.telemetry.traceparent import Remote, as_metadata

Result = TypeVar("Result")
Value: TypeAlias = str | bool | int | float | Sequence[str]
Attributes: TypeAlias = Mapping[str, Value]


class Kind(Enum):
    """Which end of a call a span is; INTERNAL is neither."""

    INTERNAL = 0
    SERVER = 1
    CLIENT = 2


class Span(Protocol):
    """One piece of a sampled call's work."""

    trace_id: str
    # To where its children may be in another process.
    traceparent: str
    tracestate: str

    def child(self, name: str, kind: Kind, attributes: Attributes) -> Span | None:
        """Begin a part of it; None once it has ended, or has as many parts as are kept."""
        ...

    def set(self, attributes: Attributes) -> None:
        """Add what is known of it by now."""
        ...

    def fail(self, why: str) -> None:
        """It failed; why: the kind of error, never its message."""
        ...

    def end(self) -> None:
        """It is over. Safe to repeat."""
        ...


class Tracer(Protocol):
    """Makes the spans of a process."""

    sampler: Sampler

    def begin(
        self, name: str, kind: Kind, attributes: Attributes, remote: Remote | None
    ) -> Span | None:
        """The first span of a call in this process. remote: its parent, where it has one."""
        ...


# Of this process; None where traces are off. Set by telemetry/opening.py.
tracer: Tracer | None = None
# Of the call that is under way, in this task.
current_span: contextvars.ContextVar[Span | None] = contextvars.ContextVar("span", default=None)
current = current_span.get


class _Nothing:
    """Of a call that is not traced."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


class Entered:
    """A span that is the current one until it ends."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._token: contextvars.Token[Span | None] | None = None

    def __enter__(self) -> Span:
        self._token = current_span.set(self._span)
        return self._span

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._token is not None
        current_span.reset(self._token)
        if error is not None:
            note_error(self._span, error)
        self._span.end()


NOTHING = _Nothing()
_NO_ATTRIBUTES: Attributes = {}


def part(
    name: str, attributes: Attributes = _NO_ATTRIBUTES, kind: Kind = Kind.INTERNAL
) -> AbstractContextManager[Span | None]:
    """Begin a part of the current call, for a `with`, which gives its span: None where the call is
    not traced. An error that leaves the block is the part's failure.
    """
    parent = current()
    if parent is None:
        return NOTHING
    span = parent.child(name, kind, attributes)
    return NOTHING if span is None else Entered(span)


async def in_part(name: str, attributes: Attributes, work: Awaitable[Result]) -> Result:
    """What `work` returns, as a part of the current call."""
    with part(name, attributes):
        return await work


def tell(attributes: Attributes) -> None:
    """Of the current span. Where making the attributes costs something, look at `current` first."""
    span = current()
    if span is not None:
        span.set(attributes)


def note_error(span: Span, error: BaseException) -> None:
    """How a part ended that raised. One that was given up is no failure of its own."""
    if isinstance(error, asyncio.CancelledError):
        span.set({"nestvec.cancelled": True})
    else:
        span.fail(type(error).__name__)


def headers(span: Span) -> tuple[tuple[str, str], ...]:
    """Metadata of a call that is made in a span."""
    return as_metadata(span.traceparent, span.tracestate)
