"""Which of several equal peers is asked next, and which is left alone for a while.

Source: Mitzenmacher 2001, The Power of Two Choices in Randomized Load Balancing: the less loaded of
two random ones is nearly as good as the least loaded of all, and unlike it does not send everybody
to the same one.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

# Failures in a row before a peer is left alone. One in twenty calls of a healthy one is later than
# the hedging delay, so that of calls that come one by one four in a row are late once in 160,000.
# A stall that makes several late at once opens it too, and the next probe closes it.
FAILURES = 4
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 15.0


def less_loaded_of_two(loads: Sequence[int], draw: Callable[[int], int]) -> int:
    """The index of the smaller of two random loads; of equal ones, the one drawn first.

    loads: work under way at each peer, one at least. draw: `draw(n)` is uniform in range(n).
    """
    assert loads
    if len(loads) == 1:
        return 0
    first = draw(len(loads))
    second = draw(len(loads) - 1)
    # Any but the first.
    second += second >= first
    return second if loads[second] < loads[first] else first


class BreakerState(enum.StrEnum):
    """HALF_OPEN: one probe is under way, and decides."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Opens after `failures` in a row, and closes with the first success. While it is open, a probe
    is due after a pause that doubles with every probe that fails.

    Times are seconds on the caller's monotonic clock.
    """

    def __init__(
        self,
        failures: int = FAILURES,
        pause_s: float = _FIRST_PAUSE_S,
        longest_pause_s: float = _LONGEST_PAUSE_S,
    ) -> None:
        assert failures >= 1
        assert 0.0 < pause_s <= longest_pause_s
        self.state = BreakerState.CLOSED
        self._limit = failures
        self._failures = 0
        self._first_pause_s = pause_s
        self._longest_pause_s = longest_pause_s
        self._pause_s = pause_s
        self._probe_at_s = 0.0

    @property
    def closed(self) -> bool:
        """Whether the peer is asked as any other."""
        return self.state is BreakerState.CLOSED

    def succeeded(self) -> None:
        """It answered."""
        self.state = BreakerState.CLOSED
        self._failures = 0
        self._pause_s = self._first_pause_s

    def failed(self, now_s: float) -> bool:
        """It failed, or did not answer in time. Returns whether the breaker has opened just now."""
        if self.state is BreakerState.HALF_OPEN:
            self._pause_s = min(2.0 * self._pause_s, self._longest_pause_s)
            self._open(now_s)
            return False
        if self.state is BreakerState.OPEN:
            return False
        self._failures += 1
        if self._failures < self._limit:
            return False
        self._open(now_s)
        return True

    def begin_probe(self, now_s: float) -> bool:
        """Whether a probe is due; if so, it begins, and no other is due before it ends."""
        if self.state is not BreakerState.OPEN or now_s < self._probe_at_s:
            return False
        self.state = BreakerState.HALF_OPEN
        return True

    def abandon_probe(self, now_s: float) -> None:
        """A probe ended without a verdict: another is due after the same pause."""
        if self.state is BreakerState.HALF_OPEN:
            self._open(now_s)

    def _open(self, now_s: float) -> None:
        self.state = BreakerState.OPEN
        self._failures = 0
        self._probe_at_s = now_s + self._pause_s
