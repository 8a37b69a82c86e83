"""Which calls are traced: decided once, where a trace enters nestvec, and kept from there on.

A call that comes without a trace is drawn by chance. One whose caller traces it is traced as well,
so many in a second: beyond that it is drawn like any other, so that no stranger makes a server
trace everything. The draw is this process's own and not made from the trace's id, which is the
caller's to choose.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from nestvec.telemetry.traceparent import Remote


class Sampler:
    """share: of calls that nobody has decided on, 0 to 1. callers_per_s: calls in a second that are
    traced because their callers want it; up to as many at once after a pause.
    """

    def __init__(
        self,
        share: float,
        callers_per_s: float,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share = share
        self._per_s = callers_per_s
        self._most = max(callers_per_s, 1.0) if callers_per_s > 0.0 else 0.0
        self._left = self._most
        self._draw = draw
        self._clock = clock
        self._at_s = clock()

    def wants(self, remote: Remote | None, begins: bool, trusted: bool) -> bool:
        """Whether to trace a call. remote: its caller's span. begins: whether a trace may begin
        here. trusted: the caller is a process of nestvec's own, which has decided for both.
        """
        if remote is None:
            return begins and self._drawn()
        if not remote.sampled:
            return False
        return trusted or self._granted() or (begins and self._drawn())

    def _drawn(self) -> bool:
        return self._draw() < self._share

    def _granted(self) -> bool:
        now_s = self._clock()
        self._left = min(self._most, self._left + self._per_s * (now_s - self._at_s))
        self._at_s = now_s
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
