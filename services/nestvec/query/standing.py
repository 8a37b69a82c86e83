"""What collections hold, looked at every few seconds: whether a calibration still holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from nestvec.core.calibration import Held
from nestvec.core.collection import Collection
from nestvec.core.errors import NestvecError
from nestvec.core.held import held_in
from nestvec.core.ports import Catalogue, Shards

# Documents come in slowly beside this, and one query in so long waits for the look.
_EVERY_S = 10.0
# What that query waits at most, and of what is left of its time.
_LOOK_S = 0.25
_SHARE = 0.25
_MOST_KEPT = 1024


@dataclass(frozen=True, slots=True)
class _Seen:
    held: Held | None
    until_s: float


class Standing:
    """Asks the shards, and has the catalogue read again: another process may have calibrated."""

    def __init__(
        self, catalogue: Catalogue, shards: Shards, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._catalogue = catalogue
        self._shards = shards
        self._now_s = now_s
        self._seen: dict[tuple[str, int], _Seen] = {}

    async def of(self, collection: Collection, left_s: float) -> Held | None:
        """What it holds, as of a few seconds ago; None where no shard could say so yet. left_s: of
        the query that asks.
        """
        key = collection.name, collection.generation
        seen = self._seen.get(key)
        now_s = self._now_s()
        if seen is not None and now_s < seen.until_s:
            return seen.held
        # While one looks, others go on with what is known.
        known = None if seen is None else seen.held
        self._keep(key, _Seen(known, now_s + _EVERY_S))
        with suppress(NestvecError, TimeoutError):
            async with asyncio.timeout(min(_LOOK_S, _SHARE * left_s)):
                known = await self._look(collection)
                self._keep(key, _Seen(known, now_s + _EVERY_S))
                self._catalogue.forget(collection.name)
                await self._catalogue.get(collection.name)
        return known

    async def _look(self, collection: Collection) -> Held:
        shards = self._shards.of(collection.name)
        each = await asyncio.gather(*(shard.status(collection) for shard in shards))
        return held_in(tier for tiers in each for tier in tiers)

    def _keep(self, key: tuple[str, int], seen: _Seen) -> None:
        if key not in self._seen and len(self._seen) >= _MOST_KEPT:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = seen
