"""The coarse application: one shard's searchable prefixes of every collection it serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from nestvec.coarse import figures
from nestvec.coarse.follower import Follower
from nestvec.coarse.inspect import inspect_tier
from nestvec.coarse.opening import Opener
from nestvec.coarse.saving import Saver
from nestvec.coarse.served import Served
from nestvec.coarse.shared import SharedSearches, search_now
from nestvec.coarse.snapshot import ShardSnapshots
from nestvec.coarse.stored_rows import RowSource, decoded
from nestvec.coarse.tier import Tier
from nestvec.coarse.upkeep import keep_up
from nestvec.coarse.verify import Verifier
from nestvec.concurrency import BoundedExecutor
from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest, NestvecError, NotFound, WorkerUnavailable
from nestvec.core.inspection import Inspection, InspectionRequest
from nestvec.core.placement import partitions_of
from nestvec.core.ports import (
    CoarseAnswer,
    CoarseIndexFactory,
    CoarseQuery,
    ShardVerification,
    SnapshotInfo,
    TierStatus,
    VectorStore,
)
from nestvec.core.watermark import Watermark

_Key = tuple[str, int]
# Rows times dimensions: about 0.3 ms of a 4-bit scan on one core.
_INLINE_SCAN = 200_000 * 128
_INLINE_SCAN_ALONE = 250_000 * 256
# Of which every row is bounded: some 2 ms.
_INLINE_BOUNDED = 10_000 * 256


class CoarseApp:
    """Searches, follows the ingest log, and keeps the segments of each tier in shape. Fills
    ports.CoarseSearcher.

    load_batch: about how many documents are read from the store at once. poll_s: how often the
    log is looked at when nobody waits. snapshots: where they are kept; snapshot_every_s: how often
    one is made while something changes, 0 for only when asked and at the end. keep_ids: know the
    external ids of what is indexed, for when the store cannot be asked. saves: whether it is for
    this one of several replicas to save by itself.
    """

    def __init__(
        self,
        store: VectorStore,
        factory: CoarseIndexFactory,
        shard: int = 0,
        shards: int = 1,
        threads: int = 2,
        waiting: int = 256,
        load_batch: int = 2048,
        poll_s: float = 0.1,
        snapshots: ShardSnapshots | None = None,
        snapshot_every_s: float = 0.0,
        keep_ids: bool = True,
        saves: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._shard, self._shards = shard, shards
        self._load_batch = load_batch
        self._poll_s = poll_s
        # By name and generation: while a collection moves to another model there are two.
        self._served: dict[_Key, Served] = {}
        self._followers: dict[_Key, Follower] = {}
        self._opening: dict[_Key, asyncio.Lock] = {}
        # What is being opened, and whether it was dropped meanwhile.
        self._dropped: dict[_Key, bool] = {}
        self._search_threads = BoundedExecutor("coarse-search", threads, waiting)
        self._searches = SharedSearches(self._search_threads)
        # Apart from searching, so that a long merge never holds a search's thread; and apart from
        # each other, so that it never holds a write's.
        self._write_threads = BoundedExecutor("coarse-write", 2, waiting)
        self._upkeep_threads = BoundedExecutor("coarse-upkeep", 1, waiting)
        self._snapshot_threads = BoundedExecutor("coarse-snapshot", 1, waiting)
        self._rows = RowSource(store, self._write_threads, keep_ids)
        self._opener = Opener(
            store, factory, self._rows, snapshots, self._snapshot_threads, load_batch, keep_ids
        )
        self._saver = Saver(snapshots, self._snapshot_threads, snapshot_every_s, saves)
        figures.watch(self)

    # --- searching ------------------------------------------------------------------------------

    async def search(self, query: CoarseQuery, timeout_s: float) -> CoarseAnswer:
        """See ports.CoarseSearcher."""
        served = self._get(query.collection, query.generation)
        served.collection.space.require_same(query.fingerprint, "the query")
        if query.watermark is not None:
            began = time.monotonic()
            await self._reach(served, query.watermark, timeout_s)
            timeout_s = max(timeout_s - (time.monotonic() - began), 0.0)
        tier = served.tiers.get(query.coarse_dim)
        if tier is None:
            raise self._no_tier(served.collection, query.coarse_dim)
        _check(query, served.collection)
        if _runs_inline(query, tier) and self._search_threads.idle:
            return search_now(tier, query)
        return await self._searches.run(tier, query, timeout_s)

    def _get(self, name: str, generation: int) -> Served:
        served = self._served.get((name, generation))
        if served is not None:
            return served
        others = sorted(number for known, number in self._served if known == name)
        if not others:
            raise NotFound("collection", name, f"shard {self._shard} does not serve it")
        raise NotFound(
            "collection",
            name,
            f"shard {self._shard} serves its generation {' and '.join(map(str, others))}, "
            f"not {generation}",
        )

    def _no_tier(self, collection: Collection, dim: int) -> NotFound:
        """Raises where it can never be served. Otherwise what the caller knows of the collection,
        or what this shard does, is old.
        """
        collection.require_searchable(dim, "coarse_dim")
        served = ", ".join(map(str, collection.tiers))
        return NotFound(
            "tier",
            str(dim),
            f"shard {self._shard} serves tiers {served} of collection {collection.name!r}",
        )

    # --- following the log ----------------------------------------------------------------------

    async def reach(self, collection: Collection, watermark: Watermark, timeout_s: float) -> None:
        """See ports.CoarseSearcher. Raises NotFound where the collection is dropped meanwhile."""
        served = self._get(collection.name, collection.generation)
        await self._reach(served, watermark, timeout_s)

    async def _reach(self, served: Served, watermark: Watermark, timeout_s: float) -> None:
        collection = served.collection
        if watermark.generation > collection.generation:
            raise NotFound(
                "collection",
                collection.name,
                f"shard {self._shard} serves its generation {collection.generation}, the watermark "
                f"is of {watermark.generation}",
            )
        # Of a generation that is gone nothing can be waited for.
        if watermark.generation == collection.generation:
            await served.progress.reach(watermark.within(served.mine), timeout_s)

    async def progress(self, collection: Collection) -> Watermark:
        """See ports.CoarseSearcher."""
        served = self._get(collection.name, collection.generation)
        return Watermark(collection.generation, dict(served.progress.positions))

    # --- opening, changing, dropping ------------------------------------------------------------

    async def open(self, collection: Collection) -> int:
        """See ports.CoarseSearcher."""
        key = collection.name, collection.generation
        lock = self._opening.setdefault(key, asyncio.Lock())
        async with lock:
            await self._release_dropped(collection)
            served = self._served.get(key)
            if served is not None and served.collection == collection:
                return served.documents
            if served is not None and replace(collection, tiers=served.collection.tiers) == (
                served.collection
            ):
                await self._opener.change_tiers(served, collection)
                return served.documents
            if served is not None:
                await self._release(served, _replaced(collection))
            return await self._open_new(collection)

    async def _release_dropped(self, collection: Collection) -> None:
        """Other generations of its name that the catalogue no longer has: nobody said so here."""
        for name, generation in list(self._served):
            if name != collection.name or generation == collection.generation:
                continue
            served = self._served[name, generation]
            if not await self._store.lists(served.collection) and served in self.held():
                await self._release(served, _replaced(collection))

    async def _open_new(self, collection: Collection) -> int:
        """The lock is held."""
        key = collection.name, collection.generation
        self._dropped[key] = False
        try:
            mine = partitions_of(self._shard, collection.partitions, self._shards)
            served = await self._opener.open(collection, mine)
            follower = Follower(served, self._store, self._rows, self._load_batch, self._poll_s)
            # Before the first search: a snapshot may have documents that are deleted now.
            await follower.catch_up()
            if self._dropped[key]:
                raise NotFound("collection", collection.name, "it was dropped while it was opened")
            self._serve(served, follower)
            return served.documents
        finally:
            del self._dropped[key]

    def _serve(self, served: Served, follower: Follower) -> None:
        key = served.collection.name, served.collection.generation
        self._served[key], self._followers[key] = served, follower
        served.touch()
        served.tasks = [
            asyncio.create_task(follower.run()),
            asyncio.create_task(keep_up(served, self._upkeep_threads)),
            asyncio.create_task(self._saver.keep_saving(served)),
        ]

    async def _release(self, served: Served, reason: NestvecError) -> None:
        """Stop serving it. reason: for whoever waits for something of it."""
        key = served.collection.name, served.collection.generation
        del self._served[key], self._followers[key]
        served.progress.end(reason)
        # Whoever waits for it to settle is told that it is gone.
        served.settled.set()
        for task in served.tasks:
            task.cancel()
        await asyncio.gather(*served.tasks, return_exceptions=True)

    async def drop(self, name: str, generation: int) -> None:
        """See ports.CoarseSearcher. Its snapshots are deleted."""
        if (name, generation) in self._dropped:
            self._dropped[name, generation] = True
        served = self._served.get((name, generation))
        if served is not None:
            await self._release(served, NotFound("collection", name, "it was dropped"))
        await self._saver.forget(name, generation)

    async def release(self, name: str, generation: int) -> None:
        """Serve it no longer; its snapshots stay. Safe to repeat."""
        served = self._served.get((name, generation))
        if served is not None:
            gone = NotFound("collection", name, f"shard {self._shard} no longer serves it")
            await self._release(served, gone)

    def held(self) -> list[Served]:
        """Every generation of every collection as it is served now."""
        return list(self._served.values())

    # --- looking after it -----------------------------------------------------------------------

    async def status(self, collection: Collection) -> list[TierStatus]:
        """See ports.CoarseSearcher."""
        served = self._get(collection.name, collection.generation)
        name_nbytes = 0 if served.names is None else served.names.nbytes
        return [replace(tier.status(), name_nbytes=name_nbytes) for tier in served.tiers.values()]

    async def names(self, collection: Collection, ids: Ids) -> list[str | None]:
        """See ports.CoarseSearcher. Some microseconds a name, so no thread is worth its hop."""
        served = self._get(collection.name, collection.generation)
        return [None] * len(ids) if served.names is None else served.names.lookup(ids)

    async def settle(self, collection: Collection) -> None:
        """See ports.CoarseSearcher. All that the store holds at this moment is indexed then."""
        served = self._get(collection.name, collection.generation)
        await served.progress.catch_up()
        await served.settled.wait()
        self._get(collection.name, collection.generation)

    async def snapshot(self, collection: Collection) -> SnapshotInfo:
        """See ports.CoarseSearcher."""
        return await self._saver.save(self._get(collection.name, collection.generation))

    async def verify(self, collection: Collection, repair: bool, sample: int) -> ShardVerification:
        """See ports.CoarseSearcher."""
        served = self._get(collection.name, collection.generation)
        follower = self._followers[collection.name, collection.generation]
        verifier = Verifier(served, self._store, self._rows, follower, self._write_threads)
        return await verifier.run(repair, sample)

    async def inspect(self, collection: Collection, request: InspectionRequest) -> Inspection:
        """See ports.CoarseSearcher. Apart from searching: nobody waits for it."""
        served = self._get(collection.name, collection.generation)
        tier = served.tiers.get(request.coarse_dim)
        if tier is None:
            raise self._no_tier(served.collection, request.coarse_dim)
        stored = await self._rows.read(served.collection, np.unique(request.ids))
        rows, _ = decoded(served.collection, stored, tier.dim)
        work = partial(inspect_tier, tier, request, rows, served.table)
        return await self._write_threads.run("inspect", None, work)

    async def close(self) -> None:
        """Save what changed, then stop following, upkeep and threads."""
        for served in list(self._served.values()):
            closed = WorkerUnavailable(f"shard {self._shard} of the coarse tier is closed")
            await self._release(served, closed)
            await self._saver.save_if_changed(served)
        # Off the event loop: a merge that runs is waited for.
        for threads in (
            self._search_threads,
            self._write_threads,
            self._upkeep_threads,
            self._snapshot_threads,
        ):
            await asyncio.to_thread(threads.close)


def _replaced(collection: Collection) -> NotFound:
    return NotFound(
        "collection", collection.name, f"generation {collection.generation} took its place"
    )


def _runs_inline(query: CoarseQuery, tier: Tier) -> bool:
    """Whether handing the search to a thread and back costs more than it saves.

    A plain scan so short takes as long as the hand-over. A bounded one takes longer, and is worth a
    core of its own as soon as anybody else waits for the event loop.
    """
    if len(query.queries) > 1 or query.filter is not None:
        return False
    if query.bound_z is None:
        return tier.scan_size <= _INLINE_SCAN
    most = _INLINE_BOUNDED if query.certified_k else _INLINE_SCAN_ALONE
    return query.alone and tier.scan_size <= most


def _check(query: CoarseQuery, collection: Collection) -> None:
    if query.queries.shape[1] != collection.store_dim:
        raise InvalidRequest(
            "queries", f"{query.queries.shape[1]} dimensions, expected {collection.store_dim}"
        )
    if query.count < 1:
        raise InvalidRequest("count", f"{query.count}, expected 1 or more")
    if query.certified_k < 0:
        raise InvalidRequest("certified_k", f"{query.certified_k}, expected 0 or more")
