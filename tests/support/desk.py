"""The admin application over a real store, beside shards that only note what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from nestvec.adapters.embedded_valkey import EmbeddedValkey
from nestvec.adapters.memory_store import MemoryStore
from nestvec.admin.app import AdminApp, CollectionWish, StoredCatalogue
from nestvec.core.arrays import Floats, Ids
from nestvec.core.collection import Collection
from nestvec.core.document import Document, payload_to_bytes
from nestvec.core.inspection import Inspection, InspectionRequest
from nestvec.core.ports import (
    BlobStore,
    CoarseAnswer,
    CoarseQuery,
    FixedShards,
    ShardVerification,
    SnapshotInfo,
    StoredDocument,
    StoreRecord,
    TierStatus,
    VectorStore,
)
from nestvec.core.space import Role
from nestvec.core.watermark import Watermark
from nestvec.encoders import FixedEncoders
from tests.nestvec.core.synthetic import mrl_like
from tests.support.rooms import SPACE
from tests.support.stores import own_store, some_deletions


@dataclass(slots=True)
class NotingShard:
    """Fills ports.CoarseSearcher. opened: what it was told to serve, in order. failing: raised by
    the next call of that name. report: what `verify` finds.
    """

    number: int = 0
    opened: list[Collection] = field(default_factory=list)
    dropped: list[tuple[str, int]] = field(default_factory=list)
    asked: list[tuple[bool, int]] = field(default_factory=list)
    failing: dict[str, Exception] = field(default_factory=dict)
    hold: asyncio.Event | None = None
    tiers: list[TierStatus] | None = None
    asked_to_open: asyncio.Event = field(default_factory=asyncio.Event)
    report: ShardVerification = field(
        default_factory=lambda: ShardVerification([], 0, np.empty(0, np.int64))
    )

    def _fail(self, call: str) -> None:
        if call in self.failing:
            raise self.failing.pop(call)

    async def open(self, collection: Collection) -> int:
        self.asked_to_open.set()
        if self.hold is not None:
            await self.hold.wait()
        self._fail("open")
        self.opened.append(collection)
        return 0

    async def drop(self, name: str, generation: int) -> None:
        self.dropped.append((name, generation))

    async def verify(self, collection: Collection, repair: bool, sample: int) -> ShardVerification:
        self._fail("verify")
        self.asked.append((repair, sample))
        return self.report

    async def snapshot(self, collection: Collection) -> SnapshotInfo:
        self._fail("snapshot")
        return SnapshotInfo(f"place/{collection.name}/{self.number}", 10 + self.number, 1000)

    async def search(self, query: CoarseQuery, timeout_s: float) -> CoarseAnswer:
        raise NotImplementedError

    async def reach(self, collection: Collection, watermark: Watermark, timeout_s: float) -> None:
        raise NotImplementedError

    async def progress(self, collection: Collection) -> Watermark:
        raise NotImplementedError

    async def settle(self, collection: Collection) -> None:
        raise NotImplementedError

    async def names(self, collection: Collection, ids: Ids) -> list[str | None]:
        raise NotImplementedError

    async def inspect(self, collection: Collection, request: InspectionRequest) -> Inspection:
        raise NotImplementedError

    async def status(self, collection: Collection) -> list[TierStatus]:
        if self.tiers is not None:
            return self.tiers
        return [TierStatus(dim, 0, 0, (), 0) for dim in collection.tiers]


class Silent:
    """An encoder that nobody asks for vectors: administration is in want of its space only."""

    space = SPACE

    async def encode(self, texts: Sequence[str], role: Role, timeout_s: float) -> Floats:
        raise NotImplementedError


@dataclass(slots=True)
class Desk:
    """An admin application, and what stands around it."""

    store: VectorStore
    catalogue: StoredCatalogue
    shards: list[NotingShard]
    admin: AdminApp

    @classmethod
    def over(
        cls,
        store: VectorStore,
        open_blobs: Callable[[str], BlobStore] | None = None,
        shards: int = 2,
    ) -> Desk:
        """As a server that starts now has it."""
        catalogue = StoredCatalogue(store)
        noting = [NotingShard(number) for number in range(shards)]
        admin = AdminApp(
            catalogue,
            FixedEncoders(Silent()),
            FixedShards(noting),
            store,
            (16, 32),
            open_blobs=open_blobs,
        )
        return cls(store, catalogue, noting, admin)

    async def create(self, name: str = "docs", tiers: tuple[int, ...] = (16,)) -> Collection:
        """A new collection."""
        collection, _ = await self.admin.create(CollectionWish(name, tiers), False)
        return collection


@asynccontextmanager
async def a_store(kind: str, server: EmbeddedValkey) -> AsyncIterator[VectorStore]:
    """An empty one: "memory", or "valkey" on `server`."""
    store: VectorStore = MemoryStore() if kind == "memory" else own_store(server)
    yield store
    await store.close()


async def fill(
    store: VectorStore,
    collection: Collection,
    names: Sequence[str],
    version: int = 1,
    text: str = "text",
) -> None:
    """Documents with vectors of their own."""
    vectors = mrl_like(len(names), collection.store_dim, seed=version)
    values = collection.codec.encode(vectors)
    await store.put(
        collection,
        [
            StoreRecord(name, value, payload_to_bytes(Document(name, f"{text} {name}")), version)
            for name, value in zip(names, values, strict=True)
        ],
    )


async def remove(
    store: VectorStore, collection: Collection, names: Sequence[str], version: int = 9
) -> None:
    """Delete them."""
    await store.delete(collection, some_deletions(names, version))


async def contents(store: VectorStore, collection: Collection) -> dict[str, StoredDocument]:
    """All that is live, by external id."""
    found: dict[str, StoredDocument] = {}
    for partition in range(collection.partitions):
        async for batch in store.documents(collection, partition):
            found |= {one.external_id: one for one in batch}
    return found
