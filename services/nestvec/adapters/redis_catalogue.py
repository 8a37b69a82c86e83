"""The catalogue on a Redis-protocol server: which collections there are, and their assets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nestvec.adapters.redis_catalogue_scripts import ADD, CREATE, LEAVE, LISTING, LISTS, UPDATE
from nestvec.adapters.redis_client import RedisClient
from nestvec.adapters.redis_keys import FORMAT, Keyspace
from nestvec.adapters.redis_pool import Command
from nestvec.core.collection import Collection
from nestvec.core.errors import AlreadyExists, ConfigError, NotFound, StoreUnavailable
from nestvec.core.migration import Listing, Migration, generation_name

# Keys a SCAN step looks at, and so about the most it returns: under a millisecond for the server.
_SCAN_COUNT = 1000
# How often a generation may turn out to be in use before something else must be wrong.
_GENERATION_TRIES = 8


class RedisCatalogue:
    """Collections enter and leave here atomically, whatever becomes of their keys."""

    def __init__(self, client: RedisClient, keys: Keyspace) -> None:
        self._client = client
        self._keys = keys

    async def check_format(self) -> None:
        """Raise ConfigError when another version of nestvec wrote this namespace."""
        found = await self._client.call(b"GET", self._keys.format)
        if found is not None:
            self._require_format(found)

    async def listing(self) -> Listing:
        """All of it. Raises ConfigError on a record that cannot be read."""
        keys = self._keys
        call: Command = (4, keys.revision, keys.collections, keys.beside, keys.migrations)
        (answer,) = await self._client.run(LISTING, [call], reads_only=True)
        revision, current, beside, migrations = answer
        return Listing(
            int(revision),
            tuple(self._read(*one) for one in _sorted(current)),
            tuple(self._read(*one) for one in _sorted(beside)),
            tuple(self.read_migration(*one) for one in _sorted(migrations)),
        )

    async def revision(self) -> int:
        """Another one after each change."""
        return int(await self._client.call(b"HGET", self._keys.revision, b"catalogue") or 0)

    async def lists(self, collection: Collection) -> bool:
        """Whether this generation is in it. Raises ConfigError on a record that cannot be read."""
        name, generation = collection.name, collection.generation
        call: Command = (
            2,
            self._keys.collections,
            self._keys.beside,
            name,
            generation,
            generation_name(name, generation),
        )
        (answer,) = await self._client.run(LISTS, [call], reads_only=True)
        return bool(answer)

    async def create(self, collection: Collection, assets: Mapping[str, bytes]) -> Collection:
        """Enter it under a generation that was never used. Raises AlreadyExists."""
        if await self._client.call(b"HEXISTS", self._keys.collections, collection.name):
            raise _taken(collection.name)
        created = replace(collection, generation=await self._unused_generation(collection))
        command: list[bytes | str | int] = [
            4,
            self._keys.format,
            self._keys.collections,
            self._keys.assets(created.name, created.generation),
            self._keys.revision,
            FORMAT,
            created.name,
            _record_of(created),
        ]
        for name, value in assets.items():
            command += name, value
        (answer,) = await self._client.run(CREATE, [tuple(command)])
        if answer == 0:
            raise _taken(collection.name)
        if answer != 1:
            self._require_format(answer)
        return created

    async def add(self, collection: Collection, assets: Mapping[str, bytes]) -> Collection:
        """Enter one beside the one that its name stands for. Raises NotFound."""
        name = collection.name
        added = replace(collection, generation=await self._unused_generation(collection))
        command: list[bytes | str | int] = [
            4,
            self._keys.collections,
            self._keys.beside,
            self._keys.assets(name, added.generation),
            self._keys.revision,
            name,
            generation_name(name, added.generation),
            _record_of(added),
        ]
        for asset, value in assets.items():
            command += asset, value
        (answer,) = await self._client.run(ADD, [tuple(command)])
        if not answer:
            raise NotFound("collection", name, "it was dropped")
        return added

    async def update(
        self, collection: Collection, added: Mapping[str, bytes], dropped: Sequence[str]
    ) -> None:
        """Replace the record of this generation. Raises NotFound when it is not in the catalogue.

        Without assets to add, a full store does not refuse it.
        """
        name, generation = collection.name, collection.generation
        command: list[bytes | str | int] = [
            4,
            self._keys.collections,
            self._keys.assets(name, generation),
            self._keys.beside,
            self._keys.revision,
            name,
            generation,
            generation_name(name, generation),
            _record_of(collection),
            len(dropped),
            *dropped,
        ]
        for asset, value in added.items():
            command += asset, value
        (answer,) = await self._client.run(UPDATE, [tuple(command)])
        if not answer:
            raise NotFound(
                "collection", f"{name}/{generation}", "it was dropped, or created again since"
            )

    async def leave(self, collection: Collection) -> None:
        """Take this generation out, and note that its keys are still to be deleted."""
        name, generation = collection.name, collection.generation
        call: Command = (
            5,
            self._keys.collections,
            self._keys.dropping,
            self._keys.assets(name, generation),
            self._keys.beside,
            self._keys.revision,
            name,
            generation,
            f"{name}:{generation}",
            generation_name(name, generation),
        )
        await self._client.run(LEAVE, [call])

    async def finish_drops(self) -> None:
        """Delete the keys of every generation that has left. Safe to repeat and to share.

        Where servers changed meanwhile a sweep may have missed keys, or its deletions may be lost:
        then it is noted as unfinished still, for the next call.
        """
        for entry in await self._client.call(b"SMEMBERS", self._keys.dropping):
            name, _, generation = entry.decode().rpartition(":")
            before = await self._client.whereabouts()
            await self._sweep(self._keys.pattern(name, int(generation)))
            if await self._client.whereabouts() == before:
                await self._client.call(b"SREM", self._keys.dropping, entry)

    async def asset(self, collection: Collection, name: str) -> bytes:
        """Raises NotFound when the generation has no such asset, or is gone."""
        key = self._keys.assets(collection.name, collection.generation)
        value: bytes | None = await self._client.call(b"HGET", key, name)
        if value is None:
            raise NotFound(
                "asset",
                f"{collection.name}/{collection.generation}/{name}",
                "the collection was dropped, or its record is damaged",
            )
        return value

    async def _unused_generation(self, collection: Collection) -> int:
        """The next number. One with keys is passed over: a counter restored from a backup, or one
        that lost its last second in a crash, may be behind what other nodes remember.
        """
        for _ in range(_GENERATION_TRIES):
            generation = int(
                await self._client.call(b"HINCRBY", self._keys.generations, collection.name, 1)
            )
            sequences = self._keys.of(replace(collection, generation=generation)).sequences
            if not any(await self._client.batch([(b"EXISTS", key) for key in sequences])):
                return generation
        raise StoreUnavailable(
            f"the store at {self._client.address} has keys of {_GENERATION_TRIES} generations of "
            f"{collection.name!r} that it never listed; delete keys beginning with "
            f"{self._keys.prefix}:{{{collection.name}: or take another name"
        )

    async def _sweep(self, pattern: bytes) -> None:
        """UNLINK all that matches, a step at a time: the servers answer others in between."""
        for primary in await self._client.primaries():
            cursor = b"0"
            while True:
                cursor, found = await primary.call(
                    b"SCAN", cursor, b"MATCH", pattern, b"COUNT", _SCAN_COUNT
                )
                if found:
                    await self._client.batch([(b"UNLINK", key) for key in found])
                if cursor == b"0":
                    break

    def _require_format(self, found: bytes) -> None:
        if found != FORMAT:
            raise ConfigError(
                f"the store at {self._client.address} holds format "
                f"{found.decode(errors='replace')} under prefix {self._keys.prefix!r}, this "
                f"version reads {FORMAT.decode()}; use the nestvec version that wrote it, or "
                f"another store.prefix"
            )

    def _read(self, name: bytes, record: bytes) -> Collection:
        try:
            return Collection.from_dict(json.loads(record))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            hash_key = self._keys.beside if b"@" in name else self._keys.collections
            raise ConfigError(
                f"the catalogue of the store at {self._client.address} has a damaged record of "
                f"collection {name.decode(errors='replace')!r} ({error!r}); restore it from a "
                f"backup, or delete that field of {hash_key.decode()}"
            ) from None

    def read_migration(self, name: bytes, record: bytes) -> Migration:
        """Raises ConfigError on one that cannot be read."""
        try:
            return Migration.from_dict(json.loads(record))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"the store at {self._client.address} has a damaged record of the migration of "
                f"collection {name.decode(errors='replace')!r} ({error!r}); delete that field of "
                f"{self._keys.migrations.decode()}, and what it filled is dropped"
            ) from None


def _taken(name: str) -> AlreadyExists:
    return AlreadyExists("collection", name, "drop it first, or choose another name")


def _sorted(pairs: list[bytes]) -> list[tuple[bytes, bytes]]:
    """By field."""
    return sorted(zip(pairs[::2], pairs[1::2], strict=True))


def _record_of(collection: Collection) -> bytes:
    return json.dumps(collection.to_dict(), separators=(",", ":")).encode()
