"""The rooms of one query over a store in memory, and doubles that fail on demand."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import pytest

from nestvec.adapters.memory_index import NumpyFactory
from nestvec.adapters.memory_partition import MemoryPartition
from nestvec.adapters.memory_store import MemoryStore
from nestvec.adapters.models.memory import HashModel
from nestvec.adapters.store_rules import LogEntry
from nestvec.admin.app import AdminApp, CollectionWish, StoredCatalogue
from nestvec.admin.tiers import drawn
from nestvec.coarse import upkeep as upkeep_module
from nestvec.coarse.app import CoarseApp
from nestvec.core.arrays import Floats, Ids
from nestvec.core.codec import VectorDtype
from nestvec.core.collection import Collection
from nestvec.core.document import Document, FieldValue, payload_to_bytes
from nestvec.core.fields import FieldSchema
from nestvec.core.inspection import Inspection, InspectionRequest
from nestvec.core.placement import internal_id, split_id
from nestvec.core.ports import (
    BlobStore,
    CoarseAnswer,
    CoarseIndexFactory,
    CoarseQuery,
    CoarseSearcher,
    Deleted,
    EmbeddingModel,
    Encoder,
    FixedShards,
    LogBatch,
    PairScorer,
    Placed,
    Reranker,
    ShardVerification,
    SnapshotInfo,
    StoreDeletion,
    StoreRecord,
    TierStatus,
    VectorStore,
)
from nestvec.core.sketch import TailSketch, random_dither, random_rotation
from nestvec.core.space import Role, Space
from nestvec.core.watermark import Watermark, sequence_of, split_sequence
from nestvec.encoder.app import EncoderApp
from nestvec.encoders import FixedEncoders
from nestvec.ingest.app import IngestApp
from nestvec.ingest.batch import Item, Outcome
from nestvec.ingest.options import IngestOptions
from nestvec.query.answer import Answer
from nestvec.query.app import QueryApp, Vectors
from nestvec.query.documents import Documents
from nestvec.query.other_regions import OtherRegions
from nestvec.query.plan import Limits, SearchClass, SearchOptions
from nestvec.query.shadow import ShadowAsker
from nestvec.replication.app import MigrationApp
from nestvec.replication.carrying import Carrier
from nestvec.replication.running import Pauses
from nestvec.rerank.app import RerankApp
from tests.support.faults import (
    PATIENT_S,
    Fault,
    Faults,
    eventually,
    hanging,
    raising,
    waiting_for,
)

SPACE = Space("test-mrl", 64, weights="1", trained_dims=(8, 16, 32, 64))
CLASSES = (
    SearchClass("autocomplete", coarse_dim=16, k=5, candidates=5, rerank=False, min_coverage=0.0),
    SearchClass("search", coarse_dim=16, k=10, candidates=100, rerank=True, min_coverage=0.5),
    SearchClass("analyst", coarse_dim=32, k=20, candidates=400, rerank=True, min_coverage=1.0),
    SearchClass("strict", coarse_dim=16, k=10, candidates=100, rerank=True, degrade=False),
)

# A pause in writing after which a shard merges all that it has: hundreds of tests wait for it.
_IDLE_S = 0.02
# Of writes by `written` and `deleted`: each later than all before.
_versions = itertools.count(1)

__all__ = [
    "PATIENT_S",
    "Fault",
    "Faults",
    "eventually",
    "hanging",
    "raising",
    "waiting_for",
]


# --- a corpus of vectors --------------------------------------------------------------------------


def a_collection(
    name: str = "docs",
    tiers: tuple[int, ...] = (16,),
    store_dim: int = 64,
    dtype: VectorDtype = VectorDtype.FP16,
    partitions: int = 16,
    space: Space = SPACE,
    fields: Sequence[FieldSchema] = (),
) -> Collection:
    """One that no store has seen."""
    return Collection(name, space, store_dim, tiers, dtype, partitions, fields=tuple(fields))


async def created(store: VectorStore, collection: Collection) -> Collection:
    """Enter it into the store's catalogue, with what its tiers' codes are drawn from."""
    return await store.create_collection(collection, drawn(collection, collection.tiers))


def a_sketch(coarse_dim: int, full_dim: int) -> TailSketch:
    """The codes of one tier."""
    rotation = random_rotation(full_dim - coarse_dim, seed=1)
    return TailSketch(coarse_dim, full_dim, rotation, random_dither(coarse_dim, seed=1))


async def written(
    store: VectorStore,
    collection: Collection,
    vectors: Floats,
    names: Sequence[str] | None = None,
    fields: Sequence[Mapping[str, FieldValue]] | None = None,
) -> Ids:
    """Store unit vectors, (n, store_dim), as documents. Returns their internal ids."""
    names = [f"d{row}" for row in range(len(vectors))] if names is None else names
    fields = [{}] * len(vectors) if fields is None else fields
    values = collection.codec.encode(vectors)
    records = [
        StoreRecord(
            name, value, payload_to_bytes(Document(name, f"text of {name}", own)), next(_versions)
        )
        for name, value, own in zip(names, values, fields, strict=True)
    ]
    placed = await store.put(collection, records)
    return np.array([one.internal_id for one in placed], np.int64)


async def deleted(store: VectorStore, collection: Collection, names: Sequence[str]) -> list[int]:
    """Delete documents. Returns the places of the deletions, in the form of internal ids."""
    deletions = [StoreDeletion(name, next(_versions)) for name in names]
    return [one.position for one in await store.delete(collection, deletions)]


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
    migrations: MigrationApp

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
    model: EmbeddingModel | None = None,
    factory: CoarseIndexFactory | None = None,
    classes: Sequence[SearchClass] = CLASSES,
    limits: Limits | None = None,
    wrap_shard: Callable[[CoarseSearcher], CoarseSearcher] = lambda shard: shard,
    wrap_encoder: Callable[[Encoder], Encoder] = lambda encoder: encoder,
    reranker: Reranker | None = None,
    options: IngestOptions | None = None,
    cache_bytes: int = 0,
    open_blobs: Callable[[str], BlobStore] | None = None,
    others: tuple[Encoder, ...] = (),
    cross_encoder: PairScorer | None = None,
    moving: Pauses | None = None,
    regions: OtherRegions | None = None,
) -> AsyncIterator[Rooms]:
    """Every application over one store. moving: also what moves collections to another model.
    regions: others that share its collections.
    """
    store = FaultyStore() if store is None else store
    limits = limits or Limits()
    encoder_app = EncoderApp(model or HashModel(64))
    encoder = wrap_encoder(encoder_app)
    encoders = FixedEncoders(encoder, others)
    apps = [CoarseApp(store, factory or NumpyFactory(), n, shards) for n in range(shards)]
    searchers = [wrap_shard(app) for app in apps]
    catalogue = StoredCatalogue(store)
    reranker = reranker or RerankApp(store)
    # Nothing is kept, so that what happens to the store is seen.
    documents = Documents(catalogue, store, 4 * limits.max_batch, cache_bytes)
    carrying = None if moving is None else Carrier(store, catalogue)
    shadow = None if moving is None else ShadowAsker(catalogue, store)
    query = QueryApp(
        catalogue,
        encoders,
        FixedShards(searchers),
        reranker,
        documents,
        classes,
        limits,
        cross_encoder,
        carrying=carrying,
        shadow=shadow,
        regions=regions,
    )
    tiers = sorted({one.coarse_dim for one in classes})
    admin = AdminApp(
        catalogue, encoders, FixedShards(searchers), store, tiers, open_blobs=open_blobs
    )
    options = options or IngestOptions(purge_after_s=0.0, tidy_every_s=0.01)
    ingest = IngestApp(
        catalogue,
        encoders,
        FixedShards(searchers),
        store,
        limits.max_text_bytes,
        options,
        carrying=carrying,
    )
    ingest.start()
    migrations = MigrationApp(
        store, catalogue, admin, FixedShards(searchers), encoders, moving, wrote=ingest.copied
    )
    if moving is not None:
        migrations.start()
        catalogue.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(upkeep_module, "_IDLE_S", _IDLE_S)
            yield Rooms(
                store,
                catalogue,
                encoder,
                searchers,
                reranker,
                query,
                documents,
                ingest,
                admin,
                migrations,
            )
    finally:
        await migrations.close()
        await catalogue.close()
        if shadow is not None:
            await shadow.close()
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


# --- doubles that fail ----------------------------------------------------------------------------


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

    async def put_newer(
        self, collection: Collection, records: Sequence[StoreRecord]
    ) -> list[Placed]:
        await self.faults.begin("put")
        placed = await super().put_newer(collection, records)
        await self.faults.end("put")
        return placed

    async def delete(
        self, collection: Collection, deletions: Sequence[StoreDeletion]
    ) -> list[Deleted]:
        await self.faults.begin("delete")
        deleted = await super().delete(collection, deletions)
        await self.faults.end("delete")
        return deleted

    async def find(self, collection: Collection, external_ids: Sequence[str]) -> Ids:
        await self.faults.begin("find")
        return await super().find(collection, external_ids)

    async def positions(self, collection: Collection, partitions: range) -> dict[int, int]:
        await self.faults.begin("positions")
        return await super().positions(collection, partitions)

    async def read_log(
        self, collection: Collection, after: Mapping[int, int], limit: int
    ) -> list[LogBatch]:
        await self.faults.begin("read_log")
        return await super().read_log(collection, after, limit)

    async def tidy(self, collection: Collection, upto: Mapping[int, int], keep: int) -> int:
        await self.faults.begin("tidy")
        return await super().tidy(collection, upto, keep)

    async def vectors(self, collection: Collection, ids: Ids) -> list[bytes | None]:
        await self.faults.begin("vectors")
        return await super().vectors(collection, ids)

    async def payloads(self, collection: Collection, ids: Ids) -> list[bytes | None]:
        await self.faults.begin("payloads")
        return await super().payloads(collection, ids)

    async def external_ids(self, collection: Collection, ids: Ids) -> list[str | None]:
        await self.faults.begin("external_ids")
        return await super().external_ids(collection, ids)

    def kept(self, collection: Collection) -> set[int]:
        """Internal ids whose vector is there, live or not."""
        return {
            internal_id(number, sequence)
            for number, partition in self._of(collection).partitions.items()
            for sequence, (vector, _) in partition.values.items()
            if vector is not None
        }

    def spoil(self, collection: Collection, internal: int, value: bytes | None) -> None:
        """Put `value` in a stored vector's place, or nothing."""
        partition, sequence = split_id(internal)
        values = self._of(collection).of(partition).values
        values[sequence] = value, values[sequence][1]

    def spoil_payload(self, collection: Collection, internal: int, value: bytes | None) -> None:
        """Put `value` in a payload's place, or nothing."""
        partition, sequence = split_id(internal)
        values = self._of(collection).of(partition).values
        values[sequence] = values[sequence][0], value

    def lose_last(self, collection: Collection, count: int) -> None:
        """Forget the last `count` log entries of every partition and what they wrote, as a server
        does that crashed before it had written them down. What comes next is of another epoch.
        """
        for partition in self._of(collection).partitions.values():
            for _ in range(min(count, len(partition.log))):
                _undo(partition, partition.log.pop())
        self._epoch += 1


