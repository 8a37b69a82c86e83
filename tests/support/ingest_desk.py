"""The ingest application alone, over a store in memory and shards that only follow its log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from nestvec.adapters.memory_store import MemoryStore
from nestvec.adapters.models.memory import HashModel
from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.document import Document, payload_from_bytes
from nestvec.core.errors import BudgetSpent, NotFound
from nestvec.core.inspection import Inspection, InspectionRequest
from nestvec.core.migration import Listing
from nestvec.core.placement import partitions_of
from nestvec.core.ports import (
    CoarseAnswer,
    CoarseQuery,
    FixedShards,
    Placed,
    ShardVerification,
    SnapshotInfo,
    StoreRecord,
    TierStatus,
)
from nestvec.core.watermark import Watermark
from nestvec.encoder.app import EncoderApp
from nestvec.encoders import FixedEncoders
from nestvec.ingest.app import IngestApp
from nestvec.ingest.batch import Ack, Item, Outcome
from nestvec.ingest.options import IngestOptions
from tests.support.faults import Faults
from tests.support.rooms import FaultyStore, SpyEncoder
from tests.support.stores import live_ids

# Nothing is waited for longer than a test needs.
QUICK = IngestOptions(patience_s=0.05, purge_after_s=0.0, tidy_every_s=0.01)


class FlakyStore(FaultyStore):
    """A faulty store whose remaining calls fail too, and that keeps what it was asked to write."""

    def __init__(self, max_bytes: int | None = None) -> None:
        super().__init__(max_bytes)
        # Every record that was asked to be written.
        self.asked: list[StoreRecord] = []

    async def put(self, collection: Collection, records: Sequence[StoreRecord]) -> list[Placed]:
        self.asked.extend(records)
        return await super().put(collection, records)

    async def put_newer(
        self, collection: Collection, records: Sequence[StoreRecord]
    ) -> list[Placed]:
        self.asked.extend(records)
        return await super().put_newer(collection, records)

    async def expire_tombstones(self, collection: Collection, before_ms: int) -> int:
        await self.faults.begin("expire_tombstones")
        return await super().expire_tombstones(collection, before_ms)

    async def advance_stream(
        self, collection: Collection, stream_id: str, first: int, digests: bytes
    ) -> None:
        await self.faults.begin("advance_stream")
        await super().advance_stream(collection, stream_id, first, digests)
        await self.faults.end("advance_stream")

    async def lists(self, collection: Collection) -> bool:
        await self.faults.begin("lists")
        return await super().lists(collection)

    async def listing(self) -> Listing:
        await self.faults.begin("listing")
        return await super().listing()

    def kept_texts(self, collection: Collection) -> set[str]:
        """ "id: text" of every payload that is kept, live or not."""
        found = set()
        for partition in self._of(collection).partitions.values():
            for _, payload in partition.values.values():
                document = payload_from_bytes(payload or b"", "")
                found.add(f"{document.id}: {document.text}")
        return found

    def texts(self, collection: Collection) -> dict[str, str]:
        """Live ids and their texts."""
        live = {}
        for partition in self._of(collection).partitions.values():
            for name, (sequence, _) in partition.ids.items():
                live[name] = payload_from_bytes(partition.value(sequence)[1] or b"", "").text
        return live


class FollowingShard:
    """Fills ports.CoarseSearcher: knows ids alone, and reads the log when it is asked to reach.

    stalled: while set, it reads nothing. faults: of reach and progress.
    """

    def __init__(self, store: MemoryStore, number: int, count: int) -> None:
        self.faults = Faults()
        self.found: set[int] = set()
        self.positions: dict[int, int] = {}
        self.stalled = False
        self._store = store
        self._number = number
        self._count = count

    async def reach(self, collection: Collection, watermark: Watermark, timeout_s: float) -> None:
        await self.faults.begin("reach")
        mine = partitions_of(self._number, collection.partitions, self._count)
        assert all(p in mine for p in watermark.sequences), "asked about another shard's"
        try:
            async with asyncio.timeout(timeout_s):
                while not watermark.reached_by(self.positions):
                    if self.stalled or not await self._read(collection):
                        await asyncio.sleep(0.002)
        except TimeoutError:
            raise BudgetSpent(f"shard {self._number}") from None

    async def progress(self, collection: Collection) -> Watermark:
        await self.faults.begin("progress")
        if not self.stalled:
            await self._read(collection)
        return Watermark(collection.generation, dict(self.positions))

    async def _read(self, collection: Collection) -> bool:
        mine = partitions_of(self._number, collection.partitions, self._count)
        after = {p: self.positions.get(p, 0) for p in mine}
        batches = await self._store.read_log(collection, after, 1000)
        for batch in batches:
            self.found |= set(batch.added.tolist())
            self.found -= set(batch.removed.tolist())
            self.positions[batch.partition] = batch.last
        return bool(batches)

    async def search(self, query: CoarseQuery, timeout_s: float) -> CoarseAnswer:
        raise NotImplementedError

    async def open(self, collection: Collection) -> int:
        raise NotImplementedError

    async def snapshot(self, collection: Collection) -> SnapshotInfo:
        raise NotImplementedError

    async def verify(self, collection: Collection, repair: bool, sample: int) -> ShardVerification:
        raise NotImplementedError

    async def settle(self, collection: Collection) -> None:
        raise NotImplementedError

    async def names(self, collection: Collection, ids: Ids) -> list[str | None]:
        raise NotImplementedError

    async def inspect(self, collection: Collection, request: InspectionRequest) -> Inspection:
        raise NotImplementedError

    async def drop(self, name: str, generation: int) -> None:
        raise NotImplementedError

    async def status(self, collection: Collection) -> list[TierStatus]:
        raise NotImplementedError


class PlainCatalogue:
    """What the store lists, read every time."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def get(self, name: str) -> Collection:
        # Without the faults of the store.
        for collection in await MemoryStore.collections(self._store):
            if collection.name == name:
                return collection
        raise NotFound("collection", name)

    def forget(self, name: str) -> None:
        del name


