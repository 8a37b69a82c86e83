"""Getting a shard's tiers: from a snapshot, from the store, or from the ids of another tier."""

from __future__ import annotations

from functools import partial

import numpy as np

from nestvec.coarse.field_columns import FieldTable
from nestvec.coarse.names import NameTable
from nestvec.coarse.served import Served, indexed_ids, to_its_end
from nestvec.coarse.snapshot import LoadedShard, ShardSnapshots
from nestvec.coarse.stored_rows import RowSource
from nestvec.coarse.tier import Tier
from nestvec.concurrency import BoundedExecutor
from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.ports import CoarseIndexFactory, VectorStore
from nestvec.core.sketch import TailSketch, asset_names
from nestvec.telemetry.logs import logger

_log = logger()


class Opener:
    """Makes what is served. batch: how many documents are read from the store at once. keep_ids:
    whether external ids are kept beside the tiers.
    """

    def __init__(
        self,
        store: VectorStore,
        factory: CoarseIndexFactory,
        rows: RowSource,
        snapshots: ShardSnapshots | None,
        snapshot_threads: BoundedExecutor,
        batch: int,
        keep_ids: bool = True,
    ) -> None:
        self._store = store
        self._factory = factory
        self._rows = rows
        self._snapshots = snapshots
        self._snapshot_threads = snapshot_threads
        self._batch = batch
        self._keep_ids = keep_ids

    async def open(self, collection: Collection, mine: range) -> Served:
        """Tiers as full as a snapshot or a scan of the store makes them, and the positions from
        which the log must be followed before they are searched.
        """
        loaded = await self._load_snapshot(collection)
        if loaded is not None and loaded.tiers:
            return await self._from_snapshot(collection, mine, loaded)
        names = NameTable() if self._keep_ids else None
        served = Served(collection, mine, {}, FieldTable(collection.fields), names)
        for dim in collection.tiers:
            served.tiers[dim] = await self._tier(collection, dim, served.table)
        # Before the scan: what changes while it goes on is in the log after these.
        positions = await self._store.positions(collection, mine)
        await self._read_store(served)
        served.progress.advance(positions)
        return served

    async def _tier(self, collection: Collection, dim: int, table: FieldTable) -> Tier:
        names = asset_names((dim,), collection.store_dim)
        assets = {name: await self._store.asset(collection, name) for name in names}
        sketch = TailSketch.of(dim, collection.store_dim, assets)
        return Tier(dim, sketch, self._factory.coded(collection.coarse_code), table)

    # --- from the store -------------------------------------------------------------------------

    async def _read_store(self, served: Served) -> None:
        pending: list[Ids] = []
        left_out = 0
        async for ids in self._store.live_ids(served.collection, served.mine):
            pending.append(ids)
            if sum(map(len, pending)) >= self._batch:
                left_out += await self._fill(served, None, pending)
                pending = []
        if pending:
            left_out += await self._fill(served, None, pending)
        if left_out:
            _log.warning(
                "coarse.vectors_left_out", collection=served.collection.name, vectors=left_out
            )

    async def _fill(self, served: Served, only: Tier | None, parts: list[Ids]) -> int:
        """How many vectors could not be indexed. only: one tier that others are ahead of."""
        # A scan may name an id twice.
        ids = np.unique(np.concatenate(parts))
        count = 0
        for start in range(0, len(ids), self._batch):
            some = await self._rows.read(served.collection, ids[start : start + self._batch])
            if only is None:
                left_out = await to_its_end(self._rows.index(served, some))
            else:
                left_out = await to_its_end(self._rows.index_in(served.collection, [only], some))
            count += left_out.gone + left_out.damaged
        return count

    # --- from a snapshot ------------------------------------------------------------------------

    async def _load_snapshot(self, collection: Collection) -> LoadedShard | None:
        if self._snapshots is None:
            return None
        load = partial(self._snapshots.load, collection)
        return await self._snapshot_threads.run("snapshot", None, load)

    async def _from_snapshot(
        self, collection: Collection, mine: range, loaded: LoadedShard
    ) -> Served:
        table = FieldTable(collection.fields, loaded.keywords)
        names = NameTable(loaded.names or ()) if self._keep_ids else None
        served = Served(collection, mine, {}, table, names)
        for dim in collection.tiers:
            if dim in loaded.tiers:
                served.tiers[dim] = await self._tier(collection, dim, table)
                served.tiers[dim].adopt(loaded.tiers[dim])
        served.progress.advance(loaded.positions)
        served.saved = dict(loaded.positions)
        for dim in collection.tiers:
            if dim not in loaded.tiers:
                await self.add_tier(served, dim)
        if names is not None and loaded.names is None:
            await self._read_names(served, names)
        _log.info(
            "snapshot.loaded",
            collection=collection.name,
            snapshot=loaded.location,
            documents=loaded.documents,
        )
        return served

    async def _read_names(self, served: Served, names: NameTable) -> None:
        """Of a snapshot that kept none. What was deleted since has none, and needs none."""
        ids = indexed_ids(next(iter(served.tiers.values())).state)
        for start in range(0, len(ids), self._batch):
            some = ids[start : start + self._batch]
            found = await self._rows.names(served.collection, some)
            names.apply(some, found or (), some[:0])
        # So that the next snapshot has them, whether anything is written until then or not.
        served.saved = {}

    # --- changing tiers while serving -----------------------------------------------------------

    async def change_tiers(self, served: Served, collection: Collection) -> None:
        """Build what `collection` adds, then drop what it no longer has."""
        for dim in collection.tiers:
            if dim not in served.tiers:
                await self.add_tier(served, dim, collection)
        served.tiers = {dim: served.tiers[dim] for dim in collection.tiers}
        served.collection = collection
        served.saved = {}
        served.touch()

    async def add_tier(
        self, served: Served, dim: int, collection: Collection | None = None
    ) -> None:
        """From the ids of a tier that is served, while both follow the log."""
        collection = collection or served.collection
        tier = await self._tier(collection, dim, served.table)
        served.building[dim] = tier
        try:
            reference = next(iter(served.tiers.values()))
            ids = indexed_ids(reference.state)
            for start in range(0, len(ids), self._batch):
                await self._fill(served, tier, [ids[start : start + self._batch]])
                served.touch()
            async with served.writing:
                # What was deleted between the reading and the indexing of its vector is here still.
                wanted, there = indexed_ids(reference.state), indexed_ids(tier.state)
                nothing = await self._rows.read(collection, there[:0])
                surplus = np.setdiff1d(there, wanted, assume_unique=True)
                await to_its_end(self._rows.index_in(collection, [tier], nothing, surplus))
                await self._fill(served, tier, [np.setdiff1d(wanted, there, assume_unique=True)])
                tiers = {**served.tiers, dim: tier}
                served.tiers = {one: tiers[one] for one in sorted(tiers)}
        finally:
            served.building.pop(dim, None)
