"""Copies of one coarse tier of what another region holds: its rows, and no vectors or texts.

The home makes the rows of its full vectors, with what its own tier was drawn with. That is drawn
here again from the seed in its record: mostly the same comes out to the last bit, and where it does
not (another library of linear algebra) the rows that arrive say so, and it is fetched. It is kept
with the copy. Where the home draws anew, or serves another generation, the copy is made anew: rows
of two draws look alike, and mean nothing together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from nestvec.core.collection import Collection
from nestvec.core.errors import NestvecError, NotFound
from nestvec.core.ports import Shards, VectorStore
from nestvec.core.prefix_copy import copy_name
from nestvec.core.regions import RegionMap
from nestvec.core.sketch import drawn_assets
from nestvec.replication.headings import REGIONS, whole_at
from nestvec.replication.prefix_rows import KeepRows, designed_copy, is_copy_of
from nestvec.replication.transform import Transform
from nestvec.replication.way import Assets
from nestvec.telemetry.logs import logger

_AGAIN_S = 5.0
# A rotation of so many dimensions is drawn within some seconds.
_LARGEST_DRAWN = 2048
_LARGEST_SEED = 2**63 - 1
# Twice what a look of replication.staleness takes to come round.
_NOTICE_S = 0.6
_log = logger()


class CopyCatalogue(Protocol):
    """As much of the catalogue as is needed here."""

    def copy(self, collection: str, region: str) -> Collection | None: ...

    def copies(self) -> Sequence[Collection]: ...

    async def refresh(self) -> list[Collection]: ...


class PrefixCopying:
    """Makes and drops the collections that copies are kept in. Only whoever has the claim of one
    makes it.
    """

    def __init__(
        self,
        store: VectorStore,
        catalogue: CopyCatalogue,
        shards: Shards,
        notice_s: float = _NOTICE_S,
    ) -> None:
        """notice_s: after so long every process has read again how old copies are."""
        self._store = store
        self._notice_s = notice_s
        self._catalogue = catalogue
        self._shards = shards
        self._task: asyncio.Task[None] | None = None

    def start(self, wanted: Mapping[tuple[str, str], int]) -> None:
        """Drop others than these in the background: see `drop_others`."""
        assert self._task is None, "started already"
        self._task = asyncio.create_task(self._drop_others(wanted))

    async def close(self) -> None:
        """Safe to repeat."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _drop_others(self, wanted: Mapping[tuple[str, str], int]) -> None:
        failing = False
        while True:
            try:
                await self.drop_others(wanted)
            except NestvecError as error:
                if not failing:
                    _log.warning("prefixes.not_dropped", reason=str(error))
                failing = True
                await asyncio.sleep(_AGAIN_S)
            else:
                return

    async def standing(self, collection: str, region: str) -> Collection | None:
        """The copy of a region's part of a collection, as the store has it."""
        await self._catalogue.refresh()
        return self._catalogue.copy(collection, region)

    async def doubt(self, collection: str, region: str) -> None:
        """Return once no process takes the copy for whole: what is made next is empty."""
        tally = await self._store.tally(collection, REGIONS)
        if tally.get(whole_at(region)):
            await self._store.set_tally(collection, REGIONS, {whole_at(region): 0})
            await asyncio.sleep(self._notice_s)

    async def make(self, wanted: Collection, assets: Mapping[str, bytes]) -> Collection:
        """Open on every shard. Raises AlreadyExists."""
        prefixes = wanted.prefixes
        assert prefixes is not None
        made = await self._store.create_collection(wanted, dict(assets))
        await asyncio.gather(*(shard.open(made) for shard in self._shards.of(made.name)))
        await self._catalogue.refresh()
        _log.info("prefixes.made", collection=made.name, dim=prefixes.dim)
        return made

    async def drop(self, copy: Collection) -> None:
        """Free it, in memory and in the store. Safe to repeat."""
        await self._store.drop_collection(copy)
        await asyncio.gather(
            *(shard.drop(copy.name, copy.generation) for shard in self._shards.of(copy.name))
        )
        await self._catalogue.refresh()

    async def drop_others(self, wanted: Mapping[tuple[str, str], int]) -> None:
        """Drop copies that the map does not ask for (any more). wanted: (collection, region) -> the
        tier. Another process may do the same.
        """
        await self._catalogue.refresh()
        for copy in self._catalogue.copies():
            prefixes = copy.prefixes
            assert prefixes is not None
            if wanted.get((prefixes.collection, prefixes.region)) != prefixes.dim:
                _log.info("prefixes.dropped", collection=copy.name)
                await self.drop(copy)


class PrefixKind:
    """Fills way.Kind. region: the home. dim: the tier."""

    alone = True

    def __init__(self, copying: PrefixCopying, region: str, dim: int) -> None:
        self._copying = copying
        self._region = region
        self.prefix_dim = dim
        # Rows of another draw have come.
        self._outdated = False

    async def sink(self, record: Collection, assets: Assets) -> Collection:
        """See way.Kind. Raises InvalidRequest where the home does not serve that tier, and
        WorkerUnavailable for assets that are none of it.
        """
        record.require_tier(self.prefix_dim, "prefix_dim")
        stands = await self._copying.standing(record.name, self._region)
        if (
            stands is not None
            and not self._outdated
            and is_copy_of(stands, record, self.prefix_dim)
        ):
            return stands
        drawn = await self._drawn(record)
        if drawn is None:
            drawn = await assets()
        wanted, own = designed_copy(record, drawn, self._region, self.prefix_dim)
        await self._copying.doubt(record.name, self._region)
        if stands is not None:
            _log.warning("prefixes.made_anew", collection=stands.name)
            await self._copying.drop(stands)
        made = await self._copying.make(wanted, own)
        self._outdated = False
        return made

    async def standing(self, collection: str) -> Collection:
        """See way.Kind."""
        stands = await self._copying.standing(collection, self._region)
        if stands is None:
            raise NotFound(
                "copy", copy_name(collection, self._region), "it is made when its home is reached"
            )
        return stands

    async def _drawn(self, record: Collection) -> Mapping[str, bytes] | None:
        """What the home's tier has probably drawn: megabytes that need not travel. None where that
        turned out to be something else, or would take long to find out.
        """
        few = record.store_dim - self.prefix_dim <= _LARGEST_DRAWN
        if self._outdated or not few or not 0 <= record.rotation_seed <= _LARGEST_SEED:
            return None
        dims = self.prefix_dim, record.store_dim
        return await asyncio.to_thread(drawn_assets, *dims, record.rotation_seed)

    async def gone(self, collection: str) -> None:
        """See way.Kind. What its home has dropped is not to be found here either."""
        stands = await self._copying.standing(collection, self._region)
        if stands is not None:
            _log.warning("prefixes.dropped", collection=stands.name)
            await self._copying.drop(stands)

    def transform(self, source: Collection, sink: Collection) -> Transform:  # noqa: ARG002
        """See way.Kind."""
        return KeepRows(sink, self._doubt)

    def _doubt(self) -> None:
        self._outdated = True


def prefixes_wanted(regions: RegionMap | None) -> dict[tuple[str, str], int]:
    """(collection, home) -> the tier, of all copies that the map asks for."""
    shared = {} if regions is None else regions.collections
    return {
        (name, home): one.prefix_dim for name, one in shared.items() for home in one.prefixes_of
    }
