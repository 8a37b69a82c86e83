"""The ingest log of this region, for other regions that copy a collection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest
from nestvec.core.placement import split_ids
from nestvec.core.ports import LogBatch, StoredDocument, StoredVersion, VectorStore
from nestvec.core.sketch import asset_names

# The most of one call.
_MOST_IDS = 1000
_MOST_CHANGES = 10_000
# Documents read from the store at once: with the largest payloads some megabytes.
_DOCUMENTS = 64
# Names in one part of an answer.
_NAMES = 1024

# (collection, internal ids, tier) -> what each row of that tier begins with where it is kept, and
# the documents in the order of the ids: the rest of the row in place of the vector, and in place of
# the payload one with the declared fields alone.
RowReader = Callable[[Collection, Ids, int], Awaitable[tuple[bytes, list[StoredDocument | None]]]]


class RegionLog:
    """Reads the store for others, a bounded part at a time. `collection` is one that stands here.

    rows: None where this process serves no rows of tiers.
    """

    def __init__(self, store: VectorStore, rows: RowReader | None = None) -> None:
        self._store = store
        self._rows = rows

    async def assets(self, collection: Collection) -> AsyncIterator[tuple[str, bytes]]:
        """What its tiers drew, by name."""
        for name in asset_names(collection.tiers, collection.store_dim):
            yield name, await self._store.asset(collection, name)

    async def positions(self, collection: Collection, first: int, end: int) -> dict[int, int]:
        """Of partitions `first` to `end`, that one excluded."""
        if not 0 <= first < end <= collection.partitions:
            raise InvalidRequest(
                "first_partition",
                f"{first} to {end} are none of its partitions, 0 to {collection.partitions}",
            )
        return await self._store.positions(collection, range(first, end))

    async def read(
        self, collection: Collection, after: Mapping[int, int], limit: int
    ) -> list[LogBatch]:
        """See ports.VectorStore.read_log."""
        for partition, position in after.items():
            _require_partition(partition, collection, "after")
            if position < 0:
                raise InvalidRequest("after", f"position {position}, expected 0 or more")
        if not 1 <= limit <= _MOST_CHANGES:
            raise InvalidRequest("limit", f"{limit}, expected 1 to {_MOST_CHANGES}")
        return await self._store.read_log(collection, after, limit) if after else []

    async def entries(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[Sequence[StoredVersion]]:
        """See ports.VectorStore."""
        _require_partition(partition, collection, "partition")
        async for found in self._store.entries(collection, partition):
            for start in range(0, len(found), _NAMES):
                yield found[start : start + _NAMES]

    async def tombstones(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[Sequence[tuple[str, int]]]:
        """See ports.VectorStore."""
        _require_partition(partition, collection, "partition")
        async for found in self._store.tombstones(collection, partition):
            for start in range(0, len(found), _NAMES):
                yield found[start : start + _NAMES]

    async def versions(
        self, collection: Collection, ids: Sequence[str]
    ) -> list[StoredVersion | None]:
        """See ports.VectorStore."""
        _require_count(len(ids))
        return await self._store.versions(collection, ids)

    async def documents(
        self, collection: Collection, ids: Ids, with_vectors: bool, prefix_dim: int
    ) -> AsyncIterator[tuple[bytes, list[StoredDocument | None]]]:
        """Whole, or with a `prefix_dim` the rows of that tier, after what each of these begins
        with; over all parts in the order of `ids`.
        """
        _require_count(len(ids))
        partitions, _ = split_ids(ids)
        if ((partitions < 0) | (partitions >= collection.partitions)).any():
            raise InvalidRequest("ids", "some are of no partition of this collection")
        if prefix_dim:
            collection.require_tier(prefix_dim, "prefix_dim")
            if self._rows is None:
                raise InvalidRequest(
                    "prefix_dim", f"{prefix_dim}, and this server hands out no rows of its tiers"
                )
        for start in range(0, len(ids), _DOCUMENTS):
            some = ids[start : start + _DOCUMENTS]
            if prefix_dim and self._rows is not None:
                yield await self._rows(collection, some, prefix_dim)
            else:
                yield b"", await self._store.live_documents(collection, some, with_vectors)


def _require_count(count: int) -> None:
    if not 1 <= count <= _MOST_IDS:
        raise InvalidRequest("ids", f"{count}, expected 1 to {_MOST_IDS}")


def _require_partition(partition: int, collection: Collection, field: str) -> None:
    if not 0 <= partition < collection.partitions:
        raise InvalidRequest(
            field,
            f"partition {partition}, expected 0 to {collection.partitions - 1}, which collection "
            f"{collection.name!r} has",
        )
