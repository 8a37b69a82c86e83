"""The VectorStore on a Redis-protocol server. Tested with Valkey 9.1 and Redis 7.0.

Vectors and payloads are plain string keys, so that MGET reads any number in one round trip and a
rerank never touches text. redis_keys.py has the layout, redis_scripts.py the atomic writes,
redis_epochs.py what keeps sequence numbers apart when a server loses its last writes.

What an answered write survives: a crash of any process; a power cut as far as the server's
`appendfsync` says; a failover where `wait_replicas` is set, or the replica had caught up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import numpy as np

from nestvec.adapters.redis_backup import RedisBackup
from nestvec.adapters.redis_catalogue import RedisCatalogue
from nestvec.adapters.redis_client import RedisClient
from nestvec.adapters.redis_copying import RedisCopying
from nestvec.adapters.redis_epochs import Epochs
from nestvec.adapters.redis_keys import Keyspace, locate
from nestvec.adapters.redis_log import RedisLog
from nestvec.adapters.redis_migrations import RedisMigrations
from nestvec.adapters.redis_pool import Command
from nestvec.adapters.redis_reads import KEYS_PER_COMMAND, RedisReads, chunks
from nestvec.adapters.redis_settings import RedisSettings
from nestvec.adapters.redis_streams import RedisStreams
from nestvec.adapters.redis_usage import measure
from nestvec.adapters.redis_writes import RedisWrites
from nestvec.adapters.store_rules import by_partition, external_id_in
from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.document import HEAD_BYTES, external_id_at_head
from nestvec.core.errors import CorruptVector
from nestvec.core.migration import Listing, Migration
from nestvec.core.placement import internal_id, internal_ids
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


class RedisStore:
    """A `VectorStore`. In a cluster the keys of each command are in one slot."""

    def __init__(self, settings: RedisSettings) -> None:
        self._keys = Keyspace(settings.prefix)
        self._client = RedisClient(settings, Epochs(self._keys.primary))
        self._reads = RedisReads(self._client, settings.in_cluster)
        self._catalogue = RedisCatalogue(self._client, self._keys)
        self._writes = RedisWrites(self._client, self._keys, settings.in_cluster)
        self._log = RedisLog(self._client, self._keys, self._reads)
        self._streams = RedisStreams(self._client, self._keys)
        self._backup = RedisBackup(self._client, self._keys)
        self._copying = RedisCopying(self._client, self._keys, self._reads)
        self._migrations = RedisMigrations(self._client, self._keys, self._catalogue)
        self._format_known = False

    @property
    def address(self) -> str:
        """Where the server is, without credentials."""
        return self._client.address

    async def collections(self) -> list[Collection]:
        return list((await self.listing()).current)

    async def listing(self) -> Listing:
        await self._require_format()
        return await self._catalogue.listing()

    async def catalogue_revision(self) -> int:
        return await self._catalogue.revision()

    async def add_generation(
        self, collection: Collection, assets: Mapping[str, bytes]
    ) -> Collection:
        await self._require_format()
        return await self._catalogue.add(collection, assets)

    async def create_collection(
        self, collection: Collection, assets: Mapping[str, bytes]
    ) -> Collection:
        """Enter it into the catalogue with its assets. Raises AlreadyExists by name.

        Returns it with the generation that it was given: one never used before under this name,
        whatever `collection` says.
        """
        await self._require_format()
        return await self._catalogue.create(collection, assets)

    async def update_collection(
        self, collection: Collection, added: Mapping[str, bytes], dropped: Sequence[str] = ()
    ) -> None:
        await self._require_format()
        await self._catalogue.update(collection, added, dropped)

    async def drop_collection(self, collection: Collection) -> None:
        await self._require_format()
        await self._catalogue.leave(collection)
        await self._catalogue.finish_drops()

    async def lists(self, collection: Collection) -> bool:
        await self._require_format()
        return await self._catalogue.lists(collection)

    async def finish_drops(self) -> None:
        """Delete what a crash left of dropped collections. For a process that starts."""
        await self._require_format()
        await self._catalogue.finish_drops()

    async def asset(self, collection: Collection, name: str) -> bytes:
        await self._require_format()
        return await self._catalogue.asset(collection, name)

    async def put(self, collection: Collection, records: Sequence[StoreRecord]) -> list[Placed]:
        """Write records under new internal ids, point their external ids at them, and log it.

        Atomic a partition; on a standalone server also over partitions, up to 4 MiB. After an
        error some partitions may be written and others not: write all of `records` again. What
        the first try replaced is then named by no answer, only by the log.
        Raises InvalidRequest on an id that stands twice, or more records than 16,384.
        """
        await self._require_format()
        return await self._writes.put(collection, records)

    async def put_newer(
        self, collection: Collection, records: Sequence[StoreRecord]
    ) -> list[Placed]:
        """As `put`, but for what stands at the same version."""
        await self._require_format()
        return await self._writes.put(collection, records, newer_only=True)

    async def delete(
        self, collection: Collection, deletions: Sequence[StoreDeletion]
    ) -> list[Deleted]:
        """Forget external ids, keep tombstones, and log it. A full store does not refuse it.

        Atomic a partition. Raises InvalidRequest on an id that stands twice, or more deletions
        than 16,384.
        """
        await self._require_format()
        return await self._writes.delete(collection, deletions)

    async def find(self, collection: Collection, external_ids: Sequence[str]) -> Ids:
        """(n,) int64 internal ids, -1 where there is none.

        Raises CorruptVector on an id map entry that cannot be read.
        """
        await self._require_format()
        maps = self._keys.of(collection).ids
        found = np.full(len(external_ids), -1, np.int64)
        for start, chunk in chunks(external_ids):
            groups = by_partition(chunk, collection)
            commands: list[Command] = [
                (b"HMGET", maps[partition], *(chunk[i].encode() for i in positions))
                for partition, positions in groups.items()
            ]
            answers = await self._client.batch(commands)
            for (partition, positions), values in zip(groups.items(), answers, strict=True):
                for position, value in zip(positions, values, strict=True):
                    if value is not None:
                        sequence = _located(value, chunk[position])
                        found[start + position] = internal_id(partition, sequence)
        return found

    async def positions(self, collection: Collection, partitions: range) -> dict[int, int]:
        """Partition -> last sequence; 0 where nothing was written. One round trip up to 1,000."""
        await self._require_format()
        return await self._log.positions(collection, partitions)

    async def read_log(
        self, collection: Collection, after: Mapping[int, int], limit: int
    ) -> list[LogBatch]:
        """At most one batch a partition. An entry that cannot be read is a discontinuity."""
        await self._require_format()
        return await self._log.read(collection, after, limit)

    async def tidy(self, collection: Collection, upto: Mapping[int, int], keep: int) -> int:
        """Bounded: what is left over, the next call frees. A full store does not refuse it."""
        await self._require_format()
        return await self._log.tidy(collection, upto, keep)

    async def expire_tombstones(self, collection: Collection, before_ms: int) -> int:
        await self._require_format()
        return await self._log.expire_tombstones(collection, before_ms)

    async def stream(self, collection: Collection, stream_id: str) -> StreamState | None:
        await self._require_format()
        return await self._streams.state(collection, stream_id)

    async def stream_digests(
        self, collection: Collection, stream_id: str, first: int, count: int
    ) -> bytes:
        await self._require_format()
        return await self._streams.digests(collection, stream_id, first, count)

    async def advance_stream(
        self, collection: Collection, stream_id: str, first: int, digests: bytes
    ) -> None:
        await self._require_format()
        await self._streams.advance(collection, stream_id, first, digests)

    async def documents(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[list[StoredDocument]]:
        """Each at least once if it lives through the whole scan, the latest one last."""
        await self._require_format()
        async for batch in self._backup.documents(collection, partition):
            yield batch

    async def entries(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[list[StoredVersion]]:
        await self._require_format()
        async for batch in self._copying.entries(collection, partition):
            yield batch

    async def tombstones(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[list[tuple[str, int]]]:
        await self._require_format()
        async for batch in self._copying.tombstones(collection, partition):
            yield batch

    async def versions(
        self, collection: Collection, external_ids: Sequence[str]
    ) -> list[StoredVersion | None]:
        await self._require_format()
        return await self._copying.versions(collection, external_ids)

    async def deletions(
        self, collection: Collection, external_ids: Sequence[str]
    ) -> list[int | None]:
        await self._require_format()
        return await self._copying.deletions(collection, external_ids)

    async def live_documents(
        self, collection: Collection, ids: Ids, with_vectors: bool
    ) -> list[StoredDocument | None]:
        await self._require_format()
        return await self._copying.live_documents(collection, ids, with_vectors)

    async def restore(
        self,
        collection: Collection,
        partition: int,
        documents: Sequence[StoredDocument],
        position: int,
    ) -> None:
        """Raises InvalidRequest on a document beyond `position`. Safe to repeat."""
        await self._require_format()
        await self._backup.restore(collection, partition, documents, position)

    async def vectors(self, collection: Collection, ids: Ids) -> list[bytes | None]:
        """Encoded full vectors, None where there is none. One round trip up to 1,000 ids."""
        if not self._format_known:
            await self._require_format()
        return await self._reads.values(self._keys.of(collection).vectors(ids))

    async def payloads(self, collection: Collection, ids: Ids) -> list[bytes | None]:
        """Encoded payloads, None where there is none. One round trip up to 1,000 ids."""
        if not self._format_known:
            await self._require_format()
        return await self._reads.values(self._keys.of(collection).payloads(ids))

    async def external_ids(self, collection: Collection, ids: Ids) -> list[str | None]:
        """From the first bytes of payloads; from whole ones where that is too little."""
        await self._require_format()
        keys = self._keys.of(collection).payloads(ids)
        heads = await self._reads.heads(keys, HEAD_BYTES)
        names = [external_id_at_head(head) for head in heads]
        unclear = [at for at, head in enumerate(heads) if head and names[at] is None]
        if unclear:
            payloads = await self._reads.values([keys[at] for at in unclear])
            for at, payload in zip(unclear, payloads, strict=True):
                names[at] = external_id_in(payload)
        return names

    async def live_ids(self, collection: Collection, partitions: range) -> AsyncIterator[Ids]:
        """A map entry that cannot be read names no live document, and is passed over."""
        await self._require_format()
        keys = self._keys.of(collection)
        for partition in partitions:
            cursor = b"0"
            while True:
                cursor, fields = await self._client.call(
                    b"HSCAN", keys.ids[partition], cursor, b"COUNT", KEYS_PER_COMMAND
                )
                located = (locate(value) for value in fields[1::2])
                sequences = [sequence for sequence in located if sequence is not None]
                if sequences:
                    yield internal_ids([partition] * len(sequences), sequences)
                if cursor == b"0":
                    break

    async def count(self, collection: Collection) -> int:
        await self._require_format()
        ids = self._keys.of(collection).ids
        lengths: list[int] = await self._client.batch([(b"HLEN", key) for key in ids])
        return sum(lengths)

    async def usage(self, collection: Collection) -> StoreUsage:
        """The id map and the log count with the vectors; payloads stand apart."""
        await self._require_format()
        return await measure(self._client, self._keys.of(collection))

    async def migration(self, name: str) -> Migration | None:
        await self._require_format()
        return await self._migrations.read(name)

    async def change_migration(
        self, before: Migration | None, after: Migration, owner: str = ""
    ) -> Migration | None:
        await self._require_format()
        return await self._migrations.change(before, after, owner)

    async def switch_generation(
        self, before: Migration, after: Migration, owner: str = ""
    ) -> Migration | None:
        await self._require_format()
        return await self._migrations.switch(before, after, owner)

    async def claim_migration(self, name: str, owner: str, ttl_s: float) -> bool:
        await self._require_format()
        return await self._migrations.claim(name, owner, ttl_s)

    async def release_migration(self, name: str, owner: str) -> None:
        await self._require_format()
        await self._migrations.release(name, owner)

    async def tally(self, name: str, what: str) -> dict[str, int]:
        await self._require_format()
        return await self._migrations.tally(name, what)

    async def set_tally(self, name: str, what: str, numbers: Mapping[str, int]) -> None:
        await self._require_format()
        await self._migrations.set_tally(name, what, numbers)

    async def add_to_tally(self, name: str, what: str, numbers: Mapping[str, int]) -> None:
        await self._require_format()
        await self._migrations.add_to_tally(name, what, numbers)

    async def drop_tally(self, name: str, what: str) -> None:
        await self._require_format()
        await self._migrations.drop_tally(name, what)

    async def require_kind(self) -> None:
        """That every server answers, and is a cluster's node where the settings say so. Raises
        ConfigError, or StoreUnavailable.
        """
        await self._client.require_kind()

    async def ping(self) -> None:
        await self._client.everywhere(b"PING")

    async def close(self) -> None:
        await self._client.close()

    async def _require_format(self) -> None:
        if not self._format_known:
            await self._catalogue.check_format()
            self._format_known = True


def _located(value: bytes, external_id: str) -> int:
    sequence = locate(value)
    if sequence is None:
        raise CorruptVector(repr(external_id), "its id map entry cannot be read")
    return sequence
