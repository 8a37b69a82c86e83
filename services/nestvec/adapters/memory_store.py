"""A VectorStore in this process's memory: for tests and trials. Nothing outlives the process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.errors import AlreadyExists, InvalidRequest, NotFound, Overloaded
from nestvec.core.placement import internal_id, partition_of, split_id
from nestvec.core.ports import Placed, StoreRecord, StoreUsage

_IDS_PER_BATCH = 1000


@dataclass
class _Generation:
    """All of one generation. ids: external -> internal, by partition."""

    assets: dict[str, bytes] = field(default_factory=dict)
    vectors: dict[int, bytes] = field(default_factory=dict)
    payloads: dict[int, bytes] = field(default_factory=dict)
    ids: defaultdict[int, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    sequences: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))


class MemoryStore:
    """A `VectorStore`. Every method is atomic: none awaits while it changes something.

    max_bytes: of vectors, payloads and external ids together; a put that would exceed it raises
    Overloaded and writes nothing.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        self.max_bytes = max_bytes
        self._catalogue: dict[str, Collection] = {}
        self._last_generation: defaultdict[str, int] = defaultdict(int)
        self._generations: defaultdict[tuple[str, int], _Generation] = defaultdict(_Generation)

    async def collections(self) -> list[Collection]:
        return [self._catalogue[name] for name in sorted(self._catalogue)]

    async def create_collection(
        self, collection: Collection, assets: Mapping[str, bytes]
    ) -> Collection:
        name = collection.name
        if name in self._catalogue:
            raise AlreadyExists("collection", name, "drop it first, or choose another name")
        self._last_generation[name] += 1
        created = replace(collection, generation=self._last_generation[name])
        self._catalogue[name] = created
        self._of(created).assets = dict(assets)
        return created

    async def drop_collection(self, collection: Collection) -> None:
        listed = self._catalogue.get(collection.name)
        if listed is not None and listed.generation == collection.generation:
            del self._catalogue[collection.name]
        self._generations.pop((collection.name, collection.generation), None)

    async def asset(self, collection: Collection, name: str) -> bytes:
        try:
            return self._of(collection).assets[name]
        except KeyError:
            raise NotFound("asset", f"{collection.name}/{collection.generation}/{name}") from None

    async def put(self, collection: Collection, records: Sequence[StoreRecord]) -> list[Placed]:
        seen: set[str] = set()
        for position, record in enumerate(records):
            if record.external_id in seen:
                raise InvalidRequest(
                    f"records.{position}.external_id",
                    f"{record.external_id!r} stands twice in one batch; keep one of the two",
                )
            seen.add(record.external_id)
        self._require_room(records)
        generation = self._of(collection)
        return [self._put(generation, collection.partitions, record) for record in records]

    async def find(self, collection: Collection, external_ids: Sequence[str]) -> Ids:
        ids = self._of(collection).ids
        found = [ids[partition_of(i, collection.partitions)].get(i, -1) for i in external_ids]
        return np.array(found, np.int64)

    async def unmap(self, collection: Collection, external_ids: Sequence[str]) -> None:
        ids = self._of(collection).ids
        for external_id in external_ids:
            ids[partition_of(external_id, collection.partitions)].pop(external_id, None)

    async def purge(self, collection: Collection, ids: Ids) -> None:
        generation = self._of(collection)
        for internal in ids.tolist():
            generation.vectors.pop(internal, None)
            generation.payloads.pop(internal, None)

    async def vectors(self, collection: Collection, ids: Ids) -> list[bytes | None]:
        vectors = self._of(collection).vectors
        _check_ids(ids, collection)
        return [vectors.get(internal) for internal in ids.tolist()]

    async def payloads(self, collection: Collection, ids: Ids) -> list[bytes | None]:
        payloads = self._of(collection).payloads
        _check_ids(ids, collection)
        return [payloads.get(internal) for internal in ids.tolist()]

    async def live_ids(self, collection: Collection, partitions: range) -> AsyncIterator[Ids]:
        for partition in partitions:
            live = np.array(list(self._of(collection).ids[partition].values()), np.int64)
            for start in range(0, len(live), _IDS_PER_BATCH):
                yield live[start : start + _IDS_PER_BATCH]

    async def usage(self, collection: Collection) -> StoreUsage:
        generation = self._of(collection)
        live = [i for ids in generation.ids.values() for i in ids.values()]
        count = max(len(live), 1)
        return StoreUsage(
            documents=len(live),
            vector_bytes_per_document=sum(len(generation.vectors[i]) for i in live) / count,
            payload_bytes_per_document=sum(len(generation.payloads[i]) for i in live) / count,
            used_memory_bytes=self._used_bytes(),
        )

    async def ping(self) -> None:
        return

    async def close(self) -> None:
        return

    def _of(self, collection: Collection) -> _Generation:
        return self._generations[collection.name, collection.generation]

    def _put(self, generation: _Generation, partitions: int, record: StoreRecord) -> Placed:
        partition = partition_of(record.external_id, partitions)
        generation.sequences[partition] += 1
        new = internal_id(partition, generation.sequences[partition])
        generation.vectors[new] = record.vector
        generation.payloads[new] = record.payload
        replaced = generation.ids[partition].get(record.external_id, -1)
        generation.ids[partition][record.external_id] = new
        return Placed(new, replaced)

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
            sum(map(len, generation.vectors.values()))
            + sum(map(len, generation.payloads.values()))
            + sum(len(i.encode()) for ids in generation.ids.values() for i in ids)
            for generation in self._generations.values()
        )


def _check_ids(ids: Ids, collection: Collection) -> None:
    for internal in ids.tolist():
        if split_id(internal)[0] >= collection.partitions:
            raise InvalidRequest(
                "ids",
                f"an id names a partition beyond the collection's {collection.partitions}; "
                f"ids of another collection or generation cannot be read here",
            )
