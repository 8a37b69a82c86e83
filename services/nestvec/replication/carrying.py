"""What was written to one generation, as the other one of a migration has it; and what was written
in another region, as this one has it.

Both generations have the same partitions, and a copier says how far it has carried each of them: so
a watermark of one can be waited for, and told, in terms of the other. Fills ports.Carrying.
"""

from __future__ import annotations

import asyncio

from nestvec.core.collection import Collection
from nestvec.core.errors import BudgetSpent, MigrationRefused, NestvecError, StoreUnavailable
from nestvec.core.migration import Migration, Phase, generation_name
from nestvec.core.ports import VectorStore, WatchedCatalogue
from nestvec.core.regions import RegionMap
from nestvec.core.watermark import Watermark
from nestvec.replication.arriving import Arrivals
from nestvec.replication.headings import copied

_LOOK_S = 0.02


class Carrier:
    """For those who write, and for those who read what they wrote. regions: None where this
    deployment is none.
    """

    def __init__(
        self,
        store: VectorStore,
        catalogue: WatchedCatalogue,
        regions: RegionMap | None = None,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._regions = regions
        self._arrivals = Arrivals(store, regions)

    async def beyond(self, collection: Collection) -> Collection | None:
        """See ports.Carrying."""
        migration = await self._migration(collection.name)
        if migration is None:
            return None
        number = migration.carries(collection.generation)
        if not number:
            return None
        return await self._catalogue.get(generation_name(collection.name, number))

    async def require_open(self, collection: Collection) -> None:
        """See ports.Carrying."""
        migration = await self._migration(collection.name)
        if migration is not None and migration.retires(collection.generation):
            raise MigrationRefused(
                f"generation {collection.generation} of collection {collection.name!r} is about to "
                f"be dropped; generation {migration.serving} took its place: begin again"
            )

    async def expects(self, collection: Collection) -> bool:
        """See ports.Carrying."""
        if self._regions is not None and self._regions.replicated(collection.name):
            return True
        migration = await self._migration(collection.name)
        return migration is not None and not migration.ended

    async def _migration(self, name: str) -> Migration | None:
        """What is at hand is better than nothing: a write waits for no catalogue."""
        try:
            return await self._catalogue.migration(name)
        except StoreUnavailable:
            return None

    async def carried(
        self, watermark: Watermark, source: Collection, sink: Collection, timeout_s: float
    ) -> Watermark:
        """See ports.Carrying."""
        heading = copied(source.generation, sink.generation)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    reached = await self._store.tally(source.name, heading)
                    positions = {int(p): s for p, s in reached.items() if p.isdecimal()}
                    if watermark.reached_by(positions):
                        break
                    await asyncio.sleep(_LOOK_S)
                return await self._end(watermark, sink)
        except TimeoutError:
            raise BudgetSpent(
                f"carrying generation {source.generation} over to {sink.generation}"
            ) from None

    async def _end(self, watermark: Watermark, collection: Collection) -> Watermark:
        """Where `collection` stands now, in the partitions that a watermark of the other generation
        names.
        """
        there = await self._store.positions(collection, range(collection.partitions))
        named = watermark.sequences.keys()
        return Watermark(collection.generation, {p: there[p] for p in named if there.get(p)})

    async def translated(
        self, watermark: Watermark, collection: Collection, timeout_s: float
    ) -> Watermark:
        """See ports.Carrying."""
        watermark = await self._arrivals.here(watermark, collection, timeout_s)
        if watermark.generation == collection.generation:
            return watermark
        migration = await self._migration(collection.name)
        pair = migration and {migration.source, migration.target}
        if migration is None or pair != {watermark.generation, collection.generation}:
            return watermark
        if migration.phase in (Phase.FINISHED, Phase.ABORTED):
            # All of it was carried over before the other one was dropped.
            return await self._end(watermark, collection)
        try:
            other = await self._catalogue.get(
                generation_name(collection.name, watermark.generation)
            )
        except NestvecError:
            return watermark
        return await self.carried(watermark, other, collection, timeout_s)
