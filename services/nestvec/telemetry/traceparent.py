"""Where a call stands in a trace, as it travels: `traceparent` and `tracestate`.

Source: W3C Trace Context, https://www.w3.org/TR/trace-context/. What is not written as it says is
ignored: a caller's mistake, or malice, costs the caller the trace and nobody the call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_TRACEPARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    r"(?P<more>-[ -~]*)?",
    re.ASCII,
)
_SAMPLED = 0x01
# Later versions may have more behind the flags; so much is looked at.
_LONGEST_PARENT = 256
# What must be passed on at least (3.3.1.5); who sends more loses it.
_LONGEST_STATE, _MOST_STATES = 512, 32
_STATE = re.compile(
    r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]",
    re.ASCII,
)


def written(trace_id: int, span_id: int, flags: int) -> str:
    """As `traceparent`."""
    return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"


def as_metadata(parent: str, state: str) -> tuple[tuple[str, str], ...]:
    """Of a call that is made in a span."""
    named = (TRACEPARENT, parent)
    return (named, (TRACESTATE, state)) if state else (named,)


@dataclass(frozen=True, slots=True)
class Remote:
    """The span of another process that a call was made in. trace_id: 128 bits; span_id: 64.
    sampled: whether that process keeps its part. state: what other systems hang onto the trace,
    to be passed on as it is.
    """

    trace_id: int
    span_id: int
    sampled: bool
    state: str = ""

    @property
    def header(self) -> str:
        """As `traceparent`."""
        return written(self.trace_id, self.span_id, int(self.sampled))


def read_remote(parent: str, state: str = "") -> Remote | None:
    """From the two values; None for a `traceparent` that is none."""
    match = _TRACEPARENT.fullmatch(parent) if len(parent) <= _LONGEST_PARENT else None
    if match is None or match["version"] == "ff" or (match["version"] == "00" and match["more"]):
        return None
    trace_id, span_id = int(match["trace"], 16), int(match["span"], 16)
    if not trace_id or not span_id:
        return None
    sampled = bool(int(match["flags"], 16) & _SAMPLED)
    return Remote(trace_id, span_id, sampled, _sound_state(state) if state else "")


def _sound_state(state: str) -> str:
    """Empty where any of it is not sound."""
    if len(state) > _LONGEST_STATE:
        return ""
    members = [one.strip(" \t") for one in state.split(",")]
    members = [one for one in members if one]
    keys = {one.partition("=")[0] for one in members}
    if len(members) > _MOST_STATES or len(keys) < len(members):
        return ""
    return ",".join(members) if all(map(_STATE.fullmatch, members)) else ""


def remote_of(metadata: Iterable[tuple[str, str | bytes]]) -> Remote | None:
    """Of a call's metadata. Two of a `traceparent` are none (4.2)."""
    parent, states = "", []
    for key, value in metadata:
        if key == TRACEPARENT:
            if parent or not isinstance(value, str):
                return None
            parent = value
        elif key == TRACESTATE and isinstance(value, str):
            states.append(value)
    return read_remote(parent, ",".join(states)) if parent else None