class WallClock:
    """Milliseconds that a test sets."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms


@dataclass(slots=True)
class Desk:
    """Takes documents into one collection, `docs`."""

    store: FlakyStore
    shards: list[FollowingShard]
    encoder: SpyEncoder
    clock: WallClock
    ingest: IngestApp
    docs: Collection

    async def add(self, *documents: Document | Item, ack: Ack = Ack.SEARCHABLE) -> Outcome:
        """Write documents as one message of a stream would."""
        items = [one if isinstance(one, Item) else Item(one) for one in documents]
        prepared = await self.ingest.prepare(self.docs, items, has_space=True)
        return await self.ingest.commit(prepared, ack)

    @property
    def texts(self) -> dict[str, str]:
        """Of live documents."""
        return self.store.texts(self.docs)

    def found(self) -> set[int]:
        """What searches would find."""
        return set().union(*(shard.found for shard in self.shards))

    async def live(self) -> set[int]:
        """What the store's id map names."""
        return await live_ids(self.store, self.docs)


@asynccontextmanager
async def open_desk(
    store: FlakyStore | None = None,
    shards: int = 1,
    options: IngestOptions = QUICK,
    clock: WallClock | None = None,
    tidying: bool = True,
) -> AsyncIterator[Desk]:
    """A desk over `store`, whose collection is made where it is not there. tidying: by itself."""
    store = store or FlakyStore()
    clock = clock or WallClock()
    encoder = EncoderApp(HashModel(64))
    spying = SpyEncoder(encoder)
    if not await store.collections():
        await store.create_collection(
            Collection("docs", encoder.space, 64, (16,), partitions=8), {}
        )
    (docs,) = await store.collections()
    followers = [FollowingShard(store, number, shards) for number in range(shards)]
    app = IngestApp(
        PlainCatalogue(store),
        FixedEncoders(spying),
        FixedShards(followers),
        store,
        32_768,
        options,
        clock,
    )
    if tidying:
        app.start()
    try:
        yield Desk(store, followers, spying, clock, app, docs)
    finally:
        await app.close()
        await encoder.close()
