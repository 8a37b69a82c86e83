"""The VectorStore on a Redis-protocol server. Tested with Valkey 9.1 and Redis 7.0.

Vectors and payloads are plain string keys, so that MGET reads any number in one round trip and a
rerank never touches text. redis_keys.py has the layout, redis_scripts.py the atomic writes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from nestvec.adapters.redis_catalogue import RedisCatalogue
from nestvec.adapters.redis_client import Command, RedisClient
from nestvec.adapters.redis_keys import Keyspace, PartitionKeys, by_partition, locate, tag_of
from nestvec.adapters.redis_pool import RedisSettings
from nestvec.adapters.redis_scripts import PUT
from nestvec.adapters.redis_usage import measure
from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.errors import CorruptVector, InvalidRequest
from nestvec.core.placement import internal_id, internal_ids, partition_of
from nestvec.core.ports import Placed, StoreRecord, StoreUsage

T = TypeVar("T")

# One command is one turn of the server's only thread: at a thousand it is still about 1 ms.
_KEYS_PER_COMMAND = 1000
# A transaction holds the server for about 1 ms a MiB; a partition's records are never split.
_BYTES_PER_TRANSACTION = 4 << 20
MAX_RECORDS_PER_PUT = 1 << 14


class RedisStore:
    """A `VectorStore`. `cluster` in the settings keeps the keys of each command in one slot."""

    def __init__(self, settings: RedisSettings) -> None:
        self._client = RedisClient(settings)
        self._keys = Keyspace(settings.prefix)
        self._catalogue = RedisCatalogue(self._client, self._keys)
        self._cluster = settings.cluster
        self._format_known = False

    @property
    def address(self) -> str:
        """Where the server is, without credentials."""
        return self._client.address

    async def collections(self) -> list[Collection]:
        await self._require_format()
        return await self._catalogue.collections()

    async def create_collection(
        self, collection: Collection, assets: Mapping[str, bytes]
    ) -> Collection:
        """Enter it into the catalogue with its assets. Raises AlreadyExists by name.

        Returns it with the generation that it was given: one never used before under this name,
        whatever `collection` says.
        """
        await self._require_format()
        return await self._catalogue.create(collection, assets)

    async def drop_collection(self, collection: Collection) -> None:
        await self._require_format()
        await self._catalogue.leave(collection)
        await self._catalogue.finish_drops()

    async def finish_drops(self) -> None:
        """Delete what a crash left of dropped collections. For a process that starts."""
        await self._require_format()
        await self._catalogue.finish_drops()

    async def asset(self, collection: Collection, name: str) -> bytes:
        await self._require_format()
        return await self._catalogue.asset(collection, name)

    async def put(self, collection: Collection, records: Sequence[StoreRecord]) -> list[Placed]:
        """Write records under new internal ids and point their external ids at them.

        Atomic a partition; on a standalone server also over partitions, up to 4 MiB. After an
        error some partitions may be written and others not: write all of `records` again. What
        the first try replaced is then named by no answer; only the id map knows that it is dead.
        Raises InvalidRequest on an id that stands twice, or more records than 16,384.
        """
        await self._require_format()
        _check_records(records)
        keys = self._keys.of(collection)
        groups = by_partition([partition_of(r.external_id, collection.partitions) for r in records])
        placed: dict[int, Placed] = {}
        for partitions in _transactions(groups, records):
            calls = [
                _put_call(keys, partition, [records[i] for i in groups[partition]])
                for partition in partitions
            ]
            answers = await self._client.run(PUT, calls, atomic=not self._cluster)
            for partition, answer in zip(partitions, answers, strict=True):
                pairs = zip(answer[::2], answer[1::2], strict=True)
                for position, (new, old) in zip(groups[partition], pairs, strict=True):
                    replaced = internal_id(partition, old) if old >= 0 else -1
                    placed[position] = Placed(internal_id(partition, new), replaced)
        return [placed[position] for position in range(len(records))]

    async def find(self, collection: Collection, external_ids: Sequence[str]) -> Ids:
        """(n,) int64 internal ids, -1 where there is none.

        Raises CorruptVector on an id map entry that cannot be read.
        """
        await self._require_format()
        found = np.full(len(external_ids), -1, np.int64)
        for start, chunk in _chunks(external_ids):
            groups = by_partition([partition_of(i, collection.partitions) for i in chunk])
            answers = await self._client.batch(
                self._map_commands(b"HMGET", collection, chunk, groups)
            )
            for (partition, positions), values in zip(groups.items(), answers, strict=True):
                for position, value in zip(positions, values, strict=True):
                    if value is not None:
                        sequence = _located(value, chunk[position])
                        found[start + position] = internal_id(partition, sequence)
        return found

    async def unmap(self, collection: Collection, external_ids: Sequence[str]) -> None:
        await self._require_format()
        for _, chunk in _chunks(external_ids):
            groups = by_partition([partition_of(i, collection.partitions) for i in chunk])
            await self._client.batch(self._map_commands(b"HDEL", collection, chunk, groups))

    async def purge(self, collection: Collection, ids: Ids) -> None:
        await self._require_format()
        keys = self._keys.of(collection)
        for _, chunk in _chunks(keys.vectors(ids) + keys.payloads(ids)):
            await self._client.batch(
                [(b"UNLINK", *(chunk[i] for i in group)) for group in self._together(chunk)]
            )

    async def vectors(self, collection: Collection, ids: Ids) -> list[bytes | None]:
        """Encoded full vectors, None where there is none. One round trip up to 1,000 ids."""
        return await self._read(self._keys.of(collection).vectors(ids))

    async def payloads(self, collection: Collection, ids: Ids) -> list[bytes | None]:
        """Encoded payloads, None where there is none. One round trip up to 1,000 ids."""
        return await self._read(self._keys.of(collection).payloads(ids))

    async def live_ids(self, collection: Collection, partitions: range) -> AsyncIterator[Ids]:
        """A map entry that cannot be read names no live document, and is passed over."""
        await self._require_format()
        keys = self._keys.of(collection)
        for partition in partitions:
            cursor = b"0"
            while True:
                cursor, fields = await self._client.call(
                    b"HSCAN", keys.ids[partition], cursor, b"COUNT", _KEYS_PER_COMMAND
                )
                located = (locate(value) for value in fields[1::2])
                sequences = [sequence for sequence in located if sequence is not None]
                if sequences:
                    yield internal_ids([partition] * len(sequences), sequences)
                if cursor == b"0":
                    break

    async def usage(self, collection: Collection) -> StoreUsage:
        """The id map counts with the vectors; payloads stand apart."""
        await self._require_format()
        return await measure(self._client, self._keys.of(collection))

    async def ping(self) -> None:
        await self._client.call(b"PING")

    async def close(self) -> None:
        await self._client.close()

    async def _require_format(self) -> None:
        if not self._format_known:
            await self._catalogue.check_format()
            self._format_known = True

    async def _read(self, keys: list[bytes]) -> list[bytes | None]:
        if not self._format_known:
            await self._require_format()
        if len(keys) <= _KEYS_PER_COMMAND:
            return await self._read_chunk(keys)
        return [value for _, chunk in _chunks(keys) for value in await self._read_chunk(chunk)]

    async def _read_chunk(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if not keys:
            return []
        values: list[bytes | None]
        if not self._cluster:
            values = await self._client.call(b"MGET", *keys)
            return values
        values = [None] * len(keys)
        groups = self._together(keys)
        answers = await self._client.batch([(b"MGET", *(keys[i] for i in g)) for g in groups])
        for group, answer in zip(groups, answers, strict=True):
            for position, value in zip(group, answer, strict=True):
                values[position] = value
        return values

    def _together(self, keys: Sequence[bytes]) -> list[list[int]]:
        """Positions of keys that one command may name: all of them, or in a cluster one slot's."""
        if not self._cluster:
            return [list(range(len(keys)))]
        groups: dict[bytes, list[int]] = {}
        for position, key in enumerate(keys):
            groups.setdefault(tag_of(key), []).append(position)
        return list(groups.values())

    def _map_commands(
        self,
        command: bytes,
        collection: Collection,
        external_ids: Sequence[str],
        groups: Mapping[int, list[int]],
    ) -> list[Command]:
        """`command` on the id map of each partition, with the ids that belong to it."""
        maps = self._keys.of(collection).ids
        return [
            (command, maps[partition], *(external_ids[i].encode() for i in positions))
            for partition, positions in groups.items()
        ]


