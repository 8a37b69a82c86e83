"""What collections hold, looked at every few seconds: whether a calibration still holds."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from nestvec.core.calibration import Held
from nestvec.core.collection import Collection
from nestvec.core.errors import NestvecError
from nestvec.core.held import held_in
from nestvec.core.ports import Catalogue, Shards

# Documents come in slowly beside this.
_EVERY_S = 10.0
# After a look that failed; what was seen before stands for so long.
_AGAIN_S = 1.0
_STANDS_S = 60.0
# What a query waits at most where nothing is known, and of what is left of its time.
_WAIT_S = 0.25
_SHARE = 0.25
_LOOK_S = 5.0
_MOST_KEPT = 1024


@dataclass(frozen=True, slots=True)
class _Seen:
    held: Held
    at_s: float


class Standing:
    """Asks the shards, and has the catalogue read again: another process may have calibrated."""

    def __init__(
        self, catalogue: Catalogue, shards: Shards, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._catalogue = catalogue
        self._shards = shards
        self._now_s = now_s
        self._seen: dict[tuple[str, int], _Seen] = {}
        self._looks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._next_s: dict[tuple[str, int], float] = {}

    async def of(self, collection: Collection, left_s: float) -> Held | None:
        """What it holds, as of a few seconds ago; None where the shards cannot say. left_s: of the
        query that asks: only where nothing is known yet does it wait, for a look that all share.
        """
        key = collection.name, collection.generation
        if key not in self._looks and self._now_s() >= self._next_s.get(key, -math.inf):
            task = asyncio.create_task(self._look_again(key, collection))
            self._looks[key] = task
            task.add_done_callback(lambda _: self._looks.pop(key, None))
        known = self._known(key)
        if known is None and key in self._looks:
            await asyncio.wait({self._looks[key]}, timeout=min(_WAIT_S, _SHARE * left_s))
            known = self._known(key)
        return known

    def _known(self, key: tuple[str, int]) -> Held | None:
        seen = self._seen.get(key)
        if seen is None or self._now_s() - seen.at_s > _STANDS_S:
            return None
        return seen.held

    async def _look_again(self, key: tuple[str, int], collection: Collection) -> None:
        pause_s = _AGAIN_S
        with suppress(NestvecError, TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                held = await self._look(collection)
                self._keep(key, _Seen(held, self._now_s()))
                pause_s = _EVERY_S
                self._catalogue.forget(collection.name)
                await self._catalogue.get(collection.name)
        self._next_s[key] = self._now_s() + pause_s

    async def _look(self, collection: Collection) -> Held:
        shards = self._shards.of(collection.name)
        each = await asyncio.gather(*(shard.status(collection) for shard in shards))
        return held_in(tier for tiers in each for tier in tiers)

    def _keep(self, key: tuple[str, int], seen: _Seen) -> None:
        if key not in self._seen and len(self._seen) >= _MOST_KEPT:
            oldest = next(iter(self._seen))
            del self._seen[oldest]
            self._next_s.pop(oldest, None)
        self._seen[key] = seen
