"""A hybrid logical clock: versions of writes that order as time does, and never go back.

A version is 63 bits: milliseconds since 1970 (42 bits, until 2109), a counter (13 bits), and the
region's number (8 bits), so that two regions never make the same one. Source: Kulkarni et al.,
"Logical Physical Clocks", 2014.
"""

from __future__ import annotations

from collections.abc import Callable

_COUNTER_BITS = 13
_REGION_BITS = 8
MAX_REGION = (1 << _REGION_BITS) - 1
MAX_VERSION = (1 << 63) - 1
# 2020: no clock of a server shows less.
_EARLIEST_MS = 1_577_836_800_000


def made_by_clock(version: int) -> bool:
    """Whether a clock may have made it. What callers choose (a count, a time in any unit from
    seconds to nanoseconds) is less.
    """
    return version >> (_COUNTER_BITS + _REGION_BITS) >= _EARLIEST_MS


class HybridClock:
    """Not thread-safe: one event loop owns it.

    now_ms: wall clock, milliseconds since 1970; it may jump either way. region: 0 to 255.
    """

    def __init__(self, now_ms: Callable[[], int], region: int = 0) -> None:
        assert 0 <= region <= MAX_REGION
        self._now_ms = now_ms
        self._region = region
        # Milliseconds and counter as one number.
        self._last = 0

    def tick(self) -> int:
        """A version greater than any this clock has made or observed."""
        self._last = max(self._last + 1, self._now_ms() << _COUNTER_BITS)
        version = self._last << _REGION_BITS | self._region
        # A version of the caller's own making may have pushed the clock to its end.
        return min(version, MAX_VERSION)

    def observe(self, version: int) -> None:
        """Never make a version below this one, which another clock has made."""
        self._last = max(self._last, version >> _REGION_BITS)
