"""What a copier reads of a collection on a Redis-protocol server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from nestvec.adapters.redis_client import RedisClient
from nestvec.adapters.redis_keys import Keyspace, read_entry, read_tombstone
from nestvec.adapters.redis_pool import Command
from nestvec.adapters.redis_reads import RedisReads, chunks, hash_pages
from nestvec.adapters.store_rules import by_partition, external_id_in
from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.placement import split_id
from nestvec.core.ports import StoredDocument, StoredVersion

_FIELDS_PER_STEP = 512


class RedisCopying:
    """Documents by name and version, and whole ones by internal id."""

    def __init__(self, client: RedisClient, keys: Keyspace, reads: RedisReads) -> None:
        self._client = client
        self._keys = keys
        self._reads = reads

    async def entries(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[list[StoredVersion]]:
        """A map entry that cannot be read is passed over."""
        ids = self._keys.of(collection).ids[partition]
        async for pairs in hash_pages(self._client, ids, _FIELDS_PER_STEP):
            found = [
                StoredVersion(name.decode(), *entry)
                for name, value in pairs
                if (entry := read_entry(value)) is not None
            ]
            if found:
                yield found

    async def tombstones(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[list[tuple[str, int]]]:
        """One that cannot be read is passed over."""
        buried = self._keys.of(collection).tombstones[partition]
        async for pairs in hash_pages(self._client, buried, _FIELDS_PER_STEP):
            found = [
                (name.decode(), version)
                for name, value in pairs
                if (version := read_tombstone(value)) is not None
            ]
            if found:
                yield found

    async def versions(
        self, collection: Collection, external_ids: Sequence[str]
    ) -> list[StoredVersion | None]:
        """One round trip up to 1,000 ids. A map entry that cannot be read stands for nothing."""
        values = await self._fields(self._keys.of(collection).ids, collection, external_ids)
        entries = [None if value is None else read_entry(value) for value in values]
        return [
            None if entry is None else StoredVersion(name, *entry)
            for name, entry in zip(external_ids, entries, strict=True)
        ]

    async def deletions(
        self, collection: Collection, external_ids: Sequence[str]
    ) -> list[int | None]:
        """As `versions`."""
        buried = self._keys.of(collection).tombstones
        values = await self._fields(buried, collection, external_ids)
        return [None if value is None else read_tombstone(value) for value in values]

    async def _fields(
        self, hashes: Sequence[bytes], collection: Collection, external_ids: Sequence[str]
    ) -> list[bytes | None]:
        """What the hash of each id's partition holds under it. hashes: one a partition."""
        found: list[bytes | None] = [None] * len(external_ids)
        for start, chunk in chunks(external_ids):
            groups = by_partition(chunk, collection)
            commands: list[Command] = [
                (b"HMGET", hashes[partition], *(chunk[at].encode() for at in group))
                for partition, group in groups.items()
            ]
            answers = await self._client.batch(commands)
            for group, values in zip(groups.values(), answers, strict=True):
                for at, value in zip(group, values, strict=True):
                    found[start + at] = value
        return found

    async def live_documents(
        self, collection: Collection, ids: Ids, with_vectors: bool
    ) -> list[StoredDocument | None]:
        """Payloads first, for the names; then the id map says which of them still stand."""
        keys = self._keys.of(collection)
        payloads = await self._reads.values(keys.payloads(ids))
        names = [external_id_in(payload) for payload in payloads]
        known = [at for at, name in enumerate(names) if name is not None]
        stands = await self.versions(collection, [names[at] or "" for at in known])
        found: list[StoredDocument | None] = [None] * len(ids)
        for at, entry in zip(known, stands, strict=True):
            if entry is not None and entry.sequence == split_id(int(ids[at]))[1]:
                found[at] = StoredDocument(
                    entry.external_id, entry.sequence, entry.version, None, payloads[at]
                )
        if with_vectors:
            await self._add_vectors(keys.vectors(ids), found)
        return found

    async def _add_vectors(self, keys: list[bytes], found: list[StoredDocument | None]) -> None:
        places = [at for at, one in enumerate(found) if one is not None]
        values = await self._reads.values([keys[at] for at in places])
        for at, value in zip(places, values, strict=True):
            one = found[at]
            assert one is not None
            found[at] = StoredDocument(
                one.external_id, one.sequence, one.version, value, one.payload
            )
