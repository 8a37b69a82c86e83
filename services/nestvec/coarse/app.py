"""The coarse application: one shard's searchable prefixes of every collection it serves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from nestvec.coarse.tier import Tier
from nestvec.concurrency import BoundedExecutor
from nestvec.core.arrays import Bools, Floats, Ids
from nestvec.core.codec import floats_from_bytes
from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest, NotFound
from nestvec.core.placement import partitions_of
from nestvec.core.ports import (
    CoarseAnswer,
    CoarseIndexFactory,
    CoarseQuery,
    CoarseRows,
    TierStatus,
    VectorStore,
)
from nestvec.core.sketch import TailSketch, dither_name, rotation_name
from nestvec.telemetry.logs import logger

# A pause this long in writing is used to merge everything into one segment.
_IDLE_S = 0.5
_AFTER_FAILURE_S = 5.0
# How far from 1 the length of a stored vector may be: int8 codes of it come nearest to this.
_ROUNDING = 0.1
# Rows times dimensions: about 0.3 ms of a 4-bit scan on one core.
_INLINE_SCAN = 200_000 * 128
_INLINE_SCAN_ALONE = 250_000 * 256
_log = logger()


@dataclass(slots=True)
class _Served:
    """One collection on this shard."""

    collection: Collection
    tiers: dict[int, Tier]
    corrupt: int = 0
    changed_at: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    upkeep: asyncio.Task[None] | None = None


class CoarseApp:
    """Searches, and keeps the segments of each tier in shape. Fills ports.CoarseSearcher."""

    def __init__(
        self,
        store: VectorStore,
        factory: CoarseIndexFactory,
        shard: int = 0,
        shards: int = 1,
        threads: int = 2,
        waiting: int = 256,
        load_batch: int = 2048,
    ) -> None:
        self._store = store
        self._factory = factory
        self._shard, self._shards = shard, shards
        self._load_batch = load_batch
        self._served: dict[str, _Served] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._search_threads = BoundedExecutor("coarse-search", threads, waiting)
        # Apart from searching, so that a long merge never holds a search's thread; and apart from
        # each other, so that it never holds a write's.
        self._write_threads = BoundedExecutor("coarse-write", 2, waiting)
        self._upkeep_threads = BoundedExecutor("coarse-upkeep", 1, waiting)

    # --- searching ------------------------------------------------------------------------------

    async def search(self, query: CoarseQuery, timeout_s: float) -> CoarseAnswer:
        """See ports.CoarseSearcher."""
        served = self._get(query.collection, query.generation)
        served.collection.space.require_same(query.fingerprint, "the query")
        tier = served.tiers.get(query.coarse_dim)
        if tier is None:
            served.collection.require_tier(query.coarse_dim, "coarse_dim")
            raise InvalidRequest("coarse_dim", f"tier {query.coarse_dim} is not loaded here")
        _check(query, served.collection)
        search = partial(tier.search, query.queries, query.count, query.bound_z)
        if _runs_inline(query, tier) and self._search_threads.idle:
            hits, documents = search()
        else:
            hits, documents = await self._search_threads.run("coarse", timeout_s, search)
        return CoarseAnswer(hits, documents)

    def _get(self, name: str, generation: int) -> _Served:
        served = self._served.get(name)
        if served is None:
            raise NotFound("collection", name, f"shard {self._shard} does not serve it")
        if served.collection.generation != generation:
            raise NotFound(
                "collection",
                name,
                f"shard {self._shard} serves its generation {served.collection.generation}, "
                f"not {generation}",
            )
        return served

    # --- opening, changing, dropping ------------------------------------------------------------

    async def open(self, collection: Collection) -> int:
        """See ports.CoarseSearcher. Reads every stored vector of this shard's partitions."""
        lock = self._opening.setdefault(collection.name, asyncio.Lock())
        async with lock:
            served = self._served.get(collection.name)
            if served is not None and served.collection == collection:
                return _documents(served)
            if served is not None:
                await self.drop(collection.name, served.collection.generation)
            tiers = {dim: await self._tier(collection, dim) for dim in collection.tiers}
            served = _Served(collection, tiers)
            await self._load(served)
            if served.corrupt:
                _log.warning(
                    "coarse.vectors_left_out", collection=collection.name, vectors=served.corrupt
                )
            self._served[collection.name] = served
            self._touch(served)
            served.upkeep = asyncio.create_task(self._keep_up(served))
            return _documents(served)

    async def _tier(self, collection: Collection, dim: int) -> Tier:
        tail = collection.store_dim - dim
        rotation = np.empty((0, 0), np.float32)
        if tail:
            raw = await self._store.asset(collection, rotation_name(dim))
            rotation = floats_from_bytes(raw, tail, rotation_name(dim))
        raw = await self._store.asset(collection, dither_name(dim))
        dither = floats_from_bytes(raw, dim, dither_name(dim))[0]
        return Tier(dim, TailSketch(dim, collection.store_dim, rotation, dither), self._factory)

    async def _load(self, served: _Served) -> None:
        collection = served.collection
        mine = partitions_of(self._shard, collection.partitions, self._shards)
        pending: list[Ids] = []
        async for ids in self._store.live_ids(collection, mine):
            pending.append(ids)
            if sum(map(len, pending)) >= self._load_batch:
                await self._load_ids(served, np.unique(np.concatenate(pending)))
                pending = []
        if pending:
            await self._load_ids(served, np.unique(np.concatenate(pending)))

    async def _load_ids(self, served: _Served, ids: Ids) -> None:
        codec = served.collection.codec
        values = await self._store.vectors(served.collection, ids)
        positions, vectors = codec.decode_sound(values)
        found = ids[positions]
        # Of the right size and still not a unit vector: one such must not keep others from use.
        searchable = _searchable(vectors, served.collection.tiers[0])
        found, vectors = found[searchable], vectors[searchable]
        served.corrupt += len(ids) - len(found)
        if len(found):
            # A scan may name an id twice, and a batch before this one may hold it.
            await self._apply_to_tiers(served, CoarseRows(found, vectors, found))

    async def apply(self, collection: Collection, rows: CoarseRows) -> int:
        """See ports.CoarseSearcher."""
        served = self._get(collection.name, collection.generation)
        served.collection.space.require_same(collection.space.fingerprint, "the rows")
        await self._apply_to_tiers(served, rows)
        self._touch(served)
        return _documents(served)

    async def _apply_to_tiers(self, served: _Served, rows: CoarseRows) -> None:
        # One job for all tiers: a caller that goes away must not leave some of them without it.
        # The shortest tier comes first, and what it can index the longer ones can too.
        tiers = list(served.tiers.values())
        await self._write_threads.run("index", None, lambda: [tier.apply(rows) for tier in tiers])

    async def drop(self, name: str, generation: int) -> None:
        """See ports.CoarseSearcher."""
        served = self._served.get(name)
        if served is None or served.collection.generation != generation:
            return
        del self._served[name]
        # Whoever waits for it to settle is told that it is gone.
        served.settled.set()
        if served.upkeep is not None:
            served.upkeep.cancel()
            await asyncio.gather(served.upkeep, return_exceptions=True)

    async def status(self, collection: Collection) -> list[TierStatus]:
        """See ports.CoarseSearcher."""
        served = self._get(collection.name, collection.generation)
        return [tier.status() for tier in served.tiers.values()]

    # --- upkeep ---------------------------------------------------------------------------------

    def _touch(self, served: _Served) -> None:
        served.changed_at = asyncio.get_running_loop().time()
        served.settled.clear()
        served.changed.set()

    async def settle(self, collection: Collection) -> None:
        """See ports.CoarseSearcher."""
        await self._get(collection.name, collection.generation).settled.wait()
        self._get(collection.name, collection.generation)

    async def _keep_up(self, served: _Served) -> None:
        """Seal and merge while there is something to; sleep until the next change otherwise."""
        loop = asyncio.get_running_loop()
        while True:
            idle = loop.time() - served.changed_at >= _IDLE_S
            try:
                worked = await self._compact(served, idle)
            except Exception as error:  # noqa: BLE001  searches go on without it, only slower
                _log.error("coarse.upkeep_failed", exc_info=error)
                await asyncio.sleep(_AFTER_FAILURE_S)
                continue
            if worked:
                continue
            if idle and loop.time() - served.changed_at >= _IDLE_S:
                served.changed.clear()
                served.settled.set()
                await served.changed.wait()
            await asyncio.sleep(_IDLE_S / 2)

    async def _compact(self, served: _Served, idle: bool) -> bool:
        worked = False
        for tier in served.tiers.values():
            done = await self._upkeep_threads.run("compact", None, partial(tier.compact, idle))
            worked = worked or done
        return worked

    async def close(self) -> None:
        """Stop upkeep and threads."""
        for served in list(self._served.values()):
            await self.drop(served.collection.name, served.collection.generation)
        # Off the event loop: a merge that runs is waited for.
        for threads in (self._search_threads, self._write_threads, self._upkeep_threads):
            await asyncio.to_thread(threads.close)


