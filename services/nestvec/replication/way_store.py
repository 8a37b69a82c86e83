"""What one way from another region writes here: documents, and how far it has come."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence

from nestvec.core.collection import Collection
from nestvec.core.errors import NotFound
from nestvec.core.ports import (
    Deleted,
    Placed,
    StoreDeletion,
    StoredVersion,
    StoreRecord,
    VectorStore,
)
from nestvec.replication import headings
from nestvec.telemetry.logs import logger

_log = logger()


class ListedSink:
    """A store that is written to under the law of ingest: what comes after its collection was
    dropped is freed, and never counts as written. Fills CopySink.
    """

    def __init__(self, store: VectorStore) -> None:
        self._store = store

    def entries(self, collection: Collection, partition: int) -> AsyncIterator[list[StoredVersion]]:
        return self._store.entries(collection, partition)

    async def versions(
        self, collection: Collection, external_ids: Sequence[str]
    ) -> list[StoredVersion | None]:
        return await self._store.versions(collection, external_ids)

    async def put(self, collection: Collection, records: Sequence[StoreRecord]) -> list[Placed]:
        placed = await self._store.put(collection, records)
        await self._require_listed(collection)
        return placed

    async def put_newer(
        self, collection: Collection, records: Sequence[StoreRecord]
    ) -> list[Placed]:
        placed = await self._store.put_newer(collection, records)
        await self._require_listed(collection)
        return placed

    async def delete(
        self, collection: Collection, deletions: Sequence[StoreDeletion]
    ) -> list[Deleted]:
        deleted = await self._store.delete(collection, deletions)
        await self._require_listed(collection)
        return deleted

    async def _require_listed(self, collection: Collection) -> None:
        if not await self._store.lists(collection):
            await self._store.drop_collection(collection)
            raise NotFound("collection", collection.name, "it was dropped while it was copied to")


class WayPositions:
    """How far it has come, in the store. Fills PositionKeeper. Positions of other generations than
    these two stand for nothing: then it begins anew, by comparing.
    """

    def __init__(
        self, store: VectorStore, name: str, region: str, source: Collection, sink: Collection
    ) -> None:
        self._store = store
        self._name = name
        self._region = region
        self._heading = headings.copied_from(region)
        pair = (source.identity, source.generation, sink.identity, sink.generation)
        digest = hashlib.blake2b(repr(pair).encode(), digest_size=6).digest()
        self._followed = source.generation
        self._pair = int.from_bytes(digest, "big")

    async def load(self) -> dict[str, int]:
        store, name = self._store, self._name
        kept = await store.tally(name, self._heading)
        if kept.get(headings.PAIR) == self._pair:
            return kept
        if kept:
            _log.warning("region.begun_anew", collection=name, region=self._region)
        # In this order: what is not known to be whole must not pass for it.
        await store.set_tally(name, headings.REGIONS, {headings.whole_at(self._region): 0})
        await store.drop_tally(name, self._heading)
        begun = {headings.PAIR: self._pair, headings.FOLLOWED: self._followed}
        await store.set_tally(name, self._heading, begun)
        return {}

    async def save(self, numbers: Mapping[str, int]) -> None:
        await self._store.set_tally(self._name, self._heading, numbers)
