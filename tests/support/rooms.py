"""The rooms of one query over a store in memory, and doubles that fail on demand."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from nestvec.adapters.memory_index import NumpyFactory
from nestvec.adapters.memory_store import MemoryStore
from nestvec.adapters.models.memory import HashModel
from nestvec.admin.app import AdminApp, CollectionWish, StoredCatalogue, _drawn
from nestvec.coarse.app import CoarseApp
from nestvec.core.arrays import Floats, Ids
from nestvec.core.codec import VectorDtype
from nestvec.core.collection import Collection
from nestvec.core.document import Document, payload_to_bytes
from nestvec.core.ports import (
    CoarseAnswer,
    CoarseIndexFactory,
    CoarseQuery,
    CoarseRows,
    CoarseSearcher,
    Encoder,
    Placed,
    Reranker,
    StoreRecord,
    TierStatus,
    VectorStore,
)
from nestvec.core.sketch import TailSketch, random_dither, random_rotation
from nestvec.core.space import Role, Space
from nestvec.encoder.app import EncoderApp
from nestvec.ingest.app import IngestApp
from nestvec.ingest.batch import Item, Outcome
from nestvec.query.answer import Answer
from nestvec.query.app import QueryApp, Vectors
from nestvec.query.documents import Documents
from nestvec.query.plan import Limits, SearchClass, SearchOptions
from nestvec.rerank.app import RerankApp

SPACE = Space("test-mrl", 64, weights="1", trained_dims=(8, 16, 32, 64))
PATIENT_S = 30.0
CLASSES = (
    SearchClass("autocomplete", coarse_dim=16, k=5, candidates=5, rerank=False, min_coverage=0.0),
    SearchClass("search", coarse_dim=16, k=10, candidates=100, rerank=True, min_coverage=0.5),
    SearchClass("analyst", coarse_dim=32, k=20, candidates=400, rerank=True, min_coverage=1.0),
    SearchClass("strict", coarse_dim=16, k=10, candidates=100, rerank=True, degrade=False),
)


# --- a corpus of vectors --------------------------------------------------------------------------


def a_collection(
    name: str = "docs",
    tiers: tuple[int, ...] = (16,),
    store_dim: int = 64,
    dtype: VectorDtype = VectorDtype.FP16,
    partitions: int = 16,
    space: Space = SPACE,
) -> Collection:
    """One that no store has seen."""
    return Collection(name, space, store_dim, tiers, dtype, partitions)


async def created(store: VectorStore, collection: Collection) -> Collection:
    """Enter it into the store's catalogue, with what its tiers' codes are drawn from."""
    return await store.create_collection(collection, _drawn(collection))


def a_sketch(coarse_dim: int, full_dim: int) -> TailSketch:
    """The codes of one tier."""
    rotation = random_rotation(full_dim - coarse_dim, seed=1)
    return TailSketch(coarse_dim, full_dim, rotation, random_dither(coarse_dim, seed=1))


async def written(
    store: VectorStore,
    collection: Collection,
    vectors: Floats,
    names: Sequence[str] | None = None,
) -> Ids:
    """Store unit vectors, (n, store_dim), as documents. Returns their internal ids."""
    names = [f"d{row}" for row in range(len(vectors))] if names is None else names
    values = collection.codec.encode(vectors)
    records = [
        StoreRecord(name, value, payload_to_bytes(Document(name, f"text of {name}")))
        for name, value in zip(names, values, strict=True)
    ]
    placed = await store.put(collection, records)
    return np.array([one.internal_id for one in placed], np.int64)


# --- all rooms in this process --------------------------------------------------------------------


@dataclass(slots=True)
class Rooms:
    """What serves a query and takes documents."""

    store: VectorStore
    catalogue: StoredCatalogue
    encoder: Encoder
    shards: list[CoarseSearcher]
    reranker: Reranker
    query: QueryApp
    documents: Documents
    ingest: IngestApp
    admin: AdminApp

    async def create(self, name: str = "docs", **wish: object) -> Collection:
        """A new collection."""
        return (await self.admin.create(CollectionWish(name, **wish), False))[0]  # type: ignore[arg-type]

    async def add(self, *documents: Document | Item, name: str = "docs") -> Outcome:
        """Write documents as one message of a stream would."""
        collection = await self.catalogue.get(name)
        items = [one if isinstance(one, Item) else Item(one) for one in documents]
        prepared = await self.ingest.prepare(collection, items, has_space=True)
        return await self.ingest.commit(prepared)

    async def ask(
        self,
        query: str | Floats,
        name: str = "docs",
        timeout_s: float = PATIENT_S,
        **options: object,
    ) -> Answer:
        """One query, as text or as one vector of the collection's space."""
        queries: Sequence[str] | Vectors = [query] if isinstance(query, str) else []
        if not isinstance(query, str):
            collection = await self.catalogue.get(name)
            queries = Vectors(np.atleast_2d(query), collection.space.fingerprint)
        (answer,) = await self.query.search(name, queries, SearchOptions(**options), timeout_s)  # type: ignore[arg-type]
        return answer

    async def found(self, query: str | Floats, **options: object) -> list[str]:
        """Ids of the hits."""
        return ids_of(await self.ask(query, **options))  # type: ignore[arg-type]


