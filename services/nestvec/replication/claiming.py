"""The right to do a piece of work alone: a claim in the store that expires.

Several processes may want to do the same work; one that dies is followed by another. A process
trusts its claim no longer than it certainly lasts, whatever the store would say.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine
from typing import Any

from nestvec.core.errors import NestvecError, StoreUnavailable
from nestvec.core.ports import VectorStore


class Claims:
    """Those of one process. ttl_s: how long one lasts; it is renewed three times while it does.

    The name of a collection claims its migration; other work has names with a colon.
    """

    def __init__(self, store: VectorStore, ttl_s: float) -> None:
        self._store = store
        self._ttl_s = ttl_s
        self.owner = secrets.token_hex(8)
        # When each claim was last known to be ours: monotonic seconds, from before it was asked.
        self._held_s: dict[str, float] = {}

    async def take(self, name: str) -> bool:
        """Take or renew it; False while another process has it. Raises StoreUnavailable: also where
        that takes too long.
        """
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(self._ttl_s / 3):
                held = await self._store.claim_migration(name, self.owner, self._ttl_s)
        except TimeoutError:
            raise StoreUnavailable(f"no answer within {self._ttl_s / 3:g} s") from None
        if held:
            self._held_s[name] = began_s
        return held

    async def renewed(self, name: str) -> bool:
        """A store that does not answer keeps nobody from working, while the claim surely lasts."""
        try:
            return await self.take(name)
        except NestvecError:
            return self.holds(name)

    def holds(self, name: str) -> bool:
        """Whether the claim is ours for another third of its time at least, whatever the store
        would say.
        """
        held_s = self._held_s.get(name)
        return held_s is not None and time.monotonic() - held_s < self._ttl_s * 2 / 3

    async def release(self, name: str) -> None:
        """Give it up. Safe to repeat."""
        self._held_s.pop(name, None)
        await self._store.release_migration(name, self.owner)

    async def work(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` under a claim that was taken, until it ends or the claim is lost; then it is
        cancelled. Raises what it raises.
        """
        running = asyncio.create_task(work)
        try:
            while not (await asyncio.wait((running,), timeout=self._ttl_s / 3))[0]:
                if not await self.renewed(name):
                    return
            await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
