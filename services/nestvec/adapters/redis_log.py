"""The ingest log on a Redis-protocol server: one stream a partition, read, tidied and trimmed.

An entry's id is `<epoch>-<count>` of its last sequence, and its one field `b` says what changed:

    "p", then 6 bytes a document: the sequence it replaced, 0 for none
    "d", then for each deletion 6 bytes sequence (0 for none), 8 bytes version, 2 bytes length, id

All numbers are big-endian. Sequences of an entry are consecutive: the first follows from the last.
"""

from __future__ import annotations

from collections.abc import Mapping

from nestvec.adapters.redis_client import RedisClient
from nestvec.adapters.redis_keys import SEQUENCE_BYTES, VERSION_BYTES, Keyspace, PartitionKeys
from nestvec.adapters.redis_pool import Command
from nestvec.adapters.redis_reads import RedisReads
from nestvec.adapters.redis_scripts import EXPIRE, TIDY
from nestvec.adapters.store_rules import LogEntry, batch_of
from nestvec.core.collection import Collection
from nestvec.core.errors import CorruptVector
from nestvec.core.ports import LogBatch
from nestvec.core.watermark import sequence_of, split_sequence

# One turn of the server's thread frees about so many documents, and one call takes so many turns.
_FREED_PER_TURN = 1000
_ENTRIES_PER_TURN = 256
_TURNS_PER_TIDY = 64
_TOMBSTONES_PER_TURN = 1000
_LENGTH_BYTES = 2


def read_log_entry(name: bytes, fields: list[bytes]) -> LogEntry | None:
    """What an entry of the stream says, or None when it cannot be read."""
    value = fields[1] if fields[:1] == [b"b"] else b""
    epoch, _, count = name.partition(b"-")
    last = sequence_of(int(epoch), int(count))
    if len(value) < 1 + SEQUENCE_BYTES:
        return None
    if value[:1] == b"p" and (len(value) - 1) % SEQUENCE_BYTES == 0:
        replaced = [_sequence(value, at) for at in range(1, len(value), SEQUENCE_BYTES)]
        first = last - len(replaced) + 1
        return LogEntry(first, last, range(first, last + 1), [one for one in replaced if one])
    deleted = _deleted(value) if value[:1] == b"d" else None
    if deleted is None:
        return None
    first = last - len(deleted) + 1
    sequences = [sequence for sequence, _, _ in deleted if sequence]
    named = [(name.decode(errors="replace"), version) for _, name, version in deleted]
    return LogEntry(first, last, range(0), sequences, named)


def _deleted(value: bytes) -> list[tuple[int, bytes, int]] | None:
    """Sequence, 0 for none, external id, and version of each."""
    deleted = []
    at = 1
    while at < len(value):
        version_at = at + SEQUENCE_BYTES
        length_at = version_at + VERSION_BYTES
        name_at = length_at + _LENGTH_BYTES
        stop = name_at + int.from_bytes(value[length_at:name_at], "big")
        version = int.from_bytes(value[version_at:length_at], "big")
        deleted.append((_sequence(value, at), value[name_at:stop], version))
        at = stop
    return deleted if at == len(value) else None


def _sequence(value: bytes, at: int) -> int:
    return int.from_bytes(value[at : at + SEQUENCE_BYTES], "big")


class RedisLog:
    """Reads and frees. Writing is done by the scripts that change documents."""

    def __init__(self, client: RedisClient, keys: Keyspace, reads: RedisReads) -> None:
        self._client = client
        self._keys = keys
        self._reads = reads
        # Of the last read: entries are asked for by number, and may hold one document or hundreds.
        self._documents_per_entry = 1.0

    async def positions(self, collection: Collection, partitions: range) -> dict[int, int]:
        """Raises CorruptVector on a counter that is no number."""
        counters = self._keys.of(collection).sequences
        values = await self._reads.values([counters[partition] for partition in partitions])
        return {
            partition: _counter(value, counters[partition])
            for partition, value in zip(partitions, values, strict=True)
        }

    async def read(
        self, collection: Collection, after: Mapping[int, int], limit: int
    ) -> list[LogBatch]:
        """One batch a partition that has something after its position. An entry that cannot be read
        is a discontinuity.
        """
        if not after:
            return []
        logs = self._keys.of(collection).logs
        each = max(1, limit // len(after))
        count = max(1, round(each / self._documents_per_entry))
        answers = await self._client.batch(
            [
                (b"XRANGE", logs[partition], b"(" + entry_id(position), b"+", b"COUNT", count)
                for partition, position in after.items()
            ]
        )
        read = [[read_log_entry(*one) for one in answer] for answer in answers]
        sizes = [entry.size for entries in read for entry in entries if entry is not None]
        if sizes:
            self._documents_per_entry = max(1.0, sum(sizes) / len(sizes))
        batches = [batch_of(p, entries, each) for p, entries in zip(after, read, strict=True)]
        return [batch for batch in batches if batch is not None]

    async def tidy(self, collection: Collection, upto: Mapping[int, int], keep: int) -> int:
        """At most 64 turns of about 1,000 documents a partition: what is left, the next call
        finds.
        """
        keys = self._keys.of(collection)
        freed, waiting = 0, list(upto)
        for _ in range(_TURNS_PER_TIDY):
            calls = [_tidy_call(keys, p, upto[p], keep) for p in waiting]
            answers = await self._client.run(TIDY, calls, confirmed=False)
            freed += sum(count for count, _ in answers)
            waiting = [p for p, (_, more) in zip(waiting, answers, strict=True) if more]
            if not waiting:
                break
        return freed

    async def expire_tombstones(self, collection: Collection, before_ms: int) -> int:
        """All partitions side by side, a step of the scan a round trip."""
        tombstones = self._keys.of(collection).tombstones
        cursors = dict.fromkeys(range(collection.partitions), b"0")
        forgotten = 0
        while cursors:
            calls: list[Command] = [
                (1, tombstones[partition], cursor, before_ms, _TOMBSTONES_PER_TURN)
                for partition, cursor in cursors.items()
            ]
            answers = await self._client.run(EXPIRE, calls, confirmed=False)
            forgotten += sum(count for _, count in answers)
            cursors = {
                partition: cursor
                for partition, (cursor, _) in zip(cursors, answers, strict=True)
                if cursor != b"0"
            }
        return forgotten


def entry_id(sequence: int) -> bytes:
    """The id of the entry that ends with a sequence."""
    return b"%d-%d" % split_sequence(sequence)


def _tidy_call(keys: PartitionKeys, partition: int, upto: int, keep: int) -> Command:
    return (
        3,
        keys.logs[partition],
        keys.tidied[partition],
        keys.sequences[partition],
        keys.vector_prefixes[partition],
        keys.payload_prefixes[partition],
        upto,
        keep,
        _ENTRIES_PER_TURN,
        _FREED_PER_TURN,
    )


def _counter(value: bytes | None, key: bytes) -> int:
    if value is None:
        return 0
    if not value.isdigit():
        raise CorruptVector(repr(key.decode()), "the counter of a partition is no number")
    return int(value)
