"""A VectorStore in this process's memory: for tests and trials. Nothing outlives the process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from nestvec.adapters.memory_migrations import MemoryCatalogue
from nestvec.adapters.memory_partition import MemoryPartition
from nestvec.adapters.store_rules import (
    STREAM_KEPT_S,
    by_partition,
    external_id_in,
    require_distinct,
    require_restorable,
    require_whole_digests,
    stream_refusal,
)
from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest, NotFound, Overloaded
from nestvec.core.migration import Listing, Migration
from nestvec.core.placement import internal_id, partition_of, split_id
from nestvec.core.ports import (
    Deleted,
    LogBatch,
    Placed,
    StoredDocument,
    StoreDeletion,
    StoredVersion,
    StoreRecord,
    StoreUsage,
    StreamState,
)
from nestvec.core.stream_digest import DIGEST_BYTES
from nestvec.core.watermark import split_sequence
from nestvec.wall_clock import wall_clock_ms

_IDS_PER_BATCH = 1000


@dataclass
class _Stream:
    """digests: 4 bytes an offset, from `first` on."""

    first: int
    kept_until_ms: int
    digests: bytearray = field(default_factory=bytearray)

    @property
    def next(self) -> int:
        return self.first + len(self.digests) // DIGEST_BYTES


@dataclass
class _Generation:
    """All of one generation."""

    assets: dict[str, bytes] = field(default_factory=dict)
    partitions: dict[int, MemoryPartition] = field(default_factory=dict)
    streams: dict[str, _Stream] = field(default_factory=dict)

    def of(self, partition: int) -> MemoryPartition:
        if partition not in self.partitions:
            self.partitions[partition] = MemoryPartition(partition)
        return self.partitions[partition]


class MemoryStore:
    """A `VectorStore`. Every method is atomic: none awaits while it changes something.

    max_bytes: of vectors, payloads and external ids together; a put that would exceed it raises
    Overloaded and writes nothing. now_ms: the wall clock, for what is kept for a time.
    """

    def __init__(
        self,
        max_bytes: int | None = None,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self.max_bytes = max_bytes
        self._now_ms = now_ms
        self._epoch = 0
        self._catalogue = MemoryCatalogue(now_ms)
        self._generations: defaultdict[tuple[str, int], _Generation] = defaultdict(_Generation)

    async def collections(self) -> list[Collection]:
        return list(self._catalogue.listing().current)

    async def create_collection(
        self, collection: Collection, assets: Mapping[str, bytes]
    ) -> Collection:
        created = self._catalogue.create(collection)
        self._of(created).assets = dict(assets)
        return created

    async def add_generation(
        self, collection: Collection, assets: Mapping[str, bytes]
    ) -> Collection:
        added = self._catalogue.add(collection)
        self._of(added).assets = dict(assets)
        return added

    async def update_collection(
        self, collection: Collection, added: Mapping[str, bytes], dropped: Sequence[str] = ()
    ) -> None:
        self._catalogue.update(collection)
        assets = self._of(collection).assets
        for name in dropped:
            assets.pop(name, None)
        assets.update(added)

    async def drop_collection(self, collection: Collection) -> None:
        self._catalogue.leave(collection)
        self._generations.pop((collection.name, collection.generation), None)

    async def lists(self, collection: Collection) -> bool:
        return self._catalogue.lists(collection)

    async def listing(self) -> Listing:
        return self._catalogue.listing()

    async def catalogue_revision(self) -> int:
        return self._catalogue.revision

    async def asset(self, collection: Collection, name: str) -> bytes:
        try:
            return self._of(collection).assets[name]
        except KeyError:
            raise NotFound("asset", f"{collection.name}/{collection.generation}/{name}") from None

    async def put(self, collection: Collection, records: Sequence[StoreRecord]) -> list[Placed]:
        return self._put(collection, records, newer_only=False)

    async def put_newer(
        self, collection: Collection, records: Sequence[StoreRecord]
    ) -> list[Placed]:
        return self._put(collection, records, newer_only=True)

    def _put(
        self, collection: Collection, records: Sequence[StoreRecord], newer_only: bool
    ) -> list[Placed]:
        require_distinct(records, "records")
        self._require_room(records)
        generation = self._of(collection)
        placed: dict[int, Placed] = {}
        groups = by_partition([record.external_id for record in records], collection)
        for partition, group in groups.items():
            answers = generation.of(partition).put(
                [records[at] for at in group], self._epoch, newer_only
            )
            placed.update(zip(group, answers, strict=True))
        return [placed[at] for at in range(len(records))]

    async def delete(
        self, collection: Collection, deletions: Sequence[StoreDeletion]
    ) -> list[Deleted]:
        require_distinct(deletions, "deletions")
        generation, now_ms = self._of(collection), self._now_ms()
        deleted: dict[int, Deleted] = {}
        groups = by_partition([deletion.external_id for deletion in deletions], collection)
        for partition, group in groups.items():
            answers = generation.of(partition).delete(
                [deletions[at] for at in group], self._epoch, now_ms
            )
            deleted.update(zip(group, answers, strict=True))
        return [deleted[at] for at in range(len(deletions))]

    async def find(self, collection: Collection, external_ids: Sequence[str]) -> Ids:
        generation = self._of(collection)
        found = np.full(len(external_ids), -1, np.int64)
        for at, external_id in enumerate(external_ids):
            partition = partition_of(external_id, collection.partitions)
            entry = generation.of(partition).ids.get(external_id)
            if entry is not None:
                found[at] = internal_id(partition, entry[0])
        return found

    async def positions(self, collection: Collection, partitions: range) -> dict[int, int]:
        generation = self._of(collection)
        return {partition: generation.of(partition).sequence for partition in partitions}

    async def read_log(
        self, collection: Collection, after: Mapping[int, int], limit: int
    ) -> list[LogBatch]:
        generation = self._of(collection)
        each = max(1, limit // max(1, len(after)))
        batches = [generation.of(p).read(position, each) for p, position in after.items()]
        return [batch for batch in batches if batch is not None]

    async def tidy(self, collection: Collection, upto: Mapping[int, int], keep: int) -> int:
        generation = self._of(collection)
        return sum(generation.of(p).tidy(position, keep) for p, position in upto.items())

    async def expire_tombstones(self, collection: Collection, before_ms: int) -> int:
        return sum(one.expire(before_ms) for one in self._of(collection).partitions.values())

    async def stream(self, collection: Collection, stream_id: str) -> StreamState | None:
        found = self._stream(collection, stream_id)
        return None if found is None else StreamState(found.first, found.next)

    async def stream_digests(
        self, collection: Collection, stream_id: str, first: int, count: int
    ) -> bytes:
        found = self._stream(collection, stream_id)
        digests = bytearray(count * DIGEST_BYTES)
        if found is not None:
            start, stop = max(first, found.first), min(first + count, found.next)
            if start < stop:
                digests[(start - first) * DIGEST_BYTES : (stop - first) * DIGEST_BYTES] = (
                    found.digests[
                        (start - found.first) * DIGEST_BYTES : (stop - found.first) * DIGEST_BYTES
                    ]
                )
        return bytes(digests)

    async def advance_stream(
        self, collection: Collection, stream_id: str, first: int, digests: bytes
    ) -> None:
        require_whole_digests(digests)
        found = self._stream(collection, stream_id) or _Stream(first, 0)
        if first != found.next:
            raise stream_refusal(stream_id, first, found.next)
        found.digests += digests
        found.kept_until_ms = self._now_ms() + STREAM_KEPT_S * 1000
        self._of(collection).streams[stream_id] = found

    async def documents(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[list[StoredDocument]]:
        for batch in self._of(collection).of(partition).documents(_IDS_PER_BATCH):
            yield batch

    async def entries(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[list[StoredVersion]]:
        live = list(self._of(collection).of(partition).ids.items())
        for start in range(0, len(live), _IDS_PER_BATCH):
            yield [
                StoredVersion(name, *entry) for name, entry in live[start : start + _IDS_PER_BATCH]
            ]

    async def tombstones(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[list[tuple[str, int]]]:
        buried = self._of(collection).of(partition).tombstones.items()
        if buried:
            yield [(name, version) for name, (_, version) in buried]

    async def versions(
        self, collection: Collection, external_ids: Sequence[str]
    ) -> list[StoredVersion | None]:
        generation = self._of(collection)
        found: list[StoredVersion | None] = []
        for name in external_ids:
            entry = generation.of(partition_of(name, collection.partitions)).ids.get(name)
            found.append(None if entry is None else StoredVersion(name, *entry))
        return found

    async def deletions(
        self, collection: Collection, external_ids: Sequence[str]
    ) -> list[int | None]:
        generation = self._of(collection)
        found: list[int | None] = []
        for name in external_ids:
            partition = generation.of(partition_of(name, collection.partitions))
            buried = partition.tombstones.get(name)
            found.append(None if buried is None else buried[1])
        return found

    async def live_documents(
        self, collection: Collection, ids: Ids, with_vectors: bool
    ) -> list[StoredDocument | None]:
        names = await self.external_ids(collection, ids)
        stands = await self.versions(collection, [name or "" for name in names])
        found: list[StoredDocument | None] = []
        for internal, entry, (vector, payload) in zip(
            ids.tolist(), stands, self._values(collection, ids), strict=True
        ):
            if entry is None or entry.sequence != split_id(internal)[1]:
                found.append(None)
                continue
            kept = vector if with_vectors else None
            found.append(
                StoredDocument(entry.external_id, entry.sequence, entry.version, kept, payload)
            )
        return found

    async def restore(
        self,
        collection: Collection,
        partition: int,
        documents: Sequence[StoredDocument],
        position: int,
    ) -> None:
        require_restorable(documents, position)
        self._epoch = max(self._epoch, split_sequence(position)[0] + 1)
        self._of(collection).of(partition).restore(list(documents), position)

    async def vectors(self, collection: Collection, ids: Ids) -> list[bytes | None]:
        return [pair[0] for pair in self._values(collection, ids)]

    async def payloads(self, collection: Collection, ids: Ids) -> list[bytes | None]:
        return [pair[1] for pair in self._values(collection, ids)]

    async def external_ids(self, collection: Collection, ids: Ids) -> list[str | None]:
        payloads = [pair[1] for pair in self._values(collection, ids)]
        return [external_id_in(payload) for payload in payloads]

    async def live_ids(self, collection: Collection, partitions: range) -> AsyncIterator[Ids]:
        for partition in partitions:
            live = self._of(collection).of(partition).live()
            for start in range(0, len(live), _IDS_PER_BATCH):
                yield live[start : start + _IDS_PER_BATCH]

    async def count(self, collection: Collection) -> int:
        return sum(len(one.ids) for one in self._of(collection).partitions.values())

    async def usage(self, collection: Collection) -> StoreUsage:
        partitions = list(self._of(collection).partitions.values())
        pairs = [one.value(sequence) for one in partitions for sequence, _ in one.ids.values()]
        count = max(len(pairs), 1)
        return StoreUsage(
            documents=len(pairs),
            vector_bytes_per_document=sum(len(vector or b"") for vector, _ in pairs) / count,
            payload_bytes_per_document=sum(len(payload or b"") for _, payload in pairs) / count,
            used_memory_bytes=self._used_bytes(),
            tombstones=sum(len(one.tombstones) for one in partitions),
            log_entries=sum(len(one.log) for one in partitions),
        )

    async def migration(self, name: str) -> Migration | None:
        return self._catalogue.migration(name)

    async def change_migration(
        self, before: Migration | None, after: Migration, owner: str = ""
    ) -> Migration | None:
        return self._catalogue.change(before, after, owner)

    async def switch_generation(
        self, before: Migration, after: Migration, owner: str = ""
    ) -> Migration | None:
        return self._catalogue.switch(before, after, owner)

    async def claim_migration(self, name: str, owner: str, ttl_s: float) -> bool:
        return self._catalogue.claim(name, owner, ttl_s)

    async def release_migration(self, name: str, owner: str) -> None:
        self._catalogue.release(name, owner)

    async def tally(self, name: str, what: str) -> dict[str, int]:
        return dict(self._catalogue.tally(name, what))

    async def set_tally(self, name: str, what: str, numbers: Mapping[str, int]) -> None:
        self._catalogue.tally(name, what).update(numbers)

    async def add_to_tally(self, name: str, what: str, numbers: Mapping[str, int]) -> None:
        self._catalogue.add_to_tally(name, what, numbers)

    async def drop_tally(self, name: str, what: str) -> None:
        self._catalogue.drop_tally(name, what)

    async def ping(self) -> None:
        return

    async def close(self) -> None:
        return

    def _of(self, collection: Collection) -> _Generation:
        return self._generations[collection.name, collection.generation]

    def _stream(self, collection: Collection, stream_id: str) -> _Stream | None:
        streams = self._of(collection).streams
        found = streams.get(stream_id)
        if found is not None and found.kept_until_ms <= self._now_ms():
            del streams[stream_id]
            return None
        return found

    def _values(self, collection: Collection, ids: Ids) -> list[tuple[bytes | None, bytes | None]]:
        generation = self._of(collection)
        split = [split_id(internal) for internal in ids.tolist()]
        if any(partition >= collection.partitions for partition, _ in split):
            raise InvalidRequest(
                "ids",
                f"an id names a partition beyond the collection's {collection.partitions}; "
                f"ids of another collection or generation cannot be read here",
            )
        return [generation.of(partition).value(sequence) for partition, sequence in split]

    def _require_room(self, records: Sequence[StoreRecord]) -> None:
        if self.max_bytes is None:
            return
        wanted = sum(len(r.external_id.encode()) + len(r.vector) + len(r.payload) for r in records)
        if self._used_bytes() + wanted > self.max_bytes:
            raise Overloaded(
                f"the store in memory is full (max_bytes {self.max_bytes:,}) and nothing was "
                f"written; delete documents or give it more memory, then retry"
            )

    def _used_bytes(self) -> int:
        return sum(
            partition.nbytes()
            for generation in self._generations.values()
            for partition in generation.partitions.values()
        )
