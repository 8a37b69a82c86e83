"""Whole collections out of and into a Redis-protocol server, document by document."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from nestvec.adapters.redis_client import RedisClient
from nestvec.adapters.redis_keys import Keyspace, entry_value, read_entry
from nestvec.adapters.redis_pool import Command
from nestvec.adapters.redis_reads import hash_pages
from nestvec.adapters.redis_scripts import RESTORE
from nestvec.adapters.redis_writes import BYTES_PER_TRANSACTION
from nestvec.adapters.store_rules import require_restorable
from nestvec.core.collection import Collection
from nestvec.core.ports import StoredDocument
from nestvec.core.watermark import split_sequence

_DOCUMENTS_PER_STEP = 256
_DOCUMENTS_PER_CALL = 1000


class RedisBackup:
    """Reads everything that is live, and writes it under the sequences it had."""

    def __init__(self, client: RedisClient, keys: Keyspace) -> None:
        self._client = client
        self._keys = keys

    async def documents(
        self, collection: Collection, partition: int
    ) -> AsyncIterator[list[StoredDocument]]:
        """Each at least once if it lives through the whole scan; where one is written again
        meanwhile, both may come, the later one last. A map entry that cannot be read is passed
        over.
        """
        ids = self._keys.of(collection).ids[partition]
        async for pairs in hash_pages(self._client, ids, _DOCUMENTS_PER_STEP):
            found = await self._read(collection, partition, pairs)
            if found:
                yield found

    async def _read(
        self, collection: Collection, partition: int, pairs: list[tuple[bytes, bytes]]
    ) -> list[StoredDocument]:
        keys = self._keys.of(collection)
        entries = [
            (name.decode(), *entry)
            for name, value in pairs
            if (entry := read_entry(value)) is not None
        ]
        if not entries:
            return []
        names = [b"%d" % sequence for _, sequence, _ in entries]
        vectors, payloads = await self._client.batch(
            [
                (b"MGET", *(prefix[partition] + name for name in names))
                for prefix in (keys.vector_prefixes, keys.payload_prefixes)
            ]
        )
        return [
            StoredDocument(*entry, vector, payload)
            for entry, vector, payload in zip(entries, vectors, payloads, strict=True)
        ]

    async def restore(
        self,
        collection: Collection,
        partition: int,
        documents: Sequence[StoredDocument],
        position: int,
    ) -> None:
        """In transactions of about 4 MiB: after an error, write all of it again. The epoch is
        raised above the position's, so that no writer goes on in one of the restored log.
        """
        require_restorable(documents, position)
        keys = self._keys.of(collection)
        head: Command = (
            3,
            keys.sequences[partition],
            keys.ids[partition],
            keys.tidied[partition],
            keys.vector_prefixes[partition],
            keys.payload_prefixes[partition],
            position,
        )
        await self._client.raise_epoch(split_sequence(position)[0] + 1)
        call, nbytes, count = list(head), 0, 0
        for one in documents:
            call += (
                one.external_id,
                entry_value(one.sequence, one.version),
                f"{one.vector is not None:d}{one.payload is not None:d}",
                one.vector or b"",
                one.payload or b"",
            )
            nbytes += len(one.vector or b"") + len(one.payload or b"")
            count += 1
            if nbytes >= BYTES_PER_TRANSACTION or count == _DOCUMENTS_PER_CALL:
                await self._client.run(RESTORE, [tuple(call)])
                call, nbytes, count = list(head), 0, 0
        if count or not documents:
            await self._client.run(RESTORE, [tuple(call)])
