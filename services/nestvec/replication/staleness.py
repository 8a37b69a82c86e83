"""How far replicated collections here may be behind other regions, for every process of this one.

The process that copies writes down when all of another region was last known to be here; the others
read it. While nobody writes, what they know grows older by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from nestvec.core.errors import NestvecError
from nestvec.core.ports import VectorStore
from nestvec.core.regions import RegionMap, Sharing
from nestvec.replication.headings import REGIONS, told_at, whole_at
from nestvec.telemetry.logs import logger

_LOOK_S = 0.25
_log = logger()


class SharedStaleness:
    """Fills ports.Staleness. now_ms: wall clock; the machines of one region agree on it."""

    def __init__(self, store: VectorStore, regions: RegionMap, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._now_ms = now_ms
        self._followed = followed(regions)
        self._whole_ms: dict[str, Mapping[str, int]] = {name: {} for name in self._followed}
        self._task: asyncio.Task[None] | None = None

    def of(self, collection: str) -> Mapping[str, float | None]:
        """See ports.Staleness."""
        whole_ms = self._whole_ms.get(collection, {})
        return {
            name: staleness(whole_ms.get(whole_at(name), 0), self._now_ms)
            for name in self._followed.get(collection, ())
        }

    async def look(self) -> None:
        """Read all of it again. Raises StoreUnavailable."""
        for name in self._followed:
            self._whole_ms[name] = await self._store.tally(name, REGIONS)

    def start(self) -> None:
        """Look from now on, in the running loop. Safe to repeat."""
        if self._task is None and self._followed:
            self._task = asyncio.create_task(self._keep_looking())

    async def close(self) -> None:
        """Look no more. Safe to repeat."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _keep_looking(self) -> None:
        failing = False
        while True:
            try:
                await self.look()
                failing = False
            except NestvecError as error:
                if not failing:
                    _log.warning("staleness.not_read", reason=str(error))
                failing = True
            except Exception as error:  # noqa: BLE001  a bug must not end it unseen
                _log.error("staleness.bug", error=repr(error), exc_info=True)
            await asyncio.sleep(_LOOK_S)


def followed(regions: RegionMap) -> dict[str, list[str]]:
    """Collection -> the regions from which it is copied, whole or its prefixes alone."""
    found = {}
    for name, one in regions.collections.items():
        whole = one.sharing is Sharing.REPLICATED
        found[name] = [
            other.name for other in regions.others if whole or other.name in one.prefixes_of
        ]
    return {name: others for name, others in found.items() if others}


def replicated(regions: RegionMap) -> list[str]:
    """The collections that every region holds whole, by name."""
    return sorted(
        name for name, one in regions.collections.items() if one.sharing is Sharing.REPLICATED
    )


def staleness(whole_ms: int, now_ms: Callable[[], int]) -> float | None:
    """Seconds since a moment that was written down; None for 0, which is none."""
    return max(now_ms() - whole_ms, 0) / 1e3 if whole_ms else None


async def needed_since_ms(store: VectorStore, regions: RegionMap, collection: str) -> int | None:
    """Since when deletions here may be news to another region: until all of them have it, a
    deletion must be remembered, or the document comes back from there. 0: ever since. None for a
    collection that is not replicated.
    """
    if not regions.replicated(collection) or not regions.others:
        return None
    told = await store.tally(collection, REGIONS)
    return min(told.get(told_at(one.name), 0) for one in regions.others)