def ids_of(answer: Answer) -> list[str]:
    """External ids, best first."""
    return [hit.document.id for hit in answer.hits]


@asynccontextmanager
async def open_rooms(
    store: VectorStore | None = None,
    shards: int = 1,
    model: HashModel | None = None,
    factory: CoarseIndexFactory | None = None,
    classes: Sequence[SearchClass] = CLASSES,
    limits: Limits | None = None,
    wrap_shard: Callable[[CoarseSearcher], CoarseSearcher] = lambda shard: shard,
    wrap_encoder: Callable[[Encoder], Encoder] = lambda encoder: encoder,
    reranker: Reranker | None = None,
    purge_after_s: float = 0.0,
    cache_bytes: int = 0,
) -> AsyncIterator[Rooms]:
    """Every application over one store."""
    store = FaultyStore() if store is None else store
    limits = limits or Limits()
    encoder_app = EncoderApp(model or HashModel(64))
    encoder = wrap_encoder(encoder_app)
    apps = [CoarseApp(store, factory or NumpyFactory(), n, shards) for n in range(shards)]
    searchers = [wrap_shard(app) for app in apps]
    catalogue = StoredCatalogue(store)
    reranker = reranker or RerankApp(store)
    # Nothing is kept, so that what happens to the store is seen.
    documents = Documents(catalogue, store, 4 * limits.max_batch, cache_bytes)
    query = QueryApp(catalogue, encoder, searchers, reranker, documents, classes, limits)
    tiers = sorted({one.coarse_dim for one in classes})
    admin = AdminApp(catalogue, encoder.space, searchers, store, tiers)
    ingest = IngestApp(
        catalogue, encoder, searchers, store, limits.max_text_bytes, purge_after_s=purge_after_s
    )
    try:
        yield Rooms(store, catalogue, encoder, searchers, reranker, query, documents, ingest, admin)
    finally:
        await ingest.close()
        for app in apps:
            await app.close()
        await encoder_app.close()


