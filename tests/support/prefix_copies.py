"""A home region's collection and another region's copy of its prefixes, without a wire between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from nestvec.adapters.memory_index import NumpyFactory
from nestvec.admin.app import StoredCatalogue
from nestvec.admin.tiers import drawn
from nestvec.coarse.app import CoarseApp
from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.ports import (
    FixedShards,
    LogBatch,
    StoredDocument,
    StoredVersion,
)
from nestvec.core.watermark import Watermark
from nestvec.regions.row_packing import RowPacker
from nestvec.replication.copier import Copier
from nestvec.replication.copy_ends import End, SinkEnd
from nestvec.replication.pace import Pace
from nestvec.replication.prefixes import PrefixCopying, PrefixKind
from tests.support.rooms import PATIENT_S, FaultyStore, a_collection, created

HOME = "us"
DIM = 16


class PackedSource:
    """A home's log, its documents as rows of one tier: as another region reads it over the wire."""

    def __init__(self, store: FaultyStore, dim: int = DIM) -> None:
        self._store = store
        self._dim = dim
        self.packer = RowPacker(store)

    async def positions(self, collection: Collection, partitions: range) -> dict[int, int]:
        return await self._store.positions(collection, partitions)

    async def read_log(
        self, collection: Collection, after: Mapping[int, int], limit: int
    ) -> list[LogBatch]:
        return await self._store.read_log(collection, after, limit)

    def entries(self, collection: Collection, partition: int) -> AsyncIterator[list[StoredVersion]]:
        return self._store.entries(collection, partition)

    def tombstones(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[list[tuple[str, int]]]:
        return self._store.tombstones(collection, partition)

    async def versions(
        self, collection: Collection, external_ids: Sequence[str]
    ) -> list[StoredVersion | None]:
        return await self._store.versions(collection, external_ids)

    async def live_documents(
        self,
        collection: Collection,
        ids: Ids,
        with_vectors: bool,
    ) -> list[StoredDocument | None]:
        header, documents = await self.packer.read(collection, ids, self._dim)
        return [
            one if one is None or one.vector is None else replace(one, vector=header + one.vector)
            for one in documents
        ]


class Positions:
    """Of a copier that ends with its test. Fills PositionKeeper."""

    def __init__(self) -> None:
        self.kept: dict[str, int] = {}

    async def load(self) -> dict[str, int]:
        return dict(self.kept)

    async def save(self, numbers: Mapping[str, int]) -> None:
        self.kept.update(numbers)


@dataclass
class TwoRegions:
    """home: a collection in a store of its own. The copy is in `store`, served by `shard`."""

    home_store: FaultyStore
    home: Collection
    store: FaultyStore = field(default_factory=FaultyStore)
    asked_assets: int = 0

    def __post_init__(self) -> None:
        self.source = PackedSource(self.home_store)
        self.catalogue = StoredCatalogue(self.store)
        self.shard = CoarseApp(self.store, NumpyFactory(), poll_s=0.01)
        self.shards = FixedShards([self.shard])
        self.copying = PrefixCopying(self.store, self.catalogue, self.shards, notice_s=0.0)
        self.kind = PrefixKind(self.copying, HOME, DIM)
        self.positions = Positions()

    async def assets(self) -> dict[str, bytes]:
        """What the home's tiers drew."""
        self.asked_assets += 1
        names = drawn(self.home, self.home.tiers)
        return {name: await self.home_store.asset(self.home, name) for name in names}

    async def copy(self) -> Collection:
        """As it stands, made where there is none."""
        return await self.kind.sink(self.home, self.assets)

    async def copied(self) -> Collection:
        """The copy with all that is at home now, searchable."""
        copy = await self.copy()
        copier = await self.copier()
        while await copier.look():
            pass
        await self.found(copy)
        return copy

    async def found(self, copy: Collection) -> None:
        """Return once all that is in the store is searchable."""
        there = await self.store.positions(copy, range(copy.partitions))
        await self.shard.reach(copy, Watermark(copy.generation, there), PATIENT_S)

    async def copier(self) -> Copier:
        copy = await self.copy()
        return Copier(
            End(self.home, self.source),
            SinkEnd(copy, self.store),
            self.kind.transform(self.home, copy),
            self.positions,
            Pace(),
            alone=self.kind.alone,
        )

    async def names(self, copy: Collection) -> set[str]:
        """Of all that the copy's shard can find."""
        found: list[Ids] = [ids async for ids in self.store.live_ids(copy, range(copy.partitions))]
        ids = np.concatenate([np.empty(0, np.int64), *found])
        return {name for name in await self.shard.names(copy, ids) if name is not None}

    async def close(self) -> None:
        await self.shard.close()
        self.source.packer.close()


async def two_regions(home: Collection | None = None) -> TwoRegions:
    """home: none that a store has seen."""
    store = FaultyStore()
    return TwoRegions(store, await created(store, home or a_collection(tiers=(DIM, 32))))
