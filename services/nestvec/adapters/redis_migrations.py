"""Migrations on a Redis-protocol server: their records, who works on them, and numbers beside them.

All of it is in the catalogue's slot: a switch changes record and catalogue in one step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from nestvec.adapters.redis_catalogue import RedisCatalogue
from nestvec.adapters.redis_catalogue_scripts import CHANGE, CLAIM, RELEASE, SWITCH
from nestvec.adapters.redis_client import RedisClient
from nestvec.adapters.redis_keys import Keyspace
from nestvec.adapters.redis_pool import Command
from nestvec.adapters.redis_scripts import Script
from nestvec.core.migration import Migration, generation_name


class RedisMigrations:
    """Changed by compare-and-set alone."""

    def __init__(self, client: RedisClient, keys: Keyspace, catalogue: RedisCatalogue) -> None:
        self._client = client
        self._keys = keys
        self._catalogue = catalogue

    async def read(self, name: str) -> Migration | None:
        """Raises ConfigError on a record that cannot be read."""
        record = await self._client.call(b"HGET", self._keys.migrations, name)
        return None if record is None else self._catalogue.read_migration(name.encode(), record)

    async def change(
        self, before: Migration | None, after: Migration, owner: str
    ) -> Migration | None:
        """See VectorStore.change_migration."""
        keys, name = self._keys, after.collection
        head: Command = (3, keys.migrations, keys.migrating(name), keys.revision)
        return await self._write(CHANGE, head, before, after, owner)

    async def switch(self, before: Migration, after: Migration, owner: str) -> Migration | None:
        """See VectorStore.switch_generation."""
        keys, name = self._keys, after.collection
        head: Command = (
            5,
            keys.migrations,
            keys.migrating(name),
            keys.revision,
            keys.collections,
            keys.beside,
        )
        tail: Command = (
            before.serving,
            generation_name(name, before.serving),
            generation_name(name, after.serving),
        )
        return await self._write(SWITCH, head, before, after, owner, tail)

    async def _write(
        self,
        script: Script,
        head: Command,
        before: Migration | None,
        after: Migration,
        owner: str,
        tail: Command = (),
    ) -> Migration | None:
        expected = -1 if before is None else before.revision
        written = replace(after, revision=max(expected, 0) + 1)
        record = json.dumps(written.to_dict(), separators=(",", ":")).encode()
        call: Command = (*head, after.collection, expected, owner, record, *tail)
        (answer,) = await self._client.run(script, [call])
        return written if answer else None

    async def claim(self, name: str, owner: str, ttl_s: float) -> bool:
        """See VectorStore.claim_migration. By the server's clock."""
        call: Command = (1, self._keys.migrating(name), owner, max(1, round(ttl_s * 1000)))
        (answer,) = await self._client.run(CLAIM, [call])
        return bool(answer)

    async def release(self, name: str, owner: str) -> None:
        """See VectorStore.release_migration."""
        await self._client.run(RELEASE, [(1, self._keys.migrating(name), owner)])

    async def tally(self, name: str, what: str) -> dict[str, int]:
        """See VectorStore.tally."""
        pairs = await self._client.call(b"HGETALL", self._keys.tally(name, what))
        return {
            field.decode(): int(value) for field, value in zip(pairs[::2], pairs[1::2], strict=True)
        }

    async def set_tally(self, name: str, what: str, numbers: Mapping[str, int]) -> None:
        """See VectorStore.set_tally."""
        if numbers:
            pairs = [part for pair in numbers.items() for part in pair]
            await self._client.call(b"HSET", self._keys.tally(name, what), *pairs)

    async def add_to_tally(self, name: str, what: str, numbers: Mapping[str, int]) -> None:
        """See VectorStore.add_to_tally."""
        key = self._keys.tally(name, what)
        await self._client.batch(
            [(b"HINCRBY", key, field, number) for field, number in numbers.items()]
        )

    async def drop_tally(self, name: str, what: str) -> None:
        """See VectorStore.drop_tally."""
        await self._client.call(b"UNLINK", self._keys.tally(name, what))