def _undo(partition: MemoryPartition, entry: LogEntry) -> None:
    assert not entry.removed, "what was replaced is not kept by name: lose plain additions only"
    for sequence in entry.added:
        del partition.values[sequence]
    partition.ids = {i: one for i, one in partition.ids.items() if one[0] not in entry.added}
    epoch, count = split_sequence(entry.first)
    partition.sequence = sequence_of(epoch, count - 1) if count > 1 else 0


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
        await self.faults.begin("open")
        return await self._shard.open(collection)

    async def reach(self, collection: Collection, watermark: Watermark, timeout_s: float) -> None:
        await self.faults.begin("reach")
        await self._shard.reach(collection, watermark, timeout_s)

    async def progress(self, collection: Collection) -> Watermark:
        await self.faults.begin("progress")
        return await self._shard.progress(collection)

    async def snapshot(self, collection: Collection) -> SnapshotInfo:
        await self.faults.begin("snapshot")
        return await self._shard.snapshot(collection)

    async def verify(self, collection: Collection, repair: bool, sample: int) -> ShardVerification:
        await self.faults.begin("verify")
        return await self._shard.verify(collection, repair, sample)

    async def settle(self, collection: Collection) -> None:
        await self._shard.settle(collection)

    async def drop(self, name: str, generation: int) -> None:
        await self._shard.drop(name, generation)

    async def status(self, collection: Collection) -> list[TierStatus]:
        return await self._shard.status(collection)

    async def names(self, collection: Collection, ids: Ids) -> list[str | None]:
        await self.faults.begin("names")
        return await self._shard.names(collection, ids)

    async def inspect(self, collection: Collection, request: InspectionRequest) -> Inspection:
        await self.faults.begin("inspect")
        return await self._shard.inspect(collection, request)