class SpyLog:
    """A logger that keeps its lines: structlog's own capture misses loggers used before it."""

    def __init__(self) -> None:
        self.lines: list[dict[str, object]] = []

    def info(self, event: str, **fields: object) -> None:
        """One line."""
        self.lines.append({"event": event, **fields})

    error = warning = info

    def named(self, event: str) -> list[dict[str, object]]:
        """The lines of one event."""
        return [line for line in self.lines if line["event"] == event]


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until `holds` does; what never does fails the test."""
    async with asyncio.timeout(PATIENT_S):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.005)


# --- doubles that fail ----------------------------------------------------------------------------

Fault = Callable[[], Awaitable[None]]


def raising(error: Exception) -> Fault:
    """A fault that raises."""

    async def fault() -> None:
        raise error

    return fault


def waiting_for(event: asyncio.Event) -> Fault:
    """A fault that is late: it waits for `event`."""

    async def fault() -> None:
        await event.wait()

    return fault


async def hanging() -> None:
    """A fault that never answers."""
    await asyncio.Event().wait()


@dataclass(slots=True)
class Faults:
    """What befalls calls by name: `before` a call does its work, or `after`, when only its answer
    is lost. A list of faults is used up one a call; a call without one goes well.
    """

    before: defaultdict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    after: defaultdict[str, list[Fault]] = field(default_factory=lambda: defaultdict(list))
    calls: list[str] = field(default_factory=list)

    async def begin(self, name: str) -> None:
        self.calls.append(name)
        if self.before[name]:
            await self.before[name].pop(0)()

    async def end(self, name: str) -> None:
        if self.after[name]:
            await self.after[name].pop(0)()

    def always(self, name: str, fault: Fault) -> None:
        """From now on, before every call of `name`, until `heal`."""
        self.before[name] = list(itertools.repeat(fault, 1000))

    def heal(self) -> None:
        """No more faults."""
        self.before.clear()
        self.after.clear()


class FaultyStore(MemoryStore):
    """A store in memory whose calls fail as `faults` says."""

    def __init__(self, max_bytes: int | None = None) -> None:
        super().__init__(max_bytes)
        self.faults = Faults()

    async def put(self, collection: Collection, records: Sequence[StoreRecord]) -> list[Placed]:
        await self.faults.begin("put")
        placed = await super().put(collection, records)
        await self.faults.end("put")
        return placed

    async def find(self, collection: Collection, external_ids: Sequence[str]) -> Ids:
        await self.faults.begin("find")
        return await super().find(collection, external_ids)

    async def unmap(self, collection: Collection, external_ids: Sequence[str]) -> None:
        await self.faults.begin("unmap")
        await super().unmap(collection, external_ids)
        await self.faults.end("unmap")

    async def purge(self, collection: Collection, ids: Ids) -> None:
        await self.faults.begin("purge")
        await super().purge(collection, ids)

    async def vectors(self, collection: Collection, ids: Ids) -> list[bytes | None]:
        await self.faults.begin("vectors")
        return await super().vectors(collection, ids)

    async def payloads(self, collection: Collection, ids: Ids) -> list[bytes | None]:
        await self.faults.begin("payloads")
        return await super().payloads(collection, ids)

    def kept(self, collection: Collection) -> set[int]:
        """Internal ids whose vector is there, live or not."""
        return set(self._of(collection).vectors)

    def spoil(self, collection: Collection, internal: int, value: bytes | None) -> None:
        """Put `value` in a stored vector's place, or nothing."""
        if value is None:
            del self._of(collection).vectors[internal]
        else:
            self._of(collection).vectors[internal] = value

    def spoil_payload(self, collection: Collection, internal: int, value: bytes | None) -> None:
        """Put `value` in a payload's place, or nothing."""
        if value is None:
            del self._of(collection).payloads[internal]
        else:
            self._of(collection).payloads[internal] = value


class SpyEncoder:
    """An encoder that keeps what it was asked. Fills ports.Encoder."""

    def __init__(self, encoder: Encoder) -> None:
        self.asked: list[tuple[list[str], Role]] = []
        self.faults = Faults()
        self._encoder = encoder

    @property
    def space(self) -> Space:
        return self._encoder.space

    async def encode(self, texts: Sequence[str], role: Role, timeout_s: float) -> Floats:
        self.asked.append((list(texts), role))
        await self.faults.begin("encode")
        return await self._encoder.encode(texts, role, timeout_s)


class FaultyShard:
    """A shard whose calls fail as `faults` says. Fills ports.CoarseSearcher.

    asked: every query that it was asked.
    """

    def __init__(self, shard: CoarseSearcher) -> None:
        self.faults = Faults()
        self.asked: list[CoarseQuery] = []
        self._shard = shard

    async def search(self, query: CoarseQuery, timeout_s: float) -> CoarseAnswer:
        self.asked.append(query)
        await self.faults.begin("search")
        return await self._shard.search(query, timeout_s)

    async def open(self, collection: Collection) -> int:
        return await self._shard.open(collection)

    async def apply(self, collection: Collection, rows: CoarseRows) -> int:
        await self.faults.begin("apply")
        documents = await self._shard.apply(collection, rows)
        await self.faults.end("apply")
        return documents

    async def settle(self, collection: Collection) -> None:
        await self._shard.settle(collection)

    async def drop(self, name: str, generation: int) -> None:
        await self._shard.drop(name, generation)

    async def status(self, collection: Collection) -> list[TierStatus]:
        return await self._shard.status(collection)