def _runs_inline(query: CoarseQuery, tier: Tier) -> bool:
    """Whether handing the search to a thread and back costs more than it saves.

    A plain scan so short takes as long as the hand-over. A bounded one takes longer, and is worth a
    core of its own as soon as anybody else waits for the event loop.
    """
    if len(query.queries) > 1:
        return False
    if query.bound_z is None:
        return tier.scan_size <= _INLINE_SCAN
    return query.alone and tier.scan_size <= _INLINE_SCAN_ALONE


def _check(query: CoarseQuery, collection: Collection) -> None:
    if query.queries.shape[1] != collection.store_dim:
        raise InvalidRequest(
            "queries", f"{query.queries.shape[1]} dimensions, expected {collection.store_dim}"
        )
    if query.count < 1:
        raise InvalidRequest("count", f"{query.count}, expected 1 or more")


def _searchable(vectors: Floats, shortest: int) -> Bools:
    """Which rows can have been written: unit but for rounding, with a direction in every tier."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(vectors, axis=1)
        heads = np.linalg.norm(vectors[:, :shortest], axis=1)
        searchable: Bools = (np.abs(lengths - 1.0) < _ROUNDING) & (heads > 0.0)
    return searchable


def _documents(served: _Served) -> int:
    return next(iter(served.tiers.values())).status().documents
