"""Documents written and deleted on a Redis-protocol server: one script call a partition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nestvec.adapters.redis_client import RedisClient
from nestvec.adapters.redis_keys import SEQUENCE_BYTES, VERSION_BYTES, Keyspace
from nestvec.adapters.redis_pool import Command
from nestvec.adapters.redis_scripts import DELETE, PUT
from nestvec.adapters.store_rules import Change, by_partition, require_distinct
from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest
from nestvec.core.placement import internal_id
from nestvec.core.ports import Deleted, Placed, StoreDeletion, StoreRecord
from nestvec.wall_clock import wall_clock_ms

# A transaction holds the server for about 1 ms a MiB; a partition's changes are never split.
BYTES_PER_TRANSACTION = 4 << 20
MAX_RECORDS_PER_PUT = 1 << 14


class RedisWrites:
    """Puts and deletions. After an error some partitions may be written and others not: send all of
    it again.
    """

    def __init__(self, client: RedisClient, keys: Keyspace, cluster: bool) -> None:
        self._client = client
        self._keys = keys
        self._cluster = cluster

    async def put(
        self, collection: Collection, records: Sequence[StoreRecord], newer_only: bool = False
    ) -> list[Placed]:
        """newer_only: as VectorStore.put_newer. Raises InvalidRequest on an id that stands twice,
        or more records than 16,384.
        """
        _check(records, "records")
        groups = by_partition([record.external_id for record in records], collection)
        sizes = {p: sum(_size(records[at]) for at in group) for p, group in groups.items()}
        placed: dict[int, Placed] = {}
        for partitions in _transactions(sizes):
            calls = [
                self._put_call(
                    collection, partition, [records[at] for at in groups[partition]], newer_only
                )
                for partition in partitions
            ]
            answers = await self._client.run(PUT, calls, atomic=not self._cluster, least_epoch=0)
            for partition, answer in zip(partitions, answers, strict=True):
                for nth, at in enumerate(groups[partition]):
                    placed[at] = _placed(partition, records[at], *answer[2 * nth : 2 * nth + 2])
        return [placed[at] for at in range(len(records))]

    async def delete(
        self, collection: Collection, deletions: Sequence[StoreDeletion]
    ) -> list[Deleted]:
        """Raises InvalidRequest on an id that stands twice, or more deletions than 16,384."""
        _check(deletions, "deletions")
        groups = by_partition([deletion.external_id for deletion in deletions], collection)
        # An id is at most 512 bytes: no number of them that is let through is too many.
        calls = [
            self._delete_call(collection, partition, [deletions[at] for at in group])
            for partition, group in groups.items()
        ]
        # No transaction over partitions: a full Redis refuses to queue whatever it is.
        answers = await self._client.run(DELETE, calls, least_epoch=0)
        deleted: dict[int, Deleted] = {}
        for (partition, group), answer in zip(groups.items(), answers, strict=True):
            for nth, at in enumerate(group):
                sequence, position, newest = answer[3 * nth : 3 * nth + 3]
                deleted[at] = Deleted(
                    _internal(partition, sequence),
                    _internal(partition, position),
                    int.from_bytes(newest, "big"),
                )
        return [deleted[at] for at in range(len(deletions))]

    def _put_call(
        self,
        collection: Collection,
        partition: int,
        records: Sequence[StoreRecord],
        newer_only: bool,
    ) -> Command:
        call = self._call(collection, partition)
        keys = self._keys.of(collection)
        call += keys.vector_prefixes[partition], keys.payload_prefixes[partition], int(newer_only)
        for record in records:
            call += record.external_id, _bytes_of(record), record.vector, record.payload
        return tuple(call)

    def _delete_call(
        self, collection: Collection, partition: int, deletions: Sequence[StoreDeletion]
    ) -> Command:
        call = self._call(collection, partition)
        call.append(wall_clock_ms().to_bytes(SEQUENCE_BYTES, "big"))
        for deletion in deletions:
            call += deletion.external_id, _bytes_of(deletion), int(deletion.remember)
        return tuple(call)

    def _call(self, collection: Collection, partition: int) -> list[bytes | str | int]:
        keys = self._keys.of(collection)
        return [
            4,
            keys.sequences[partition],
            keys.ids[partition],
            keys.tombstones[partition],
            keys.logs[partition],
        ]


def _check(changes: Sequence[Change], field_name: str) -> None:
    if len(changes) > MAX_RECORDS_PER_PUT:
        raise InvalidRequest(
            field_name, f"{len(changes):,} at once, at most {MAX_RECORDS_PER_PUT:,}; write in parts"
        )
    require_distinct(changes, field_name)


def _bytes_of(change: StoreRecord | StoreDeletion) -> bytes:
    return change.version.to_bytes(VERSION_BYTES, "big")


def _size(record: StoreRecord) -> int:
    return len(record.vector) + len(record.payload)


def _placed(partition: int, record: StoreRecord, new: int, second: Any) -> Placed:
    """From PUT's two values a record."""
    if new < 0:
        return Placed(-1, -1, int.from_bytes(second, "big"))
    return Placed(internal_id(partition, new), _internal(partition, second), record.version)


def _internal(partition: int, sequence: int) -> int:
    return internal_id(partition, sequence) if sequence >= 0 else -1


def _transactions(sizes: Mapping[int, int]) -> Iterator[list[int]]:
    """Partitions whose records travel together. sizes: bytes a partition."""
    partitions: list[int] = []
    nbytes = 0
    for partition, size in sizes.items():
        if partitions and nbytes + size > BYTES_PER_TRANSACTION:
            yield partitions
            partitions, nbytes = [], 0
        partitions.append(partition)
        nbytes += size
    if partitions:
        yield partitions
