"""The store's keys and the values that nestvec itself reads back: one place, one format version.

    nestvec:{catalogue}:format                "2": the format of everything under this prefix
    nestvec:{catalogue}:collections           hash: name -> Collection as JSON
    nestvec:{catalogue}:beside              hash: NAME@G -> a generation that serves under no name
    nestvec:{catalogue}:migrations          hash: name -> core.migration.Migration as JSON
    nestvec:{catalogue}:revision            hash: another number after every change of these three
    nestvec:{catalogue}:migrating:NAME      who does the work of a migration; expires
    nestvec:{catalogue}:tally:NAME:WHAT     hash: numbers beside a migration
    nestvec:{catalogue}:generations           hash: name -> the last generation ever given out
    nestvec:{catalogue}:dropping              set of "name:generation" whose keys are being deleted
    nestvec:{catalogue}:primary               hash: which server the epoch was registered for
    nestvec:{catalogue}:assets:NAME:G         hash: asset name -> bytes
    nestvec:{NAME:G:P}:sequence               the last sequence number given out; never goes back
    nestvec:{NAME:G:P}:ids                    hash: external id -> where it lives (see `read_entry`)
    nestvec:{NAME:G:P}:tombstones             hash: external id -> when it was deleted, and version
    nestvec:{NAME:G:P}:log                    stream: every change (see redis_log)
    nestvec:{NAME:G:P}:tidied                 up to which sequence what was replaced is freed
    nestvec:{NAME:G:P}v:SEQUENCE              one full vector, as core.codec encodes it
    nestvec:{NAME:G:P}d:SEQUENCE              one payload, as core.document encodes it
    nestvec:{NAME:G:streams}s:ID              hash: first and next offset of an ingest stream
    nestvec:{NAME:G:streams}d:CHUNK:ID        4 bytes an offset, 65,536 offsets a chunk

What stands in braces is the hash tag: all keys of one partition share a Redis Cluster slot, so one
script may write them. Generations are never given out twice, so what a crash leaves of a dropped
collection can never be read as part of a later one of the same name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.errors import ConfigError, InvalidRequest
from nestvec.core.placement import split_id

# Raise it when a key or value below changes its meaning; older versions then refuse the namespace.
FORMAT = b"2"

# Braces would move the hash tag; *, ?, [ and \ would mean something in a SCAN pattern.
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,32}")

# An id map value says its own kind in its first byte: "v", then 6 bytes sequence and 8 bytes
# version, both big-endian. Scripts compare versions byte by byte: Lua's numbers cannot hold them.
_LIVE = b"v"
_ENTRY_BYTES = 15
SEQUENCE_BYTES = 6
VERSION_BYTES = 8


def entry_value(sequence: int, version: int) -> bytes:
    """An id map value. redis_scripts.PUT writes the same format, in Lua."""
    return _LIVE + sequence.to_bytes(SEQUENCE_BYTES, "big") + version.to_bytes(VERSION_BYTES, "big")


def read_entry(value: bytes) -> tuple[int, int] | None:
    """(sequence, version) in an id map value, or None when the value is damaged."""
    if len(value) != _ENTRY_BYTES or value[:1] != _LIVE:
        return None
    sequence = int.from_bytes(value[1:7], "big")
    return (sequence, int.from_bytes(value[7:], "big")) if sequence else None


def read_tombstone(value: bytes) -> int | None:
    """The version in a tombstone, or None when the value is damaged: 6 bytes milliseconds, then 8
    bytes version, both big-endian.
    """
    if len(value) != SEQUENCE_BYTES + VERSION_BYTES:
        return None
    return int.from_bytes(value[SEQUENCE_BYTES:], "big")


def locate(value: bytes) -> int | None:
    """Only the sequence number of `read_entry`."""
    entry = read_entry(value)
    return None if entry is None else entry[0]


class PartitionKeys:
    """Every key of one generation, prefixes built once: the read path appends a number."""

    def __init__(self, prefix: str, name: str, generation: int, partitions: int) -> None:
        tags = [f"{prefix}:{{{name}:{generation}:{p}}}".encode() for p in range(partitions)]
        self.ids = [tag + b":ids" for tag in tags]
        self.sequences = [tag + b":sequence" for tag in tags]
        self.tombstones = [tag + b":tombstones" for tag in tags]
        self.logs = [tag + b":log" for tag in tags]
        self.tidied = [tag + b":tidied" for tag in tags]
        self.vector_prefixes = [tag + b"v:" for tag in tags]
        self.payload_prefixes = [tag + b"d:" for tag in tags]

    def vectors(self, ids: Ids) -> list[bytes]:
        """One key an id. ids: (n,) int64. Raises InvalidRequest on one outside the partitions."""
        return _value_keys(self.vector_prefixes, ids)

    def payloads(self, ids: Ids) -> list[bytes]:
        """One key an id. ids: (n,) int64. Raises InvalidRequest on one outside the partitions."""
        return _value_keys(self.payload_prefixes, ids)


def _value_keys(prefixes: list[bytes], ids: Ids) -> list[bytes]:
    split = map(split_id, ids.tolist())
    try:
        return [prefixes[partition] + b"%d" % sequence for partition, sequence in split]
    except IndexError:
        raise InvalidRequest(
            "ids",
            f"an id names a partition beyond the collection's {len(prefixes)}; "
            f"ids of another collection or generation cannot be read here",
        ) from None


class Keyspace:
    """All keys under one prefix."""

    def __init__(self, prefix: str) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise ConfigError(
                f"key prefix {prefix!r} cannot be used; expected 1 to 32 of A-Z, a-z, 0-9, "
                f"'.', '_', '-'"
            )
        self.prefix = prefix
        catalogue = f"{prefix}:{{catalogue}}:"
        self.format = f"{catalogue}format".encode()
        self.collections = f"{catalogue}collections".encode()
        self.beside = f"{catalogue}beside".encode()
        self.migrations = f"{catalogue}migrations".encode()
        self.revision = f"{catalogue}revision".encode()
        self.generations = f"{catalogue}generations".encode()
        self.dropping = f"{catalogue}dropping".encode()
        self.primary = f"{catalogue}primary".encode()
        # Keys of 16,384 partitions are 4 MB: the cache is bounded by collections in use.
        self._partitions: Callable[[str, int, int], PartitionKeys] = lru_cache(maxsize=64)(
            lambda name, generation, count: PartitionKeys(prefix, name, generation, count)
        )

    def assets(self, name: str, generation: int) -> bytes:
        """The hash that keeps a generation's assets, in the catalogue's slot."""
        return f"{self.prefix}:{{catalogue}}:assets:{name}:{generation}".encode()

    def migrating(self, name: str) -> bytes:
        """The string that names who does the work of a collection's migration."""
        return f"{self.prefix}:{{catalogue}}:migrating:{name}".encode()

    def tally(self, name: str, what: str) -> bytes:
        """The hash of numbers that are kept beside a collection's migration."""
        return f"{self.prefix}:{{catalogue}}:tally:{name}:{what}".encode()

    def of(self, collection: Collection) -> PartitionKeys:
        """The keys of a collection's partitions."""
        return self._partitions(collection.name, collection.generation, collection.partitions)

    def stream(self, collection: Collection, stream_id: str) -> bytes:
        """The hash that keeps where an ingest stream stands."""
        return f"{self._streams(collection)}s:{stream_id}".encode()

    def digests(self, collection: Collection, stream_id: str, chunk: int) -> bytes:
        """The string that keeps the digests of one chunk of an ingest stream's offsets."""
        return f"{self._streams(collection)}d:{chunk}:{stream_id}".encode()

    def _streams(self, collection: Collection) -> str:
        return f"{self.prefix}:{{{collection.name}:{collection.generation}:streams}}"

    def pattern(self, name: str, generation: int) -> bytes:
        """What SCAN matches to find every key of a generation's partitions, of any kind."""
        return f"{self.prefix}:{{{name}:{generation}:*".encode()


def tag_of(key: bytes) -> bytes:
    """What decides the slot of one of our keys, and so with which others it may travel."""
    return key[: key.index(b"}")]
