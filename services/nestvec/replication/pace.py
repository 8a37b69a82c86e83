"""How fast a copier may go, so that searches and writes are served beside it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Pace:
    """At most `rate` documents a second on average; 0 sets no bound."""

    def __init__(self, rate: float = 0.0, now_s: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._now_s = now_s
        self._free_s = 0.0

    def change(self, rate: float) -> None:
        """From now on. What was taken at another rate is not waited for."""
        if rate != self.rate:
            self.rate = rate
            self._free_s = 0.0

    async def take(self, documents: int) -> None:
        """Wait for the turn of so many."""
        if not self.rate:
            return
        now_s = self._now_s()
        wait_s = max(self._free_s - now_s, 0.0)
        self._free_s = max(self._free_s, now_s) + documents / self.rate
        if wait_s:
            await asyncio.sleep(wait_s)
