"""What was written in another region, as this one has it: its watermarks in terms of this region's
log.

The way from there says how far it has come, by the sequences of the generation that it follows. A
watermark of another generation says less: then all is waited for that was written there until now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from nestvec.core.collection import Collection
from nestvec.core.errors import BudgetSpent, InvalidRequest
from nestvec.core.ports import VectorStore
from nestvec.core.regions import RegionMap
from nestvec.core.watermark import Watermark
from nestvec.replication import headings
from nestvec.wall_clock import wall_clock_ms

_FIELD = "options.watermark"
_LOOK_S = 0.05


class Arrivals:
    """For those who search. regions: None where this deployment is none."""

    def __init__(
        self,
        store: VectorStore,
        regions: RegionMap | None,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._store = store
        self._regions = regions
        self._now_ms = now_ms

    async def here(
        self, watermark: Watermark, collection: Collection, timeout_s: float
    ) -> Watermark:
        """A watermark of this region's log: of its own, the same one; of another region's, once all
        that it speaks of has come, where the log stands then. Raises InvalidRequest where it never
        comes, and BudgetSpent.
        """
        regions = self._regions
        if regions is None:
            return replace(watermark, region=0)
        names = {one.number: one.name for one in regions.others}
        # One without a number is this region's, from before there were regions; or of the region
        # whose number is 0.
        if watermark.region == regions.own.number or (not watermark.region and 0 not in names):
            return replace(watermark, region=0)
        there = names.get(watermark.region)
        if there is None:
            raise InvalidRequest(
                _FIELD,
                f"it is of a region with number {watermark.region}, which is not in the map of "
                f"region {regions.here!r}; pass on what a response of these regions carried",
            )
        if not regions.replicated(collection.name):
            raise InvalidRequest(
                _FIELD,
                f"it is of region {there!r}, and collection {collection.name!r} is not replicated: "
                f"what is written there does not come here; ask that region, or leave it out",
            )
        await self._wait(there, watermark, collection.name, timeout_s)
        stands = await self._store.positions(collection, range(collection.partitions))
        return Watermark(collection.generation, {p: s for p, s in stands.items() if s})

    async def _wait(self, region: str, watermark: Watermark, name: str, timeout_s: float) -> None:
        began_ms = self._now_ms()
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if await self._has_come(region, watermark, name, began_ms):
                        return
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            raise BudgetSpent(f"copying what was written in region {region}") from None

    async def _has_come(self, region: str, watermark: Watermark, name: str, began_ms: int) -> bool:
        come = await self._store.tally(name, headings.copied_from(region))
        if come.get(headings.FOLLOWED) == watermark.generation:
            return watermark.reached_by({int(p): at for p, at in come.items() if p.isdecimal()})
        kept = await self._store.tally(name, headings.REGIONS)
        return kept.get(headings.whole_at(region), 0) >= began_ms