def _chunks(items: Sequence[T]) -> Iterator[tuple[int, Sequence[T]]]:
    """(start, items) of at most `_KEYS_PER_COMMAND`."""
    for start in range(0, len(items), _KEYS_PER_COMMAND):
        yield start, items[start : start + _KEYS_PER_COMMAND]


def _check_records(records: Sequence[StoreRecord]) -> None:
    if len(records) > MAX_RECORDS_PER_PUT:
        raise InvalidRequest(
            "records", f"{len(records):,} at once, at most {MAX_RECORDS_PER_PUT:,}; write in parts"
        )
    seen: set[str] = set()
    for position, record in enumerate(records):
        if record.external_id in seen:
            raise InvalidRequest(
                f"records.{position}.external_id",
                f"{record.external_id!r} stands twice in one batch; keep one of the two",
            )
        seen.add(record.external_id)


def _transactions(
    groups: Mapping[int, list[int]], records: Sequence[StoreRecord]
) -> Iterator[list[int]]:
    """Partitions whose records travel together."""
    partitions: list[int] = []
    nbytes = 0
    for partition, positions in groups.items():
        size = sum(len(records[i].vector) + len(records[i].payload) for i in positions)
        if partitions and nbytes + size > _BYTES_PER_TRANSACTION:
            yield partitions
            partitions, nbytes = [], 0
        partitions.append(partition)
        nbytes += size
    if partitions:
        yield partitions


def _put_call(keys: PartitionKeys, partition: int, records: Sequence[StoreRecord]) -> Command:
    """PUT's keys and arguments for the records of one partition."""
    call: list[bytes | str | int] = [
        2,
        keys.sequences[partition],
        keys.ids[partition],
        keys.vector_prefixes[partition],
        keys.payload_prefixes[partition],
    ]
    for record in records:
        call += record.external_id, record.vector, record.payload
    return tuple(call)


def _located(value: bytes, external_id: str) -> int:
    sequence = locate(value)
    if sequence is None:
        raise CorruptVector(repr(external_id), "its id map entry cannot be read")
    return sequence
